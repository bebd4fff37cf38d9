"""Heads that grow: from features (n, d) to one score for each class seen so far.

The weights of each phase's classes are a parameter of their own. Freezing the old classes is then freezing parameters.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Outputs(NamedTuple):
    """What a network says of n images.

    Attributes:
        features: (n, d).
        scores: (n, classes); cosines in -1..1 for a cosine head, else the same as the logits.
        logits: (n, classes), as they enter the softmax.
    """

    features: Tensor
    scores: Tensor
    logits: Tensor


class Head(nn.Module):
    """Common to all heads: the weights (classes, d), by groups of classes that came together."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.width = features
        self.weights = nn.ParameterList()

    @property
    def classes(self) -> int:
        """Classes so far."""
        return sum(len(weight) for weight in self.weights)

    def grow(self, count: int) -> None:
        """Add ``count`` classes with weights drawn from the uniform distribution on +-1/sqrt(d)."""
        bound = 1 / math.sqrt(self.width)
        weight = torch.empty(count, self.width, device=self._device()).uniform_(-bound, bound)
        self.weights.append(nn.Parameter(weight))

    def learn_old(self, flag: bool) -> None:
        """Whether the weights of all but the newest classes learn."""
        for group in list(self.weights)[:-1]:
            group.requires_grad_(flag)

    @torch.no_grad()
    def imprint(self, directions: Tensor) -> None:
        """Set the newest classes' weights to ``directions`` (count, d), at the mean length of the old ones.

        Qi, Brown and Lowe, CVPR 2018; the length as in LUCIR's code. Does nothing in the first phase.
        """
        *old, new = self.weights
        if old:
            length = torch.cat([group.norm(dim=1) for group in old]).mean()
            new.copy_(F.normalize(directions) * length)

    def _device(self) -> torch.device | None:
        return self.weights[0].device if len(self.weights) else None

    def _weight(self) -> Tensor:
        return torch.cat(list(self.weights))


class CosineHead(Head):
    """Logits are a learned scale times the cosine of feature and class weight (LUCIR, section 3.2, equation 4)."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, features: Tensor) -> Outputs:
        """Features (n, d) to outputs."""
        cosines = F.linear(F.normalize(features), F.normalize(self._weight()))
        return Outputs(features, cosines, self.scale * cosines)


class LinearHead(Head):
    """The ordinary fully connected layer."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.biases = nn.ParameterList()

    def grow(self, count: int) -> None:
        """Add ``count`` classes; biases are drawn as the weights are."""
        bound = 1 / math.sqrt(self.width)
        self.biases.append(nn.Parameter(torch.empty(count, device=self._device()).uniform_(-bound, bound)))
        super().grow(count)

    def learn_old(self, flag: bool) -> None:
        """Whether the weights and biases of all but the newest classes learn."""
        super().learn_old(flag)
        for group in list(self.biases)[:-1]:
            group.requires_grad_(flag)

    def forward(self, features: Tensor) -> Outputs:
        """Features (n, d) to outputs."""
        logits = F.linear(features, self._weight(), torch.cat(list(self.biases)))
        return Outputs(features, logits, logits)


class BiasCorrectedHead(LinearHead):
    """A linear head whose logits of phase k's classes become ``gains[k] * logit + offsets[k]``.

    BiC (Wu et al., CVPR 2019), equation 4. They start at 1 and 0, and are no parameters: a stage fits them.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.gains: Tensor
        self.offsets: Tensor
        self.register_buffer("gains", torch.ones(0))
        self.register_buffer("offsets", torch.zeros(0))

    def grow(self, count: int) -> None:
        """Add ``count`` classes, uncorrected."""
        super().grow(count)
        self.gains = torch.cat([self.gains, self.gains.new_ones(1)])
        self.offsets = torch.cat([self.offsets, self.offsets.new_zeros(1)])

    def forward(self, features: Tensor) -> Outputs:
        """Features (n, d) to outputs; both scores and logits are corrected."""
        logits = self.correct(self.uncorrected(features), self.gains, self.offsets)
        return Outputs(features, logits, logits)

    def uncorrected(self, features: Tensor) -> Tensor:
        """Features (n, d) to logits (n, classes) before the correction."""
        return super().forward(features).logits

    def correct(self, raw: Tensor, gains: Tensor, offsets: Tensor) -> Tensor:
        """Uncorrected logits (n, classes) to corrected ones, by gains and offsets of every phase (phases,)."""
        groups = raw.split([len(weight) for weight in self.weights], dim=1)
        return torch.cat([g * z + b for g, z, b in zip(gains, groups, offsets, strict=True)], dim=1)
