"""Replay: train on what comes and on a few exemplars of what came before."""

from mnemo.learner import Strategy
from mnemo.settings import FineTuning, Memory, Training
from mnemo.stages import Train

from .objectives import Head, balanced_fine_tuning, cross_entropy


def replay(
    *,
    training: Training = Training(),
    memory: Memory = Memory(exemplars="random"),
    fine_tuning: FineTuning = FineTuning(),
    head: Head = "cosine",
) -> Strategy:
    """Cross-entropy on new images and exemplars, and nothing else.

    Args:
        training: see :class:`mnemo.settings.Training`.
        memory: see :class:`mnemo.settings.Memory`; exemplars are a random sample unless it says ``herding``.
        fine_tuning: see :class:`mnemo.settings.FineTuning`; none by default.
        head: ``cosine`` makes the network LUCIR's and Mnemonics'; ``linear`` that of the others.
    """
    return Strategy(
        stages=[
            Train(cross_entropy, training.schedule, training.base_schedule),
            memory.compress,
            *balanced_fine_tuning(fine_tuning, training),
        ],
        budget=memory.budget,
        codec=memory.storage,
        soft_labels=memory.soft_labels,
        backbone=training.backbone,
        transfer=training.transfer,
        hold_out=training.hold_out,
        waypoints=training.waypoints,
        head=head,
    )
