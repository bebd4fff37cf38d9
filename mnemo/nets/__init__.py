"""Networks: backbones, heads that grow, and the two together."""

import copy
import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .conv4 import Conv4, conv4, conv4_32
from .heads import BiasCorrectedHead, CosineHead, Head, LinearHead, Outputs
from .resnet import ResNet, resnet8, resnet18, resnet20, resnet32
from .resnet12 import ResNet12, resnet12, resnet12_narrow, resnet12_wide
from .resnet25 import ResNet25, resnet25
from .simplex import SimplexHead
from .small import SmallNet

BACKBONES: dict[str, Callable[[int], ResNet | SmallNet]] = {
    "resnet32": resnet32,
    "resnet20": resnet20,
    "resnet8": resnet8,
    "resnet18": resnet18,
    "small": SmallNet,
}
FEW_SHOT_BACKBONES: dict[str, Callable[[int, int], Conv4 | ResNet12 | ResNet25]] = {
    "conv4": conv4,
    "conv4-32": conv4_32,
    "resnet12": resnet12,
    "resnet12-wide": resnet12_wide,
    "resnet12-narrow": resnet12_narrow,
    "resnet25": resnet25,
}
"""From channels and side (height and width in pixels) of the images to a backbone, (n, channels, side, side) to (n, d).

It has the attributes ``features``, d, and ``blocks``, whose last element is its last block, and a method ``maps`` that
gives the (n, c, h, w) from which the features are made.
"""
HEADS: dict[str, type[Head]] = {
    "linear": LinearHead,
    "cosine": CosineHead,
    "bias_corrected": BiasCorrectedHead,
}
WHOLE_STREAM_HEADS: dict[str, Callable[[int, int | None], Head]] = {"simplex": SimplexHead}
"""From the number of features and of the classes that will ever come to a head that has room for no more."""

__all__ = [
    "BACKBONES",
    "FEW_SHOT_BACKBONES",
    "HEADS",
    "WHOLE_STREAM_HEADS",
    "Head",
    "IncrementalNet",
    "Outputs",
    "SimplexHead",
    "build",
    "folded",
    "normalised",
]


class IncrementalNet(nn.Module):
    """Normalisation, a backbone and a head that grows; it takes pixels as they are stored.

    Args:
        backbone: (n, channels, h, w) to features (n, d); has an attribute ``features``, d.
        head: features to :class:`Outputs`.
        mean, std: per channel, in grey levels 0..255.
        input_size: larger images are cropped to the middle ``input_size`` x ``input_size`` pixels; None leaves them.

    Attributes:
        companion: what a strategy learns beside the network, such as how new classes are learned; None: nothing.
    """

    companion: nn.Module | None

    def __init__(
        self,
        backbone: nn.Module,
        head: Head,
        mean: Sequence[float],
        std: Sequence[float],
        input_size: int | None = None,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.backbone = backbone
        self.head = head
        self.register_module("companion", None)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.get_default_dtype()).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.get_default_dtype()).view(1, -1, 1, 1))

    def features(self, pixels: Tensor) -> Tensor:
        """Pixels (n, c, h, w), uint8 or floating, in grey levels 0..255, to features (n, d)."""
        if self.input_size is not None:
            pixels = _centre(pixels, self.input_size)
        features: Tensor = self.backbone(normalised(pixels, self.mean, self.std))
        return features.to(self.mean.dtype)  # under autocast too: in bf16 two cosines would rarely differ

    def forward(self, pixels: Tensor) -> Outputs:
        """Pixels (n, c, h, w), uint8 or floating, in grey levels 0..255, to outputs."""
        features = self.features(pixels)
        with torch.autocast(features.device.type, enabled=False):
            outputs: Outputs = self.head(features)
        return outputs


def normalised(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Pixels (n, c, h, w), uint8 or floating, less ``mean``, divided by ``std``, both (1, c, 1, 1); channels-last."""
    # By whole rows of pixels: along three channels alone no processor can use its vector units.
    n, channels, height, width = pixels.shape
    mean, std = (values.flatten().repeat(width) for values in (mean, std))
    rows = torch.sub(pixels.permute(0, 2, 3, 1).reshape(n * height, width * channels), mean).div_(std)
    return rows.view(n, height, width, channels).permute(0, 3, 1, 2)


def _centre(pixels: Tensor, size: int) -> Tensor:
    top, left = (max(0, (side - size) // 2) for side in pixels.shape[2:])
    return pixels[:, :, top : top + size, left : left + size]


def build(
    backbone: str,
    head: str,
    channels: int,
    mean: Sequence[float],
    std: Sequence[float],
    input_size: int | None = None,
    classes: int | None = None,
) -> IncrementalNet:
    """A new network without classes. Weights come from torch's global generator: fork and seed it around the call.

    Args:
        backbone: a name in :data:`BACKBONES`.
        head: a name in :data:`HEADS` or :data:`WHOLE_STREAM_HEADS`.
        channels: of the images.
        mean, std: per channel, in grey levels 0..255.
        input_size: see :class:`IncrementalNet`.
        classes: that will ever come, for a head of :data:`WHOLE_STREAM_HEADS`.
    """
    body = BACKBONES[backbone](channels)
    whole = WHOLE_STREAM_HEADS.get(head)
    made = HEADS[head](body.features) if whole is None else whole(body.features, classes)
    net = IncrementalNet(body, made, mean, std, input_size)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub leaves it out
    return net


def folded(net: IncrementalNet) -> IncrementalNet:
    """A frozen copy for evaluation, whose batch normalisation is part of the convolutions; equal but for rounding.

    For the backbones of :data:`BACKBONES` and :data:`FEW_SHOT_BACKBONES`: wherever one of their modules has a batch
    normalisation right after a convolution, it is applied to the convolution's result. A parametrised kernel becomes a
    plain one. Another backbone is copied as it is: the order in which it has its modules need not be that in which it
    uses them.
    """
    net = copy.deepcopy(net).eval().requires_grad_(False)
    if not isinstance(net.backbone, ResNet | SmallNet | Conv4 | ResNet12 | ResNet25):
        return net
    for module in [*net.backbone.modules()]:
        for (name, first), (after, second) in itertools.pairwise([*module.named_children()]):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(_plain(first), second))
                setattr(module, after, nn.Identity())
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub leaves it out
    return net


def _plain(convolution: nn.Conv2d) -> nn.Conv2d:
    """The same convolution with the kernel that it uses, not as torch's remove_parametrizations makes it.

    That takes the kernel's parametrisation out of a class that deep copies share, and the original would lose its own.
    """
    if not parametrize.is_parametrized(convolution):
        return convolution
    plain = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        convolution.kernel_size,  # type: ignore[arg-type]
        convolution.stride,  # type: ignore[arg-type]
        convolution.padding,  # type: ignore[arg-type]
        convolution.dilation,  # type: ignore[arg-type]
        convolution.groups,
        padding_mode=convolution.padding_mode,
        device="meta",  # no weights are drawn
    ).eval()
    plain.weight, bias = nn.Parameter(convolution.weight.detach(), requires_grad=False), convolution.bias
    plain.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
    return plain
