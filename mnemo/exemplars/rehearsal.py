"""A strategy's next phase, played beforehand on classes made up for it: rotated images of those at hand."""

import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..compression import herding
from ..images import Images, join
from ..memory import ExemplarMemory, everything
from ..nets import IncrementalNet, folded
from ..phases import Phase
from ..seeds import derive
from ..stages import Situation, Train, grow

MEASURED = 100  # images of each class that an accuracy is measured on, at most


@dataclass(frozen=True)
class Rehearsal:
    """What a strategy does in a phase, for trying it out.

    Attributes:
        train: the stage that trains.
        fine_tune: the stage that balances; None: there is none.
        imprint: see :class:`mnemo.learner.Strategy`.
        classes: that are made up.
        images: of each of them, at most.
        epochs: of ``train``, at most.
    """

    train: Train
    fine_tune: Train | None
    imprint: bool
    classes: int = 2
    images: int = 200
    epochs: int | None = None

    def forgetting(self, situation: Situation, seed: tuple[int | str, ...]) -> Iterator[tuple[IncrementalNet, Phase]]:
        """The network after each epoch of a phase without exemplars, in which it forgets, and that phase."""
        phase = self._phase(situation, seed)
        blank = ExemplarMemory(everything())
        for net in self._trained(self._next(situation, phase, blank, seed)):
            yield copy.deepcopy(net).eval().requires_grad_(False), phase

    def accuracy(self, situation: Situation, exemplars: Images, seed: tuple[int | str, ...]) -> float:
        """Accuracy in % after a whole phase with these exemplars, the mean over present and made-up classes.

        Measured by the head, on the present phase's images (held out where there are such; otherwise the network has
        seen them, and forgets), and on images of the made-up classes that the rehearsal does not train on.
        """
        phase = self._phase(situation, seed)
        memory = ExemplarMemory(everything())
        memory.admit(exemplars)
        at = self._next(situation, phase, memory, seed)
        for _ in self._trained(at):
            pass
        if self.fine_tune is not None:
            each = memory.largest_class
            new = phase.train.select(herding(at.net, phase.train, each, at.generator("herding")))
            memory.admit(new)
            for _ in self._epochs(self.fine_tune, at):
                pass
        known = situation.phase.train if situation.held_out is None else situation.held_out
        return _accuracy(at.net, join([_some(known, at.generator("measured")), phase.test]))

    def work(self, exemplars: int) -> float:
        """About how many images a rehearsal passes through the network."""
        return 1.3 * (self.epochs or self.train.schedule.epochs) * (self.classes * self.images + exemplars)

    def _phase(self, situation: Situation, seed: tuple[int | str, ...]) -> Phase:
        """Made-up classes: each is one of the present phase's, turned by one, two or three right angles."""
        draw = _draw(situation, seed, "classes")
        phase = situation.phase
        turns = (1, 2, 3) if phase.train.shape[1] == phase.train.shape[2] else (2,)
        kinds = [(label, turn) for label in phase.labels for turn in turns]
        chosen = torch.randperm(len(kinds), generator=draw)[: self.classes].tolist()
        first, train, test = phase.labels.stop, [], []
        for label, index in enumerate(chosen, first):
            of, turn = kinds[index]
            images = phase.train.of_classes([of])
            order = torch.randperm(len(images), generator=draw).to(images.labels.device)
            split = min(self.images, max(1, len(images) * 3 // 4))
            train.append(_turned(images.select(order[:split]), turn, label))
            test.append(_turned(images.select(order[split : split + MEASURED]), turn, label))
        return Phase(phase.index + 1, tuple(range(len(chosen))), first, join(train), join(test))

    def _next(
        self, situation: Situation, phase: Phase, memory: ExemplarMemory, seed: tuple[int | str, ...]
    ) -> Situation:
        net = copy.deepcopy(situation.net)
        previous = copy.deepcopy(net).eval().requires_grad_(False)
        imprint = phase.train if self.imprint else None
        grow(net, [len(phase.labels)], derive(*situation.seed, *seed, "head"), imprint)
        return Situation(net, previous, memory, phase, situation.augmentation, (*situation.seed, *seed))

    def _trained(self, situation: Situation) -> Iterator[IncrementalNet]:
        schedule = self.train.schedule
        epochs = min(schedule.epochs, self.epochs or schedule.epochs)
        return self._epochs(
            dataclasses.replace(self.train, schedule=dataclasses.replace(schedule, epochs=epochs)), situation
        )

    def _epochs(self, stage: Train, situation: Situation) -> Iterator[IncrementalNet]:
        loop = stage.begin(situation)
        for epoch in range(loop.epochs if loop is not None else 0):
            assert loop is not None
            loop.epoch(epoch, situation.generator(f"{stage.name} {epoch}"))
            yield situation.net


def _draw(situation: Situation, seed: tuple[int | str, ...], name: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive(*situation.seed, *seed, name))


def _turned(images: Images, turn: int, label: int) -> Images:
    pixels = images.pixels.rot90(turn, (2, 3)).contiguous(memory_format=torch.channels_last)
    return Images(pixels, torch.full_like(images.labels, label))


def _some(images: Images, generator: torch.Generator) -> Images:
    """At most :data:`MEASURED` times as many images as there are classes, at random."""
    most = MEASURED * len(images.labels.unique())
    return images.select(torch.randperm(len(images), generator=generator)[:most].to(images.labels.device))


@torch.no_grad()
def _accuracy(net: IncrementalNet, images: Images) -> float:
    """Mean over classes, in %."""
    net = folded(net)
    right = torch.cat([net(batch.pixels).logits.argmax(1) == batch.labels for batch in images.batches(500)])
    counts = torch.bincount(images.labels)
    of_class = torch.bincount(images.labels, right.double(), len(counts))[counts > 0] / counts[counts > 0]
    return 100 * float(of_class.mean())
