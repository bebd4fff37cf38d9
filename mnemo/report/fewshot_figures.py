"""The picture of a few-shot report, for papers and slides: a PNG file by matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes

from ..visible import in_a_line
from .fewshot_charts import accuracy_ticks, figure
from .fewshot_groups import Contest
from .figures import FONT, INK, MUTED, OKABE_ITO, PALE, TEXT, blank, save
from .svg import tick

ROW, AROUND = 0.42, 0.75  # inches
ABOVE, BELOW = 0.75, 0.4  # rows


def accuracy(contests: Sequence[Contest], path: Path) -> None:
    """Accuracies as bars with their intervals, a row of bars for each contest. Raises OSError: the disk refuses."""
    rows = [_last_row(contest) + ABOVE + BELOW for contest in contests]
    drawn = blank(sum(ROW * each + AROUND for each in rows), layout="constrained")
    panels = drawn.subplots(len(contests), 1, squeeze=False, height_ratios=rows)
    for (axes,), contest in zip(panels, contests, strict=True):
        _bars(axes, contest)
        _finish(axes, contest)
    save(drawn, path)


def _last_row(contest: Contest) -> int:
    return max(len(contest.ranked), 1) - 1


def _bars(axes: Axes, contest: Contest) -> None:
    """Each with its name and its figure above it."""
    low, high = accuracy_ticks(contest)[0], accuracy_ticks(contest)[-1]
    for index, (group, each) in enumerate(contest.ranked):
        colour = OKABE_ITO[group.series % len(OKABE_ITO)]
        axes.barh(index, max(each.mean - low, 0.0), left=low, height=0.34, color=colour)
        if each.spread is not None:
            ends = [min(max(end, low), high) for end in (each.low, each.high)]
            axes.plot(ends, [index, index], color=INK, linewidth=0.9, marker="|", markersize=5, clip_on=False)
        _write(axes, (low, index), group.label, "left")
        _write(axes, (high, index), figure(group, each), "right")


def _write(axes: Axes, at: tuple[float, float], words: str, side: Literal["left", "right"]) -> None:
    """Words above a bar, a little inwards from its left or right end ``at``."""
    style = TEXT | {"fontsize": 9, "horizontalalignment": side, "verticalalignment": "bottom"}
    inwards = (4 if side == "left" else -4, 9)
    axes.annotate(
        in_a_line(words), at, inwards, textcoords="offset points", annotation_clip=False, parse_math=False, **style
    )


def _finish(axes: Axes, contest: Contest) -> None:
    marks = accuracy_ticks(contest)
    axes.set_title(in_a_line(contest.name), loc="left", parse_math=False, **(TEXT | {"fontsize": 10}))
    axes.set_xticks(marks, [tick(round(mark, 1)) for mark in marks])
    axes.set_xlim(marks[0], marks[-1])
    axes.set_ylim(_last_row(contest) + BELOW, -ABOVE)
    axes.set_yticks([])
    axes.set_xlabel(f"accuracy (%), from chance: {tick(round(marks[0], 1))} %", **TEXT)
    axes.grid(axis="x", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(axis="x", length=2.5, color=MUTED, labelsize=8, labelfontfamily=FONT, labelcolor=INK)
