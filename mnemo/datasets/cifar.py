"""CIFAR-100: from its archive to images.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

import gzip
import http.client
import os
import shutil
import tarfile
import urllib.request
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..disk.files import InputError
from ..images import Images
from .folders import Dataset, Progress
from .torchvision_import import import_torchvision

FOLDER = "cifar-100-python"
FILES = ("train", "test", "meta")
_LARGEST = 2**28  # bytes; the largest of the files has 155 million


def has_cifar100(folder: Path) -> bool:
    """Whether ``folder`` holds the extracted archive, a folder ``cifar-100-python``."""
    return all(os.path.isfile(folder / FOLDER / name) for name in FILES)


def read_cifar100(folder: Path, named: Path | None = None) -> Dataset:
    """The data set in the extracted archive, ``folder / "cifar-100-python"``, decoded in memory (180 MB).

    The files are pickles: torchvision compares their MD5 sums with the published ones before it opens them.
    Raises InputError when they differ; it names ``named``, if given, as what is damaged.
    """
    torchvision = import_torchvision()
    with warnings.catch_warnings():
        # The pickles are older than NumPy's rule that a dtype's `align` is a boolean.
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        try:
            train, test = (torchvision.datasets.CIFAR100(folder, train=train) for train in (True, False))
        except RuntimeError as error:
            raise InputError(
                f"{named or folder / FOLDER}: damaged, or not CIFAR-100 (its MD5 sums are not the published "
                "ones); remove it and get it again with `mnemo data fetch cifar100`"
            ) from error
    return Dataset(_images(train.data, train.targets), _images(test.data, test.targets), tuple(train.classes))


def _images(pixels: NDArray[np.uint8], labels: list[int]) -> Images:
    return Images(torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2), torch.tensor(labels))


def extract_cifar100(archive: Path, folder: Path) -> None:
    """Extract the three files of ``cifar-100-python.tar.gz`` into ``folder / "cifar-100-python"``.

    Nothing else in the archive is looked at, and no name from it is used as a path. Raises InputError when it
    cannot be read, OSError when the disk refuses.
    """
    (folder / FOLDER).mkdir(parents=True)
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for name in FILES:
                _extract(tar, f"{FOLDER}/{name}", folder / FOLDER / name)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, KeyError, zlib.error) as error:
        raise InputError(f"{archive}: damaged, or not the archive of CIFAR-100, {FOLDER}.tar.gz") from error


def _extract(tar: tarfile.TarFile, name: str, target: Path) -> None:
    member = tar.getmember(name)
    source = tar.extractfile(member)
    if source is None or member.size > _LARGEST:
        raise KeyError(name)
    with source, target.open("xb") as file:
        shutil.copyfileobj(source, file)


def download_cifar100(folder: Path, progress: Progress | None = None) -> Path:
    """Download ``cifar-100-python.tar.gz`` (169 MB) into ``folder``, from the address that torchvision knows.

    ``progress`` gets bytes; a total of 0 means unknown. Raises InputError when there is no way to it.
    """
    archive = folder / f"{FOLDER}.tar.gz"
    try:
        with urllib.request.urlopen(import_torchvision().datasets.CIFAR100.url, timeout=60) as response:
            total = int(response.headers.get("Content-Length") or 0)
            with archive.open("xb") as file:
                while block := response.read(2**20):
                    file.write(block)
                    if progress:
                        progress(file.tell(), total)
                if file.tell() < total:
                    raise OSError("the connection broke off")
    except (OSError, http.client.HTTPException) as error:
        raise InputError(
            f"CIFAR-100 cannot be downloaded ({error}); get {archive.name} by other means "
            f"and give it to `mnemo data import {archive.name}`"
        ) from error
    return archive
