"""Logistic regression on frozen features, for a batch of tasks at once: the base-learner of RFS.

Tian, Wang, Krishnan, Tenenbaum and Isola, "Rethinking Few-Shot Image Classification: a Good Embedding Is All You
Need?", ECCV 2020. They call scikit-learn, for each task by itself, on normalised features.

The solution's rows lie in the span of the support's features. So it is sought there, in s dimensions in place of d, by
Newton's method in float64.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .base_learner import BaseLearner
from .tasks import Tasks


class LogisticRegression(BaseLearner):
    """Learns nothing from one task to the next, and gives no gradient.

    Args:
        cost: scikit-learn's C: what is lessened is half the squared weights plus C times the summed cross-entropy.
        normalise: divide features by their length.
    """

    def __init__(self, cost: float = 1.0, normalise: bool = True) -> None:
        super().__init__()
        self.cost, self.normalise = cost, normalise

    @torch.no_grad()
    def forward(self, tasks: Tasks) -> Tensor:
        """Logits (t, q, ways), without a gradient, in the queries' type."""
        support, query = tasks.support.double(), tasks.query.double()
        if self.normalise:
            support, query = F.normalize(support, dim=2), F.normalize(query, dim=2)
        basis, _ = torch.linalg.qr(support.transpose(1, 2))  # (t, d, min(s, d))
        weight = fit(with_one(support @ basis), tasks.targets.double(), self.cost)
        return (with_one(query @ basis) @ weight).to(tasks.query.dtype)


def with_one(features: Tensor) -> Tensor:
    """Features (t, n, r) with a 1 at the end, (t, n, r + 1), for the bias."""
    return F.pad(features, (0, 1), value=1.0)


def fit(features: Tensor, targets: Tensor, cost: float, *, most: int = 100) -> Tensor:
    """Weights (t, r, ways) that minimise the penalised loss of every task, by Newton's method with step halving.

    Args:
        features: (t, n, r), float64, the last of them 1: its weight is the bias, which is not penalised.
        targets: one-hot, (t, n, ways), float64, some of every class: a class without any has no finite bias.
        cost: C.
        most: steps.
    """
    penalty = torch.ones(features.shape[2], dtype=features.dtype, device=features.device)
    penalty[-1] = 0
    weight = features.new_zeros(len(features), features.shape[2], targets.shape[2])
    enough = 1e-9 + 1e-12 * cost * float(features.abs().max())  # a gradient is no more exact than its terms
    for _ in range(most):
        chances = (features @ weight).softmax(2)
        gradient = cost * features.transpose(1, 2) @ (chances - targets) + penalty.unsqueeze(1) * weight
        ahead = gradient.abs().amax((1, 2), keepdim=True) > enough
        if not ahead.any():
            break
        step = newton_step(features, chances, gradient * ahead, penalty, cost)
        weight = _downhill(weight, step, features, targets, penalty, cost)
    return weight


def newton_step(features: Tensor, chances: Tensor, gradient: Tensor, penalty: Tensor, cost: float) -> Tensor:
    """The gradient (t, r, ways), divided by the Hessian, by preconditioned conjugate gradients.

    All biases can grow by the same without effect, so the Hessian is singular. But where weights sum to 0 over classes,
    as they do at first, the gradient does, and a step does, if rounding is kept from disturbing it.

    Args:
        features: (t, n, r).
        chances: (t, n, ways).
        gradient: see above.
        penalty: (r,), of each feature's squared weights; 0 for the last, the bias.
        cost: C.
    """

    def curved(v: Tensor) -> Tensor:
        slopes = features @ v
        slopes = chances * (slopes - (chances * slopes).sum(2, keepdim=True))
        return cost * features.transpose(1, 2) @ slopes + penalty.unsqueeze(1) * v

    spread = (chances * (1 - chances)).mean(2, keepdim=True).clamp(min=1e-9)  # 0 where chances are all 0 or 1
    typical = cost * features.transpose(1, 2) @ (spread * features) + penalty.diag()
    factor = torch.linalg.cholesky(typical)
    balanced = gradient - gradient.mean(2, keepdim=True)
    return _conjugate_gradients(curved, lambda v: torch.cholesky_solve(v, factor), balanced)


def _conjugate_gradients(
    matrix: Callable[[Tensor], Tensor], inverse: Callable[[Tensor], Tensor], right: Tensor
) -> Tensor:
    """Solutions x (t, r, ways) of ``matrix(x) = right``, task by task; ``inverse`` is about the matrix's."""

    def dot(one: Tensor, other: Tensor) -> Tensor:
        return (one * other).sum((1, 2), keepdim=True)

    x, rest = torch.zeros_like(right), right
    direction = guess = inverse(rest)
    for _ in range(10 * right[0].numel()):
        going = dot(rest, rest) > 1e-18 * dot(right, right)
        if not going.any():
            break
        ahead, before = matrix(direction), dot(rest, guess)
        size = torch.where(going, before / dot(direction, ahead), 0)
        x, rest = x + size * direction, rest - size * ahead
        guess = inverse(rest)
        direction = torch.where(going, guess + dot(rest, guess) / before * direction, 0)
    return x


def _downhill(weight: Tensor, step: Tensor, features: Tensor, targets: Tensor, penalty: Tensor, cost: float) -> Tensor:
    """Weights after a step that is halved, task by task, until the loss does not rise, and is 0 after 30 halvings."""

    def loss(at: Tensor) -> Tensor:
        entropies = -(targets * (features @ at).log_softmax(2)).sum((1, 2))
        return cost * entropies + 0.5 * (penalty.unsqueeze(1) * at.square()).sum((1, 2))

    now = loss(weight)
    size = torch.ones_like(now)
    for _ in range(30):
        rises = ~(loss(weight - size[:, None, None] * step) <= now + 1e-12 * now.abs())  # or is no number
        if not rises.any():
            return weight - size[:, None, None] * step
        size = torch.where(rises, size / 2, size)
    return weight - torch.where(rises, 0, size)[:, None, None] * step
