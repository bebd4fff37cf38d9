"""LST: Li, Sun, Liu, Zheng, Zhou, Chua and Schiele, "Learning to Self-Train", NeurIPS 2019."""

from typing import Literal

from ...components.self_training import SelfTraining
from ...counts import NonNegativeInt, PositiveInt
from ..embedder import Embedder, Learns
from ..episodes import Shape
from ..gradient_descent import Start
from ..meta_training import MetaTraining
from ..method import Method
from ..pretraining import Pretraining
from ..system import InnerLoop, Network, System


def lst(
    *,
    network: Network = Network(),
    pretraining: Pretraining = Pretraining(),
    meta: MetaTraining = MetaTraining(),
    inner: InnerLoop = InnerLoop(detach_support=True),
    learn: Learns = "scales",
    start: Start = "learned",
    unlabelled: NonNegativeInt = 100,
    train_unlabelled: NonNegativeInt = 10,
    retrain_steps: NonNegativeInt = 5,
    test_retrain_steps: NonNegativeInt = 10,
    stage_steps: NonNegativeInt = 40,
    hard: bool = True,
    keep: PositiveInt = 20,
    soft: bool = True,
    soft_output: Literal["softmax", "sigmoid"] = "softmax",
    weigh: Literal["logits", "loss"] = "logits",
    stages: PositiveInt = 4,
    mixing: bool = False,
    reveal: bool = False,
) -> System:
    """Pseudo-labels for unlabelled images, picked, weighed and learned from, over several stages (LST).

    The rows of the paper's table: ``hard``, ``soft``, ``stages`` (1: not recursive) and ``mixing`` are its words;
    without meta-learning: ``learn=nothing start=random soft=false``. Departures from the released code: see
    :class:`mnemo.components.self_training.SelfTraining`.

    Args:
        network, pretraining, meta, inner: see there.
        learn, start: as of :func:`mnemo.fewshot.methods.mtl.mtl`.
        unlabelled, train_unlabelled: images of a class in testing and in meta-training.
        retrain_steps, test_retrain_steps: m, steps on support and pseudo-labelled images together.
        stage_steps: steps of all stages but the last.
        hard: learn from the ``keep`` most confident images of each class only.
        keep: Z.
        soft: weigh them by a network that is meta-learned.
        soft_output, weigh: how; see there.
        stages: of testing.
        mixing: a stage learns from what all stages before it have picked.
        reveal: give all unlabelled images their labels, the paper's fully supervised upper bound.
    """

    def make(net: Embedder, shape: Shape) -> Method:
        return Method(
            net,
            SelfTraining(
                net.features,
                shape.ways,
                start=start,
                retrain_steps=retrain_steps,
                test_retrain_steps=test_retrain_steps,
                stage_steps=stage_steps,
                hard=hard,
                keep=keep,
                soft=soft,
                soft_output=soft_output,
                weigh=weigh,
                stages=stages,
                mixing=mixing,
                **inner.arguments,
            ),
        )

    return System(make, network, pretraining, learn, meta, unlabelled, train_unlabelled, reveal)
