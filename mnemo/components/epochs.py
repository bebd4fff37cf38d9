"""Base-learners that are led from outside, one step at a time: an epoch of E3BM.

What steps are taken with, and which of them counts, can then be learned (:mod:`mnemo.components.ensemble`), whatever it
is that takes them: a head, prototypes, or a whole network.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..fewshot.base_learner import BaseLearner
from ..fewshot.gradient_descent import GradientDescent, Head, errors
from ..fewshot.tasks import Tasks

Fast = tuple[Tensor, ...]
"""What a base-learner changes for a task, θ: tensors (t, ...), the first of them the classifier's rows (t, ways, d)."""


class Epochs(BaseLearner):
    """A base-learner that lays its steps open; by itself it takes them at one rate.

    Attributes:
        features: d, of what :meth:`condition` gives and of the classifier's rows.
        layers: to which layer each tensor of θ belongs, 0 and up; layers can have rates of their own, as in LCC.
    """

    features: int
    layers: tuple[int, ...] = (0,)

    def begin(self, tasks: Tasks) -> Fast:
        """θ_0, for each of the t tasks."""
        raise NotImplementedError

    def gradient(self, tasks: Tasks, theta: Fast) -> Fast:
        """What a step goes against, in the shapes of ``theta``; whether it is constant is the base-learner's choice."""
        raise NotImplementedError

    def logits(self, tasks: Tasks, theta: Fast) -> Tensor:
        """Logits (t, q, ways) of the queries under ``theta``."""
        raise NotImplementedError

    def condition(self, tasks: Tasks, of_queries: bool) -> Tensor:
        """The mean feature (t, d) of the support, or of the queries."""
        return (tasks.query if of_queries else tasks.support).mean(1)

    def after(self, tasks: Tasks, count: int, rate: float) -> Fast:
        """θ after ``count`` steps at one rate."""
        theta = self.begin(tasks)
        for _ in range(count):
            gradient = self.gradient(tasks, theta)
            theta = tuple(weight - rate * slope for weight, slope in zip(theta, gradient, strict=True))
        return theta


def moved(theta: Fast, gradient: Fast, alpha: Tensor, decay: Tensor, layers: Sequence[int]) -> Fast:
    """After a step: θ - α (gradient + decay θ).

    Args:
        theta: tensors (t, ...).
        gradient: in the same shapes.
        alpha: (t, layers), the learning rates.
        decay: (layers,), the weights of the L2 penalty.
        layers: to which layer each tensor belongs.
    """
    return tuple(
        weight - alpha[:, layer].view(-1, *[1] * (weight.ndim - 1)) * (slope + decay[layer] * weight)
        for weight, slope, layer in zip(theta, gradient, layers, strict=True)
    )


class HeadEpochs(Epochs):
    """The steps of MTL's base-learner: θ is a head's weight and bias.

    Args:
        learner: says where steps start, on what features, and what loss they lessen. Its own rate and numbers of steps
            matter only where these epochs are not led: there it does what it always does.
        first_order: take gradients for constants, as the public PyTorch code of E3BM does, in place of the learner's
            own ``first_order``.
    """

    layers = (0, 0)

    def __init__(self, learner: GradientDescent, *, first_order: bool = True) -> None:
        super().__init__()
        self.learner, self.first_order = learner, first_order
        self.features = learner.weight.shape[1]

    def forward(self, tasks: Tasks) -> Tensor:
        """Logits (t, q, ways), of the learner."""
        logits: Tensor = self.learner(tasks)
        return logits

    def begin(self, tasks: Tasks) -> Fast:
        """The first weight (t, ways, d) and bias (t, ways)."""
        head = self.learner.first(tasks)
        return head.weight, head.bias

    def gradient(self, tasks: Tasks, theta: Fast) -> Fast:
        """That of the cross-entropy of the support."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.first_order):
            support, head = self.learner.support(tasks), self._head(tasks, theta)
            slopes = self.learner.loss_scale(tasks) * errors(head.logits(support), tasks.targets)
            return head.gradient(support, slopes)

    def logits(self, tasks: Tasks, theta: Fast) -> Tensor:
        """Logits (t, q, ways)."""
        return self._head(tasks, theta).logits(tasks.query)

    def condition(self, tasks: Tasks, of_queries: bool) -> Tensor:
        """The mean feature (t, d); of the support, as the steps see it."""
        return (tasks.query if of_queries else self.learner.support(tasks)).mean(1)

    def _head(self, tasks: Tasks, theta: Fast) -> Head:
        return Head(theta[0], theta[1], self.learner.temperature, tasks.known)
