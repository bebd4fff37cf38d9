"""Learning without Forgetting (Li and Hoiem, ECCV 2016), in the form that class-incremental papers compare with."""

from pydantic import PositiveFloat

from mnemo.learner import Strategy
from mnemo.settings import FineTuning, Memory, Training
from mnemo.stages import Train

from .objectives import Head, balanced_fine_tuning, distilled_cross_entropy


def lwf(
    *,
    training: Training = Training(),
    memory: Memory = Memory(),
    fine_tuning: FineTuning = FineTuning(),
    head: Head = "linear",
    temperature: PositiveFloat = 2.0,
) -> Strategy:
    """Cross-entropy plus distillation from the previous network, at a ratio of one to one; predicts by the head.

    As LUCIR's public baseline and the Mnemonics paper have it: with exemplars ("LwF" in their tables), softmax over all
    classes, temperature 2. The original method keeps none: ``per_class=0``.

    Args:
        training: see :class:`mnemo.settings.Training`.
        memory: see :class:`mnemo.settings.Memory`.
        fine_tuning: see :class:`mnemo.settings.FineTuning`; none by default.
        head: ``linear``, or ``cosine`` to share LUCIR's network.
        temperature: of the distillation.
    """
    return Strategy(
        stages=[
            Train(
                distilled_cross_entropy(temperature),
                training.schedule,
                training.base_schedule,
                uses_previous=True,
            ),
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
