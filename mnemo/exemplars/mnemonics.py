"""Mnemonics: exemplars whose pixels are optimised by bilevel gradients (Liu, Su, Liu, Schiele and Sun, CVPR 2020).

Exemplars move so that a network trained on them from some start does well on all the images that they stand for
(equations 7 to 9); the older ones are split in halves A and B, each is trained on and measured on the other
(equation 10): :class:`mnemo.exemplars.stages.Optimise` and :class:`mnemo.exemplars.stages.Adjust` with this objective.

What the paper leaves open, and how it is decided here:

- *The size of a step.* Gradients with respect to pixels are so small that the paper's rate of 0.01 moves a pixel by
  less than a hundredth of a grey level in all. A step is therefore normalised: the running mean of the gradient, scaled
  to a given root mean square in grey levels over the pixels of the batch.
- *Batches.* An update takes ``exemplar_batch`` exemplars, as evenly from all classes as can be, and ``outer_batch``
  images; an epoch passes over the exemplars once.
- *The inner steps* are plain gradient descent, on the exemplars under the same random crops and flips as in training.
- *Batch normalisation* has the running statistics of the network that the inner steps start from, at both levels; its
  scales and shifts learn in the inner steps as all weights do. So an image's loss does not depend on its neighbours.
- *What learns in the inner steps:* the whole network, or its head alone. What weight transfer froze stays so.
- *Storage.* Pixels are clamped to 0..255 in every update and stored as uint8, rounded. Displacement and rounding error
  are recorded.
- *Order.* Exemplars beyond the budget are dropped before the adjustment, not after it.

Beyond the paper: other starts than the present network (:mod:`mnemo.exemplars.starts`), the strategy's own loss at
either level, other images beside the exemplars in the inner batch, and cheaper ways back.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pydantic
import torch
import torch.nn.functional as F
from pydantic import PositiveFloat
from torch import Tensor
from torch.func import functional_call

from .. import bilevel, distributed
from ..augment import Augmentation
from ..bilevel import Hypergradient, InnerLoss, OuterLoss, Parameters
from ..components.scaling_shifting import FROZEN
from ..counts import NonNegativeInt, PositiveInt
from ..data_parallel import own, spread_all, whole, whole_rows
from ..engine import Captured
from ..images import Images, join
from ..nets import IncrementalNet, Outputs
from ..seeds import generator as seeded
from ..stages import Objective as Loss
from ..stages import Situation
from .pixels import STRICT
from .rehearsal import Rehearsal
from .starts import Pool, Start, Starts


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Bilevel:
    """The settings of the bilevel gradient.

    Attributes:
        level: what learns in the inner steps: the whole ``network``, its ``head``, or a ``ridge`` regression that takes
            the place of the head, in closed form.
        way: how the gradient goes back through them: ``reverse`` and ``unrolled`` are exact and agree; ``truncated``
            goes back through the last ``window`` of a random number of steps; ``first_order`` leaves out how a step
            changes the next.
        inner_steps, inner_lr: plain gradient descent on exemplars; for ``truncated``, at most so many.
        window: of ``truncated``.
        inner_part: images whose graph of derivatives is held at once, at most; it decides memory, not the result. With
            ``inner_loss=strategy`` all are held.
        inner_loss: ``cross_entropy`` over all seen classes, or the ``strategy``'s own.
        outer_loss: the same, or the sum of ``both``.
        companions: images of other classes beside the exemplars, at both levels, at most: exemplars of old classes, and
            of made-up ones where the start is a rehearsal.
        ridge, ridge_scale: of the regression: its regularisation, and the factor on its scores.
    """

    level: Literal["network", "head", "ridge"] = "network"
    way: Literal["reverse", "unrolled", "truncated", "first_order"] = "reverse"
    inner_steps: PositiveInt = 10
    inner_lr: PositiveFloat = 0.01
    window: PositiveInt = 5
    inner_part: PositiveInt = 50
    inner_loss: Literal["cross_entropy", "strategy"] = "cross_entropy"
    outer_loss: Literal["cross_entropy", "strategy", "both"] = "cross_entropy"
    companions: NonNegativeInt = 0
    ridge: PositiveFloat = 1.0
    ridge_scale: PositiveFloat = 10.0

    def steps(self, generator: torch.Generator) -> int:
        """Inner steps of one update."""
        if self.way != "truncated" or self.inner_steps <= self.window:
            return self.inner_steps
        return int(torch.randint(self.window, self.inner_steps + 1, (), generator=generator))


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
    inputs = step.inputs(Start(net, None, None), exemplars, labels, outer, generator)
    return Hypergradient(*step(*inputs))


@dataclass(frozen=True)
class BilevelStep:
    """The hypergradient of :func:`hypergradient` as a function of tensors alone.

    Attributes:
        net: its form; the weights that it starts from are an input.
        augmentation, settings: see :func:`hypergradient`.
        loss: the strategy's own; None where it is not asked for.
        previous: that the strategy's loss looks at.
    """

    net: IncrementalNet
    augmentation: Augmentation
    settings: Bilevel
    loss: Loss | None = None
    previous: IncrementalNet | None = None

    def inputs(
        self, start: Start, exemplars: Tensor, labels: Tensor, outer: Images, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """What :meth:`__call__` takes: what is given, all that is random, and the start's weights and statistics.

        Where only the head learns, the backbone is passed once, and there is one draw for all steps.
        """
        others = _some(start.others, self.settings.companions, generator)
        outer = join([outer, *others])
        all_labels = torch.cat([labels, *(some.labels for some in others)])
        beside = others[0].pixels if others else outer.pixels[:0]
        m, (_, channels, height, width) = len(all_labels), exemplars.shape
        shape = (channels, height, width)
        steps = 1 if self.settings.level != "network" else self.settings.steps(generator)
        seed = int(torch.randint(2**62, (), generator=generator))
        queries = self.augmentation.draw(len(outer), shape, generator)
        draws = torch.stack([self.augmentation.draw(m, shape, seeded(seed, step)) for step in range(steps)])
        state = [*start.net.parameters(), *start.net.buffers()]
        drawn = [tensor.to(exemplars.device) for tensor in (draws, queries)]
        return exemplars, all_labels, beside, outer.pixels, outer.labels, *drawn, *state

    def __call__(
        self,
        exemplars: Tensor,
        labels: Tensor,
        beside: Tensor,
        pixels: Tensor,
        targets: Tensor,
        draws: Tensor,
        outer_draws: Tensor,
        *state: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Loss and gradient. Of several processes each passes its own rows of every batch, at both levels.

        Args:
            exemplars: floating (m, c, h, w).
            labels: of exemplars and of the images beside them, int64 (m + k,).
            beside: uint8 (k, c, h, w).
            pixels, targets: of the outer images, uint8 (n, c, h, w) and int64 (n,).
            draws: crops and flips for every inner step, (steps, m + k, ...).
            outer_draws: of the outer images, (n, ...).
            state: parameters and buffers of the start, in the order of the network's.
        """
        tensors = {name: value.detach() for name, value in zip(self._names(), state, strict=True)}
        mine = own(len(targets))
        queries = self.augmentation.apply(pixels[mine], outer_draws[mine])
        level = self._through_head if self.settings.level != "network" else self._through_network
        loss, gradient = level(tensors, exemplars, labels, beside, queries, targets, draws)
        return loss, distributed.total(gradient)

    def _through_network(
        self,
        tensors: Parameters,
        exemplars: Tensor,
        labels: Tensor,
        beside: Tensor,
        queries: Tensor,
        targets: Tensor,
        draws: Tensor,
    ) -> tuple[Tensor, Tensor]:
        learn = {name: value for name, value in tensors.items() if name in self._learning()}
        fixed = {name: value for name, value in tensors.items() if name not in learn}
        size = self.settings.inner_part if self.settings.inner_loss == "cross_entropy" else len(labels)

        def outputs(theta: Parameters, views: Tensor, count: int) -> Outputs:
            result: Outputs = functional_call(self.net, {**fixed, **spread_all(theta)}, (views,))
            return whole(result, count)

        def inner(theta: Parameters, moved: Tensor, step: int) -> Iterator[Tensor]:
            # With running statistics an image's loss does not depend on its neighbours: the mean is a sum of parts.
            batch = _beside(moved, beside)
            for some, y, draw in zip(batch.split(size), labels.split(size), draws[step].split(size), strict=True):
                rows = own(len(y))
                views = self.augmentation.apply(some[rows], draw[rows])
                said = outputs(theta, views, len(y))
                yield self._loss(self.settings.inner_loss, said, y, views) * (len(y) / len(labels))

        def outer(theta: Parameters) -> Tensor:
            return self._loss(self.settings.outer_loss, outputs(theta, queries, len(targets)), targets, queries)

        return self._way(inner, outer, learn, exemplars, len(draws))

    def _names(self) -> list[str]:
        return [name for name, _ in (*self.net.named_parameters(), *self.net.named_buffers())]

    def _learning(self) -> set[str]:
        return {name for name, _ in self.net.named_parameters() if not name.endswith(FROZEN)}

    def _loss(self, kind: str, outputs: Outputs, labels: Tensor, views: Tensor) -> Tensor:
        losses = []
        if kind != "strategy":
            losses.append(F.cross_entropy(outputs.logits, labels))
        if kind != "cross_entropy" and self.loss is not None:
            old = None if self.previous is None else whole(self.previous(views), len(labels))
            losses.append(self.loss(outputs, labels, old))
        return torch.stack(losses).sum()

    def _through_head(
        self,
        state: Parameters,
        exemplars: Tensor,
        labels: Tensor,
        beside: Tensor,
        queries: Tensor,
        targets: Tensor,
        draws: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The same when only the head learns: the features of the backbone stand for the images."""
        pixels, mine = exemplars.detach().requires_grad_(), own(len(labels))
        part = _features(self.net, state, self.augmentation.apply(_beside(pixels, beside)[mine], draws[0, mine]))
        (features,) = whole_rows(len(labels), part)
        with torch.no_grad():
            (query_features,) = whole_rows(len(targets), _features(self.net, state, queries))
        value, gradient = self._head_gradient(state, features, labels, query_features, targets)
        (through,) = torch.autograd.grad(features, pixels, gradient)
        return value, through

    def _head_gradient(
        self, state: Parameters, features: Tensor, labels: Tensor, query_features: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        head, settings = self.net.head, self.settings
        if settings.level == "ridge":
            found = bilevel.closed_form(
                features, labels, query_features, targets, head.classes, settings.ridge, settings.ridge_scale
            )
            return found.loss, found.gradient
        own = {name.removeprefix("head."): value for name, value in state.items() if name.startswith("head.")}
        learn = {name: own.pop(name) for name, _ in head.named_parameters()}

        def inner(theta: Parameters, features: Tensor, step: int) -> Tensor:
            return F.cross_entropy(functional_call(head, {**own, **theta}, (features,)).logits, labels)

        def loss(theta: Parameters) -> Tensor:
            return F.cross_entropy(functional_call(head, {**own, **theta}, (query_features,)).logits, targets)

        return self._way(inner, loss, learn, features, settings.inner_steps)

    def _way(
        self, inner: InnerLoss, outer: OuterLoss, parameters: Parameters, exemplars: Tensor, steps: int
    ) -> tuple[Tensor, Tensor]:
        ways = {
            **bilevel.WAYS,
            "first_order": bilevel.first_order,
            "truncated": bilevel.truncated(self.settings.window),
        }
        loss, gradient = ways[self.settings.way](inner, outer, parameters, exemplars, steps, self.settings.inner_lr)
        return loss, gradient


def _features(net: IncrementalNet, state: Parameters, pixels: Tensor) -> Tensor:
    outputs: Outputs = functional_call(net, dict(state), (pixels,))
    return outputs.features


def _beside(exemplars: Tensor, others: Tensor) -> Tensor:
    return torch.cat([exemplars, others.to(exemplars.dtype)]) if len(others) else exemplars


def _some(images: Images | None, most: int, generator: torch.Generator) -> list[Images]:
    """At most ``most`` images, at random: one set or none."""
    if images is None or not most:
        return []
    where = torch.randperm(len(images), generator=generator)[:most]
    return [images.select(where.to(images.labels.device))]


@dataclass(frozen=True)
class Mnemonics:
    """The paper's objective, and what goes beyond it.

    Attributes:
        settings: of the bilevel gradient.
        starts: the networks that the inner steps start from.
        rehearsal: the strategy's next phase; its loss is the strategy's.
    """

    settings: Bilevel
    starts: Starts
    rehearsal: Rehearsal

    def begin(self, situation: Situation, stage: str) -> "MnemonicsGradient":
        """See :class:`mnemo.exemplars.pixels.Objective`."""
        return MnemonicsGradient(self, situation, stage)

    def work(self, exemplars: int, outer: int) -> float:
        """An inner step of the whole network, with its way back, was measured at about six plain ones."""
        inner = 6 * self.settings.inner_steps if self.settings.level == "network" else 1.5
        return inner * (exemplars + self.settings.companions) + outer


class MnemonicsGradient:
    """See :class:`mnemo.exemplars.pixels.Gradient`."""

    def __init__(self, objective: Mnemonics, situation: Situation, stage: str) -> None:
        self._objective, self._augmentation = objective, situation.augmentation
        self._pool = Pool(situation, objective.starts, objective.rehearsal, stage)
        self._steps: dict[tuple[int, int], tuple[BilevelStep, Captured]] = {}

    def __call__(
        self, epoch: int, exemplars: Tensor, labels: Tensor, outer: Images, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The outer loss from a start of the pool, and its gradient."""
        start = self._pool.draw(epoch, generator)
        step, captured = self._step(start)
        loss, gradient = captured(*step.inputs(start, exemplars, labels, outer, generator))
        return loss, gradient

    def _step(self, start: Start) -> tuple[BilevelStep, Captured]:
        """Starts of one form and with one network before them share a step, which may be recorded."""
        key = (start.net.head.classes, id(start.previous))
        if key not in self._steps:
            loss = self._objective.rehearsal.train.objective
            step = BilevelStep(start.net, self._augmentation, self._objective.settings, loss, start.previous)
            self._steps[key] = step, Captured(step)
        return self._steps[key]
