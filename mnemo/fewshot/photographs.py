"""mini-ImageNet and tiered-ImageNet: photographs by class and split, decoded once to 84 x 84 pixels.

Either ``train/CLASS/*``, ``val/CLASS/*`` and ``test/CLASS/*``, or all pictures in ``images/`` and the published lists
``train.csv``, ``val.csv`` and ``test.csv`` with the columns ``filename`` and ``label``.
"""

import csv
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..datasets import default_data_dir, pictures
from ..datasets.folders import Progress, disk_errors
from ..datasets.packing import packed
from ..datasets.pictures import Pictures
from ..disk.files import InputError
from ..images import Images
from . import mini_imagenet_classes
from .disjoint import load_disjoint
from .splits import Split

SIZE = 84
"""Height and width, in pixels."""
MINI, TIERED = "mini-imagenet", "tiered-imagenet"
_SPLITS = ("train", "val", "test")
_PUBLISHED = {
    MINI: (mini_imagenet_classes.TRAIN, mini_imagenet_classes.VALIDATION, mini_imagenet_classes.TEST),
}


class _Listing(NamedTuple):
    """Class names of one split, sorted, and the path and label of every picture, by class and then by file name."""

    classes: tuple[str, ...]
    files: list[tuple[Path, int]]


def read_photographs(name: str, data_dir: Path, progress: Progress | None) -> tuple[Split, Split, Split]:
    """Training, validation and test classes: memory-mapped images (3, 84, 84).

    Args:
        name: ``mini-imagenet``, whose classes are compared with the published lists, or ``tiered-imagenet``.
        data_dir: has a folder of that name.
        progress: called while pictures are decoded, at the first call.

    Raises InputError when the folder is missing, its classes are not the published ones, a class is in two splits or a
    picture is unsound.
    """
    folder = data_dir / name
    with disk_errors(folder):
        train, validation, test = (_listing(folder, split) for split in _SPLITS)
    _refuse_others(folder, (train, validation, test))
    joined = _joined(folder, train, validation, test)
    data = load_disjoint(packed(joined, default_data_dir() / "packed", SIZE, progress))
    count = len(validation.files)
    return (
        _split(data.train, train.classes),
        _split(_slice(data.test, 0, count), validation.classes),
        _split(_slice(data.test, count, len(data.test)), test.classes),
    )


def _slice(images: Images, start: int, end: int) -> Images:
    return Images(images.pixels[start:end], images.labels[start:end])  # a view: tiered-ImageNet has 16 GB


def _split(images: Images, classes: tuple[str, ...]) -> Split:
    return Split(Images(images.pixels, images.labels - images.labels.min()), classes)


def _listing(folder: Path, split: str) -> _Listing:
    if (folder / f"{split}.csv").is_file() and (folder / "images").is_dir():
        return _from_csv(folder / f"{split}.csv", folder / "images")
    if not (folder / split).is_dir():
        raise InputError(
            f"{folder / split}: missing; {folder.name} needs pictures in train/CLASS/, val/CLASS/ and test/CLASS/, "
            "or all in images/ with train.csv, val.csv and test.csv beside it"
        )
    classes = tuple(pictures.class_folders(folder / split))
    return _Listing(classes, [*pictures.pictures_of(folder / split, classes)])


def _from_csv(table: Path, images: Path) -> _Listing:
    rows = sorted(_rows(table))
    classes = tuple(sorted({label for label, _ in rows}))
    if not rows or any(not label or not name or os.path.basename(name) != name for label, name in rows):
        raise InputError(f"{table}: no rows, or one without a label or with a filename that is no plain name")
    places = {name: label for label, name in enumerate(classes)}
    return _Listing(classes, [(images / name, places[label]) for label, name in rows])


def _rows(table: Path) -> Iterator[tuple[str, str]]:
    """Label and file name of every picture."""
    with table.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if not {"filename", "label"} <= {*(reader.fieldnames or ())}:
            raise InputError(f"{table}: the columns must be filename and label")
        yield from ((row["label"] or "", row["filename"] or "") for row in reader)


def _refuse_others(folder: Path, listings: tuple[_Listing, ...]) -> None:
    """Every class must be in one split, and where the published lists are known, in that of theirs."""
    for split, listing, published in zip(_SPLITS, listings, _PUBLISHED.get(folder.name, ()), strict=False):
        if wrong := sorted({*listing.classes} ^ {*published}):
            what = "not among" if wrong[0] in listing.classes else "missing; it is one of"
            raise InputError(f"{folder}: {split} class {wrong[0]} is {what} the published {len(published)}")
    names = sorted(name for listing in listings for name in listing.classes)
    if twice := [name for name, after in itertools.pairwise(names) if name == after]:
        raise InputError(f"{folder}: class {twice[0]} is in two splits; a class must be in one")


def _joined(folder: Path, train: _Listing, validation: _Listing, test: _Listing) -> Pictures:
    """Validation and test together as what to test on; their labels go on where training labels end."""
    classes = (*train.classes, *validation.classes, *test.classes)
    first, second = len(train.classes), len(train.classes) + len(validation.classes)
    held_out = [(path, first + label) for path, label in validation.files]
    held_out += [(path, second + label) for path, label in test.files]
    return Pictures(folder, classes, train.files, held_out)
