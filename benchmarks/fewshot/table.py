"""The tables: accuracy and interval of each row, and its difference from the group's control on the same tasks."""

import statistics
from collections.abc import Sequence

from mnemo.fewshot import record
from mnemo.fewshot.record import FewShotRun

from .plan import Cell, Comparison, Group, Row, command
from .work import Places

NOTES = (
    "Accuracy in % after the last step, over {episodes} test tasks that all rows share, with half the width of its "
    "95 % interval; the checkpoint is the best on validation tasks. Difference: from {control}, in points, task "
    "by task, with its 95 % interval. T: transductive."
)
NOT_YET = "not yet measured"


def markdown(plan: Comparison, places: Places) -> str:
    """The whole table in Markdown."""
    parts = [plan.about] if plan.about else []
    for group in plan.groups:
        parts.append("\n".join([f"#### {group.title}", "", *_lines(plan, places, group)]))
    return "\n\n".join([*parts, _provenance(plan, places)]) + "\n"


def _lines(plan: Comparison, places: Places, group: Group) -> list[str]:
    shots = sorted({shot for row in group.rows for shot in row.shots or plan.shots})
    head = ["method", *(f"{shot}-shot" for shot in shots), *(f"difference, {shot}-shot" for shot in shots), ""]
    if group.paper:
        head.append(group.paper)
    ruler = ["---", *["---:"] * 2 * len(shots), *["---"] * (len(head) - 1 - 2 * len(shots))]
    rows = [_row(plan, places, group, row, shots) for row in group.rows]
    return [f"| {' | '.join(cells)} |" for cells in (head, ruler, *rows)]


def _row(plan: Comparison, places: Places, group: Group, row: Row, shots: Sequence[int]) -> list[str]:
    runs = [run for shot in shots for run in found(plan, places, row, shot).values()]
    kind = "T" if any(run.transductive for run in runs) else ""
    figures = [accuracy(plan, places, row, shot) for shot in shots]
    gaps = [difference(plan, places, row, group.control, shot) for shot in shots]
    return [row.label, *figures, *gaps, kind, *([row.paper] if group.paper else [])]


def found(plan: Comparison, places: Places, row: Row, shot: int) -> dict[int, FewShotRun]:
    """The records of a row with so many shots, by seed."""
    some = [Cell(row, shot, seed) for seed in plan.seeds if shot in (row.shots or plan.shots)]
    return {cell.seed: record.load(places.record(cell)) for cell in some if places.done(cell)}


def accuracy(plan: Comparison, places: Places, row: Row, shot: int) -> str:
    """The accuracy of a row in words: of one seed with its interval, of several their mean and deviation."""
    if shot not in (row.shots or plan.shots):
        return ""
    runs = list(found(plan, places, row, shot).values())
    if not runs:
        return NOT_YET
    values = [run.accuracy or 0 for run in runs]
    if len(runs) == 1:
        return f"{values[0]:.2f} ± {runs[0].interval or 0:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} ({len(values)} seeds)"


def difference(plan: Comparison, places: Places, row: Row, control: str, shot: int) -> str:
    """From the control, task by task, over all seeds that both have; "" for the control itself."""
    other = next(each for each in plan.rows if each.name == control)
    if row.name == control:
        return "control"
    gaps: list[float] = []
    for seed in plan.seeds:
        pair = [Cell(each, shot, seed) for each in (row, other)]
        if all(places.done(cell) for cell in pair):
            (ours, digest), (theirs, same) = (record.load_accuracies(places.accuracies(cell)) for cell in pair)
            if digest != same:
                return "other tasks"
            backbones = {found(plan, places, each, shot)[seed].pretrained_digest for each in (row, other)}
            if len(backbones - {""}) > 1:
                return "other backbone"
            gaps += [a - b for a, b in zip(ours, theirs, strict=True)]
    if not gaps:
        return ""
    return f"{statistics.mean(gaps):+.2f} ± {1.96 * statistics.stdev(gaps) / len(gaps) ** 0.5:.2f}"


def _provenance(plan: Comparison, places: Places) -> str:
    runs = [
        run for row in plan.rows for shot in row.shots or plan.shots for run in found(plan, places, row, shot).values()
    ]
    control = " or ".join(dict.fromkeys(_label(plan, group.control) for group in plan.groups))
    seeds = [str(seed) for seed in plan.seeds if any(run.seed == seed for run in runs)]
    parts = [f"{'Seeds' if len(seeds) > 1 else 'Seed'} {', '.join(seeds)}"] if seeds else []
    parts += sorted({run.hardware for run in runs})
    parts += sorted({", ".join(f"{name} {version}" for name, version in run.versions.items()) for run in runs})
    return f"{NOTES.format(episodes=plan.episodes, control=control)} {'; '.join(parts)}; `{command(plan)}`."


def _label(plan: Comparison, name: str) -> str:
    return next(row.label for row in plan.rows if row.name == name)
