"""Masked soft k-means: Ren et al., "Meta-Learning for Semi-Supervised Few-Shot Classification", ICLR 2018."""

from ...counts import NonNegativeInt, PositiveInt
from ..embedder import Learns
from ..meta_training import MetaTraining
from ..method import Method
from ..pretraining import Pretraining
from ..soft_kmeans import MaskedSoftKMeans
from ..system import Network, System


def soft_kmeans(
    *,
    network: Network = Network(),
    pretraining: Pretraining = Pretraining(),
    meta: MetaTraining = MetaTraining(),
    learn: Learns = "weights",
    unlabelled: NonNegativeInt = 20,
    train_unlabelled: NonNegativeInt = 5,
    steps: PositiveInt = 1,
    masked: bool = True,
    mask_twice: bool = False,
) -> System:
    """Class means that unlabelled images refine, by how near they are and whether they belong (Masked Soft k-Means).

    Args:
        network, pretraining, meta: see there. The paper trains from scratch: ``pretrain_epochs=0``.
        learn: what of the network is meta-learned; ``scales`` puts it on MTL.
        unlabelled, train_unlabelled: images of a class in testing and in meta-training.
        steps: of k-means.
        masked: leave out what seems to be of no class.
        mask_twice: as the released code does.
    """
    return System(
        lambda net, shape: Method(net, MaskedSoftKMeans(steps=steps, masked=masked, mask_twice=mask_twice)),
        network,
        pretraining,
        learn,
        meta,
        unlabelled,
        train_unlabelled,
    )
