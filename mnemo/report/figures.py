"""The pictures of a report, for papers and slides: PNG files by matplotlib. Nothing else imports it."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.transforms import offset_copy

from ..visible import in_a_line
from .samples import Exemplar, Kind, Sheet, grouped
from .summary import Comparison, Estimate, Group
from .svg import MOST_MARKERS, apart, percent_ticks, thinned

DPI = 200
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A7A7A", "#B5A800")
MARKERS = "os^DvPph"
INK, SOFT, MUTED, PALE = "#1f2328", "#5b646e", "#8a929c", "#e3e6ea"
FONT = "STIXGeneral"  # comes with matplotlib
TEXT: dict[str, Any] = {"fontsize": 8, "family": FONT, "color": INK}
WIDTH = 7.2  # inches, as all lengths below
MARGIN, HEAD, PITCH, GAP, LINE, FOOT = 0.84, 0.34, 0.63, 0.04, 0.13, 0.16  # of a sheet
ACROSS = 10  # exemplars in a row of a sheet
MOST_PIXELS = 60_000  # Agg draws no picture of 2**16 rows


def forgetting(comparisons: Sequence[Comparison], path: Path) -> None:
    """Accuracy over the phases (left) and forgetting curves (right), a row for each comparison, 200 dpi.

    On the right stand the curves of every phase's classes where there is one group, else those of the first
    phase's classes in every group. Raises OSError when the disk refuses.
    """
    figure = blank(2.9 * len(comparisons), layout="constrained")
    panels = figure.subplots(len(comparisons), 2, squeeze=False)
    for (left, right), comparison in zip(panels, comparisons, strict=True):
        _accuracy(left, comparison, comparison.protocol if len(comparisons) > 1 else "")
        if len(comparison.groups) == 1:
            _phases(right, comparison.groups[0])
        else:
            _first_classes(right, comparison)
    save(figure, path)


def exemplars(sheets: Sequence[Sheet], path: Path) -> None:
    """Exemplars, each kind of picture in a row, sheet under sheet. Raises OSError when the disk refuses."""
    heights = [_sheet_height(sheet) for sheet in sheets]
    figure = blank(sum(heights))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for index, sheet in enumerate(sheets):
        _sheet(axes, sheet, sum(heights[:index]))
    axes.set_xlim(0, WIDTH)  # inches, after the pictures: each sets limits of its own
    axes.set_ylim(sum(heights), 0)
    save(figure, path)


def blank(height: float, layout: Literal["constrained"] | None = None) -> Figure:
    """An empty figure of the common width, ``height`` inches high."""
    return Figure(figsize=(WIDTH, height), dpi=min(DPI, MOST_PIXELS / height), layout=layout)


def save(figure: Figure, path: Path) -> None:
    """Write it as PNG. Raises OSError when the disk refuses."""
    with warnings.catch_warnings():
        # names may be in any script, and what the font lacks is drawn as a box
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        FigureCanvasAgg(figure)
        figure.savefig(path, format="png")


def _accuracy(axes: Axes, comparison: Comparison, name: str) -> None:
    _by_group(axes, comparison, [group.curve for group in comparison.groups])
    _finish(axes, comparison.seen, f"{name}: all classes seen" if name else "All classes seen")


def _first_classes(axes: Axes, comparison: Comparison) -> None:
    _by_group(axes, comparison, [[row[0] for row in group.matrix] for group in comparison.groups])
    _finish(axes, comparison.seen, "Classes of the first phase")


def _by_group(axes: Axes, comparison: Comparison, curves: Sequence[Sequence[Estimate | None]]) -> None:
    ends = []
    for group, curve in zip(comparison.groups, curves, strict=True):
        colour = OKABE_ITO[group.series % len(OKABE_ITO)]
        known = [(x, each) for x, each in zip(group.seen, curve, strict=True) if each is not None]
        if known:
            _line(axes, known, colour, MARKERS[group.series % len(MARKERS)])
            ends.append((known[-1][0], known[-1][1].mean, group.label))
    _limits(axes, [end for curve in curves for each in curve if each for end in (each.low, each.high)])
    if len(comparison.groups) > 1:
        _label_ends(axes, ends)


def _phases(axes: Axes, group: Group) -> None:
    """The curve of each phase's classes, from dark to light."""
    for phase in reversed(range(group.done)):
        curve = [(group.seen[i], group.matrix[i][phase]) for i in range(phase, group.done)]
        colour = colormaps["viridis"](0.88 * phase / max(group.phases - 1, 1))
        known = [(x, each.mean) for x, each in curve if each is not None]
        axes.plot(
            [x for x, _ in known],
            [y for _, y in known],
            color=colour,
            linewidth=1.9 if phase == 0 else 1.1,
            marker="o" if group.done <= MOST_MARKERS or len(known) == 1 else "",
            markersize=3.2,
        )
    _limits(axes, [each.mean for row in group.matrix for each in row if each])
    ends = enumerate(group.matrix[-1] if group.done else [])
    last = [(group.seen[-1], each.mean, f"phase {j}") for j, each in ends if each]
    shown = thinned(range(len(last)), 8)
    _label_ends(axes, [last[int(index)] for index in shown])
    _finish(axes, group.seen, "Classes of each phase")


def _line(axes: Axes, known: Sequence[tuple[int, Estimate]], colour: str, marker: str) -> None:
    x, means = [at for at, _ in known], [each.mean for _, each in known]
    if any(each.spread for _, each in known):
        low, high = [each.low for _, each in known], [each.high for _, each in known]
        axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
    marker = marker if len(known) <= MOST_MARKERS else ""
    axes.plot(x, means, color=colour, linewidth=1.4, marker=marker, markersize=4.0, markeredgewidth=0)


def _limits(axes: Axes, values: Sequence[float]) -> None:
    marks = percent_ticks(values)
    axes.set_yticks(marks)
    axes.set_ylim(marks[0], marks[-1])


def _label_ends(axes: Axes, ends: Sequence[tuple[float, float, str]]) -> None:
    """Names at the right ends of lines, moved apart where they would cover one another."""
    low, high = axes.get_ylim()
    beside = offset_copy(axes.transData, axes.get_figure(root=True), x=15, units="points")
    places = apart([y for _, y, _ in ends], (high - low) * 0.062, low, high)
    for (x, y, name), place in zip(ends, places, strict=True):
        axes.annotate(
            in_a_line(name),
            (x, y),
            (x, place),
            textcoords=beside,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": MUTED,
                "linewidth": 0.4,
                "shrinkA": 0,
                "shrinkB": 3,
                "relpos": (0, 0.5),  # from where the name begins, not from its middle
            },
            verticalalignment="center",
            parse_math=False,
            path_effects=[withStroke(linewidth=2, foreground="white")],  # a name may lie over another line
            **TEXT,
        )


def _finish(axes: Axes, seen: Sequence[int], title: str) -> None:
    axes.set_title(in_a_line(title), loc="left", parse_math=False, **(TEXT | {"fontsize": 10}))
    axes.set_xticks(thinned(seen, 7))
    axes.set_xlabel("classes seen", **TEXT)
    axes.set_ylabel("accuracy (%)", **TEXT)
    axes.grid(axis="y", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", length=2.5, color=MUTED)
    axes.tick_params(labelsize=8, labelfontfamily=FONT, labelcolor=INK)


def _row_heights(sheet: Sheet) -> list[float]:
    """Inches that each kind of picture takes, with the line of bytes under it."""
    return [PITCH + LINE * sheet.weighed(kind) for kind in sheet.kinds]


def _band_height(sheet: Sheet) -> float:
    """Inches that one row of exemplars takes, their names included."""
    return sum(_row_heights(sheet)) + FOOT


def _sheet_height(sheet: Sheet) -> float:
    return HEAD + _band_height(sheet) * -(-len(sheet.exemplars) // ACROSS)


def _sheet(axes: Axes, sheet: Sheet, top: float) -> None:
    """One sheet, its upper edge ``top`` inches from the upper edge of the picture."""
    title = f"{sheet.name}, seed {sheet.seed}: {grouped(sheet.count)} exemplars in {grouped(sheet.size)} bytes"
    write(axes, 0.06, top + 0.2, title, fontsize=10)
    heights = _row_heights(sheet)
    for index, exemplar in enumerate(sheet.exemplars):
        row, column = divmod(index, ACROSS)
        at = top + HEAD + row * _band_height(sheet)
        left = MARGIN + column * PITCH
        for number, kind in enumerate(sheet.kinds):
            above = at + sum(heights[:number])
            if column == 0:
                write(axes, MARGIN - 0.1, above + PITCH / 2, sheet.label(kind), horizontalalignment="right")
            _picture(axes, exemplar, kind, left, above)
        name = exemplar.class_name if len(exemplar.class_name) <= 11 else exemplar.class_name[:10] + "…"
        _under(axes, left, at + sum(heights) + 0.03, name, INK)


def _picture(axes: Axes, exemplar: Exemplar, kind: Kind, left: float, top: float) -> None:
    """One picture, a dash where there is none of this kind, and its bytes where they are known."""
    if kind in exemplar.pictures:
        pixels, side = exemplar.pictures[kind], PITCH - GAP
        smoothing = "nearest" if len(pixels) <= 64 else "antialiased"
        extent = (left, left + side, top + side, top)
        axes.imshow(pixels, extent=extent, aspect="auto", interpolation=smoothing)
    else:
        _under(axes, left, top + (PITCH - GAP) / 2, "\N{EN DASH}", SOFT)
    if kind in exemplar.bytes:
        _under(axes, left, top + PITCH + 0.03, f"{grouped(exemplar.bytes[kind])} B", SOFT)


def _under(axes: Axes, left: float, y: float, words: str, colour: str) -> None:
    """Words under the middle of a picture whose left edge is at ``left``."""
    write(axes, left + (PITCH - GAP) / 2, y, words, fontsize=7, horizontalalignment="center", color=colour)


def write(axes: Axes, x: float, y: float, words: str, **style: Any) -> None:
    """Words in the common type, as they are: no mathematics."""
    axes.text(x, y, in_a_line(words), verticalalignment="center", parse_math=False, **(TEXT | style))
