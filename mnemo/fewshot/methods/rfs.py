"""Rethinking few-shot classification: Tian, Wang, Krishnan, Tenenbaum and Isola, ECCV 2020."""

from pydantic import PositiveFloat

from ..logistic_regression import LogisticRegression
from ..method import Method
from ..pretraining import Pretraining
from ..system import Network, System


def rfs(*, network: Network = Network(), pretraining: Pretraining = Pretraining(), cost: PositiveFloat = 1.0) -> System:
    """Logistic regression on frozen pre-trained features (RFS); no meta-learning.

    Args:
        network, pretraining: see there.
        cost: C, what a unit of the support's loss weighs against half of the squared weights.
    """
    return System(lambda net, shape: Method(net, LogisticRegression(cost)), network, pretraining)
