"""Joint training: keep every image. The ceiling."""

from mnemo.compression import random_choice
from mnemo.learner import Strategy
from mnemo.memory import everything
from mnemo.settings import Training
from mnemo.stages import Compress, Train

from .objectives import Head, cross_entropy


def joint(*, training: Training = Training(), head: Head = "cosine", from_scratch: bool = True) -> Strategy:
    """Train on all images of all classes seen so far: what a learner without memory limits reaches.

    Args:
        training: see :class:`mnemo.settings.Training`; a phase has ``epochs`` passes over all images.
        head: ``cosine`` makes the network LUCIR's and Mnemonics'; ``linear`` that of the others.
        from_scratch: every phase begins with a new network; otherwise with the last phase's.
    """
    return Strategy(
        stages=[Train(cross_entropy, training.schedule, training.base_schedule), Compress(random_choice)],
        budget=everything(),
        backbone=training.backbone,
        transfer=training.transfer,
        hold_out=training.hold_out,
        head=head,
        from_scratch=from_scratch,
        nearest_mean=False,
    )
