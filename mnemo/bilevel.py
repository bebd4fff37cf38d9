"""Hypergradients: how the loss after some steps of training changes with the images that were trained on.

The inner level makes ``steps`` of plain gradient descent from given parameters on a loss of the exemplars; the outer
level measures another loss at the parameters so reached (Liu et al., CVPR 2020, equations 8 and 9):

    theta_0 = parameters;   theta_{t+1} = theta_t - lr * grad_theta inner(theta_t, exemplars, t);
    gradient = d outer(theta_T) / d exemplars.

Every way of computing it has the same signature. ``unrolled`` and ``reverse`` are exact and agree to rounding; the
first holds all steps in memory, the second one step and T sets of parameters, for about one more pass a step.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

import torch
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
    exemplars = exemplars.detach().requires_grad_()
    path = [_leaves(parameters)]
    for step in range(steps):
        reached: Parameters = path[-1]
        for part in _parts(inner(path[-1], exemplars.detach(), step)):
            reached = _descend(reached, _gradients(part, path[-1]), lr)
        path.append(_leaves(reached))
    loss = outer(path[-1])
    adjoint = _gradients(loss, path.pop())
    total = torch.zeros_like(exemplars)
    for step in reversed(range(steps)):
        theta, after = path.pop(), adjoint
        for part in _parts(inner(theta, exemplars, step)):
            gradients = _gradients(part, theta, create_graph=True)
            mixed, hessian_products = _products(gradients, after, exemplars, theta)
            total -= lr * mixed
            adjoint = _descend(adjoint, hessian_products, lr)
    return Hypergradient(loss.detach(), total)


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
