"""Mnemonics Training (Liu, Su, Liu, Schiele and Sun, CVPR 2020), on top of another strategy."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from pydantic import NonNegativeFloat

from mnemo.learner import Strategy
from mnemo.mnemonics import Adjust, Bilevel, Optimise
from mnemo.settings import FineTuning, Memory, Training
from mnemo.stages import Compress, Stage

from .bic import bic
from .icarl import icarl
from .lucir import lucir
from .lwf import lwf


def mnemonics(
    *,
    on: Literal["lucir", "icarl", "lwf", "bic"] = "lucir",
    training: Training = Training(),
    memory: Memory = Memory(exemplars="random"),
    bilevel: Bilevel = Bilevel(),
    fine_tuning: FineTuning = FineTuning(fine_tune_epochs=50),
    less_forget: NonNegativeFloat = 5.0,
) -> Strategy:
    """Optimise the pixels of exemplars so that training on them does what training on all images would do.

    Algorithm 1 of the paper: train as ``on`` does; choose exemplars at random; optimise them by bilevel gradients
    (equations 7 to 9); adjust the older ones, half by half (equation 10); fine-tune on all exemplars. What the paper
    leaves open is decided, and said, in :mod:`mnemo.mnemonics`. Departs from it: the network is ``on``'s own, without
    the weight transfer of the paper's supplement, so that method and baseline share it.

    The control is ``on`` itself with the same ``fine_tune_epochs``.

    Args:
        on: the strategy that trains the network.
        training: see :class:`mnemo.settings.Training`.
        memory: see :class:`mnemo.settings.Memory`; optimisation starts from a random sample, as in the paper.
        bilevel: see :class:`mnemo.mnemonics.Bilevel`.
        fine_tuning: see :class:`mnemo.settings.FineTuning`.
        less_forget: of LUCIR, where that is the base; ImageNet has 10.
    """
    if on == "lucir":
        base = lucir(training=training, memory=memory, fine_tuning=fine_tuning, less_forget=less_forget)
    else:
        recipe = {"icarl": icarl, "lwf": lwf, "bic": bic}[on]
        base = recipe(training=training, memory=memory, fine_tuning=fine_tuning)  # type: ignore[operator]
    return dataclasses.replace(base, stages=_with_optimised_exemplars(base.stages, bilevel))


def _with_optimised_exemplars(stages: Sequence[Stage], bilevel: Bilevel) -> list[Stage]:
    """The same stages, with the paper's two after the one that chooses exemplars."""
    result: list[Stage] = []
    for stage in stages:
        result.append(stage)
        if isinstance(stage, Compress):
            result += [Optimise(bilevel), Adjust(bilevel)]
    return result
