"""Arrays of pixels with a checksum for every so many images, and the index that says what is whole."""

import io
import itertools
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from pydantic import BaseModel, ValidationError

from ..disk.files import InputError, write_text
from .folders import Progress

INDEX = "index.json"
SPLITS = ("train", "test")
FORMAT = 1
CHUNK = 1024
"""Images under one checksum: 200 MB where they have 256 x 256 pixels."""


class Chunk(BaseModel):
    """Up to ``CHUNK`` images that lie one after the other.

    Attributes:
        pictures: digest of names, sizes and times of the files that they were decoded from.
        crc32: of their pixels.
    """

    pictures: str
    crc32: int


class Index(BaseModel):
    """What a folder of arrays says of itself in ``index.json``.

    Attributes:
        format: of the folder.
        transform: what was done to the pictures.
        height, width: of the images in pixels.
        images: in each split.
        chunk: images under one checksum.
        whole: for each split the chunks that are on disk, from the first on.
    """

    format: int = FORMAT
    transform: str
    height: int
    width: int
    images: dict[str, int]
    chunk: int
    whole: dict[str, list[Chunk]] = {split: [] for split in SPLITS}

    @property
    def bytes_each(self) -> int:
        """Bytes of an image."""
        return self.height * self.width * 3

    @property
    def done(self) -> int:
        """Images in whole chunks."""
        return sum(min(len(self.whole[split]) * self.chunk, self.images[split]) for split in SPLITS)

    def header(self, split: str) -> bytes:
        """What stands before the pixels in the split's .npy file."""
        file = io.BytesIO()
        shape = (self.images[split], self.height, self.width, 3)
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        return file.getvalue()

    def size(self, split: str, chunks: int | None = None) -> int:
        """Bytes of the split's file with its first ``chunks`` chunks; None: with all."""
        images = self.images[split]
        return len(self.header(split)) + self.bytes_each * min(
            images, images if chunks is None else chunks * self.chunk
        )


def pixels_of(folder: Path, split: str) -> Path:
    """The file of a split's pixels."""
    return folder / f"{split}_images.npy"


def read_index(folder: Path) -> Index | None:
    """The index of a folder; None where there is none, or none of this format."""
    try:
        index = Index.model_validate_json((folder / INDEX).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return index if index.format == FORMAT and index.chunk == CHUNK else None


def write_index(folder: Path, index: Index) -> None:
    """Write the index, whole or not at all."""
    write_text(folder / INDEX, index.model_dump_json(indent=1) + "\n")


def sound(folder: Path, index: Index, split: str) -> Iterator[bool]:
    """For each chunk that the index calls whole, whether it is. One chunk after the other is read."""
    try:
        with pixels_of(folder, split).open("rb") as file:
            intact = file.read(len(index.header(split))) == index.header(split)
            for number, chunk in enumerate(index.whole[split]):
                length = index.size(split, number + 1) - index.size(split, number)
                yield _checksum(file, length) == chunk.crc32 and intact
    except FileNotFoundError:
        return


def _checksum(file: BinaryIO, length: int) -> int | None:
    """CRC-32 of the next ``length`` bytes; None if there are fewer."""
    crc = 0
    while length:
        part = file.read(min(length, 2**22))
        if not part:
            return None
        crc, length = zlib.crc32(part, crc), length - len(part)
    return crc


def leading(folder: Path, index: Index, split: str, pictures: Sequence[str]) -> int:
    """How many chunks, from the first on, are sound and of these pictures, given by the digest of each chunk."""
    same = (chunk.pictures == digest for chunk, digest in zip(index.whole[split], pictures, strict=False))
    together = (a and b for a, b in zip(same, sound(folder, index, split), strict=False))
    return sum(1 for _ in itertools.takewhile(bool, together))


def verify(folder: Path, progress: Progress | None = None) -> int:
    """Compare all pixels of a folder with their checksums: the number of chunks, 0 where the folder has no index.

    Raises InputError, which names the file, where they differ.
    """
    index = read_index(folder)
    if index is None:
        return 0
    total = sum(len(chunks) for chunks in index.whole.values())
    done = 0
    for split in SPLITS:
        for number, good in enumerate(sound(folder, index, split)):
            if not good:
                first, last = number * index.chunk, min((number + 1) * index.chunk, index.images[split]) - 1
                raise InputError(
                    f"{pixels_of(folder, split)}: damaged among images {first} to {last}; remove {folder}, "
                    "and get or pack it again"
                )
            done += 1
            if progress:
                progress(done, total)
    return total
