"""Omniglot: letters of 50 alphabets, each drawn by 20 people (Lake, Salakhutdinov and Tenenbaum, Science, 2015).

https://github.com/brendenlake/omniglot. Its background alphabets are for training, its evaluation alphabets for
testing. A validation set has not been published for that; here it is the last six background alphabets by name.
"""

from pathlib import Path

import torch

from ..disk.files import InputError
from ..images import Images
from .disjoint import load_disjoint
from .splits import Split, chosen

VALIDATION = (
    "N_Ko",
    "Ojibwe_(Canadian_Aboriginal_Syllabics)",
    "Sanskrit",
    "Syriac_(Estrangelo)",
    "Tagalog",
    "Tifinagh",
)
"""The alphabets held out of the background set: 184 of its 964 characters."""
FOLDERS = ("omniglot28", "omniglot")


def read_omniglot(data_dir: Path) -> tuple[Split, Split, Split]:
    """780 training, 184 validation and 659 test classes: 20 images (1, 28, 28) of each, white on black.

    Class names are ``ALPHABET/CHARACTER``. Raises InputError if there is no such folder of arrays.
    """
    folder = _folder(data_dir)
    data = load_disjoint(folder)
    known = int(data.train.labels.max()) + 1
    background, evaluation = data.class_names[:known], data.class_names[known:]
    held_out = [name for name in background if name.split("/")[0] in VALIDATION]
    kept = [name for name in background if name not in held_out]
    if not held_out or not kept:
        raise InputError(f"{folder}: class names must be ALPHABET/CHARACTER, with {VALIDATION[0]} among the alphabets")
    train, validation = (chosen([data.train], data.class_names, wanted) for wanted in (kept, held_out))
    test = chosen([data.test], data.class_names, evaluation)
    return _white_on_black(train), _white_on_black(validation), _white_on_black(test)


def _folder(data_dir: Path) -> Path:
    for name in FOLDERS:
        if (data_dir / name).is_dir():
            return data_dir / name
    raise InputError(
        f"omniglot is neither {data_dir / FOLDERS[0]} nor {data_dir / FOLDERS[1]}; get it from "
        "github.com/brendenlake/omniglot and put it there as arrays of 28 x 28: train_images.npy and train_labels.npy "
        "(background), test_images.npy and test_labels.npy (evaluation, labels from 964 on), and classes.txt"
    )


def _white_on_black(split: Split) -> Split:
    """Ink is black as published, but the borders that augmentation adds are black too."""
    pixels = split.images.pixels
    if pixels[:100].float().mean() > 127.5:
        pixels = 255 - pixels
    return Split(Images(pixels, split.images.labels), split.class_names)


def rotated(split: Split) -> Split:
    """Four times as many classes, by quarter turns (Santoro et al., ICML 2016); images must be square."""
    turns = range(4)
    classes = len(split.class_names)
    pixels = torch.cat([split.images.pixels.rot90(turn, (2, 3)) for turn in turns])
    labels = torch.cat([split.images.labels + turn * classes for turn in turns])
    names = [f"{name}, turned by {90 * turn}" if turn else name for turn in turns for name in split.class_names]
    return Split(Images(pixels, labels), tuple(names))
