"""Streams: the published order, labels in order of arrival, and what is held out."""

import itertools

import pytest
import torch

from mnemo.disk.files import InputError
from mnemo.images import Images
from mnemo.phases import class_order, few_shot, held_out, split_by_class, withhold_labels

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


def rows(pixels):
    return [tuple(row) for row in pixels.flatten(1).tolist()]


def test_few_images_after_the_base_phase():
    whole, few = stream(), few_shot(stream(), 4)
    assert [phase.train.labels.tolist() for phase in few_shot(whole, 99)] == [p.train.labels.tolist() for p in whole]
    for phase in few:
        counts = torch.bincount(phase.train.labels)[list(phase.labels)].tolist()
        assert counts == [4 if phase.index else 6] * len(phase.classes)
        assert few.count(phase.index) == len(phase.train)
        assert {*rows(phase.train.pixels)} <= {*rows(whole[phase.index].train.pixels)}
        assert torch.equal(phase.test.pixels, whole[phase.index].test.pixels)
        assert phase.unlabelled is None
    assert len(whole[1].train) == 12, "the stream that few_shot is given must stay as it is"
    held = few_shot(stream(validation=2), 3)
    assert len(held[1].train) == held.count(1) == 6
    assert len(held[1].test) == 4
    fewer = {row for phase in few_shot(whole, 2)[1:] for row in rows(phase.train.pixels)}
    assert fewer < {row for phase in few[1:] for row in rows(phase.train.pixels)}
    with pytest.raises(InputError, match="at least one image"):
        few_shot(whole, 0)


def test_shots_depend_on_seed_and_class_alone():
    def shots(**how):
        return {(int(row[0]), row) for phase in few_shot(stream(each=30, **how), 2) for row in rows(phase.train.pixels)}

    turned = {"order": class_order(7, 1)[::-1]}
    novel = {*class_order(7, 1)[3:]} & {*class_order(7, 1)[::-1][3:]}
    assert novel
    of_novel = [{row for c, row in found if c in novel} for found in (shots(), shots(**turned), shots(seed=2))]
    assert of_novel[0] == of_novel[1] != of_novel[2]


def test_unlabelled_images_are_neither_shots_nor_evaluated_on():
    plain = few_shot(stream(classes=9, each=12, validation=3), 4)
    whole = {(row[0], row) for phase in stream(classes=9, each=12, validation=3) for row in rows(phase.train.pixels)}
    phases = withhold_labels(plain, 5, distractors=4)
    assert phases[0].unlabelled is None
    assert plain[1].unlabelled is None
    shots = {row for phase in phases[1:] for row in rows(phase.train.pixels)}
    assert shots == {row for phase in plain[1:] for row in rows(phase.train.pixels)}
    for phase in phases[1:]:
        pixels = phase.unlabelled
        assert pixels.dtype == torch.uint8
        assert pixels.is_contiguous(memory_format=torch.channels_last)
        found = rows(pixels)
        assert len({*found}) == len(found) == 5 * (len(phase.classes) + 4)
        assert not {*found} & shots
        assert {(row[0], row) for row in found} <= whole, "held-out images must not be among them"
        of_class = torch.bincount(pixels[:, 0, 0, 0].long(), minlength=9)
        assert set(of_class.tolist()) == {0, 5}
        assert of_class[list(phase.classes)].tolist() == [5] * len(phase.classes)
        others = {int(c) for c in of_class.nonzero()} - {*phase.classes}
        old = {c for group in phases.groups[: phase.index] for c in group}
        # the three phases of two after a base of three: 4, 2 and 0 coming classes
        assert len(others & old) == (2 if phase.index < 3 else 4)
        assert torch.equal(phases[phase.index].unlabelled, pixels)
    labels = phases[1].unlabelled[:, 0, 0, 0].tolist()
    assert labels != sorted(labels)
    assert sum(a != b for a, b in itertools.pairwise(labels)) > 10, "the classes must not come in blocks"


def test_distractors_take_what_there_is():
    phases = withhold_labels(few_shot(stream(base_classes=1, increment=3, each=12), 4), 5, distractors=4)
    for phase, old in zip(phases[1:], (1, 4), strict=True):  # 1 old and 3 coming, then 4 old
        others = {*phase.unlabelled[:, 0, 0, 0].tolist()} - {*phase.classes}
        assert len(others) == 4
        assert len(others & {c for group in phases.groups[: phase.index] for c in group}) == old


@pytest.mark.parametrize(
    ("shots", "unlabelled", "distractors", "words"),
    [
        (4, 3, 0, r"unlabelled=3: class \d has 2 training images beside its shots"),
        (1, 9, 1, r"unlabelled=9: class \d has 6 training images in all"),
        (4, 2, 6, "distractors=6: beside those of phase 1 there are 5"),
        (4, 0, 1, "needs unlabelled"),
        (4, -1, 0, "must not be negative"),
        (99, 1, 0, "has 0 training images beside"),
    ],
)
def test_too_few_for_unlabelled_images(shots, unlabelled, distractors, words):
    with pytest.raises(InputError, match=words):
        withhold_labels(few_shot(stream(), shots), unlabelled, distractors)


def test_all_images_are_labelled_without_shots():
    with pytest.raises(InputError, match="0 training images beside its shots"):
        withhold_labels(stream(), 1)
    with pytest.raises(InputError, match="unlabelled=3"):
        few_shot(withhold_labels(few_shot(stream(), 2), 3), 4)


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
