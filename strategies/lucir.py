"""LUCIR: Learning a Unified Classifier Incrementally via Rebalancing (Hou, Pan, Loy, Wang and Lin, CVPR 2019)."""

import math

from pydantic import NonNegativeFloat
from torch import Tensor

from mnemo.counts import PositiveInt
from mnemo.learner import Strategy
from mnemo.losses import less_forget as less_forget_loss
from mnemo.losses import margin_ranking
from mnemo.nets import Outputs
from mnemo.settings import FineTuning, Memory, Training
from mnemo.stages import Train

from .objectives import balanced_fine_tuning, cross_entropy


def lucir(
    *,
    training: Training = Training(),
    memory: Memory = Memory(),
    fine_tuning: FineTuning = FineTuning(),
    less_forget: NonNegativeFloat = 5.0,
    margin: float = 0.5,
    hardest: PositiveInt = 2,
    margin_weight: NonNegativeFloat = 1.0,
) -> Strategy:
    """A cosine head with imprinted new weights, a less-forget constraint on features, and margin ranking.

    The loss is cross-entropy (equation 4) + less_forget * sqrt(old / new classes) * (1 - cosine of new and old
    features) (equation 6) + margin_weight * margin ranking on cosines (equation 8). The old classes' weights do not
    learn. There is no distillation of logits. Defaults are the public code's for CIFAR-100; ImageNet has
    ``less_forget=10``.

    Args:
        training: see :class:`mnemo.settings.Training`.
        memory: see :class:`mnemo.settings.Memory`.
        fine_tuning: see :class:`mnemo.settings.FineTuning`; none by default, as in LUCIR's CIFAR-100 experiments.
        less_forget: weight of the less-forget constraint, before the adaptation to the number of classes.
        margin: of the ranking, between cosines.
        hardest: new classes that each old image is ranked against.
        margin_weight: of the ranking.
    """

    def objective(new: Outputs, labels: Tensor, old: Outputs | None) -> Tensor:
        loss = cross_entropy(new, labels, old)
        if old is None:
            return loss
        old_classes = old.logits.shape[1]
        new_classes = new.logits.shape[1] - old_classes
        adapted = less_forget * math.sqrt(old_classes / new_classes)
        return (
            loss
            + adapted * less_forget_loss(new.features, old.features)
            + margin_weight * margin_ranking(new.scores, labels, old_classes, margin, hardest)
        )

    return Strategy(
        stages=[
            Train(
                objective,
                training.schedule,
                training.base_schedule,
                uses_previous=True,
                learn_old_weights=False,
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
        head="cosine",
        imprint=True,
    )
