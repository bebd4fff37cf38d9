"""The charts of a few-shot report: from groups of runs to SVG."""

from collections.abc import Sequence

from markupsafe import Markup

from ..fewshot.record import FewShotRun
from . import svg
from .charts import Panel
from .fewshot_groups import Contest, MethodGroup
from .summary import Estimate, estimate
from .svg import Axes, Frame, Line, Point

WIDTH = 460.0
BAR_ROW = 42.0  # height of a line of words and the bar below it
PANEL = (320.0, 220.0)  # width and height of a chart among others
FEW_EPOCHS = 10  # of which each has its tick
CHOSEN = 3  # index of the diamond, which marks a checkpoint that was chosen
CURVE_NAMES = {
    "alpha": "\N{GREEK SMALL LETTER ALPHA}, the rate of each epoch",
    "v": "v, the weight of each epoch\N{RIGHT SINGLE QUOTATION MARK}s classifier",
    "decay": "weight decay of each epoch",
}


def bars(contest: Contest) -> Markup | None:
    """Accuracies with their intervals, the best first, on an axis that starts at chance. None where there are none."""
    rows = contest.ranked
    if not rows:
        return None
    marks = accuracy_ticks(contest)
    height = BAR_ROW * len(rows) + 44
    frame = Frame(WIDTH, height, 2, 12, 4, 40, (marks[0], marks[-1]), (0, 1))
    parts = [_bar_axis(frame, marks)]
    parts += [_bar(frame, 4 + BAR_ROW * index, group, each) for index, (group, each) in enumerate(rows)]
    return svg.drawing(WIDTH, height, f"Accuracy on {contest.name}", parts)


def accuracy_ticks(contest: Contest) -> list[float]:
    """Where the axis of accuracies has its ticks: at chance, at round numbers, and above every interval."""
    highest = max([each.high for _, each in contest.ranked], default=contest.chance)
    marks = svg.ticks(contest.chance, max(min(highest, 100.0), contest.chance + 5))
    room = (marks[-1] - contest.chance) / 12  # so that the number at chance stands clear of the next
    return [contest.chance, *(mark for mark in marks if mark > contest.chance + room)]


def validation(contest: Contest) -> Markup | None:
    """Accuracy on validation tasks over iterations, one line a run; a diamond marks the checkpoint that was chosen."""
    runs = [(group, run) for group in contest.groups for run in group.runs if run.validation]
    if not runs:
        return None
    several = len(contest.groups) > 1
    lines = [line for group, run in runs for line in _validation_lines(group, run, several)]
    most = max(iteration for _, run in runs for iteration, _ in run.validation)
    y = svg.percent_ticks(accuracy for _, run in runs for _, accuracy in run.validation)
    return _chart(lines, svg.ticks(0, most), y, ("Accuracy on validation tasks", "iterations", "accuracy (%)"))


def curves(contest: Contest) -> list[Panel]:
    """What base-learners have for each epoch of the inner loop, a chart for each name that is not nought throughout."""
    names = dict.fromkeys(name for group in contest.groups for run in group.runs for name in run.curves)
    found = {name: _curve_lines(contest, name) for name in names}
    return [Panel(CURVE_NAMES.get(name, name), _curve(name, lines)) for name, lines in found.items() if lines]


def _bar_axis(frame: Frame, marks: Sequence[float]) -> Markup:
    foot = frame.height - frame.bottom
    parts = []
    for index, mark in enumerate(marks):
        parts.append(svg.path("axis" if index == 0 else "grid", f"M{frame.x(mark):.1f} {frame.top:.1f}V{foot + 4:.1f}"))
        where = "tick" if index == 0 else "tick mid"
        parts.append(svg.text(where, frame.x(mark), foot + 17, svg.tick(round(mark, 1))))
    words = f"accuracy (%), from chance: {svg.tick(round(marks[0], 1))} %"
    return Markup("").join([*parts, svg.text("name", 2, frame.height - 5, words)])


def _bar(frame: Frame, top: float, group: MethodGroup, each: Estimate) -> Markup:
    """A group's name and figure, and below them its bar with its interval; nothing below chance is drawn."""
    low, high = frame.x_limits
    start, end, left, right = (frame.x(min(max(v, low), high)) for v in (low, each.mean, each.low, each.high))
    middle = top + 29
    parts = [
        svg.text("label strong", 6, top + 15, group.label),
        svg.text("label end", frame.width - frame.right, top + 15, figure(group, each)),
        svg.path("beam", f"M{start:.1f} {middle - 7:.1f}H{end:.1f}v14H{start:.1f}z", svg.series(group.series)),
    ]
    if each.spread is not None:
        ends = f"M{left:.1f} {middle - 4:.1f}v8M{right:.1f} {middle - 4:.1f}v8"
        parts.append(svg.path("interval", f"M{left:.1f} {middle:.1f}H{right:.1f}{ends}"))
    words = f"{group.name}: {figure(group, each)}"
    return Markup("<g>{}<title>{}</title></g>").format(Markup("").join(parts), words)


def figure(group: MethodGroup, each: Estimate) -> str:
    """``86.37 ± 1.23 (inductive, batch norm running)``."""
    return f"{svg.plus_minus(each, 2)} ({group.kind})"


def _validation_lines(group: MethodGroup, run: FewShotRun, several: bool) -> list[Line]:
    colour, first = svg.series(group.series), run is group.runs[0]
    points = [_validated(group, run, *each) for each in run.validation]
    best = max(run.validation, key=lambda each: each[1])  # of equals the first, as in meta-training
    chosen = _validated(group, run, *best, "; this checkpoint was chosen")
    return [
        Line(points, colour, None, group.label if several and first else ""),
        Line([chosen], colour, CHOSEN, strong=True),
    ]


def _validated(group: MethodGroup, run: FewShotRun, iteration: int, accuracy: float, more: str = "") -> Point:
    words = f"{group.name}, seed {run.seed}: {svg.number(accuracy, 2)} % after {iteration} iterations{more}"
    return Point(iteration, Estimate(accuracy), words)


def _curve_lines(contest: Contest, name: str) -> list[Line]:
    several = len(contest.groups) > 1
    found = [(group, _curve_points(group, name)) for group in contest.groups]
    return [
        Line(points, svg.series(group.series), group.series, group.label if several else "")
        for group, points in found
        if any(point.estimate.mean for point in points)
    ]


def _curve_points(group: MethodGroup, name: str) -> list[Point]:
    """Means over seeds; of seeds with different numbers of epochs those that have the epoch."""
    found = [run.curves[name] for run in group.runs if name in run.curves]
    values = [estimate(each[i] for each in found if i < len(each)) for i in range(max(map(len, found), default=0))]
    return [
        Point(epoch, each, f"{group.name}: {name} = {each.mean:.4g} in epoch {epoch}")
        for epoch, each in enumerate(values, 1)
        if each is not None
    ]


def _curve(name: str, lines: Sequence[Line]) -> Markup:
    ends = [end for line in lines for point in line.points for end in (point.estimate.low, point.estimate.high)]
    low, high = min(ends), max(ends)
    least = max(abs(high), abs(low), 1e-6) / 10  # a curve that hardly moves must look like it
    y = svg.ticks(low, high, 4, max(high - low, least))
    epochs = max(int(point.x) for line in lines for point in line.points)
    x = range(1, epochs + 1) if epochs <= FEW_EPOCHS else svg.ticks(0, epochs, 4)
    words = (CURVE_NAMES.get(name, name), "epoch of the inner loop", name)
    return _chart(lines, x, y, words, PANEL)


def _chart(
    lines: Sequence[Line],
    x: Sequence[float],
    y: Sequence[float],
    words: tuple[str, str, str],
    size: tuple[float, float] = (WIDTH, 250.0),
) -> Markup:
    """A chart whose axes end with their ticks; ``words`` are its title and the names of x and y."""
    limits = (x[0], x[-1]) if x[-1] > x[0] else (x[0] - 1, x[0] + 1)
    left = 14 + svg.LETTER * max(len(svg.tick(mark)) for mark in y)
    right = max(14, svg.label_room(line.label for line in lines) if any(line.label for line in lines) else 0)
    frame = Frame(*size, left, right, 28, 42, limits, (y[0], y[-1]))
    return svg.line_chart(lines, frame, Axes(*words, x, y))
