"""Pseudo-labels: what a classifier says of unlabelled images, and which of that to believe.

Li et al., "Learning to Self-Train for Semi-Supervised Few-Shot Classification", NeurIPS 2019 (LST): hard selection
keeps the most confident images of each class.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..fewshot.gradient_descent import Head
from ..fewshot.tasks import Tasks


class Judged(NamedTuple):
    """What was said of n of the u unlabelled images of t tasks, and the z places of those that are kept.

    Attributes:
        places: of these images among the unlabelled ones, int64 (n,).
        labels: the likeliest class of each, int64 (t, n).
        confidences: its softmax probability, (t, n).
        kept: images that are learned from, int64 (t, z), as rows of the unlabelled ones.
        mask: bool (t, z); False where a class has too few images to fill its places.
    """

    places: Tensor
    labels: Tensor
    confidences: Tensor
    kept: Tensor
    mask: Tensor


class PseudoLabelled(NamedTuple):
    """Images with pseudo-labels, to learn from.

    Attributes:
        features: (t, z, d).
        targets: one-hot rows (t, z, ways).
        mask: (t, z), 1 or 0; an image with 0 counts for nothing.
    """

    features: Tensor
    targets: Tensor
    mask: Tensor


@torch.no_grad()
def judge(head: Head, features: Tensor, places: Tensor, keep: int | None) -> Judged:
    """Label images, and keep them all or the most confident of each class; none that seem to be of a known class.

    Args:
        head: labels them.
        features: of all unlabelled images, (t, u, d).
        places: which of them, int64 (n,).
        keep: of each class; all images if None.
    """
    chances = head.logits(features[:, places]).softmax(2)
    confidences, labels = chances.max(2)
    old = chances.shape[2] - head.weight.shape[1]
    if keep is None:
        return Judged(places, labels, confidences, places.expand(len(labels), -1), labels >= old)
    rows, mask = most_confident(labels, confidences, range(old, chances.shape[2]), keep)
    return Judged(places, labels, confidences, places[rows], mask)


def most_confident(labels: Tensor, confidences: Tensor, classes: range, keep: int) -> tuple[Tensor, Tensor]:
    """Hard selection: rows int64 (t, ways * z) and mask bool of the same shape, class by class, z = min(keep, n).

    The released code fills the places of a class with too few images with its support images and with repeats, which
    weighs the support more where less is known. Here such places stay empty: the mask is False.

    Args:
        labels: int64 (t, n).
        confidences: (t, n); of equal ones the first image goes first.
        classes: that count.
        keep: Z, of each.
    """
    own = F.one_hot(labels, classes.stop).bool().transpose(1, 2)[:, classes.start :]
    scores = confidences.unsqueeze(1).where(own, -1.0)
    rows = scores.argsort(dim=2, descending=True, stable=True)[:, :, :keep]
    return rows.flatten(1), own.gather(2, rows).flatten(1)


def gathered(features: Tensor, judged: list[Judged], ways: int) -> PseudoLabelled:
    """What was kept of several sets of images whose features, with all others, are (t, u, d)."""
    kept, mask = torch.cat([one.kept for one in judged], 1), torch.cat([one.mask for one in judged], 1)
    labels = torch.zeros(features.shape[:2], dtype=torch.int64, device=features.device)
    for one in judged:
        labels[:, one.places] = one.labels
    chosen = features.gather(1, kept.unsqueeze(2).expand(-1, -1, features.shape[2]))
    targets = F.one_hot(labels.gather(1, kept), ways).to(features.dtype)
    return PseudoLabelled(chosen, targets, mask.to(features.dtype))


def revealed(tasks: Tasks, hidden: Tensor) -> Tasks:
    """Tasks with their unlabelled images in the support: the fully supervised upper bound.

    Args:
        tasks: with features or pixels.
        hidden: true labels of the unlabelled images, int64 (t, u), 0..ways-1: there can be no distractors.
    """
    if tasks.unlabelled is None:
        return tasks
    support, labels = torch.cat([tasks.support, tasks.unlabelled], 1), torch.cat([tasks.labels, hidden], 1)
    return tasks._replace(support=support, labels=labels, unlabelled=None)


def reported(judged: list[Judged]) -> dict[str, Tensor]:
    """What was said of all u unlabelled images, which have been judged once each; (t, u) each.

    ``pseudo_labels`` (int64), ``confidences``, ``selected`` (bool), and ``stages`` (int64), the set an image was in.
    """
    order = torch.cat([one.places for one in judged]).argsort()
    labels = torch.cat([one.labels for one in judged], 1)[:, order]
    stages = torch.cat([torch.full_like(one.places, stage) for stage, one in enumerate(judged)])[order]
    kept, mask = torch.cat([one.kept for one in judged], 1), torch.cat([one.mask for one in judged], 1)
    return {
        "pseudo_labels": labels,
        "confidences": torch.cat([one.confidences for one in judged], 1)[:, order],
        "selected": torch.zeros_like(labels).scatter_add(1, kept, mask.long()) > 0,
        "stages": stages.expand_as(labels),
    }
