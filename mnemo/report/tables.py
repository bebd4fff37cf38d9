"""The tables of a report: rows of formatted figures, made from groups of runs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ..record import CLASSIFIERS, Accuracies, Run
from .summary import Comparison, Estimate, Group, Settings, estimate
from .svg import number

NOTHING = Markup('<span class="nothing">\N{EN DASH}</span>')
GUARD = "accept"  # the stage that tries optimised exemplars against what they were
TOTAL = "total"  # a stage of this name holds all others
Seconds = Mapping[str, float]


@dataclass(frozen=True)
class Scores:
    """The accuracies of one classifier: formatted means and spreads."""

    classifier: str
    average: Markup
    first: Markup
    last: Markup
    forgetting_rate: Markup
    average_forgetting: Markup
    performance_drop: Markup
    base: Markup
    novel: Markup
    harmonic_mean: Markup


@dataclass(frozen=True)
class Row:
    """A group's part of the results: one line for each classifier, and what they have in common."""

    name: str
    series: int
    settings: Settings
    n: int
    drawn: bool
    phases_done: str
    scores: list[Scores]
    per_class: Markup
    count: Markup
    kib: Markup
    moved: Markup
    time: Markup
    memory: Markup


@dataclass(frozen=True)
class Stage:
    """Time of one stage in each group: formatted, and in % of the longest stage of all, for a bar."""

    name: str
    cells: list[tuple[Markup, float]]


@dataclass(frozen=True)
class Trial:
    """How optimised exemplars did in a phase's rehearsal: formatted accuracies in %, and whether they were kept."""

    phase: int
    chosen: Markup
    optimised: Markup
    kept: str


def results(comparison: Comparison) -> list[Row]:
    """The table of results: a row for each group."""
    return [_row(group) for group in comparison.groups]


def stages(comparison: Comparison) -> list[Stage]:
    """The table of times of a comparison's groups; see :func:`times`."""
    return times([[run.seconds for run in group.runs] for group in comparison.groups])


def times(groups: Sequence[Sequence[Seconds]]) -> list[Stage]:
    """The table of times: a row for each stage, the longest first, then their total; empty without times."""
    names = dict.fromkeys(name for runs in groups for seconds in runs for name in seconds if name != TOTAL)
    found = {name: [estimate(seconds.get(name) for seconds in runs) for runs in groups] for name in names}
    longest = max((each.mean for row in found.values() for each in row if each), default=0.0)
    order = sorted(found, key=lambda name: -sum(each.mean for each in found[name] if each))
    rows = [Stage(name, [_time_cell(each, longest) for each in found[name]]) for name in order]
    totals = [(duration(estimate(map(total_seconds, runs))), 0.0) for runs in groups]
    return [*rows, Stage(TOTAL, totals)] if rows else []


def total_seconds(seconds: Seconds) -> float | None:
    """Of all stages; None without times."""
    return seconds.get(TOTAL, sum(seconds.values())) if seconds else None


def trials(comparison: Comparison) -> list[tuple[str, list[Trial]]]:
    """For each group whose runs had a guard: its name, and a row for each phase in which exemplars were tried."""
    found = [(group.name, _trials(group)) for group in comparison.groups]
    return [(name, rows) for name, rows in found if rows]


def formatted(each: Estimate | None, digits: int = 1) -> Markup:
    """``71.2 ± 0.4``; a dash for None."""
    if each is None:
        return NOTHING
    spread = "" if each.spread is None else _spread(number(each.spread, digits))
    return Markup("{}{}").format(number(each.mean, digits), spread)


def duration(each: Estimate | None) -> Markup:
    """Seconds in a unit that suits the mean: ``48 s``, ``3.4 ± 0.2 min``, ``7.1 h``."""
    if each is None:
        return NOTHING
    unit, size = ("s", 1) if each.mean < 120 else ("min", 60) if each.mean < 7200 else ("h", 3600)
    scaled = Estimate(each.mean / size, None if each.spread is None else each.spread / size, each.n)
    return Markup("{}\N{NO-BREAK SPACE}{}").format(formatted(scaled, 0 if unit == "s" and each.mean >= 10 else 1), unit)


def mebibytes(each: Estimate | None) -> Markup:
    """Bytes in MiB, or in GiB from 1 GiB on; a dash for None and for 0, which stands for not measured."""
    if each is None or each.mean <= 0:
        return NOTHING
    unit, size = ("MiB", 2**20) if each.mean < 2**30 else ("GiB", 2**30)
    scaled = Estimate(each.mean / size, each.spread / size if each.spread else None, each.n)
    return Markup("{}\N{NO-BREAK SPACE}{}").format(formatted(scaled, 0 if unit == "MiB" else 2), unit)


def whole(each: Estimate | None) -> Markup:
    """A count with its thousands set apart: ``2 000``; its spread where runs differ."""
    if each is None:
        return NOTHING
    text = f"{each.mean:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return Markup("{}{}").format(text, _spread(f"{each.spread:,.0f}") if each.spread else "")


def _spread(text: str) -> Markup:
    return Markup('<span class="spread">\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{}</span>').format(text)


def _row(group: Group) -> Row:
    return Row(
        name=group.name,
        series=group.series,
        settings=group.settings,
        n=len(group.runs),
        drawn=group.done > 0,
        phases_done="" if group.complete else f"after {group.done} of {group.phases} phases",
        scores=[_scores(CLASSIFIERS[each], group.accuracies(each)) for each in group.classifiers],
        per_class=whole(_exemplars(group, lambda run: run.exemplars.per_class)),
        count=whole(_exemplars(group, lambda run: run.exemplars.count)),
        kib=_kibibytes(_exemplars(group, lambda run: run.exemplars.bytes / 1024)),
        moved=formatted(_exemplars(group, lambda run: run.exemplars.rms_displacement), 2),
        time=duration(group.over_runs(lambda run: total_seconds(run.seconds))),
        memory=mebibytes(group.over_runs(lambda run: run.peak_memory_bytes)),
    )


def _kibibytes(each: Estimate | None) -> Markup:
    """A small memory with a tenth: budgets in codecs differ by less than 1 KiB there."""
    return formatted(each) if each and each.mean < 100 else whole(each)


def _scores(classifier: str, runs: Sequence[Accuracies]) -> Scores:
    return Scores(
        classifier,
        formatted(estimate(run.average_incremental_accuracy for run in runs)),
        first=formatted(estimate(run.phase_accuracy[0] if run.phase_accuracy else None for run in runs)),
        last=_last(run.phase_accuracy for run in runs),
        forgetting_rate=formatted(estimate(run.forgetting_rate for run in runs)),
        average_forgetting=formatted(estimate(run.average_forgetting for run in runs)),
        performance_drop=formatted(estimate(run.performance_drop for run in runs)),
        base=_last(run.base_accuracy for run in runs),
        novel=_last(run.novel_accuracy for run in runs),
        harmonic_mean=_last(run.harmonic_mean for run in runs),
    )


def _last(curves: Iterable[Sequence[float | None]]) -> Markup:
    return formatted(estimate(curve[-1] if curve else None for curve in curves))


def _exemplars(group: Group, value: Callable[[Run], float | None]) -> Estimate | None:
    return group.over_runs(lambda run: value(run) if run.exemplars.count else None)


def _trials(group: Group) -> list[Trial]:
    return [trial for phase in range(group.phases) if (trial := _trial(group, phase))]


def _trial(group: Group, phase: int) -> Trial | None:
    def figure(name: str) -> Estimate | None:
        return group.over_runs(lambda run: _outcome(run, phase).get(name))

    accepted = figure("accepted")
    if accepted is None:
        return None
    yes = round(accepted.mean * accepted.n)
    kept = ("yes" if yes else "no") if accepted.n == 1 else f"{yes} of {accepted.n}"
    return Trial(phase, formatted(figure("chosen")), formatted(figure("optimised")), kept)


def _outcome(run: Run, phase: int) -> dict[str, float]:
    """What the guard found; empty where it was not at work."""
    return run.outcomes[phase].get(GUARD, {}) if phase < len(run.outcomes) else {}


def _time_cell(each: Estimate | None, longest: float) -> tuple[Markup, float]:
    return duration(each), 100 * each.mean / longest if each and longest > 0 else 0.0
