"""Streams: the published order, labels in order of arrival, and what is held out."""

import pytest
import torch

from mnemo.files import InputError
from mnemo.images import Images
from mnemo.phases import class_order, held_out, split_by_class

PUBLISHED = """
68 56 78 8 23 84 90 65 74 76 40 89 3 92 55 9 26 80 43 38 58 70 77 1 85 19 17 50 28 53 13 81 45 82 6 59 83 16 15 44 91
41 72 60 79 52 20 10 31 54 37 95 14 71 96 98 97 2 64 66 42 22 35 86 24 34 87 21 99 0 88 27 18 94 11 12 47 25 30 46 62
69 36 61 7 63 75 5 32 4 51 48 73 93 39 67 29 49 57 33
"""


def images(counts, first=0):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    serial = torch.arange(first, first + len(labels))
    pixels = torch.stack([shuffled, serial // 256, serial % 256], 1).view(-1, 3, 1, 1).to(torch.uint8)
    return Images(pixels, shuffled)


def stream(classes=7, each=6, **how):
    how = {"order": class_order(classes, 1), "base_classes": 3, "increment": 2} | how
    return split_by_class(images([each] * classes), images([2] * classes), **how)


def test_seed_1993_gives_the_published_order():
    assert class_order(100, 1993) == [int(c) for c in PUBLISHED.split()]


def test_labels_follow_the_order_of_arrival():
    phases = stream()
    order = class_order(7, 1)
    assert [len(phase.classes) for phase in phases] == [3, 2, 2]
    for phase in phases:
        for part in (phase.train, phase.test):
            assert torch.equal(part.pixels[:, 0, 0, 0].long(), torch.tensor(order)[part.labels])
            assert set(part.labels.tolist()) == set(phase.labels)
    assert [label for phase in phases for label in phase.labels] == list(range(7))


@pytest.mark.parametrize(
    ("base", "increment", "sizes"),
    [(0, 2, [2, 2, 2, 1]), (7, 1, [7]), (1, 3, [1, 3, 3]), (3, 4, [3, 4]), (2, 9, [2, 5]), (0, 9, [7])],
)
def test_sizes_of_phases(base, increment, sizes):
    assert [len(g) for g in stream(base_classes=base, increment=increment).groups] == sizes


@pytest.mark.parametrize("how", [{"increment": 0}, {"base_classes": 8}, {"validation": 6}, {"validation": -1}])
def test_numbers_that_do_not_fit(how):
    with pytest.raises(InputError):
        _ = stream(**how)[0]


def test_held_out_images_take_the_place_of_the_test_images():
    plain, held = stream(), stream(validation=2)
    for whole, part in zip(plain, held, strict=True):
        every = sorted(map(tuple, whole.train.pixels.flatten(1).tolist()))
        both = [*part.train.pixels.flatten(1).tolist(), *part.test.pixels.flatten(1).tolist()]
        assert sorted(map(tuple, both)) == every
        assert torch.bincount(part.test.labels)[list(part.labels)].tolist() == [2] * len(part.classes)
        assert torch.equal(held.test(whole.index).pixels, part.test.pixels)
        assert held.count(whole.index) == len(part.train)
    other = stream(validation=2, order=class_order(7, 1)[::-1])
    sets = [{tuple(p) for phase in s for p in phase.test.pixels.flatten(1).tolist()} for s in (held, other)]
    assert sets[0] == sets[1], "what is held out must not depend on the order of classes"


def test_few_images_after_the_base_phase():
    whole, few = stream(), stream(increment_images=4)
    for phase in few:
        counts = torch.bincount(phase.train.labels)[list(phase.labels)].tolist()
        assert counts == [4 if phase.index else 6] * len(phase.classes)
        assert few.count(phase.index) == len(phase.train)
        of_whole = {tuple(p) for p in whole[phase.index].train.pixels.flatten(1).tolist()}
        assert {tuple(p) for p in phase.train.pixels.flatten(1).tolist()} <= of_whole
    held = stream(validation=2, increment_images=3)
    assert len(held[1].train) == held.count(1) == 6
    assert len(held[1].test) == 4
    other = stream(increment_images=4, order=class_order(7, 1)[::-1])
    assert few.groups[0] != other.groups[0]


def test_a_share_of_each_class_is_held_out():
    whole = images([10, 20, 1, 5])
    draw = torch.Generator().manual_seed(0)
    with pytest.raises(InputError, match="no image would be left of a class with 1"):
        held_out(whole, 0.2, draw)
    whole = images([10, 20, 3, 5])
    rest, held = held_out(whole, 0.2, draw)
    assert torch.bincount(held.labels).tolist() == [2, 4, 1, 1]
    every = sorted(map(tuple, whole.pixels.flatten(1).tolist()))
    assert sorted(map(tuple, [*rest.pixels.flatten(1).tolist(), *held.pixels.flatten(1).tolist()])) == every
    assert held_out(whole, 0, draw) == (whole, None)


def test_a_sample_is_some_training_images():
    some = stream().sample(5)
    assert len(some) == 5
    assert len(stream().sample(1000)) == 42


def test_a_stream_is_a_sequence():
    phases = stream()
    assert phases[-1].index == 2
    assert [phase.index for phase in phases[1:]] == [1, 2]
    with pytest.raises(IndexError):
        _ = phases[3]
