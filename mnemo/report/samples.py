"""Exemplars as pictures: decoded from run.json, with what the optimisation changed made visible."""

import base64
import io
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..record import ExemplarSample, Run

AMPLIFICATIONS = (32, 16, 8, 4, 2, 1)
GREY = 128
MOST_SAMPLES = 48
LARGEST_SIDE = 4096
SHOWN_SIDE = 128
# SyntaxError is what Pillow raises for a PNG with broken chunks
UNREADABLE = (OSError, ValueError, SyntaxError, Warning, Image.DecompressionBombError)
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Exemplar:
    """One exemplar, before and after; pixels are uint8 ``(height, width, 3)``, both of one size.

    Attributes:
        change: ``after`` minus ``before``, amplified around mid-grey.
    """

    class_name: str
    phase: int
    before: Pixels
    after: Pixels
    change: Pixels


@dataclass(frozen=True)
class Sheet:
    """The exemplars of one run.

    Attributes:
        name: the group that the run belongs to.
        seed: the run's.
        exemplars: those shown, at least one.
        amplification: by which the changes are multiplied; None where no pixel differs.
        left_out: number of samples that are not shown.
        unreadable: number of samples whose pictures could not be decoded.
    """

    name: str
    seed: int
    exemplars: tuple[Exemplar, ...]
    amplification: int | None
    left_out: int
    unreadable: int


def sheet(name: str, run: Run) -> Sheet | None:
    """The sheet of a run's exemplar samples; None where it has none that can be read."""
    pairs = [(sample, _pair(sample)) for sample in run.exemplar_samples[:MOST_SAMPLES]]
    readable = [(sample, *pair) for sample, pair in pairs if pair is not None]
    if not readable:
        return None
    factor = _amplification([after.astype(np.int16) - before for _, before, after in readable])
    exemplars = tuple(
        Exemplar(
            sample.class_name,
            sample.phase,
            _reduced(before),
            _reduced(after),
            _reduced(_change(before, after, factor or 1)),
        )
        for sample, before, after in readable
    )
    left_out = max(len(run.exemplar_samples) - MOST_SAMPLES, 0)
    return Sheet(name, run.seed, exemplars, factor, left_out, len(pairs) - len(readable))


def data_uri(pixels: Pixels) -> str:
    """The picture as a PNG in a ``data:`` address."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _pair(sample: ExemplarSample) -> tuple[Pixels, Pixels] | None:
    """Both pictures at the size of the larger one; None where one cannot be read."""
    before, after = _decoded(sample.before), _decoded(sample.after)
    if before is None or after is None:
        return None
    size = max(before.size, after.size)
    return _enlarged(before, size), _enlarged(after, size)


def _enlarged(picture: Image.Image, size: tuple[int, int]) -> Pixels:
    return np.array(picture.resize(size, Image.Resampling.NEAREST), dtype=np.uint8)


def _decoded(text: str) -> Image.Image | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow warns of pictures that are suspiciously large
            picture = Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"])
            return picture.convert("RGB") if max(picture.size) <= LARGEST_SIDE else None
    except UNREADABLE:
        return None


def _amplification(changes: list[NDArray[np.int16]]) -> int | None:
    """The largest that leaves 199 of 200 changed values within 0..255; None where nothing changed."""
    moved = np.concatenate([np.abs(change[change != 0]) for change in changes])
    if not moved.size:
        return None
    far = float(np.quantile(moved, 0.995))
    return next((factor for factor in AMPLIFICATIONS if factor * far < GREY), 1)


def _change(before: Pixels, after: Pixels, factor: int) -> Pixels:
    difference = after.astype(np.int16) - before
    change: Pixels = np.clip(GREY + factor * difference, 0, 255).astype(np.uint8)
    return change


def _reduced(pixels: Pixels) -> Pixels:
    """Large pictures at the size at which they are shown: the page holds three for every exemplar."""
    if max(pixels.shape[:2]) <= SHOWN_SIDE:
        return pixels
    picture = Image.fromarray(pixels)
    picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    return np.array(picture, dtype=np.uint8)
