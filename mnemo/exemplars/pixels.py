"""Pixels that are being optimised: the loop, whatever the objective."""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Protocol

import pydantic
import torch
from pydantic import ConfigDict, Field, PositiveFloat
from torch import Tensor

from ..codecs import Codec, Raw, to_uint8
from ..compression import logits
from ..counts import NonNegativeInt, PositiveInt
from ..images import Images
from ..memory import ranks
from ..stages import Situation

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class PixelSteps:
    """How pixels are moved.

    Attributes:
        exemplar_epochs: passes over the phase's exemplars; 0 leaves them as they were chosen.
        adjust_epochs: passes over the older exemplars; 0 leaves them as they are.
        exemplar_batch: exemplars an update, at most.
        outer_batch: images that an update looks at.
        pixel_step: root mean square of an update, in grey levels, over the pixels of the batch.
        pixel_decay: factor on ``pixel_step`` after each fifth of the epochs; the paper's is 0.5.
        pixel_momentum: of the running mean of gradients.
        pixel_rate: in place of ``pixel_step`` a rate in grey levels, by which the running mean is multiplied as it is.
        optimised_share: part of each class's exemplars that is moved, the last in rank; the others stay real.
    """

    exemplar_epochs: NonNegativeInt = 50
    adjust_epochs: NonNegativeInt = 50
    exemplar_batch: PositiveInt = 200
    outer_batch: PositiveInt = 256
    pixel_step: PositiveFloat = 0.25
    pixel_decay: Annotated[float, Field(gt=0, le=1)] = 0.5
    pixel_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    pixel_rate: PositiveFloat | None = None
    optimised_share: Annotated[float, Field(gt=0, le=1)] = 1.0

    def decay_at(self, epoch: int, epochs: int) -> float:
        """The factor on steps in epoch ``epoch`` of ``epochs``, counted from 0."""
        return self.pixel_decay ** (5 * epoch // epochs)


class Gradient(Protocol):
    """Which way exemplars are to move."""

    def __call__(
        self, epoch: int, exemplars: Tensor, labels: Tensor, outer: Images, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """A loss (a scalar) and its gradient with respect to the exemplars.

        Args:
            epoch: of the loop, from 0.
            exemplars: floating (m, c, h, w), in grey levels.
            labels: int64 (m,).
            outer: images that the exemplars are to stand for.
            generator: draws whatever is random.
        """


class Objective(Protocol):
    """A description of what exemplars are optimised for."""

    def begin(self, situation: Situation, stage: str) -> Gradient:
        """What moves them in this phase, in the stage of this name."""

    def work(self, exemplars: int, outer: int) -> float:
        """About how many images one update passes through the network; see :class:`mnemo.stages.Stage`."""


class Pixels:
    """Exemplars while they are optimised.

    What is moved are floating pixels behind the codec; what an objective sees is what would be decoded
    (straight through: see :meth:`mnemo.codecs.Codec.through`). Raw pixels it sees unrounded.

    Args:
        images: the exemplars to begin with, sorted by label and rank.
        settings: see :class:`PixelSteps`.
        codec: in which they will be stored.
    """

    def __init__(self, images: Images, settings: PixelSteps, codec: Codec) -> None:
        self.values = images.pixels.to(torch.get_default_dtype())
        self.labels = images.labels
        self._momentum = torch.zeros_like(self.values)
        self._settings, self._codec = settings, codec

    def seen(self, values: Tensor) -> Tensor:
        """Floating pixels (m, c, h, w) as they would be decoded; differentiable."""
        return values if isinstance(self._codec, Raw) else self._codec.through(values)

    def step(self, where: Tensor, gradient: Callable[[Tensor], tuple[Tensor, Tensor]], decay: float) -> Tensor:
        """One update of the exemplars at ``where`` (m,): the loss before it.

        Args:
            where: positions.
            gradient: of seen pixels: a loss and its gradient with respect to them.
            decay: factor on the step.
        """
        values = self.values[where].requires_grad_()
        seen = self.seen(values)
        loss, direction = gradient(seen.detach())
        if seen is not values:
            (direction,) = torch.autograd.grad(seen, values, direction)
        self.move(where, direction, decay)
        return loss

    def move(self, where: Tensor, gradient: Tensor, decay: float = 1.0) -> None:
        """Move exemplars at ``where`` (m,) against their mean gradient, within 0..255."""
        momentum = self._momentum[where].lerp(gradient, 1 - self._settings.pixel_momentum)
        self._momentum[where] = momentum
        rate: float | Tensor
        if self._settings.pixel_rate is None:
            rate = self._settings.pixel_step / momentum.square().mean().sqrt().clamp(min=1e-30)
        else:
            rate = self._settings.pixel_rate
        self.values[where] = (self.values[where] - decay * rate * momentum).clamp(0, 255)

    def sample(self, where: Tensor, most: int, generator: torch.Generator) -> Images:
        """At most ``most`` of the exemplars at ``where``, at random, as they would be stored now."""
        chosen = where[torch.randperm(len(where), generator=generator)[:most].to(where.device)]
        return Images(to_uint8(self.seen(self.values[chosen])), self.labels[chosen])

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


Pairs = Callable[[Pixels, torch.Generator], Iterator[tuple[Tensor, Images]]]
"""What an epoch consists of: positions of exemplars to move, and the images that they are to serve."""


class PixelLoop:
    """The loop of :class:`mnemo.exemplars.stages.Optimise` and :class:`mnemo.exemplars.stages.Adjust`.

    Args:
        epochs, settings: see :class:`PixelSteps`.
        situation: see :class:`mnemo.stages.Situation`.
        where: positions in the memory of the exemplars that are moved.
        pairs: what an epoch consists of.
        gradient: which way they move.
    """

    def __init__(
        self,
        epochs: int,
        settings: PixelSteps,
        situation: Situation,
        where: Tensor,
        pairs: Pairs,
        gradient: Gradient,
    ) -> None:
        self.epochs = epochs
        self._settings, self._where, self._pairs, self._gradient = settings, where, pairs, gradient
        self._memory, self._phase, self._net = situation.memory, situation.phase, situation.net
        assert self._memory.images is not None
        self._pixels = Pixels(self._memory.images.select(where), settings, self._memory.codec)

    def epoch(self, index: int, generator: torch.Generator) -> Mapping[str, float]:
        """Move every exemplar once: the mean loss."""
        pixels, decay, losses = self._pixels, self._settings.decay_at(index, self.epochs), []
        for where, outer in self._pairs(pixels, generator):
            labels = pixels.labels[where]

            def gradient(seen: Tensor, labels: Tensor = labels, outer: Images = outer) -> tuple[Tensor, Tensor]:
                return self._gradient(index, seen, labels, outer, generator)

            losses.append(pixels.step(where, gradient, decay).clone())
        return {"loss": float(torch.stack(losses).mean())}

    def state(self) -> dict[str, Tensor]:
        """Pixels and their momentum."""
        return self._pixels.state()

    def load(self, state: dict[str, Tensor]) -> None:
        """Take up pixels and momentum."""
        self._pixels.load(state)

    def end(self) -> None:
        """Store the pixels, with the logits that they have now; what has grown beyond the budget goes, last in rank."""
        self._memory.store(self._where, self._pixels.values)
        kept = self._memory.images
        if kept is not None and kept.logits is not None:
            self._memory.remember(self._where, self._logits(kept.select(self._where)))
        self._memory.shrink(self._memory.quota(self._phase.labels.stop, self._phase.train.shape))

    def _logits(self, images: Images) -> Tensor:
        """Of the present network, for the classes that each image's logits are of."""
        assert images.logits is not None
        found = logits(self._net, images)[:, : images.logits.shape[1]]
        return found.masked_fill(images.logits.isnan(), torch.nan)
