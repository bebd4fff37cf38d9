"""Distribution matching: exemplars whose mean feature is that of the real images, for many networks.

Zhao and Bilen, "Dataset condensation with distribution matching", WACV 2023, equation 5: for each class the squared
distance of both mean features, under the same crop and flip for all images of an update. The paper's networks are
random ones; here they are those of :class:`mnemo.exemplars.starts.Starts`, random ones included.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import distributed
from ..data_parallel import is_own
from ..images import Images
from ..stages import Situation
from .rehearsal import Rehearsal
from .starts import Pool, Starts


@dataclass(frozen=True)
class DistributionMatching:
    """The distance of mean features.

    Attributes:
        starts: the networks whose features are matched.
        rehearsal: the strategy's next phase.
    """

    starts: Starts
    rehearsal: Rehearsal

    def begin(self, situation: Situation, stage: str) -> "MatchedMeans":
        """See :class:`mnemo.exemplars.pixels.Objective`."""
        return MatchedMeans(situation, Pool(situation, self.starts, self.rehearsal, stage))

    def work(self, exemplars: int, outer: int) -> float:
        """See :class:`mnemo.exemplars.pixels.Objective`."""
        return exemplars + outer / 3


class MatchedMeans:
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
        draw = self._augmentation.draw(1, outer.shape, generator).to(exemplars.device)
        pixels = exemplars.detach().requires_grad_()
        classes, ours = net.head.classes, pixels
        if distributed.processes() > 1:
            mine, outer = is_own(labels), outer.select(is_own(outer.labels))
            ours, labels = pixels[mine], labels[mine]
        own, have = class_means(net.features(self._varied(ours, draw)), labels, classes)
        with torch.no_grad():
            target, there = class_means(net.features(self._varied(outer.pixels, draw)), outer.labels, classes)
        distance = ((own - target).square().sum(1) * (have & there)).sum()
        (gradient,) = torch.autograd.grad(distance, pixels)
        return distributed.total(distance), distributed.total(gradient)

    def _varied(self, pixels: Tensor, draw: Tensor) -> Tensor:
        return self._augmentation.apply(pixels, draw.expand(len(pixels), -1))


def class_means(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The mean feature of each class, (classes, d), zero where there is none, and where there is one, bool (classes,).

    Args:
        features: (n, d).
        labels: int64 (n,).
        classes: how many.
    """
    counts = features.new_zeros(classes).index_add(0, labels, features.new_ones(len(labels)))
    sums = features.new_zeros(classes, features.shape[1]).index_add(0, labels, features)
    return sums / counts.clamp(min=1).unsqueeze(1), counts > 0
