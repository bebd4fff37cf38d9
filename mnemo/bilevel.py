"""Hypergradients: how the loss after some steps of training changes with the images that were trained on.

The inner level makes ``steps`` of plain gradient descent from given parameters on a loss of the exemplars; the outer
level measures another loss at the parameters so reached (Liu et al., CVPR 2020, equations 8 and 9):

    theta_0 = parameters;   theta_{t+1} = theta_t - lr * grad_theta inner(theta_t, exemplars, t);
    gradient = d outer(theta_T) / d exemplars.

Every way of computing it has the same signature. ``unrolled`` and ``reverse`` are exact and agree to rounding; the
first holds all steps in memory, the second one step and T sets of parameters, for about one more pass a step.
``truncated`` and ``first_order`` are the second with something left out: the earlier steps, or the second derivatives
with respect to the parameters. ``closed_form`` stands apart: it takes no steps, but solves for a linear head.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Parameters = Mapping[str, Tensor]
InnerLoss = Callable[[Parameters, Tensor, int], Tensor | Iterable[Tensor]]
"""(parameters, exemplars, step) to a scalar, or to parts of which it is the sum.

Called again with the same step it must draw the same randomness. ``reverse`` takes parts one after the other, so that
an iterator which computes each when it is asked for bounds the memory by that of a part.
"""
OuterLoss = Callable[[Parameters], Tensor]


class Hypergradient(NamedTuple):
    """What a way returns.

    Attributes:
        loss: the outer loss after the inner steps, a scalar without gradient.
        gradient: of that loss, in the shape of the exemplars.
    """

    loss: Tensor
    gradient: Tensor


class Way(Protocol):
    """A way to compute a hypergradient."""

    def __call__(
        self,
        inner: InnerLoss,
        outer: OuterLoss,
        parameters: Parameters,
        exemplars: Tensor,
        steps: int,
        lr: float,
    ) -> Hypergradient:
        """The outer loss after the inner steps, and its gradient with respect to ``exemplars``.

        Args:
            inner: loss of the inner level, twice differentiable in parameters and exemplars (almost everywhere).
            outer: loss of the outer level.
            parameters: where the inner level starts; they are not changed.
            exemplars: a floating tensor; any shape.
            steps: inner steps, at least 1.
            lr: learning rate of the inner steps.
        """


def unrolled(
    inner: InnerLoss, outer: OuterLoss, parameters: Parameters, exemplars: Tensor, steps: int, lr: float
) -> Hypergradient:
    """Exact, by differentiating through all inner steps at once; memory grows with their number."""
    exemplars = exemplars.detach().requires_grad_()
    theta = _leaves(parameters)
    for step in range(steps):
        theta = _descend(theta, _gradients(_sum(inner(theta, exemplars, step)), theta, create_graph=True), lr)
    loss = outer(theta)
    (gradient,) = torch.autograd.grad(loss, exemplars)
    return Hypergradient(loss.detach(), gradient)


def reverse(
    inner: InnerLoss, outer: OuterLoss, parameters: Parameters, exemplars: Tensor, steps: int, lr: float
) -> Hypergradient:
    """Exact, by the recurrence of reverse mode; memory holds one step's graph whatever their number.

    The parameters of every step are kept. Backwards, each step is computed again and differentiated alone
    (Maclaurin, Duvenaud and Adams, ICML 2015, algorithm 2, with stored parameters in place of reversed momentum):
    with v = d outer / d theta_{t+1}, the exemplars receive -lr * v' d2 inner / d theta d exemplars, and v becomes
    v - lr * v' d2 inner / d theta2.
    """
    return _reverse(inner, outer, parameters, exemplars, range(steps), lr)


def truncated(window: int) -> Way:
    """A way that is exact for the last ``window`` steps, and takes the parameters before them as given.

    With ``steps`` drawn at random it is RaT-BPTT (Feng, Vedantam and Kempe, "Embarrassingly Simple Dataset
    Distillation", ICLR 2024). The earlier steps cost plain training, and none of their parameters is kept.

    Args:
        window: steps to differentiate, at least 1; all of them where there are no more.

    Raises:
        ValueError: ``window`` is below 1.
    """
    if window < 1:
        raise ValueError(f"a window of {window} steps: no step would be differentiated")

    def way(
        inner: InnerLoss, outer: OuterLoss, parameters: Parameters, exemplars: Tensor, steps: int, lr: float
    ) -> Hypergradient:
        first = max(steps - window, 0)
        theta = _leaves(parameters)
        for step in range(first):
            theta = _step(inner, theta, exemplars, step, lr)
        return _reverse(inner, outer, theta, exemplars, range(first, steps), lr)

    return way


def first_order(
    inner: InnerLoss, outer: OuterLoss, parameters: Parameters, exemplars: Tensor, steps: int, lr: float
) -> Hypergradient:
    """``reverse`` without second derivatives with respect to the parameters; exact for one step.

    The adjoint v = d outer / d theta_T stays as it is through all steps, as in first-order MAML (Finn, Abbeel and
    Levine, ICML 2017). Every step's mixed derivative -lr * v' d2 inner / d theta d exemplars remains.
    """
    return _reverse(inner, outer, parameters, exemplars, range(steps), lr, second_order=False)


def closed_form(
    features: Tensor, labels: Tensor, queries: Tensor, targets: Tensor, classes: int, ridge: float, scale: float
) -> Hypergradient:
    """The loss of a linear head that is solved for, not trained, and its gradient with respect to ``features``.

    The head is the ridge regression from features of length 1 to one-hot labels less 1 / classes (which moves all of
    an image's logits alike, and the loss not at all); its logits are ``scale`` times its outputs, and the loss is their
    cross-entropy. After Bertinetto et al., "Meta-learning with differentiable closed-form solvers", ICLR 2019, who
    learn ridge and scale; here both are fixed.

    Args:
        features: of the exemplars, floating (m, d). A graph behind them is left alone: hand it the gradient.
        labels: of the exemplars, int64 (m,), below ``classes``.
        queries: features of the images to do well on, floating (n, d).
        targets: their labels, int64 (n,), below ``classes``.
        classes: of the head.
        ridge: weight of the squared norm of the head beside the sum of squared errors, above 0.
        scale: of the logits, above 0.

    Raises:
        ValueError: ``ridge`` or ``scale`` is not above 0.
    """
    if not (ridge > 0 and scale > 0):
        raise ValueError(f"ridge {ridge} and scale {scale} must be above 0")
    features = features.detach().requires_grad_()
    head = ridge_regression(F.normalize(features), F.one_hot(labels, classes).to(features) - 1 / classes, ridge)
    loss = F.cross_entropy(scale * F.normalize(queries.detach()) @ head, targets)
    (gradient,) = torch.autograd.grad(loss, features)
    return Hypergradient(loss.detach(), gradient)


def ridge_regression(x: Tensor, y: Tensor, ridge: float) -> Tensor:
    """The (d, k) minimum of |x w - y|^2 + ridge |w|^2 over w, by the smaller of its two systems."""
    m, d = x.shape
    system, side = (x @ x.T, y) if m <= d else (x.T @ x, x.T @ y)
    regulariser = ridge * torch.eye(len(system), dtype=x.dtype, device=x.device)
    solution: Tensor = torch.linalg.solve(system + regulariser, side)
    return x.T @ solution if m <= d else solution


def _reverse(
    inner: InnerLoss,
    outer: OuterLoss,
    parameters: Parameters,
    exemplars: Tensor,
    steps: range,
    lr: float,
    second_order: bool = True,
) -> Hypergradient:
    """Through ``steps``, of which the first starts at ``parameters``; see :func:`reverse` and :func:`first_order`."""
    exemplars = exemplars.detach().requires_grad_()
    path = [_leaves(parameters)]
    for step in steps:
        path.append(_step(inner, path[-1], exemplars, step, lr))
    loss = outer(path[-1])
    adjoint = _gradients(loss, path.pop())
    total = torch.zeros_like(exemplars)
    for step in reversed(steps):
        theta, after = path.pop(), adjoint
        for part in _parts(inner(theta, exemplars, step)):
            gradients = _gradients(part, theta, create_graph=True)
            mixed, hessian_products = _products(gradients, after, exemplars, theta if second_order else {})
            total -= lr * mixed
            adjoint = _descend(adjoint, hessian_products, lr) if second_order else adjoint
    return Hypergradient(loss.detach(), total)


def _step(inner: InnerLoss, theta: Parameters, exemplars: Tensor, step: int, lr: float) -> dict[str, Tensor]:
    """The parameters after one step from the leaves ``theta``, as leaves: nothing leads back from them."""
    reached = theta
    for part in _parts(inner(theta, exemplars.detach(), step)):
        reached = _descend(reached, _gradients(part, theta), lr)
    return _leaves(reached)


def _parts(loss: Tensor | Iterable[Tensor]) -> Iterable[Tensor]:
    return [loss] if isinstance(loss, Tensor) else loss


def _sum(loss: Tensor | Iterable[Tensor]) -> Tensor:
    return torch.stack(list(_parts(loss))).sum()


def _products(
    gradients: Parameters, vector: Parameters, exemplars: Tensor, theta: Parameters
) -> tuple[Tensor, dict[str, Tensor]]:
    """Derivatives of <gradients, vector> with respect to exemplars and theta, of which gradients is a function."""
    names = [name for name, gradient in gradients.items() if gradient.requires_grad]
    mixed, *products = torch.autograd.grad(
        [gradients[name] for name in names],
        [exemplars, *theta.values()],
        [vector[name] for name in names],
        allow_unused=True,
        materialize_grads=True,
    )
    return mixed, dict(zip(theta, products, strict=True))


def _leaves(parameters: Parameters) -> dict[str, Tensor]:
    return {name: value.detach().requires_grad_() for name, value in parameters.items()}


def _gradients(loss: Tensor, theta: Parameters, create_graph: bool = False) -> dict[str, Tensor]:
    gradients = torch.autograd.grad(
        loss, list(theta.values()), create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return dict(zip(theta, gradients, strict=True))


def _descend(theta: Parameters, gradients: Parameters, lr: float) -> dict[str, Tensor]:
    return {name: value - lr * gradients[name] for name, value in theta.items()}


WAYS: dict[str, Way] = {"unrolled": unrolled, "reverse": reverse}
"""The exact ways, by name."""
