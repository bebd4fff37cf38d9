"""CEC: Few-Shot Incremental Learning with Continually Evolved Classifiers (Zhang et al., CVPR 2021)."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from mnemo.compression import unit_features
from mnemo.counts import NonNegativeInt, PositiveInt
from mnemo.disk.files import InputError
from mnemo.fewshot.episodes import Episodes, Sampler, Shape
from mnemo.images import Images
from mnemo.learner import Strategy
from mnemo.nets import IncrementalNet
from mnemo.rows import MeanRows, set_rows, temperature
from mnemo.settings import Training
from mnemo.stages import Descent, Once, Situation

from .decoupled_cosine import decoupled_cosine
from .objectives import base_training


def cec(
    *,
    training: Training = Training(),
    graph_epochs: NonNegativeInt = 100,
    graph_lr: PositiveFloat = 0.0002,
    episodes: PositiveInt = 50,
    ways: Annotated[PositiveInt, Field(ge=2)] = 15,
    shots: PositiveInt = 5,
    queries: PositiveInt = 15,
) -> Strategy:
    """Decoupled-Cosine whose rows attend to each other, by a graph that is learned in phase 0 and evolves all rows.

    The graph learns on pseudo-incremental episodes: base classes, and the same images turned by 90, 180 or 270 degrees
    as new ones. In every phase it makes the rows of all classes, old ones too, from their prototypes. Defaults are
    those of the public code, but for ``shots``, which is 1 there.

    Departs from that code: rows alone are nodes of the graph, where there every test image is one more; an episode's
    prototypes are means of as many images as later phases usually bring; prototypes enter at a fixed length; the graph
    starts out by leaving them as they are, up to its layer normalisation, since test images do not go through it; the
    backbone stays as phase 0 left it, where there it learns in the episodes, whose images are also varied; the scale of
    the cosines is the base network's; and as :func:`mnemo.strategies.decoupled_cosine.decoupled_cosine` does.

    Args:
        training: see :class:`mnemo.settings.Training`; there is no training after phase 0.
        graph_epochs: rounds of episodes; 0 leaves the graph as it starts.
        graph_lr: learning rate at the start, halved after each fifth of the rounds.
        episodes: of a round.
        ways: base classes of an episode, at most, and as many turned ones.
        shots: images of each that its prototype is the mean of.
        queries: further images of each, at most, that are asked about.
    """
    learn = LearnGraph(graph_epochs, graph_lr, episodes, Shape(ways, shots, queries))
    return dataclasses.replace(
        decoupled_cosine(training=training),
        stages=[base_training(training), MeanRows(), learn, Evolve()],
        companion=PrototypeGraph,
    )


class PrototypeGraph(nn.Module):
    """Adapts the prototypes of classes to each other: attention by one head, a residual, and layer normalisation.

    Weights are drawn as in the public code but for the last layer's, which are 0. Its dropout is left out: it is never
    active there.

    Args:
        features: d.

    Attributes:
        prototypes: (classes, d), what the classes' own images gave; the head has the adapted ones.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(features, features, bias=False) for _ in range(3))
        for layer in (self.query, self.key, self.value):
            nn.init.normal_(layer.weight, std=features**-0.5)
        self.last = nn.Linear(features, features)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.norm = nn.LayerNorm(features)
        self.prototypes: Tensor
        self.register_buffer("prototypes", torch.zeros(0, features), persistent=False)

    def forward(self, prototypes: Tensor) -> Tensor:
        """Prototypes (n, d) to rows (n, d) of length 1; the prototypes' own length does not matter."""
        root = prototypes.shape[1] ** 0.5
        nodes = F.normalize(prototypes) * root  # components of about 1, as batch normalisation leaves them
        attention = (self.query(nodes) @ self.key(nodes).T / root).softmax(1)
        rows: Tensor = F.normalize(self.norm(nodes + self.last(attention @ self.value(nodes))))
        return rows

    # an ordinary buffer could not be loaded by a new module, whose own has another size
    def get_extra_state(self) -> Tensor:
        """The prototypes."""
        return self.prototypes

    def set_extra_state(self, state: Tensor) -> None:
        """Take up what :meth:`get_extra_state` gave."""
        self.prototypes = state.clone()


@dataclass(frozen=True)
class LearnGraph:
    """Train the graph on pseudo-incremental episodes; in phase 0 alone.

    Attributes:
        epochs, lr, episodes: see :func:`cec`.
        shape: of an episode's base classes, at most.
        name: see :class:`mnemo.stages.Stage`.
    """

    epochs: int
    lr: float
    episodes: int
    shape: Shape
    name: str = "learn_graph"

    def begin(self, situation: Situation) -> "GraphLearning | None":
        """See :class:`mnemo.stages.Stage`."""
        return GraphLearning(self, situation) if self.epochs and not situation.phase.index else None

    def work(self, phase: int, images: int, new: int, old: int) -> float:
        """See :class:`mnemo.stages.Stage`: four passes forward, one for each turn."""
        return 4 * images / 3 if self.epochs and not phase else 0


class GraphLearning(Descent):
    """The loop of :class:`LearnGraph`: an epoch is a round of episodes. Rates and momentum are the public code's."""

    def __init__(self, stage: LearnGraph, situation: Situation) -> None:
        self.epochs = stage.epochs
        self._stage, self._seed = stage, situation.seed
        self._graph, images = graph(situation.net), situation.phase.train
        self._scale = temperature(situation.net)
        self._sampler = Sampler(images.labels, _fitting(stage.shape, images))
        self._features = turned_features(situation.net, images)
        weights = dict(self._graph.named_parameters())
        optimizer = torch.optim.SGD(weights.values(), stage.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
        super().__init__(optimizer, weights)

    def epoch(self, index: int, generator: torch.Generator) -> Mapping[str, float]:
        """A round: the mean loss, and the accuracy on queries in %."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._stage.lr * 0.5 ** (5 * index // self.epochs)
        drawn = self._sampler.draw(self._stage.episodes, *self._seed, self._stage.name, index)
        turns = torch.randint(1, 4, (len(drawn), drawn.shape.ways), generator=generator)
        results = [self._learn(drawn.slice(at, at + 1), turns[at]) for at in range(len(drawn))]
        loss, right = torch.stack(results).mean(0).tolist()
        return {"loss": loss, "accuracy": 100 * right}

    def _learn(self, drawn: Episodes, turns: Tensor) -> Tensor:
        """One step on an episode: its loss, and the share of queries named rightly."""
        prototypes, queries, answers = pseudo_incremental(self._features, drawn, turns)
        logits = self._scale * F.normalize(queries) @ self._graph(prototypes).T
        loss = F.cross_entropy(logits, answers)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return torch.stack([loss.detach(), (logits.argmax(1) == answers).to(loss).mean()])


def pseudo_incremental(features: Tensor, drawn: Episodes, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Prototypes (2 ways, d), queries (2 ways * queries, d) and their classes: those of a task, then the same turned.

    Args:
        features: (4, n, d), of all images as they are and after one, two and three quarter turns.
        drawn: one task of these n images.
        turns: for each of its classes the quarter turns of the new class that it becomes, int64 (ways,), 1..3.
    """
    shape, column = drawn.shape, turns.unsqueeze(1)
    support, query = drawn.support.view(shape.ways, -1), drawn.query.view(shape.ways, -1)
    prototypes = torch.cat([features[0, support], features[column, support]]).mean(1)
    queries = torch.cat([features[0, query], features[column, query]]).flatten(0, 1)
    answers = torch.arange(2 * shape.ways, device=features.device).repeat_interleave(shape.queries)
    return prototypes, queries, answers


def turned_features(net: IncrementalNet, images: Images) -> Tensor:
    """Unit features (4, n, d) of images as they are and after one, two and three quarter turns."""
    parts = [
        torch.stack([unit_features(net, batch.pixels.rot90(turn, (2, 3))) for turn in range(4)])
        for batch in images.batches(5000)
    ]
    return torch.cat(parts, 1)


def _fitting(shape: Shape, images: Images) -> Shape:
    """The shape, as far as the images go. Raises InputError where they are too few for any."""
    counts = images.labels.bincount()
    queries = min(shape.queries, int(counts.min()) - shape.shots)
    if len(counts) < 2 or queries < 1:
        raise InputError(f"cec: shots={shape.shots} needs two base classes of at least {shape.shots + 1} images each")
    return Shape(min(shape.ways, len(counts)), shape.shots, queries)


@dataclass(frozen=True)
class Evolve:
    """Keep the new classes' prototypes, and give the rows of all classes what the graph makes of all prototypes.

    Attributes:
        name: see :class:`mnemo.stages.Stage`.
    """

    name: str = "evolve"

    def begin(self, situation: Situation) -> "Evolution":
        """See :class:`mnemo.stages.Stage`."""
        return Evolution(situation)

    def work(self, phase: int, images: int, new: int, old: int) -> float:
        """See :class:`mnemo.stages.Stage`: no image passes through the network."""
        return 0


class Evolution(Once):
    """The loop of :class:`Evolve`."""

    def __init__(self, situation: Situation) -> None:
        self._net, self._first_label = situation.net, situation.phase.first_label

    @torch.no_grad()
    def epoch(self, index: int, generator: torch.Generator) -> Mapping[str, float]:
        """Set all rows: the mean cosine between prototypes and rows."""
        groups, adapts = list(self._net.head.weights), graph(self._net)
        adapts.prototypes = torch.cat([adapts.prototypes[: self._first_label], groups[-1].detach()])
        rows = adapts(adapts.prototypes)
        for group, part in zip(groups, rows.split([len(group) for group in groups]), strict=True):
            set_rows(group, part)
        return {"cosine": float(F.cosine_similarity(adapts.prototypes, rows).mean())}


def graph(net: IncrementalNet) -> PrototypeGraph:
    """The network's graph."""
    assert isinstance(net.companion, PrototypeGraph)
    return net.companion
