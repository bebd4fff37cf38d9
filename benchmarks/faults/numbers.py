"""Broken numbers: NaN and infinity in a batch, in a gradient of a weight, and in one of a pixel."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .kills import unsound
from .stages import wrap
from .trial import Bench, Outcome, Trial, judged

VALUES = (math.nan, math.inf, -math.inf)
BATCHES, STEPS, PIXEL_STEPS = 30, 18, 6
"""Less than there are in a run."""


def trials(bench: Bench, turns: Iterable[int]) -> Iterator[Trial]:
    """A broken number for each turn, of each kind in turn."""
    ways = (_in_a_batch, _in_a_gradient, _in_a_gradient_of_pixels)
    for turn in turns:
        value, folder = VALUES[turn // len(ways) % len(VALUES)], bench.folder()
        way = ways[turn % len(ways)]
        place = bench.random.random()
        process = bench.start(folder, before=lambda w=way, v=value, p=place: w(v, p))
        code = process.wait()
        outcome: Outcome
        outcome, line = judged(code, process.said, ("phase",)) if code else ("lost", "nobody noticed")
        if outcome == "refused" and not all(word in line for word in ("epoch", "may help")):
            outcome = "lost"
        if broken := unsound(folder):
            outcome, line = "lost", broken
        if outcome == "refused":
            outcome, after = bench.resumed(folder)
            line = after or line
        what = f"{value} {way.__name__.strip('_').replace('_', ' ')}"
        where = line.removeprefix("mnemo: ").partition(":")[0]
        yield Trial("broken number", what, where, outcome, line)
        bench.done(folder)


def _once(at: int, change: Callable[..., Any]) -> Callable[..., Any]:
    """Calls what is wrapped, and ``change`` for the ``at``-th time, from 0."""
    left = [at]

    def wrapper(call: Callable[[], Any], *arguments: Any) -> Any:
        left[0] -= 1
        return change(call, *arguments) if left[0] == -1 else call()

    return wrapper


def _in_a_batch(value: float, place: float) -> None:
    from mnemo.augment import CropAndFlip

    def change(call: Callable[[], Any], *_: Any) -> Any:
        pixels = call().float().clone()
        pixels[0, 0, 4, 4] = value
        return pixels

    wrap(CropAndFlip, "apply", _once(int(place * BATCHES), change))


def _in_a_gradient(value: float, place: float) -> None:
    from mnemo.stages import Training

    def change(call: Callable[[], Any], training: Any, *_: Any) -> Any:
        parameters = list(training._parameters.values())
        broken = parameters[int(place * 1e6) % len(parameters)]
        hook = broken.register_hook(
            lambda gradient: gradient.clone().index_fill_(0, gradient.new_zeros(1).long(), value)
        )
        result = call()
        hook.remove()
        return result

    wrap(Training, "_train_on", _once(int(place * STEPS), change))


def _in_a_gradient_of_pixels(value: float, place: float) -> None:
    from mnemo.exemplars.pixels import Pixels

    def change(call: Callable[[], Any], pixels: Any, where: Any, gradient: Any, *_: Any) -> Any:
        gradient[0, 0, 3, 3] = value
        return call()

    wrap(Pixels, "move", _once(int(place * PIXEL_STEPS), change))
