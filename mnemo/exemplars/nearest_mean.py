"""The step of Mnemonics' released code: exemplars whose mean feature names real images well.

It is not the paper's: the network is frozen, and the loss is the cross-entropy of cosines, without a scale, between the
features of the phase's images and the mean feature of each class's exemplars. The released rate of 1e-5, for pixels of
deviation one, is ``pixel_rate=0.026`` in grey levels; it moves no pixel as far as the next level.

Departures: the released code rounds downwards and without clamping, which changes a third of the values by one level;
it has old exemplars among the images that are named; it decays pixels by 5e-4 a step, which moves less than a
hundredth of a level.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import distributed
from ..data_parallel import own, whole_rows
from ..images import Images, join
from ..nets import folded
from ..stages import Situation, old_exemplars
from .distribution_matching import class_means

IGNORED = -100


@dataclass(frozen=True)
class NearestMean:
    """The cross-entropy of the nearest mean of exemplars."""

    def begin(self, situation: Situation, stage: str) -> "NearestMeanGradient":
        """See :class:`mnemo.exemplars.pixels.Objective`."""
        return NearestMeanGradient(situation)

    def work(self, exemplars: int, outer: int) -> float:
        """See :class:`mnemo.exemplars.pixels.Objective`."""
        return exemplars + outer / 3


class NearestMeanGradient:
    """See :class:`mnemo.exemplars.pixels.Gradient`."""

    def __init__(self, situation: Situation) -> None:
        self._net, self._augmentation = folded(situation.net), situation.augmentation
        none = torch.zeros_like(situation.phase.train.labels, dtype=torch.bool)
        old = join([situation.phase.train.select(none), *old_exemplars(situation)])
        self._old = torch.cat([self._net.features(batch.pixels) for batch in old.batches(500)])
        self._old_labels = old.labels

    def __call__(
        self, epoch: int, exemplars: Tensor, labels: Tensor, outer: Images, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The loss and its gradient."""
        pixels = exemplars.detach().requires_grad_()
        draws = self._augmentation.draw(len(outer), outer.shape, generator).to(exemplars.device)
        mine, asked = own(len(labels)), own(len(outer))
        with torch.no_grad():
            part = self._net.features(self._augmentation.apply(outer.pixels[asked], draws[asked]))
            (queries,) = whole_rows(len(outer), part)
        (moved,) = whole_rows(len(labels), self._net.features(pixels[mine]))
        features = torch.cat([self._old, moved])
        means, have = class_means(features, torch.cat([self._old_labels, labels]), self._net.head.classes)
        cosines = F.linear(F.normalize(queries), F.normalize(means)).masked_fill(~have, -torch.inf)
        named = torch.where(have[outer.labels], outer.labels, IGNORED)  # a class may have no exemplar in this batch
        loss = F.cross_entropy(cosines, named, ignore_index=IGNORED)
        (gradient,) = torch.autograd.grad(loss, pixels)
        return loss.detach(), distributed.total(gradient)
