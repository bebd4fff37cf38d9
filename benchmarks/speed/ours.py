"""mnemo's own engine, set up for measurement: the one place that knows how it is driven."""

import copy
import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from mnemo.augment import Augmentation, CropAndFlip
from mnemo.images import Images
from mnemo.memory import ExemplarMemory, per_class
from mnemo.nets import IncrementalNet, build
from mnemo.phases import Phase
from mnemo.settings import Recipe, Training
from mnemo.stages import Loop, Situation, Train

from .images import MEAN, STD
from .options import Options

LR = 0.01  # so small that no loss runs away; it changes nothing in the cost of a step


def network(options: Options, head: str, groups: Sequence[int]) -> IncrementalNet:
    """A network with random weights, whose classes came in ``groups``; the same whenever it is called."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build(options.backbone, head, 3, MEAN, STD)
        for count in groups:
            net.head.grow(count)
    return net.to(options.device)


def frozen(net: IncrementalNet) -> IncrementalNet:
    """A copy that does not learn."""
    return copy.deepcopy(net).requires_grad_(False).eval()


def contiguous(net: IncrementalNet) -> IncrementalNet:
    """The same network in the memory format that public code has."""
    return net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def training(
    options: Options, recipe: Recipe, groups: Sequence[int], new: Images, exemplars: Images | None
) -> tuple[Loop, int]:
    """The loop of a recipe's first stage in the last of the phases that brought ``groups``, and its images an epoch."""
    schedule = Training(epochs=1, lr=LR, batch_size=options.batch_size, backbone=options.backbone)  # type: ignore[arg-type]
    strategy = recipe(training=schedule)
    stage = dataclasses.replace(strategy.stages[0])
    assert isinstance(stage, Train)
    net = network(options, strategy.head, groups)
    previous = frozen(network(options, strategy.head, groups[:-1])) if len(groups) > 1 else None
    situation = Situation(net, previous, _memory(exemplars), _phase(groups, new), CropAndFlip(), (0, len(groups) - 1))
    loop = stage.begin(situation)
    assert loop is not None
    return loop, len(stage.images(situation))


def _memory(exemplars: Images | None) -> ExemplarMemory:
    memory = ExemplarMemory(per_class(20))
    if exemplars is not None:
        memory.admit(exemplars)
    return memory


def _phase(groups: Sequence[int], new: Images) -> Phase:
    first = sum(groups[:-1])
    return Phase(len(groups) - 1, tuple(range(first, first + groups[-1])), first, new, new)


def augmented(augmentation: Augmentation, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """A batch (n, c, h, w), each image varied at random."""
    _, channels, height, width = pixels.shape
    drawn = augmentation.draw(len(pixels), (channels, height, width), generator)
    return augmentation.apply(pixels, drawn.to(pixels.device))
