"""BiC: Large Scale Incremental Learning (Wu, Chen, Wang, Ye, Liu, Guo and Fu, CVPR 2019)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat
from torch import Tensor

from mnemo.compression import shuffled_by_class
from mnemo.images import Images
from mnemo.learner import Strategy
from mnemo.losses import distillation
from mnemo.memory import ranks
from mnemo.nets import IncrementalNet, Outputs
from mnemo.nets.heads import BiasCorrectedHead
from mnemo.settings import FineTuning, Fraction, Memory, Training
from mnemo.stages import Once, Situation, Train, new_and_exemplars

from .objectives import balanced_fine_tuning, cross_entropy


def bic(
    *,
    training: Training = Training(),
    memory: Memory = Memory(),
    fine_tuning: FineTuning = FineTuning(),
    temperature: PositiveFloat = 2.0,
    held_out: Fraction = 0.1,
) -> Strategy:
    """Distillation, then a linear correction of the new classes' logits, fitted on a balanced held-out set.

    Stage 1 (equations 1 to 3) weighs distillation by old / all classes and cross-entropy by the rest. Stage 2
    (equations 4 and 5) fits a gain and an offset of the new classes' logits by cross-entropy. The corrections of
    earlier phases stay in the forward pass.

    Departs from the paper: the two numbers are fitted by L-BFGS to the optimum of the same convex loss, not by
    200 epochs of gradient descent, with a small penalty that keeps them near 1 and 0 (a held-out set of few images
    can be separable, and the optimum without it at infinity); training has the length and
    rates of the other strategies here.

    Args:
        training: see :class:`mnemo.settings.Training`.
        memory: see :class:`mnemo.settings.Memory`.
        fine_tuning: see :class:`mnemo.settings.FineTuning`; none by default.
        temperature: of the distillation.
        held_out: part of the exemplars kept out of stage 1 for stage 2, with as many images of each new class. At least
            one of each class; classes with a single exemplar lend it to both.
    """

    def objective(new: Outputs, labels: Tensor, old: Outputs | None) -> Tensor:
        loss = cross_entropy(new, labels, old)
        if old is None:
            return loss
        share = old.logits.shape[1] / new.logits.shape[1]
        return share * distillation(new.logits, old.logits, temperature) + (1 - share) * loss

    def training_part(situation: Situation) -> Images:
        return split_for_correction(situation, held_out)[0]

    return Strategy(
        stages=[
            Train(objective, training.schedule, training.base_schedule, uses_previous=True, images=training_part),
            CorrectBias(held_out),
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
        head="bias_corrected",
    )


def split_for_correction(situation: Situation, fraction: float) -> tuple[Images, Images | None]:
    """The phase's training set, old exemplars included, in two: to train on, and a balanced set to correct by.

    The second is None in phase 0 and where there are no exemplars.
    """
    images = new_and_exemplars(situation)
    if situation.phase.index == 0 or len(situation.memory) == 0:
        return images, None
    by_class = images.select(shuffled_by_class(images.labels, situation.generator("hold out")))
    counts = torch.bincount(by_class.labels)
    smallest = int(counts[counts > 0].min())
    size = max(1, int(fraction * smallest))
    held = ranks(by_class.labels) < size
    single = counts[by_class.labels] <= size
    return by_class.select(~held | single), by_class.select(held)


@dataclass(frozen=True)
class CorrectBias:
    """Fit the gain and the offset of the newest classes' logits.

    Attributes:
        held_out: see :func:`bic`.
        name: see :class:`mnemo.stages.Stage`.
    """

    held_out: float
    name: str = "correct_bias"

    def begin(self, situation: Situation) -> "Correction | None":
        """See :class:`mnemo.stages.Stage`."""
        held = split_for_correction(situation, self.held_out)[1]
        return None if held is None else Correction(situation.net, held)

    def work(self, phase: int, images: int, new: int, old: int) -> float:
        """See :class:`mnemo.stages.Stage`."""
        return old * self.held_out


class Correction(Once):
    """The loop of :class:`CorrectBias`."""

    def __init__(self, net: IncrementalNet, held: Images) -> None:
        self._net, self._held = net, held

    def epoch(self, index: int, generator: torch.Generator) -> Mapping[str, float]:
        """Fit both numbers; the loss and the accuracy in % on the held-out images afterwards."""
        head = self._net.head
        assert isinstance(head, BiasCorrectedHead)
        with torch.no_grad():
            self._net.eval()
            raw = torch.cat([head.uncorrected(self._net.features(b.pixels)) for b in self._held.batches(500)])
        gain, offset, loss = _fit(head, raw, self._held.labels)
        head.gains[-1], head.offsets[-1] = gain, offset
        logits = head.correct(raw, head.gains, head.offsets)
        accuracy = 100 * float((logits.argmax(1) == self._held.labels).float().mean())
        return {"loss": loss, "accuracy": accuracy}


PENALTY = 1e-2


def _fit(head: BiasCorrectedHead, raw: Tensor, labels: Tensor) -> tuple[float, float, float]:
    """Gain and offset of the last group of raw logits (n, classes), and the penalised cross-entropy that they reach."""
    new = torch.tensor([1.0, 0.0], device=raw.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([new], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        gains = torch.cat([head.gains[:-1], new[:1]])
        offsets = torch.cat([head.offsets[:-1], new[1:]])
        loss = F.cross_entropy(head.correct(raw, gains, offsets), labels)
        loss = loss + PENALTY * ((new[0] - 1).square() + new[1].square())
        loss.backward()
        return loss

    optimizer.step(closure)
    gain, offset = new.tolist()
    return gain, offset, float(closure().detach())
