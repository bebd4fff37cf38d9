"""(f) How much of the machine's rate a training step reaches."""

import dataclasses

import torch
from torch.utils.flop_counter import FlopCounterMode

from mnemo.images import Images

from . import ours, training
from .options import Options
from .section import Bar, Section
from .timing import Variant, interleave

BAR = 0.6


def measure(options: Options) -> Section:
    """The rate of matrix products, the operations of a step, and the share that steps reach, in one run."""
    new, exemplars = training.phase(options)
    products = [_product(options, side) for side in options.pick((1024, 2048), (64, 128))]
    steps = [training.mnemo(options, name, new, exemplars) for name in training.RECIPES]
    section = Section("roofline", "Share of the matrix rate", [*products, *steps])
    interleave(section.variants, options.repeats, options.device)
    best = max(rate for product in products for rate in product.rates)
    section.figures["matrix rate, GFLOP/s"] = best / 1e9
    for name, variant in zip(training.RECIPES, steps, strict=True):
        _share(section, variant, flops(options, name, new, exemplars), best)
    section.notes.append("the matrix rate is the best of all its samples; a step's rate is the median")
    section.notes.append("only products and convolutions are counted, forward and backward, the old network's too")
    return section


def _product(options: Options, side: int) -> Variant:
    a, b = (torch.randn(side, side, device=options.device) for _ in range(2))
    return Variant(f"matrix product {side}", lambda: torch.mm(a, b), 2 * side**3, "FLOP/s")


def flops(options: Options, name: str, new: Images, exemplars: Images) -> float:
    """Operations for each image of a training step: a multiplication and an addition are two.

    They are counted on the processor, for a step that a GPU replays shows none.
    """
    options = dataclasses.replace(options, device=torch.device("cpu"))
    few = new.select(torch.arange(min(len(new), options.batch_size), device=new.labels.device)).to("cpu")
    loop, count = ours.training(options, training.RECIPES[name], training.GROUPS, few, exemplars.to("cpu"))
    with FlopCounterMode(display=False) as counter:
        loop.epoch(0, torch.Generator().manual_seed(0))
    return counter.get_total_flops() / count


def _share(section: Section, variant: Variant, each: float, best: float) -> None:
    share = variant.rate * each / best
    section.figures[variant.name] = {"MFLOP an image": each / 1e6, "share of the matrix rate": share}
    section.bars.append(Bar(f"{variant.name}: share of the matrix rate", BAR, share))
