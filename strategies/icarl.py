"""iCaRL (Rebuffi, Kolesnikov, Sperl and Lampert, CVPR 2017), in the form that class-incremental papers compare with."""

import dataclasses

from pydantic import PositiveFloat

from mnemo.learner import Strategy
from mnemo.settings import FineTuning, Memory, Training

from .lwf import lwf
from .objectives import Head


def icarl(
    *,
    training: Training = Training(),
    memory: Memory = Memory(),
    fine_tuning: FineTuning = FineTuning(),
    head: Head = "linear",
    temperature: PositiveFloat = 2.0,
) -> Strategy:
    """Training with distillation, herded exemplars, and prediction by the nearest mean of exemplars.

    Departs from the paper as LUCIR's and Mnemonics' tables do: softmax cross-entropy and distillation in place of
    sigmoids, so that it differs from :func:`mnemo.strategies.lwf.lwf` by its classifier alone.

    Args:
        training: see :class:`mnemo.settings.Training`.
        memory: see :class:`mnemo.settings.Memory`.
        fine_tuning: see :class:`mnemo.settings.FineTuning`; none by default.
        head: what the network is trained through.
        temperature: of the distillation.
    """
    trained = lwf(training=training, memory=memory, fine_tuning=fine_tuning, head=head, temperature=temperature)
    return dataclasses.replace(trained, classifier="nearest_mean")
