"""Run a suite of strategies and seeds on one protocol, record the results, and write a table of them.

    python -m benchmarks.suite digits            # runs what has no recorded result yet, then writes the table
    python -m benchmarks.suite digits --again    # runs everything
    python -m benchmarks.suite digits --table    # writes the table alone

A suite is a TOML file in benchmarks/suites. Runs go to runs/SUITE/ROW-SEED, go on where they were interrupted, and
leave their run.json in benchmarks/results/SUITE/ROW-SEED.json. The table goes into README, or the page that the suite
names; every figure in it comes from there.
"""

import argparse
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mnemo import record

HERE = Path(__file__).parent
README = HERE.parent / "README.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=sorted(path.stem for path in (HERE / "suites").glob("*.toml")))
    parser.add_argument("--again", action="store_true", help="run rows that have a result too")
    parser.add_argument("--table", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    suite = tomllib.loads((HERE / "suites" / f"{arguments.suite}.toml").read_text())
    results = HERE / "results" / arguments.suite
    results.mkdir(parents=True, exist_ok=True)
    for seed in suite["seeds"]:
        for row in suite["rows"]:
            result = results / f"{row['name']}-{seed}.json"
            if not arguments.table and (arguments.again or not result.exists()):
                run(arguments.suite, suite, row, seed, result)
    write_table(arguments.suite, table(suite, results), HERE.parent / suite.get("page", "README.md"))


def run(name: str, suite: dict[str, Any], row: dict[str, Any], seed: int, result: Path) -> None:
    """One run through the command line, as anyone would start it."""
    out = Path("runs") / name / f"{row['name']}-{seed}"
    command = [sys.executable, "-m", "mnemo.cli", "run", suite["protocol"], "--strategy", row["strategy"]]
    command += ["--seed", str(seed), "--out", str(out), "--resume"]
    for key, value in {**suite.get("settings", {}), **row.get("settings", {})}.items():
        command += ["--set", f"{key}={value}"]
    if "base" in row:
        command += ["--base", str(Path("runs") / name / f"{row['base']}-{seed}")]
    subprocess.run(command, check=True)
    finished = record.load(out)
    if not suite.get("pictures", True):
        finished.exemplar_samples = []
    record.save(finished, result)


def table(suite: dict[str, Any], results: Path) -> str:
    """A Markdown table: mean and sample standard deviation over the seeds that are recorded."""
    columns = FEW_SHOT if suite.get("few_shot") else COLUMNS
    names = [*columns, *(["difference"] if "control" in suite else [])]
    lines = [f"| strategy | predicts by | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    found = {row["name"]: _recorded(suite, row["name"], results) for row in suite["rows"]}
    control = found.get(suite.get("control", ""), {})
    for row in suite["rows"]:
        runs = found[row["name"]]
        cells = [_spread([value(run) or 0 for run in runs.values()]) for value in columns.values()] if runs else []
        if "control" in suite and runs:
            cells.append("control" if row["name"] == suite["control"] else _difference(runs, control))
        lines.append(_line(row.get("label", row["name"]), list(runs.values()), cells, len(names)))
    return "\n".join([*lines, "", *_provenance(suite, [run for runs in found.values() for run in runs.values()])])


def _recorded(suite: dict[str, Any], name: str, results: Path) -> dict[int, record.Run]:
    """The records of a row that there are, by seed."""
    paths = {seed: results / f"{name}-{seed}.json" for seed in suite["seeds"]}
    return {seed: record.load(path) for seed, path in paths.items() if path.exists()}


def _line(label: str, runs: list[record.Run], cells: list[str], width: int) -> str:
    if not runs:
        return f"| {label} | | not yet measured |" + " |" * (width - 1)
    return f"| {label} | {record.CLASSIFIERS[runs[0].classifier]} | {' | '.join(cells)} |"


def _difference(ours: dict[int, record.Run], theirs: dict[int, record.Run]) -> str:
    """Of the average accuracy, seed by seed."""
    both = [seed for seed in ours if seed in theirs]
    gaps = [_average(ours[seed]) - _average(theirs[seed]) for seed in both]
    if not gaps:
        return ""
    spread = f" ± {statistics.stdev(gaps):.2f}" if len(gaps) > 1 else ""
    return f"{statistics.mean(gaps):+.2f}{spread}"


def _average(run: record.Run) -> float:
    return run.average_incremental_accuracy or 0


COLUMNS: dict[str, Callable[[record.Run], float | None]] = {
    "average accuracy": _average,
    "last accuracy": lambda run: run.phase_accuracy[-1],
    "forgetting rate": lambda run: run.forgetting_rate,
    "average forgetting": lambda run: run.average_forgetting,
}
FEW_SHOT: dict[str, Callable[[record.Run], float | None]] = {
    "first": lambda run: run.phase_accuracy[0],
    "average": _average,
    "last": lambda run: run.phase_accuracy[-1],
    "base, last": lambda run: run.base_accuracy[-1],
    "novel, last": lambda run: run.novel_accuracy[-1],
    "harmonic mean": lambda run: run.harmonic_mean[-1],
    "drop": lambda run: run.performance_drop,
}
"""Columns of suites that say ``few_shot = true``."""


def _spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def _provenance(suite: dict[str, Any], runs: list[record.Run]) -> list[str]:
    if not runs:
        return []
    hardware = sorted({run.hardware for run in runs})
    versions = ", ".join(f"{name} {version}" for name, version in runs[0].versions.items())
    measured = {run.seed for run in runs}
    seeds = ", ".join(str(seed) for seed in suite["seeds"] if seed in measured)
    return [
        f"Accuracies in %, forgetting in points. {suite['about']} Seeds {seeds}; {' / '.join(hardware)}; {versions}."
    ]


def write_table(name: str, text: str, page: Path = README) -> None:
    """Put the table between its markers in a page; print it where there are none."""
    begin, end = f"<!-- results:{name} -->", f"<!-- /results:{name} -->"
    old = page.read_text(encoding="utf-8") if page.exists() else ""
    if begin not in old or end not in old:
        print(text)
        return
    before, rest = old.split(begin, 1)
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end, 1)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
