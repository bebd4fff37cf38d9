"""Samples of variants that take turns: A B C A B C, after a warm-up of each."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch


class Timed(NamedTuple):
    """What a variant returns that takes its own time: seconds, and the work that was done in them."""

    seconds: float
    work: float


@dataclass
class Variant:
    """One of the things that are compared.

    Attributes:
        name: in tables and records.
        run: does the work once. It may return a :class:`Timed` where it knows better than the caller.
        work: what one call does, in units.
        unit: of the rate, such as ``images/s``; ``s`` where the time of a call is what is told.
        note: what a reader must know about it.
        warm_up: done once beforehand, in place of ``run``.
        samples: seconds and work of each call.
        processor_seconds: time of the processor in each call, of this process and all its threads; where it is far
            below the seconds of a variant without workers, the machine was busy with something else.
        peak_mib: the most memory that it took beyond what was there before, in processes of their own.
    """

    name: str
    run: Callable[[], object]
    work: float = 1
    unit: str = "s"
    note: str = ""
    warm_up: Callable[[], object] | None = None
    samples: list[Timed] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)
    peak_mib: list[float] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Work a second, of each sample."""
        return [work / seconds for seconds, work in self.samples]

    @property
    def rate(self) -> float:
        """The median of :attr:`rates`."""
        return statistics.median(self.rates)

    @property
    def seconds(self) -> float:
        """Of one call: the median."""
        return statistics.median(seconds for seconds, _ in self.samples)

    @property
    def peak(self) -> float:
        """The median of :attr:`peak_mib`."""
        return statistics.median(self.peak_mib)


def interleave(variants: Sequence[Variant], repeats: int, device: torch.device) -> None:
    """Fill :attr:`Variant.samples`: all variants take turns, so that whatever slows the machine slows them alike."""
    for variant in variants:
        (variant.warm_up or variant.run)()
    for _ in range(repeats):
        for variant in variants:
            before = time.process_time()
            variant.samples.append(_sample(variant, device))
            variant.processor_seconds.append(time.process_time() - before)


def _sample(variant: Variant, device: torch.device) -> Timed:
    start = clock(device)
    known = variant.run()
    seconds = clock(device) - start
    return known if isinstance(known, Timed) else Timed(seconds, variant.work)


def clock(device: torch.device) -> float:
    """Seconds, when all that was given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
