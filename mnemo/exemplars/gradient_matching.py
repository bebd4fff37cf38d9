"""Gradient matching: exemplars that push the network's weights where real images do.

Zhao, Mopuri and Bilen, "Dataset condensation with gradient matching", ICLR 2021, equations 5 and 6; the same crop and
flip for all images of both sides of an update, as in Zhao and Bilen, "Dataset condensation with differentiable siamese
augmentation", ICML 2021. Departures: the networks are those of :class:`mnemo.exemplars.starts.Starts` in evaluation
mode; no network is trained on the exemplars in between.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from .. import distributed
from ..augment import Augmentation
from ..components.scaling_shifting import FROZEN
from ..data_parallel import is_own
from ..images import Images
from ..nets import IncrementalNet
from ..stages import Situation
from .rehearsal import Rehearsal
from .starts import Pool, Starts


@dataclass(frozen=True)
class GradientMatching:
    """The distance of gradients, class by class.

    Attributes:
        starts: the networks whose gradients are matched.
        rehearsal: the strategy's next phase.
    """

    starts: Starts
    rehearsal: Rehearsal

    def begin(self, situation: Situation, stage: str) -> "MatchedGradients":
        """See :class:`mnemo.exemplars.pixels.Objective`."""
        return MatchedGradients(situation, Pool(situation, self.starts, self.rehearsal, stage))

    def work(self, exemplars: int, outer: int) -> float:
        """See :class:`mnemo.exemplars.pixels.Objective`."""
        return 3 * exemplars + outer


class MatchedGradients:
    """See :class:`mnemo.exemplars.pixels.Gradient`."""

    def __init__(self, situation: Situation, pool: Pool) -> None:
        self._augmentation, self._pool = situation.augmentation, pool

    def __call__(
        self, epoch: int, exemplars: Tensor, labels: Tensor, outer: Images, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The distance for one network of the pool, the sum over classes, and its gradient.

        Each of several processes takes some of the classes.
        """
        net = self._pool.draw(epoch, generator).net
        total, gradient = torch.zeros((), device=exemplars.device), torch.zeros_like(exemplars)
        for label in labels.unique():
            of_class, real = (labels == label).nonzero().squeeze(1), outer.select(outer.labels == label)
            if not len(real):
                continue
            draw = self._augmentation.draw(1, outer.shape, generator).to(exemplars.device)
            if not is_own(label):
                continue
            distance, gradient[of_class] = matching(
                net, exemplars[of_class], labels[of_class], real, self._augmentation, draw
            )
            total += distance
        return distributed.total(total), distributed.total(gradient)


def matching(
    net: IncrementalNet, exemplars: Tensor, labels: Tensor, real: Images, augmentation: Augmentation, draw: Tensor
) -> tuple[Tensor, Tensor]:
    """The distance of the gradients of two sets of images, and its gradient with respect to the first.

    Args:
        net: in evaluation mode.
        exemplars, labels: floating (m, c, h, w) and int64 (m,).
        real: the other set.
        augmentation: applied to both, as ``draw`` (1, k) says.
    """
    weights = {n: p.detach().requires_grad_() for n, p in net.named_parameters() if not n.endswith(FROZEN)}
    pixels = exemplars.detach().requires_grad_()

    def gradients(views: Tensor, y: Tensor, create_graph: bool) -> list[Tensor]:
        loss = F.cross_entropy(functional_call(net, weights, (views,)).logits, y)
        return list(torch.autograd.grad(loss, list(weights.values()), create_graph=create_graph))

    target = gradients(augmentation.apply(real.pixels, draw.expand(len(real), -1)), real.labels, False)
    own = gradients(augmentation.apply(pixels, draw.expand(len(pixels), -1)), labels, True)
    distance = torch.stack([layer_distance(mine, theirs) for mine, theirs in zip(own, target, strict=True)]).sum()
    (gradient,) = torch.autograd.grad(distance, pixels)
    return distance.detach(), gradient


def layer_distance(one: Tensor, other: Tensor) -> Tensor:
    """One minus the cosine of each output's gradient, summed over the outputs of a layer: the paper's equation 6.

    Args:
        one, other: gradients of one parameter, (outputs, ...); of a vector or a scalar, one output is taken.
    """
    outputs = len(one) if one.dim() > 1 else 1
    return (1 - F.cosine_similarity(one.reshape(outputs, -1), other.reshape(outputs, -1), dim=1, eps=1e-12)).sum()
