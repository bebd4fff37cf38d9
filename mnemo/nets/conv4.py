"""Conv-4: four convolutions, the small backbone of the few-shot literature (Vinyals et al., NeurIPS 2016)."""

import torch
from torch import Tensor, nn

from ..disk.files import InputError


class ConvBlock(nn.Module):
    """A 3x3 convolution, batch normalisation, ReLU, and 2x2 max-pooling."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(2)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, width_in, h, w) to (n, width, h / 2, w / 2), rounded down."""
        pooled: Tensor = self.pool(torch.relu_(self.bn(self.conv(maps))))
        return pooled


class Conv4(nn.Module):
    """Four blocks, flattened: (n, channels, side, side) to (n, features).

    There is no mean over positions, so the number of features depends on the size of the images: width x 5 x 5 for 84
    pixels, width x 2 x 2 for 32, and width for 28 or 16.

    Args:
        channels: of the images.
        side: their height and width in pixels; 16 or more, else InputError is raised.
        width: channels of every convolution.
    """

    def __init__(self, channels: int, side: int, width: int) -> None:
        super().__init__()
        refuse_tiny(side)
        self.blocks = nn.Sequential(ConvBlock(channels, width), *(ConvBlock(width, width) for _ in range(3)))
        self.features = width * (side // 16) ** 2
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def maps(self, images: Tensor) -> Tensor:
        """Images (n, channels, side, side), already normalised, to maps (n, width, side / 16, side / 16)."""
        maps: Tensor = self.blocks(images)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, channels, side, side), already normalised, to features (n, features)."""
        return self.maps(images).flatten(1)


def refuse_tiny(side: int) -> None:
    """Raises InputError for images of so few pixels a side that nothing is left after four poolings."""
    if side < 16:
        raise InputError(f"images of {side} x {side} pixels are too small for a network that halves them four times")


def conv4(channels: int, side: int) -> Conv4:
    """Conv-4 with 64 channels, as in Matching Networks: 112,832 parameters for colour images."""
    return Conv4(channels, side, 64)


def conv4_32(channels: int, side: int) -> Conv4:
    """Conv-4 with 32 channels, as MAML has it for mini-ImageNet: 28,768 parameters for colour images."""
    return Conv4(channels, side, 32)
