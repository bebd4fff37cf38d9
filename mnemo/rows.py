"""Rows of the head from features, without training: what few-shot streams do where the base network stays as it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .compression import positions_by_class, unit_features
from .nets import IncrementalNet
from .nets.heads import CosineHead
from .stages import Once, Situation

Adjustment = Callable[[Tensor, Tensor], Tensor]
"""(mean directions of a phase's classes (n, d), rows of the base classes (b, d)), all of length 1, to rows (n, d)."""


def unadjusted(means: Tensor, base: Tensor) -> Tensor:
    """The mean directions as they are."""
    return means


def mean_directions(features: Tensor, labels: Tensor) -> Tensor:
    """Means of features (n, d) by labels (n,), in the order of the labels that are there: (classes, d), of length 1."""
    return F.normalize(torch.stack([features[where].mean(0) for where in positions_by_class(labels)]))


def temperature(net: IncrementalNet) -> float:
    """What the network's cosine head multiplies cosines by."""
    assert isinstance(net.head, CosineHead)
    return float(net.head.scale.detach())


@torch.no_grad()
def set_rows(group: nn.Parameter, rows: Tensor) -> None:
    """Give a group of classes (n, d) the directions of ``rows`` (n, d), at length 1."""
    group.copy_(F.normalize(rows))


@dataclass(frozen=True)
class MeanRows:
    """Set the rows of the phase's classes to the mean directions of their images; all other rows stay.

    Imprinting (Qi, Brown and Lowe, CVPR 2018) in place of training: of many images of each class in the base phase, of
    few in a later one. Features are those of images without augmentation, in evaluation mode, at length 1.

    Attributes:
        adjustment: what is done to the means of every phase but the first.
        name: see :class:`mnemo.stages.Stage`.
    """

    adjustment: Adjustment = unadjusted
    name: str = "mean_rows"

    def begin(self, situation: Situation) -> "SettingRows":
        """See :class:`mnemo.stages.Stage`."""
        return SettingRows(self.adjustment, situation)

    def work(self, phase: int, images: int, new: int, old: int) -> float:
        """See :class:`mnemo.stages.Stage`."""
        return images / 3


class SettingRows(Once):
    """The loop of :class:`MeanRows`."""

    def __init__(self, adjustment: Adjustment, situation: Situation) -> None:
        self._adjustment, self._net, self._images = adjustment, situation.net, situation.phase.train

    @torch.no_grad()
    def epoch(self, index: int, generator: torch.Generator) -> Mapping[str, float]:
        """Set the rows: the share of the phase's images that all rows together then name rightly, in %."""
        features = unit_features(self._net, self._images)
        means = mean_directions(features, self._images.labels)
        *old, new = self._net.head.weights
        set_rows(new, self._adjustment(means, F.normalize(old[0])) if old else means)
        cosines = features @ F.normalize(torch.cat([*old, new])).T
        return {"accuracy": 100 * float((cosines.argmax(1) == self._images.labels).double().mean())}
