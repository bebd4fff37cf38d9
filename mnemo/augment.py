"""Augmentation of whole batches: random crops and flips, alike for uint8 images and for pixels with a gradient."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Transform = Callable[[Tensor], Tensor]


class Augmentation(Protocol):
    """How training images are varied.

    Attributes:
        mirrors: whether an image mirrored left to right is as good as the image.
    """

    @property
    def mirrors(self) -> bool: ...  # noqa: D102

    def draw(self, count: int, shape: tuple[int, int, int], generator: torch.Generator) -> Transform:
        """Draw once for ``count`` images of ``shape`` (c, h, w).

        Returns a function of pixels ``(count, c, h, w)``, uint8 or floating, that does the same whenever it is called
        and is differentiable for floating pixels.
        """


@dataclass(frozen=True)
class CropAndFlip:
    """Pad with black, crop back to the old size at random, mirror half of the images.

    Args:
        padding: pixels on each side; 0 does not crop.
        mirrors: whether images are mirrored left to right; wrong for digits and letters.
    """

    padding: int = 4
    mirrors: bool = True

    def draw(self, count: int, shape: tuple[int, int, int], generator: torch.Generator) -> Transform:
        """See :class:`Augmentation`."""
        _, height, width = shape
        source = _source_pixels(count, height, width, self.padding, self.mirrors, generator)

        def transform(pixels: Tensor) -> Tensor:
            return _take_pixels(pixels, source.to(pixels.device), self.padding)

        return transform


def _source_pixels(
    count: int, height: int, width: int, padding: int, mirrors: bool, generator: torch.Generator
) -> Tensor:
    """For each pixel of the result, its index among all pixels of the padded batch: int64 (count * height * width,)."""
    shift = 2 * padding + 1
    top = torch.randint(shift, (count, 1), generator=generator)
    left = torch.randint(shift, (count, 1), generator=generator)
    rows = top + torch.arange(height)
    columns = torch.arange(width).repeat(count, 1)
    if mirrors:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    columns = left + columns
    padded_height, padded_width = height + 2 * padding, width + 2 * padding
    image = torch.arange(count).view(-1, 1, 1) * (padded_height * padded_width)
    return (image + rows.unsqueeze(2) * padded_width + columns.unsqueeze(1)).flatten()


def _take_pixels(pixels: Tensor, source: Tensor, padding: int) -> Tensor:
    # One index_select over (pixel, channel) rows is twice as fast as advanced indexing, and its backward is exact
    # and deterministic, because a crop takes no pixel twice.
    count, channels, height, width = pixels.shape
    rows = F.pad(pixels.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding)).reshape(-1, channels)
    return rows.index_select(0, source).view(count, height, width, channels).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class ResizedCrop:
    """A random part of each image, resized to a square, mirrored half of the time: the usual ImageNet training crop.

    Szegedy et al., CVPR 2015: area 8 % to 100 %, aspect 3/4 to 4/3. Bilinear without anti-aliasing.

    Args:
        size: height and width of the result in pixels.
        mirrors: whether images are mirrored left to right.
    """

    size: int = 224
    mirrors: bool = True

    def draw(self, count: int, shape: tuple[int, int, int], generator: torch.Generator) -> Transform:
        """See :class:`Augmentation`."""
        _, height, width = shape
        boxes = _random_boxes(count, height, width, generator)
        if self.mirrors:
            boxes[torch.rand(count, generator=generator) < 0.5, 0, 0] *= -1

        def transform(pixels: Tensor) -> Tensor:
            grid = F.affine_grid(
                boxes.to(pixels.device), [count, pixels.shape[1], self.size, self.size], align_corners=False
            )
            floating = pixels if pixels.is_floating_point() else pixels.float()
            return F.grid_sample(floating, grid, padding_mode="reflection", align_corners=False)

        return transform


def _random_boxes(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Affine maps (count, 2, 3) from the result's coordinates in [-1, 1] to those of a random box in the image."""
    area = torch.empty(count).uniform_(0.08, 1, generator=generator) * height * width
    aspect = torch.empty(count).uniform_(-0.2877, 0.2877, generator=generator).exp()  # log(4/3)
    scale_x = ((area * aspect).sqrt() / width).clamp(max=1)
    scale_y = ((area / aspect).sqrt() / height).clamp(max=1)
    boxes = torch.zeros(count, 2, 3)
    boxes[:, 0, 0], boxes[:, 1, 1] = scale_x, scale_y
    boxes[:, 0, 2] = (2 * torch.rand(count, generator=generator) - 1) * (1 - scale_x)
    boxes[:, 1, 2] = (2 * torch.rand(count, generator=generator) - 1) * (1 - scale_y)
    return boxes
