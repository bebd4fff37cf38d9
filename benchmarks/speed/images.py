"""The images that everything is measured on: CIFAR-100, or noise of the same shape where it is missing."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mnemo import datasets
from mnemo.disk.files import InputError
from mnemo.images import Images

from .options import Options

MEAN = (129.3, 124.1, 112.4)  # of CIFAR-100, in grey levels
STD = (68.2, 65.4, 70.4)
CLASSES = 100


class Source(NamedTuple):
    """Images, and what a record says of them."""

    train: Images
    test: Images
    about: str


@functools.cache
def load(options: Options) -> Source:
    """CIFAR-100, in the order that its files have."""
    try:
        data = datasets.load("cifar100", options.data_dir)
    except InputError:
        each = options.pick(500, 20)
        about = "CIFAR-100 is missing: random images of the same shape"
        return Source(_noise(each, 1), _noise(each // 5, 2), about)
    return Source(data.train, data.test, "CIFAR-100")


def _noise(each: int, seed: int) -> Images:
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (CLASSES * each, 32, 32, 3), dtype=torch.uint8, generator=draw)
    return Images(pixels.permute(0, 3, 1, 2), torch.arange(CLASSES).repeat(each))


def of_classes(images: Images, classes: Sequence[int], count: int) -> Images:
    """About ``count`` images, as many of each class as can be, sorted by class; to the last image exact."""
    each = -(-count // len(classes))
    rows = [(images.labels == label).nonzero().squeeze(1)[:each] for label in classes]
    chosen = torch.cat(rows)
    chosen = chosen[_rank_order(rows)[:count].sort().values]
    return Images(_channels_last(images.pixels[chosen]), images.labels[chosen])


def _rank_order(rows: Sequence[Tensor]) -> Tensor:
    """Positions in the concatenation of rows: the first of each class, then the second of each, ..."""
    return torch.cat([torch.arange(len(row)) for row in rows]).argsort(stable=True)


def _channels_last(pixels: Tensor) -> Tensor:
    return pixels.contiguous(memory_format=torch.channels_last)
