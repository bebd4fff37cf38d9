"""The tables: accuracy and interval of each row, and its difference from the group's control on the same tasks."""

import statistics
from collections.abc import Sequence

from . import order
from .plan import Comparison, Group, Row, command
from .results import Results

NOTES = (
    "Accuracy in % after the last step, over {episodes} {kind} tasks that all rows share, with half the width of its "
    "95 % interval; the checkpoint is the best on validation tasks. Difference: from {control}, in points, task "
    "by task, with its 95 % interval. Pairs whose interval reaches over 0 are too near to tell. T: transductive."
)
SEVERAL = " Over several seeds, each with a backbone and tasks of its own: mean and sample standard deviation."
NOT_YET = "not yet measured"


def markdown(results: Results) -> str:
    """The whole table in Markdown."""
    parts = [results.plan.about] if results.plan.about else []
    for group in results.plan.groups:
        parts.append("\n".join([f"#### {group.title}", "", *_lines(results, group)]))
        parts += order.sentences(results, group)
    return "\n\n".join([*parts, _provenance(results)]) + "\n"


def _lines(results: Results, group: Group) -> list[str]:
    shots = sorted({shot for row in group.rows for shot in results.plan.shots_of(row)})
    head = ["method", *(f"{shot}-shot" for shot in shots), *(f"difference, {shot}-shot" for shot in shots), ""]
    if group.paper:
        head.append(group.paper)
    ruler = ["---", *["---:"] * 2 * len(shots), *["---"] * (len(head) - 1 - 2 * len(shots))]
    rows = [_row(results, group, row, shots) for row in group.rows]
    return [f"| {' | '.join(cells)} |" for cells in (head, ruler, *rows)]


def _row(results: Results, group: Group, row: Row, shots: Sequence[int]) -> list[str]:
    runs = [run for shot in shots for run in results.of(row, shot).values()]
    kind = "T" if any(run.transductive for run in runs) else ""
    figures = [_accuracy(results, row, shot) for shot in shots]
    gaps = [_difference(results, row, group.control, shot) for shot in shots]
    return [row.label, *figures, *gaps, kind, *([row.paper] if group.paper else [])]


def _accuracy(results: Results, row: Row, shot: int) -> str:
    """In words: of one seed with its interval, of several their mean and deviation."""
    if shot not in results.plan.shots_of(row):
        return ""
    runs = list(results.of(row, shot).values())
    if not runs:
        return NOT_YET
    values = [run.accuracy or 0 for run in runs]
    if len(runs) == 1:
        return f"{values[0]:.2f} ± {runs[0].interval or 0:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} ({len(values)} seeds)"


def _difference(results: Results, row: Row, control: str, shot: int) -> str:
    if row.name == control:
        return "control"
    return str(results.gap(row, _named(results.plan, control), shot))


def _provenance(results: Results) -> str:
    plan, runs = results.plan, results.all()
    control = " or ".join(dict.fromkeys(_named(plan, group.control).label for group in plan.groups))
    seeds = [str(seed) for seed in plan.seeds if any(run.seed == seed for run in runs)]
    parts = [f"{'Seeds' if len(seeds) > 1 else 'Seed'} {', '.join(seeds)}"] if seeds else []
    parts += sorted({run.hardware for run in runs})
    parts += sorted({", ".join(f"{name} {version}" for name, version in run.versions.items()) for run in runs})
    notes = NOTES.format(episodes=plan.episodes, kind=plan.evaluated_on, control=control) + (
        SEVERAL if len(seeds) > 1 else ""
    )
    return f"{notes} {'; '.join([*parts, f'`{command(plan)}`'])}."


def _named(plan: Comparison, name: str) -> Row:
    return next(row for row in plan.rows if row.name == name)
