"""Budgets and the exemplar memory."""

import pytest
import torch

from mnemo.files import InputError
from mnemo.images import Images
from mnemo.memory import ExemplarMemory, budget, in_bytes, in_total, per_class, ranks


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
