"""SIB: Hu et al., "Empirical Bayes Transductive Meta-Learning with Synthetic Gradients", ICLR 2020."""

from pydantic import PositiveFloat

from ...components.synthetic_gradient import Network as Synthesiser
from ...components.synthetic_gradient import SyntheticGradient
from ...counts import NonNegativeInt
from ..meta_training import MetaTraining
from ..method import Method
from ..pretraining import Pretraining
from ..system import Network, System


def sib(
    *,
    network: Network = Network(),
    pretraining: Pretraining = Pretraining(),
    meta: MetaTraining = MetaTraining(iterations=50_000, tasks=1, halve_every=0, meta_weight_decay=5e-4),
    steps: NonNegativeInt = 3,
    rate: PositiveFloat = 1e-3,
    synthesiser: Synthesiser = "batch_norm",
) -> System:
    """Prototypes that are refined on the queries by meta-learned synthetic gradients (SIB); transductive.

    Departure: Adam, as for the other methods here, in place of the code's SGD with momentum.

    Args:
        network, pretraining, meta: see there.
        steps: K; 0 leaves cosine prototypes.
        rate: eta, of a sum over the queries.
        synthesiser: xi; see :class:`mnemo.components.synthetic_gradient.SyntheticGradient`.
    """
    return System(
        lambda net, shape: Method(
            net, SyntheticGradient(net.features, shape.ways, steps=steps, rate=rate, network=synthesiser)
        ),
        network,
        pretraining,
        "nothing",
        meta,
    )
