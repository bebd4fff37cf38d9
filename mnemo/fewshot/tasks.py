"""Tasks as tensors: a few classes, a few images of each to learn from, and others to be asked about."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Tasks(NamedTuple):
    """A batch of t tasks of the same shape. An image is pixels (c, h, w), uint8 or floating, or features (d,).

    Attributes:
        support: (t, s, *image), what is learned from.
        labels: of the support, int64 (t, s), 0..ways-1.
        query: (t, q, *image), what is asked.
        unlabelled: (t, u, *image), of the tasks' classes and, where there are distractors, of others; None if there
            are none.
        ways: classes of each task.
        known: rows (t, old, d) of a classifier for classes that are known already and stay as they are; they come
            before the task's own in logits (t, q, old + ways), in targets and in answers. None: there are none.
    """

    support: Tensor
    labels: Tensor
    query: Tensor
    unlabelled: Tensor | None
    ways: int
    known: Tensor | None = None

    @property
    def old(self) -> int:
        """Classes that are known already."""
        return 0 if self.known is None else self.known.shape[1]

    @property
    def targets(self) -> Tensor:
        """The support's labels as one-hot rows, (t, s, old + ways), in the support's type if that is floating."""
        one_hot = F.one_hot(self.labels + self.old, self.old + self.ways)
        return one_hot.to(self.support.dtype if self.support.is_floating_point() else torch.get_default_dtype())

    @property
    def shots(self) -> float:
        """Support images of a class, on average."""
        return self.labels.shape[1] / self.ways

    def one(self, index: int) -> "Tasks":
        """Task ``index`` alone, as a batch of one."""
        where = slice(index, index + 1)
        unlabelled = None if self.unlabelled is None else self.unlabelled[where]
        known = None if self.known is None else self.known[where]
        return Tasks(self.support[where], self.labels[where], self.query[where], unlabelled, self.ways, known)

    def prototypes(self, support: Tensor) -> Tensor:
        """Class means (t, ways, d) of the support's features (t, s, d)."""
        return class_means(support, self.targets[:, :, self.old :])

    def rows(self, support: Tensor) -> Tensor:
        """A row (t, old + ways, d) for every class: what is known, and class means of the support's features."""
        means = self.prototypes(support)
        return means if self.known is None else torch.cat([self.known, means], 1)


def class_means(features: Tensor, targets: Tensor) -> Tensor:
    """Means (t, ways, d) of features (t, s, d) by one-hot or soft targets (t, s, ways); 0 for a class without any."""
    sums = targets.transpose(1, 2) @ features
    return sums / targets.sum(1).clamp(min=torch.finfo(targets.dtype).tiny).unsqueeze(2)
