"""What a recipe of a few-shot method makes, and the settings that recipes share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pydantic
from pydantic import PositiveFloat

from ..components.scaling_shifting import Granularity
from ..counts import NonNegativeInt
from ..settings import STRICT
from .embedder import BatchNorm, Embedder, Learns
from .episodes import Shape
from .gradient_descent import Kind, Scale
from .meta_training import MetaTraining
from .method import Method
from .pretraining import Pretraining


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Network:
    """The network.

    Attributes:
        backbone: a name in :data:`mnemo.nets.FEW_SHOT_BACKBONES`.
        batch_norm: see :class:`mnemo.fewshot.embedder.Embedder`; ``batch`` makes results transductive.
    """

    backbone: Literal["conv4", "conv4-32", "resnet12", "resnet12-wide", "resnet12-narrow", "resnet25"] = "resnet12"
    batch_norm: BatchNorm = "running"


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class InnerLoop:
    """Gradient steps on a head; see :class:`mnemo.fewshot.gradient_descent.GradientDescent`. The defaults are MTL's.

    Attributes:
        steps, test_steps: in meta-training and in testing.
        inner_lr: beta.
        head: ``linear`` or ``cosine``.
        inner_loss: the ``mean`` of the support's cross-entropies, or with the released TensorFlow code their
            ``sum_over_shot``, ways times that.
        first_order: take the inner gradients for constants.
        detach_support: let the network feel the queries alone.
    """

    steps: NonNegativeInt = 20
    test_steps: NonNegativeInt = 100
    inner_lr: PositiveFloat = 0.01
    head: Kind = "linear"
    inner_loss: Scale = "sum_over_shot"
    first_order: bool = False
    detach_support: bool = False

    @property
    def arguments(self) -> dict[str, Any]:
        """For :class:`mnemo.fewshot.gradient_descent.GradientDescent`."""
        return {
            "steps": self.steps,
            "test_steps": self.test_steps,
            "rate": self.inner_lr,
            "kind": self.head,
            "scale": self.inner_loss,
            "first_order": self.first_order,
            "detach_support": self.detach_support,
        }


@dataclass(frozen=True)
class System:
    """A few-shot method before it has seen data.

    Attributes:
        make: the method, of a network and the shape of test tasks. Weights of new modules come from torch's global
            generator, which is seeded around the call.
        network, pretraining: see there.
        learns: what of the network is meta-learned.
        meta: how; None where nothing is.
        unlabelled: unlabelled images of a class that its test tasks have where nothing else is said.
        train_unlabelled: the same of training tasks; None: as in testing.
        granularity: of the network's scales, where they learn.
        reveals: give all of them their labels: an upper bound.
    """

    make: Callable[[Embedder, Shape], Method]
    network: Network
    pretraining: Pretraining
    learns: Learns = "nothing"
    meta: MetaTraining | None = None
    unlabelled: int = 0
    train_unlabelled: int | None = None
    reveals: bool = False
    granularity: Granularity = "kernel"
