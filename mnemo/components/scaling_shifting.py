"""Weight transfer: kernels that stay as they are, with scales and shifts that learn in their place.

Sun, Liu, Chua and Schiele, "Meta-Transfer Learning for Few-Shot Learning", CVPR 2019: the operation SS, scaling and
shifting, (W * S1) X + (b + S2). Liu, Su, Liu, Schiele and Sun, CVPR 2020, supplement, section B, takes it for
Mnemonics, whose public code has no shift.

Batch normalisation right after a convolution, by the batch's own statistics, cancels S2, and cancels S1 where an output
channel has one scale: both move all of a channel. It does not cancel a scale for each kernel, which weighs input
channels against one another. So S1 is (out, in, 1, 1), in the paper's code too. By running statistics, in evaluation
mode, none of them is cancelled.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..nets import IncrementalNet

FROZEN = "parametrizations.weight.original"
"""How the name of a kernel ends that has been frozen so."""

Granularity = Literal["kernel", "channel", "none"]


class Scaling(nn.Module):
    """A kernel (out, in, k, k) times a scale that learns and is 1 at first.

    Args:
        kernel: gives the scale its shape, type and device.
        granularity: a scale for each ``kernel``, (out, in, 1, 1), or for each output ``channel``, (out, 1, 1, 1).
    """

    def __init__(self, kernel: Tensor, granularity: Literal["kernel", "channel"] = "kernel") -> None:
        super().__init__()
        inputs = kernel.shape[1] if granularity == "kernel" else 1
        self.scale = nn.Parameter(torch.ones_like(kernel[:, :inputs, :1, :1]))

    def forward(self, kernel: Tensor) -> Tensor:
        """The kernel that the convolution uses, in the shape of ``kernel``."""
        return kernel * self.scale


class Shifting(nn.Module):
    """A bias (out,) plus a shift that learns and is 0 at first.

    Args:
        bias: gives the shift its shape, type and device.
    """

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros_like(bias))

    def forward(self, bias: Tensor) -> Tensor:
        """The bias that the convolution uses, (out,)."""
        return bias + self.shift


def scale(
    net: nn.Module, granularity: Granularity = "kernel", shift: bool = False, part: nn.Module | None = None
) -> None:
    """Freeze the kernel of every convolution of the backbone, and give it a :class:`Scaling`; changes ``net``.

    What the network computes stays the same. Scales, batch normalisation and head learn from then on. A convolution
    that has its scale already keeps it, so that kernels stay what they were at the first call, and scales are carried
    on and never merged. That is the public code's reading; the paper starts each phase from merged kernels.

    Weight decay acts on scales as on all that learns, here as in the public code. It pulls them to 0, not to 1.

    Args:
        net: an :class:`mnemo.nets.IncrementalNet`, or a backbone.
        granularity: see :class:`Scaling`; with ``none`` kernels are frozen and nothing takes their place.
        shift: freeze biases and give them a :class:`Shifting`; a convolution without a bias gets one, of 0. Otherwise
            biases are left as they are.
        part: a module of the backbone, such as its last block: the only one where this happens. All parameters of the
            rest of the backbone are frozen; running statistics follow from each module's mode, as ever.
    """
    backbone = net.backbone if isinstance(net, IncrementalNet) else net
    if part is not None:
        _freeze_all_but(backbone, part)
    for module in [*(backbone if part is None else part).modules()]:
        if isinstance(module, nn.Conv2d):
            _scale(module, granularity)
            if shift:
                _shift(module)


def _scale(convolution: nn.Conv2d, granularity: Granularity) -> None:
    if parametrize.is_parametrized(convolution, "weight"):
        return
    convolution.weight.requires_grad_(False)
    if granularity != "none":
        parametrize.register_parametrization(convolution, "weight", Scaling(convolution.weight, granularity))


def _shift(convolution: nn.Conv2d) -> None:
    if parametrize.is_parametrized(convolution, "bias"):
        return
    if convolution.bias is None:
        convolution.bias = nn.Parameter(convolution.weight.new_zeros(convolution.out_channels))
    convolution.bias.requires_grad_(False)
    parametrize.register_parametrization(convolution, "bias", Shifting(convolution.bias))


def _freeze_all_but(backbone: nn.Module, part: nn.Module) -> None:
    kept = {*part.parameters()}
    for parameter in backbone.parameters():
        if parameter not in kept:
            parameter.requires_grad_(False)
