"""Weight transfer: kernels that stay as they are, with scales that learn in their place.

Sun, Liu, Chua and Schiele, "Meta-Transfer Learning for Few-Shot Learning", CVPR 2019: the operation SS, scaling and
shifting. Liu, Su, Liu, Schiele and Sun, CVPR 2020, supplement, section B, takes it for Mnemonics.

There is no shift here, as there is none in the public code of Mnemonics. The convolutions have no bias, and batch
normalisation, which follows each of them, would cancel a shift.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..nets import IncrementalNet

FROZEN = "parametrizations.weight.original"
"""How the name of a kernel ends that has been frozen so."""


class Scaling(nn.Module):
    """A kernel (out, in, k, k) times a scale (out, in, 1, 1) that learns and is 1 at first.

    Args:
        kernel: gives the scale its shape, type and device.
    """

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones_like(kernel[:, :, :1, :1]))

    def forward(self, kernel: Tensor) -> Tensor:
        """The kernel that the convolution uses, in the shape of ``kernel``."""
        return kernel * self.scale


def scale(net: IncrementalNet) -> None:
    """Freeze the kernel of every convolution of the backbone, and give it a :class:`Scaling`; changes ``net``.

    What the network computes stays the same. Scales, batch normalisation and head learn from then on. A convolution
    that has its scale already keeps it, so that kernels stay what they were at the first call, and scales are carried
    on and never merged. That is the public code's reading; the paper starts each phase from merged kernels.

    Weight decay acts on scales as on all that learns, here as in the public code. It pulls them to 0, not to 1.
    """
    for module in [*net.backbone.modules()]:
        if isinstance(module, nn.Conv2d) and not parametrize.is_parametrized(module, "weight"):
            module.weight.requires_grad_(False)
            parametrize.register_parametrization(module, "weight", Scaling(module.weight))
