"""Prototypical networks: Snell, Swersky and Zemel, NeurIPS 2017."""

from ..embedder import Learns
from ..meta_training import MetaTraining
from ..method import Method
from ..pretraining import Pretraining
from ..prototypes import Metric, Prototypes
from ..system import Network, System


def protonet(
    *,
    network: Network = Network(),
    pretraining: Pretraining = Pretraining(),
    meta: MetaTraining = MetaTraining(),
    learn: Learns = "weights",
    metric: Metric = "euclidean",
) -> System:
    """Nearest class mean (ProtoNet).

    Args:
        network, pretraining, meta: see there. The paper trains from scratch: ``pretrain_epochs=0``.
        learn: what of the network is meta-learned; ``nothing`` makes it a nearest mean of pre-trained features.
        metric: squared ``euclidean`` distances, or with Meta-Baseline (Chen et al., ICCV 2021) ``cosine`` times a
            learned temperature.
    """
    return System(
        lambda net, shape: Method(net, Prototypes(metric)),
        network,
        pretraining,
        learn,
        meta if learn != "nothing" or metric == "cosine" else None,
    )
