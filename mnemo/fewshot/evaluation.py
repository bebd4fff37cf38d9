"""Evaluation on episodes: an accuracy for each, their mean, and how sure one can be of it."""

import math
from collections.abc import Iterator

from torch import Tensor

from .episodes import Episodes
from .method import Method
from .source import Source

BATCH = 25
"""Tasks at once."""


def accuracies(method: Method, source: Source, episodes: Episodes, batch: int = BATCH) -> Iterator[Tensor]:
    """For each batch of episodes the share of queries that are named rightly after the last step, in %, (batch,).

    The method is in evaluation mode afterwards. It is not under ``no_grad`` as a whole: an inner loop may need
    gradients.
    """
    method.eval()
    for start in range(0, len(episodes), batch):
        some = episodes.slice(start, start + batch)
        tasks, answers = source.tasks(some), some.answers.to(source.labels.device)
        logits = method.solve(tasks, answers.to(tasks.support.device)).detach()
        right = logits.argmax(2).cpu() == some.answers
        yield 100 * right.double().mean(1)


def interval(values: Tensor) -> float:
    """Half the width of the 95 % interval of the mean of values (n,): 1.96 standard errors; 0 for a single one."""
    return 1.96 * float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else 0.0
