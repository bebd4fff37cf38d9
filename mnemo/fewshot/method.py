"""What solves tasks: a network and a base-learner on its features."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .base_learner import BaseLearner
from .embedder import Embedder
from .tasks import Tasks


class Method(nn.Module):
    """A network and a base-learner on its features.

    Args:
        embedder: pixels to features; what of it requires gradients is meta-learned.
        base: learns each task from features.
        rates: learning rates of groups of the base-learner's parameters, as multiples of the others'.
    """

    def __init__(self, embedder: Embedder, base: BaseLearner, rates: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.embedder, self.base, self.rates = embedder, base, dict(rates or {})

    @property
    def transductive(self) -> bool:
        """Whether what is said of a query depends on the other queries."""
        return self.base.transductive or self.embedder.batch_norm == "batch"

    @property
    def takes_features(self) -> bool:
        """Whether a task's images may come as features, because an image has the same ones in every task."""
        return self.embedder.batch_norm == "running" and not self.base.takes_pixels

    @property
    def learns(self) -> bool:
        """Whether there is anything to meta-train."""
        return any(p.requires_grad for p in self.parameters())

    def forward(self, tasks: Tasks) -> Tensor:
        """Logits (t, q, ways) of the queries of tasks of pixels or of features."""
        logits: Tensor = self.base(self._given(tasks))
        return logits

    def solve(self, tasks: Tasks, answers: Tensor) -> Tensor:
        """Logits (t, q, ways) for evaluation; ``answers`` (t, q) are for base-learners that are an upper bound."""
        return self.base.solve(self._given(tasks), answers)

    def loss(self, tasks: Tasks, answers: Tensor) -> Tensor:
        """What meta-training lessens, a scalar; ``answers`` are the queries' labels, int64 (t, q)."""
        return self.base.loss(self._given(tasks), answers)

    def evidence(self, tasks: Tasks) -> dict[str, Tensor]:
        """What a report can show of how these tasks were learned; see :class:`BaseLearner`."""
        return self.base.evidence(self._given(tasks))

    def embedded(self, tasks: Tasks) -> Tasks:
        """The same tasks with features for images."""
        return self.embedder.embed(tasks) if tasks.support.ndim == 5 else tasks

    def _given(self, tasks: Tasks) -> Tasks:
        return tasks if self.base.takes_pixels else self.embedded(tasks)

    def groups(self, rate: float, network_share: float = 1.0) -> list[dict[str, Any]]:
        """Groups of parameters that learn, for an optimiser, each with its ``lr`` and, as ``share``, its multiple.

        Args:
            rate: what shares are multiples of.
            network_share: the network's.
        """
        named = {name: [*group] for name, group in self.base.groups().items() if name in self.rates}
        shares = {"network": network_share, "base": 1.0, **self.rates}
        special = {id(p) for group in named.values() for p in group}
        parts = {
            "network": [*self.embedder.parameters()],
            "base": [p for p in self.base.parameters() if id(p) not in special],
            **named,
        }
        learning = {name: [p for p in group if p.requires_grad] for name, group in parts.items()}
        return [
            {"params": group, "share": shares[name], "lr": rate * shares[name]}
            for name, group in learning.items()
            if group
        ]


@torch.no_grad()
def features(embedder: Embedder, pixels: Tensor, batch: int = 512) -> Tensor:
    """Features (n, d) of pixels uint8 (n, c, h, w), by running statistics, on the network's device."""
    return torch.cat([embedder(part.to(embedder.mean.device)) for part in pixels.split(batch)])
