"""The report on few-shot runs: one or several side by side, made from run.json and the accuracies beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from ..disk.files import replacing, write_text
from ..fewshot.record import FewShotRun
from . import fewshot_charts, fewshot_tasks, tables
from .charts import Panel
from .fewshot_groups import Contest, MethodGroup, gather, paired
from .page import listed, render
from .samples import grouped
from .summary import Estimate, Settings
from .svg import number, tick


@dataclass(frozen=True)
class Row:
    """A group's part of the results, formatted.

    Attributes:
        spread: what stands after ± in its accuracy.
        each_seed: the accuracies of single seeds with their intervals, where there are several.
        gaps: differences in points, each with what it is against.
    """

    name: str
    series: int
    settings: Settings
    kind: str
    seeds: str
    accuracy: Markup
    spread: str
    each_seed: list[str]
    gaps: list[tuple[Markup, str]]
    tasks: str
    unlabelled: str
    weights: str
    time: Markup
    memory: Markup


@dataclass(frozen=True)
class Section:
    """What the page shows of one contest; ``single`` is its only row, where there is one."""

    contest: Contest
    tasks: str
    seeds: str
    notes: list[str]
    single: Row | None
    chance: str
    bars: Markup | None
    validation: Markup | None
    curves: list[Panel]
    results: list[Row]
    stages: list[tables.Stage]
    names: list[str]


def write(runs: Sequence[FewShotRun], out: Path, places: Sequence[Path] = ()) -> Path:
    """Write ``out``/report.html and ``out``/accuracy.png; see :func:`mnemo.report.write`."""
    from . import fewshot_figures  # here, because matplotlib takes its time to import

    contests = gather(runs, places)
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "accuracy.png") as part:
        fewshot_figures.accuracy(contests, part)
    page = out / "report.html"
    write_text(page, html(contests))
    return page


def html(contests: Sequence[Contest]) -> str:
    """The page. It asks for nothing from elsewhere, and holds no script."""
    return render(
        "fewshot.html",
        title=_title(contests),
        complete=all(run.complete for contest in contests for run in contest.runs),
        sections=[_section(contest) for contest in contests],
        sheets=fewshot_tasks.sheets(contests),
        provenance=_provenance(contests),
        mark=fewshot_tasks.mark,
    )


def _title(contests: Sequence[Contest]) -> str:
    names = list(dict.fromkeys(run.method for contest in contests for run in contest.runs))
    what = listed(names) if len(names) <= 6 else f"{len(names)} few-shot methods"
    where = [contest.name for contest in contests]
    return f"{what} on {where[0] if len(where) == 1 else listed(dict.fromkeys(each.data for each in contests))}"


def _section(contest: Contest) -> Section:
    results = [_row(contest, group, accuracy) for group, accuracy in contest.ranked]
    groups = [group for group, _ in contest.ranked]
    seeds = sorted({run.seed for run in contest.runs})
    return Section(
        contest=contest,
        tasks=_tasks(contest),
        seeds=("Seeds " if len(seeds) > 1 else "Seed ") + listed(seeds),
        notes=_notes(contest),
        single=results[0] if len(results) == 1 else None,
        chance=tick(round(contest.chance, 1)),
        bars=fewshot_charts.bars(contest),
        validation=fewshot_charts.validation(contest),
        curves=fewshot_charts.curves(contest),
        results=results,
        stages=tables.times([[run.seconds for run in group.runs] for group in groups]),
        names=[group.name for group in groups],
    )


def _tasks(contest: Contest) -> str:
    """``300 test tasks, 15 queries a class``, as far as it is the same for all."""
    queries, episodes = ({getattr(run, name) for run in contest.runs} for name in ("queries", "episodes"))
    kind = f"{contest.evaluated_on} {'task' if episodes == {1} else 'tasks'}"
    tasks = f"{listed(grouped(each) for each in sorted(episodes))} {kind}"
    return f"{tasks}, {listed(sorted(queries))} {'query' if queries == {1} else 'queries'} a class"


def _notes(contest: Contest) -> list[str]:
    notes = [
        f"{group.name} with seed {run.seed} has not been evaluated and is left out of figures."
        for group in contest.groups
        for run in group.left_out
    ]
    if contest.evaluated_on == "validation":
        notes.append("Accuracies are on validation classes, by which settings may be chosen, not on test classes.")
    if len({run.transductive for run in contest.runs}) > 1:
        notes.append(
            "Inductive and transductive numbers stand side by side: a transductive method sees all queries of a task"
            " at once, and solves an easier task."
        )
    return notes


def _row(contest: Contest, group: MethodGroup, accuracy: Estimate) -> Row:
    run, several = group.first, len(group.members) > 1
    return Row(
        name=group.name,
        series=group.series,
        settings=group.settings,
        kind=group.kind,
        seeds=listed(sorted(each.seed for each in group.runs)),
        accuracy=tables.formatted(accuracy, 2),
        spread=_spread(group),
        each_seed=[_of_seed(each) for each in group.runs] if several else [],
        gaps=_gaps(contest, group),
        tasks=grouped(run.episodes),
        unlabelled=_unlabelled(run),
        weights=f"{grouped(run.meta_learned)} of {grouped(run.parameters)}" if run.parameters else "",
        time=tables.duration(group.over_runs(lambda each: tables.total_seconds(each.seconds))),
        memory=tables.mebibytes(group.over_runs(lambda each: each.peak_memory_bytes)),
    )


def _spread(group: MethodGroup) -> str:
    if len(group.members) > 1:
        return f"sample standard deviation over {len(group.members)} seeds"
    return f"95 % interval over {grouped(group.first.episodes)} tasks"


def _of_seed(run: FewShotRun) -> str:
    interval = "" if run.interval is None else f" ± {number(run.interval, 2)}"
    return f"seed {run.seed}: {number(run.accuracy or 0.0, 2)}{interval}"


def _gaps(contest: Contest, group: MethodGroup) -> list[tuple[Markup, str]]:
    """What was computed here against the contest's baseline; what the records say, where that is something else."""
    base = contest.baseline
    found = None if group is base else paired(group, base)
    gaps = [] if found is None else [(signed(found), f"against {base.name}")]
    for run in group.runs:
        recorded = run.paired
        if recorded and not (found and abs(recorded.difference - found.mean) < 1e-4):
            seed = f", seed {run.seed}" if len(group.members) > 1 else ""
            each = Estimate(recorded.difference, recorded.interval)
            gaps.append((signed(each), f"against {recorded.baseline}, as recorded{seed}"))
    return gaps


def signed(each: Estimate) -> Markup:
    """``+1.20 ± 0.40``."""
    sign = "+" if round(each.mean, 2) > 0 else ""
    return Markup("{}{}").format(sign, tables.formatted(each, 2))


def _unlabelled(run: FewShotRun) -> str:
    """``10 a class, 2 distractors``; empty where there are no unlabelled images."""
    if not run.unlabelled:
        return ""
    distractors = f", {run.distractors} distractor{'s' * (run.distractors != 1)}" if run.distractors else ""
    return f"{run.unlabelled} a class{distractors}"


def _provenance(contests: Sequence[Contest]) -> list[tuple[str, FewShotRun]]:
    """Every run with a line that names it."""
    return [(_run_name(each, group, run), run) for each in contests for group in each.groups for run in _all(group)]


def _all(group: MethodGroup) -> list[FewShotRun]:
    return sorted((*group.runs, *group.left_out), key=lambda run: run.seed)


def _run_name(contest: Contest, group: MethodGroup, run: FewShotRun) -> str:
    return f"{group.name} on {contest.name}, seed {run.seed}: {'complete' if run.complete else 'incomplete'}"
