"""Alignment: the projection of a simplex head learns to bring features to the vertices of their classes."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .compression import features, positions_by_class
from .losses import dot_regression
from .nets import IncrementalNet, SimplexHead
from .seeds import derive
from .stages import Descent, Schedule, Situation


@dataclass(frozen=True)
class Align:
    """Train the projection alone, on features of the phase's images and the mean features of all older classes.

    The network's head becomes a simplex, where it is none yet. Features are the frozen backbone's, of images without
    augmentation, in evaluation mode; means are kept in the head.

    Attributes:
        weight: of the dot-regression loss.
        schedule: of every phase but the first; an epoch is a pass over the features.
        base_schedule: of phase 0; None only keeps the means there.
        name: see :class:`mnemo.stages.Stage`.
    """

    weight: float
    schedule: Schedule
    base_schedule: Schedule | None = None
    name: str = "align"

    def begin(self, situation: Situation) -> "Alignment":
        """See :class:`mnemo.stages.Stage`."""
        return Alignment(self, situation)

    def work(self, phase: int, images: int, new: int, old: int) -> float:
        """See :class:`mnemo.stages.Stage`: features are computed once."""
        return images / 3

    def scheduled(self, phase: int) -> Schedule | None:
        """The schedule of a phase."""
        return self.schedule if phase else self.base_schedule


class Alignment(Descent):
    """The loop of :class:`Align`."""

    def __init__(self, stage: Align, situation: Situation) -> None:
        phase, self._net = situation.phase, situation.net
        schedule = stage.scheduled(phase.index)
        self.epochs = schedule.epochs if schedule else 0
        self._head = simplex_head(situation)
        shown = features(self._net, phase.train)
        for where in positions_by_class(phase.train.labels):
            self._head.means[phase.train.labels[where[0]]] = shown[where].mean(0)
        old = torch.arange(phase.first_label, device=shown.device)
        self._features = torch.cat([shown, self._head.means[old]])
        self._labels = torch.cat([phase.train.labels, old])
        self._weight, self._schedule = stage.weight, schedule or stage.schedule
        parameters = dict(self._head.projection.named_parameters())
        optimizer = torch.optim.SGD(
            parameters.values(),
            self._schedule.lr,
            momentum=self._schedule.momentum,
            weight_decay=self._schedule.weight_decay,
        )
        super().__init__(optimizer, parameters)

    def epoch(self, index: int, generator: torch.Generator) -> Mapping[str, float]:
        """One pass in random order: the mean loss, and the accuracy in %."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._schedule.lr_at(index)
        order = torch.randperm(len(self._labels), generator=generator).to(self._labels.device)
        parts = [self._step(where) for where in order.split(self._schedule.batch_size)]
        loss, right = (torch.stack(parts).sum(0) / len(order)).tolist()
        return {"loss": loss, "accuracy": 100 * right}

    def _step(self, where: Tensor) -> Tensor:
        """One step: the sum of the losses, and how many features were named rightly."""
        labels = self._labels[where]
        cosines = self._head(self._features[where]).scores
        loss = self._weight * dot_regression(own(cosines, labels))
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return torch.stack([loss.detach() * len(where), (cosines.argmax(1) == labels).sum().to(loss)])


def own(cosines: Tensor, labels: Tensor) -> Tensor:
    """Of cosines (n, classes) that of each label (n,)."""
    return cosines.gather(1, labels.unsqueeze(1)).squeeze(1)


def simplex_head(situation: Situation) -> SimplexHead:
    """The network's simplex; it takes the place of another head, with the same classes, where there is none."""
    net = situation.net
    if not isinstance(net.head, SimplexHead):
        net.head = _in_place_of(net, situation)
    return net.head


def _in_place_of(net: IncrementalNet, situation: Situation) -> SimplexHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(*situation.seed, "simplex"))
        head = SimplexHead(net.head.width, situation.classes)
    for group in net.head.weights:
        head.grow(len(group))
    return head.to(net.mean.device)
