"""Glyphs: characters of the typefaces that matplotlib brings along, drawn by Pillow in memory.

A class is a character, an image one drawing of it in one of 12 to 21 typefaces: stretched, slanted, turned, shifted,
bolder or thinner, paler or brighter, with noise. A data set to try things on, which needs no download.
"""

import itertools
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..disk.files import InputError
from ..images import Images
from ..seeds import generator
from . import glyph_classes
from .splits import Split

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

SIZE = 28
"""Height and width of an image, in pixels."""
EACH = 30
"""Images of a class."""
_FACES = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
)
_ASCII_FACES = ("cmr10", "cmb10", "cmss10", "cmti10", "cmtt10")  # elsewhere they have characters at wrong places
_CANVAS = 96  # pixels a side of the drawing that is then distorted
_FONT_SIZE = 44


class Distortion(NamedTuple):
    """How one drawing differs from the typeface's; each field from ``LEAST`` to ``MOST``.

    Attributes:
        size: of the longer side, in pixels of the image.
        stretch: width over height, as the exponent of 2.
        turn: in radians, clockwise.
        slant: shift to the left for each pixel further down.
        right, down: shift in pixels of the image.
        stroke: what is added to the outline, in pixels of the canvas, rounded down.
        ink: grey level of the glyph.
        noise: grey levels that are at most added to or taken from a pixel.
    """

    size: float
    stretch: float
    turn: float
    slant: float
    right: float
    down: float
    stroke: float
    ink: float
    noise: float


LEAST = Distortion(18, -0.25, -0.2, -0.2, -1.5, -1.5, 0, 180, 10)
MOST = Distortion(23, 0.25, 0.2, 0.2, 1.5, 1.5, 2, 255, 50)


@cache
def read_glyphs() -> tuple[Split, Split, Split]:
    """Training, validation and test classes: 30 images (1, 28, 28) of each, white on black.

    They are drawn once a process, in some seconds, and are the same in every process as long as the versions of
    matplotlib and Pillow are. Class names are the characters.
    """
    lists = (glyph_classes.TRAIN, glyph_classes.VALIDATION, glyph_classes.TEST)
    train, validation, test = (_split(characters) for characters in lists)
    return train, validation, test


def _split(characters: str) -> Split:
    pixels = torch.cat([draw(character, EACH) for character in characters])
    labels = torch.arange(len(characters)).repeat_interleave(EACH)
    return Split(Images(pixels, labels), tuple(characters))


def draw(character: str, count: int) -> Tensor:
    """Drawings of a character: uint8 (count, 1, 28, 28). Raises InputError if no typeface has it."""
    draws = generator("glyphs", character)
    least, most = torch.tensor([LEAST, MOST], dtype=torch.float64)
    distortions = least + (most - least) * torch.rand(count, len(LEAST), generator=draws, dtype=torch.float64)
    faces = _shuffled(_faces_with(character), draws)
    drawings = [
        _drawing(character, face, Distortion(*row)) for face, row in zip(faces, distortions.tolist(), strict=False)
    ]
    noise = 2 * torch.rand(count, SIZE, SIZE, generator=draws, dtype=torch.float64) - 1
    noisy: Tensor = torch.from_numpy(np.stack(drawings)) + noise * distortions[:, -1].view(-1, 1, 1)
    return noisy.round_().clamp_(0, 255).to(torch.uint8).unsqueeze(1)


def _shuffled(faces: list[str], draws: torch.Generator) -> Iterator[str]:
    """Every face once, in random order, and so again."""
    order = torch.randperm(len(faces), generator=draws)
    return itertools.cycle([faces[place] for place in order.tolist()])


def _faces_with(character: str) -> list[str]:
    faces = [*_FACES, *(_ASCII_FACES if character.isascii() and character.isalnum() else ())]
    faces = [face for face in faces if ord(character) in _characters(face)]
    if not faces:
        raise InputError(f"glyphs: no typeface of the installed matplotlib has {character!r}; install another version")
    return faces


def _file(face: str) -> Path:
    import matplotlib  # here, since it takes a while

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"


@cache
def _characters(face: str) -> frozenset[int]:
    """Code points that have a glyph of their own; others would be drawn as an empty box."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(_file(face))).get_charmap())


@cache
def _font(face: str) -> "FreeTypeFont":
    from PIL import ImageFont

    return ImageFont.truetype(str(_file(face)), _FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)


def _drawing(character: str, face: str, how: Distortion) -> NDArray[np.uint8]:
    """Grey levels (28, 28)."""
    from PIL.Image import Resampling, Transform

    canvas = _canvas(character, face, int(how.stroke), round(how.ink))
    double = (2 * SIZE, 2 * SIZE)  # halved afterwards, since the transformation takes single pixels
    large = canvas.transform(double, Transform.AFFINE, _affine(canvas, how), Resampling.BILINEAR)
    return np.asarray(large.reduce(2))


def _canvas(character: str, face: str, stroke: int, ink: int) -> "Image":
    from PIL import Image, ImageDraw

    canvas = Image.new("L", (_CANVAS, _CANVAS))
    middle = (_CANVAS / 2, _CANVAS / 2)
    ImageDraw.Draw(canvas).text(middle, character, ink, _font(face), anchor="mm", stroke_width=stroke)
    return canvas


def _affine(canvas: "Image", how: Distortion) -> tuple[float, ...]:
    """From places (x, y) in the image of doubled size to places on the canvas: (ax + by + c, dx + ey + f).

    They are turned, then slanted, then scaled, about the middles of image and glyph.
    """
    left, top, right, bottom = canvas.getbbox() or (0, 0, _CANVAS, _CANVAS)
    scale = max(right - left, bottom - top) / (2 * how.size)
    across, along = scale * 2 ** (-how.stretch / 2), scale * 2 ** (how.stretch / 2)
    cosine, sine = math.cos(how.turn), math.sin(how.turn)
    a, b = across * (cosine + how.slant * -sine), across * (sine + how.slant * cosine)
    d, e = along * -sine, along * cosine
    x, y = SIZE + 2 * how.right, SIZE + 2 * how.down
    return a, b, (left + right) / 2 - a * x - b * y, d, e, (top + bottom) / 2 - d * x - e * y
