"""Streams of phases: who arrives when, and under which label."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch
from torch import Tensor

from .compression import shuffled_by_class
from .files import InputError
from .images import Images
from .memory import ranks
from .seeds import generator


@dataclass(frozen=True)
class Phase:
    """The classes that arrive together, with their images.

    Attributes:
        index: 0 for the base phase.
        classes: the data set's own labels, in order of arrival.
        first_label: this phase's images are labelled first_label .. first_label + len(classes) - 1.
        train: images to learn from; gone once the phase is over.
        test: images to evaluate on: the test set's, or those held out of the training set for tuning.
    """

    index: int
    classes: tuple[int, ...]
    first_label: int
    train: Images
    test: Images

    @property
    def labels(self) -> range:
        """The labels of this phase's classes."""
        return range(self.first_label, self.first_label + len(self.classes))


def class_order(classes: int, seed: int) -> list[int]:
    """A shuffled order of ``classes`` classes; 1993 gives the order that iCaRL, LUCIR and Mnemonics publish.

    Raises InputError if ``seed`` is not in 0..2**32 - 1.
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"seed {seed}: must be between 0 and {2**32 - 1}")
    return [int(c) for c in np.random.RandomState(seed).permutation(classes)]


class ClassStream(Sequence[Phase]):
    """The phases of :func:`split_by_class`. A phase's images are selected when it is asked for, and not kept.

    Attributes:
        groups: for each phase the data set's labels, in order of arrival.
    """

    def __init__(
        self,
        train: Images,
        test: Images,
        groups: Sequence[Sequence[int]],
        validation: int,
        seed: int,
        increment_images: int | None = None,
    ) -> None:
        self.groups = [tuple(group) for group in groups]
        self._validation = validation
        self._increment_images = increment_images
        self._seed = seed
        self._train, self._test = train, test
        self._order = [c for group in self.groups for c in group]
        self._rows = _rows_by_class(train.labels, self._order)
        self._test_rows = _rows_by_class(test.labels, self._order)
        for c, rows in self._rows.items():
            if len(rows) <= validation:
                raise InputError(
                    f"validation={validation}: class {c} has {len(rows)} training images; none would be left"
                )

    def __len__(self) -> int:
        return len(self.groups)

    @overload
    def __getitem__(self, index: int) -> Phase: ...
    @overload
    def __getitem__(self, index: slice) -> list[Phase]: ...
    def __getitem__(self, index: int | slice) -> Phase | list[Phase]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        first = sum(len(group) for group in self.groups[:index])
        train_rows, held_rows = self._split(self.groups[index])
        if index and self._increment_images is not None:
            train_rows = [self._few(*pair) for pair in zip(self.groups[index], train_rows, strict=True)]
        train = self._select(self._train, train_rows, first)
        test = self._select(self._train, held_rows, first) if self._validation else self._test_images(index, first)
        return Phase(index, self.groups[index], first, train, test)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        return self._train.shape

    def sample(self, count: int = 16) -> Images:
        """Some training images, evenly spaced, under the data set's labels."""
        where = torch.linspace(0, len(self._train) - 1, min(count, len(self._train))).long()
        pixels = self._train.pixels[where].contiguous(memory_format=torch.channels_last)
        return Images(pixels, self._train.labels[where])

    def count(self, index: int) -> int:
        """Training images of phase ``index``, without selecting them."""
        counts = [len(self._rows[c]) - self._validation for c in self.groups[index]]
        if index and self._increment_images is not None:
            counts = [min(count, self._increment_images) for count in counts]
        return sum(counts)

    def test(self, index: int) -> Images:
        """What phase ``index`` is evaluated on, without selecting its training images."""
        first = sum(len(group) for group in self.groups[:index])
        if not self._validation:
            return self._test_images(index, first)
        return self._select(self._train, self._split(self.groups[index])[1], first)

    def _test_images(self, index: int, first: int) -> Images:
        return self._select(self._test, [self._test_rows[c] for c in self.groups[index]], first)

    def _split(self, classes: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        """Rows to train on and rows held out, one tensor a class; which these are depends on seed and class alone."""
        train, held = [], []
        for c in classes:
            rows = self._rows[c]
            draw = torch.randperm(len(rows), generator=generator(self._seed, "validation", c))
            held.append(rows[draw[: self._validation].sort().values])
            train.append(rows[draw[self._validation :].sort().values])
        return train, held

    def _few(self, c: int, rows: Tensor) -> Tensor:
        """At most ``increment_images`` of a class's rows; which depends on seed and class alone."""
        draw = torch.randperm(len(rows), generator=generator(self._seed, "few", c))
        return rows[draw[: self._increment_images].sort().values]

    @staticmethod
    def _select(images: Images, rows: Sequence[Tensor], first: int) -> Images:
        counts = torch.tensor([len(r) for r in rows])
        pixels = images.pixels[torch.cat(list(rows))].contiguous(memory_format=torch.channels_last)
        return Images(pixels, torch.repeat_interleave(torch.arange(first, first + len(rows)), counts))


def _rows_by_class(labels: Tensor, classes: Sequence[int]) -> dict[int, Tensor]:
    order = labels.argsort(stable=True)
    counts = torch.bincount(labels, minlength=max(classes) + 1)
    ends = counts.cumsum(0)
    return {c: order[ends[c] - counts[c] : ends[c]] for c in classes}


def held_out(images: Images, share: float, generator: torch.Generator) -> tuple[Images, Images | None]:
    """A part of each class's images, chosen at random and rounded to whole images, and the others before it.

    Args:
        images: in any order, which stays.
        share: 0 holds out nothing, and the second result is None.
        generator: decides which.

    Raises:
        InputError: nothing would be left of a class.
    """
    if not share:
        return images, None
    by_class = shuffled_by_class(images.labels, generator)
    labels = images.labels[by_class]
    counts = torch.bincount(labels)
    size = (counts * share).round().clamp(min=1)
    if (size >= counts)[counts > 0].any():
        raise InputError(f"hold_out={share}: no image would be left of a class with {int(counts[counts > 0].min())}")
    held = torch.zeros_like(images.labels, dtype=torch.bool)
    held[by_class] = ranks(labels) < size[labels]
    return images.select(~held), images.select(held)


def split_by_class(
    train: Images,
    test: Images,
    *,
    order: Sequence[int],
    base_classes: int,
    increment: int,
    validation: int = 0,
    increment_images: int | None = None,
    seed: int = 1993,
) -> ClassStream:
    """Split a data set into phases of disjoint classes, labelled in order of arrival.

    Args:
        train, test: images under the data set's own labels.
        order: the data set's labels in order of arrival.
        base_classes: classes of phase 0; 0 starts with a phase of ``increment`` classes.
        increment: classes of every further phase; the last has what is left.
        validation: training images of each class that are held out and take the place of the test images; 0: none.
            For tuning.
        increment_images: training images of each class after phase 0, at most; None: all that there are.
        seed: decides which are held out, and which of them there are.

    Raises:
        InputError: the numbers do not fit the classes.
    """
    if increment < 1 or not 0 <= base_classes <= len(order) or not order:
        raise InputError(
            f"cannot split {len(order)} classes into {base_classes} base classes and phases of {increment}"
        )
    if validation < 0:
        raise InputError(f"validation={validation}: must not be negative")
    ends = [
        *([base_classes] if base_classes else []),
        *range(base_classes + increment, len(order), increment),
    ]
    bounds = [0, *ends, *([len(order)] if not ends or ends[-1] != len(order) else [])]
    groups = [order[start:end] for start, end in itertools.pairwise(bounds)]
    return ClassStream(train, test, groups, validation, seed, increment_images)
