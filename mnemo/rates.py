"""How finely exemplars are stored: many coarse ones or a few fine ones, whichever serves a class better."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .bilevel import ridge_regression
from .compression import unit_features
from .images import Images, join
from .nets import IncrementalNet

RIDGE, SCALE = 1.0, 10.0
"""Of the regression that judges: its regularisation, and the factor on its scores."""


def best(net: IncrementalNet, tried: Sequence[Images], held: Images, old: Sequence[Images]) -> Tensor:
    """For each label the index of the exemplars that serve it best, int64 (classes,).

    They are judged by a ridge regression from the network's features to classes, which is fitted to one set of
    exemplars at a time and names images that none of them was chosen from; what counts is the mean cross-entropy of a
    class. After the question, not the method, of Wang et al., ICLR 2022, who choose one quality for all classes by the
    volume that exemplars span in feature space.

    Args:
        net: gives the features.
        tried: sets of exemplars of the present phase's classes, one for each rate.
        held: other images of the same classes.
        old: exemplars of older classes: one set or none.
    """
    queries, losses = unit_features(net, held), []
    for exemplars in tried:
        images = join([exemplars, *old])
        targets = F.one_hot(images.labels, net.head.classes).to(queries) - 1 / net.head.classes
        head = ridge_regression(unit_features(net, images), targets, RIDGE)
        losses.append(_by_class(F.cross_entropy(SCALE * queries @ head, held.labels, reduction="none"), held.labels))
    return torch.stack(losses).argmin(0)


def _by_class(values: Tensor, labels: Tensor) -> Tensor:
    """Mean of values (n,) for each label, 0 where there is none."""
    counts = torch.bincount(labels)
    return values.new_zeros(len(counts)).index_add(0, labels, values) / counts.clamp(min=1)
