"""Stages: what happens to a learner in a phase, one after the other. A recipe is a sequence of them.

A stage is a frozen description; ``begin`` makes the loop that does the work. A loop can be put down after any epoch and
taken up again: its ``state`` and the network's are all there is, and every epoch gets a generator of its own.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from . import distributed, rates
from .augment import Augmentation
from .codecs import Codec, Mixed, Raw
from .compression import Choice, logits, positions_by_class, shuffled_by_class, unit_features
from .data_parallel import add_gradients, batch_normalisation, own, whole
from .disk.files import InputError
from .engine import Captured, Precision, autocast
from .images import Images, join
from .losses import remembered
from .memory import ExemplarMemory, Stored, fitting, joined, ranks, stored
from .nets import IncrementalNet, Outputs, folded
from .phases import Phase, held_out
from .seeds import generator
from .streaming import Streamed

Objective = Callable[[Outputs, Tensor, Outputs | None], Tensor]
"""(outputs, labels, outputs of the previous phase's network or None) to a scalar loss.

One that is more than cross-entropy in phase 0 is a dataclass: its fields decide the base network.
"""


@dataclass
class Situation:
    """What a stage works on.

    Attributes:
        net: the network being trained; its head already has the phase's classes.
        previous: a frozen copy from the end of the previous phase; None in phase 0.
        memory: the exemplars.
        phase: the present phase, its images on the network's device.
        augmentation: how training images are varied.
        seed: names this phase of this run; append a name to draw from :func:`mnemo.seeds.generator`.
        waypoints: networks kept from the phase's own training, frozen, earliest first.
        held_out: images of the phase's classes that are not trained on; None: there are none.
        classes: of the whole stream; None: not known.
    """

    net: IncrementalNet
    previous: IncrementalNet | None
    memory: ExemplarMemory
    phase: Phase
    augmentation: Augmentation
    seed: tuple[int | str, ...]
    waypoints: Sequence[IncrementalNet] = ()
    held_out: Images | None = None
    classes: int | None = None

    def generator(self, name: str) -> torch.Generator:
        """A fresh generator for a named place in this phase."""
        return generator(*self.seed, name)


def grow(net: IncrementalNet, sizes: Sequence[int], seed: int, imprint: Images | None = None) -> None:
    """Give a network room for new classes, on the device that it is on.

    Args:
        net: its head grows.
        sizes: of the groups of classes that come.
        seed: of the random weights.
        imprint: images of the last group, whose mean directions in feature space its weights then have.
    """
    device = net.mean.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for size in sizes:
            net.head.grow(size)
    net.to(device)
    if imprint is not None:
        features = unit_features(net, imprint)
        net.head.imprint(torch.stack([features[where].mean(0) for where in positions_by_class(imprint.labels)]))


class Loop(Protocol):
    """Work that goes on epoch by epoch."""

    epochs: int

    def epoch(self, index: int, generator: torch.Generator) -> Mapping[str, float]:
        """Do one epoch and return what there is to show of it, such as the mean loss."""

    def state(self) -> dict[str, Tensor]:
        """What the network and the memory do not hold already."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Take up what :meth:`state` gave."""

    def end(self) -> None:
        """Called after the last epoch; it may be called twice if a run is killed in between."""


class Once:
    """The rest of a loop of one epoch, all of whose work is in network and memory when that is done."""

    epochs = 1

    def state(self) -> dict[str, Tensor]:
        """See :class:`Loop`: nothing."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """See :class:`Loop`."""

    def end(self) -> None:
        """See :class:`Loop`."""


class Descent:
    """The rest of a loop that descends with momentum, all of whose other work is in the network.

    Args:
        optimizer: of stochastic gradient descent.
        parameters: by name, all that it changes. Their momenta are there from the start, and stay in one place.
    """

    def __init__(self, optimizer: torch.optim.SGD, parameters: Mapping[str, Tensor]) -> None:
        self._optimizer = optimizer
        self._momenta = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
        for name, parameter in parameters.items():
            optimizer.state[parameter]["momentum_buffer"] = self._momenta[name]

    def state(self) -> dict[str, Tensor]:
        """The momentum of every parameter that learns."""
        return self._momenta

    def load(self, state: dict[str, Tensor]) -> None:
        """Take up the momentum."""
        for name, momentum in state.items():
            self._momenta[name].copy_(momentum)

    def end(self) -> None:
        """See :class:`Loop`."""


class Stage(Protocol):
    """A description of work in a phase."""

    @property
    def name(self) -> str:
        """How it is called in the progress display, in the record, and in seeds."""

    def begin(self, situation: Situation) -> Loop | None:
        """The loop for this phase, or None where the stage has nothing to do."""

    def work(self, phase: int, images: int, new: int, old: int) -> float:
        """About how many images it will pass through the network, forward and backward; to foretell the time.

        Args:
            phase: 0 for the base phase.
            images: of the phase.
            new: exemplars that the phase will leave of its classes.
            old: exemplars of older classes.
        """


@dataclass(frozen=True)
class Schedule:
    """Stochastic gradient descent with momentum and a learning rate that falls in steps.

    Attributes:
        epochs: passes over the images.
        lr: learning rate at the start.
        milestones: where it is multiplied by ``gamma``, as fractions of ``epochs`` (LUCIR: 80 and 120 of 160).
        gamma: the factor.
        momentum, weight_decay: of SGD; the decay is on all parameters that learn.
        batch_size: images a step.
        annealing: ``steps`` as above, or ``cosine``: half a cosine from ``lr`` to 0.
        replays: how often the exemplars of an old class are drawn in an epoch, all together; 0: each of them once.
        precision: ``bf16`` computes convolutions and products so; weights, head and losses stay in fp32.
        sync_batch_norm: see :func:`mnemo.data_parallel.batch_normalisation`; where one process trains it says nothing.
    """

    epochs: int
    lr: float = 0.1
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 128
    annealing: Literal["steps", "cosine"] = "steps"
    replays: int = 0
    precision: Precision = "fp32"
    sync_batch_norm: bool = True

    def lr_at(self, epoch: int) -> float:
        """The learning rate of epoch ``epoch``, counted from 0."""
        if self.annealing == "cosine":
            return self.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return self.lr * self.gamma ** sum(epoch >= m * self.epochs for m in self.milestones)


def new_and_exemplars(situation: Situation) -> Images:
    """The phase's images and all exemplars of older classes: the usual training set."""
    return join([situation.phase.train, *old_exemplars(situation)])


def old_exemplars(situation: Situation) -> list[Images]:
    """The exemplars of classes that came before this phase: one set or none."""
    exemplars = situation.memory.images
    if exemplars is None:
        return []
    old = exemplars.select((exemplars.labels < situation.phase.first_label).nonzero().squeeze(1))
    return [old] if len(old) else []


def exemplars_only(situation: Situation) -> Images:
    """All exemplars, the present phase's included: the balanced set; nothing where the budget is too small for any."""
    memory, phase = situation.memory, situation.phase
    if memory.images is not None:
        return memory.images
    if memory.quota(phase.labels.stop, phase.train.shape) >= phase.train.bytes_each:
        raise ValueError("the memory is empty: compress before you fine-tune on it")
    return phase.train.select(torch.zeros_like(phase.train.labels, dtype=torch.bool))


@dataclass(frozen=True)
class Train:
    """Train the network.

    Attributes:
        objective: the loss.
        schedule: of every phase but the first.
        base_schedule: of phase 0; None does nothing there.
        uses_previous: whether the objective gets the previous network's outputs; they are not computed otherwise.
        images: which images of a situation are trained on.
        learn_old_weights: whether the head's weights of old classes learn.
        frozen_statistics: batch normalisation uses its running statistics and leaves them as they are.
        name: see :class:`Stage`.
    """

    objective: Objective
    schedule: Schedule
    base_schedule: Schedule | None
    uses_previous: bool = False
    images: Callable[[Situation], Images] = new_and_exemplars
    learn_old_weights: bool = True
    frozen_statistics: bool = False
    name: str = "train"

    def begin(self, situation: Situation) -> "Training | None":
        """See :class:`Stage`."""
        schedule = self._schedule(situation.phase.index)
        if schedule is None or not schedule.epochs:
            return None
        images = self.images(situation)
        return Training(self, schedule, situation, images) if len(images) else None

    def work(self, phase: int, images: int, new: int, old: int) -> float:
        """See :class:`Stage`."""
        schedule = self._schedule(phase)
        if schedule is None:
            return 0
        passed = old + (new if self.images is exemplars_only else images)
        return schedule.epochs * passed * (1.3 if self.uses_previous and phase else 1)

    def _schedule(self, phase: int) -> Schedule | None:
        return self.schedule if phase else self.base_schedule


class Training(Descent):
    """The loop of :class:`Train`."""

    def __init__(self, stage: Train, schedule: Schedule, situation: Situation, images: Images) -> None:
        self.epochs = schedule.epochs
        self._stage, self._schedule, self._images = stage, schedule, images
        self._net, self._augmentation = situation.net, situation.augmentation
        self._draws = Draws(images.labels, situation.phase.first_label, schedule.replays)
        self._fewest = 2 if schedule.sync_batch_norm else 2 * distributed.processes()
        _refuse_small_parts(min(len(images), schedule.batch_size), self._fewest)
        self._device, self._soft_labels = images.labels.device, situation.memory.soft_labels
        self._net.head.learn_old(stage.learn_old_weights)
        self._parameters = _trained(self._net)
        super().__init__(_sgd(self._parameters, schedule), self._parameters)
        self._previous = _Previous(situation, schedule, images) if stage.uses_previous and situation.previous else None
        changed = [*self._parameters.values(), *self._momenta.values(), *self._net.buffers()]
        self._step = Captured(self._train_on, changed)

    def epoch(self, index: int, generator: torch.Generator) -> Mapping[str, float]:
        """One pass over the images in random order: the mean loss and the training accuracy in %."""
        self._set_lr(self._schedule.lr_at(index))
        self._net.train(not self._stage.frozen_statistics)
        # Sums stay on the device: reading them in the loop would make the host wait for every step.
        loss_sum, correct, seen = torch.zeros((), device=self._device), torch.zeros((), device=self._device), 0
        with batch_normalisation(self._net, self._schedule.sync_batch_norm):
            for where, draws, *read in self._batches(generator):
                loss, right = self._stepped(where, draws, *read)
                loss_sum += loss * len(where)
                correct += right
                seen += len(where)
        return {"loss": float(loss_sum) / seen, "accuracy": 100 * float(correct) / seen}

    def _stepped(self, *batch: Tensor) -> tuple[Tensor, ...]:
        try:
            return self._step(*batch)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise InputError("one image so small cannot train batch normalisation; more or larger ones can") from None

    def _set_lr(self, lr: float) -> None:
        for group in self._optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)  # in place: a recorded step reads it there
            else:
                group["lr"] = lr

    def _batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
        """All that is random of an epoch: for each batch the positions of its images and what was drawn for them.

        Where images are streamed, their pixels, labels and logits come with them.
        """
        order = self._draws(generator).split(self._schedule.batch_size)
        if len(order) > 1 and len(order[-1]) < self._fewest:
            order = order[:-1]  # batch normalisation cannot train on one image; the next epoch leaves out another
        sizes = [len(where) for where in order]
        draws = torch.cat([self._augmentation.draw(size, self._images.shape, generator) for size in sizes])
        drawn = zip(*(tensor.to(self._device).split(sizes) for tensor in (torch.cat(order), draws)), strict=True)
        if not isinstance(self._images, Streamed):
            yield from drawn
            return
        for (where, draw), batch in zip(drawn, self._images.ahead(order), strict=True):
            yield where, draw, batch.pixels, batch.labels, *([] if batch.logits is None else [batch.logits])

    def _train_on(self, where: Tensor, draws: Tensor, *read: Tensor) -> tuple[Tensor, Tensor]:
        """One step on the images at ``where``, or as they were read: the loss, and how many were named rightly."""
        mine, logits = own(len(where)), self._images.logits
        if read:
            pixels, labels, *soft = read
            pixels = pixels[mine]
        else:
            pixels, labels = self._images.select(where[mine]).pixels, self._images.labels[where]
            soft = [] if logits is None else [logits[where]]
        pixels = self._augmentation.apply(pixels, draws[mine])
        with autocast(self._device, self._schedule.precision):
            outputs = whole(self._net(pixels), len(where))
        old = self._previous(where, pixels) if self._previous else None
        loss = self._stage.objective(outputs, labels, old)
        for remembered_logits in soft:
            loss = loss + self._soft_labels * remembered(outputs.logits, remembered_logits)
        self._optimizer.zero_grad()
        loss.backward()
        add_gradients(list(self._parameters.values()))
        self._optimizer.step()
        return loss.detach(), (outputs.logits.detach().argmax(1) == labels).sum()


def _refuse_small_parts(batch: int, fewest: int) -> None:
    """Without synchronisation every process normalises its own part of a batch."""
    if distributed.processes() > 1 and batch < fewest:
        raise InputError(f"sync_batch_norm=false: a batch of {batch} images is less than two for each process")


def _trained(net: IncrementalNet) -> dict[str, nn.Parameter]:
    """What training changes, by name: all that learns but the companion, which has stages of its own."""
    return {n: p for n, p in net.named_parameters() if p.requires_grad and not n.startswith("companion.")}


class Draws:
    """Which images an epoch shows, in random order: new ones once, old ones as often as ``replays`` says.

    Args:
        labels: of all images, int64 (n,).
        first_label: those below it are old.
        replays: draws of each old class together; of m exemplars each comes replays // m times, and a random part of
            them once more. 0: each of them once.
    """

    def __init__(self, labels: Tensor, first_label: int, replays: int) -> None:
        labels = labels.cpu()
        self._count, self._replays = len(labels), replays
        self._new = (labels >= first_label).nonzero().squeeze(1)
        self._old = (labels < first_label).nonzero().squeeze(1)
        self._labels = labels[self._old]

    def __call__(self, generator: torch.Generator) -> Tensor:
        """Positions, int64 (draws,) on the CPU."""
        if not self._replays or not len(self._old):
            return torch.randperm(self._count, generator=generator)
        shuffled = shuffled_by_class(self._labels, generator)
        labels = self._labels[shuffled]
        of_class = labels.bincount()[labels]
        times = self._replays // of_class + (ranks(labels) < self._replays % of_class).long()
        positions = torch.cat([self._new, self._old[shuffled].repeat_interleave(times)])
        return positions[torch.randperm(len(positions), generator=generator)]


def _sgd(parameters: Mapping[str, Tensor], schedule: Schedule) -> torch.optim.SGD:
    on_gpu = any(parameter.is_cuda for parameter in parameters.values())
    return torch.optim.SGD(
        parameters.values(),
        lr=torch.tensor(schedule.lr, device="cuda") if on_gpu else schedule.lr,
        momentum=schedule.momentum,
        weight_decay=schedule.weight_decay,
        fused=True,
    )


class _Previous:
    """What the previous network says of training images: computed once where images do not vary, else in every step."""

    def __init__(self, situation: Situation, schedule: Schedule, images: Images) -> None:
        assert situation.previous is not None
        self._net, self._precision = folded(situation.previous), schedule.precision
        self._all = None
        if not situation.augmentation.varies:
            parts = [self._outputs(batch.pixels) for batch in images.batches(500)]
            self._all = Outputs(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def __call__(self, where: Tensor, pixels: Tensor) -> Outputs:
        """Outputs for the images at ``where``; ``pixels`` is how those of this process are shown now."""
        if self._all is not None:
            return Outputs(*(part[where] for part in self._all))
        return whole(self._outputs(pixels), len(where))

    @torch.no_grad()
    def _outputs(self, pixels: Tensor) -> Outputs:
        with autocast(pixels.device, self._precision):
            outputs: Outputs = self._net(pixels)
        return outputs


@dataclass(frozen=True)
class Compress:
    """Choose the phase's exemplars, and shrink those of older classes to the budget.

    What no longer fits is dropped first. The memory never holds more than its budget, and later stages spend no time on
    exemplars that are about to go.

    Attributes:
        choice: what chooses, among the images as the memory's codec shows them.
        name: see :class:`Stage`.
    """

    choice: Choice
    name: str = "compress"

    def begin(self, situation: Situation) -> "Compression":
        """See :class:`Stage`."""
        return Compression(self, situation)

    def work(self, phase: int, images: int, new: int, old: int) -> float:
        """See :class:`Stage`."""
        return images / 3


class Compression(Once):
    """The loop of :class:`Compress`."""

    def __init__(self, stage: Compress, situation: Situation) -> None:
        self._stage, self._situation = stage, situation

    def epoch(self, index: int, generator: torch.Generator) -> Mapping[str, float]:
        """Shrink, choose, admit."""
        memory, images = self._situation.memory, self._situation.phase.train
        memory.shrink(self._quota())
        if isinstance(memory.codec, Mixed):
            where, kept = self._at_best_rates(memory.codec, images, generator)
        else:
            where, kept = self._chosen(memory.codec, images, generator)
        if len(where):
            memory.admit(images.select(where), kept, self._whole(images.labels[where]))
        return {"exemplars": len(memory)}

    def _whole(self, chosen: Tensor) -> Tensor:
        """Classes whose images have all been chosen, and none held out."""
        held = self._situation.held_out
        there = torch.cat([self._situation.phase.train.labels, *([] if held is None else [held.labels])]).bincount()
        return ((chosen.bincount(minlength=len(there)) == there) & (there > 0)).nonzero().squeeze(1)

    def _quota(self) -> int:
        return self._situation.memory.quota(self._situation.phase.labels.stop, self._situation.phase.train.shape)

    def _chosen(self, codec: Codec, images: Images, generator: torch.Generator) -> tuple[Tensor, Stored]:
        """Positions of the images that are kept in this codec, and how they are kept."""
        if not images.in_memory and not isinstance(codec, Raw):
            return self._chosen_by_class(codec, images, generator)
        kept, quota = stored(codec, images), self._quota()
        if self._situation.memory.soft_labels:
            kept = kept.with_logits(logits(self._situation.net, kept.images))
        most = quota // int(kept.sizes.min())
        if not most:
            return torch.zeros(0, dtype=torch.int64), kept
        where = distributed.from_first(self._stage.choice(self._situation.net, kept.images, most, generator))
        where = where[fitting(images.labels[where].cpu(), kept.sizes[where.cpu()], quota).to(where.device)]
        return where, kept.select(where)

    def _chosen_by_class(self, codec: Codec, images: Images, generator: torch.Generator) -> tuple[Tensor, Stored]:
        """The same for images that are streamed: as a codec shows them, one class after the other is in memory."""
        positions, parts = [], []
        for of_class in positions_by_class(images.labels):
            where, kept = self._chosen(codec, images.select(of_class), generator)
            positions.append(of_class[where])
            parts.append(kept if len(where) else kept.select(where))
        return torch.cat(positions), joined(parts)

    def _at_best_rates(self, codec: Mixed, images: Images, generator: torch.Generator) -> tuple[Tensor, Stored]:
        """The same with a codec for each class; see :func:`mnemo.rates.best`."""
        rest, held = held_out(images, 0.2, generator)
        assert held is not None
        members = [codec.member(index) for index in range(len(codec.codecs))]
        tried = [self._chosen(member, rest, generator)[1].images for member in members]
        best = distributed.from_first(rates.best(self._situation.net, tried, held, old_exemplars(self._situation)))
        found = [self._chosen(member, images, generator) for member in members]
        mine = [(best[images.labels[where]] == index).nonzero().squeeze(1) for index, (where, _) in enumerate(found)]
        where = torch.cat([where[some] for (where, _), some in zip(found, mine, strict=True)])
        kept = joined([kept.select(some) for (_, kept), some in zip(found, mine, strict=True)])
        order = images.labels[where].argsort(stable=True)
        return where[order], kept.select(order)
