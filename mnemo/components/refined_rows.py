"""SIB in a stream: the rows of all classes seen, refined by the test images; transductive.

Hu, Moreno, Xiao, Shen, Obozinski, Lawrence and Damianou, "Empirical Bayes Transductive Meta-Learning with Synthetic
Gradients", ICLR 2020. How it is put into streams is no paper's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..fewshot.gradient_descent import Head
from .synthetic_gradient import PerClass

QUERIES_AT_ONCE = 1000


class RefinedRows(nn.Module):
    """K steps on the rows of a cosine head, along (dz/dθ)' ξ(z) summed over queries, where z are their logits.

    Departures from SIB: rows start as the head has them, old and new ones, with no learned diagonal, scale or bias;
    ξ is :class:`mnemo.components.synthetic_gradient.PerClass`, because classes become more from phase to phase; the
    rate is that of a sum over as many queries as there are in the mean for one class, so that steps are as long
    however many classes and queries there are.

    Args:
        steps: K.
        rate: of a step.
    """

    def __init__(self, steps: int, rate: float) -> None:
        super().__init__()
        self.steps, self.rate = steps, rate
        self.synthesiser = PerClass()

    def forward(self, rows: Tensor, queries: Tensor, temperature: float) -> Tensor:
        """Rows (classes, d) of length 1, refined by queries (n, d)."""
        share = self.rate * len(rows) / len(queries)
        for _ in range(self.steps):
            parts = [self._gradient(rows, some, temperature) for some in queries.split(QUERIES_AT_ONCE)]
            rows = F.normalize(rows - share * torch.stack(parts).sum(0))
        return rows

    def _gradient(self, rows: Tensor, queries: Tensor, temperature: float) -> Tensor:
        head = Head(rows.unsqueeze(0), rows.new_zeros(1, len(rows)), temperature)
        synthetic = self.synthesiser(head.logits(queries.unsqueeze(0)))
        slopes: Tensor = head.gradient(queries.unsqueeze(0), synthetic)[0][0]
        return slopes
