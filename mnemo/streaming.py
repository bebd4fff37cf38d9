"""Images that are too many for the memory: they stay in a file, and batches are read ahead of their use."""

import os
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from .disk.files import InputError
from .images import Images, at_once, joined_logits

RESIDENT = 2**29
"""Bytes of pixels that are taken into the memory of the host at once; more of them are streamed."""
READERS = 4
"""Threads that read, each a batch: a disk serves several reads at once faster than one after the other."""


class PixelFile:
    """Pixels uint8 (n, height, width, channels) in a file, one image after the other.

    It is read, not mapped: pages of a map count as memory of the process, and a file that was cut would kill it.

    Args:
        path: of the file.
        offset: bytes before the first pixel.
        mapped: the same pixels (n, channels, height, width) as a view of a memory map, for who needs a few.
    """

    def __init__(self, path: Path, offset: int, mapped: Tensor) -> None:
        self.path, self.mapped = path, mapped
        self._offset = offset
        self._handle = os.open(path, os.O_RDONLY)  # kept open: the pixels stay these if the file is replaced
        weakref.finalize(self, os.close, self._handle)

    def read(self, rows: Sequence[int], places: Sequence[int], out: Tensor) -> None:
        """Read images ``rows`` into ``out`` (m, height, width, channels) at ``places``, in the order of the file.

        Raises InputError when the file cannot be read, or ends too early.
        """
        length = out[0].numel()
        images = out.numpy().reshape(len(out), length)
        for row, place in sorted(zip(rows, places, strict=True)):
            try:
                count = os.preadv(self._handle, [images[place]], self._offset + row * length)
            except OSError as error:
                raise InputError(f"{self.path}: {error.strerror}") from error
            if count != length:
                raise InputError(f"{self.path}: ends before image {row}; it was changed while it was in use")


class Streamed(Images):
    """Images most of whose pixels stay in a file.

    What is selected of them is loaded where there is room, and streamed else. What asks for :attr:`pixels` gets all of
    them, in memory.

    Args:
        sources: where pixels are: files, and tensors (m, channels, height, width) on the device of ``labels``.
        which: for each image its source, int64 (n,) on the CPU.
        rows: for each image its place in its source, likewise.
        labels, logits: see :class:`mnemo.images.Images`; they are where batches go.
    """

    in_memory = False

    def __init__(
        self,
        sources: Sequence[PixelFile | Tensor],
        which: Tensor,
        rows: Tensor,
        labels: Tensor,
        logits: Tensor | None = None,
    ) -> None:
        values = {"_sources": tuple(sources), "_which": which, "_rows": rows, "labels": labels, "logits": logits}
        for name, value in values.items():
            object.__setattr__(self, name, value)  # images are frozen

    _sources: tuple[PixelFile | Tensor, ...]
    _which: Tensor
    _rows: Tensor

    @property
    def pixels(self) -> Tensor:
        """All pixels: the memory map where these are all images of one file, in order, else loaded."""
        source, *others = self._sources
        in_order = torch.equal(self._rows, torch.arange(len(self)))
        if not others and isinstance(source, PixelFile) and len(source.mapped) == len(self) and in_order:
            return source.mapped
        return self.load().pixels

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        source = self._sources[0]
        _, channels, height, width = (source.mapped if isinstance(source, PixelFile) else source).shape
        return channels, height, width

    def select(self, where: Tensor) -> Images:
        """The images at ``where``: indices (m,) or a boolean mask (n,); loaded where there is room."""
        if where.dtype == torch.bool:
            where = where.nonzero().squeeze(1)
        return self._at(where, self.labels[where], self._logits_at(where))._settled()

    def subset(self, where: Tensor, labels: Tensor) -> "Streamed":
        """See :meth:`mnemo.images.Images.subset`; nothing is read."""
        return self._at(where, labels)

    def with_logits(self, logits: Tensor | None) -> "Streamed":
        """See :meth:`mnemo.images.Images.with_logits`; nothing is read."""
        return Streamed(self._sources, self._which, self._rows, self.labels, logits)

    def _at(self, where: Tensor, labels: Tensor, logits: Tensor | None = None) -> "Streamed":
        places = where.cpu()
        return Streamed(self._sources, self._which[places], self._rows[places], labels, logits)

    def to(self, device: torch.device | str) -> Images:
        """The same images with another device to go to; loaded where it has room."""
        sources = [source if isinstance(source, PixelFile) else source.to(device) for source in self._sources]
        logits = None if self.logits is None else self.logits.to(device)
        return Streamed(sources, self._which, self._rows, self.labels.to(device), logits)._settled()

    def _settled(self) -> Images:
        return self.load() if len(self) * self.bytes_each <= _room(self.labels.device) else self

    def load(self) -> Images:
        """The same images with all pixels in the memory of their device."""
        channels, height, width = self.shape
        pixels = torch.empty((len(self), height, width, channels), dtype=torch.uint8, device=self.labels.device)
        done = 0
        for batch in self.ahead(torch.arange(len(self)).split(64)):
            pixels[done : done + len(batch)] = batch.pixels.permute(0, 2, 3, 1)
            done += len(batch)
        return Images(pixels.permute(0, 3, 1, 2), self.labels, self.logits)

    def batches(self, size: int) -> Iterator[Images]:
        """See :meth:`mnemo.images.Images.batches`."""
        for batch in self.ahead(torch.arange(len(self)).split(at_once(self.shape, size))):
            yield Images(batch.pixels, batch.labels)

    def ahead(self, batches: Iterable[Tensor]) -> Iterator[Images]:
        """The images at each of ``batches``, int64 (m,) on the CPU; the next ones are read while one is in use."""
        with ThreadPoolExecutor(READERS) as pool:
            waiting: deque[tuple[Tensor, Future[Tensor]]] = deque()
            for where in batches:
                waiting.append((where, pool.submit(self._read, where)))
                if len(waiting) > READERS:
                    yield self._arrived(*waiting.popleft())
            while waiting:
                yield self._arrived(*waiting.popleft())

    def _read(self, where: Tensor) -> Tensor:
        """Pixels (m, height, width, channels) in the host's memory; those that are in tensors are left out."""
        channels, height, width = self.shape
        # pinned memory is kept by torch until what is copied from it has arrived
        shape, pinned = (len(where), height, width, channels), self.labels.is_cuda
        pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
        for number, source in enumerate(self._sources):
            if isinstance(source, PixelFile):
                places = (self._which[where] == number).nonzero().squeeze(1)
                source.read(self._rows[where[places]].tolist(), places.tolist(), pixels)
        return pixels

    def _arrived(self, where: Tensor, read: Future[Tensor]) -> Images:
        device = self.labels.device
        pixels = read.result().to(device, non_blocking=True)
        for number, source in enumerate(self._sources):
            if not isinstance(source, PixelFile):
                places = (self._which[where] == number).nonzero().squeeze(1)
                rows = self._rows[where[places]].to(device)
                pixels[places.to(device)] = source[rows].permute(0, 2, 3, 1)
        there = where.to(device, non_blocking=True)
        return Images(pixels.permute(0, 3, 1, 2), self.labels[there], self._logits_at(there))

    def _joined(self, parts: Sequence[Images]) -> Images:
        """See :func:`mnemo.images.join`."""
        sources: list[PixelFile | Tensor] = []
        which, rows = [], []
        for part in parts:
            own = part if isinstance(part, Streamed) else _of_tensor(part)
            which.append(own._which + len(sources))
            rows.append(own._rows)
            sources += own._sources
        labels = torch.cat([part.labels for part in parts])
        return Streamed(sources, torch.cat(which), torch.cat(rows), labels, joined_logits(parts))


def of_file(path: Path, offset: int, mapped: Tensor, labels: Tensor) -> Images:
    """Images whose pixels are in a file: streamed if they are many, else a view of its memory map.

    Args:
        path, offset, mapped: see :class:`PixelFile`.
        labels: int64 (n,).
    """
    images = Images(mapped, labels)
    if mapped.numel() <= RESIDENT:
        return images
    return Streamed([PixelFile(path, offset, mapped)], torch.zeros_like(labels), torch.arange(len(labels)), labels)


def _of_tensor(images: Images) -> Streamed:
    rows = torch.arange(len(images))
    return Streamed([images.pixels], torch.zeros_like(rows), rows, images.labels, images.logits)


def _room(device: torch.device) -> int:
    """Bytes that a set of images may take on a device."""
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else RESIDENT
