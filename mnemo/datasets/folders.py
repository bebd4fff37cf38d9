"""Folders of arrays: read as memory maps, written whole or not at all."""

import contextlib
import os
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..disk import checksums
from ..disk.files import InputError, write_text
from ..images import Images
from ..streaming import of_file

ARRAYS = ("train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy")
CLASSES = "classes.txt"

READ_AT_ONCE = 2**28
"""Bytes; the checksum of a larger file is compared by ``mnemo data check`` alone: a start must not read it all."""

Progress = Callable[[int, int], None]
"""Called with what is done and what there is in total (images, or bytes of a download)."""


@dataclass(frozen=True)
class Dataset:
    """Images to train on and images to test on.

    Attributes:
        train: at least one image of every class.
        test: at least one image of every class; the same channels, height and width as ``train``.
        class_names: one name a class, all different; labels are 0..len(class_names)-1.
    """

    train: Images
    test: Images
    class_names: tuple[str, ...]


def has_arrays(folder: Path) -> bool:
    """Whether ``folder`` is meant as a folder of arrays: at least one of its four .npy files is there."""
    return any(os.path.isfile(folder / name) for name in ARRAYS)


def load_arrays(folder: Path) -> Dataset:
    """The data set in a folder of arrays; pixels stay on disk and are read when they are used.

    Many of them are streamed; see :mod:`mnemo.streaming`.

    The folder holds ``train_images.npy`` and ``test_images.npy`` (uint8, n x height x width x 3, or n x
    height x width for grey), ``train_labels.npy`` and ``test_labels.npy`` (integers, n) and ``classes.txt``
    (UTF-8, one name a line in label order; without it the names are "0", "1", ...). Pixels are channels-last
    views of private memory maps: writing to them changes neither the files nor another process.

    Raises InputError, which names the file, when something is missing, unreadable or inconsistent.
    """
    labels = {split: read_labels(folder / f"{split}_labels.npy") for split in ("train", "test")}
    names = read_names(folder / CLASSES, labels["train"])
    train, test = (_read_split(folder, split, labels[split], names) for split in ("train", "test"))
    if train.shape != test.shape:
        raise InputError(
            f"{folder / 'test_images.npy'}: images of {_by(test.shape)} (channels, height, width), "
            f"but those of train_images.npy are {_by(train.shape)}; both must have one shape"
        )
    return Dataset(train, test, names)


def verify(folder: Path) -> None:
    """Compare every file of a folder of arrays with its checksum, where there is one. Raises InputError."""
    for name in (*ARRAYS, CLASSES):
        checksums.verify(folder / name)


def _read_split(folder: Path, split: str, labels: NDArray[Any], names: tuple[str, ...]) -> Images:
    images = folder / f"{split}_images.npy"
    pixels, offset = _pixels_and_offset(images)
    path = folder / f"{split}_labels.npy"
    if len(labels) != len(pixels):
        raise InputError(f"{path}: {len(labels)} labels for {len(pixels)} images; there must be one for each")
    _check_classes(path, labels, names)
    return of_file(images, offset, pixels, torch.from_numpy(labels.astype(np.int64)))


def read_pixels(path: Path) -> torch.Tensor:
    """Pixels (n, c, h, w) of a .npy file, a channels-last view of its memory map. Raises InputError."""
    return _pixels_and_offset(path)[0]


def _pixels_and_offset(path: Path) -> tuple[torch.Tensor, int]:
    pixels = _open(path)
    grey = pixels.ndim == 3
    if pixels.dtype != np.uint8 or not (grey or (pixels.ndim == 4 and pixels.shape[3] == 3)):
        raise InputError(
            f"{path}: {pixels.dtype} of {_by(pixels.shape)}; images must be uint8, "
            "n x height x width x 3 (or n x height x width for grey)"
        )
    if 0 in pixels.shape[1:]:
        raise InputError(f"{path}: images of {_by(pixels.shape[1:])}; each side must have a pixel at least")
    if not pixels.flags.c_contiguous:
        raise InputError(f"{path}: in Fortran order; save numpy.ascontiguousarray of it")
    tensor = torch.from_numpy(pixels)
    return (tensor.unsqueeze(1) if grey else tensor.permute(0, 3, 1, 2)), pixels.offset


def read_labels(path: Path) -> NDArray[Any]:
    """Integers (n,) of a .npy file. Raises InputError."""
    labels = np.asarray(_open(path))
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(f"{path}: {labels.dtype} of {_by(labels.shape)}; labels must be integers, one for each image")
    return labels


def read_names(path: Path, labels: NDArray[Any]) -> tuple[str, ...]:
    """The lines of ``classes.txt``; without it a number for every different label. Raises InputError."""
    try:
        _refuse_pipe(path)
        names = tuple(line.strip() for line in checksums.read_text(path).splitlines() if line.strip())
    except FileNotFoundError:
        return tuple(str(label) for label in range(len(np.unique(labels))))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text; write one class name a line") from error
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise InputError(f"{path}: {twice[0]!r} stands there twice; class names must differ")
    return names


def is_class_name(text: str) -> bool:
    """Whether ``classes.txt`` can hold a name as it is: a line of UTF-8, without space around it."""
    return text.splitlines() == [text.strip()] == [text] and not re.search("[\ud800-\udfff]", text)


def _check_classes(path: Path, labels: NDArray[Any], names: tuple[str, ...]) -> None:
    if len(labels) == 0:
        raise InputError(f"{path}: empty; every class needs at least one image")
    low, high, last = int(labels.min()), int(labels.max()), len(names) - 1
    if low < 0 or high > last:
        raise InputError(
            f"{path}: labels {low} to {high}, but there are {len(names)} classes (lines of {CLASSES}, "
            f"or different training labels where it is missing); labels must be 0 to {last}"
        )
    absent = np.flatnonzero(np.bincount(labels.astype(np.int64), minlength=len(names)) == 0)
    if len(absent):
        raise InputError(
            f"{path}: no image of class {absent[0]} ({names[absent[0]]}); every class needs at least one, "
            "in training and in testing"
        )


def _open(path: Path) -> "np.memmap[Any, Any]":
    """A private, writable memory map of a .npy file, which torch takes without a copy or a warning."""
    checksums.verify(path, most=READ_AT_ONCE)
    try:
        _refuse_pipe(path)
        with np.errstate(all="raise"):  # sizes that overflow
            return np.lib.format.open_memmap(path, mode="c")
    except FileNotFoundError as error:
        raise InputError(f"{path}: missing; a folder of arrays holds {', '.join(ARRAYS)}") from error
    except Exception as error:  # damaged headers raise ValueError, TypeError, TokenError, MemoryError and more
        raise InputError(f"{path}: not a .npy array, or damaged; write it again with numpy.save") from error


def _refuse_pipe(path: Path) -> None:
    """Raise OSError for what is there and is no file: nothing may ever come out of it."""
    if path.exists() and not path.is_file():
        raise OSError("not a file")


def _by(shape: Iterable[int]) -> str:
    return " x ".join(str(side) for side in shape)


def write_arrays(folder: Path, dataset: Dataset) -> None:
    """Write a data set into an existing, empty folder, in the form that ``load_arrays`` reads, with checksums.

    Raises OSError when the disk refuses.
    """
    for split, images in (("train", dataset.train), ("test", dataset.test)):
        pixels = images.pixels.permute(0, 2, 3, 1).numpy()
        np.save(
            folder / f"{split}_images.npy",
            np.ascontiguousarray(pixels[..., 0] if pixels.shape[3] == 1 else pixels),
        )
        np.save(folder / f"{split}_labels.npy", images.labels.numpy())
    write_names(folder, dataset.class_names)
    checksums.write_all(folder)


def write_names(folder: Path, names: Iterable[str]) -> None:
    """Write ``classes.txt``."""
    write_text(folder / CLASSES, "".join(f"{name}\n" for name in names))


def copy_arrays(source: Path, folder: Path, progress: Progress | None = None) -> None:
    """Copy the files of a folder of arrays, and nothing else that lies there.

    Raises InputError when the source is no sound folder of arrays, OSError when the disk refuses.
    """
    load_arrays(source)
    names = [name for name in (*ARRAYS, CLASSES) if (source / name).exists()]
    for done, name in enumerate(names, start=1):
        shutil.copyfile(source / name, folder / name)
        if progress:
            progress(done, len(names))


@contextlib.contextmanager
def building(folder: Path) -> Iterator[Path]:
    """An empty folder that becomes ``folder``, flushed to disk, once the block ends without an error.

    Until then ``folder`` is not there, and after an error nothing is left. Folders above it are made.
    Raises InputError when the disk refuses, or when ``folder`` came to hold something meanwhile.
    """
    part = folder.with_name(f".{folder.name.lstrip('.')}.{secrets.token_hex(4)}.part")
    try:
        with disk_errors(folder):
            part.mkdir(parents=True)
            yield part
            for file in part.iterdir():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError of the block into an InputError with the file (else ``folder``) and the reason."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{error.filename or folder}: {error.strerror or error}") from error
