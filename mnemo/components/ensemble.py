"""An ensemble of a base-learner's epochs: E3BM and its first version LCC (Liu, Schiele and Sun, ECCV 2020).

A base-learner takes steps m = 1..M. What it says of a query is the sum over epochs of v_m f(x; θ_m), on logits; θ_0's
are not among them. Learning rates α_m and weights v_m come from :mod:`mnemo.components.hyperprior`.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..disk.files import InputError
from ..fewshot.base_learner import BaseLearner, query_loss
from ..fewshot.tasks import Tasks
from .epochs import Epochs, Fast, moved
from .hyperprior import Hyperprior, HyperpriorLearner, Pace, States


class Ensemble(BaseLearner):
    """A base-learner that is led by a hyperprior, and whose epochs are combined.

    Args:
        base: takes the steps; its own rate and number of steps are not used.
        prior: what is learned of steps and weights.
        steps: M, in meta-training and afterwards.
        rate: α of every epoch, at first.

    Raises:
        InputError: there is no epoch.
    """

    def __init__(self, base: Epochs, prior: Hyperprior, *, steps: int = 100, rate: float = 0.01) -> None:
        super().__init__()
        if steps < 1:
            raise InputError("an ensemble over epochs needs at least one step")
        self.base, self.prior, self.steps = base, prior, steps
        self.hyperprior = HyperpriorLearner(prior, base.features, steps=steps, rate=rate, layers=1 + max(base.layers))
        self.takes_pixels = base.takes_pixels
        self.transductive = base.transductive or (self.hyperprior.generates and prior.condition == "query")

    @property
    def needs_answers(self) -> bool:
        """Whether this is the oracle: an upper bound, which only :meth:`solve` gives."""
        return self.prior.combine == "oracle"

    def forward(self, tasks: Tasks) -> Tensor:
        """Logits (t, q, ways), combined.

        Raises:
            TypeError: this is the oracle, which must be told the answers.
        """
        if self.needs_answers:
            raise TypeError("an oracle must be told the answers: call solve")
        if self.prior.combine == "last":
            for _, theta in self.epochs(tasks):
                final = theta
            return self.base.logits(tasks, final)
        paces, logits = self._course(tasks)
        return torch.einsum("tm,tmqc->tqc", self._weights(paces), logits)

    def oracle_logits(self, tasks: Tasks, answers: Tensor) -> Tensor:
        """Logits (t, q, ways) of each task's best epoch; see :func:`best_epochs`.

        Args:
            tasks: as in :meth:`forward`.
            answers: the queries' labels, (t, q).
        """
        _, logits = self._course(tasks)
        best = best_epochs(logits, answers)
        return logits[torch.arange(len(best), device=best.device), best]

    def loss(self, tasks: Tasks, answers: Tensor) -> Tensor:
        """The cross-entropy of the queries, whose labels are ``answers`` (t, q); an oracle's, of its best epochs."""
        return query_loss(self.solve(tasks, answers), answers)

    def solve(self, tasks: Tasks, answers: Tensor) -> Tensor:
        """Logits (t, q, ways) for evaluation; only an oracle looks at the queries' labels ``answers`` (t, q)."""
        logits: Tensor = self.oracle_logits(tasks, answers) if self.needs_answers else self(tasks)
        return logits

    def evidence(self, tasks: Tasks) -> dict[str, Tensor]:
        """What led the epochs: ``alpha`` (t, M), ``v`` (t, M), ``decay`` (M,).

        Where layers have rates of their own, ``alpha`` and ``decay`` are means over them. An oracle has no ``v``: it
        depends on the answers.
        """
        paces = [pace for pace, _ in self.epochs(tasks)]
        alpha = torch.stack([pace.alpha.mean(1) for pace in paces], 1).detach()
        decay = torch.stack([pace.decay.mean() for pace in paces]).detach()
        weights = {} if self.needs_answers else {"v": self._weights(paces).detach()}
        return {"alpha": alpha, **weights, "decay": decay}

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """What is meta-learned, in groups that want rates of their own: ``base``, ``alpha``, ``v`` and ``psi``.

        LCC's weights of the L2 penalty are with ``alpha``. A group without parameters is empty.
        """
        learner = self.hyperprior
        parts = {
            "base": [*self.base.parameters()],
            "alpha": [learner.alpha0, learner.decay],
            "v": [learner.v0],
            "psi": [p for psi in (learner.psi_alpha, learner.psi_v) if psi is not None for p in psi.parameters()],
        }
        return {name: [p for p in parameters if p.requires_grad] for name, parameters in parts.items()}

    def epochs(self, tasks: Tasks) -> Iterator[tuple[Pace, Fast]]:
        """What led each epoch m = 1..M, and θ_m after it."""
        theta = self.base.begin(tasks)
        condition = theta[0].new_zeros(0)
        if self.hyperprior.generates:
            condition = self.base.condition(tasks, self.prior.condition == "query")
        states: States = (None, None)
        for index in range(self.steps):
            gradient = self.base.gradient(tasks, theta)
            pace, states = self.hyperprior.pace(index, condition, gradient[0], theta[0], states)
            theta = moved(theta, gradient, pace.alpha, pace.decay, self.base.layers)
            yield pace, theta

    def _course(self, tasks: Tasks) -> tuple[list[Pace], Tensor]:
        """What led the epochs, and the logits (t, M, q, ways) after each."""
        course = [(pace, self.base.logits(tasks, theta)) for pace, theta in self.epochs(tasks)]
        return [pace for pace, _ in course], torch.stack([logits for _, logits in course], 1)

    def _weights(self, paces: list[Pace]) -> Tensor:
        return self.hyperprior.weights(torch.stack([pace.v for pace in paces], 1))


def best_epochs(logits: Tensor, answers: Tensor) -> Tensor:
    """Which epoch (t,), 0..M-1, of logits (t, M, q, ways) gives most queries their labels (t, q); of several the last.

    An oracle's choice: nobody who is asked a task knows it.
    """
    right = (logits.argmax(3) == answers.unsqueeze(1)).sum(2)
    return right.shape[1] - 1 - right.flip(1).argmax(1)
