"""TPN: Liu et al., "Learning to Propagate Labels: Transductive Propagation Network", ICLR 2019."""

from typing import Annotated

from pydantic import Field

from ...counts import NonNegativeInt, PositiveInt
from ..embedder import Embedder, Learns
from ..episodes import Shape
from ..label_propagation import LabelPropagation
from ..meta_training import MetaTraining
from ..method import Method
from ..pretraining import Pretraining
from ..system import Network, System


def tpn(
    *,
    network: Network = Network(),
    pretraining: Pretraining = Pretraining(),
    meta: MetaTraining = MetaTraining(),
    learn: Learns = "weights",
    unlabelled: NonNegativeInt = 0,
    train_unlabelled: NonNegativeInt = 0,
    neighbours: PositiveInt = 20,
    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.99,
    learned_scale: bool = True,
) -> System:
    """Labels that spread over a graph of all of a task's images (TPN); transductive.

    Args:
        network, pretraining, meta: see there. The paper trains from scratch: ``pretrain_epochs=0``.
        learn: what of the network is meta-learned; ``scales`` puts it on MTL.
        unlabelled, train_unlabelled: images of a class in testing and in meta-training.
        neighbours: k, of each image.
        alpha: how far labels spread.
        learned_scale: each image has a length scale of its own.
    """

    def make(net: Embedder, shape: Shape) -> Method:
        return Method(
            net, LabelPropagation(net.features, neighbours=neighbours, alpha=alpha, learned_scale=learned_scale)
        )

    return System(make, network, pretraining, learn, meta, unlabelled, train_unlabelled)
