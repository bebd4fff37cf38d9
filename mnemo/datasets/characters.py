"""Glyphs and Omniglot with all classes in one data set: some drawings of each to train on, others to test on.

Few-shot learning splits the same drawings by class: see :mod:`mnemo.fewshot.data`. Its modules are imported inside the
functions, because they in turn build on this package.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from ..disk.files import InputError
from ..images import Images, join, rank_in_class
from .folders import Dataset

if TYPE_CHECKING:
    from ..fewshot.splits import Split

GLYPHS_TO_TRAIN = 20
"""Of the 30 drawings of a glyph."""
OMNIGLOT_TO_TRAIN = 15
"""Of the 20 drawings of an Omniglot character."""


def load_glyphs() -> Dataset:
    """238 characters of matplotlib's typefaces: 20 images (1, 28, 28) to train on and 10 to test on of each.

    They are drawn once a process, in some seconds. In order: Latin letters, digits and what is akin to them, Armenian
    letters, Georgian letters and signs.
    """
    from ..fewshot.glyphs import read_glyphs

    return _joined(read_glyphs(), GLYPHS_TO_TRAIN)


def load_omniglot(data_dir: Path) -> Dataset:
    """1623 characters of 50 alphabets: 15 images (1, 28, 28) to train on and 5 to test on of each, white on black.

    In order: the background alphabets but for six, these six, the evaluation alphabets. Raises InputError if there is
    no such folder of arrays, or a class of fewer drawings.
    """
    from ..fewshot.omniglot import read_omniglot

    return _joined(read_omniglot(data_dir), OMNIGLOT_TO_TRAIN)


def _joined(splits: "tuple[Split, ...]", to_train: int) -> Dataset:
    """One data set of all classes; the first ``to_train`` images of each are to train on."""
    names = tuple(name for split in splits for name in split.class_names)
    firsts = [sum(len(split.class_names) for split in splits[:index]) for index in range(len(splits))]
    images = [Images(s.images.pixels, s.images.labels + first) for s, first in zip(splits, firsts, strict=True)]
    everything = join(images)
    each = everything.labels.bincount()
    if int(each.min()) <= to_train:
        name = names[int(each.argmin())]
        raise InputError(f"{name}: {int(each.min())} drawings, of which {to_train} are to train on; none would be left")
    training = rank_in_class(everything.labels) < to_train
    return Dataset(everything.select(training), everything.select(~training), names)
