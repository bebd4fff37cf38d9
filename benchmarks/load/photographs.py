"""JPEG files that cost a decoder what photographs do: spectra fall with frequency, and channels are alike."""

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TEXTURES, SIDE = 8, 512
DECAY = 1.1
"""Amplitude falls with frequency to this power; in natural images it is about 1 (Field, 1987)."""
QUALITY = 92


class Photographs(NamedTuple):
    """Where generated files are, and how large.

    Attributes:
        folder: an image folder, ``train/CLASS/*`` and ``test/CLASS/*``.
        count: files, to train on and to test on together.
        mean_bytes: of a file.
    """

    folder: Path
    count: int
    mean_bytes: float


def generate(
    folder: Path, train: int, test: int, *, size: tuple[int, int] = (400, 350), classes: int = 100, seed: int = 1993
) -> Photographs:
    """Write ``train`` and ``test`` files of each class, ``size`` = (width, height); classes that are there are kept."""
    jobs = [
        (folder / split / f"class{label:03d}", count, size, (seed, label, part))
        for part, (split, count) in enumerate((("train", train), ("test", test)))
        for label in range(classes)
    ]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        total = sum(pool.map(_write_class, *zip(*jobs, strict=True)))
    count = classes * (train + test)
    return Photographs(folder, count, total / count)


def _write_class(folder: Path, count: int, size: tuple[int, int], seed: tuple[int, ...]) -> int:
    """Bytes of the files of a class: blends of parts of textures that its pictures share."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:05d}.jpg" for index in range(count)]
    if all(path.exists() for path in paths):
        return sum(path.stat().st_size for path in paths)
    textures = [_texture(rng) for _ in range(TEXTURES if count > TEXTURES else 2)]
    for path in paths:
        Image.fromarray(_blend(textures, size, rng)).save(path, quality=QUALITY)
    return sum(path.stat().st_size for path in paths)


def _texture(rng: np.random.Generator) -> NDArray[np.float32]:
    """Noise (side, side, 3), mean 0 and deviation 1, whose amplitude falls with frequency; channels are alike."""
    down, across = np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None]
    amplitude = np.maximum(np.hypot(down, across), 1 / SIDE) ** -DECAY
    light, *colours = (
        np.fft.irfft2(amplitude * np.exp(2j * np.pi * rng.random(amplitude.shape)), (SIDE, SIDE)) for _ in range(4)
    )
    layers = np.stack([light + 0.25 * colour for colour in colours], axis=2)
    return ((layers - layers.mean()) / layers.std()).astype(np.float32)


def _blend(textures: list[NDArray[np.float32]], size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    width, height = size
    total = np.zeros((height, width, 3), np.float32)
    for which in rng.choice(len(textures), 2, replace=False):
        top, left = rng.integers(SIDE - height + 1), rng.integers(SIDE - width + 1)
        total += textures[which][top : top + height, left : left + width]
    total *= np.float32(rng.uniform(25, 45))
    total += np.float32(rng.uniform(90, 160))
    return total.clip(0, 255).astype(np.uint8)
