"""E3BM: Liu, Schiele and Sun, "An Ensemble of Epoch-wise Empirical Bayes for Few-shot Learning", ECCV 2020."""

from typing import Literal

from pydantic import PositiveFloat

from ...components.ensemble import Ensemble
from ...components.epochs import Epochs, HeadEpochs
from ...components.hyperprior import Hyperprior
from ...components.synthetic_gradient import Network as Synthesiser
from ...components.synthetic_gradient import SyntheticGradient
from ...counts import PositiveInt
from ..embedder import Embedder, Learns
from ..episodes import Shape
from ..gradient_descent import GradientDescent, Kind, Scale, Start
from ..meta_training import MetaTraining
from ..method import Method
from ..pretraining import Pretraining
from ..system import Network, System
from ..whole_network import WholeNetwork


def e3bm(
    *,
    network: Network = Network(),
    pretraining: Pretraining = Pretraining(),
    meta: MetaTraining = MetaTraining(),
    prior: Hyperprior = Hyperprior(),
    steps: PositiveInt = 100,
    inner_lr: PositiveFloat = 0.01,
    on: Literal["mtl", "sib", "maml"] = "mtl",
    learn: Learns = "scales",
    start: Start = "learned",
    head: Kind = "linear",
    inner_loss: Scale = "mean",
    first_order: bool = True,
    synthesiser: Synthesiser = "batch_norm",
    alpha_lr: PositiveFloat = 0.1,
    v_lr: PositiveFloat = 1.0,
    psi_lr: PositiveFloat = 0.1,
) -> System:
    """An ensemble of a base-learner's epochs, whose rates and weights are meta-learned (E3BM, and LCC before it).

    LCC's table: ``on=maml`` with ``alpha`` (fixed or learned), ``decay`` (off or learned) and ``combine`` (equal, last,
    learned, oracle). The table of E3BM: ``on=mtl`` or ``on=sib`` with ``hyperprior`` (fc or lstm) and ``condition``
    (support: inductive, query: transductive).

    Departure: rates and weights have learning rates that let them move; the released ones, 1e-6, hardly do.

    Args:
        network, pretraining, meta, prior: see there.
        steps: M, in meta-training and in testing; SIB has 3.
        inner_lr: alpha of every step, at first; SIB's is 0.001.
        on: what takes the steps: a head (``mtl``), prototypes (``sib``), or the whole network (``maml``).
        learn: what of the network is meta-learned. ``sib`` leaves it frozen: ``nothing``; ``maml`` wants ``weights``.
        start, head, inner_loss, first_order: as of :func:`mnemo.fewshot.methods.mtl.mtl`.
        synthesiser: as of :func:`mnemo.fewshot.methods.sib.sib`.
        alpha_lr, v_lr, psi_lr: learning rates of alpha (and decay), v and the hyperprior's networks, as multiples of
            ``meta_lr``.
    """

    def epochs(net: Embedder, ways: int) -> Epochs:
        if on == "sib":
            return SyntheticGradient(net.features, ways, network=synthesiser)
        learner = GradientDescent(net.features, ways, kind=head, start=start, scale=inner_loss, first_order=first_order)
        return WholeNetwork(net, learner) if on == "maml" else HeadEpochs(learner, first_order=first_order)

    def make(net: Embedder, shape: Shape) -> Method:
        rates = {"alpha": alpha_lr, "v": v_lr, "psi": psi_lr}
        return Method(net, Ensemble(epochs(net, shape.ways), prior, steps=steps, rate=inner_lr), rates)

    return System(make, network, pretraining, "nothing" if on == "sib" else learn, meta)
