"""Exemplars as pictures: decoded from run.json, with what the optimisation changed made visible."""

import base64
import io
import warnings
from dataclasses import dataclass
from typing import Literal

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
Kind = Literal["original", "optimised", "change", "stored"]


@dataclass(frozen=True)
class Exemplar:
    """One exemplar.

    Attributes:
        class_name: its class.
        phase: the one that brought it.
        pictures: uint8 ``(height, width, 3)``, all of one size; ``optimised`` is not there where it is one of the
            others. ``change`` is what optimising (where nothing was optimised: storing) changed, amplified around
            mid-grey.
        bytes: what raw pixels of the original and what is stored take, where the record says it.
    """

    class_name: str
    phase: int
    pictures: dict[Kind, Pixels]
    bytes: dict[Kind, int]


@dataclass(frozen=True)
class Sheet:
    """The exemplars of one run.

    Attributes:
        name: the group that the run belongs to.
        seed: the run's.
        count: exemplars in the whole memory.
        size: bytes of the whole memory.
        kinds: pictures to show of each exemplar, in this order.
        exemplars: those shown, at least one.
        amplification: by which the changes are multiplied; None where no pixel differs.
        left_out: number of samples that are not shown.
        unreadable: number of samples whose pictures could not be decoded.
    """

    name: str
    seed: int
    count: int
    size: int
    kinds: tuple[Kind, ...]
    exemplars: tuple[Exemplar, ...]
    amplification: int | None
    left_out: int
    unreadable: int

    def label(self, kind: Kind) -> str:
        """What stands before a row of pictures."""
        return f"change \N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}{self.amplification}" if kind == "change" else kind

    def weighed(self, kind: Kind) -> bool:
        """Whether bytes stand under a row of pictures."""
        return any(kind in exemplar.bytes for exemplar in self.exemplars)


def sheet(name: str, run: Run) -> Sheet | None:
    """The sheet of a run's exemplar samples; None where it has none that can be read."""
    samples = run.exemplar_samples[:MOST_SAMPLES]
    readable = [(sample, found) for sample in samples if (found := _pictures(sample))]
    if not readable:
        return None
    kinds = _kinds([found for _, found in readable])
    factor = _amplification([_change(found) for _, found in readable]) if len(kinds) > 1 else None
    return Sheet(
        name,
        run.seed,
        run.exemplars.count,
        run.exemplars.bytes,
        kinds,
        tuple(_exemplar(sample, found, factor) for sample, found in readable),
        factor,
        left_out=len(run.exemplar_samples) - len(samples),
        unreadable=len(samples) - len(readable),
    )


def grouped(count: int) -> str:
    """A number with its thousands set apart: ``3 072``."""
    return f"{count:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def data_uri(pixels: Pixels) -> str:
    """The picture as a PNG in a ``data:`` address."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _pictures(sample: ExemplarSample) -> dict[Kind, Pixels] | None:
    """Its pictures at the size of the largest; None where one cannot be read."""
    texts: dict[Kind, str | None] = {"original": sample.before, "optimised": sample.draft, "stored": sample.after}
    found = {kind: decoded(text) for kind, text in texts.items() if text is not None}
    known = {kind: picture for kind, picture in found.items() if picture is not None}
    if len(known) < len(found):
        return None
    size = max(picture.size for picture in known.values())
    return {kind: _enlarged(picture, size) for kind, picture in known.items()}


def _kinds(found: list[dict[Kind, Pixels]]) -> tuple[Kind, ...]:
    """The fewest that show all that there is to see."""
    if any("optimised" in pictures for pictures in found):
        return ("original", "optimised", "change", "stored")
    if any(_change(pictures).any() for pictures in found):
        return ("original", "stored", "change")
    return ("stored",)


def _exemplar(sample: ExemplarSample, found: dict[Kind, Pixels], factor: int | None) -> Exemplar:
    change: Pixels = np.clip(GREY + (factor or 1) * _change(found), 0, 255).astype(np.uint8)
    pictures: dict[Kind, Pixels] = {**found, "change": change}
    sizes: dict[Kind, int | None] = {"original": sample.raw_bytes, "stored": sample.bytes}
    return Exemplar(
        sample.class_name,
        sample.phase,
        {kind: reduced(pixels) for kind, pixels in pictures.items()},
        {kind: size for kind, size in sizes.items() if size is not None},
    )


def _enlarged(picture: Image.Image, size: tuple[int, int]) -> Pixels:
    return np.array(picture.resize(size, Image.Resampling.NEAREST), dtype=np.uint8)


def decoded(text: str) -> Image.Image | None:
    """The picture that a PNG in base64 holds, in RGB; None where it is none, or is too large to be one of ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow warns of pictures that are suspiciously large
            picture = Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"])
            return picture.convert("RGB") if max(picture.size) <= LARGEST_SIDE else None
    except UNREADABLE:
        return None


def _amplification(changes: list[NDArray[np.int16]]) -> int:
    """The largest that leaves 199 of 200 changed values within 0..255."""
    moved = np.concatenate([np.abs(change[change != 0]) for change in changes])
    far = float(np.quantile(moved, 0.995)) if moved.size else 0.0
    return next((factor for factor in AMPLIFICATIONS if factor * far < GREY), 1)


def _change(found: dict[Kind, Pixels]) -> NDArray[np.int16]:
    return found.get("optimised", found["stored"]).astype(np.int16) - found["original"]


def reduced(pixels: Pixels) -> Pixels:
    """Large pictures at the size at which they are shown: the page holds up to four for every exemplar."""
    if max(pixels.shape[:2]) <= SHOWN_SIDE:
        return pixels
    picture = Image.fromarray(pixels)
    picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    return np.array(picture, dtype=np.uint8)
