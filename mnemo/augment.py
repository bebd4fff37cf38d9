"""Augmentation of whole batches: random crops and flips, alike for uint8 images and for pixels with a gradient."""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Augmentation(Protocol):
    """How training images are varied: what is drawn is a tensor, and what is done with it a pure function.

    Attributes:
        mirrors: whether an image mirrored left to right is as good as the image.
        varies: whether there is anything to draw; otherwise images stay as they are.
    """

    @property
    def mirrors(self) -> bool: ...  # noqa: D102

    @property
    def varies(self) -> bool: ...  # noqa: D102

    def draw(self, count: int, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """Draw for ``count`` images of ``shape`` (c, h, w): a tensor (count, k) on the CPU, a row for each image."""

    def apply(self, pixels: Tensor, draws: Tensor) -> Tensor:
        """Vary pixels (n, c, h, w), uint8 or floating, as draws (n, k) on the same device say.

        Differentiable for floating pixels. Nothing here waits for the device.
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

    @property
    def varies(self) -> bool:
        """See :class:`Augmentation`."""
        return self.padding > 0 or self.mirrors

    def draw(self, count: int, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """The first row and column of each crop, and whether it is mirrored: int64 (count, 3)."""
        shift = 2 * self.padding + 1
        top = torch.randint(shift, (count, 1), generator=generator)
        left = torch.randint(shift, (count, 1), generator=generator)
        mirrored = torch.zeros_like(top)
        if self.mirrors:
            mirrored = (torch.rand(count, 1, generator=generator) < 0.5).long()
        return torch.cat([top, left, mirrored], dim=1)

    def apply(self, pixels: Tensor, draws: Tensor) -> Tensor:
        """See :class:`Augmentation`."""
        if not self.varies:
            return pixels
        _, _, height, width = pixels.shape
        return _take_pixels(pixels, _source_pixels(draws, height, width, self.padding), self.padding)


def _source_pixels(draws: Tensor, height: int, width: int, padding: int) -> Tensor:
    """For each pixel of the result, its index among all pixels of the padded batch: int64 (count * height * width,)."""
    top, left, mirrored = draws.split(1, dim=1)
    padded_height, padded_width = height + 2 * padding, width + 2 * padding
    rows, columns = (torch.arange(side, device=draws.device) for side in (height, width))
    columns = left + torch.where(mirrored.bool(), width - 1 - columns, columns)
    image = torch.arange(len(draws), device=draws.device).unsqueeze(1) * (padded_height * padded_width)
    first = image + (top + rows) * padded_width
    source: Tensor = first.unsqueeze(2) + columns.unsqueeze(1)
    return source.flatten()


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

    @property
    def varies(self) -> bool:
        """See :class:`Augmentation`."""
        return True

    def draw(self, count: int, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """The affine map from the result's coordinates to the image's: float (count, 6)."""
        _, height, width = shape
        boxes = _random_boxes(count, height, width, generator)
        if self.mirrors:
            boxes[torch.rand(count, generator=generator) < 0.5, 0, 0] *= -1
        return boxes.flatten(1)

    def apply(self, pixels: Tensor, draws: Tensor) -> Tensor:
        """See :class:`Augmentation`."""
        shape = [len(pixels), pixels.shape[1], self.size, self.size]
        grid = F.affine_grid(draws.view(-1, 2, 3), shape, align_corners=False)
        floating = pixels if pixels.is_floating_point() else pixels.float()
        return F.grid_sample(floating, grid, padding_mode="reflection", align_corners=False)


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
