"""Prototypes that the queries themselves refine, by gradients that a network makes up: SIB.

Hu, Moreno, Xiao, Shen, Obozinski, Lawrence and Damianou, "Empirical Bayes Transductive Meta-Learning with Synthetic
Gradients", ICLR 2020.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..fewshot.gradient_descent import Head
from ..fewshot.tasks import Tasks, class_means
from .epochs import Epochs, Fast

Network = Literal["batch_norm", "layer_norm", "equivariant"]


class TaskNorm(nn.Module):
    """Batch normalisation, in training mode for ever, over each task's queries by themselves.

    The public code has one task a batch and never leaves training mode; here a batch has several.

    Args:
        width: of the last dimension.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, values: Tensor) -> Tensor:
        """Values (t, q, width), normalised over q; the bias alone where q is 1."""
        variance, mean = torch.var_mean(values, 1, correction=0, keepdim=True)
        return (values - mean) * torch.rsqrt(variance + 1e-5) * self.weight + self.bias


class PerQuery(nn.Module):
    """ξ as in the public code: scores (t, q, ways) of a query to as many errors; it knows one number of ways alone.

    Args:
        ways: N; both hidden layers have 8 N units.
        norm: after each of them: :class:`TaskNorm` as in the public code, where what one query gets depends on all, or
            LayerNorm, where it does not.
    """

    def __init__(self, ways: int, norm: type[TaskNorm] | type[nn.LayerNorm]) -> None:
        super().__init__()
        width = 8 * ways
        first = [nn.Linear(ways, width), nn.ReLU(), norm(width)]
        second = [nn.Linear(width, width), nn.ReLU(), norm(width)]
        self.layers = nn.Sequential(*first, *second, nn.Linear(width, ways))

    def forward(self, scores: Tensor) -> Tensor:
        """Scores (t, q, ways) to synthetic errors (t, q, ways)."""
        synthetic: Tensor = self.layers(scores)
        return synthetic


class PerClass(nn.Module):
    """ξ for any number of ways, which permutes with the classes; no paper's.

    A class's error depends on its own score, the mean and the largest of all, and their softmax's entropy in nats.

    Args:
        width: of both hidden layers.
    """

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        first, second = [nn.Linear(4, width), nn.ReLU()], [nn.Linear(width, width), nn.ReLU()]
        self.layers = nn.Sequential(*first, *second, nn.Linear(width, 1))

    def forward(self, scores: Tensor) -> Tensor:
        """Scores (t, q, ways) to synthetic errors (t, q, ways)."""
        chances = scores.log_softmax(2)
        entropy = -(chances.exp() * chances).sum(2, keepdim=True)
        common = (scores.mean(2, keepdim=True), scores.amax(2, keepdim=True), entropy)
        synthetic: Tensor = self.layers(torch.stack([scores, *(part.expand_as(scores) for part in common)], 3))
        return synthetic.squeeze(3)


def synthesiser(network: Network, ways: int) -> PerQuery | PerClass:
    """A new ξ; weights come from torch's global generator."""
    if network == "equivariant":
        return PerClass()
    return PerQuery(ways, TaskNorm if network == "batch_norm" else nn.LayerNorm)


class SyntheticGradient(Epochs):
    """K steps on prototypes, along (dz/dθ)' ξ(z) summed over the queries, where z are their scores.

    θ_0 of a class is the mean of its normalised support features, times a learned diagonal; z is a cosine plus a
    learned bias, times a learned scale. Autograd goes through all steps. The prior's term of the bound is weight decay,
    and the optimiser's business, as in the public code.

    Args:
        features: d.
        ways: classes of a task.
        steps: K, in meta-training and afterwards.
        rate: η, of a sum over queries.
        network: ξ, :class:`PerQuery` with ``batch_norm`` or ``layer_norm``, or the ``equivariant`` :class:`PerClass`.
        scale: of cosines, at first.
        bias: likewise.
    """

    transductive = True

    def __init__(
        self,
        features: int,
        ways: int,
        *,
        steps: int = 3,
        rate: float = 1e-3,
        network: Network = "batch_norm",
        scale: float = 10.0,
        bias: float = 0.0,
    ) -> None:
        super().__init__()
        self.features, self.steps, self.rate = features, steps, rate
        self.diagonal = nn.Parameter(torch.ones(features))
        self.scale, self.bias = nn.Parameter(torch.tensor(scale)), nn.Parameter(torch.tensor(bias))
        self.synthesiser = synthesiser(network, ways)

    def forward(self, tasks: Tasks) -> Tensor:
        """Logits (t, q, ways), after the last step."""
        return self.logits(tasks, self.after(tasks, self.steps, self.rate))

    def begin(self, tasks: Tasks) -> Fast:
        """The prototypes (t, ways, d)."""
        return (self.diagonal * class_means(F.normalize(tasks.support, dim=2), tasks.targets),)

    def logits(self, tasks: Tasks, theta: Fast) -> Tensor:
        """Scores (t, q, ways) of the queries."""
        return self.scale * (self.bias + _cosines(theta).logits(tasks.query))

    def gradient(self, tasks: Tasks, theta: Fast) -> Fast:
        """The synthetic gradient (t, ways, d)."""
        synthetic = self.synthesiser(self.logits(tasks, theta))
        return (_cosines(theta).gradient(tasks.query, self.scale * synthetic)[0],)


def _cosines(theta: Fast) -> Head:
    return Head(theta[0], torch.zeros_like(theta[0][:, :, 0]), 1.0)
