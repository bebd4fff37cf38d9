"""The charts of a report: from groups of runs to SVG."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from . import svg
from .summary import Comparison, Estimate, Group
from .svg import Axes, Frame, Line, Point

SEEN = "classes seen"
ACCURACY = "accuracy (%)"
MOST_LABELS = 9  # lines that can be told by labels at their ends


@dataclass(frozen=True)
class Panel:
    """A chart among others of its kind, with the name of the strategy that it shows."""

    name: str
    chart: Markup


def accuracy(comparison: Comparison) -> Markup:
    """Accuracy over all seen classes after each phase; one line a group."""
    alone = comparison.groups[0] if len(comparison.groups) == 1 else None
    average = alone.average_incremental_accuracy if alone else None
    rule = (average.mean, f"average {svg.number(average.mean)}") if average else None
    return _by_group(comparison, [group.curve for group in comparison.groups], "Accuracy over all classes seen", rule)


def first_classes(comparison: Comparison) -> Markup:
    """Accuracy on the first phase's classes after each phase; one line a group."""
    curves = [[row[0] for row in group.matrix] for group in comparison.groups]
    return _by_group(comparison, curves, "Accuracy on the classes of the first phase")


def base_and_novel(comparison: Comparison) -> Markup:
    """Accuracy on base classes, and over all later ones, after each phase: a solid and a dashed line a group."""
    several = len(comparison.groups) > 1
    lines = []
    for group in comparison.groups:
        for name, curve in (("base", group.base), ("novel", group.novel)):
            label = f"{group.label}, {name}" if several else name
            points = _points(group.seen, curve, f"{group.name}, {name} classes")
            lines.append(Line(points, svg.series(group.series), group.series, label, dashed=name == "novel"))
    right = svg.label_room(line.label for line in lines)
    return _chart(lines, comparison.seen, "Accuracy on base and on novel classes", lines, right=right)


def harmonic_mean(comparison: Comparison) -> Markup:
    """The harmonic mean of base and novel accuracy after each phase but the first; one line a group."""
    curves = [group.harmonic_mean for group in comparison.groups]
    return _by_group(comparison, curves, "Harmonic mean of base and novel accuracy")


def forgetting(group: Group) -> Markup:
    """Accuracy of each phase's classes from that phase on; one line a phase. A chart of full size."""
    labelled = group.done <= MOST_LABELS
    lines = _phase_lines(group, labelled)
    right = svg.label_room(line.label for line in lines) if labelled else 14
    return _chart(lines, group.seen, "Accuracy of each phase's classes", lines, right=right)


def forgetting_panels(comparison: Comparison) -> list[Panel]:
    """The same for each group, as small charts with common axes."""
    title = "{}: accuracy of each phase's classes"
    groups = [group for group in comparison.groups if group.done]
    lines = [_phase_lines(group, labelled=False) for group in groups]
    everything = [line for each in lines for line in each]
    seen = comparison.seen
    return [
        Panel(group.name, _chart(each, seen, title.format(group.name), everything, small=True))
        for group, each in zip(groups, lines, strict=True)
    ]


def matrices(comparison: Comparison) -> list[Panel]:
    """The accuracy matrix of each group as a heat map, smaller where there are several."""
    size = 300.0 if len(comparison.groups) == 1 else 222.0
    return [
        Panel(group.name, svg.heat_map(group.matrix, group.phases, f"Accuracy matrix of {group.name}", size))
        for group in comparison.groups
        if group.done
    ]


def ranking(comparison: Comparison, figure: str, title: str, *, falling: bool) -> Markup | None:
    """One figure of all groups on a common scale, the best first. None where no group has it.

    Groups that stopped earlier than others are left out: figures over fewer phases flatter them.

    Args:
        comparison: the groups.
        figure: name of a property of :class:`Group` that is an estimate.
        title: read out in place of the chart.
        falling: whether the highest is the best.
    """
    found = [(group, getattr(group, figure)) for group in comparison.groups if group.done == comparison.furthest]
    rows = [(group, each) for group, each in found if each is not None]
    rows.sort(key=lambda row: -row[1].mean if falling else row[1].mean)
    if not rows:
        return None
    return svg.dot_chart([(g.label, each, svg.series(g.series), g.series) for g, each in rows], title)


def _by_group(
    comparison: Comparison,
    curves: Sequence[Sequence[Estimate | None]],
    title: str,
    rule: tuple[float, str] | None = None,
) -> Markup:
    several = len(comparison.groups) > 1
    lines = [
        Line(
            _points(group.seen, curve, group.name),
            svg.series(group.series),
            group.series,
            group.label if several else "",
        )
        for group, curve in zip(comparison.groups, curves, strict=True)
    ]
    return _chart(lines, comparison.seen, title, lines, right=svg.label_room(line.label for line in lines), rule=rule)


def _phase_lines(group: Group, labelled: bool) -> list[Line]:
    """One line a phase; the first phase's, by which the forgetting rate goes, is the strongest."""
    lines = []
    for phase in range(group.done):
        curve = [group.matrix[i][phase] for i in range(phase, group.done)]
        points = _points(group.seen[phase:], curve, f"classes of phase {phase}")
        # without spreads: the bands would cover one another
        means = [Point(p.x, Estimate(p.estimate.mean), p.words) for p in points]
        colour = svg.ramp(phase / max(group.phases - 1, 1))
        lines.append(Line(means, colour, None, f"phase {phase}" if labelled else "", strong=phase == 0))
    return lines[::-1]


def _points(seen: Sequence[int], curve: Sequence[Estimate | None], name: str) -> list[Point]:
    return [
        Point(x, each, f"{name}: {svg.plus_minus(each)} % at {x} classes")
        for x, each in zip(seen, curve, strict=True)
        if each is not None
    ]


def _chart(
    lines: Sequence[Line],
    seen: Sequence[int],
    title: str,
    scale: Sequence[Line],
    *,
    right: float = 12,
    rule: tuple[float, str] | None = None,
    small: bool = False,
) -> Markup:
    """A chart of accuracies over classes seen; the y axis fits all lines of ``scale``."""
    marks = svg.percent_ticks(end for line in scale for p in line.points for end in (p.estimate.low, p.estimate.high))
    width, height = (260.0, 210.0) if small else (460.0, 330.0)
    limits = (seen[0], seen[-1]) if len(set(seen)) > 1 else (0, 2 * max([*seen, 1]))
    inner = Frame(width, height, 36, right, 28, 42, limits, (marks[0], marks[-1]))
    return svg.line_chart(lines, inner, Axes(title, SEEN, ACCURACY, svg.thinned(seen, 6 if small else 7), marks, rule))
