"""Avalanche's data sets and raw pixels: images taken without their transforms, and given back to the same ones."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.benchmarks.utils.classification_dataset import (
    ClassificationDataset,
    TaskAwareSupervisedClassificationDataset,
)
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.benchmarks.utils.flat_data import FlatData
from avalanche.benchmarks.utils.transform_groups import EmptyTransformGroups
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..disk.files import InputError

TOLERANCE = 1e-3
"""Of the range of a transform's values: how far from affine it may be. Rounding takes a thousandth of that."""


@dataclass(frozen=True)
class Source:
    """What images were before they became pixels.

    Attributes:
        kind: what a transform is given: ``pil`` images, ``array`` (h, w, c) or ``tensor`` (c, h, w), all uint8.
        flat: grey images have no axis for channels.
        transforms: Avalanche's transform groups, in the order in which they are applied.
        group: the one of them that is in use.
        task_aware: items have a task label.
    """

    kind: Literal["pil", "array", "tensor"]
    flat: bool
    transforms: tuple[Any, ...]
    group: str
    task_aware: bool

    def give_back(self, pixels: Tensor) -> Any:
        """An image uint8 (c, h, w) as it was."""
        if self.kind == "tensor":
            return pixels[0] if self.flat else pixels
        array = pixels.permute(1, 2, 0).contiguous().numpy()
        array = array[:, :, 0] if self.flat else array
        return Image.fromarray(array) if self.kind == "pil" else array


@dataclass(frozen=True)
class Raw:
    """A data set without its transforms.

    Attributes:
        pixels: uint8 (n, c, h, w).
        labels: Avalanche's, n of them.
        tasks: task labels, n of them; 0 where there are none.
        inner_labels: labels as the innermost data set has them: transforms make ``labels`` of them.
        source: what they were.
    """

    pixels: Tensor
    labels: list[int]
    tasks: list[int]
    inner_labels: list[Any]
    source: Source


def take(dataset: AvalancheDataset) -> Raw:
    """A data set's images without transforms, whatever these are.

    Raises:
        InputError: its images are not uint8, or differ in size, kind or transforms; or it is empty.
    """
    if not len(dataset):
        raise InputError("an experience without images")
    found = [_inner(dataset, index) for index in range(len(dataset))]
    items, transforms = zip(*found, strict=True)
    if any(some != transforms[0] for some in transforms):
        raise InputError("images of one experience have different transforms: give each experience its own")
    kinds = {_kind(item[0]) for item in items}
    pixels = [_pixels(item[0]) for item in items]
    if len(kinds) > 1 or len({one.shape for one in pixels}) > 1:
        raise InputError("images of one experience differ in size, channels or kind: make them alike beforehand")
    (kind, flat), task_aware = kinds.pop(), hasattr(dataset, "targets_task_labels")
    source = Source(kind, flat, transforms[0], dataset._flat_data._transform_groups.current_group, task_aware)
    tasks = [int(task) for task in dataset.targets_task_labels] if task_aware else [0] * len(dataset)
    stacked = torch.stack(pixels).contiguous(memory_format=torch.channels_last)
    return Raw(stacked, [int(label) for label in dataset.targets], tasks, [item[1] for item in items], source)


def _inner(dataset: AvalancheDataset, index: int) -> tuple[Any, tuple[Any, ...]]:
    """The item at ``index`` as the innermost data set has it, and the transforms on the way out.

    Avalanche can remove the group in use, but neither frozen transforms nor a group that two data sets share.
    """
    data, transforms = dataset._flat_data, []
    while isinstance(data, FlatData):
        groups = [getattr(data, name, None) for name in ("_transform_groups", "_frozen_transform_groups")]
        transforms += [group for group in groups if not isinstance(group, EmptyTransformGroups | None)]
        which, index = data._get_idx(index)
        data = data._datasets[which]
    return data[index], tuple(transforms[::-1])


def _kind(image: Any) -> tuple[Literal["pil", "array", "tensor"], bool]:
    if isinstance(image, Image.Image) and image.mode in ("L", "RGB"):
        return "pil", image.mode == "L"
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3):
        return "array", image.ndim == 2
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim in (2, 3):
        return "tensor", image.ndim == 2
    what = getattr(image, "dtype", getattr(image, "mode", ""))
    raise InputError(
        f"raw images must be PIL (L or RGB) or uint8, not {type(image).__name__} {what}: leave transforms to the "
        "benchmark (train_transform, eval_transform), so that exemplars can be kept as pixels"
    )


def _pixels(image: Any) -> Tensor:
    """uint8 (c, h, w)."""
    if isinstance(image, Tensor):
        return image.cpu() if image.ndim == 3 else image.cpu().unsqueeze(0)
    pixels = torch.from_numpy(np.array(image))
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def normalisation(dataset: AvalancheDataset, pixels: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, in grey levels, by which the eval transform normalises.

    They are fitted to some images and tried on others: transforms are code, which cannot be read. Both may be of any
    size and sign.

    Args:
        dataset: that has the transform.
        pixels: its raw images, uint8 (n, c, h, w).

    Raises:
        InputError: the transform is more than a scale and an offset for each channel.
    """
    where = torch.linspace(0, len(pixels) - 1, min(16, len(pixels))).long().unique()
    evaluated = dataset.eval()
    seen = [evaluated[index][0] for index in where.tolist()]
    if any(not isinstance(image, Tensor) or image.shape != pixels.shape[1:] for image in seen):
        raise InputError(f"the eval transform must keep the shape {tuple(pixels.shape[1:])} of raw images: {_HELP}")
    x, y = (images.double().transpose(0, 1).flatten(2) for images in (pixels[where], torch.stack(seen).cpu()))
    scale, offset = _line(x[:, ::2].flatten(1), y[:, ::2].flatten(1))
    error = (y.flatten(1) - scale * x.flatten(1) - offset).abs().amax()
    if not scale.isfinite().all() or not scale.all() or not error <= TOLERANCE * (y.max() - y.min()):
        raise InputError(f"the eval transform is more than a scale and an offset for each channel: {_HELP}")
    return (-offset / scale).flatten().tolist(), (1 / scale).flatten().tolist()


_HELP = "resize, crop and pad images before they enter the benchmark, then ToTensor and Normalize will do"


def _line(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and intercept (c, 1) of the least squares lines through x and y (c, n)."""
    centred = x - x.mean(1, keepdim=True)
    slope = (centred * y).sum(1, keepdim=True) / centred.square().sum(1, keepdim=True)
    return slope, y.mean(1, keepdim=True) - slope * x.mean(1, keepdim=True)


class Pictures(Dataset[tuple[Any, Any]]):
    """Pixels as the images that they were.

    Args:
        pixels: uint8 (n, c, h, w).
        targets: labels of the innermost data set.
        source: what images were.
    """

    def __init__(self, pixels: Tensor, targets: Sequence[Any], source: Source) -> None:
        self.pixels, self.targets, self._source = pixels.cpu(), targets, source

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self._source.give_back(self.pixels[index]), self.targets[index]


def give_back(raw: Raw) -> AvalancheDataset:
    """An Avalanche data set of images, with all transform groups of the one that they were taken from."""
    data: AvalancheDataset = AvalancheDataset([Pictures(raw.pixels, raw.inner_labels, raw.source)])
    for groups in raw.source.transforms:
        data = AvalancheDataset([data], transform_groups=copy.copy(groups))  # Avalanche writes to what it is given
    attributes = [DataAttribute(raw.labels, "targets")]
    kind = ClassificationDataset
    if raw.source.task_aware:
        kind = TaskAwareSupervisedClassificationDataset
        attributes.append(DataAttribute(raw.tasks, "targets_task_labels", use_in_getitem=True))
    return kind([data], data_attributes=attributes).with_transforms(raw.source.group)
