"""The figure: for each group the paper's figures and the records side by side, a line for each row."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mnemo.report.figures import OKABE_ITO

from .order import paper
from .plan import Group
from .results import Results

SHOT = 1
LINE, HEAD = 0.23, 0.75
"""Inches that a row takes, and what stands above and below the rows of a group."""
STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e6ea",
    "ytick.left": False,
}
HERE, THERE, CONTROL = OKABE_ITO[0], "#6a737d", "#1f2328"


def draw(results: Results, path: Path) -> None:
    """Write the picture of a comparison at one shot; groups of which nothing is measured are left out."""
    groups = [group for group in results.plan.groups if any(results.of(row, SHOT) for row in group.rows)]
    heights = [HEAD + LINE * len(group.rows) for group in groups]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, sum(heights)), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(groups), 2, squeeze=False, sharey="row", height_ratios=heights)
        for group, (theirs, ours) in zip(groups, grid, strict=True):
            _paper(theirs, group)
            _records(ours, results, group)
        figure.savefig(path)


def _paper(axes: Axes, group: Group) -> None:
    places = [paper(row, SHOT) for row in group.rows]
    axes.set_yticks(range(len(group.rows)), [row.label for row in group.rows])
    axes.set_ylim(len(group.rows) - 0.4, -0.6)
    axes.set_title(group.title, loc="left", fontsize=9, fontweight="bold")
    known = [(x, y) for y, x in enumerate(places) if x is not None]
    if not known:
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="x", bottom=False, labelbottom=False)
        axes.grid(visible=False, axis="x")
        return
    axes.plot(*zip(*known, strict=True), "o", color=THERE, markerfacecolor="white")
    axes.set_xlabel(f"{group.paper.removesuffix(', 1 / 5 shots').removesuffix(', 1 shot')}: accuracy, %", fontsize=8)
    axes.margins(x=0.08)


def _records(axes: Axes, results: Results, group: Group) -> None:
    for y, row in enumerate(group.rows):
        runs = list(results.of(row, SHOT).values())
        if not runs:
            continue
        mean = sum(run.accuracy or 0 for run in runs) / len(runs)
        interval = sum((run.interval or 0) ** 2 for run in runs) ** 0.5 / len(runs)
        control = row.name == group.control
        if control:
            axes.axvline(mean, color=CONTROL, linewidth=0.8, linestyle="--")
        colour, marker = (CONTROL, "D") if control else (HERE, "o")
        hollow = {"markerfacecolor": "white"} if runs[0].transductive else {}
        axes.errorbar(mean, y, xerr=interval, fmt=marker, color=colour, markersize=5, elinewidth=1.2, **hollow)
    axes.set_xlabel("here: accuracy, %", fontsize=8)
    axes.margins(x=0.08)
