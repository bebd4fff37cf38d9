"""Images: pixels and labels, as two tensors."""

import base64
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """A set of labelled images.

    Attributes:
        pixels: uint8 ``(n, channels, height, width)``, grey levels 0..255. Stored channels-last, so that it can be a
            view of a memory-mapped ``(n, height, width, channels)`` array.
        labels: int64 ``(n,)``.
        logits: what an earlier network said of them, floating ``(n, classes)``, NaN for classes that it did not know;
            None where nothing is remembered.
    """

    pixels: Tensor
    labels: Tensor
    logits: Tensor | None = None

    in_memory: ClassVar[bool] = True
    """Whether the pixels are there already; see :mod:`mnemo.streaming` for images of which they are not."""

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4:
            raise ValueError(f"pixels must be uint8 (n, c, h, w), not {self.pixels.dtype} {tuple(self.pixels.shape)}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.pixels.shape[:1]:
            raise ValueError(
                f"labels must be int64 ({len(self.pixels)},), not {self.labels.dtype} {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    @property
    def bytes_each(self) -> int:
        """Bytes that one image takes as raw uint8."""
        channels, height, width = self.shape
        return channels * height * width

    def select(self, where: Tensor) -> "Images":
        """The images at ``where``: indices ``(m,)`` or a boolean mask ``(n,)``."""
        if where.dtype == torch.bool:
            where = where.nonzero().squeeze(1)
        if not self.pixels.is_contiguous(memory_format=torch.channels_last):
            return Images(self.pixels[where], self.labels[where], self._logits_at(where))
        channels, height, width = self.shape
        images = self.pixels.permute(0, 2, 3, 1).reshape(len(self), -1)  # whole images are copied six times as fast
        pixels = images.index_select(0, where).view(-1, height, width, channels).permute(0, 3, 1, 2)
        return Images(pixels, self.labels[where], self._logits_at(where))

    def subset(self, where: Tensor, labels: Tensor) -> "Images":
        """The images at indices ``where`` (m,) in memory of their own, under other labels (m,)."""
        return Images(self.pixels[where].contiguous(memory_format=torch.channels_last), labels)

    def with_logits(self, logits: Tensor | None) -> "Images":
        """The same images with other logits (n, classes), or without any."""
        return Images(self.pixels, self.labels, logits)

    def _logits_at(self, where: Tensor) -> Tensor | None:
        return None if self.logits is None else self.logits[where]

    def of_classes(self, classes: Sequence[int] | Tensor) -> "Images":
        """The images whose label is one of ``classes``, in their present order."""
        wanted = torch.as_tensor(classes, dtype=torch.int64, device=self.labels.device)
        return self.select(torch.isin(self.labels, wanted).nonzero().squeeze(1))

    def to(self, device: torch.device | str) -> "Images":
        """The same images on another device."""
        logits = None if self.logits is None else self.logits.to(device)
        return Images(self.pixels.to(device), self.labels.to(device), logits)

    def batches(self, size: int) -> Iterator["Images"]:
        """The images in order, ``size`` at a time, fewer where they are large; the last batch may be smaller."""
        size = at_once(self.shape, size)
        for pixels, labels in zip(self.pixels.split(size), self.labels.split(size), strict=True):
            yield Images(pixels, labels)

    def _joined(self, parts: Sequence["Images"]) -> "Images":
        return Images(
            torch.cat([p.pixels for p in parts]).contiguous(memory_format=torch.channels_last),
            torch.cat([p.labels for p in parts]),
            joined_logits(parts),
        )


def at_once(shape: tuple[int, int, int], most: int) -> int:
    """How many images of ``shape`` (c, h, w) pass a network at once: ``most``, or 64 of 256 x 256 pixels."""
    _, height, width = shape
    return max(1, min(most, 2**22 // (height * width)))


def join(parts: Sequence[Images]) -> Images:
    """One set of images out of several of the same shape and device. Raises ValueError if there is none."""
    if not parts:
        raise ValueError("nothing to join")
    if len(parts) == 1:
        return parts[0]
    return next((part for part in parts if not part.in_memory), parts[0])._joined(parts)


def joined_logits(parts: Sequence[Images]) -> Tensor | None:
    """Logits of several sets one under the other, NaN where there are none; None where none has any."""
    known = [part.logits for part in parts if part.logits is not None]
    if not known:
        return None
    width = max(logits.shape[1] for logits in known)
    rows = [known[0].new_full((len(part), width), torch.nan) for part in parts]
    for row, part in zip(rows, parts, strict=True):
        if part.logits is not None:
            row[:, : part.logits.shape[1]] = part.logits
    return torch.cat(rows)


def statistics(images: Images, sample: int = 10_000) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel in grey levels, over at most ``sample`` images, evenly spaced.

    Of large images there are fewer, so that they take no more than 1 GiB as floating pixels.
    """
    sample = min(sample, max(1, 2**28 // images.bytes_each))
    pixels = images.pixels[:: max(1, len(images) // sample)].float()
    correction = int(pixels[:, 0].numel() > 1)  # a single pixel has no sample deviation
    return pixels.mean((0, 2, 3)).tolist(), pixels.std((0, 2, 3), correction=correction).clamp(min=1e-3).tolist()


def digest(*sets: Images, most: int = 2**28) -> str:
    """Names these very images and labels, in 16 hexadecimal digits.

    All labels count, and the pixels of all images; of a set with more than ``most`` bytes those of every n-th.
    """
    hashed = hashlib.sha256()
    for images in sets:
        hashed.update(str(tuple(images.pixels.shape)).encode())
        hashed.update(images.labels.cpu().numpy().tobytes())
        every = max(1, -(-len(images) * images.bytes_each // most))
        for pixels in images.pixels[::every].split(1024):
            hashed.update(pixels.cpu().permute(0, 2, 3, 1).contiguous().numpy().data)
    return hashed.hexdigest()[:16]


def png_base64(pixels: Tensor) -> str:
    """uint8 (c, h, w) as a PNG file in base64."""
    from PIL import Image  # here, because most of what imports this module shows no picture

    array = pixels.cpu().permute(1, 2, 0).contiguous().numpy()
    file = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array[:, :, :3]).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def rank_in_class(labels: Tensor) -> Tensor:
    """For each label (n,), how many equal ones come before it."""
    order = labels.argsort(stable=True)
    counts = labels.bincount()
    ranks = torch.empty_like(labels)
    ranks[order] = torch.arange(len(labels)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return ranks
