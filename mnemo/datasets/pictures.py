"""Image folders, ``train/CLASS/*`` and ``test/CLASS/*`` or ``val/CLASS/*``: the pictures in them, and their pixels."""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..disk.files import InputError
from .folders import disk_errors, is_class_name

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
# Pillow goes by a file's content; named here so that it does not hand, say, PostScript to an interpreter.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
ORIENTATION = 0x0112  # of EXIF; values above 4 swap width and height
LARGE = 256  # the usual side for ImageNet, from which crops of 224 are taken
SMALL = 64  # up to here a picture is data in its own right and is not enlarged unasked

Choose = Callable[[Sequence[str]], Sequence[str]]
"""From the names of all class folders, sorted, to those that are wanted, in label order."""


@dataclass(frozen=True)
class Pictures:
    """The files of an image folder.

    Attributes:
        folder: in which all of them are.
        classes: the names of the class folders, in label order.
        train: path and label of every training picture, by class and then by file name.
        test: the same for testing.
    """

    folder: Path
    classes: tuple[str, ...]
    train: list[tuple[Path, int]]
    test: list[tuple[Path, int]]


def has_pictures(folder: Path) -> bool:
    """Whether ``folder`` is meant as an image folder: it holds ``train`` and ``test`` or ``val``."""
    return os.path.isdir(folder / "train") and any(os.path.isdir(folder / name) for name in ("test", "val"))


def list_pictures(folder: Path, choose: Choose = tuple) -> Pictures:
    """The pictures of an image folder; of ``test`` and ``val``, ``test`` if it has the classes of ``train``.

    Class folders are taken in sorted order, unless ``choose`` (which may raise ValueError) selects among
    them. Files that do not end like a picture are passed over. Raises InputError when classes or pictures are
    missing, or when a link leads out of the folder.
    """
    with disk_errors(folder):
        try:
            classes = tuple(choose(class_folders(folder / "train")))
        except ValueError as error:
            raise InputError(f"{folder / 'train'}: {error}") from error
        splits = (folder / "train", _test_folder(folder, classes))
        train, test = ([*pictures_of(split, classes)] for split in splits)
    return Pictures(folder, classes, train, test)


def class_folders(split: Path) -> list[str]:
    """The names of the class folders in a split's folder, sorted. Raises InputError if there are none."""
    _refuse_escape(split, split.parent)
    names = sorted(entry.name for entry in os.scandir(split) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise InputError(f"{split}: no class folders; pictures lie in {split.name}/CLASS/")
    if strange := [name for name in names if not is_class_name(name)]:
        raise InputError(f"{split / strange[0]}: a class's name must be one line of UTF-8 without space around it")
    return names


def _test_folder(folder: Path, classes: Sequence[str]) -> Path:
    """ImageNet's own ``test`` has no classes; there ``val`` is what one tests on."""
    splits = [folder / name for name in ("test", "val") if (folder / name).is_dir()]
    absent = {split: [name for name in classes if not (split / name).is_dir()] for split in splits}
    for split in splits:
        if not absent[split]:
            return split
    raise InputError(f"{splits[-1]}: no folder of class {absent[splits[-1]][0]}, which {folder / 'train'} has")


def pictures_of(split: Path, classes: Sequence[str]) -> Iterator[tuple[Path, int]]:
    """Path and label of every picture in a split's folder, by class and then by file name.

    Raises InputError where a class has none, or where a link leads out of the folder.
    """
    _refuse_escape(split, split.parent)
    for label, name in enumerate(classes):
        _refuse_escape(split / name, split.parent)
        files = sorted(e.name for e in os.scandir(split / name) if e.is_file() and _is_picture(e.name))
        if not files:
            raise InputError(f"{split / name}: no pictures; put at least one there, or remove the class")
        for file in files:
            _refuse_escape(split / name / file, split.parent)
            yield split / name / file, label


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def _refuse_escape(path: Path, root: Path) -> None:
    if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{path}: a link that leads out of {root}; put the files themselves there, or link {root}")


def common_size(paths: Sequence[Path], image_size: int | None) -> tuple[int, int]:
    """Width and height that all pictures get; see :func:`mnemo.datasets.packing.pack`.

    Only headers are read, and only until two sizes differ.
    """
    if image_size is not None:
        if not 1 <= image_size <= 4096:
            raise InputError(f"an image size of {image_size} pixels; it must be 1 to 4096")
        return image_size, image_size
    first = _size_of(paths[0])
    for path in paths:
        size = _size_of(path)
        if size != first and min(*size, *first) <= SMALL:
            raise InputError(
                f"{path}: {size[0]} x {size[1]} pixels, but {paths[0]} has {first[0]} x {first[1]}; "
                "bring them to one, with `mnemo data import FOLDER --image-size PIXELS`"
            )
        if size != first:
            return LARGE, LARGE
    return first if max(first) <= LARGE else (LARGE, LARGE)


def _size_of(path: Path) -> tuple[int, int]:
    with _opened(path) as picture:
        width, height = picture.size
        if picture.format == "PNG" and "exif" not in picture.info:  # Pillow would decode it all to look behind pixels
            return width, height
        return (height, width) if picture.getexif().get(ORIENTATION, 1) > 4 else (width, height)


def decode(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """One picture as uint8 ``(height, width, 3)``, RGB; ``size`` is width and height.

    A picture of another size is resized until it just covers this one, and cut at the centre: the pixels are
    those of torchvision's Resize and CenterCrop. It is turned as its camera says. Of an animation the first frame is
    taken; transparency is dropped. Raises InputError, which names the file, when Pillow cannot decode it.
    """
    from PIL.ImageOps import exif_transpose

    with _opened(path) as picture:
        rgb = _rgb(picture)
        exif_transpose(rgb, in_place=True)
        return np.asarray(rgb if rgb.size == size else _covering(rgb, *size))


def _covering(picture: "Image", width: int, height: int) -> "Image":
    from PIL.Image import Resampling

    across, down = picture.size
    if across * height <= down * width:
        across, down = width, int(width * down / across)
    else:
        across, down = int(height * across / down), height
    if across > 100 * width or down > 100 * height:  # a strip of one pixel would fill the memory
        raise ValueError("more than 100 times as long as wide")
    left, top = round((across - width) / 2), round((down - height) / 2)
    resized = picture.resize((across, down), Resampling.BILINEAR)
    return resized.crop((left, top, left + width, top + height))


def _rgb(picture: "Image") -> "Image":
    if picture.mode[0] in "IF":  # Pillow would cut these off at 255
        raise ValueError("more than 8 bits a pixel")
    if "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture.convert("RGB")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator["Image"]:
    # Imported here, as in the functions above: `mnemo --help` waits for no image library.
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as picture:
            yield picture
    except Exception as error:  # damaged files raise OSError, SyntaxError, ValueError, struct.error and more
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: cannot be decoded ({reason}); mend or remove it") from error


@contextlib.contextmanager
def bombs_refused() -> Iterator[None]:
    """Pillow only warns of pictures so large that they are more likely an attack than data."""
    from PIL.Image import DecompressionBombWarning

    with warnings.catch_warnings():
        warnings.simplefilter("error", DecompressionBombWarning)
        yield
