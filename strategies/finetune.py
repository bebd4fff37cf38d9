"""Fine-tuning: train on what comes, keep nothing. The floor."""

from mnemo.learner import Strategy
from mnemo.memory import per_class
from mnemo.settings import Training
from mnemo.stages import Train

from .objectives import Head, cross_entropy


def finetune(*, training: Training = Training(), head: Head = "cosine") -> Strategy:
    """Train on each phase's images alone, without memory: shows how much is forgotten.

    Args:
        training: see :class:`mnemo.settings.Training`.
        head: ``cosine`` makes the network LUCIR's and Mnemonics'; ``linear`` that of the others.
    """
    return Strategy(
        stages=[Train(cross_entropy, training.schedule, training.base_schedule)],
        budget=per_class(0),
        backbone=training.backbone,
        transfer=training.transfer,
        hold_out=training.hold_out,
        head=head,
    )
