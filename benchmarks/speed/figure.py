"""The figure of growth: small multiples on logarithmic axes, with the fitted line and the slope that is expected."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from .growth import Curve, curves

WITHIN, BEYOND, GREY = "#1b6ca8", "#c8553d", "#9a9a9a"
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}


def draw(section: dict[str, Any], path: Path) -> None:
    """Time above, memory below, a column for each size that grows."""
    found = curves(section)
    columns = list(dict.fromkeys((curve.work, curve.driver) for curve in found))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.75 * len(columns), 4.1), layout="constrained")
        axes = figure.subplots(2, len(columns), squeeze=False, sharex="col")
        for curve in found:
            row = 0 if curve.quantity.startswith("time") else 1
            _panel(axes[row, columns.index((curve.work, curve.driver))], curve)
        _labels(axes, columns)
        figure.align_ylabels(axes[:, 0])
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=200)


def _panel(axes: Axes, curve: Curve) -> None:
    colour = BEYOND if curve.too_fast else WITHIN
    sizes, values = np.array(curve.sizes), np.array(curve.values)
    middle = np.exp(np.log(sizes).mean()), np.exp(np.log(values).mean())
    expected: dict[str, Any] = {"color": GREY, "ls": (0, (4, 3)), "label": "expected"}
    fitted: dict[str, Any] = {"color": colour, "label": "fitted"}
    for exponent, style in ((curve.expected, expected), (curve.exponent, fitted)):
        axes.plot(sizes, middle[1] * (sizes / middle[0]) ** exponent, lw=1, zorder=1, **style)
    axes.plot(sizes, values, "o", ms=4, color=colour, mec="white", mew=0.6, zorder=2)
    axes.set(xscale="log", yscale="log")
    axes.set_title(f"exponent {curve.exponent:.2f}, expected {curve.expected:g}", color=colour, fontsize=7)
    _ticks(axes, curve)


def _ticks(axes: Axes, curve: Curve) -> None:
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_locator(FixedLocator(curve.sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(plain)
    low, high = min(curve.values), max(curve.values)
    if high / low < 10:  # about a decade around the points, so that flat looks flat
        centre = (low * high) ** 0.5
        low, high = centre / 10**0.5, centre * 10**0.5
    axes.set_ylim(low / 1.5, high * 1.5)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_formatter(NullFormatter())


def _labels(axes: Any, columns: list[tuple[str, str]]) -> None:
    for index, (work, driver) in enumerate(columns):
        top, bottom = axes[:, index]
        top.annotate(
            work, (0.5, 1.16), xycoords="axes fraction", ha="center", va="bottom", fontsize=9, fontweight="bold"
        )
        bottom.set_xlabel(driver)
    axes[0, 0].legend(frameon=False, fontsize=7, loc="lower right", handlelength=1.8)
    axes[0, 0].set_ylabel("time, s")
    axes[1, 0].set_ylabel("memory, MiB")
