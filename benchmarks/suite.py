"""Run a suite of strategies and seeds on one protocol, record the results, and write them into README as a table.

    python -m benchmarks.suite digits            # runs what has no recorded result yet, then writes the table
    python -m benchmarks.suite digits --again    # runs everything
    python -m benchmarks.suite digits --table    # writes the table alone

A suite is a TOML file in benchmarks/suites. Runs go to runs/SUITE/ROW-SEED, go on where they were interrupted, and
leave their run.json in benchmarks/results/SUITE/ROW-SEED.json. Every figure in README's tables comes from there.
"""

import argparse
import statistics
import subprocess
import sys
import tomllib
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
    write_table(arguments.suite, table(suite, results))


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
    lines = [
        "| strategy | predicts by | average accuracy | last accuracy | forgetting rate | average forgetting |",
        "|---|---|---|---|---|---|",
    ]
    runs: list[record.Run] = []
    for row in suite["rows"]:
        found = [results / f"{row['name']}-{seed}.json" for seed in suite["seeds"]]
        same = [record.load(path) for path in found if path.exists()]
        runs += same
        lines.append(_line(row.get("label", row["name"]), same))
    return "\n".join([*lines, "", *_provenance(suite, runs)])


def _line(label: str, runs: list[record.Run]) -> str:
    if not runs:
        return f"| {label} | | not yet measured | | | |"
    cells = [
        _spread([run.average_incremental_accuracy or 0 for run in runs]),
        _spread([run.phase_accuracy[-1] for run in runs]),
        _spread([run.forgetting_rate or 0 for run in runs]),
        _spread([run.average_forgetting or 0 for run in runs]),
    ]
    return f"| {label} | {runs[0].classifier.replace('_', ' ')} | {' | '.join(cells)} |"


def _spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def _provenance(suite: dict[str, Any], runs: list[record.Run]) -> list[str]:
    if not runs:
        return []
    hardware = sorted({run.hardware for run in runs})
    versions = ", ".join(f"{name} {version}" for name, version in runs[0].versions.items())
    seeds = ", ".join(map(str, suite["seeds"]))
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
