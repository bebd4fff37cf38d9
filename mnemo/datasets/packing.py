"""Packs: the pictures of an image folder, decoded once into a folder of arrays with checksums.

A pack grows chunk by chunk in a folder ``.NAME.partial``. Chunks that are whole there survive a kill, the next call
goes on behind them, and the folder gets its name when all is on disk.
"""

import functools
import hashlib
import logging
import os
import shutil
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import machine
from ..disk import checksums, lock
from ..disk.files import InputError
from . import chunks
from .chunks import FORMAT, SPLITS, Chunk, Index
from .folders import READ_AT_ONCE, Progress, disk_errors, write_names
from .pictures import Pictures, bombs_refused, common_size, decode

log = logging.getLogger(__name__)
Digests = dict[str, list[str]]
"""For each split the digests of the pictures of each chunk."""


def packed(
    pictures: Pictures,
    elsewhere: Path,
    image_size: int | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
) -> Path:
    """The folder of arrays with the decoded pictures: made at the first call, found later.

    It is ``.packed-KEY`` in the image folder itself, or in ``elsewhere`` if that cannot be written. Where names, sizes
    or times of the pictures have changed, or the pack is not whole, a line is logged and they are packed again. A pack
    may be removed at any time. Arguments and errors are those of :func:`pack`.
    """
    here = pictures.folder / f".packed-{_key(pictures, image_size)}"
    there = elsewhere / f".packed-{_key(pictures, image_size, pictures.folder.resolve())}"
    with disk_errors(pictures.folder):
        digests = _digests(pictures)
        for place in (here, there):
            if place.is_dir():
                fault = _fault(place, digests)
                if fault is None:
                    return place
                log.warning("%s: %s; packing again", pictures.folder, fault)
    place = here if os.access(pictures.folder, os.W_OK) else there
    pack(pictures, place, image_size, progress, workers)
    return place


def _key(pictures: Pictures, image_size: int | None, where: Path | None = None) -> str:
    text = f"{FORMAT} {image_size} {where} {pictures.classes}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def pack(
    pictures: Pictures,
    place: Path,
    image_size: int | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
) -> None:
    """Decode all pictures into the folder of arrays ``place``, uint8 RGB; what was there gives way at the end.

    With ``image_size`` the shorter side becomes that many pixels and the centre square is kept. Without it, pictures
    that all have one size of at most 256 x 256 stay as they are, and others become 256 x 256 in that way; pictures of
    several sizes of which one has a side of 64 pixels or fewer are refused. Resizing is bilinear, with antialiasing.

    A call that was killed is taken up behind its last whole chunk, as far as the pictures have not changed. Of several
    processes that pack the same, one does it and the others wait.

    Args:
        pictures: the files.
        place: its parents are made if need be.
        image_size: height and width of the images in pixels.
        progress: called with the pictures that are done and the pictures that there are.
        workers: threads that decode, in which Pillow lets go of the interpreter's lock; None: one for each core.

    Raises:
        InputError: a picture cannot be decoded, and is named; the disk refuses or has not enough room. Whole chunks,
            if they hold 1024 images or more, stay for the next call.
    """
    partial = place.with_name(f".{place.name.lstrip('.')}.partial")
    with disk_errors(place), bombs_refused(), lock.file(place):
        partial.mkdir(exist_ok=True)
        digests = _digests(pictures)
        try:
            if not place.is_dir() or _fault(place, digests) is not None:
                _fill(partial, pictures, digests, image_size, progress, workers or machine.cores())
                _put(partial, place)
        finally:
            index = chunks.read_index(partial)
            if place.is_dir() or index is None or index.done < chunks.CHUNK:
                shutil.rmtree(partial, ignore_errors=True)


def _digests(pictures: Pictures) -> Digests:
    return {split: [_digest(part, pictures.folder) for part in _parts(_paths(pictures, split))] for split in SPLITS}


def _paths(pictures: Pictures, split: str) -> list[Path]:
    return [path for path, _ in (pictures.train if split == "train" else pictures.test)]


def _parts(paths: Sequence[Path]) -> Iterator[Sequence[Path]]:
    return (paths[start : start + chunks.CHUNK] for start in range(0, len(paths), chunks.CHUNK))


def _digest(paths: Sequence[Path], folder: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        stat = path.stat()
        line = f"{path.relative_to(folder)}\0{stat.st_size}\0{stat.st_mtime_ns}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _fault(place: Path, digests: Digests) -> str | None:
    """Why a pack is not of these pictures or not whole; None if it is. Pixels are not read."""
    index = chunks.read_index(place)
    if index is None:
        return f"{place.name} has no sound {chunks.INDEX}"
    if {split: [chunk.pictures for chunk in index.whole[split]] for split in SPLITS} != digests:
        return "the pictures have changed since they were packed"
    for split in SPLITS:
        path = chunks.pixels_of(place, split)
        if not path.exists() or path.stat().st_size != index.size(split):
            return f"{place.name}/{path.name} is not whole"
    return None


def _fill(
    partial: Path,
    pictures: Pictures,
    digests: Digests,
    image_size: int | None,
    progress: Progress | None,
    workers: int,
) -> None:
    """Decode what ``partial`` lacks, and complete it with labels and names."""
    index = _taken_up(partial, _index(pictures, image_size), digests)
    total = sum(index.images.values())
    done = index.done
    _refuse_too_little_room(partial, (total - done) * index.bytes_each)
    if done and progress:
        progress(done, total)
    with ThreadPoolExecutor(workers) as pool:
        for split in SPLITS:
            for _ in _grow(partial, index, split, _paths(pictures, split), digests[split], pool, 2 * workers):
                done += 1
                if progress:
                    progress(done, total)
    for split, files in zip(SPLITS, (pictures.train, pictures.test), strict=True):
        np.save(partial / f"{split}_labels.npy", np.array([label for _, label in files], dtype=np.int64))
    write_names(partial, pictures.classes)
    checksums.write_all(partial, most=READ_AT_ONCE)  # chunks of larger files have their own


def _index(pictures: Pictures, image_size: int | None) -> Index:
    """Of a pack that has no images yet."""
    width, height = common_size([path for path, _ in pictures.train + pictures.test], image_size)
    transform = f"upright, RGB, resized (bilinear, antialiased) to cover {width} x {height} pixels, cut at the centre"
    images = {"train": len(pictures.train), "test": len(pictures.test)}
    return Index(transform=transform, height=height, width=width, images=images, chunk=chunks.CHUNK)


def _taken_up(partial: Path, fresh: Index, digests: Digests) -> Index:
    """The index with what an earlier call has left whole; what is behind that in the files is cut off."""
    earlier = chunks.read_index(partial)
    if earlier is None or earlier.model_copy(update={"whole": fresh.whole}) != fresh:
        return fresh
    for split in SPLITS:
        del earlier.whole[split][chunks.leading(partial, earlier, split, digests[split]) :]
    return earlier


def _grow(
    partial: Path,
    index: Index,
    split: str,
    paths: Sequence[Path],
    digests: Sequence[str],
    pool: ThreadPoolExecutor,
    ahead: int,
) -> Iterator[None]:
    """Append the images that a split lacks, chunk by chunk; yields after each image.

    Written as a stream and not through a memory map, since a full disk then raises OSError; a map would be killed.
    """
    whole = index.whole[split]
    with chunks.pixels_of(partial, split).open("r+b" if whole else "wb") as file:
        file.write(index.header(split))
        file.truncate(index.size(split, len(whole)))
        file.seek(0, os.SEEK_END)
        images = _decoded(paths[len(whole) * chunks.CHUNK :], (index.width, index.height), pool, ahead)
        for digest, part in list(zip(digests, _parts(paths), strict=True))[len(whole) :]:
            crc = 0
            for _ in part:
                pixels = next(images).tobytes()
                file.write(pixels)
                crc = zlib.crc32(pixels, crc)
                yield
            file.flush()
            os.fsync(file.fileno())
            whole.append(Chunk(pictures=digest, crc32=crc))
            chunks.write_index(partial, index)


def _decoded(
    paths: Sequence[Path], size: tuple[int, int], pool: ThreadPoolExecutor, ahead: int
) -> Iterator[NDArray[np.uint8]]:
    """Images in order; at most ``ahead`` of them wait, so that the memory is bounded."""
    waiting: deque[Future[NDArray[np.uint8]]] = deque()
    for path in paths:
        waiting.append(pool.submit(functools.partial(decode, path, size)))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _put(partial: Path, place: Path) -> None:
    """Flush a finished pack to disk and give it its place."""
    for path in (*partial.iterdir(), partial):
        _flush(path)
    old = place.with_name(f".{place.name.lstrip('.')}.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.is_dir():
        place.rename(old)  # a folder that holds something cannot be replaced in one step
    partial.rename(place)
    _flush(place.parent)
    shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _refuse_too_little_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(f"{folder.parent}: the decoded pictures take {needed:,} bytes, but {free:,} are free")
