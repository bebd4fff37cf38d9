"""Budgets and the exemplar memory."""

import pytest
import safetensors
import torch

from mnemo.codecs import Half, Jpeg, Raw, WebPLossless
from mnemo.disk import checkpoint
from mnemo.disk.files import InputError
from mnemo.images import Images
from mnemo.memory import ExemplarMemory, budget, fitting, in_bytes, in_total, per_class, ranks, stored


def exemplars(*labels_and_counts):
    labels = torch.tensor([label for label, count in labels_and_counts for _ in range(count)])
    rank = torch.tensor([rank for _, count in labels_and_counts for rank in range(count)])
    pixels = (10 * labels + rank).to(torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 2, 2)
    return Images(pixels, labels)


@pytest.mark.parametrize(
    ("seen", "quota"),
    [([50, 60, 70, 80, 90, 100], [40, 34, 29, 25, 23, 20]), ([50, 55, 60, 65, 70, 75], [40, 37, 34, 31, 29, 27])],
)
def test_the_published_schedule_of_2000_in_total(seen, quota):
    assert [in_total(2000)(classes, 3072) // 3072 for classes in seen] == quota


def test_20_of_every_class():
    assert [per_class(20)(classes, 3072) for classes in (50, 100)] == [61_440, 61_440]


@pytest.mark.parametrize("limit", [0, 3071, 3072 * 7, 6_144_000])
@pytest.mark.parametrize("classes", [1, 7, 100])
def test_bytes_are_never_exceeded_and_well_used(limit, classes):
    quota = in_bytes(limit)(classes, 3072) // 3072
    assert quota * classes * 3072 <= limit < (quota + 1) * classes * 3072


def test_bytes_go_before_the_number_a_class_and_not_with_a_total():
    assert budget(each=20, in_bytes_=3072 * 10)(5, 3072) == 2 * 3072
    assert budget(each=20, total=2000)(60, 3072) == 34 * 3072
    with pytest.raises(InputError, match="give one of them"):
        budget(each=20, total=1, in_bytes_=1)


def test_shrinking_keeps_the_best_of_each_class():
    store = ExemplarMemory(per_class(9))
    store.admit(exemplars((0, 4), (1, 2), (2, 5)))
    store.shrink(3 * 4)
    assert store.images.labels.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert store.images.pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 10, 11, 20, 21, 22]
    assert (len(store), store.largest_class, store.bytes) == (8, 3, 8 * 4)


def test_a_class_comes_once():
    store = ExemplarMemory(per_class(9))
    store.admit(exemplars((0, 2)))
    with pytest.raises(ValueError, match="already holds"):
        store.admit(exemplars((0, 1), (1, 1)))


def test_state_and_back():
    store = ExemplarMemory(per_class(9))
    store.admit(exemplars((0, 2), (1, 3)))
    store.store(torch.tensor([1]), torch.full((1, 1, 2, 2), 7.4))
    store.admit(exemplars((2, 2)))
    other = ExemplarMemory(per_class(9))
    other.load({name: tensor.clone() for name, tensor in store.state().items()})
    assert torch.equal(other.images.pixels, store.images.pixels)
    assert other.rms_displacement() == store.rms_displacement() > 0
    assert other.rms_quantisation() == store.rms_quantisation() > 0
    empty = ExemplarMemory(per_class(9))
    empty.load(ExemplarMemory(per_class(9)).state())
    assert len(empty) == empty.bytes == empty.largest_class == 0


def test_ranks():
    assert ranks(torch.tensor([0, 0, 0, 2, 2, 5])).tolist() == [0, 1, 2, 0, 1, 0]


CODECS = [Raw(), Jpeg(75), Jpeg(50, "4:2:0"), WebPLossless(), Half()]


def smooth(classes=3, each=8, side=16):
    """Images that compress: waves, and a little noise."""
    torch.manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(each)
    x = torch.linspace(0, 6, side)
    waves = torch.sin(x * (1 + torch.rand(len(labels), 3, 1, 1))) * torch.cos(x).unsqueeze(1)
    return Images((128 + 90 * waves + torch.randn(len(labels), 1, side, side)).clamp(0, 255).byte(), labels)


def filled(codec, images):
    store = ExemplarMemory(per_class(3), codec)
    kept = stored(codec, images)
    where = fitting(images.labels, kept.sizes, store.quota(3, images.shape))
    store.admit(images.select(where), kept.select(where))
    return store


@pytest.mark.parametrize("codec", CODECS)
def test_bytes_on_disk_are_the_bytes_reported_and_within_the_budget(codec, tmp_path):
    images = smooth()
    store = filled(codec, images)
    checkpoint.save(tmp_path / "memory.safetensors", store.state(), {})
    with safetensors.safe_open(tmp_path / "memory.safetensors", framework="pt") as file:
        counted = [name for name in ("pixels", "files", "index", "shared") if name in file.keys()]  # noqa: SIM118
        on_disk = sum(file.get_tensor(name).numel() for name in counted)
    assert on_disk == store.bytes <= 3 * 3 * 768
    least = 3 * 3 * 768 - len(codec.shared(images.shape)) - 3 - 3 * int(store.sizes.max())
    assert store.bytes > least or len(store) == len(images)


@pytest.mark.parametrize("codec", CODECS)
def test_state_and_back_through_files(codec):
    store = filled(codec, smooth())
    store.store(torch.tensor([0, 3]), torch.rand(2, 3, 16, 16) * 255)
    store.shrink(store.quota(3, (3, 16, 16)))
    other = ExemplarMemory(per_class(3), codec)
    other.load({name: tensor.clone() for name, tensor in store.state().items()})
    assert torch.equal(other.images.pixels, store.images.pixels)
    assert torch.equal(other.sizes, store.sizes)
    assert other.bytes == store.bytes
    assert other.rms_displacement() == store.rms_displacement() > 0


@pytest.mark.parametrize("codec", CODECS[1:4])
def test_a_codec_holds_more_images_in_the_same_bytes_and_says_what_it_cost(codec):
    images = smooth(each=30)
    raw, coded = filled(Raw(), images), filled(codec, images)
    assert len(raw) == 9
    assert raw.rms_displacement() is None
    if codec.lossless:
        assert coded.rms_displacement() is None
    else:
        assert len(coded) > 9
        assert 0 < coded.rms_displacement() < 30


def test_files_that_have_grown_push_out_the_last_in_rank():
    store = filled(Jpeg(75), smooth(each=30))
    counts = torch.bincount(store.images.labels)
    first = (ranks(store.images.labels) == 0).nonzero().squeeze(1)
    store.store(first, torch.rand(3, 3, 16, 16) * 255)  # noise takes many more bytes than waves
    assert store.bytes > 3 * 3 * 768
    store.shrink(store.quota(3, (3, 16, 16)))
    assert store.bytes <= 3 * 3 * 768
    assert (torch.bincount(store.images.labels) < counts).all()


def test_fitting_takes_the_first_of_each_class():
    labels, sizes = torch.tensor([0, 0, 0, 2, 2, 5]), torch.tensor([3, 4, 1, 8, 1, 7])
    assert fitting(labels, sizes, 7).tolist() == [0, 1, 5]
    assert fitting(labels, sizes, 8).tolist() == [0, 1, 2, 3, 5]
    assert fitting(labels, sizes, 2**80).tolist() == [0, 1, 2, 3, 4, 5]


def test_logits_are_counted_kept_and_padded():
    store = ExemplarMemory(per_class(9), soft_labels=1.0)
    for first, classes in ((0, 2), (2, 5)):
        new = exemplars(*((label, 2) for label in range(first, classes)))
        kept = stored(store.codec, new).with_logits(torch.randn(len(new), classes))
        assert kept.sizes.tolist() == [4 + 2 * classes + 2] * len(new)
        store.admit(new, kept)
    assert store.images.logits.isnan().sum(1).tolist() == [3] * 4 + [0] * 6
    state = store.state()
    assert store.bytes == sum(state[name].nbytes for name in ("pixels", "logits", "logit_counts"))
    other = ExemplarMemory(per_class(9), soft_labels=1.0)
    other.load(state)
    assert torch.equal(other.images.logits.nan_to_num(7), store.images.logits.nan_to_num(7))
    assert torch.equal(other.sizes, store.sizes)
    store.remember(
        torch.tensor([0, 9]), torch.full((2, 5), 3.0).masked_fill(store.images.logits[[0, 9]].isnan(), torch.nan)
    )
    assert store.images.logits[9].tolist() == [3.0] * 5
    assert store.sizes.tolist() == other.sizes.tolist()
