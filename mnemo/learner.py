"""The learner: one network and one exemplar memory that go through the phases of a stream."""

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from . import distributed, divergence
from .augment import Augmentation
from .classifiers import class_means, count_correct
from .codecs import Codec, Raw
from .components.scaling_shifting import scale
from .compression import unit_features
from .disk import checkpoint
from .disk.files import InputError
from .memory import Budget, ExemplarMemory
from .nets import IncrementalNet, Outputs, build
from .phases import ClassStream, Phase, held_out
from .seeds import derive, generator
from .stages import Loop, Situation, Stage, Train, grow

Transfer = Literal["none", "scaling"]
Refine = Callable[[IncrementalNet, Tensor], Tensor]
"""A network and unit features (n, d) of all images that are asked about, to rows (classes, d) of length 1."""


@dataclass(frozen=True)
class Strategy:
    """What a recipe makes: the stages of a phase, and what they need.

    Attributes:
        stages: in order.
        budget: of the exemplar memory.
        codec: how it keeps them.
        soft_labels: see :class:`mnemo.memory.ExemplarMemory`.
        backbone: a name in :data:`mnemo.nets.BACKBONES`.
        head: a name in :data:`mnemo.nets.HEADS` or :data:`mnemo.nets.WHOLE_STREAM_HEADS`.
        classifier: by which the strategy predicts.
        hold_out: part of each class's images that the network is not trained on; exemplars are optimised for it.
        waypoints: networks kept from a phase's own training until the phase ends, evenly spaced over its epochs.
        imprint: new classes' weights start as their mean direction in feature space, not at random.
        from_scratch: every phase starts with a new network.
        transfer: ``scaling`` freezes the kernels after phase 0 and scales them; see
            :mod:`mnemo.components.scaling_shifting`.
        nearest_mean: whether the nearest mean of exemplars is evaluated too, where there are exemplars of all classes.
        refine: makes the rows of the classifier ``refined``, by which is predicted then; results are transductive.
        companion: makes the network's companion, of the number of features; see :class:`mnemo.nets.IncrementalNet`.

    Raises:
        InputError: there is nothing to transfer, because every phase starts with a new network.
    """

    stages: Sequence[Stage]
    budget: Budget
    codec: Codec = Raw()
    soft_labels: float = 0.0
    backbone: str = "resnet32"
    head: str = "linear"
    classifier: Literal["head", "nearest_mean", "refined"] = "head"
    hold_out: float = 0.0
    waypoints: int = 0
    imprint: bool = False
    from_scratch: bool = False
    transfer: Transfer = "none"
    nearest_mean: bool = True
    refine: Refine | None = None
    companion: Callable[[int], nn.Module] | None = None

    def __post_init__(self) -> None:
        if self.from_scratch and self.transfer != "none":
            raise InputError(f"transfer={self.transfer} needs from_scratch=false: a new network inherits nothing")


@dataclass(frozen=True)
class Position:
    """How far a learner has come: ``epoch`` epochs of ``stage`` of ``phase`` are done."""

    phase: int = 0
    stage: int = 0
    epoch: int = 0


@dataclass(frozen=True)
class EpochDone:
    """An epoch of a stage is done; the learner can be saved now.

    Attributes:
        phase, epoch: counted from 0.
        stage: its name.
        epochs: of this stage.
        shown: what there is to show, such as ``loss`` and ``accuracy`` (training, %).
    """

    phase: int
    stage: str
    epoch: int
    epochs: int
    shown: dict[str, float]


@dataclass(frozen=True)
class PhaseDone:
    """A phase has been learnt and evaluated; the learner can be saved now.

    Attributes:
        phase: counted from 0.
        correct: for each classifier the images named rightly, for each group of classes seen so far.
        counts: the images of each group.
    """

    phase: int
    correct: dict[str, list[int]]
    counts: list[int]


Event = EpochDone | PhaseDone


@dataclass
class Learner:
    """A network, its memory and the place it has reached.

    Args:
        strategy: what is done in a phase.
        channels: of the images.
        mean, std: of the pixels, per channel, in grey levels 0..255.
        augmentation: of training images.
        device: where everything is.
        seed: of the network's first weights and of all that is drawn.
        input_size: the network sees the middle of larger images; None: all of them.
        classes: of the whole stream, for strategies that need to know in advance; None: it is not known.
    """

    strategy: Strategy
    channels: int
    mean: Sequence[float]
    std: Sequence[float]
    augmentation: Augmentation
    device: torch.device
    seed: int
    input_size: int | None = None
    classes: int | None = None
    position: Position = Position()
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.memory = self._new_memory()
        self.net = self._new_net(0)
        self.previous: IncrementalNet | None = None
        self.waypoints: list[IncrementalNet] = []
        self._loop: Loop | None = None
        self._loop_state: dict[str, Tensor] | None = None

    def learn(self, phase: Phase) -> Iterator[EpochDone]:
        """Go through the stages of a phase, from where :attr:`position` says.

        Raises InputError when a loss or a weight is no longer finite.
        """
        at = self.position
        if at.phase != phase.index:
            raise ValueError(f"phase {phase.index} does not follow: the learner is at {at}")
        images = phase.train.to(self.device)
        train, held = held_out(images, self.strategy.hold_out, generator(self.seed, phase.index, "hold out"))
        unlabelled = None if phase.unlabelled is None else phase.unlabelled.to(self.device)
        phase = replace(phase, train=train, unlabelled=unlabelled)
        if self.net.head.classes < phase.labels.stop:
            self._grow(phase)
        seed = (self.seed, phase.index)
        situation = Situation(
            self.net, self.previous, self.memory, phase, self.augmentation, seed, self.waypoints, held, self.classes
        )
        for index in range(at.stage, len(self.strategy.stages)):
            yield from self._go_through(index, situation)

    def _go_through(self, index: int, situation: Situation) -> Iterator[EpochDone]:
        stage, phase = self.strategy.stages[index], situation.phase.index
        with _Clock(self.seconds, stage.name):
            self._loop = stage.begin(situation)
            if self._loop is not None and self._loop_state is not None:
                self._loop.load(self._loop_state)
            self._loop_state = None
        loop = self._loop
        if loop is not None:
            for epoch in range(self.position.epoch, loop.epochs):
                with _Clock(self.seconds, stage.name):
                    shown = loop.epoch(epoch, generator(self.seed, phase, stage.name, epoch))
                learnt = checkpoint.joined({"net": self.net.state_dict(), "loop": loop.state()})
                divergence.refuse(f"phase {phase + 1}, epoch {epoch + 1}, {stage.name}", shown, learnt)
                self.position = Position(phase, index, epoch + 1)
                if stage.name == Train.name and epoch + 1 in _evenly(self.strategy.waypoints, loop.epochs):
                    self.waypoints.append(_frozen(copy.deepcopy(self.net)))
                yield EpochDone(phase, stage.name, epoch, loop.epochs, dict(shown))
            loop.end()
            distributed.take_from_first(self.net)
        self._loop = None
        self.position = Position(phase, index + 1)

    def evaluate(self, stream: ClassStream) -> PhaseDone:
        """Evaluate on all groups of classes up to the present phase, and step to the next one."""
        phase = self.position.phase
        with _Clock(self.seconds, "evaluate"):
            rows = self._rows(stream.test(group).pixels for group in range(phase + 1))
            correct: dict[str, list[int]] = {}
            counts = []
            for group in range(phase + 1):
                images = stream.test(group).to(self.device)
                counts.append(len(images))
                for name, count in count_correct(self.net, images, rows).items():
                    correct.setdefault(name, []).append(count)
        self.position = Position(phase + 1)
        return PhaseDone(phase, correct, counts)

    @torch.no_grad()
    def predict(self, pixels: Tensor) -> Tensor:
        """Labels in order of arrival, int64 (n,), of pixels uint8 (n, c, h, w), by the strategy's classifier."""
        self.net.eval()
        outputs: Outputs = self.net(pixels.to(self.device))
        name = self.strategy.classifier
        if name == "head":
            return outputs.logits.argmax(1).cpu()
        rows = self._rows([pixels])
        if name not in rows:
            raise ValueError("the nearest mean needs exemplars of every class")
        return (outputs.features @ rows[name].T).argmax(1).cpu()

    def state(self) -> dict[str, Tensor]:
        """All tensors, for a checkpoint; what belongs with them is :attr:`position`."""
        parts = {"net": self.net.state_dict(), "memory": self.memory.state()}
        if self.previous is not None:
            parts["previous"] = self.previous.state_dict()
        for index, net in enumerate(self.waypoints):
            parts[f"waypoint-{index}"] = net.state_dict()
        if self._loop is not None:
            parts["loop"] = self._loop.state()
        return checkpoint.joined(parts)

    def load(self, state: dict[str, Tensor], position: Position, groups: Sequence[Sequence[int]]) -> None:
        """Take up what :meth:`state` gave at ``position``, in a stream whose phases bring ``groups`` of classes."""
        parts = checkpoint.parted({name: tensor.to(self.device) for name, tensor in state.items()})
        sizes = [len(group) for group in groups]
        self.position = position
        self.net = self._restored(sizes[: _heads(parts["net"])], parts["net"])
        self.previous = None
        if "previous" in parts:
            self.previous = _frozen(self._restored(sizes[: _heads(parts["previous"])], parts["previous"]))
        kept = [parts[f"waypoint-{index}"] for index in range(sum(part.startswith("waypoint-") for part in parts))]
        self.waypoints = [_frozen(self._restored(sizes[: _heads(tensors)], tensors)) for tensors in kept]
        self.memory.load(parts.get("memory", {}))
        self._loop_state = parts.get("loop")

    def _restored(self, sizes: Sequence[int], tensors: dict[str, Tensor]) -> IncrementalNet:
        # a strategy may give the network its simplex after the base network's training alone
        net = self._new_net(0, "simplex" if "head.frame" in tensors else self.strategy.head)
        for size in sizes:
            net.head.grow(size)
        if any(".parametrizations." in name for name in tensors):
            scale(net, shift=any(".parametrizations.bias." in name for name in tensors))
        # a base network that is taken over may have had another companion, or none: this strategy's starts afresh then
        fresh = {name: tensor for name, tensor in net.state_dict().items() if name.startswith("companion.")}
        ours = {name: t for name, t in tensors.items() if not name.startswith("companion.") or name in fresh}
        net.load_state_dict({**fresh, **ours})
        return net

    def _new_memory(self) -> ExemplarMemory:
        return ExemplarMemory(self.strategy.budget, self.strategy.codec, self.strategy.soft_labels)

    def _new_net(self, phase: int, head: str | None = None) -> IncrementalNet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.seed, phase, "network"))
            net = build(
                self.strategy.backbone,
                head or self.strategy.head,
                self.channels,
                self.mean,
                self.std,
                self.input_size,
                self.classes,
            )
        if self.strategy.companion is not None:
            net.companion = self._companion(net)
        return net.to(self.device)

    def _companion(self, net: IncrementalNet) -> nn.Module:
        assert self.strategy.companion is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.seed, "companion"))
            return self.strategy.companion(net.head.width)

    def _grow(self, phase: Phase) -> None:
        """Keep the network as it was, and give it room for the phase's classes."""
        self.waypoints = []
        self.previous = _frozen(copy.deepcopy(self.net)) if phase.index else None
        sizes = [len(phase.classes)]
        if self.strategy.from_scratch:
            sizes = [*(len(weight) for weight in self.net.head.weights), *sizes]
            self.net = self._new_net(phase.index)
        if self.strategy.transfer == "scaling" and phase.index:
            scale(self.net)
        imprint = phase.train if self.strategy.imprint and phase.index else None
        grow(self.net, sizes, derive(self.seed, phase.index, "head"), imprint)

    def _rows(self, asked: Iterable[Tensor]) -> dict[str, Tensor]:
        """The directions of all classes for each classifier but the head; ``asked``: pixels of all that is asked."""
        rows, means = {}, self._class_means()
        if means is not None:
            rows["nearest_mean"] = means
        if self.strategy.refine is not None:
            features = torch.cat([unit_features(self.net, pixels.to(self.device)) for pixels in asked])
            rows["refined"] = self.strategy.refine(self.net, features)
        return rows

    def _class_means(self) -> Tensor | None:
        exemplars, classes = self.memory.images, self.net.head.classes
        if exemplars is None or not self.strategy.nearest_mean:
            return None
        if len(exemplars.labels.unique()) < classes:
            return None
        return class_means(self.net, exemplars, self.augmentation.mirrors, classes)


def _frozen(net: IncrementalNet) -> IncrementalNet:
    net.requires_grad_(False)
    return net.eval()


def _evenly(count: int, epochs: int) -> set[int]:
    """``count`` numbers of epochs done, evenly spaced between the start and the end, both left out."""
    return {-(-epochs * (index + 1) // (count + 1)) for index in range(count)} - {epochs}


def _heads(tensors: dict[str, Tensor]) -> int:
    return sum(name.startswith("head.weights.") for name in tensors)


class _Clock:
    """Adds the seconds that a block takes to a table."""

    def __init__(self, table: dict[str, float], name: str) -> None:
        self._table, self._name = table, name

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self._table[self._name] = self._table.get(self._name, 0) + time.perf_counter() - self._start


def run(learner: Learner, stream: ClassStream) -> Iterator[Event]:
    """Learn a stream from where the learner is, phase by phase, and evaluate after each."""
    for index in range(learner.position.phase, len(stream)):
        yield from learner.learn(stream[index])
        yield learner.evaluate(stream)
