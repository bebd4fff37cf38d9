"""Mnemonics Training (Liu, Su, Liu, Schiele and Sun, CVPR 2020), on top of another strategy, and its neighbours."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from pydantic import NonNegativeFloat

from mnemo.counts import NonNegativeInt
from mnemo.disk.files import InputError
from mnemo.exemplars.distribution_matching import DistributionMatching
from mnemo.exemplars.gradient_matching import GradientMatching
from mnemo.exemplars.mnemonics import Bilevel, Mnemonics
from mnemo.exemplars.nearest_mean import NearestMean
from mnemo.exemplars.pixels import Objective, PixelSteps
from mnemo.exemplars.rehearsal import Rehearsal
from mnemo.exemplars.stages import Accept, Adjust, Optimise
from mnemo.exemplars.starts import Starts
from mnemo.learner import Strategy
from mnemo.settings import FineTuning, Memory, Training
from mnemo.stages import Compress, Stage, Train

from .bic import bic
from .icarl import icarl
from .lucir import lucir
from .lwf import lwf

OBJECTIVES = Literal["bilevel", "gradient_matching", "distribution_matching", "nearest_mean"]


def mnemonics(
    *,
    on: Literal["lucir", "icarl", "lwf", "bic"] = "lucir",
    objective: OBJECTIVES = "bilevel",
    training: Training = Training(),
    memory: Memory = Memory(exemplars="random"),
    pixels: PixelSteps = PixelSteps(),
    bilevel: Bilevel = Bilevel(),
    starts: Starts = Starts(),
    guard_runs: NonNegativeInt = 0,
    fine_tuning: FineTuning = FineTuning(fine_tune_epochs=50),
    less_forget: NonNegativeFloat = 5.0,
) -> Strategy:
    """Optimise the pixels of exemplars so that training on them does what training on all images would do.

    Algorithm 1 of the paper: train as ``on`` does; choose exemplars at random; optimise them by bilevel gradients
    (equations 7 to 9); adjust the older ones, half by half (equation 10); fine-tune on all exemplars. What the paper
    leaves open is decided, and said, in :mod:`mnemo.exemplars.mnemonics`. Departs from it: the network is ``on``'s own;
    ``transfer=scaling`` adds the weight transfer of the paper's supplement, to method and baseline alike.

    The control is ``on`` itself with the same ``fine_tune_epochs``.

    Args:
        on: the strategy that trains the network.
        objective: what exemplars are optimised for: the paper's ``bilevel`` gradients, or one that it is to be compared
            with; see :mod:`mnemo.exemplars`.
        training: see :class:`mnemo.settings.Training`.
        memory: see :class:`mnemo.settings.Memory`; optimisation starts from a random sample, as in the paper.
        pixels: see :class:`mnemo.exemplars.pixels.PixelSteps`.
        bilevel: see :class:`mnemo.exemplars.mnemonics.Bilevel`.
        starts: see :class:`mnemo.exemplars.starts.Starts`.
        guard_runs: rehearsals of a whole phase in which optimised exemplars must win against what they were, or else be
            given up; 0: they are taken as they are.
        fine_tuning: see :class:`mnemo.settings.FineTuning`.
        less_forget: of LUCIR, where that is the base; ImageNet has 10.

    Raises:
        InputError: the strategy's own loss is asked for where only the head learns, or several codecs are.
    """
    if bilevel.level != "network" and (bilevel.inner_loss, bilevel.outer_loss) != ("cross_entropy", "cross_entropy"):
        raise InputError(f"level={bilevel.level}: inner_loss and outer_loss are cross_entropy unless level=network")
    if memory.codec == "best-jpeg" and pixels.exemplar_epochs:
        raise InputError("codec=best-jpeg chooses among codecs before pixels move: optimise through one, such as jpeg")
    if on == "lucir":
        base = lucir(training=training, memory=memory, fine_tuning=fine_tuning, less_forget=less_forget)
    else:
        recipe = {"icarl": icarl, "lwf": lwf, "bic": bic}[on]
        base = recipe(training=training, memory=memory, fine_tuning=fine_tuning)  # type: ignore[operator]
    rehearsal = _rehearsal(base, starts)
    objectives: dict[str, Objective] = {
        "bilevel": Mnemonics(bilevel, starts, rehearsal),
        "gradient_matching": GradientMatching(starts, rehearsal),
        "distribution_matching": DistributionMatching(starts, rehearsal),
        "nearest_mean": NearestMean(),
    }
    moved_by = objectives[objective]
    guard = [Accept(rehearsal, guard_runs)] if guard_runs else []
    added: list[Stage] = [Optimise(moved_by, pixels), *guard, Adjust(moved_by, pixels)]
    return dataclasses.replace(base, stages=_after_compression(base.stages, added))


def _rehearsal(base: Strategy, starts: Starts) -> Rehearsal:
    """The base's phase without its memory."""
    train, *others = [stage for stage in base.stages if isinstance(stage, Train)]
    return Rehearsal(
        train,
        others[0] if others else None,
        base.imprint,
        starts.pseudo_classes,
        starts.pseudo_images,
        starts.rehearsal_epochs,
    )


def _after_compression(stages: Sequence[Stage], added: Sequence[Stage]) -> list[Stage]:
    """The same stages, with those of the paper after the one that chooses exemplars."""
    where = next(index for index, stage in enumerate(stages) if isinstance(stage, Compress))
    return [*stages[: where + 1], *added, *stages[where + 1 :]]
