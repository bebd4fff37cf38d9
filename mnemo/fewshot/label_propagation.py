"""Labels that spread over a graph of all images of a task.

Liu, Lee, Park, Kim, Yang, Hwang and Yang, "Learning to Propagate Labels: Transductive Propagation Network for Few-shot
Learning", ICLR 2019 (TPN).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..disk.files import InputError
from .base_learner import BaseLearner, query_loss
from .distances import squared_distances
from .tasks import Tasks


class Graph(NamedTuple):
    """What labels spread over.

    Attributes:
        scales: sigma of each of n images, (t, n).
        weights: S, the symmetrically normalised weights, (t, n, n).
    """

    scales: Tensor
    weights: Tensor


class LabelPropagation(BaseLearner):
    """TPN: logits are the queries' rows of F* = (I - alpha S)^-1 Y, over support, queries and unlabelled images.

    Equation 3 of the paper; Y has the support's labels, and zeros elsewhere. The loss is the cross-entropy of the
    softmax of F* over support and queries (equations 4 and 5, and the released code).

    An image's length scale sigma comes from a network. The paper's has two convolutions on maps, and its last layer
    is linear, so that sigma can be of any sign. Images come as vectors here, so it is a perceptron, with layers 64, 8
    and 1, and its exponential is taken times ``scale``. The released code's terms of about 1e-16 are left out:
    degrees are at least 1, as every image neighbours itself.

    Args:
        features: d.
        neighbours: k, an image itself included; two images are connected where either is among the other's k.
        alpha: how much is taken from neighbours, in [0, 1).
        scale: sigma, or what it is about before training. Distances are means over features: see :func:`graph`.
        learned_scale: False: sigma is ``scale`` for all images.

    Raises:
        InputError: alpha is not in [0, 1), or there are no neighbours.
    """

    transductive = True

    def __init__(
        self,
        features: int,
        *,
        neighbours: int = 20,
        alpha: float = 0.99,
        scale: float = 1.0,
        learned_scale: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= alpha < 1 or neighbours < 1:
            raise InputError("label propagation needs alpha from 0 to below 1, and a neighbour or more")
        self.neighbours, self.alpha, self.scale = neighbours, alpha, scale
        self.relation = _perceptron(features) if learned_scale else None

    def forward(self, tasks: Tasks) -> Tensor:
        """Logits (t, q, ways)."""
        return self._propagated(tasks)[:, tasks.support.shape[1] :]

    def loss(self, tasks: Tasks, answers: Tensor) -> Tensor:
        """The mean cross-entropy of support and queries, whose labels are ``answers`` (t, q)."""
        return query_loss(self._propagated(tasks), torch.cat([tasks.labels, answers], 1))

    def evidence(self, tasks: Tasks) -> dict[str, Tensor]:
        """``scales`` (t, n) and ``graph`` (t, n, n) of support, queries and unlabelled images, in that order."""
        found = self._graph(tasks)
        return {"scales": found.scales.detach(), "graph": found.weights.detach()}

    def _propagated(self, tasks: Tasks) -> Tensor:
        """F* of support and queries, (t, s + q, ways)."""
        graph = self._graph(tasks)
        targets = F.pad(tasks.targets, (0, 0, 0, graph.weights.shape[1] - tasks.labels.shape[1]))
        everywhere = propagate(graph.weights, targets, self.alpha)
        return everywhere[:, : tasks.support.shape[1] + tasks.query.shape[1]]

    def _graph(self, tasks: Tasks) -> Graph:
        parts = [tasks.support, tasks.query] + ([] if tasks.unlabelled is None else [tasks.unlabelled])
        images = torch.cat(parts, 1)
        scales = images.new_full(images.shape[:2], self.scale)
        if self.relation is not None:
            scales = scales * self.relation(images).squeeze(2).exp()
        return Graph(scales, normalised(nearest(weights(images, scales), self.neighbours)))


def weights(images: Tensor, scales: Tensor) -> Tensor:
    """Equation 2 of the paper: exp(-d(f_i / sigma_i, f_j / sigma_j) / 2), (t, n, n).

    d is the mean over features of squared differences, as in the released code.

    Args:
        images: (t, n, d).
        scales: sigma, (t, n).
    """
    scaled = images / scales.unsqueeze(2)
    itself = torch.eye(images.shape[1], dtype=torch.bool, device=images.device)
    distances = squared_distances(scaled, scaled).masked_fill(itself, 0.0)  # not about 0: a degree must be above it
    return (-distances / (2 * images.shape[2])).exp()


def nearest(weights: Tensor, count: int) -> Tensor:
    """Weights (t, n, n), 0 unless one of the two images is among the ``count`` nearest of the other."""
    best = weights.topk(min(count, weights.shape[2]), dim=2).indices
    near = torch.zeros_like(weights, dtype=torch.bool).scatter(2, best, True)
    return weights * (near | near.transpose(1, 2))


def normalised(weights: Tensor) -> Tensor:
    """D^-1/2 W D^-1/2 of weights (t, n, n), D their sums."""
    roots = weights.sum(2).rsqrt()
    return roots.unsqueeze(2) * weights * roots.unsqueeze(1)


def propagate(graph: Tensor, targets: Tensor, alpha: float) -> Tensor:
    """(I - alpha S)^-1 Y of S (t, n, n) and Y (t, n, ways)."""
    identity = torch.eye(graph.shape[1], dtype=graph.dtype, device=graph.device)
    found: Tensor = torch.linalg.solve(identity - alpha * graph, targets)
    return found


def _perceptron(features: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 1))
