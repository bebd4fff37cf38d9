"""The networks that exemplars are optimised through: the present one, and others that they may have to serve.

Images that are tuned to one network serve others worse than real images do. A pool of many, renewed from time to time,
stands for what the next phases will bring.
"""

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import pydantic
import torch
from torch import nn

from ..counts import PositiveInt
from ..images import Images, join
from ..nets import IncrementalNet, folded
from ..seeds import derive
from ..stages import Situation, old_exemplars
from .pixels import STRICT
from .rehearsal import Rehearsal

Kind = Literal["current", "waypoints", "forgotten", "reset_head", "random"]


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Starts:
    """Where the networks come from.

    Attributes:
        starts: kinds. ``current``: the network as it is (the paper's); ``waypoints``: as it was at some moments of the
            phase's own training, as many as the setting ``waypoints`` says; ``forgotten``: after some epochs of the
            strategy's next phase without exemplars, on made-up classes; ``reset_head``: with a new head; ``random``: a
            new network, its batch normalisation fitted to the phase's images.
        pool: networks that are kept, in equal parts of each kind.
        refresh_epochs: after so many epochs they are made anew.
        pseudo_classes: made-up classes of a rehearsal: rotated images of the phase's classes.
        pseudo_images: of each made-up class, at most.
        rehearsal_epochs: of a rehearsal's training, at most; None: as many as the strategy's.
    """

    starts: tuple[Kind, ...] = ("current",)
    pool: PositiveInt = 32
    refresh_epochs: PositiveInt = 100
    pseudo_classes: PositiveInt = 2
    pseudo_images: PositiveInt = 200
    rehearsal_epochs: PositiveInt | None = None


@dataclass(frozen=True)
class Start:
    """A network and what goes with it.

    Attributes:
        net: in evaluation mode.
        previous: the network before it, frozen and folded; None where there is none.
        others: images beside the exemplars in its training: of made-up classes, and exemplars of old ones.
    """

    net: IncrementalNet
    previous: IncrementalNet | None
    others: Images | None


class Pool:
    """The networks of a stage.

    Args:
        situation, settings: see there.
        rehearsal: the strategy's next phase.
        stage: names what is drawn.
    """

    def __init__(self, situation: Situation, settings: Starts, rehearsal: Rehearsal, stage: str) -> None:
        self._situation, self._settings, self._rehearsal, self._stage = situation, settings, rehearsal, stage
        self._before = None if situation.previous is None else folded(situation.previous)
        self._now = folded(situation.net)
        self._old = old_exemplars(situation)
        self._starts: list[Start] = []
        self._made = -1  # the pool is a function of this number, so that a run that goes on has the same

    def draw(self, epoch: int, generator: torch.Generator) -> Start:
        """One of the networks, at random."""
        if epoch // self._settings.refresh_epochs != self._made:
            self._made = epoch // self._settings.refresh_epochs
            self._starts = self._all()
        return self._starts[int(torch.randint(len(self._starts), (), generator=generator))]

    def _all(self) -> list[Start]:
        share = max(1, self._settings.pool // len(self._settings.starts))
        kinds: dict[Kind, Callable[[], Iterator[Start]]] = {
            "current": lambda: iter([self._start(self._situation.net)]),
            "waypoints": lambda: map(self._start, self._situation.waypoints),
            "forgotten": self._forgotten,
            "reset_head": lambda: map(self._start, self._copies(_reset_head)),
            "random": lambda: map(self._start, self._copies(self._reset)),
        }
        made = [start for kind in self._settings.starts for start in itertools.islice(kinds[kind](), share)]
        return made or [self._start(self._situation.net)]

    def _start(self, net: IncrementalNet) -> Start:
        return Start(net.eval(), self._before, self._old[0] if self._old else None)

    def _forgotten(self) -> Iterator[Start]:
        for run in itertools.count():
            name = (self._stage, "forgotten", self._made, run)
            for net, phase in self._rehearsal.forgetting(self._situation, name):
                yield Start(net, self._now, join([*self._old, phase.train]))

    def _copies(self, change: Callable[[IncrementalNet], None]) -> Iterator[IncrementalNet]:
        for run in itertools.count():
            net = copy.deepcopy(self._situation.net)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive(*self._situation.seed, self._stage, "new", self._made, run))
                change(net)
            yield net

    @torch.no_grad()
    def _reset(self, net: IncrementalNet) -> None:
        """New weights everywhere, and batch statistics of the phase's images."""
        norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
        for module in net.backbone.modules():
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
                module.reset_parameters()
        _reset_head(net)
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
        images = self._situation.phase.train
        net.train()
        net(images.select(torch.randperm(len(images))[:256].to(images.labels.device)).pixels)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


@torch.no_grad()
def _reset_head(net: IncrementalNet) -> None:
    """Random weights of the length that they had."""
    for weight in net.head.weights:
        length = weight.norm(dim=1).mean()
        weight.copy_(nn.functional.normalize(torch.randn(weight.shape)).to(weight.device) * length)
