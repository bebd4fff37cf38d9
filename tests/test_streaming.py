"""Images that are too many for the memory give what images in memory give, bit by bit."""

import json

import numpy as np
import pytest
import torch

from mnemo import experiment, protocols, streaming
from mnemo.datasets import folders
from mnemo.disk.files import InputError
from mnemo.images import Images, join
from mnemo.learner import run
from mnemo.streaming import PixelFile, Streamed

SHAPE = (12, 6, 5, 3)


@pytest.fixture
def path(tmp_path):
    np.save(tmp_path / "pixels.npy", np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8))
    return tmp_path / "pixels.npy"


@pytest.fixture
def plain(path):
    return Images(torch.from_numpy(np.load(path)).permute(0, 3, 1, 2), torch.arange(12) % 3)


@pytest.fixture
def streamed(path, plain, monkeypatch):
    """The same images, of which two fit into the memory."""
    monkeypatch.setattr(streaming, "RESIDENT", 2 * 90)
    images = streaming.of_file(path, 128, folders.read_pixels(path), plain.labels)
    assert isinstance(images, Streamed)
    return images


def same(a, b):
    assert torch.equal(a.labels, b.labels)
    assert torch.equal(a.pixels, b.pixels)
    assert a.pixels.stride() == b.pixels.stride()
    assert (a.logits is None) == (b.logits is None)
    if a.logits is not None:
        assert torch.equal(a.logits, b.logits)


def test_it_describes_itself_as_the_plain_ones_do(streamed, plain):
    assert (len(streamed), streamed.shape, streamed.bytes_each) == (len(plain), plain.shape, plain.bytes_each)
    assert not streamed.in_memory
    assert plain.in_memory
    same(streamed, plain)


def test_few_images_are_no_stream(path, plain, monkeypatch):
    monkeypatch.setattr(streaming, "RESIDENT", 12 * 90)
    assert streaming.of_file(path, 128, folders.read_pixels(path), plain.labels).in_memory


def test_what_is_selected_is_loaded_where_there_is_room(streamed, plain):
    where = torch.tensor([7, 2])
    assert streamed.select(where).in_memory
    same(streamed.select(where), plain.select(where))
    many = streamed.select(torch.tensor([11, 3, 0, 5]))
    assert not many.in_memory
    same(many, plain.select(torch.tensor([11, 3, 0, 5])))
    same(many.select(torch.tensor([False, True, False, True])), plain.select(torch.tensor([3, 5])))
    same(streamed.of_classes([1]), plain.of_classes([1]))
    same(streamed.subset(where, torch.tensor([8, 9])), plain.subset(where, torch.tensor([8, 9])))


def test_batches_in_order(streamed, plain):
    for ours, theirs in zip(streamed.batches(5), plain.batches(5), strict=True):
        assert ours.in_memory
        same(ours, theirs)


def test_batches_ahead_in_any_order(streamed, plain):
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3)).repeat(9).split(7)
    for where, batch in zip(order, streamed.ahead(order), strict=True):
        same(batch, plain.select(where))


def test_joined_with_images_in_memory(streamed, plain):
    extra = Images(plain.pixels[:3] + 1, torch.tensor([7, 8, 9]), torch.ones(3, 2))
    for parts in ((streamed, extra), (extra, streamed), (streamed, streamed.select(torch.arange(5)))):
        beside = [part if part.in_memory else Images(part.pixels, part.labels, part.logits) for part in parts]
        ours, theirs = join(parts), join(beside)
        assert not ours.in_memory
        where = torch.tensor([13, 0, 14, 2, 12])
        if theirs.logits is not None:
            assert torch.equal(ours.select(where).logits.isnan(), theirs.logits[where].isnan())
            theirs = Images(theirs.pixels, theirs.labels)
            ours = Streamed(ours._sources, ours._which, ours._rows, ours.labels)
        same(ours.select(where), theirs.select(where))


def test_to_a_device_with_room_it_is_loaded(streamed, plain, monkeypatch):
    assert not streamed.to("cpu").in_memory
    monkeypatch.setattr(streaming, "RESIDENT", 12 * 90)
    moved = streamed.to("cpu")
    assert moved.in_memory
    same(moved, plain)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("room", [0, 2**20])
def test_it_goes_to_a_gpu(room, streamed, plain, monkeypatch):
    monkeypatch.setattr(streaming, "_room", lambda device: room)
    moved = streamed.to("cuda")
    assert moved.in_memory == bool(room)
    order = torch.arange(12).flip(0).split(5)
    batches = moved.ahead(order) if isinstance(moved, Streamed) else map(moved.select, (o.cuda() for o in order))
    for where, batch in zip(order, batches, strict=True):
        assert batch.pixels.is_cuda
        assert torch.equal(batch.pixels.cpu(), plain.pixels[where])


def test_a_file_that_was_cut_is_named(streamed, path):
    with path.open("r+b") as file:
        file.truncate(128 + 11 * 90)
    with pytest.raises(InputError, match=rf"{path}: ends before image 11"):
        list(streamed.batches(5))


def test_a_file_that_was_replaced_stays_as_it_was(streamed, path, plain):
    path.unlink()
    np.save(path, np.zeros(SHAPE, np.uint8))
    same(streamed.select(torch.tensor([4])), plain.select(torch.tensor([4])))


def test_a_file_is_read_in_its_order(path, plain, monkeypatch):
    file, offsets = PixelFile(path, 128, plain.pixels), []
    preadv = streaming.os.preadv

    def noted(handle, buffers, offset):
        offsets.append(offset)
        return preadv(handle, buffers, offset)

    monkeypatch.setattr(streaming.os, "preadv", noted)
    out = torch.zeros(3, *SHAPE[1:], dtype=torch.uint8)
    file.read([9, 1, 5], [0, 1, 2], out)
    assert offsets == sorted(offsets)
    assert torch.equal(out.permute(0, 3, 1, 2), plain.pixels[[9, 1, 5]])


@pytest.mark.parametrize(
    ("strategy", "values"),
    [
        ("mnemonics", {"hold_out": 0.2}),
        ("icarl", {"soft_labels": 0.5}),
        ("icarl", {"codec": "jpeg"}),
    ],
)
def test_a_run_is_the_same_run(strategy, values, blobs, monkeypatch):
    protocol = protocols.load(str(blobs / "blobs.toml"))
    values = {"epochs": 2, "base_epochs": 2, **values}
    outcomes, streams = [], []
    ahead = Streamed.ahead
    monkeypatch.setattr(Streamed, "ahead", lambda self, batches: streams.append(self) or ahead(self, batches))
    for resident in (2**29, 64 * 20):
        monkeypatch.setattr(streaming, "RESIDENT", resident)
        one = experiment.prepare(protocol, strategy, values, data_dir=blobs, device="cpu")
        assert one.stream[0].train.in_memory == (resident == 2**29)
        events = [json.dumps(vars(event)) for event in run(one.learner, one.stream)]
        outcomes.append((events, one.learner.state()))
    assert len(streams) > 10  # epochs, and more than that
    (events, state), (others, other) = outcomes
    assert events == others
    assert state.keys() == other.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, other[name]), name
