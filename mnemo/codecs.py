"""Codecs: how the few images that are kept of old classes are written, and what they are once read again.

What counts is bytes on disk. Of a JPEG file that is its entropy-coded part; what stands before it (the tables for
quantisation and Huffman codes, the size) is the same for all files of one shape and one codec, and is stored once. Of a
WebP file all of it counts, of other codecs the pixels.

Exemplars as JPEG, more of them in the same bytes, follow Wang et al., "Memory Replay with Data Compression for
Continual Learning", ICLR 2022 (arXiv 2202.06592).

Codecs round, clamp and quantise, so their derivative is zero almost everywhere. :meth:`Codec.through` passes all three
straight through: its value is what the stored file decodes to, its gradient that of the codec's linear part. Whoever
keeps a floating image and moves it gets out of every dead zone, for small steps add up before they are rounded.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .disk.files import InputError
from .names import refuse_unknown

Shape = tuple[int, int, int]
"""Channels, height and width of one image."""

NAMES = ("raw", "jpeg", "webp", "webp-lossless", "half", "best-jpeg")
"""What :func:`make` knows."""

_END_OF_IMAGE = b"\xff\xd9"


class Codec(Protocol):
    """A way to write images of one shape, 1 or 3 channels.

    Attributes:
        name: with what was set, for records: ``jpeg q90 4:4:4``.
        lossless: whether what is decoded is what was encoded.
        fixed_size: whether all images of one shape take the same bytes.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def lossless(self) -> bool: ...  # noqa: D102

    @property
    def fixed_size(self) -> bool: ...  # noqa: D102

    def shared(self, shape: Shape) -> bytes:
        """What is stored once for all images of this shape; empty where there is nothing of that kind."""

    def encode(self, pixels: Tensor) -> list[bytes]:
        """A file for each image, without the shared part.

        Args:
            pixels: uint8 (n, c, h, w) on any device.

        Raises:
            InputError: the codec has no such images.
        """

    def decode(self, files: Sequence[bytes], shape: Shape) -> Tensor:
        """The images, uint8 (n, c, h, w) on the CPU, channels-last.

        Raises:
            InputError: a file is no image of this shape. Not all damage shows: JPEG has no checksum, and raw pixels
                are as good as any others.
        """

    def through(self, pixels: Tensor) -> Tensor:
        """Pixels as they come back from their files, differentiable; see the head of this module.

        Args:
            pixels: floating (n, c, h, w) in grey levels; rounded and clamped to 0..255 before they are encoded.

        Returns:
            whole grey levels, of the shape, dtype and device of ``pixels``.
        """


def make(name: str, quality: int, subsampling: str) -> Codec:
    """The codec of this name, one of :data:`NAMES`.

    Args:
        name: which.
        quality: of ``jpeg`` and ``webp``, 1 to 100; the others have none.
        subsampling: of ``jpeg``, ``4:4:4`` or ``4:2:0``; the others have no choice.

    Raises:
        InputError: the name is unknown, or what is set is out of range.
    """
    refuse_unknown([name], NAMES, "codec")
    if name == "jpeg":
        return Jpeg(quality, subsampling)
    if name == "webp":
        return WebP(quality)
    others: dict[str, Codec] = {
        "raw": Raw(),
        "webp-lossless": WebPLossless(),
        "half": Half(),
        "best-jpeg": Mixed((Jpeg(50, "4:2:0"), Jpeg(75, "4:2:0"), Jpeg(90))),
    }
    return others[name]


def round_trip(codec: Codec, pixels: Tensor) -> Tensor:
    """What uint8 pixels (n, c, h, w) are once encoded and decoded: uint8, on the same device."""
    return codec.decode(codec.encode(pixels), _shape(pixels)).to(pixels.device)


def to_uint8(pixels: Tensor) -> Tensor:
    """Grey levels as uint8, rounded to the nearest and clamped to 0..255."""
    return pixels.detach().round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Raw:
    """Pixels as they are, height * width * channels bytes."""

    name = "raw"
    lossless = True
    fixed_size = True

    def shared(self, shape: Shape) -> bytes:
        """See :class:`Codec`."""
        return b""

    def encode(self, pixels: Tensor) -> list[bytes]:
        """See :class:`Codec`."""
        return [image.tobytes() for image in _arrays(pixels)]

    def decode(self, files: Sequence[bytes], shape: Shape) -> Tensor:
        """See :class:`Codec`."""
        return _pixels(files, shape, self.name)

    def through(self, pixels: Tensor) -> Tensor:
        """See :class:`Codec`. But for rounding it is the identity, and so is its gradient."""
        return _exact(self, pixels, pixels)


@dataclass(frozen=True)
class Jpeg:
    """Baseline JPEG with the standard Huffman tables, by Pillow.

    Args:
        quality: 1 to 100, in libjpeg's sense.
        subsampling: ``4:4:4`` keeps colour at full resolution, ``4:2:0`` at half of height and width.

    Raises:
        InputError: one of them is out of range.
    """

    quality: int
    subsampling: str = "4:4:4"
    lossless = False
    fixed_size = False

    def __post_init__(self) -> None:
        _refuse_quality(self.quality)
        refuse_unknown([self.subsampling], ("4:4:4", "4:2:0"), "subsampling")

    @property
    def name(self) -> str:
        """See :class:`Codec`."""
        return f"jpeg q{self.quality} {self.subsampling}"

    def shared(self, shape: Shape) -> bytes:
        """See :class:`Codec`: all up to the entropy-coded part."""
        return _jpeg_header(self, shape)

    def encode(self, pixels: Tensor) -> list[bytes]:
        """See :class:`Codec`: entropy-coded parts, without the marker that ends an image."""
        shared, parts = self.shared(_shape(pixels)), []
        for image in _arrays(pixels):
            header, part = _split_jpeg(self.whole(image))
            if header != shared:
                raise RuntimeError(f"{self.name}: Pillow wrote two different headers for images of the same shape")
            parts.append(part)
        return parts

    def whole(self, image: NDArray[np.uint8]) -> bytes:
        """The JPEG file of one image (h, w, c)."""
        return _saved(_picture(image, self.name), "JPEG", quality=self.quality, subsampling=self.subsampling)

    def decode(self, files: Sequence[bytes], shape: Shape) -> Tensor:
        """See :class:`Codec`."""
        shared = self.shared(shape)
        for part in files:
            if not part or b"\xff" in part.replace(b"\xff\x00", b""):  # coded data has no other 0xff
                raise InputError(f"{self.name}: a damaged image: not entropy-coded data")
        return _opened([shared + part + _END_OF_IMAGE for part in files], shape, "JPEG", self.name)

    def through(self, pixels: Tensor) -> Tensor:
        """See :class:`Codec`.

        At 4:4:4 the gradient is passed on as it is: change of colour space and DCT are undone by their inverses, and
        what lies between is quantisation. At 4:2:0 fine colour is lost besides.
        """
        return _exact(self, pixels, pixels if self.subsampling == "4:4:4" else without_fine_colour(pixels))


@lru_cache(maxsize=64)
def _jpeg_header(codec: Jpeg, shape: Shape) -> bytes:
    channels, height, width = shape
    return _split_jpeg(codec.whole(np.zeros((height, width, channels), dtype=np.uint8)))[0]


def _split_jpeg(file: bytes) -> tuple[bytes, bytes]:
    """A JPEG file of one scan: all up to its entropy-coded part, and that part without the end marker."""
    at, marker = 2, 0
    while marker != 0xDA:  # start of scan
        if file[at] != 0xFF:
            raise RuntimeError("Pillow wrote a JPEG file without a scan")
        marker = file[at + 1]
        at += 2 + int.from_bytes(file[at + 2 : at + 4], "big")
    if file[-2:] != _END_OF_IMAGE:
        raise RuntimeError("Pillow wrote a JPEG file without an end")
    return file[:at], file[at:-2]


@dataclass(frozen=True)
class WebP:
    """Lossy WebP, by Pillow; its colours are always 4:2:0.

    Args:
        quality: 1 to 100, in libwebp's sense.

    Raises:
        InputError: it is out of range.
    """

    quality: int
    lossless = False
    fixed_size = False

    def __post_init__(self) -> None:
        _refuse_quality(self.quality)

    @property
    def name(self) -> str:
        """See :class:`Codec`."""
        return f"webp q{self.quality}"

    def shared(self, shape: Shape) -> bytes:
        """See :class:`Codec`."""
        return b""

    def encode(self, pixels: Tensor) -> list[bytes]:
        """See :class:`Codec`."""
        pictures = [_picture(image, self.name).convert("RGB") for image in _arrays(pixels)]
        return [_saved(picture, "WEBP", quality=self.quality, method=4) for picture in pictures]

    def decode(self, files: Sequence[bytes], shape: Shape) -> Tensor:
        """See :class:`Codec`."""
        return _opened(files, shape, "WEBP", self.name)

    def through(self, pixels: Tensor) -> Tensor:
        """See :class:`Codec`. What is predicted is added again; but for quantisation only fine colour is lost."""
        return _exact(self, pixels, without_fine_colour(pixels))


@dataclass(frozen=True)
class WebPLossless:
    """Lossless WebP, by Pillow."""

    name = "webp lossless"
    lossless = True
    fixed_size = False

    def shared(self, shape: Shape) -> bytes:
        """See :class:`Codec`."""
        return b""

    def encode(self, pixels: Tensor) -> list[bytes]:
        """See :class:`Codec`."""
        pictures = [_picture(image, self.name).convert("RGB") for image in _arrays(pixels)]
        # method 6 takes four times as long, and 2 % more bytes for CIFAR's images
        return [_saved(picture, "WEBP", lossless=True, quality=80, method=4, exact=True) for picture in pictures]

    def decode(self, files: Sequence[bytes], shape: Shape) -> Tensor:
        """See :class:`Codec`."""
        return _opened(files, shape, "WEBP", self.name)

    def through(self, pixels: Tensor) -> Tensor:
        """See :class:`Codec`. But for rounding it is the identity, and so is its gradient."""
        return _exact(self, pixels, pixels)


@dataclass(frozen=True)
class Half:
    """Raw pixels at half of height and width, rounded up; decoded by bilinear interpolation."""

    name = "half"
    lossless = False
    fixed_size = True

    def shared(self, shape: Shape) -> bytes:
        """See :class:`Codec`."""
        return b""

    def encode(self, pixels: Tensor) -> list[bytes]:
        """See :class:`Codec`."""
        return Raw().encode(to_uint8(halved(pixels.cpu().float())))

    def decode(self, files: Sequence[bytes], shape: Shape) -> Tensor:
        """See :class:`Codec`."""
        channels, height, width = shape
        small = _pixels(files, (channels, -(-height // 2), -(-width // 2)), self.name)
        return to_uint8(doubled(small.float(), height, width)).contiguous(memory_format=torch.channels_last)

    def through(self, pixels: Tensor) -> Tensor:
        """See :class:`Codec`. Both steps are linear but for rounding."""
        return _exact(self, pixels, doubled(halved(pixels), *pixels.shape[2:]))


@dataclass(frozen=True)
class Mixed:
    """Several codecs in one memory: the first byte of a file says which.

    By itself it encodes with the first of them; :meth:`member` gives the others. What each shares is stored once.

    Attributes:
        codecs: at most 256.
    """

    codecs: tuple[Codec, ...]
    fixed_size = False

    @property
    def name(self) -> str:
        """See :class:`Codec`."""
        return "one of " + ", ".join(codec.name for codec in self.codecs)

    @property
    def lossless(self) -> bool:
        """See :class:`Codec`."""
        return all(codec.lossless for codec in self.codecs)

    def member(self, index: int) -> "Member":
        """The codec at ``index``, whose files this one can read."""
        return Member(self, index)

    def shared(self, shape: Shape) -> bytes:
        """See :class:`Codec`."""
        return b"".join(codec.shared(shape) for codec in self.codecs)

    def encode(self, pixels: Tensor) -> list[bytes]:
        """See :class:`Codec`."""
        return self.member(0).encode(pixels)

    def decode(self, files: Sequence[bytes], shape: Shape) -> Tensor:
        """See :class:`Codec`."""
        channels, height, width = shape
        pixels = torch.empty(len(files), height, width, channels, dtype=torch.uint8).permute(0, 3, 1, 2)
        for index, codec in enumerate(self.codecs):
            where = [position for position, file in enumerate(files) if file[:1] == bytes([index])]
            if where:
                pixels[where] = codec.decode([files[position][1:] for position in where], shape)
        if any(file[:1] not in [bytes([index]) for index in range(len(self.codecs))] for file in files):
            raise InputError(f"{self.name}: a damaged image: it is of none of them")
        return pixels

    def through(self, pixels: Tensor) -> Tensor:
        """See :class:`Codec`."""
        return self.codecs[0].through(pixels)


@dataclass(frozen=True)
class Member:
    """One codec of several; see :class:`Mixed`, which reads its files.

    Attributes:
        mixed: all of them.
        index: of this one.
    """

    mixed: Mixed
    index: int
    fixed_size = False

    @property
    def name(self) -> str:
        """See :class:`Codec`."""
        return self.mixed.codecs[self.index].name

    @property
    def lossless(self) -> bool:
        """See :class:`Codec`."""
        return self.mixed.codecs[self.index].lossless

    def shared(self, shape: Shape) -> bytes:
        """See :class:`Codec`."""
        return self.mixed.shared(shape)

    def encode(self, pixels: Tensor) -> list[bytes]:
        """See :class:`Codec`."""
        return [bytes([self.index]) + file for file in self.mixed.codecs[self.index].encode(pixels)]

    def decode(self, files: Sequence[bytes], shape: Shape) -> Tensor:
        """See :class:`Codec`."""
        return self.mixed.decode(files, shape)

    def through(self, pixels: Tensor) -> Tensor:
        """See :class:`Codec`."""
        return self.mixed.codecs[self.index].through(pixels)


def halved(pixels: Tensor) -> Tensor:
    """Means of blocks of 2 x 2 floating pixels (n, c, h, w); at an odd edge of the 1 or 2 that there are."""
    return F.avg_pool2d(pixels, 2, ceil_mode=True)


def doubled(pixels: Tensor, height: int, width: int) -> Tensor:
    """Twice the height and width by bilinear interpolation, cropped to ``height`` and ``width``."""
    return _doubled_along(_doubled_along(pixels, 2, height), 3, width)


def _doubled_along(pixels: Tensor, axis: int, length: int) -> Tensor:
    # F.interpolate does the same, but its gradient on CUDA adds in any order
    last = pixels.shape[axis] - 1
    before = torch.cat([pixels.narrow(axis, 0, 1), pixels.narrow(axis, 0, last)], axis)
    after = torch.cat([pixels.narrow(axis, 1, last), pixels.narrow(axis, last, 1)], axis)
    pairs = torch.stack([0.75 * pixels + 0.25 * before, 0.75 * pixels + 0.25 * after], axis + 1)
    return pairs.flatten(axis, axis + 1).narrow(axis, 0, length)


def without_fine_colour(pixels: Tensor) -> Tensor:
    """What 4:2:0 leaves of floating pixels (n, c, h, w): luma as it is, colour differences halved and doubled again.

    Luma is JFIF's. Cb and Cr are multiples of blue and red minus luma, so that the three differences can stand for
    them. Grey images stay as they are.
    """
    if pixels.shape[1] == 1:
        return pixels
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=pixels.dtype, device=pixels.device)
    luma = (pixels * weights.view(3, 1, 1)).sum(1, keepdim=True)
    return luma + doubled(halved(pixels - luma), *pixels.shape[2:])


def _exact(codec: Codec, pixels: Tensor, linear: Tensor) -> Tensor:
    """The value of pixels after a round trip, with the gradient of ``linear``."""
    value = round_trip(codec, to_uint8(pixels)).to(pixels.dtype)
    return value + (linear - linear.detach())  # in this order nothing is rounded: a zero is added


def _refuse_quality(quality: int) -> None:
    if not 1 <= quality <= 100:
        raise InputError(f"quality {quality}: must be 1 to 100")


def _shape(pixels: Tensor) -> Shape:
    _, channels, height, width = pixels.shape
    return channels, height, width


def _arrays(pixels: Tensor) -> NDArray[np.uint8]:
    """Uint8 (n, h, w, c)."""
    if pixels.dtype != torch.uint8:
        raise ValueError(f"pixels must be uint8, not {pixels.dtype}")
    array: NDArray[np.uint8] = pixels.detach().cpu().permute(0, 2, 3, 1).contiguous().numpy()
    return array


def _tensor(arrays: NDArray[np.uint8]) -> Tensor:
    """Of (n, h, w, c): (n, c, h, w), channels-last."""
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def _pixels(files: Sequence[bytes], shape: Shape, name: str) -> Tensor:
    """Decode raw pixels. Raises InputError if a file does not have their number."""
    channels, height, width = shape
    bytes_each = channels * height * width
    for file in files:
        if len(file) != bytes_each:
            raise InputError(f"{name}: a damaged image: {len(file)} bytes instead of {bytes_each}")
    pixels = np.frombuffer(bytearray().join(files), dtype=np.uint8)
    return _tensor(pixels.reshape(len(files), height, width, channels))


def _picture(image: NDArray[np.uint8], name: str) -> Image.Image:
    if image.shape[2] not in (1, 3):
        raise InputError(f"{name}: images have 1 or 3 channels, not {image.shape[2]}")
    return Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)


def _saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _opened(files: Sequence[bytes], shape: Shape, kind: str, name: str) -> Tensor:
    """Decode whole files. Raises InputError if one is no image of this kind and shape."""
    channels, height, width = shape
    arrays = np.empty((len(files), height, width, channels), dtype=np.uint8)
    for array, file in zip(arrays, files, strict=True):
        try:
            with Image.open(io.BytesIO(file), formats=[kind]) as picture:
                if picture.size != (width, height):
                    raise InputError(f"{name}: a damaged image: not {width} by {height} pixels")
                read = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
        except (OSError, EOFError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"{name}: a damaged image: {error}") from error
        array[...] = read.reshape(array.shape)
    return _tensor(arrays)
