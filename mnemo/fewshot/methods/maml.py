"""MAML: Finn, Abbeel and Levine, ICML 2017."""

from pydantic import PositiveFloat

from ...counts import NonNegativeInt
from ..embedder import Embedder
from ..episodes import Shape
from ..gradient_descent import GradientDescent
from ..meta_training import MetaTraining
from ..method import Method
from ..pretraining import Pretraining
from ..system import Network, System
from ..whole_network import WholeNetwork


def maml(
    *,
    network: Network = Network("conv4-32", "batch"),
    pretraining: Pretraining = Pretraining(pretrain_epochs=0),
    meta: MetaTraining = MetaTraining(iterations=60_000, tasks=4, halve_every=0),
    steps: NonNegativeInt = 5,
    test_steps: NonNegativeInt = 10,
    inner_lr: PositiveFloat = 0.01,
    first_order: bool = False,
) -> System:
    """A first set of weights from which a few steps of the whole network are enough (MAML, FOMAML).

    As in the paper's code a task's images are normalised by their own statistics, the queries by those of all queries,
    so that results are transductive; ``batch_norm=support`` gives queries the statistics of the support.

    Args:
        network, pretraining, meta: see there. The paper trains from scratch.
        steps, test_steps: of the inner loop, in meta-training and in testing.
        inner_lr: their rate.
        first_order: take inner gradients for constants: FOMAML.
    """

    def make(net: Embedder, shape: Shape) -> Method:
        learner = GradientDescent(
            net.features, shape.ways, steps=steps, test_steps=test_steps, rate=inner_lr, first_order=first_order
        )
        return Method(net, WholeNetwork(net, learner))

    return System(make, network, pretraining, "weights", meta)
