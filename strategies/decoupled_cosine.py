"""Decoupled-Cosine: class means on a frozen base network, the baseline of CEC (Zhang et al., CVPR 2021)."""

from mnemo.learner import Strategy
from mnemo.rows import MeanRows
from mnemo.settings import Memory, Training

from .objectives import base_training


def decoupled_cosine(*, training: Training = Training(), memory: Memory = Memory(per_class=0)) -> Strategy:
    """Train in phase 0 alone; every class's row is the mean direction of its images, and the nearest row is predicted.

    For few-shot streams. Cosines as in Vinyals et al., NeurIPS 2016, and Gidaris and Komodakis, CVPR 2018; the means
    take the place of trained rows in the base phase too, as in the public code of CEC.

    Departs from that code: features have length 1 before they are averaged, as everywhere here; the scale of the
    cosines is learned, where it is 16 there; training has the length and rates of the other strategies.

    Args:
        training: see :class:`mnemo.settings.Training`; there is no training after phase 0, so that ``epochs`` and
            ``lr`` are those of phase 0, unless ``base_epochs`` and ``base_lr`` are.
        memory: see :class:`mnemo.settings.Memory`; none by default. Rows are made without it: exemplars are for the
            nearest mean of exemplars, which is then evaluated too.
    """
    return Strategy(
        stages=[base_training(training), MeanRows(), memory.compress],
        budget=memory.budget,
        codec=memory.storage,
        soft_labels=memory.soft_labels,
        backbone=training.backbone,
        transfer=training.transfer,
        hold_out=training.hold_out,
        waypoints=training.waypoints,
        head="cosine",
    )
