"""A small network for small grey images."""

from collections.abc import Callable

from torch import Tensor, nn


class SmallNet(nn.Module):
    """Three 3x3 convolutions, the last two with stride 2: for 8x8 to 28x28 images, at home on a CPU.

    Args:
        channels: of the images.
        width: channels of the first convolution; features are twice as many.
        activation: between the convolutions; a smooth one makes gradients comparable with finite differences.
    """

    def __init__(self, channels: int, width: int = 32, activation: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.features = 2 * width
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            activation(),
            nn.Conv2d(width, 2 * width, 3, 2, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            activation(),
            nn.Conv2d(2 * width, 2 * width, 3, 2, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Images (n, channels, h, w), already normalised, to features (n, 2 * width)."""
        features: Tensor = self.layers(maps).mean((2, 3))
        return features
