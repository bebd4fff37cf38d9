"""The nearest class mean: ProtoNet (Snell, Swersky and Zemel, NeurIPS 2017), and with cosines Meta-Baseline's.

Chen, Liu, Xu, Darrell and Wang, "Meta-Baseline", ICCV 2021, multiply cosines by a temperature that learns, 10 at first.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from .base_learner import BaseLearner
from .distances import squared_distances
from .gradient_descent import Head
from .tasks import Tasks, class_means

Metric = Literal["euclidean", "cosine"]


class Prototypes(BaseLearner):
    """A class is the mean of its support features; a query's logits say how near each is.

    Args:
        metric: ``euclidean``, minus the squared distance, not divided by d; or ``cosine``, times a temperature.
        temperature: of cosines, at first.
    """

    def __init__(self, metric: Metric = "euclidean", temperature: float = 10.0) -> None:
        super().__init__()
        self.metric = metric
        self.temperature = nn.Parameter(torch.tensor(temperature), requires_grad=metric == "cosine")

    def forward(self, tasks: Tasks) -> Tensor:
        """Logits (t, q, ways)."""
        means = class_means(tasks.support, tasks.targets)
        if self.metric == "euclidean":
            return -squared_distances(tasks.query, means)
        return self.temperature * Head(means, torch.zeros_like(means[:, :, 0]), 1.0).logits(tasks.query)
