"""Residual networks (He et al., CVPR 2016) in the form that class-incremental learning uses: no ReLU at the end.

LUCIR (Hou et al., CVPR 2019) leaves out the last block's ReLU, so that features can point in any direction; a cosine
head needs that. The other baselines here use the same backbone, so that differences come from the methods.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected by a 1x1 convolution where the shape changes."""

    def __init__(self, width_in: int, width: int, stride: int, last_relu: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.last_relu = last_relu

    def forward(self, maps: Tensor) -> Tensor:
        """(n, width_in, h, w) to (n, width, h / stride, w / stride)."""
        # In place: on a CPU the time goes into fresh memory more than into the sums.
        inner = torch.relu_(self.bn1(self.conv1(maps)))
        result = self.bn2(self.conv2(inner)).add_(self.shortcut(maps))
        return torch.relu_(result) if self.last_relu else result


class ResNet(nn.Module):
    """A stem, stages of basic blocks, and the mean over positions: (n, channels, h, w) to (n, features).

    Args:
        stem: what comes before the first block; its output has ``widths[0]`` channels.
        widths: channels of each stage; every stage after the first halves height and width.
        blocks: blocks in each stage.
    """

    def __init__(self, stem: nn.Module, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        self.stem = stem
        layers: list[nn.Module] = []
        width_in = widths[0]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                last = stage == len(widths) - 1 and block == count - 1
                layers.append(BasicBlock(width_in, width, stride, last_relu=not last))
                width_in = width
        self.blocks = nn.Sequential(*layers)
        self.features = widths[-1]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, maps: Tensor) -> Tensor:
        """Images (n, channels, h, w), already normalised, to features (n, features)."""
        features: Tensor = self.blocks(self.stem(maps)).mean((2, 3))
        return features


def _stem_3x3(channels: int, width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    )


def resnet32(channels: int) -> ResNet:
    """ResNet-32 for 32x32 images, exactly LUCIR's: 472,657 parameters with a cosine head of 100 classes."""
    return ResNet(_stem_3x3(channels, 16), (16, 32, 64), (5, 5, 5))


def resnet20(channels: int) -> ResNet:
    """ResNet-20 for 32x32 images."""
    return ResNet(_stem_3x3(channels, 16), (16, 32, 64), (3, 3, 3))


def resnet8(channels: int) -> ResNet:
    """A small residual network for 32x32 images on a CPU: 109,709 parameters with a cosine head of 10 classes."""
    return ResNet(_stem_3x3(channels, 12), (12, 24, 48, 64), (0, 1, 1, 1))


def resnet18(channels: int) -> ResNet:
    """ResNet-18 for 224x224 images."""
    stem = nn.Sequential(
        nn.Conv2d(channels, 64, 7, 2, padding=3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, padding=1),
    )
    return ResNet(stem, (64, 128, 256, 512), (2, 2, 2, 2))
