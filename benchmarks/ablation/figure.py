"""The figure: average accuracy and forgetting rate against bytes a class, a curve for each method."""

import math
import statistics
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from mnemo.record import Run
from mnemo.report.figures import MARKERS, OKABE_ITO

from .plan import Ablation, Row
from .results import Found, by_seed, bytes_a_class

INK, PALE = "#1f2328", "#e3e6ea"
COLUMNS, LABEL = 3, 36
"""Of the legend, and how many letters a line of it has at most."""
APART, WITHIN = 0.012, 0.06
"""How far markers of the same budget are moved from each other, and all of them, as fractions of the axis: bars that
lie on each other could not be told apart."""
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": PALE,
    "svg.hashsalt": "mnemo",
    "svg.fonttype": "none",
}
PANELS: dict[str, Callable[[Run], float | None]] = {
    "average accuracy, %": lambda run: run.average_incremental_accuracy,
    "forgetting rate, points (less is better)": lambda run: run.forgetting_rate,
}


class Point(NamedTuple):
    """A method with a budget: mean and sample standard deviation over seeds."""

    bytes: float
    mean: float
    deviation: float


def draw(plan: Ablation, found: Found, folder: Path) -> bool:
    """Leave figure.png and figure.svg in ``folder``; whether there was anything to draw."""
    rows = [row for row in plan.rows if row.curve and _curve(plan, found, row, bytes_a_class)]
    if not rows:
        return False
    with mpl.rc_context(STYLE):
        labels = [textwrap.fill(row.title, LABEL) for row in rows]
        height = 4.2 + 0.24 * max(label.count("\n") + 1 for label in labels) * -(-len(rows) // COLUMNS)
        figure = Figure(figsize=(9.6, height), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        for axes, (name, value) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
            _panel(axes, plan, found, rows, name, value)
        handles, _ = figure.axes[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(len(rows), COLUMNS), frameon=False, fontsize=9
        )
        figure.savefig(folder / "figure.png")
        figure.savefig(folder / "figure.svg", metadata={"Date": None})
    return True


def _curve(plan: Ablation, found: Found, row: Row, value: Callable[[Run], float | None]) -> list[Point]:
    points = []
    for budget in plan.budgets_of(row):
        runs = list(by_seed(found, row, budget, plan.seeds_of(row)).values())
        known = [each for each in map(value, runs) if each is not None]
        if known:
            place = statistics.mean(map(bytes_a_class, runs))
            points.append(Point(place, statistics.mean(known), statistics.stdev(known) if len(known) > 1 else 0))
    return sorted(point for point in points if point.bytes > 0)  # without exemplars it has no place on the axis


def _panel(
    axes: Axes, plan: Ablation, found: Found, rows: list[Row], name: str, value: Callable[[Run], float | None]
) -> None:
    curves = [_curve(plan, found, row, value) for row in rows]
    axes.set(xscale="log", xlabel="bytes a class, and how many raw images they are", title=name)
    axes.title.set_fontsize(10)
    for row, curve, moved in zip(rows, curves, _moves(curves), strict=True):
        places, means, bars = ([point[i] for point in curve] for i in range(3))
        axes.errorbar([place * moved for place in places], means, bars, label=row.title, **_look(plan, rows, row))
    low, high = axes.get_xlim()
    if high < 4 * low:  # one budget: a codec's few bytes less would fill the axis
        axes.set_xlim(math.sqrt(low * high) / 2, math.sqrt(low * high) * 2)
    _ticks(axes, _raw(plan, found))


def _moves(curves: list[list[Point]]) -> list[float]:
    """A factor for each curve, by which its points are moved on the axis."""
    places = [point.bytes for curve in curves for point in curve]
    if not places:
        return [1.0] * len(curves)
    length = math.log(max(max(places) / min(places), 4))
    step = min(APART, WITHIN / len(curves)) * length
    return [math.exp(step * (index - (len(curves) - 1) / 2)) for index in range(len(curves))]


def _look(plan: Ablation, rows: list[Row], row: Row) -> dict[str, Any]:
    """The control is black and dashed; beyond eight methods markers are hollow."""
    look: dict[str, Any] = {
        "markersize": 6,
        "linewidth": 1.6,
        "elinewidth": 1.1,
        "capsize": 2.5,
        "markeredgewidth": 1.2,
    }
    if row.name == plan.control:
        return {**look, "color": INK, "marker": "X", "linestyle": "--", "zorder": 3}
    index = [each.name for each in rows if each.name != plan.control].index(row.name)
    hollow = {"markerfacecolor": "white", "linestyle": ":"} if index >= len(MARKERS) else {}
    colour = OKABE_ITO[index % len(OKABE_ITO)]
    return {**look, "color": colour, "marker": MARKERS[index % len(MARKERS)], "zorder": 2, **hollow}


def _raw(plan: Ablation, found: Found) -> dict[int, float]:
    """For each budget the most bytes that a method took for a class: those of raw images, unless a codec left some."""
    taken: dict[int, float] = {}
    for (name, budget, _), run in found.items():
        if next(row for row in plan.rows if row.name == name).curve:
            taken[budget] = max(taken.get(budget, 0), bytes_a_class(run))
    return {budget: place for budget, place in taken.items() if place}


def _ticks(axes: Axes, raw: dict[int, float]) -> None:
    names = [f"{_size(place)}\n{budget} raw" for budget, place in raw.items()]
    axes.xaxis.set_major_locator(FixedLocator(list(raw.values())))
    axes.xaxis.set_major_formatter(FixedFormatter(names))
    axes.xaxis.set_minor_locator(NullLocator())


def _size(count: float) -> str:
    return f"{count:.0f} B" if count < 1000 else f"{count / 1000:.3g} kB"
