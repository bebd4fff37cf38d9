"""The hyperprior learner of E3BM: how fast each epoch learns, and how much it counts, as a task seems to want it.

Liu, Schiele and Sun, "An Ensemble of Epoch-wise Empirical Bayes for Few-shot Learning", ECCV 2020; its first version,
LCC (arXiv 1904.08479v1), learns both, and an L2 penalty, as numbers that are the same for every task.
"""

import math
from typing import Annotated, Literal, NamedTuple

import pydantic
import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from ..settings import STRICT


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Hyperprior:
    """What of an ensemble over epochs is learned, and from what; the defaults are those of the public code.

    Attributes:
        alpha: ``fixed``, ``learned`` as a number for each epoch, or such a number plus a ``generated`` part.
        combine: v is (0, .., 0, 1) for ``last`` and 1/M for ``equal``; it is ``learned`` or ``generated`` as α is; or
            an ``oracle`` picks the epoch that is best on the queries, which is an upper bound.
        decay: LCC's λ, the weight of an L2 penalty: none, or ``learned`` as a number for each epoch, from 0.
        hyperprior: Ψ, a row of its own for every epoch (``fc``, epoch-independent) or an ``lstm`` over the epochs.
        condition: whose mean feature Ψ sees, the ``support``'s (inductive) or the ``query``'s (transductive).
        statistic: what it sees of the gradient g of the classifier's rows: their mean (``class_mean``), which is 0 for
            a linear head under a softmax; or mean |g|, the norm and the cosine with the row, averaged over classes
            (``per_class``), which is no paper's.
        softweight: what the generated part is multiplied by.
        normalise_v: leave a learned v as it is, or make it a ``softmax``.
        first_weights: v at first, like the ``last`` epoch alone or ``equal``; a softmax gives the last 99 %.
        lstm_width: of the LSTM's state.
    """

    alpha: Literal["fixed", "learned", "generated"] = "generated"
    combine: Literal["last", "equal", "learned", "generated", "oracle"] = "generated"
    decay: Literal["off", "learned"] = "off"
    hyperprior: Literal["fc", "lstm"] = "fc"
    condition: Literal["support", "query"] = "support"
    statistic: Literal["class_mean", "per_class"] = "class_mean"
    softweight: NonNegativeFloat = 1e-4
    normalise_v: Literal["none", "softmax"] = "none"
    first_weights: Literal["last", "equal"] = "last"
    lstm_width: Annotated[int, Field(ge=16)] = 16


State = tuple[Tensor, Tensor]
States = tuple[State | None, State | None]
"""What the networks of alpha and of v remember of earlier epochs; None at the start of every batch of tasks."""


class Pace(NamedTuple):
    """What the hyperprior says of an epoch.

    Attributes:
        alpha: (t, layers), learning rates.
        decay: (layers,), weights of the L2 penalty.
        v: (t,), what the epoch counts, before any normalisation.
    """

    alpha: Tensor
    decay: Tensor
    v: Tensor


class RowPerEpoch(nn.Module):
    """Ψ without memory: an affine function of its own for each epoch."""

    def __init__(self, inputs: int, steps: int) -> None:
        super().__init__()
        self.rows = nn.Linear(inputs, steps)

    def forward(self, index: int, inputs: Tensor, state: State | None) -> tuple[Tensor, State | None]:
        """A number for each task, (t,), from inputs (t, inputs)."""
        return inputs @ self.rows.weight[index] + self.rows.bias[index], state


class Recurrent(nn.Module):
    """Ψ with memory: an LSTM over a task's epochs and a linear function of its state.

    The public code's has a width of 1, and a state that is never reset, so that its second task cannot be learned.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.cell, self.output = nn.LSTMCell(inputs, hidden), nn.Linear(hidden, 1)

    def forward(self, index: int, inputs: Tensor, state: State | None) -> tuple[Tensor, State | None]:
        """A number for each task, (t,), from inputs (t, inputs), and the state for the next epoch."""
        state = self.cell(inputs, state)
        return self.output(state[0]).squeeze(1), state


class HyperpriorLearner(nn.Module):
    """α_m = α0_m + λ Ψ_α(s, g_m) and v_m = v0_m + λ Ψ_v(s, g_m), for epochs m = 1..M, which are numbered from 0 here.

    Args:
        settings: what is learned.
        features: d.
        steps: M, the same in meta-training and afterwards: every epoch has numbers of its own.
        rate: α of every epoch, at first.
        layers: that have rates of their own.
    """

    def __init__(self, settings: Hyperprior, features: int, *, steps: int, rate: float, layers: int = 1) -> None:
        super().__init__()
        self.settings, self.steps = settings, steps
        self.learns_v = settings.combine in ("learned", "generated")
        self.alpha0 = nn.Parameter(torch.full((steps, layers), rate), settings.alpha != "fixed")
        self.decay = nn.Parameter(torch.zeros(steps, layers), settings.decay == "learned")
        self.v0 = nn.Parameter(first_weights(settings, steps), self.learns_v)
        self.psi_alpha = self._network(features) if settings.alpha == "generated" else None
        self.psi_v = self._network(features) if settings.combine == "generated" else None

    def _network(self, features: int) -> RowPerEpoch | Recurrent:
        inputs = features + (features if self.settings.statistic == "class_mean" else 3)
        if self.settings.hyperprior == "fc":
            return RowPerEpoch(inputs, self.steps)
        return Recurrent(inputs, self.settings.lstm_width)

    @property
    def generates(self) -> bool:
        """Whether anything depends on the task."""
        return self.psi_alpha is not None or self.psi_v is not None

    def pace(
        self, index: int, condition: Tensor, gradient: Tensor, weight: Tensor, states: States = (None, None)
    ) -> tuple[Pace, States]:
        """What to do in an epoch, and what to hand to the next.

        Args:
            index: of the epoch, 0..M-1.
            condition: (t, d), the mean feature.
            gradient: (t, ways, d), of the classifier's rows before the step.
            weight: (t, ways, d), those rows.
            states: from the epoch before; none for the first.
        """
        alpha = self.alpha0[index].expand(len(gradient), -1)
        v = self.v0[index].expand(len(gradient))
        for_alpha, for_v = states
        if self.generates:
            inputs = torch.cat([condition, _STATISTICS[self.settings.statistic](gradient, weight)], 1)
            if self.psi_alpha is not None:
                part, for_alpha = self.psi_alpha(index, inputs, for_alpha)
                alpha = alpha + self.settings.softweight * part.unsqueeze(1)
            if self.psi_v is not None:
                part, for_v = self.psi_v(index, inputs, for_v)
                v = v + self.settings.softweight * part
        return Pace(alpha, self.decay[index], v), (for_alpha, for_v)

    def weights(self, v: Tensor) -> Tensor:
        """What epochs count in the end, (t, M), from what :meth:`pace` said of each."""
        return v.softmax(1) if self.learns_v and self.settings.normalise_v == "softmax" else v


def first_weights(settings: Hyperprior, steps: int) -> Tensor:
    """v0 (M,) before any learning; logarithms, but for a constant, where a softmax will be taken."""
    learns = settings.combine in ("learned", "generated")
    if (settings.first_weights if learns else settings.combine) == "equal":
        return torch.full((steps,), 1 / steps)
    weights = torch.zeros(steps)
    weights[-1] = math.log(99 * max(steps - 1, 1)) if learns and settings.normalise_v == "softmax" else 1
    return weights


def class_mean(gradient: Tensor, weight: Tensor) -> Tensor:
    """The mean (t, d) over classes of a gradient (t, ways, d), as in the public code."""
    return gradient.mean(1)


def per_class(gradient: Tensor, weight: Tensor) -> Tensor:
    """Mean |g|, norm, and cosine with the weight of each class's row, averaged over classes whose order is no matter.

    Args:
        gradient: (t, ways, d).
        weight: (t, ways, d).

    Returns:
        (t, 3).
    """
    numbers = (gradient.abs().mean(2), gradient.norm(dim=2), F.cosine_similarity(gradient, weight, dim=2))
    return torch.stack(numbers, 2).mean(1)


_STATISTICS = {"class_mean": class_mean, "per_class": per_class}
