"""Data sets by name: found, checked, fetched and imported.

A data set is one that comes along (``digits`` with scikit-learn, ``glyphs`` with matplotlib), or a folder in the data
folder that has its name: a folder of arrays (``mnemo.datasets.folders``), an image folder (``mnemo.datasets.pictures``)
or the extracted archive of CIFAR-100. In that of ``omniglot``, classes to train on and to test on are joined.
"""

import difflib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from ..disk.files import InputError
from ..images import Images
from . import characters, chunks, cifar, digits, folders, imagenet, packing, pictures
from .folders import Dataset, Progress

__all__ = [
    "Available",
    "Dataset",
    "Progress",
    "available",
    "check",
    "default_data_dir",
    "fetch",
    "import_",
    "load",
    "pack",
    "pictures_of",
]

SUBSET = imagenet.NAME
MINI = "mini-imagenet-100"
KNOWN = {
    "digits": "handwritten digits of scikit-learn: 10 classes, 8 x 8, grey",
    "cifar100": "CIFAR-100: 100 classes, 32 x 32, colour",
    SUBSET: "ImageNet-Subset: 100 classes of ImageNet, 256 x 256, colour",
    "glyphs": "characters of matplotlib's typefaces: 238 classes, 28 x 28, grey",
    "omniglot": "Omniglot: 1623 classes, 28 x 28, grey",
    MINI: "mini-ImageNet, all 100 classes to train and to test on, 84 x 84, colour",
    "cub200": "Caltech-UCSD Birds 200, 256 x 256, colour",
}
_COMES_WITH = {"digits": "scikit-learn", "glyphs": "matplotlib"}
Kind = Literal["arrays", "pictures", "archive"]
_DESCRIPTIONS: dict[Kind, str] = {
    "arrays": "a folder of arrays",
    "pictures": "an image folder",
    "archive": "the extracted archive of CIFAR-100",
}
_BY_HAND = {
    SUBSET: "ImageNet is given out on request only: get it, arrange it as train/CLASS/* and val/CLASS/*, "
    "and put that folder there, or use `mnemo data import FOLDER --name imagenet-subset`",
    MINI: "get mini-ImageNet, arrange 500 pictures of each of its 100 classes as train/WNID/* and 100 as test/WNID/*, "
    "and put that folder there",
    "cub200": "get CUB-200-2011 from www.vision.caltech.edu, arrange it as train/CLASS/* and test/CLASS/* by its "
    "train_test_split.txt, and put that folder there",
}
_FORMS = (
    "it needs train_images.npy, train_labels.npy, test_images.npy and test_labels.npy, "
    "or pictures in train/CLASS/ and test/CLASS/ (or val/CLASS/)"
)


@dataclass(frozen=True)
class _Place:
    """Where a data set lies; an archive's folder is the one that holds ``cifar-100-python``."""

    kind: Kind
    folder: Path


class Available(NamedTuple):
    """A line of ``mnemo data list``; ``where`` is None for a data set that is known but not there."""

    name: str
    description: str
    where: str | None


def default_data_dir() -> Path:
    """MNEMO_DATA_DIR of the environment, else ``mnemo`` in XDG_CACHE_HOME or ~/.cache."""
    if chosen := os.environ.get("MNEMO_DATA_DIR"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mnemo"


def load(name: str, data_dir: Path | None = None, progress: Progress | None = None) -> Dataset:
    """The data set ``name``: one of the known ones, a folder in ``data_dir``, or a path.

    Known are those of ``KNOWN``. Without ``data_dir`` it is ``default_data_dir()``, here and in the functions below.

    Arrays are memory-mapped. An image folder is decoded at the first call, with ``progress``, and
    memory-mapped from then on. The CIFAR-100 archive is decoded in memory at every call; `mnemo data import`
    makes arrays of it.

    Raises InputError, one line that names the file and the mend, when the data set is missing or unsound.
    """
    if name == "digits":
        return digits.load_digits()
    if name == "glyphs":
        return characters.load_glyphs()
    data_dir = data_dir or default_data_dir()
    if name == "omniglot":
        return characters.load_omniglot(data_dir)
    place = _find(name, data_dir)
    if place is None:
        raise _missing(name, data_dir)
    return _load(place, name, progress)


def pictures_of(name: str, data_dir: Path | None = None) -> list[Path]:
    """The files of a data set's training images, one for each, in their order.

    Raises InputError when they are missing, or the data set is no image folder: arrays do not say what they came from.
    """
    place = _find(name, data_dir or default_data_dir())
    if place is None or place.kind != "pictures":
        where = name if place is None else place.folder
        raise InputError(f"{where}: images have no file names here, since they are no pictures in train/CLASS/")
    choose, _ = _wanted(name, None)
    return [path for path, _ in pictures.list_pictures(place.folder, choose).train]


def _load(place: _Place, name: str, progress: Progress | None) -> Dataset:
    if place.kind == "archive":
        return cifar.read_cifar100(place.folder)
    return folders.load_arrays(_arrays(place, name, progress))


def _arrays(place: _Place, name: str, progress: Progress | None, workers: int | None = None) -> Path:
    """The folder of arrays of a data set that is one, or an image folder."""
    if place.kind == "arrays":
        return place.folder
    choose, size = _wanted(name, None)
    listed = pictures.list_pictures(place.folder, choose)
    return packing.packed(listed, default_data_dir() / "packed", size, progress, workers)


def _wanted(name: str, image_size: int | None) -> tuple[pictures.Choose, int | None]:
    """Which classes of an image folder, and at what size."""
    if name == MINI and image_size is None:
        return tuple, 84
    if name != SUBSET:
        return tuple, image_size
    return imagenet.subset_classes, pictures.LARGE if image_size is None else image_size


def _find(name: str, data_dir: Path) -> _Place | None:
    for folder, kinds in _places(name, data_dir):
        kind = _kind(folder)
        if kind in kinds:
            return _Place(kind, folder)
    return None


def _places(name: str, data_dir: Path) -> Iterator[tuple[Path, tuple[Kind, ...]]]:
    """The folders where a data set may lie, and in which forms."""
    if name:
        yield data_dir / name, ("arrays", "pictures", "archive")
    if name == "cifar100":
        yield data_dir, ("archive",)
    elif name == SUBSET:
        yield data_dir / "imagenet", ("pictures",)
    elif name == "omniglot":
        yield data_dir / "omniglot28", ("arrays",)
    elif name and name not in KNOWN:
        yield Path(name).expanduser(), ("arrays", "pictures", "archive")


def _kind(folder: Path) -> Kind | None:
    if folders.has_arrays(folder):
        return "arrays"
    if pictures.has_pictures(folder):
        return "pictures"
    return "archive" if cifar.has_cifar100(folder) else None


def _missing(name: str, data_dir: Path) -> InputError:
    if name == "cifar100":
        return InputError(
            f"cifar100 is neither {data_dir / name} nor {data_dir / cifar.FOLDER}; "
            "get it with `mnemo data fetch cifar100`"
        )
    if name in _BY_HAND:
        places = [str(folder) for folder, _ in _places(name, data_dir)]
        where = f"is not {places[0]}" if len(places) == 1 else f"is neither {' nor '.join(places)}"
        return InputError(f"{name} {where}; {_BY_HAND[name]}")
    for folder, _ in _places(name, data_dir):
        if os.path.isdir(folder):
            return InputError(f"{folder}: no data set; {_FORMS}")
    near = difflib.get_close_matches(name, [entry.name for entry in available(data_dir)], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`mnemo data list` shows what there is"
    return InputError(f"no data set {name!r}, and no such folder in {data_dir}; {hint}")


def check(name: str, data_dir: Path | None = None, progress: Progress | None = None) -> str:
    """Load a data set and describe it in a few lines: classes, shape, images, bytes and where it lies.

    Pixels that came from pictures are compared with their checksums. Raises InputError as ``load`` does, and where they
    differ.
    """
    data = load(name, data_dir, progress)
    place = None if name in _COMES_WITH else _find(name, data_dir or default_data_dir())
    if place and place.kind == "arrays":
        folders.verify(place.folder)
    where = f"{place.folder} ({place.kind})" if place else _COMES_WITH[name]
    total = sum(len(images) * images.bytes_each for images in (data.train, data.test))
    whole = chunks.verify(_arrays(place, name, None), progress) if place and place.kind != "archive" else 0
    return "\n".join(
        (
            f"{name}: {len(data.class_names)} classes, {' x '.join(map(str, data.train.shape))} "
            "(channels, height, width)",
            f"train: {_counts(data.train)}",
            f"test: {_counts(data.test)}",
            f"pixels: {total:,} bytes",
            f"where: {where}",
            *([f"checksums: {whole} of {whole} as they were packed"] if whole else []),
        )
    )


def _counts(images: Images) -> str:
    each = images.labels.bincount()
    low, high = int(each.min()), int(each.max())
    return f"{len(images)} images, {low if low == high else f'{low} to {high}'} of each class"


def pack(name: str, data_dir: Path | None = None, progress: Progress | None = None, workers: int | None = None) -> Path:
    """Decode the pictures of a data set, as ``load`` does at the first call: the folder of arrays.

    ``workers`` is the number of threads that decode, by default one for each core. Raises InputError as ``load`` does,
    and where the data set has no pictures.
    """
    data_dir = data_dir or default_data_dir()
    place = None if name in _COMES_WITH else _find(name, data_dir)
    if place is None and name not in _COMES_WITH:
        raise _missing(name, data_dir)
    if place is None or place.kind != "pictures":
        raise InputError(f"{name}: there is nothing to pack, since it is no image folder")
    return _arrays(place, name, progress, workers)


def fetch(name: str, data_dir: Path | None = None, progress: Progress | None = None) -> str:
    """Download a data set into ``data_dir``; returns one line that says what was done.

    Only ``cifar100`` can be downloaded: it becomes a folder of arrays. What is there already is left alone.
    Raises InputError when the data set cannot be downloaded or written.
    """
    if name in _COMES_WITH:
        return f"{name}: comes with {_COMES_WITH[name]}, nothing to fetch"
    data_dir = data_dir or default_data_dir()
    if place := _find(name, data_dir):
        return f"{name}: already in {place.folder}"
    if name in _BY_HAND:
        raise _missing(name, data_dir)
    if name != "cifar100":
        raise InputError(f"{name}: only cifar100 can be fetched")
    _vacant(data_dir / name)
    with folders.disk_errors(data_dir):
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=data_dir) as scratch:
            archive = cifar.download_cifar100(Path(scratch), progress)
            return f"cifar100: fetched into {import_(archive, None, data_dir)}"


def import_(
    source: Path,
    name: str | None = None,
    data_dir: Path | None = None,
    image_size: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Bring a data set into ``data_dir / name`` as a folder of arrays, which is returned; the source stays.

    ``source`` is an image folder, a folder of arrays, the folder ``cifar-100-python`` or the archive
    ``cifar-100-python.tar.gz``. ``name`` defaults to ``cifar100`` for the latter two, else to the source's
    own name; ``imagenet-subset`` takes the 100 classes out of an ImageNet of 1000. ``image_size`` (pixels) is
    for pictures: see ``mnemo.datasets.packing.pack``; an import of them that was killed goes on.

    Raises InputError, and leaves nothing under the name, when the source is unsound, the name is taken or the disk
    refuses.
    """
    source = source.expanduser().absolute()
    data_dir = data_dir or default_data_dir()
    kind = _source_kind(source)
    name = name or ("cifar100" if kind == "archive" else source.name)
    if name in _COMES_WITH or not re.fullmatch(r"\w[\w.-]*", name):
        raise InputError(f"a data set cannot be imported as {name!r}; give it another name, of letters, digits, . - _")
    target = _vacant(data_dir / name)
    if kind == "pictures":
        choose, size = _wanted(name, image_size)
        packing.pack(pictures.list_pictures(source, choose), target, size, progress)
        return target
    with folders.building(target) as part:
        if kind == "archive":
            _import_cifar100(source, part)
        else:
            folders.copy_arrays(source, part, progress)
    return target


def _vacant(target: Path) -> Path:
    if os.path.lexists(target):
        raise InputError(f"{target}: there already; give another name, or remove it first")
    return target


def _source_kind(source: Path) -> Kind:
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    if source.is_file() and source.name.endswith((".tar.gz", ".tgz")):
        return "archive"
    if source.name == cifar.FOLDER and cifar.has_cifar100(source.parent):
        return "archive"
    kind = _kind(source)
    if kind is None:
        raise InputError(f"{source}: no data set; {_FORMS}, or must be {cifar.FOLDER} or {cifar.FOLDER}.tar.gz")
    return kind


def _import_cifar100(source: Path, folder: Path) -> None:
    if source.is_dir():
        root = source.parent if source.name == cifar.FOLDER else source
        folders.write_arrays(folder, cifar.read_cifar100(root))
        return
    with tempfile.TemporaryDirectory(prefix=".extract-", dir=folder.parent) as scratch:
        cifar.extract_cifar100(source, Path(scratch))
        folders.write_arrays(folder, cifar.read_cifar100(Path(scratch), named=source))


def available(data_dir: Path | None = None) -> list[Available]:
    """The known data sets, whether there or not, and then what else lies in ``data_dir``, by name."""
    data_dir = data_dir or default_data_dir()
    with folders.disk_errors(data_dir):
        others = sorted(os.listdir(data_dir)) if os.path.isdir(data_dir) else []
    names = [*KNOWN, *(name for name in others if name not in KNOWN and not name.startswith("."))]
    return [entry for name in names if (entry := _entry(name, data_dir))]


def _entry(name: str, data_dir: Path) -> Available | None:
    if name in _COMES_WITH:
        return Available(name, KNOWN[name], _COMES_WITH[name])
    if name in KNOWN:
        place = _find(name, data_dir)
        return Available(name, KNOWN[name], str(place.folder) if place else None)
    kind = _kind(data_dir / name)
    return Available(name, _DESCRIPTIONS[kind], str(data_dir / name)) if kind else None
