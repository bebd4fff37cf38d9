"""Soft weights: how much a head learns from images whose labels it made up itself.

Li et al., "Learning to Self-Train for Semi-Supervised Few-Shot Classification", NeurIPS 2019 (LST).
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ..fewshot.gradient_descent import Head, errors
from .pseudo_labels import PseudoLabelled

Output = Literal["softmax", "sigmoid"]
Weigh = Literal["logits", "loss"]


class SoftWeights(nn.Module):
    """The soft weighting network (SWN): how much of an image a class may learn from, given the class's prototype.

    LST, section 4.1. It looks at one image and one prototype at a time, so it serves any number of classes. The
    released network has two convolutions with batch normalisation on pairs of 5 x 5 maps before its layers 8 and 1.
    Images come as vectors here, so it is a perceptron on [f(x); prototype] with layers 64, 8 and 1, and its first
    layer is normalised by itself.

    Args:
        features: d.
        output: weights of an image are a ``softmax`` over classes, as in the released code, or a ``sigmoid`` each.
    """

    def __init__(self, features: int, output: Output = "softmax") -> None:
        super().__init__()
        self.output = output
        self.of_image = nn.Linear(features, 64)
        self.of_prototype = nn.Linear(features, 64, bias=False)  # the two are one layer on [f(x); prototype]
        self.rest = nn.Sequential(
            nn.LayerNorm(64), nn.LeakyReLU(0.1), nn.Linear(64, 8), nn.LeakyReLU(0.1), nn.Linear(8, 1)
        )

    def forward(self, features: Tensor, prototypes: Tensor) -> Tensor:
        """Weights (t, n, ways) of images (t, n, d) for classes with prototypes (t, ways, d)."""
        pairs = self.of_image(features).unsqueeze(2) + self.of_prototype(prototypes).unsqueeze(1)
        scores: Tensor = self.rest(pairs).squeeze(3)
        return scores.softmax(2) if self.output == "softmax" else scores.sigmoid()


def pseudo_errors(logits: Tensor, chosen: PseudoLabelled, weights: Tensor | None, weigh: Weigh = "logits") -> Tensor:
    """The gradient in logits (t, z, ways) of the summed loss of pseudo-labelled images, (t, z, ways).

    Args:
        logits: z.
        chosen: their labels, and which of them count.
        weights: (t, z, ways); None: 1.
        weigh: what they multiply: ``logits``, of all classes, as in LST's equation of the soft weights, or the
            ``loss``, by the weight of the pseudo-class.
    """
    if weights is None or weigh == "logits":
        found = errors(logits, chosen.targets, weights)
    else:
        found = (weights * chosen.targets).sum(2, keepdim=True) * errors(logits, chosen.targets)
    return chosen.mask.unsqueeze(2) * found


def retrain(
    head: Head,
    support: Tensor,
    targets: Tensor,
    chosen: PseudoLabelled,
    weights: Tensor | None,
    rates: Sequence[float],
    *,
    scale: float,
    pseudo_scale: Tensor | float,
    weigh: Weigh = "logits",
    first_order: bool = False,
) -> Iterator[Head]:
    """Heads after each of ``len(rates)`` steps on the support's loss plus that of pseudo-labelled images.

    Args:
        head: where it starts; not given back.
        support: (t, s, d).
        targets: of the support, (t, s, ways).
        chosen, weights, weigh: see :func:`pseudo_errors`.
        rates: one a step.
        scale: of the support's summed loss.
        pseudo_scale: of the other; one number, or (t, 1, 1).
        first_order: take gradients for constants.
    """
    features = torch.cat([support, chosen.features], 1)
    for rate in rates:
        own = scale * errors(head.logits(support), targets)
        pseudo = pseudo_scale * pseudo_errors(head.logits(chosen.features), chosen, weights, weigh)
        gradient = head.gradient(features, torch.cat([own, pseudo], 1))
        if first_order:
            gradient = (gradient[0].detach(), gradient[1].detach())
        head = head.moved(gradient, rate)
        yield head
