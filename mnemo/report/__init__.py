"""A report on one run or several: a page that stands alone and its pictures, made from run.json alone.

Few-shot runs have a page of their own, by :mod:`mnemo.report.fewshot`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from markupsafe import Markup

from .. import record
from ..disk.documents import from_json
from ..disk.files import InputError, replacing, write_text
from ..fewshot import record as fewshot_record
from ..fewshot.record import FewShotRun
from ..record import Run
from . import charts, fewshot, samples, tables
from .page import listed, render
from .samples import Sheet
from .summary import Comparison, Group, gather, phases_done

KEY_FIGURES = (  # property of a group, its name, whether higher is better, what it says
    ("average_incremental_accuracy", "Average incremental accuracy", True, "mean over phases, %"),
    ("last_accuracy", "Last accuracy", True, "all classes, after the last phase, %"),
    ("forgetting_rate", "Forgetting rate", False, "points lost on the first classes"),
)


@dataclass(frozen=True)
class KeyFigure:
    """One of the three figures that a reader wants first: a number for one group, a ranking for several."""

    name: str
    words: str
    value: Markup | None
    ranking: Markup | None


@dataclass(frozen=True)
class Section:
    """What the page shows of one comparison."""

    comparison: Comparison
    stream: str
    seeds: str
    notes: list[str]
    key_figures: list[KeyFigure]
    accuracy: Markup
    forgetting: Markup
    few_shot: tuple[Markup, Markup] | None
    labelled: bool
    panels: list[charts.Panel]
    matrices: list[charts.Panel]
    results: list[tables.Row]
    stages: list[tables.Stage]
    trials: list[tuple[str, list[tables.Trial]]]


def load(path: Path) -> Run | FewShotRun:
    """Read run.json of either kind, given itself or its folder. Raises InputError: not there, or not a record."""
    return fewshot_record.load(path) if _kind(path) == "fewshot" else record.load(path)


def write(runs: Sequence[Run | FewShotRun], out: Path, places: Sequence[Path] = ()) -> Path:
    """Write ``out``/report.html and its pictures.

    These are ``forgetting.png`` and, where there are samples, ``exemplars.png``; for few-shot runs ``accuracy.png``.

    Args:
        runs: one or several of one kind; they are grouped by protocol, and by what differs by seed only.
        out: folder; it is made where it is missing.
        places: where few-shot runs were read from, in their order: by the accuracies of episodes that lie there they
            are compared task by task.

    Returns:
        The path of report.html.

    Raises:
        InputError: there is no run, they are of both kinds, or accuracies are damaged.
        OSError: the disk refuses.
    """
    few = [run for run in runs if isinstance(run, FewShotRun)]
    others = [run for run in runs if isinstance(run, Run)]
    if few and others:
        raise InputError(
            f"{few[0].method} on {few[0].data} is a few-shot run and {others[0].strategy} on {others[0].protocol} is"
            " not: report on each kind by itself"
        )
    return fewshot.write(few, out, places) if few else _write(others, out)


def _write(runs: Sequence[Run], out: Path) -> Path:
    from . import figures  # here, because matplotlib takes its time to import

    if not runs:
        raise InputError("no run to report on")
    comparisons = gather(runs)
    sheets = sheets_of(comparisons)
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "forgetting.png") as part:
        figures.forgetting(comparisons, part)
    if sheets:
        with replacing(out / "exemplars.png") as part:
            figures.exemplars(sheets, part)
    page = out / "report.html"
    write_text(page, html(comparisons, sheets))
    return page


def _kind(path: Path) -> object:
    """What a record says that it is; None where it says nothing or cannot be read, which its loader complains of."""
    try:
        data = from_json((path / "run.json" if path.is_dir() else path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data.get("kind") if isinstance(data, dict) else None


def html(comparisons: Sequence[Comparison], sheets: Sequence[Sheet]) -> str:
    """The page. It asks for nothing from elsewhere, and holds no script."""
    return render(
        "report.html",
        title=_title(comparisons),
        complete=all(group.complete and not group.left_out for each in comparisons for group in each.groups),
        sections=[_section(each) for each in comparisons],
        sheets=[(sheet, _by_phase(sheet)) for sheet in sheets],
        provenance=_provenance(comparisons),
    )


def sheets_of(comparisons: Sequence[Comparison]) -> list[Sheet]:
    """For each group the exemplars of its first run that has any."""
    sheets = []
    for comparison in comparisons:
        where = f" on {comparison.protocol}" if len(comparisons) > 1 else ""
        for group in comparison.groups:
            found = (samples.sheet(group.name + where, run) for run in group.runs)
            sheets += [sheet for sheet in found if sheet is not None][:1]
    return sheets


def _section(comparison: Comparison) -> Section:
    groups = comparison.groups
    alone = len(groups) == 1
    seeds = sorted({run.seed for run in comparison.runs})
    return Section(
        comparison=comparison,
        stream=stream_words(comparison.sizes),
        seeds=("Seeds " if len(seeds) > 1 else "Seed ") + listed(seeds),
        notes=_notes(comparison),
        key_figures=[_key_figure(comparison, *figure) for figure in KEY_FIGURES],
        accuracy=charts.accuracy(comparison),
        forgetting=charts.forgetting(groups[0]) if alone else charts.first_classes(comparison),
        few_shot=(charts.base_and_novel(comparison), charts.harmonic_mean(comparison)) if comparison.few_shot else None,
        labelled=comparison.furthest <= charts.MOST_LABELS,
        panels=[] if alone else charts.forgetting_panels(comparison),
        matrices=charts.matrices(comparison),
        results=tables.results(comparison),
        stages=tables.stages(comparison),
        trials=tables.trials(comparison),
    )


def _key_figure(comparison: Comparison, figure: str, name: str, falling: bool, words: str) -> KeyFigure:
    if len(comparison.groups) == 1:
        return KeyFigure(name, words, tables.formatted(getattr(comparison.groups[0], figure)), None)
    return KeyFigure(name, words, None, charts.ranking(comparison, figure, name, falling=falling))


def _title(comparisons: Sequence[Comparison]) -> str:
    names = list(dict.fromkeys(run.strategy for each in comparisons for run in each.runs))
    protocols = list(dict.fromkeys(each.protocol for each in comparisons))
    what = listed(names) if len(names) <= 4 else f"{len(names)} strategies"
    return f"{what} on {listed(protocols) if len(protocols) <= 3 else f'{len(protocols)} protocols'}"


def stream_words(sizes: Sequence[int]) -> str:
    """The phases in words: ``100 classes: 50, then 5 phases of 10``."""
    runs = [(size, len(list(same))) for size, same in groupby(sizes)]
    total = f"{sum(sizes)} {'class' if sum(sizes) == 1 else 'classes'}"
    if len(sizes) == 1:
        return f"{total} in one phase"
    if len(runs) == 1:
        return f"{total} in {len(sizes)} phases of {sizes[0]}"
    if len(runs) == 2 and runs[0][1] == 1 and runs[1][1] > 1:
        return f"{total}: {sizes[0]}, then {runs[1][1]} phases of {runs[1][0]}"
    return f"{total} in {len(sizes)} phases of {listed(sizes)}"


def _notes(comparison: Comparison) -> list[str]:
    notes = []
    if comparison.evaluated_on == "validation":
        notes.append("Accuracies are on images held out from the training set, not on the test set.")
    for group in comparison.groups:
        if group.classifiers[0] == "refined":
            notes.append(f"{group.name} is transductive: it looks at all test images together, though not at labels.")
        if not group.complete:
            unranked = ", not ranked" if group.done < comparison.furthest else ""
            notes.append(f"{group.name} is incomplete: figures after {group.done} of {group.phases} phases{unranked}.")
        notes += [
            f"{group.name} with seed {run.seed} stopped after {phases_done(run)} of {group.phases} phases"
            " and is left out of the means."
            for run in group.left_out
        ]
    return notes


def _provenance(comparisons: Sequence[Comparison]) -> list[tuple[str, Run]]:
    """Every run with a line that names it."""
    return [(_run_name(each, group, run), run) for each in comparisons for group in each.groups for run in _all(group)]


def _all(group: Group) -> list[Run]:
    return sorted((*group.runs, *group.left_out), key=lambda run: run.seed)


def _run_name(comparison: Comparison, group: Group, run: Run) -> str:
    state = "complete" if run.complete else f"incomplete, {phases_done(run)} of {group.phases} phases"
    return f"{group.name} on {comparison.protocol}, seed {run.seed}: {state}"


def _by_phase(sheet: Sheet) -> list[tuple[int, list[samples.Exemplar]]]:
    ordered = sorted(sheet.exemplars, key=lambda exemplar: exemplar.phase)
    return [(phase, list(same)) for phase, same in groupby(ordered, key=lambda exemplar: exemplar.phase)]
