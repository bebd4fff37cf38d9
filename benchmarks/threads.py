"""How far the number of threads moves results: the same runs on one thread of the processor and on two.

    python -m benchmarks.threads digits --strategies replay,lucir --seeds 1993,1,2
    python -m benchmarks.threads digits --table    # writes the table alone

Sums are added up in another order, which changes their last digits, and training makes that visible. Runs go to
runs/threads-PROTOCOL/STRATEGY-SEED-THREADS, and go on where they were interrupted. What was measured is left in
benchmarks/results/threads/PROTOCOL/measured.json: both runs' accuracies, the largest differences, and where they come
from. The table goes into docs/reproducibility.md, which states the tolerance that follows.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from mnemo import record
from mnemo.disk.files import write_text

from .suite import write_table

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "reproducibility.md"
THREADS = (1, 2)
FIGURES = ("average_incremental_accuracy", "forgetting_rate", "average_forgetting")
# threads that wait would otherwise keep a core busy, and each other waiting where another program has the core
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol")
    parser.add_argument("--strategies", default="finetune,replay,icarl,lucir")
    parser.add_argument("--seeds", default="1993,1,2")
    parser.add_argument("--table", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    path = HERE / "results" / "threads" / arguments.protocol / "measured.json"
    if not arguments.table:
        path.parent.mkdir(parents=True, exist_ok=True)
        pairs = [
            compared(arguments.protocol, strategy, int(seed))
            for strategy in arguments.strategies.split(",")
            for seed in arguments.seeds.split(",")
        ]
        write_text(path, json.dumps(measured(arguments.protocol, pairs), indent=1) + "\n")
    write_table("threads", table(json.loads(path.read_text(encoding="utf-8"))), PAGE)


def compared(protocol: str, strategy: str, seed: int) -> tuple[record.Run, record.Run]:
    """The same run on one thread and on two."""
    one, two = (run(protocol, strategy, seed, threads) for threads in THREADS)
    return one, two


def run(protocol: str, strategy: str, seed: int, threads: int) -> record.Run:
    """One run through the command line, as anyone would start it."""
    out = Path("runs") / f"threads-{protocol}" / f"{strategy}-{seed}-{threads}"
    if not (out / "run.json").exists() or not record.load(out).complete:
        command = [sys.executable, "-m", "mnemo.cli", "run", protocol, "--strategy", strategy, "--seed", str(seed)]
        command += ["--device", "cpu", "--out", str(out), "--resume", "--quiet"]
        subprocess.run(command, check=True, env={**os.environ, **PASSIVE, "OMP_NUM_THREADS": str(threads)})
        print(out, flush=True)
    return record.load(out)


def measured(protocol: str, pairs: list[tuple[record.Run, record.Run]]) -> dict[str, Any]:
    """What is recorded."""
    first = pairs[0][0]
    return {
        "command": shlex.join(["python", "-m", "benchmarks.threads", *sys.argv[1:]]),
        "protocol": protocol,
        "hardware": [run.hardware for run in pairs[0]],
        "versions": first.versions,
        "largest": {
            "accuracy of a group of classes": max(gap(*pair) for pair in pairs),
            "accuracy after a phase": max(phase_gap(*pair) for pair in pairs),
        }
        | {name: max(abs(figure(one, name) - figure(two, name)) for one, two in pairs) for name in FIGURES},
        "runs": [described(one, two) for one, two in pairs],
    }


def described(one: record.Run, two: record.Run) -> dict[str, Any]:
    """Of a pair of runs."""
    return {
        "strategy": one.strategy,
        "seed": one.seed,
        "phase_accuracy": [one.phase_accuracy, two.phase_accuracy],
        **{name: [figure(one, name), figure(two, name)] for name in FIGURES},
    }


def figure(run: record.Run, name: str) -> float:
    """One of ``FIGURES``."""
    value: float = getattr(run, name)
    return value


def gap(one: record.Run, two: record.Run) -> float:
    """The largest difference in the accuracy matrix, in points."""
    rows = zip(one.accuracy, two.accuracy, strict=True)
    pairs = [pair for ours, theirs in rows for pair in zip(ours, theirs, strict=True)]
    return max(abs(a - b) for a, b in pairs if a is not None and b is not None)


def phase_gap(one: record.Run, two: record.Run) -> float:
    """The largest difference over all seen classes after a phase, in points."""
    return max(abs(a - b) for a, b in zip(one.phase_accuracy, two.phase_accuracy, strict=True))


def table(found: dict[str, Any]) -> str:
    """A Markdown table of the average accuracies, and a line on the largest differences."""
    lines = ["| strategy | seed | one thread | two threads | difference |", "|---|---|---|---|---|"]
    for each in found["runs"]:
        one, two = each["average_incremental_accuracy"]
        lines.append(f"| {each['strategy']} | {each['seed']} | {one:.2f} | {two:.2f} | {two - one:+.2f} |")
    largest = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in found["largest"].items())
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return "\n".join([*lines, "", f"Largest difference in points: {largest}. {found['hardware'][0]}; {versions}."])


if __name__ == "__main__":
    main()
