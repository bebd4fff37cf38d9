"""Image folders, ``train/CLASS/*`` and ``test/CLASS/*`` or ``val/CLASS/*``, decoded once into arrays."""

import contextlib
import functools
import hashlib
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .. import checksums
from ..files import InputError
from .folders import Progress, building, disk_errors, write_names, write_pixels

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
# Pillow goes by a file's content; named here so that it does not hand, say, PostScript to an interpreter.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
LARGE = 256  # the usual side for ImageNet, from which crops of 224 are taken
SMALL = 64  # up to here a picture is data in its own right and is not enlarged unasked

Choose = Callable[[Sequence[str]], Sequence[str]]
"""From the names of all class folders, sorted, to those that are wanted, in label order."""


@dataclass(frozen=True)
class Pictures:
    """The files of an image folder.

    Attributes:
        classes: the names of the class folders, in label order.
        train: path and label of every training picture, by class and then by file name.
        test: the same for testing.
    """

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
            classes = tuple(choose(_class_folders(folder / "train")))
        except ValueError as error:
            raise InputError(f"{folder / 'train'}: {error}") from error
        splits = (folder / "train", _test_folder(folder, classes))
        train, test = ([*_pictures_of(split, classes)] for split in splits)
    return Pictures(classes, train, test)


def _class_folders(split: Path) -> list[str]:
    _refuse_escape(split, split.parent)
    names = sorted(entry.name for entry in os.scandir(split) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise InputError(f"{split}: no class folders; pictures lie in {split.name}/CLASS/")
    return names


def _test_folder(folder: Path, classes: Sequence[str]) -> Path:
    """ImageNet's own ``test`` has no classes; there ``val`` is what one tests on."""
    splits = [folder / name for name in ("test", "val") if (folder / name).is_dir()]
    absent = {split: [name for name in classes if not (split / name).is_dir()] for split in splits}
    for split in splits:
        if not absent[split]:
            return split
    raise InputError(f"{splits[-1]}: no folder of class {absent[splits[-1]][0]}, which {folder / 'train'} has")


def _pictures_of(split: Path, classes: Sequence[str]) -> Iterator[tuple[Path, int]]:
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


def packed(
    folder: Path,
    elsewhere: Path,
    choose: Choose = tuple,
    image_size: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """The folder of arrays with the decoded pictures of ``folder``: made at the first call, found later.

    It is ``.packed-KEY`` in the image folder itself, or in ``elsewhere`` if that cannot be written. The key
    follows from the pictures' names, sizes and times and from ``image_size``, so changed pictures are packed
    again; old packs may be removed at any time. Raises InputError as ``list_pictures`` and ``pack`` do.
    """
    pictures = list_pictures(folder, choose)
    with disk_errors(folder):
        name = f".packed-{_key(pictures, folder, image_size)}"
    for place in (folder / name, elsewhere / name):
        if place.is_dir():
            return place
    place = (folder if os.access(folder, os.W_OK) else elsewhere) / name
    try:
        with building(place) as part:
            pack(pictures, part, image_size, progress)
    except InputError:
        if not place.is_dir():  # else another run packed the same pictures meanwhile
            raise
    return place


def _key(pictures: Pictures, folder: Path, image_size: int | None) -> str:
    digest = hashlib.sha256(f"1 {image_size} {pictures.classes}\n".encode())  # 1: the way of packing
    for path, _ in pictures.train + pictures.test:
        stat = path.stat()
        line = f"{path.relative_to(folder)}\0{stat.st_size}\0{stat.st_mtime_ns}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def pack(pictures: Pictures, folder: Path, image_size: int | None = None, progress: Progress | None = None) -> None:
    """Decode all pictures into arrays, uint8 RGB, in an existing, empty folder, with checksums.

    With ``image_size`` the shorter side becomes that many pixels and the centre square is kept. Without it,
    pictures that all have one size of at most 256 x 256 stay as they are, and others become 256 x 256 in that
    way; pictures of several sizes of which one has a side of 64 pixels or fewer are refused. Resizing is
    bilinear, with antialiasing.

    Raises InputError, which names the file, for a picture that cannot be decoded, and when there is not
    enough room.
    """
    with _bombs_refused():
        width, height = _common_size([path for path, _ in pictures.train + pictures.test], image_size)
        total = len(pictures.train) + len(pictures.test)
        _check_room(folder, total * width * height * 3)
        done = 0
        for split, files in (("train", pictures.train), ("test", pictures.test)):
            images = _reported(_decoded([path for path, _ in files], (width, height)), done, total, progress)
            write_pixels(folder / f"{split}_images.npy", (len(files), height, width, 3), images)
            np.save(folder / f"{split}_labels.npy", np.array([label for _, label in files], dtype=np.int64))
            done += len(files)
    write_names(folder, pictures.classes)
    checksums.write_all(folder)


def _common_size(paths: Sequence[Path], image_size: int | None) -> tuple[int, int]:
    """Width and height that all pictures get. Only headers are read, and only until two sizes differ."""
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
        return picture.size


def _decoded(paths: Sequence[Path], size: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """In threads, since Pillow lets go of the interpreter's lock; in slices, to bound the memory."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), 128):
            yield from pool.map(functools.partial(decode, size=size), paths[start : start + 128])


def decode(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """One picture as uint8 ``(height, width, 3)``, RGB; ``size`` is width and height.

    A picture of another size is resized until it just covers this one, and cut at the centre: the pixels are
    those of torchvision's Resize and CenterCrop. Of an animation the first frame is taken; transparency is
    dropped. Raises InputError, which names the file, when Pillow cannot decode it.
    """
    with _opened(path) as picture:
        rgb = _rgb(picture)
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
def _bombs_refused() -> Iterator[None]:
    """Pillow only warns of pictures so large that they are more likely an attack than data."""
    from PIL.Image import DecompressionBombWarning

    with warnings.catch_warnings():
        warnings.simplefilter("error", DecompressionBombWarning)
        yield


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(f"{folder.parent}: the decoded pictures take {needed:,} bytes, but {free:,} are free")


def _reported(
    images: Iterator[NDArray[np.uint8]], done: int, total: int, progress: Progress | None
) -> Iterator[NDArray[np.uint8]]:
    for count, image in enumerate(images, start=done + 1):
        yield image
        if progress:
            progress(count, total)
