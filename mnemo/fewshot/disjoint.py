"""Folders of arrays whose training and test classes differ."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..datasets import folders
from ..disk.files import InputError
from ..images import Images


class Disjoint(NamedTuple):
    """What such a folder holds.

    Attributes:
        train: memory-mapped.
        test: memory-mapped; its labels go on where those of ``train`` end.
        class_names: of both, in label order.
    """

    train: Images
    test: Images
    class_names: tuple[str, ...]


def load_disjoint(folder: Path) -> Disjoint:
    """A folder of arrays as ``mnemo.datasets.folders.load_arrays`` reads it, but with classes of their own for testing.

    Raises InputError, which names the file, when something is missing, unreadable or inconsistent.
    """
    train, test = (_read(folder, split) for split in ("train", "test"))
    names = folders.read_names(folder / folders.CLASSES, torch.cat([train.labels, test.labels]).numpy())
    known = int(train.labels.max()) + 1
    present = torch.cat([train.labels, test.labels]).unique()
    if not torch.equal(present, torch.arange(len(names))) or int(test.labels.min()) != known:
        raise InputError(
            f"{folder}: {len(names)} classes in {folders.CLASSES}, training labels up to {known - 1}, test labels "
            f"{int(test.labels.min())} to {int(test.labels.max())}; test labels must go on where training labels end"
        )
    return Disjoint(train, test, names)


def _read(folder: Path, split: str) -> Images:
    labels = folders.read_labels(folder / f"{split}_labels.npy")
    pixels = folders.read_pixels(folder / f"{split}_images.npy")
    if len(labels) != len(pixels) or not len(labels):
        raise InputError(f"{folder}: {len(labels)} labels for {len(pixels)} {split} images; there must be one for each")
    return Images(pixels, torch.from_numpy(labels.astype(np.int64)))
