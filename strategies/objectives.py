"""Objectives and stages that several recipes share."""

import dataclasses
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from mnemo.losses import distillation
from mnemo.nets import Outputs
from mnemo.settings import FineTuning, Training
from mnemo.stages import Objective, Stage, Train, exemplars_only

Head = Literal["linear", "cosine"]


def cross_entropy(new: Outputs, labels: Tensor, old: Outputs | None) -> Tensor:
    """Cross-entropy over all classes seen so far: Mnemonics, equation 2."""
    return F.cross_entropy(new.logits, labels)


def distilled_cross_entropy(temperature: float) -> Objective:
    """Cross-entropy plus distillation from the previous network, one to one, as in LUCIR's public baseline.

    Mnemonics, equation 5, with lambda = 0.5, up to the factor 2.
    """

    def objective(new: Outputs, labels: Tensor, old: Outputs | None) -> Tensor:
        loss = cross_entropy(new, labels, old)
        return loss if old is None else loss + distillation(new.logits, old.logits, temperature)

    return objective


def base_training(training: Training) -> Train:
    """Cross-entropy in phase 0, and no training later: the base network of few-shot streams."""
    return Train(cross_entropy, dataclasses.replace(training.schedule, epochs=0), training.base_schedule)


def balanced_fine_tuning(fine_tuning: FineTuning, training: Training) -> list[Stage]:
    """The stage that :class:`mnemo.settings.FineTuning` describes, or none."""
    if not fine_tuning.fine_tune_epochs:
        return []
    stage = Train(
        cross_entropy,
        fine_tuning.schedule(training),
        base_schedule=None,
        images=exemplars_only,
        frozen_statistics=True,
        name="fine_tune",
    )
    return [stage]
