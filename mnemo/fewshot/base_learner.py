"""The contract of base-learners: they learn a task from features, and say what they think of its queries."""

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .tasks import Tasks


class BaseLearner(nn.Module):
    """Learns each task of a batch by itself; its own parameters are what is meta-learned.

    Attributes:
        transductive: whether what it says of a query depends on the other queries.
        takes_pixels: whether it embeds tasks itself, because it changes the network.
    """

    transductive = False
    takes_pixels = False

    def forward(self, tasks: Tasks) -> Tensor:
        """Logits (t, q, ways) of the queries of tasks whose images are features; differentiable in them."""
        raise NotImplementedError

    def loss(self, tasks: Tasks, answers: Tensor) -> Tensor:
        """What meta-training lessens, a scalar: the cross-entropy of the queries, whose labels are ``answers`` (t, q).

        A base-learner that trains its parts on different losses adds them up, and detaches what each must not reach.
        """
        return query_loss(self(tasks), answers)

    def solve(self, tasks: Tasks, answers: Tensor) -> Tensor:
        """Logits (t, q, ways) for evaluation. Only an upper bound looks at the queries' labels ``answers`` (t, q)."""
        logits: Tensor = self(tasks)
        return logits

    def groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Parameters that may have a learning rate of their own, by the name of their group; none by default."""
        return {}

    def evidence(self, tasks: Tasks) -> dict[str, Tensor]:
        """What a report can show of how these tasks were learned, by name; nothing by default."""
        return {}


def query_loss(logits: Tensor, answers: Tensor) -> Tensor:
    """The mean cross-entropy of logits (t, q, ways) and labels (t, q)."""
    return F.cross_entropy(logits.flatten(0, 1), answers.flatten())
