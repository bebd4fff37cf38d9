"""The tables of docs/avalanche.md, written from the records and from nothing else."""

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..suite import write_table

ROOT = Path(__file__).parent.parent.parent
RECORDS = ROOT / "benchmarks" / "results" / "avalanche" / "runs"
PAGE = ROOT / "docs" / "avalanche.md"
SIDES = {
    "mnemo": "mnemo's learner, `replay`, herded exemplars",
    "herding": "Naive + MnemonicsPlugin, herded exemplars",
    "mnemonics": "Naive + MnemonicsPlugin, the same optimised",
    "avalanche": "Naive + Avalanche's ClassBalancedBuffer",
}
MEASURES = ("average_accuracy", "last_accuracy", "forgetting_rate", "average_forgetting")


def write(records: Path = RECORDS) -> None:
    """Write the tables of the records that there are."""
    for part, table in (("parity", parity), ("example", example)):
        path = records / f"{part}.json"
        if path.exists():
            write_table(f"avalanche-{part}", table(json.loads(path.read_text(encoding="utf-8"))), PAGE)


def parity(record: dict[str, Any]) -> str:
    """Both sides, their difference, and what else was compared."""
    lines = [
        "| | average accuracy, % | last accuracy, % | forgetting rate | average forgetting |",
        "|---|---|---|---|---|",
    ]
    for side, label in SIDES.items():
        lines.append(_line(label, [_spread(_values(record, side, name)) for name in MEASURES]))
        if side == "herding":
            cells = [_interval(_differences(record, name)) for name in MEASURES]
            lines.append(_line("its difference from mnemo's learner, 95 % interval", cells))
    return "\n".join([*lines, "", *_beside(record), "", _provenance(record)])


def _line(label: str, cells: Sequence[str]) -> str:
    return f"| {label} | {' | '.join(cells)} |"


def _runs(record: dict[str, Any], side: str) -> list[dict[str, Any]]:
    return [run for run in record["runs"] if run["side"] == side]


def _values(record: dict[str, Any], side: str, name: str) -> list[float]:
    return [run[name] for run in _runs(record, side)]


def _differences(record: dict[str, Any], name: str) -> list[float]:
    """Avalanche less mnemo, seed by seed."""
    pairs = zip(_values(record, "herding", name), _values(record, "mnemo", name), strict=True)
    return [theirs - ours for theirs, ours in pairs]


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def _interval(differences: Sequence[float]) -> str:
    """Such as ``+0.4 (-1.2 to +2.0)``: the mean, and Student's interval around it."""
    mean, half = statistics.mean(differences), half_width(differences)
    return f"{_signed(mean)} ({_signed(mean - half)} to {_signed(mean + half)})"


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}"  # no minus before a zero


def half_width(values: Sequence[float]) -> float:
    """Half of the 95 % interval of a mean, by Student's t with n - 1 degrees of freedom."""
    from scipy import stats  # here, since it takes a second

    quantile = float(stats.t.ppf(0.975, len(values) - 1))
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


def _beside(record: dict[str, Any]) -> Iterator[str]:
    same = [share for run in _runs(record, "mnemo") for share in run["same_exemplars_given_the_same_network"]]
    yield (
        f"Given mnemo's networks, the buffer chose the same exemplars in the same order in {same.count(1.0)} of "
        f"{len(same)} phases. Networks that were trained apart had {100 * statistics.mean(_shared(record)):.0f} % of "
        f"their last exemplars in common. {_moves(record)}"
    )
    yield ""
    yield f"{_forgetting(record)} {_memory(record)}"


def _shared(record: dict[str, Any]) -> list[float]:
    """For each seed the share of the learner's last exemplars that the plugin has too."""
    rows = [[set(run["exemplar_rows"]) for run in _runs(record, side)] for side in ("mnemo", "herding")]
    return [len(ours & theirs) / len(ours) for ours, theirs in zip(*rows, strict=True)]


def _moves(record: dict[str, Any]) -> str:
    runs = _runs(record, "mnemonics")
    moved, sizes = [run["moved"] for run in runs], sorted({run["bytes"] for run in runs})
    controls = sorted({run["bytes"] for run in _runs(record, "herding")})
    return (
        f"Optimised ones moved by {statistics.mean(moved):.1f} grey levels (RMS; {min(moved):.1f} to {max(moved):.1f}) "
        f"and took {_listed(sizes)} bytes, the real ones {_listed(controls)}."
    )


def _listed(numbers: Sequence[int]) -> str:
    return " or ".join(f"{number:,}" for number in numbers)


def _forgetting(record: dict[str, Any]) -> str:
    runs = [run for side in SIDES if side != "mnemo" for run in _runs(record, side)]
    first = [run["avalanche_forgetting"]["first"] - run["forgetting_rate"] for run in runs]
    stream = [run["avalanche_forgetting"]["stream"] - run["average_forgetting"] for run in runs]
    apart = max(map(abs, stream))
    return (
        f"Avalanche's forgetting of the first experience was mnemo's forgetting rate in {_alike(first)} runs, and its "
        f"stream forgetting mnemo's average forgetting in {_alike(stream)}"
        f"{f'; they were at most {apart:.1f} points apart' if apart >= 1e-3 else ''}."
    )


def _alike(differences: Sequence[float]) -> str:
    return f"{sum(abs(difference) < 1e-3 for difference in differences)} of {len(differences)}"


def _memory(record: dict[str, Any]) -> str:
    parts = []
    for side, name in (("herding", "herded"), ("mnemonics", "optimised"), ("avalanche", "Avalanche's own buffer")):
        peaks = [statistics.mean(each) for each in zip(*(run["peak_mib"] for run in _runs(record, side)), strict=True)]
        parts.append(f"{', '.join(f'{peak:.0f}' for peak in peaks)} MiB ({name})")
    return f"Until the end of each experience the process had held at most {'; '.join(parts)}."


def example(record: dict[str, Any]) -> str:
    """The example's table."""
    lines = [
        "| exemplars | last accuracy, % | average forgetting, points | moved by, grey levels |",
        "|---|---|---|---|",
    ]
    for name in dict.fromkeys(run["exemplars"] for run in record["runs"]):
        runs = [run for run in record["runs"] if run["exemplars"] == name]
        moved = [run["moved"] for run in runs if run["moved"] is not None]
        cells = [f"{statistics.mean(run[key] for run in runs):.1f}" for key in ("last_accuracy", "average_forgetting")]
        lines.append(_line(name, [*cells, f"{statistics.mean(moved):.2f}" if moved else "-"]))
    return "\n".join([*lines, "", _provenance(record)])


def _provenance(record: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    seeds = ", ".join(map(str, record["seeds"]))
    changed = "+" if record["changed_since_commit"] else ""
    return (
        f"Seeds {seeds}; `{record['command']}`, commit {record['commit'][:7]}{changed}, {record['date'][:10]}, "
        f"{record['hardware']}; {versions}."
    )
