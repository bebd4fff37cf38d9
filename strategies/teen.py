"""TEEN: Few-Shot Class-Incremental Learning via Training-Free Prototype Calibration (Wang et al., NeurIPS 2023)."""

import dataclasses

import torch.nn.functional as F
from pydantic import PositiveFloat
from torch import Tensor

from mnemo.learner import Strategy
from mnemo.rows import MeanRows
from mnemo.settings import Fraction, Training

from .decoupled_cosine import decoupled_cosine
from .objectives import base_training


def teen(
    *, training: Training = Training(), calibration: Fraction = 0.5, temperature: PositiveFloat = 16.0
) -> Strategy:
    """Decoupled-Cosine whose new rows are drawn to those of the base classes that they resemble; no training.

    Defaults are those of the public code, whose script for CIFAR-100 has a ``calibration`` of 0.1.

    Departs from that code where :func:`mnemo.strategies.decoupled_cosine.decoupled_cosine` does.

    Args:
        training: see :class:`mnemo.settings.Training`; there is no training after phase 0.
        calibration: share of base classes in a new row, 1 - alpha in the paper; 0 is Decoupled-Cosine.
        temperature: of the softmax over base classes, a factor on cosines; the paper's tau.
    """

    def adjustment(means: Tensor, base: Tensor) -> Tensor:
        return calibrated(means, base, calibration, temperature)

    decoupled = decoupled_cosine(training=training)
    return dataclasses.replace(decoupled, stages=[base_training(training), MeanRows(adjustment)])


def calibrated(means: Tensor, base: Tensor, calibration: float, temperature: float) -> Tensor:
    """(1 - calibration) mean + calibration (a mean of base rows, those that are closer weighing more, at length 1).

    Args:
        means: of new classes (n, d), of length 1.
        base: rows of base classes (b, d), of length 1.
        calibration, temperature: see :func:`teen`.
    """
    weights = (temperature * means @ base.T).softmax(1)
    return (1 - calibration) * means + calibration * F.normalize(weights @ base)
