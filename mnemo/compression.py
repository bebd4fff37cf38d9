"""Choices: which of a phase's images are kept.

A choice is a function of a network, a phase's images, how many to keep of each class, and a generator. It returns their
positions, sorted by label and best first; a class with fewer images gives all it has.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .images import Images, at_once
from .memory import ranks
from .nets import IncrementalNet, folded

Choice = Callable[[IncrementalNet, Images, int, torch.Generator], Tensor]


def random_choice(net: IncrementalNet, images: Images, per_class: int, generator: torch.Generator) -> Tensor:
    """A random sample of each class, without repetition."""
    by_class = shuffled_by_class(images.labels, generator)
    return by_class[ranks(images.labels[by_class]) < per_class]


def shuffled_by_class(labels: Tensor, generator: torch.Generator) -> Tensor:
    """All positions in ``labels`` (n,), sorted by label, those of a class in random order."""
    shuffled = torch.randperm(len(labels), generator=generator).to(labels.device)
    return shuffled[labels[shuffled].argsort(stable=True)]


def herding(net: IncrementalNet, images: Images, per_class: int, generator: torch.Generator) -> Tensor:
    """iCaRL's choice (Rebuffi et al., CVPR 2017, algorithm 4): the mean of the chosen stays close to the class mean."""
    features = unit_features(net, images)
    chosen = []
    for of_class in positions_by_class(images.labels):
        chosen.append(of_class[herd(features[of_class], per_class).to(of_class.device)])
    return torch.cat(chosen)


def positions_by_class(labels: Tensor) -> list[Tensor]:
    """For each class that is there, in order, the positions of its labels in ``labels`` (n,), ascending."""
    counts = torch.bincount(labels)
    return [part for part in labels.argsort(stable=True).split(counts.tolist()) if len(part)]


def herd(features: Tensor, count: int) -> Tensor:
    """Herding order of unit vectors (n, d): indices (min(count, n),), each at most once.

    Step k takes the vector that brings the mean of the chosen ones closest to the mean of all. For unit vectors that is
    the one most along k * mean - (sum of the chosen ones), which is what is computed.
    """
    features = features.double().cpu()  # ties and near-ties fall the same way on every device
    mean = features.mean(0)
    direction, chosen = mean.clone(), torch.full((min(count, len(features)),), -1, dtype=torch.int64)
    free = torch.ones(len(features), dtype=torch.bool)
    for k in range(len(chosen)):
        pick = torch.where(free, features @ direction, -torch.inf).argmax()
        chosen[k] = pick
        free[pick] = False
        direction += mean - features[pick]
    return chosen


@torch.no_grad()
def features(net: IncrementalNet, images: Images | Tensor, batch_size: int = 500) -> Tensor:
    """Features in evaluation mode: images, or their pixels (n, c, h, w), to (n, d)."""
    net = folded(net)
    if isinstance(images, Images):
        return torch.cat([net.features(batch.pixels) for batch in images.batches(batch_size)])
    channels, height, width = images.shape[1:]
    size = at_once((channels, height, width), batch_size)
    return torch.cat([net.features(batch) for batch in images.split(size)])


def unit_features(net: IncrementalNet, images: Images | Tensor, batch_size: int = 500) -> Tensor:
    """The same at length 1."""
    return F.normalize(features(net, images, batch_size))


@torch.no_grad()
def logits(net: IncrementalNet, images: Images, batch_size: int = 500) -> Tensor:
    """Logits in evaluation mode, (n, classes)."""
    net = folded(net)
    return torch.cat([net(batch.pixels).logits for batch in images.batches(batch_size)])


CHOICES: dict[str, Choice] = {"herding": herding, "random": random_choice}
