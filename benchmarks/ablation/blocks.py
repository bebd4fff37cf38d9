"""The figures of a table: a block for each budget, a line for each method."""

import statistics
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mnemo.record import Run

from .plan import Ablation, Row
from .results import Found, by_seed, bytes_a_class, classes

SeedsOf = Callable[[Row], Sequence[int]]
NOT_COMPRESSION = {"train", "correct_bias", "fine_tune", "evaluate"}
"""Stages; all others make exemplars."""
NOT_YET = "not yet measured"
HEAD = [
    "method",
    "exemplars a class",
    "bytes a class",
    "average accuracy",
    "nearest mean",
    "forgetting rate",
    "difference",
    "compress s a phase",
    "total s",
    "peak MiB",
    "RMS displacement",
]
NEAREST_MEAN = HEAD.index("nearest mean")


@dataclass
class Block:
    """A budget's part of a table."""

    title: str
    head: list[str]
    lines: list[list[str]]


def blocks(plan: Ablation, found: Found, seeds_of: SeedsOf) -> list[Block]:
    """A block for each budget of rows that have seeds at all."""
    runs = [
        run for row in plan.rows for budget in plan.all_budgets for run in _runs(plan, found, row, budget, seeds_of)
    ]
    nearest = any(_nearest_mean(run) is not None for run in runs)
    result = []
    for budget in plan.all_budgets:
        rows = [row for row in plan.rows if budget in plan.budgets_of(row) and seeds_of(row)]
        lines = [_line(plan, found, row, budget, seeds_of) for row in rows]
        title = f"{budget} raw image{'s' if budget > 1 else ''} a class"
        result.append(Block(title, _without(HEAD, nearest), [_without(line, nearest) for line in lines]))
    return [block for block in result if block.lines]


def _without(line: list[str], nearest_mean: bool) -> list[str]:
    return line if nearest_mean else line[:NEAREST_MEAN] + line[NEAREST_MEAN + 1 :]


def _runs(plan: Ablation, found: Found, row: Row, budget: int, seeds_of: SeedsOf) -> list[Run]:
    return list(by_seed(found, row, budget, seeds_of(row)).values()) if budget in plan.budgets_of(row) else []


def _line(plan: Ablation, found: Found, row: Row, budget: int, seeds_of: SeedsOf) -> list[str]:
    runs = _runs(plan, found, row, budget, seeds_of)
    if not runs:
        return [row.title, "", "", NOT_YET, *[""] * (len(HEAD) - 4)]
    control = next(other for other in plan.rows if other.name == plan.control)
    ours, theirs = (by_seed(found, each, budget, seeds_of(row)) for each in (row, control))
    return [
        row.title,
        _mean((run.exemplars.count / classes(run) for run in runs), ",.4g"),
        _mean((bytes_a_class(run) for run in runs), ",.0f"),
        spread(run.average_incremental_accuracy for run in runs),
        spread(_nearest_mean(run) for run in runs),
        spread(run.forgetting_rate for run in runs),
        "control" if row.name == plan.control else difference(ours, theirs),
        _mean((compress_seconds(run) for run in runs), ",.1f"),
        _mean((sum(run.seconds.values()) for run in runs), ",.0f"),
        f"{max(run.peak_memory_bytes for run in runs) / 2**20:,.0f}",
        _mean((run.exemplars.rms_displacement for run in runs), ".1f"),
    ]


def compress_seconds(run: Run) -> float:
    """A phase, for making exemplars."""
    return sum(s for stage, s in run.seconds.items() if stage not in NOT_COMPRESSION) / len(run.phase_classes)


def _nearest_mean(run: Run) -> float | None:
    accuracies = run.by_classifier.get("nearest_mean")
    return accuracies.average_incremental_accuracy if accuracies else None


def _mean(values: Iterable[float | None], style: str) -> str:
    known = [value for value in values if value is not None]
    return format(statistics.mean(known), style) if known else ""


def spread(values: Iterable[float | None]) -> str:
    """Such as ``61.2 ± 0.4 (3)``."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return f"{known[0]:.1f} (1)" if known else ""
    return f"{statistics.mean(known):.1f} ± {statistics.stdev(known):.1f} ({len(known)})"


def difference(ours: dict[int, Run], theirs: dict[int, Run]) -> str:
    """The mean over seeds that both have, such as ``+1.25 (p 0.031)``."""
    pairs = [(_accuracy(ours[seed]), _accuracy(theirs[seed])) for seed in ours if seed in theirs]
    if not pairs:
        return ""
    mean, p = statistics.mean(a - b for a, b in pairs), p_value(pairs)
    return f"{mean:+.2f}" if p is None else f"{mean:+.2f} (p {p:.2g})"


def _accuracy(run: Run) -> float:
    return run.average_incremental_accuracy or 0.0


def p_value(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Of a two-sided paired t-test; None where it says nothing: for one pair, or where all differ alike."""
    if len(pairs) < 2 or len({round(a - b, 9) for a, b in pairs}) == 1:
        return None
    from scipy import stats  # here, since it takes a second

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that it loses digits where differences are nearly alike
        ours, theirs = zip(*pairs, strict=True)
        return float(stats.ttest_rel(ours, theirs).pvalue)
