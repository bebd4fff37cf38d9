"""ResNet-25, as the public PyTorch code of Meta-Transfer Learning calls it (Sun et al., CVPR 2019)."""

from torch import Tensor, nn

from .resnet import BasicBlock

_STEM = 80
_WIDTHS = (160, 320, 640)
_BLOCKS = 4  # in each stage


class ResNet25(nn.Module):
    """A stem, three stages of four basic blocks, and the mean over positions: (n, channels, h, w) to (n, 640).

    Every stage, the first too, halves height and width. The released stem has a bias, which batch normalisation
    cancels; here there is none.

    Args:
        channels: of the images.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, _STEM, 3, padding=1, bias=False), nn.BatchNorm2d(_STEM), nn.ReLU(inplace=True)
        )
        layers: list[nn.Module] = []
        for before, width in zip((_STEM, *_WIDTHS), _WIDTHS, strict=False):
            layers.append(BasicBlock(before, width, 2, last_relu=True))
            layers += (BasicBlock(width, width, 1, last_relu=True) for _ in range(_BLOCKS - 1))
        self.blocks = nn.Sequential(*layers)
        self.features = _WIDTHS[-1]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def maps(self, images: Tensor) -> Tensor:
        """Images (n, channels, h, w), already normalised, to maps (n, 640, h / 8, w / 8), rounded up."""
        maps: Tensor = self.blocks(self.stem(images))
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, channels, h, w), already normalised, to features (n, 640)."""
        return self.maps(images).mean((2, 3))


def resnet25(channels: int, side: int) -> ResNet25:
    """ResNet-25 with 160 to 640 channels, of Meta-Transfer Learning's PyTorch code: 36.6 million parameters."""
    return ResNet25(channels)
