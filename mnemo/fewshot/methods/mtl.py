"""MTL: Sun, Liu, Chua and Schiele, "Meta-Transfer Learning for Few-Shot Learning", CVPR 2019."""

from typing import Literal

from ..embedder import Embedder, Learns
from ..episodes import Shape
from ..gradient_descent import GradientDescent, Start
from ..meta_training import MetaTraining
from ..method import Method
from ..pretraining import Pretraining
from ..system import InnerLoop, Network, System
from ..whole_network import WholeNetwork


def mtl(
    *,
    network: Network = Network(),
    pretraining: Pretraining = Pretraining(),
    meta: MetaTraining = MetaTraining(),
    inner: InnerLoop = InnerLoop(),
    learn: Learns = "scales",
    start: Start = "learned",
    update: Literal["head", "all"] = "head",
    granularity: Literal["kernel", "channel"] = "kernel",
) -> System:
    """Scaling and shifting of frozen pre-trained weights, and a first head, meta-learned (MTL).

    The rows of the paper's tables 3 and 4: ``learn=scales`` is SS [Theta; theta], MTL itself; ``last_scales`` is SS
    [Theta4; theta]; ``weights``, ``last_weights`` and ``nothing`` are FT [Theta; theta], FT [Theta4; theta] and FT
    theta; ``learn=nothing start=random`` is "update theta", and with ``update=all`` "update [Theta; theta]": nothing
    is meta-learned then. ``hard_tasks=true`` adds the meta-batch of hard tasks.

    Departures: batch normalisation has its running statistics (the paper's code normalises by the batch, queries by
    queries, and is transductive: ``batch_norm=batch``). A shift comes before it, where with batch statistics it would
    have no effect.

    Args:
        network, pretraining, meta, inner: see there.
        learn: what of the network is meta-learned; see :func:`mnemo.fewshot.embedder.let_learn`.
        start: of the head: ``learned``, ``random``, or class means (``prototypes``).
        update: what moves in the inner loop.
        granularity: a scale for each ``kernel``, as the paper has it, or for each output ``channel``.
    """

    def make(net: Embedder, shape: Shape) -> Method:
        learner = GradientDescent(net.features, shape.ways, start=start, **inner.arguments)
        return Method(net, WholeNetwork(net, learner) if update == "all" else learner)

    return System(make, network, pretraining, learn, meta, granularity=granularity)
