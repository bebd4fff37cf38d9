"""Mnemonics: exemplars whose pixels are optimised by bilevel gradients (Liu, Su, Liu, Schiele and Sun, CVPR 2020).

Two stages. :class:`Optimise` moves the present phase's exemplars so that a network trained on them from where it is now
does well on all the phase's images (equations 7 to 9). :class:`Adjust` moves the older ones: they are split in halves A
and B, each is trained on and measured on the other (equation 10).

What the paper leaves open, and how it is decided here:

- *The size of a step.* Gradients with respect to pixels are so small that the paper's rate of 0.01 moves a pixel by
  less than a hundredth of a grey level in all. A step is therefore normalised: the running mean of the gradient, scaled
  to a given root mean square in grey levels over the pixels of the batch.
- *Batches.* An update takes ``inner_batch`` exemplars, as evenly from all classes as can be, and ``outer_batch``
  images; an epoch passes over the exemplars once.
- *The inner steps* are plain gradient descent with cross-entropy over all seen classes, on the exemplars under the same
  random crops and flips as in training, with batch normalisation at its running statistics.
- *What learns in the inner steps:* the whole network, or its head alone.
- *Storage.* Pixels are clamped to 0..255 in every update and stored as uint8, rounded. Displacement and rounding error
  are recorded.
- *Order.* Exemplars beyond the budget are dropped before the adjustment, not after it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import pydantic
import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.func import functional_call

from . import bilevel
from .augment import Augmentation
from .bilevel import Hypergradient, InnerLoss, OuterLoss, Parameters
from .engine import Captured
from .images import Images
from .memory import ranks, to_uint8
from .nets import IncrementalNet
from .seeds import generator as seeded
from .stages import Situation


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Bilevel:
    """The settings of the bilevel steps.

    Attributes:
        exemplar_epochs: passes over the phase's exemplars; 0 leaves them as they were chosen.
        adjust_epochs: passes over the older exemplars; 0 leaves them as they are.
        level: what learns in the inner steps, the whole network or its head.
        way: how the gradient goes back through them: ``reverse`` or ``unrolled``; the result is the same.
        inner_steps, inner_lr: plain gradient descent on exemplars.
        inner_batch: exemplars an update, at most.
        inner_part: exemplars whose graph of derivatives is held at once, at most; it decides memory, not the result.
        outer_batch: images on which the outer loss is measured.
        pixel_step: root mean square of an update, in grey levels, over the pixels of the batch.
        pixel_decay: factor on ``pixel_step`` after each fifth of the epochs; the paper's is 0.5.
        pixel_momentum: of the running mean of gradients.
    """

    exemplar_epochs: NonNegativeInt = 50
    adjust_epochs: NonNegativeInt = 50
    level: Literal["network", "head"] = "network"
    way: Literal["reverse", "unrolled"] = "reverse"
    inner_steps: PositiveInt = 10
    inner_lr: PositiveFloat = 0.01
    inner_batch: PositiveInt = 200
    inner_part: PositiveInt = 50
    outer_batch: PositiveInt = 256
    pixel_step: PositiveFloat = 0.25
    pixel_decay: Annotated[float, Field(gt=0, le=1)] = 0.5
    pixel_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9

    def step_at(self, epoch: int, epochs: int) -> float:
        """Grey levels an update in epoch ``epoch`` of ``epochs``, counted from 0."""
        return self.pixel_step * self.pixel_decay ** (5 * epoch // epochs)


def hypergradient(
    net: IncrementalNet,
    exemplars: Tensor,
    labels: Tensor,
    outer: Images,
    augmentation: Augmentation,
    settings: Bilevel,
    generator: torch.Generator,
) -> Hypergradient:
    """How the loss on ``outer``, after training ``net`` on the exemplars, changes with their pixels.

    Args:
        net: in evaluation mode; it is not changed.
        exemplars: floating (m, c, h, w), in grey levels.
        labels: of the exemplars, int64 (m,).
        outer: the images to do well on.
        augmentation: applied to both.
        settings: of the inner steps.
        generator: draws crops and flips.
    """
    step = BilevelStep(net, augmentation, settings)
    return Hypergradient(*step(exemplars, labels, outer.pixels, outer.labels, *step.draw(exemplars, outer, generator)))


@dataclass(frozen=True)
class BilevelStep:
    """The hypergradient of :func:`hypergradient` as a function of tensors alone, and what it needs to have drawn.

    Attributes:
        net, augmentation, settings: see :func:`hypergradient`.
    """

    net: IncrementalNet
    augmentation: Augmentation
    settings: Bilevel

    def draw(self, exemplars: Tensor, outer: Images, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Crops and flips: of the exemplars for every inner step (steps, m, k), and of the outer images (n, k).

        Where only the head learns, the backbone is passed once, and there is one draw for all steps: (1, m, k).
        """
        m, channels, height, width = exemplars.shape
        shape = (channels, height, width)
        if self.settings.level == "head":
            inner = [self.augmentation.draw(m, shape, generator)]
            queries = self.augmentation.draw(len(outer), shape, generator)
        else:
            seed = int(torch.randint(2**62, (), generator=generator))
            queries = self.augmentation.draw(len(outer), shape, generator)
            steps = range(self.settings.inner_steps)
            inner = [self.augmentation.draw(m, shape, seeded(seed, step)) for step in steps]
        return torch.stack(inner).to(exemplars.device), queries.to(exemplars.device)

    def __call__(
        self, exemplars: Tensor, labels: Tensor, pixels: Tensor, targets: Tensor, draws: Tensor, outer_draws: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Loss and gradient.

        Args:
            exemplars: floating (m, c, h, w).
            labels: int64 (m,).
            pixels: of the outer images, uint8 (n, c, h, w).
            targets: their labels, int64 (n,).
            draws, outer_draws: see :meth:`draw`.
        """
        queries = self.augmentation.apply(pixels, outer_draws)
        if self.settings.level == "head":
            return self._through_head(exemplars, labels, queries, targets, draws[0])

        def inner(theta: Parameters, pixels: Tensor, step: int) -> Iterator[Tensor]:
            # With running statistics an image's loss does not depend on its neighbours: the mean is a sum of parts.
            size = self.settings.inner_part
            for some, y, draw in zip(pixels.split(size), labels.split(size), draws[step].split(size), strict=True):
                views = self.augmentation.apply(some, draw)
                logits = functional_call(self.net, dict(theta), (views,)).logits
                yield F.cross_entropy(logits, y, reduction="sum") / len(labels)

        def loss(theta: Parameters) -> Tensor:
            return F.cross_entropy(functional_call(self.net, dict(theta), (queries,)).logits, targets)

        return self._way(inner, loss, dict(self.net.named_parameters()), exemplars)

    def _through_head(
        self, exemplars: Tensor, labels: Tensor, queries: Tensor, targets: Tensor, draws: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same when only the head learns: the features of the backbone stand for the exemplars."""
        head = self.net.head
        pixels = exemplars.detach().requires_grad_()
        features = self.net.features(self.augmentation.apply(pixels, draws))
        with torch.no_grad():
            query_features = self.net.features(queries)

        def inner(theta: Parameters, features: Tensor, step: int) -> Tensor:
            return F.cross_entropy(functional_call(head, dict(theta), (features,)).logits, labels)

        def loss(theta: Parameters) -> Tensor:
            return F.cross_entropy(functional_call(head, dict(theta), (query_features,)).logits, targets)

        value, gradient = self._way(inner, loss, dict(head.named_parameters()), features)
        (through,) = torch.autograd.grad(features, pixels, gradient)
        return value, through

    def _way(
        self, inner: InnerLoss, outer: OuterLoss, parameters: Parameters, exemplars: Tensor
    ) -> tuple[Tensor, Tensor]:
        way = bilevel.WAYS[self.settings.way]
        loss, gradient = way(inner, outer, parameters, exemplars, self.settings.inner_steps, self.settings.inner_lr)
        return loss, gradient


class Pixels:
    """Exemplars while they are optimised.

    Args:
        images: the exemplars to begin with, sorted by label and rank.
        momentum: of the running mean of gradients, 0 to below 1.
    """

    def __init__(self, images: Images, momentum: float) -> None:
        self.values = images.pixels.float()
        self.labels = images.labels
        self._momentum = torch.zeros_like(self.values)
        self._decay = momentum

    def move(self, where: Tensor, gradient: Tensor, step: float) -> None:
        """Move exemplars at ``where`` (m,) against their mean gradient by ``step`` grey levels RMS, within 0..255."""
        momentum = self._momentum[where].lerp(gradient, 1 - self._decay)
        self._momentum[where] = momentum
        scale = step / momentum.square().mean().sqrt().clamp(min=1e-30)
        self.values[where] = (self.values[where] - scale * momentum).clamp(0, 255)

    def sample(self, where: Tensor, most: int, generator: torch.Generator) -> Images:
        """At most ``most`` of the exemplars at ``where``, at random, as they would be stored now."""
        chosen = where[torch.randperm(len(where), generator=generator)[:most].to(where.device)]
        return Images(to_uint8(self.values[chosen]), self.labels[chosen])

    def state(self) -> dict[str, Tensor]:
        """All tensors, for a checkpoint."""
        return {"values": self.values, "momentum": self._momentum}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take up what :meth:`state` gave."""
        self.values = state["values"].contiguous(memory_format=torch.channels_last)
        self._momentum = state["momentum"].contiguous(memory_format=torch.channels_last)


def class_balanced(labels: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of at most ``size`` positions in sorted ``labels`` (n,): each once, classes as even as can be."""
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[labels.cpu()[shuffled].argsort(stable=True)]
    turn = ranks(labels.cpu())  # of sorted labels: by_class[i] is the ranks[i]-th of its class in this epoch
    order = by_class[turn.argsort(stable=True)]
    batches = -(-len(order) // size)
    return iter(batch.sort().values.to(labels.device) for batch in order.tensor_split(batches))


Pairs = Callable[["Pixels", torch.Generator], Iterator[tuple[Tensor, Images]]]
"""What an epoch consists of: positions of exemplars to move, and the images that they are to serve."""


@dataclass(frozen=True)
class Optimise:
    """Optimise the present phase's exemplars on its images; the memory must hold them already.

    An epoch takes every exemplar once, and as many random images as that needs.

    Attributes:
        settings: of the bilevel step.
        name: see :class:`mnemo.stages.Stage`.
    """

    settings: Bilevel = Bilevel()
    name: str = "optimise"

    def begin(self, situation: Situation) -> "PixelLoop | None":
        """See :class:`mnemo.stages.Stage`."""
        exemplars, phase, settings = situation.memory.images, situation.phase, self.settings
        if exemplars is None or not settings.exemplar_epochs:
            return None
        where = (exemplars.labels >= phase.first_label).nonzero().squeeze(1)

        def pairs(pixels: Pixels, generator: torch.Generator) -> Iterator[tuple[Tensor, Images]]:
            for batch in class_balanced(pixels.labels, settings.inner_batch, generator):
                query = torch.randint(len(phase.train), (settings.outer_batch,), generator=generator)
                yield batch, phase.train.select(query.to(phase.train.labels.device))

        return PixelLoop(settings.exemplar_epochs, settings, situation, where, pairs) if len(where) else None

    def work(self, phase: int, images: int, new: int, old: int) -> float:
        """See :class:`mnemo.stages.Stage`."""
        return _work(self.settings, self.settings.exemplar_epochs, new)


@dataclass(frozen=True)
class Adjust:
    """Adjust the exemplars of older classes: half A learns so as to do well on half B, and B so as to do well on A.

    The halves are the even and the odd ranks of each class; a class with one exemplar left is in A only. An epoch moves
    A and then B once.

    Attributes:
        settings: of the bilevel step.
        name: see :class:`mnemo.stages.Stage`.
    """

    settings: Bilevel = Bilevel()
    name: str = "adjust"

    def begin(self, situation: Situation) -> "PixelLoop | None":
        """See :class:`mnemo.stages.Stage`."""
        exemplars, settings = situation.memory.images, self.settings
        if exemplars is None or not settings.adjust_epochs:
            return None
        where = (exemplars.labels < situation.phase.first_label).nonzero().squeeze(1)
        half = ranks(exemplars.labels)[where] % 2
        a, b = ((half == which).nonzero().squeeze(1) for which in (0, 1))

        def pairs(pixels: Pixels, generator: torch.Generator) -> Iterator[tuple[Tensor, Images]]:
            for mine, others in ((a, b), (b, a)):
                for batch in class_balanced(pixels.labels[mine], settings.inner_batch, generator):
                    yield mine[batch], pixels.sample(others, settings.outer_batch, generator)

        return PixelLoop(settings.adjust_epochs, settings, situation, where, pairs) if len(b) else None

    def work(self, phase: int, images: int, new: int, old: int) -> float:
        """See :class:`mnemo.stages.Stage`."""
        return _work(self.settings, self.settings.adjust_epochs, old)


class PixelLoop:
    """The loop of :class:`Optimise` and :class:`Adjust`.

    Args:
        epochs, settings: see :class:`Bilevel`.
        situation: see :class:`mnemo.stages.Situation`.
        where: positions in the memory of the exemplars that are moved.
        pairs: what an epoch consists of.
    """

    def __init__(self, epochs: int, settings: Bilevel, situation: Situation, where: Tensor, pairs: Pairs) -> None:
        self.epochs = epochs
        self._settings, self._situation, self._where, self._pairs = settings, situation, where, pairs
        assert situation.memory.images is not None
        self._pixels = Pixels(situation.memory.images.select(where), settings.pixel_momentum)
        self._bilevel = BilevelStep(situation.net, situation.augmentation, settings)
        self._gradient = Captured(self._bilevel)

    def epoch(self, index: int, generator: torch.Generator) -> Mapping[str, float]:
        """Move every exemplar once: the mean outer loss."""
        self._situation.net.eval()
        pixels, step, losses = self._pixels, self._settings.step_at(index, self.epochs), []
        for where, outer in self._pairs(pixels, generator):
            exemplars = pixels.values[where]
            draws = self._bilevel.draw(exemplars, outer, generator)
            loss, gradient = self._gradient(exemplars, pixels.labels[where], outer.pixels, outer.labels, *draws)
            pixels.move(where, gradient, step)
            losses.append(loss.clone())
        return {"loss": float(torch.stack(losses).mean())}

    def state(self) -> dict[str, Tensor]:
        """Pixels and their momentum."""
        return self._pixels.state()

    def load(self, state: dict[str, Tensor]) -> None:
        """Take up pixels and momentum."""
        self._pixels.load(state)

    def end(self) -> None:
        """Store the pixels."""
        self._situation.memory.store(self._where, self._pixels.values)


def _work(settings: Bilevel, epochs: int, exemplars: int) -> float:
    """Images passed: an inner step of the whole network, with its way back, was measured at about six plain ones."""
    steps = settings.inner_steps * 6 if settings.level == "network" else 1.5
    return epochs * exemplars * (steps + settings.outer_batch / settings.inner_batch)
