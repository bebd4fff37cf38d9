"""Streams of phases: who arrives when, and under which label.

:func:`few_shot` and :func:`withhold_labels` make streams of streams::

    stream = withhold_labels(few_shot(split_by_class(train, test, order=order, base_classes=60, increment=5), 5), 20)
"""

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from .compression import shuffled_by_class
from .disk.files import InputError
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
        unlabelled: pixels (n, c, h, w), uint8, channels-last, of further training images, some perhaps of other
            classes; None where there are none. See :func:`withhold_labels`.
    """

    index: int
    classes: tuple[int, ...]
    first_label: int
    train: Images
    test: Images
    unlabelled: Tensor | None = None

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
    ) -> None:
        self.groups = [tuple(group) for group in groups]
        self._validation = validation
        self._seed = seed
        self._shots: int | None = None
        self._listed: Mapping[int, Tensor] = {}
        self._unlabelled = self._distractors = 0
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
        if index:
            train_rows = [self._shots_of(c) for c in self.groups[index]]
        train = self._select(self._train, train_rows, first)
        test = self._select(self._train, held_rows, first) if self._validation else self._test_images(index, first)
        return Phase(index, self.groups[index], first, train, test, self._without_labels(index))

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
        if index and self._shots is not None:
            counts = [min(count, self._shots) for count in counts]
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
            draw = self._listed_first(c, rows, draw.flip(0)).flip(0)
            held.append(rows[draw[: self._validation].sort().values])
            train.append(rows[draw[self._validation :].sort().values])
        return train, held

    def _drawn(self, c: int) -> tuple[Tensor, Tensor]:
        """A class's rows to train on, and a random order of them; both depend on seed and class alone."""
        ((rows,), _) = self._split([c])
        draw = torch.randperm(len(rows), generator=generator(self._seed, "few", c))
        return rows, self._listed_first(c, rows, draw)

    def _listed_first(self, c: int, rows: Tensor, draw: Tensor) -> Tensor:
        """Places in ``rows``, those of listed shots before all others."""
        if c not in self._listed:
            return draw
        others = ~torch.isin(rows[draw], self._listed[c])
        return draw[others.long().argsort(stable=True)]

    def _shots_of(self, c: int) -> Tensor:
        rows, draw = self._drawn(c)
        return rows[draw[: self._shots].sort().values]

    def _spare(self, c: int) -> Tensor:
        """Rows that may come without labels, in random order: beside the shots; of a base class all."""
        rows, draw = self._drawn(c)
        if c in self.groups[0]:
            return rows[draw]
        return rows[draw[len(rows) if self._shots is None else self._shots :]]

    def _without_labels(self, index: int) -> Tensor | None:
        """Pixels of the phase's unlabelled images."""
        if not index or not self._unlabelled:
            return None
        own = [self._spare(c)[: self._unlabelled] for c in self.groups[index]]
        others = [self._some_spare(index, c) for c in self._other_classes(index)]
        rows = torch.cat([*own, *others])
        order = torch.randperm(len(rows), generator=generator(self._seed, "unlabelled", index))
        return self._train.pixels[rows[order]].contiguous(memory_format=torch.channels_last)

    def _some_spare(self, index: int, c: int) -> Tensor:
        """Rows of a class that distracts in phase ``index``."""
        rows = self._spare(c)
        draw = torch.randperm(len(rows), generator=generator(self._seed, "distractors", index, c))
        return rows[draw[: self._unlabelled]]

    def _other_classes(self, index: int) -> list[int]:
        """The classes that distract in phase ``index``: half of them old (one more if odd), as far as there are any."""
        draws, wanted = generator(self._seed, "distractors", index), self._distractors
        old, coming = (_shuffled(part, draws) for part in (self.groups[:index], self.groups[index + 1 :]))
        olds = min(len(old), max(wanted - wanted // 2, wanted - len(coming)))
        return [*old[:olds], *coming[: wanted - olds]]

    def _with(self, **changes: Any) -> "ClassStream":
        """The same stream with other private attributes. Raises InputError if there are not enough images then."""
        other = copy.copy(self)
        vars(other).update({f"_{name}": value for name, value in changes.items()})
        other._refuse_too_few()
        return other

    def _refuse_too_few(self) -> None:
        for c, listed in self._listed.items():
            if len(listed) + self._validation > len(self._rows[c]):
                raise InputError(f"validation={self._validation}: class {c} has too few images beside its shots")
        if not self._unlabelled:
            return
        asked = f"unlabelled={self._unlabelled}"
        for index, group in enumerate(self.groups):
            for c in group if index or self._distractors else ():
                if (spare := len(self._spare(c))) < self._unlabelled:
                    beside = "beside its shots" if index else "in all"
                    raise InputError(f"{asked}: class {c} has {spare} training images {beside}")
            others = len(self._order) - len(group)
            if index and self._distractors > others:
                raise InputError(f"distractors={self._distractors}: beside those of phase {index} there are {others}")

    @staticmethod
    def _select(images: Images, rows: Sequence[Tensor], first: int) -> Images:
        counts = torch.tensor([len(r) for r in rows])
        labels = torch.repeat_interleave(torch.arange(first, first + len(rows)), counts)
        return images.subset(torch.cat(list(rows)), labels)


def _shuffled(groups: Sequence[Sequence[int]], draws: torch.Generator) -> list[int]:
    classes = sorted(c for group in groups for c in group)
    return [classes[place] for place in torch.randperm(len(classes), generator=draws).tolist()]


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
        seed: decides which are held out; and what :func:`few_shot` and :func:`withhold_labels` draw.

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
    return ClassStream(train, test, groups, validation, seed)


def few_shot(stream: ClassStream, shots: int) -> ClassStream:
    """The same stream with at most ``shots`` training images of each class that comes after phase 0.

    Which these are depends on the stream's seed and the class alone; fewer are among more. Raises InputError if
    ``shots`` is below 1.
    """
    if shots < 1:
        raise InputError(f"{shots} shots: there must be at least one image of each class")
    return stream._with(shots=shots)


def listed_shots(stream: ClassStream, listed: Mapping[int, Sequence[int]]) -> ClassStream:
    """The same stream, whose training images after phase 0 are listed ones, and not drawn.

    Args:
        stream: of any phases.
        listed: for each class after phase 0, under the data set's label, rows of the training images; equally many.

    Raises:
        InputError: nothing would be left to hold out for validation.
    """
    shots = max((len(rows) for rows in listed.values()), default=None)
    return stream._with(shots=shots, listed={c: torch.tensor(rows) for c, rows in listed.items()})


def withhold_labels(stream: ClassStream, unlabelled: int, distractors: int = 0) -> ClassStream:
    """The same stream, whose phases after phase 0 have unlabelled images too, in random order.

    None of them is a shot, or is evaluated on; those of a base class were trained on in phase 0, since all are.

    Args:
        stream: of few shots; see :func:`few_shot`.
        unlabelled: further training images of each of the phase's classes.
        distractors: other classes of which there are as many; half of them old ones, half coming ones, or all of one
            kind where there are none of the other.

    Raises:
        InputError: there are not as many images or classes, or distractors without unlabelled images.
    """
    if unlabelled < 0 or distractors < 0:
        raise InputError(f"unlabelled={unlabelled}, distractors={distractors}: must not be negative")
    if distractors and not unlabelled:
        raise InputError(f"distractors={distractors} needs unlabelled: how many images there are of each class")
    return stream._with(unlabelled=unlabelled, distractors=distractors)
