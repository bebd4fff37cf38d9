"""(g) How cost grows with the work: exponents of time and memory, fitted to measurements."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from mnemo import compression
from mnemo.classifiers import class_means, count_correct
from mnemo.images import Images
from mnemo.memory import ExemplarMemory, per_class

from . import exemplars, images, memory, ours, training
from .options import Options
from .section import Section
from .timing import Variant, interleave

HERE = "benchmarks.speed.growth"
TOLERANCE = 0.15  # by which noise may raise an exponent


@dataclass
class Curve:
    """One quantity against one size.

    Attributes:
        work: what is done.
        driver: the size that grows, as an axis has it.
        quantity: ``time, s`` or ``memory, MiB``.
        expected: the exponent that the work demands; constant parts make the fitted one smaller.
        sizes, values: the points; a value is a median.
        exponent: the slope of a straight line through the logarithms, by least squares.
    """

    work: str
    driver: str
    quantity: str
    expected: float
    sizes: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    @property
    def exponent(self) -> float:
        return float(np.polyfit(np.log(self.sizes), np.log(self.values), 1)[0])

    @property
    def too_fast(self) -> bool:
        """Whether it grows faster than the work demands."""
        return self.exponent > self.expected + TOLERANCE


@dataclass(frozen=True)
class Growth:
    """Work of different sizes.

    Attributes:
        work, driver: see :class:`Curve`.
        time, memory: expected exponents.
        module, name: of the function of options and size that makes the work.
        argument: its keyword argument that has the size; ``fixed`` are the others.
        sizes: for a whole run; a quick one has the first two.
    """

    work: str
    driver: str
    time: float
    memory: float
    name: str
    argument: str
    sizes: tuple[int, ...]
    fixed: dict[str, Any] = field(default_factory=dict)
    module: str = HERE


CLASSES = (10, 100, 1000)
EACH = (5, 10, 20, 40, 80)
FEW = {"kind": "reverse", "each": 4}
GROWTHS = (
    Growth("training step", "classes", 0, 0, "training_step", "classes", CLASSES),
    Growth("evaluation", "classes", 0, 0, "evaluation", "classes", CLASSES),
    Growth("herding", "exemplars a class", 1, 1, "herding", "each", EACH),
    Growth("nearest means", "exemplars a class", 1, 1, "nearest_means", "each", EACH),
    Growth("exemplar step", "inner steps", 1, 0, "step", "steps", (1, 2, 4, 8, 16), FEW, exemplars.HERE),
    Growth("exemplar step", "exemplars", 1, 1, "with_exemplars", "count", (50, 100, 200, 400)),
    Growth("exemplar step", "image side", 2, 2, "step", "side", (16, 32, 64), FEW, exemplars.HERE),
)


def measure(options: Options) -> Section:
    """Time and memory of each growth at each size."""
    section = Section("growth", "Cost as the work grows")
    curves: list[Curve] = []
    with memory.processes(options) as measured:
        for growth in GROWTHS:
            variants = _variants(options, growth)
            interleave(variants, min(options.repeats, 3), options.device)
            for variant, size in zip(variants, _sizes(options, growth), strict=True):
                arguments = {growth.argument: size, **growth.fixed}
                variant.peak_mib.append(measured(growth.module, growth.name, **arguments))
            section.variants += variants
            curves += _curves(options, growth, variants)
    section.figures["curves"] = [
        {**asdict(curve), "exponent": curve.exponent, "too_fast": curve.too_fast} for curve in curves
    ]
    section.notes.append("an exponent is the slope of a line through the logarithms, by least squares")
    section.notes.append("memory is the peak of a process of its own, beyond what it held before; below 1 MiB is 1")
    section.notes.append("the memory of herding is what the exemplar memory then holds of ten classes")
    return section


def _sizes(options: Options, growth: Growth) -> tuple[int, ...]:
    return options.pick(growth.sizes, growth.sizes[:2])


def _variants(options: Options, growth: Growth) -> list[Variant]:
    make: Callable[..., Callable[[], object]] = getattr(_module(growth), growth.name)
    return [
        Variant(f"{growth.work}, {size} {growth.driver}", make(options, **{growth.argument: size, **growth.fixed}))
        for size in _sizes(options, growth)
    ]


def _module(growth: Growth) -> Any:
    return exemplars if growth.module == exemplars.HERE else importlib.import_module(HERE)


def _curves(options: Options, growth: Growth, variants: Sequence[Variant]) -> list[Curve]:
    points = list(map(float, _sizes(options, growth)))
    seconds = [variant.seconds for variant in variants]
    mib = [max(1.0, variant.peak) for variant in variants]
    if growth.name == "herding":
        mib = [_stored(options, int(each)) for each in points]
    return [
        Curve(growth.work, growth.driver, "time, s", growth.time, points, seconds),
        Curve(growth.work, growth.driver, "memory, MiB", growth.memory, points, mib),
    ]


def _stored(options: Options, each: int) -> float:
    """What the exemplar memory holds of ten classes, in MiB: a count, for the picks themselves take next to nothing."""
    held = ExemplarMemory(per_class(each))
    held.admit(_exemplars(options, each))
    return held.bytes / memory.MIB


def _exemplars(options: Options, each: int) -> Images:
    return images.of_classes(images.load(options).train, range(10), 10 * each).to(options.device)


def training_step(options: Options, classes: int) -> Callable[[], object]:
    """Two batches of an epoch of replay, with a head of so many classes."""
    some = images.of_classes(images.load(options).train, range(10), 2 * options.batch_size).to(options.device)
    loop, _ = ours.training(options, training.RECIPES["replay"], (classes,), some, None)
    return lambda: loop.epoch(0, torch.Generator().manual_seed(0))


def evaluation(options: Options, classes: int) -> Callable[[], object]:
    """Both classifiers on images of ten classes."""
    some = images.of_classes(images.load(options).test, range(10), options.pick(500, 20)).to(options.device)
    net = ours.network(options, "linear", (classes,))
    means = F.normalize(torch.randn(classes, net.backbone.features, device=options.device))
    return lambda: count_correct(net, some, {"nearest_mean": means})


def herding(options: Options, each: int) -> Callable[[], object]:
    """Picks out of 500 images of each of ten classes, whose features are given."""
    draw = torch.Generator().manual_seed(0)
    features = [F.normalize(torch.randn(500, 64, generator=draw)) for _ in range(10)]
    return lambda: [compression.herd(of_class, each) for of_class in features]


def nearest_means(options: Options, each: int) -> Callable[[], object]:
    """The mean direction of ten classes' exemplars."""
    net, chosen = ours.network(options, "linear", (10,)), _exemplars(options, each)
    return lambda: class_means(net, chosen, True, 10)


def with_exemplars(options: Options, count: int) -> Callable[[], object]:
    """The exemplar step of one inner step with so many exemplars, a tenth of them of each class."""
    return exemplars.step(options, "reverse", each=count // 10)


def curves(found: dict[str, Any]) -> list[Curve]:
    """The curves of a recorded section."""
    names = Curve.__dataclass_fields__
    return [Curve(**{key: curve[key] for key in names}) for curve in found["figures"]["curves"]]
