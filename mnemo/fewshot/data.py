"""Few-shot data sets by name: classes to train on, others to choose by, and others again to test on."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from .. import datasets, names
from ..augment import Augmentation, CropAndFlip
from ..datasets.folders import Progress
from ..record import EvaluatedOn
from . import cifar_splits, photographs
from .glyphs import read_glyphs
from .omniglot import read_omniglot, rotated
from .splits import Split

__all__ = ["DATA", "FewShotData", "Split", "load"]


@dataclass(frozen=True)
class FewShotData:
    """A data set whose classes are split three ways; no class is in two splits.

    Attributes:
        name: in :data:`DATA`.
        train: to pre-train and meta-train on.
        validation: to choose a checkpoint by.
        test: to report.
        augmentation: of training images.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    augmentation: Augmentation

    def evaluated_on(self, classes: EvaluatedOn) -> Split:
        """The classes that a run is evaluated on: those of testing, or in their place those of validation."""
        return self.validation if classes == "validation" else self.test


_Read = Callable[[Path, Progress | None], tuple[Split, Split, Split]]


class _Source(NamedTuple):
    description: str
    augmentation: Augmentation
    read: _Read


def _read_rotated(data_dir: Path) -> tuple[Split, Split, Split]:
    train, validation, test = (rotated(split) for split in read_omniglot(data_dir))
    return train, validation, test


_LETTERS = CropAndFlip(padding=2, mirrors=False)
_SOURCES = {
    "glyphs": _Source(
        "characters of matplotlib's typefaces: 141/47/50 classes, 28 x 28, grey; comes along",
        _LETTERS,
        lambda data_dir, progress: read_glyphs(),
    ),
    "omniglot": _Source(
        "Omniglot: 780/184/659 classes, 28 x 28, grey",
        _LETTERS,
        lambda data_dir, progress: read_omniglot(data_dir),
    ),
    "omniglot-rotated": _Source(
        "Omniglot, and its quarter turns as classes of their own: 3120/736/2636 classes, 28 x 28, grey",
        _LETTERS,
        lambda data_dir, progress: _read_rotated(data_dir),
    ),
    "fc100": _Source(
        "CIFAR-100 split by superclass: 60/20/20 classes, 32 x 32, colour",
        CropAndFlip(padding=4),
        partial(cifar_splits.read_cifar, cifar_splits.FC100),
    ),
    "cifar-fs": _Source(
        "CIFAR-100 split at random: 64/16/20 classes, 32 x 32, colour",
        CropAndFlip(padding=4),
        partial(cifar_splits.read_cifar, cifar_splits.CIFAR_FS),
    ),
    photographs.MINI: _Source(
        "mini-ImageNet: 64/16/20 classes, 84 x 84, colour",
        CropAndFlip(padding=8),
        partial(photographs.read_photographs, photographs.MINI),
    ),
    photographs.TIERED: _Source(
        "tiered-ImageNet: 351/97/160 classes, 84 x 84, colour",
        CropAndFlip(padding=8),
        partial(photographs.read_photographs, photographs.TIERED),
    ),
}

DATA: dict[str, str] = {name: source.description for name, source in _SOURCES.items()}
"""Names of the data sets, and what each is in one line: classes to train, to validate and to test."""


def load(name: str, data_dir: Path | None = None, progress: Progress | None = None) -> FewShotData:
    """The data set ``name``, one of :data:`DATA`.

    Args:
        name: ``glyphs`` is drawn in some seconds; the others are looked for in ``data_dir``.
        data_dir: ``mnemo.datasets.default_data_dir()`` by default.
        progress: called while pictures are decoded, which happens once.

    Raises InputError, one line, for a name that is not known (with the nearest ones), and for data that are missing
    (with what to put where) or unsound.
    """
    names.refuse_unknown([name], DATA, "few-shot data set")
    source = _SOURCES[name]
    train, validation, test = source.read(data_dir or datasets.default_data_dir(), progress)
    return FewShotData(name, train, validation, test, source.augmentation)
