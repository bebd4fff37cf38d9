"""What a section of the benchmark finds: variants, ratios and bars."""

from dataclasses import dataclass, field
from typing import Any

from .timing import Variant


@dataclass(frozen=True)
class Ratio:
    """How many times as fast ``ours`` is as ``peer``: the ratio of their median rates.

    Attributes:
        ours, peer: names of variants.
        value: the ratio.
        low, high: least and greatest ratio of samples that were taken in the same turn.
    """

    ours: str
    peer: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bar:
    """What is to be reached.

    Attributes:
        text: of what.
        limit: the figure to reach.
        value: the figure measured; None where it could not be.
        at_most: whether smaller is better.
        note: why it was not measured.
    """

    text: str
    limit: float
    value: float | None
    at_most: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether it is reached; None where nothing was measured."""
        if self.value is None:
            return None
        return self.value <= self.limit if self.at_most else self.value >= self.limit


@dataclass
class Section:
    """A section's findings.

    Attributes:
        name, title: of the section.
        variants: with all their samples.
        ratios, bars, notes: see there.
        figures: whatever else was found, as JSON has it.
        seconds: that it took in all.
    """

    name: str
    title: str
    variants: list[Variant] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0

    def variant(self, name: str) -> Variant | None:
        """The variant of that name, if it was measured."""
        return next((variant for variant in self.variants if variant.name == name), None)

    def compare(self, ours: str, peer: str) -> Ratio | None:
        """Add the ratio of two variants; None, and nothing added, where one of them was not measured."""
        a, b = self.variant(ours), self.variant(peer)
        if a is None or b is None:
            return None
        turns = [x / y for x, y in zip(a.rates, b.rates, strict=True)]
        ratio = Ratio(ours, peer, a.rate / b.rate, min(turns), max(turns))
        self.ratios.append(ratio)
        return ratio

    def expect(self, limit: float, ours: str, peer: str, missing: str = "") -> None:
        """Add the ratio of two variants and the bar that it is to reach."""
        ratio = self.compare(ours, peer)
        value = None if ratio is None else ratio.value
        self.bars.append(Bar(f"{ours} / {peer}", limit, value, note=missing if ratio is None else ""))
