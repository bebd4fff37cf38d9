"""ResNet-12: the usual backbone of the few-shot literature (Oreshkin et al., NeurIPS 2018; Lee et al., CVPR 2019).

In the form of MetaOptNet and E3BM, without DropBlock: shortcuts are normalised, and the activation comes after the sum.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .conv4 import refuse_tiny

_SLOPE = 0.1  # of the leaky ReLU below 0


class PooledBlock(nn.Module):
    """Three 3x3 convolutions, a shortcut by a 1x1 convolution, and 2x2 max-pooling of their sum."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential(nn.Conv2d(width_in, width, 1, bias=False), nn.BatchNorm2d(width))
        self.pool = nn.MaxPool2d(2)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, width_in, h, w) to (n, width, h / 2, w / 2), rounded down."""
        # In place: on a CPU the time goes into fresh memory more than into the sums.
        inner = F.leaky_relu_(self.bn1(self.conv1(maps)), _SLOPE)
        inner = F.leaky_relu_(self.bn2(self.conv2(inner)), _SLOPE)
        result = self.bn3(self.conv3(inner)).add_(self.shortcut(maps))
        pooled: Tensor = self.pool(F.leaky_relu_(result, _SLOPE))
        return pooled


class ResNet12(nn.Module):
    """Four blocks, and the mean over positions: (n, channels, side, side) to (n, features).

    Args:
        channels: of the images.
        side: their height and width in pixels; 16 or more, else InputError is raised.
        widths: channels of each block.
    """

    def __init__(self, channels: int, side: int, widths: Sequence[int]) -> None:
        super().__init__()
        refuse_tiny(side)
        before = (channels, *widths)
        self.blocks = nn.Sequential(*(PooledBlock(*pair) for pair in zip(before, widths, strict=False)))
        self.features = widths[-1]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, _SLOPE, mode="fan_out", nonlinearity="leaky_relu")

    def maps(self, images: Tensor) -> Tensor:
        """Images (n, channels, side, side), already normalised, to maps (n, features, side / 16, side / 16)."""
        maps: Tensor = self.blocks(images)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, channels, side, side), already normalised, to features (n, features)."""
        return self.maps(images).mean((2, 3))


def resnet12(channels: int, side: int) -> ResNet12:
    """ResNet-12 with 64 to 512 channels, as in TADAM: 8.0 million parameters."""
    return ResNet12(channels, side, (64, 128, 256, 512))


def resnet12_wide(channels: int, side: int) -> ResNet12:
    """ResNet-12 with 64 to 640 channels, as in MetaOptNet and E3BM: 12.4 million parameters."""
    return ResNet12(channels, side, (64, 160, 320, 640))


def resnet12_narrow(channels: int, side: int) -> ResNet12:
    """ResNet-12 with 16 to 128 channels, a sixteenth of the work, for a CPU: 0.5 million parameters."""
    return ResNet12(channels, side, (16, 32, 64, 128))
