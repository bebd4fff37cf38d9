"""(d) The exemplar step: by how much to move the pixels of 10 classes x 20 exemplars."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mnemo.augment import CropAndFlip
from mnemo.exemplars import mnemonics
from mnemo.exemplars.mnemonics import Bilevel
from mnemo.images import Images
from mnemo.nets import IncrementalNet, folded

from . import images, memory, ours
from .options import Options
from .section import Bar, Section
from .timing import Variant, interleave

BATCHED = 2.0
FLAT = 1.3
HERE = "benchmarks.speed.exemplars"
Step = Callable[[], Any]


def measure(options: Options) -> Section:
    """Seconds, and memory in processes of their own, of the released code's kind of step and of mnemo's."""
    jobs = _jobs(options)
    variants = [_variant(options, name, job) for name, job in jobs.items()]
    section = Section("exemplars", f"Exemplar step, {_sizes(options)}", variants)
    section.figures["gradients differ by"] = _difference(options)
    long = [variant for variant in variants if variant.name.startswith("network")]
    interleave([variant for variant in variants if variant not in long], options.repeats, options.device)
    interleave(long, min(options.repeats, 2), options.device)  # up to a minute each, and no peer to compare with
    with memory.processes(options) as measured:
        for variant in variants:
            variant.peak_mib.append(measured(HERE, "step", **jobs[variant.name]))
    _compare(section, options)
    return section


def _jobs(options: Options) -> dict[str, dict[str, Any]]:
    reverse, unrolled = options.pick(((1, 2, 4, 8), (1, 2)), ((1, 8), (1,)))
    return {
        "class by class, no inner steps": {"kind": "class by class"},
        "batched, no inner steps": {"kind": "batched"},
        "head, 20 steps": {"kind": "head", "steps": 20},
        **{f"network, reverse, K={k}": {"kind": "reverse", "steps": k} for k in reverse},
        **{f"network, unrolled, K={k}": {"kind": "unrolled", "steps": k} for k in unrolled},
    }


def _variant(options: Options, name: str, job: dict[str, Any]) -> Variant:
    """A warm-up needs one inner step: the others are like it."""
    return Variant(name, step(options, **job), warm_up=step(options, **{**job, "steps": 1}))


def _sizes(options: Options) -> str:
    classes, each, queries = _default(options)
    return f"{classes} classes x {each} exemplars, {queries} queries"


def _default(options: Options) -> tuple[int, int, int]:
    return options.pick((10, 20, 128), (2, 4, 8))


def step(
    options: Options,
    kind: str,
    steps: int = 1,
    classes: int | None = None,
    each: int | None = None,
    queries: int | None = None,
    side: int = 32,
) -> Step:
    """A function that does one step of the given kind."""
    default = _default(options)
    classes, each, queries = classes or default[0], each or default[1], queries or default[2]
    train = images.load(options).train
    exemplars = _resized(images.of_classes(train, range(classes), classes * each), side).to(options.device)
    outer = _resized(images.of_classes(images.load(options).test, range(classes), queries), side).to(options.device)
    net = ours.network(options, "cosine", (classes,)).eval()
    pixels = exemplars.pixels.float()
    if kind == "class by class":
        net, pixels = ours.contiguous(net), pixels.contiguous()
        return lambda: class_by_class(net, pixels, exemplars.labels, outer)
    if kind == "batched":
        net = folded(net)
        return lambda: batched(net, pixels, exemplars.labels, outer)
    return _hypergradient(net, pixels, exemplars.labels, outer, kind, steps)


def _resized(some: Images, side: int) -> Images:
    if some.shape[1] == side:
        return some
    pixels = F.interpolate(some.pixels.float(), size=(side, side), mode="bilinear").round().to(torch.uint8)
    return Images(pixels.contiguous(memory_format=torch.channels_last), some.labels)


def _hypergradient(net: IncrementalNet, pixels: Tensor, labels: Tensor, outer: Images, kind: str, steps: int) -> Step:
    level: Any = {"level": "head"} if kind == "head" else {"level": "network", "way": kind}
    settings = Bilevel(inner_steps=steps, **level)

    def run() -> Tensor:
        draw = torch.Generator().manual_seed(0)
        return mnemonics.hypergradient(net, pixels, labels, outer, CropAndFlip(), settings, draw).gradient

    return run


def class_by_class(net: IncrementalNet, pixels: Tensor, labels: Tensor, outer: Images) -> Tensor:
    """As the released code does it: a forward for each class, and gradients of whatever has one."""
    pixels = pixels.detach().requires_grad_()
    net.zero_grad()
    features = net.features(outer.pixels)
    means = [net.features(pixels[labels == label]).mean(0) for label in labels.unique()]
    logits = F.linear(F.normalize(features), F.normalize(torch.stack(means)))
    F.cross_entropy(logits, outer.labels).backward()
    assert pixels.grad is not None
    return pixels.grad


def batched(net: IncrementalNet, pixels: Tensor, labels: Tensor, outer: Images) -> Tensor:
    """The same gradient: one forward of all exemplars; neither queries nor parameters, which are folded, need one."""
    pixels = pixels.detach().requires_grad_()
    with torch.no_grad():
        queries = net.features(outer.pixels)
    features = net.features(pixels)
    counts = labels.bincount().unsqueeze(1)
    means = features.new_zeros(len(counts), features.shape[1]).index_add(0, labels, features) / counts
    logits = F.linear(F.normalize(queries), F.normalize(means))
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, outer.labels), pixels)
    return gradient


def _difference(options: Options) -> float:
    """The length of the difference of both gradients, as a share of theirs: rounding, and ReLUs that it turns."""
    theirs, mine = (step(options, kind)() for kind in ("class by class", "batched"))
    return float((theirs - mine).norm() / theirs.norm())


def _compare(section: Section, options: Options) -> None:
    section.expect(BATCHED, "batched, no inner steps", "class by class, no inner steps")
    section.compare("head, 20 steps", "class by class, no inner steps")
    section.compare("network, reverse, K=1", "network, unrolled, K=1")
    section.compare("network, reverse, K=2", "network, unrolled, K=2")
    one, eight = (section.variant(f"network, reverse, K={k}") for k in (1, 8))
    if one and eight:
        section.bars.append(Bar("memory of the whole-network step, K=8 / K=1", FLAT, eight.peak / one.peak, True))
    section.notes.append("memory is what a step takes beyond network and images")
