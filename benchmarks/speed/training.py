"""(a) A training step of a phase: 50 old classes and 10 new ones."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from mnemo.images import Images, join
from mnemo.settings import Recipe
from mnemo.stages import Train
from mnemo.strategies.icarl import icarl
from mnemo.strategies.lucir import lucir
from mnemo.strategies.replay import replay

from . import avalanche_loops, images, ours, plain
from .options import Options
from .section import Section
from .timing import Variant, interleave

GROUPS = (50, 10)
RECIPES: dict[str, Recipe] = {"lucir": lucir, "icarl": icarl, "replay": replay}
PLAIN = 1.2
AVALANCHE = 1.3
NOTES = {
    "avalanche icarl": "its loss is binary cross-entropy of sigmoids; the nearest of mnemo's is icarl, with softmax "
    "cross-entropy and distillation; neither metrics nor loggers; num_workers=0",
    "avalanche replay": "new images and exemplars in the proportion of their numbers, 128 a step in all; neither "
    "metrics nor loggers; num_workers=0",
    "workers": "its two workers have processor time of their own, beyond the threads of this run",
}


def measure(options: Options) -> Section:
    """Images a second of mnemo's loop, of a plain one with the same loss, and of Avalanche's."""
    new, exemplars = phase(options)
    variants = [mnemo(options, name, new, exemplars) for name in RECIPES]
    for name in ("lucir", "icarl"):
        variants += [_plain(options, name, workers, new, exemplars) for workers in (0, 2)]
    missing = "" if avalanche_loops.installed() else avalanche_loops.INSTALL
    if not missing:
        variants += _avalanche(options, new, exemplars)
    section = Section("training", "Training step of a phase, 50 old and 10 new classes", variants)
    interleave(variants, options.repeats, options.device)
    _compare(section, missing)
    section.notes.append(f"{options.backbone}, batches of {options.batch_size}, crop and flip, SGD with momentum")
    return section


def phase(options: Options) -> tuple[Images, Images]:
    """New images and exemplars, in about the proportion of the protocol: 5000 to 1000."""
    total, each = options.batch_size * options.pick(5, 4), options.pick(2, 1)
    train = images.load(options).train
    exemplars = images.of_classes(train, range(GROUPS[0]), each * GROUPS[0])
    new = images.of_classes(train, range(GROUPS[0], sum(GROUPS)), total - len(exemplars))
    return new.to(options.device), exemplars.to(options.device)


def mnemo(options: Options, name: str, new: Images, exemplars: Images) -> Variant:
    """An epoch of mnemo's own loop."""
    loop, count = ours.training(options, RECIPES[name], GROUPS, new, exemplars)
    epoch = functools.partial(loop.epoch, 0, torch.Generator().manual_seed(0))
    return Variant(f"mnemo {name}", epoch, count, "images/s")


def _plain(options: Options, name: str, workers: int, new: Images, exemplars: Images) -> Variant:
    """The same loss, network and images in a plain loop."""
    strategy = RECIPES[name]()
    stage = strategy.stages[0]
    assert isinstance(stage, Train)
    net = ours.contiguous(ours.network(options, strategy.head, GROUPS))
    net.head.learn_old(stage.learn_old_weights)
    previous = ours.frozen(ours.contiguous(ours.network(options, strategy.head, GROUPS[:-1])))
    both = join([exemplars, new])
    batches = plain.loader(both, plain.training_transform(), options.batch_size, workers)
    epoch = plain.Training(net, previous, stage.objective, batches, options.device).epoch
    label = f"plain {name}, {workers} workers" if workers else f"plain {name}"
    return Variant(label, epoch, len(both), "images/s", NOTES["workers"] if workers else "")


def _avalanche(options: Options, new: Images, exemplars: Images) -> list[Variant]:
    loops: dict[str, Callable[..., Any]] = {"icarl": avalanche_loops.icarl, "replay": avalanche_loops.replay}
    variants = []
    for name, loop in loops.items():
        name = f"avalanche {name}"
        variants.append(Variant(name, loop(options, GROUPS, new, exemplars), unit="images/s", note=NOTES[name]))
    return variants


def _compare(section: Section, missing: str) -> None:
    section.expect(AVALANCHE, "mnemo icarl", "avalanche icarl", missing)
    section.expect(AVALANCHE, "mnemo replay", "avalanche replay", missing)
    section.expect(PLAIN, "mnemo lucir", "plain lucir")
    section.expect(PLAIN, "mnemo icarl", "plain icarl")
    section.compare("mnemo lucir", "plain lucir, 2 workers")
    section.compare("mnemo icarl", "plain icarl, 2 workers")
