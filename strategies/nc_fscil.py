"""NC-FSCIL: Neural Collapse Inspired Feature-Classifier Alignment for Few-Shot Class-Incremental Learning.

Yang, Yuan, Li, Lin, Torr and Tao, ICLR 2023.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from mnemo.alignment import Align, own
from mnemo.learner import Strategy
from mnemo.losses import dot_regression
from mnemo.nets import Outputs
from mnemo.settings import Training
from mnemo.stages import Schedule

from .decoupled_cosine import decoupled_cosine
from .objectives import base_training


def nc_fscil(
    *,
    training: Training = Training(),
    base_loss: Literal["dot_regression", "cross_entropy"] = "dot_regression",
    loss_weight: PositiveFloat = 10.0,
    align_epochs: PositiveInt = 50,
    align_lr: PositiveFloat = 0.25,
) -> Strategy:
    """A fixed simplex for all classes that will ever come, and a projection that brings features to their vertices.

    It has to know in advance how many classes the stream has. In later phases the projection alone learns, on the few
    images and the mean features of all older classes, which are kept.

    Departs from the public code: training has the length and rates of the other strategies, without mixing images in
    phase 0; later phases mix no features, weigh all of them alike, and are of one length, where it grows from phase to
    phase there; rotations of the simplex are uniform.

    Args:
        training: see :class:`mnemo.settings.Training`; its length and rates are those of phase 0.
        base_loss: of phase 0: ``dot_regression`` trains backbone and projection together, as in the paper;
            ``cross_entropy`` trains the base network of other strategies, which can be shared, and the projection
            on the frozen backbone after it.
        loss_weight: of the dot-regression loss.
        align_epochs: passes over the features that the projection alone is trained on, in each phase.
        align_lr: learning rate at the start; half a cosine.
    """
    schedule = Schedule(align_epochs, align_lr, annealing="cosine", batch_size=64)
    decoupled = decoupled_cosine(training=training)
    if base_loss == "cross_entropy":
        align = Align(
            loss_weight, schedule, base_schedule=dataclasses.replace(schedule, batch_size=training.batch_size)
        )
        return dataclasses.replace(decoupled, stages=[base_training(training), align])
    train = dataclasses.replace(base_training(training), objective=DotRegression(loss_weight))
    return dataclasses.replace(decoupled, stages=[train, Align(loss_weight, schedule)], head="simplex")


@dataclass(frozen=True)
class DotRegression:
    """The loss of images and the vertices of their classes; an objective, see :data:`mnemo.stages.Objective`.

    Attributes:
        weight: a factor.
    """

    weight: float

    def __call__(self, new: Outputs, labels: Tensor, old: Outputs | None) -> Tensor:
        """See :data:`mnemo.stages.Objective`."""
        return self.weight * dot_regression(own(new.scores, labels))
