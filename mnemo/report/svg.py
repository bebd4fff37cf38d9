"""Charts as inline SVG: pure functions from numbers to markup.

Colours are CSS values, mostly variables of the page, so that charts follow its light or dark theme. Lengths
are in units of the viewBox; a chart is as wide as what holds it. Every string is escaped.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from .summary import Estimate

MARKERS = (
    "M-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0-7.2 0z",  # circle
    "M-3.3-3.3h6.6v6.6h-6.6z",  # square
    "M0-4.4L4.2 3.1H-4.2z",  # triangle
    "M0-4.7L4.7 0L0 4.7L-4.7 0z",  # diamond
    "M0 4.4L4.2-3.1H-4.2z",  # triangle, down
    "M-4.2-1.4h2.8v-2.8h2.8v2.8h2.8v2.8h-2.8v2.8h-2.8v-2.8h-2.8z",  # plus
    "M0-4.8L4.6-1.5L2.8 3.9H-2.8L-4.6-1.5z",  # pentagon
    "M-4.4-1.5h8.8v3h-8.8z",  # bar
)
FEEL = Markup('<circle class="feel" r="8"/>')  # where the pointer calls up a point's words
MOST_MARKERS = 12  # points of a line, above which they are drawn as small dots
LETTER, ROW = 6.6, 23.0  # mean width of a letter of a label, height of a row of a dot chart
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Point:
    """A point of a line, in data units; ``words`` appear when the pointer rests on it."""

    x: float
    estimate: Estimate
    words: str = ""


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        points: from left to right.
        colour: a CSS value.
        marker: index into :data:`MARKERS`; None for plain dots.
        label: stands at its right end.
        strong: drawn thicker.
        dashed: drawn as dashes.
    """

    points: Sequence[Point]
    colour: str
    marker: int | None = None
    label: str = ""
    strong: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Frame:
    """Where a chart's data lie, and the scales from data to the viewBox."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_limits: tuple[float, float]
    y_limits: tuple[float, float]

    def x(self, value: float) -> float:
        """The viewBox's x of a value."""
        low, high = self.x_limits
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """The viewBox's y of a value."""
        low, high = self.y_limits
        return self.height - self.bottom - (value - low) / (high - low) * (self.height - self.top - self.bottom)


@dataclass(frozen=True)
class Axes:
    """What is written along a chart's axes; ``rule``, a (value, words), is a dashed line across it."""

    title: str
    x_label: str
    y_label: str
    x_ticks: Sequence[float]
    y_ticks: Sequence[float]
    rule: tuple[float, str] | None = None


def ticks(low: float, high: float, about: int = 5, least: float = 1.0) -> list[float]:
    """Round numbers at equal steps that enclose ``low`` and ``high``: about ``about``, over ``least`` at least."""
    rough = max(high - low, least) / about
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 9) for k in range(first, max(last, first + 1) + 1)]


def percent_ticks(values: Iterable[float]) -> list[float]:
    """Ticks for accuracies in %: within 0..100, at least 20 points, from 0 where the lowest is below 25."""
    known = [min(max(value, 0.0), 100.0) for value in values] or [0.0, 100.0]
    low, high = min(known), max(known)
    high = min(max(high, low + 20), 100.0)
    low = min(low, high - 20)
    return ticks(0.0 if low < 25 else low, high)


def thinned(values: Sequence[float], most: int = 7) -> list[float]:
    """At most about ``most`` of the values at equal steps; the first and the last are among them."""
    step = max(1, math.ceil((len(values) - 1) / max(most - 1, 1)))
    kept = list(range(0, len(values), step))
    over = len(values) - 1 - kept[-1] if kept else 0
    if over:
        kept[len(kept) - (over < step / 2 and len(kept) > 1) :] = [len(values) - 1]
    return [values[index] for index in kept]


def apart(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The positions, moved as little as makes them ``gap`` apart in their order, within ``low``..``high``.

    Least squares: neighbours that are too near share one block around their mean (pool adjacent violators).
    """
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    blocks: list[tuple[float, int]] = []  # mean of (position - rank * gap), number of members
    for rank, index in enumerate(order):
        mean, members = positions[index] - rank * gap, 1
        while blocks and blocks[-1][0] > mean:
            other, more = blocks.pop()
            mean, members = (mean * members + other * more) / (members + more), members + more
        blocks.append((mean, members))
    places = [mean for mean, members in blocks for _ in range(members)]
    highest = max(high - (len(positions) - 1) * gap, low)
    moved = {index: min(max(places[k], low), highest) + k * gap for k, index in enumerate(order)}
    return [moved[index] for index in range(len(positions))]


def number(value: float, digits: int = 1) -> str:
    """A number with a real minus sign; never minus nought."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if not float(text) else text.replace("-", MINUS)


def plus_minus(each: Estimate, digits: int = 1) -> str:
    """A mean, and its spread where there is one: ``71.2 ± 0.4``."""
    return number(each.mean, digits) + ("" if each.spread is None else f" ± {number(each.spread, digits)}")


def ramp(share: float, name: str = "q", stops: int = 5) -> str:
    """A CSS colour at 0..1 along the page's sequential colours ``--q0`` to ``--q4``."""
    at = min(max(share, 0.0), 1.0) * (stops - 1)
    first = min(int(at), stops - 2)
    return f"color-mix(in oklab, var(--{name}{first + 1}) {(at - first) * 100:.0f}%, var(--{name}{first}))"


def series(index: int) -> str:
    """The CSS colour of the strategy with this index."""
    return f"var(--s{index % 8})"


def label_room(labels: Iterable[str]) -> float:
    """Width that the longest label takes beside a line's end."""
    return 16 + LETTER * max((len(label) for label in labels), default=0)


def line_chart(lines: Sequence[Line], frame: Frame, axes: Axes) -> Markup:
    """Lines with bands of one standard deviation either side of their means, labelled at their ends."""
    parts = [_grid(frame, axes), _rule(frame, axes)]
    parts += [_band(frame, line) for line in lines]
    crowded = max((len(line.points) for line in lines), default=0) > MOST_MARKERS
    parts += [_line(frame, line, crowded) for line in lines]
    parts.append(_end_labels(frame, [line for line in lines if line.label and line.points]))
    return drawing(frame.width, frame.height, axes.title, parts)


def dot_chart(rows: Sequence[tuple[str, Estimate, str, int]], title: str) -> Markup:
    """One row for each (name, estimate, colour, marker): a dot on a common scale, its spread, its figure."""
    ends = [end for _, each, _, _ in rows for end in (each.low, each.high)]
    marks = ticks(min(ends), max(ends), 3)
    left = label_room(name for name, *_ in rows)
    right = label_room(plus_minus(each) for _, each, _, _ in rows)
    height = ROW * len(rows) + 24
    frame = Frame(340, height, left, right, 4, 20, (marks[0], marks[-1]), (0, 1))
    parts = []
    for mark in marks:
        parts.append(path("grid", f"M{frame.x(mark):.1f} 4V{height - 20:.1f}"))
        parts.append(text("tick mid", frame.x(mark), height - 6, tick(mark)))
    parts += [_dot_row(frame, 4 + ROW * (index + 0.5), *row) for index, row in enumerate(rows)]
    return drawing(frame.width, height, title, parts)


def heat_map(matrix: Sequence[Sequence[Estimate | None]], phases: int, title: str, size: float) -> Markup:
    """The accuracy matrix: after phase i (down) on phase j's classes (across), a square of ``size``.

    Cells hold their figures where these are legible: up to 12 phases at a size of 300.
    """
    side, left, top = size / max(phases, 3), 36.0, 38.0
    parts = [_heat_axes(phases, side, left, top)]
    for i in range(phases):
        row = matrix[i] if i < len(matrix) else [None] * (i + 1)
        parts += [_cell(each, (i, j), left + side * j, top + side * i, side) for j, each in enumerate(row)]
    return drawing(left + size + 4, top + side * phases + 4, title, parts)


def drawing(width: float, height: float, title: str, parts: Iterable[Markup]) -> Markup:
    """A whole chart; ``title`` is read out in its place."""
    return Markup('<svg viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">{}</svg>').format(
        width, height, title, Markup("").join(parts)
    )


def text(kind: str, x: float, y: float, words: object) -> Markup:
    """Words whose classes the page's style sheet draws."""
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(kind, x, y, words)


def path(kind: str, shape: str, colour: str = "") -> Markup:
    """A path whose class the page's style sheet draws; ``colour`` is the variable ``--c`` there."""
    style = Markup(' style="--c:{}"').format(colour) if colour else ""
    return Markup('<path class="{}" d="{}"{}/>').format(kind, shape, style)


def tick(value: float) -> str:
    """A tick's number, with as many digits as it needs."""
    digits = next((digits for digits in range(9) if abs(value - round(value, digits)) < 1e-9), 9)
    return number(value, digits)


def _grid(frame: Frame, axes: Axes) -> Markup:
    left, right, foot = frame.left, frame.width - frame.right, frame.height - frame.bottom
    parts = []
    for mark in axes.y_ticks:
        parts.append(path("grid", f"M{left:.1f} {frame.y(mark):.1f}H{right:.1f}"))
        parts.append(text("tick end", left - 7, frame.y(mark) + 4, tick(mark)))
    for mark in axes.x_ticks:
        parts.append(path("axis", f"M{frame.x(mark):.1f} {foot:.1f}v4"))
        parts.append(text("tick mid", frame.x(mark), foot + 17, tick(mark)))
    parts.append(path("axis", f"M{left:.1f} {foot:.1f}H{right:.1f}"))
    parts.append(text("name mid", (left + right) / 2, frame.height - 5, axes.x_label))
    parts.append(text("name", 2, 13, axes.y_label))
    return Markup("").join(parts)


def _rule(frame: Frame, axes: Axes) -> Markup:
    if axes.rule is None:
        return Markup("")
    value, words = axes.rule
    y, right = frame.y(value), frame.width - frame.right
    return path("rule", f"M{frame.left:.1f} {y:.1f}H{right:.1f}") + text("note end", right, y - 6, words)


def _band(frame: Frame, line: Line) -> Markup:
    spread = [point for point in line.points if point.estimate.spread is not None]
    low, high = frame.y_limits
    there = [(frame.x(p.x), frame.y(min(p.estimate.high, high))) for p in spread]
    back = [(frame.x(p.x), frame.y(max(p.estimate.low, low))) for p in reversed(spread)]
    return path("band", _joined(there + back) + "z", line.colour) if len(spread) > 1 else Markup("")


def _line(frame: Frame, line: Line, crowded: bool) -> Markup:
    at = [(frame.x(point.x), frame.y(point.estimate.mean)) for point in line.points]
    crowded = crowded and len(at) > 1  # a point alone must stay visible
    dot = "dot small" if line.marker is None or crowded else "dot"
    kind = (
        "line"
        + (" strong" if line.strong else "")
        + (" dashed" if line.dashed else "")
        + (" crowded" if crowded else "")
    )
    shape = MARKERS[(line.marker or 0) % len(MARKERS)]
    dots = [
        Markup('<g transform="translate({:.1f} {:.1f})">{}{}<title>{}</title></g>').format(
            x, y, path(dot, shape), FEEL, point.words
        )
        for (x, y), point in zip(at, line.points, strict=True)
    ]
    return Markup('<g class="{}" style="--c:{}"><path d="{}"/>{}</g>').format(
        kind, line.colour, _joined(at), Markup("").join(dots)
    )


def _end_labels(frame: Frame, lines: Sequence[Line]) -> Markup:
    ends = [frame.y(line.points[-1].estimate.mean) for line in lines]
    places = apart(ends, 15, frame.top + 4, frame.height - frame.bottom - 2)
    parts = []
    for line, end, place in zip(lines, ends, places, strict=True):
        x = frame.x(line.points[-1].x)
        if abs(place - end) > 5:
            parts.append(path("lead", f"M{x + 5:.1f} {end:.1f}L{x + 12:.1f} {place:.1f}", line.colour))
        parts.append(text("label", x + 14, place + 4, line.label))
    return Markup("").join(parts)


def _dot_row(frame: Frame, y: float, name: str, each: Estimate, colour: str, marker: int) -> Markup:
    parts = [
        path("guide", f"M{frame.left:.1f} {y:.1f}H{frame.width - frame.right:.1f}"),
        path("whisker", f"M{frame.x(each.low):.1f} {y:.1f}H{frame.x(each.high):.1f}", colour),
        Markup('<g transform="translate({:.1f} {:.1f})">{}</g>').format(
            frame.x(each.mean), y, path("dot", MARKERS[marker % len(MARKERS)], colour)
        ),
        text("label", 0, y + 4, name),
        text("value end", frame.width, y + 4, plus_minus(each)),
    ]
    return Markup("").join(parts)


def _heat_axes(phases: int, side: float, left: float, top: float) -> Markup:
    middle = Markup('<text class="name mid" transform="translate(12 {:.1f}) rotate(-90)">after phase</text>')
    parts = [
        text("name", left, 13, "on the classes of phase"),
        middle.format(top + side * phases / 2),
    ]
    for phase in thinned(range(phases), 12 if side >= 18 else 6):
        parts.append(text("tick mid", left + side * (phase + 0.5), top - 6, tick(phase)))
        parts.append(text("tick end", left - 7, top + side * (phase + 0.5) + 4, tick(phase)))
    return Markup("").join(parts)


def _cell(each: Estimate | None, at: tuple[int, int], x: float, y: float, side: float) -> Markup:
    square = f"M{x:.1f} {y:.1f}h{side:.1f}v{side:.1f}h-{side:.1f}z"
    if each is None:
        return path("hole", square)
    share = min(max(each.mean / 100, 0.0), 1.0)
    kind = "cell over mid" if share > 0.5 else "cell mid"
    written = text(kind, x + side / 2, y + side / 2 + 4.2, number(each.mean, 1 if side >= 36 else 0))
    return Markup("<g>{}{}<title>{}</title></g>").format(
        path("heat", square, ramp(share, "h", 3)),
        written if side >= 25 else "",
        f"after phase {at[0]}, on the classes of phase {at[1]}: {plus_minus(each)} %",
    )


def _joined(points: Sequence[tuple[float, float]]) -> str:
    return "".join(f"{'L' if index else 'M'}{x:.1f} {y:.1f}" for index, (x, y) in enumerate(points))
