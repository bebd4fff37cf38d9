"""mnemo's learner and Avalanche with MnemonicsPlugin on the same phases, and the example's figures; recorded as JSON.

    python -m benchmarks.avalanche_parity --data-dir data     # about twenty minutes on one core; needs CIFAR-100
    python -m benchmarks.avalanche_parity --only example      # a part: parity or example
    python -m benchmarks.avalanche_parity --page              # writes the tables of docs/avalanche.md alone

Needs Avalanche (make test-avalanche installs it). Every run is a process of its own, one after the other.
"""

import argparse
import datetime
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mnemo import machine

from ..speed import record
from . import example, page
from .apart import processes
from .settings import QUICK, Settings

SEEDS = (1993, 1, 2, 3, 4)
PARTS = ("parity", "example")


def main() -> None:
    """Measure, record, and write the page."""
    options = _options()
    torch.set_num_threads(1)
    for part in [] if options.page else options.only.split(","):
        about = _about(options, part)
        for found in {"parity": _parity, "example": _example}[part](options):
            record.save(about | found, options.out / f"{part}.json")
    if not options.quick:
        page.write(options.out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="where CIFAR-100 is; see docs/data.md")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)), help="of the parity, with commas between")
    parser.add_argument("--out", type=Path, default=page.RECORDS, help="where records go")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    parser.add_argument("--quick", action="store_true", help="tiny: shows that everything runs, and measures nothing")
    options = parser.parse_args()
    if not set(options.only.split(",")) <= set(PARTS):
        parser.error(f"--only {options.only}: choose among {', '.join(PARTS)}")
    return options


def _about(options: argparse.Namespace, part: str) -> dict[str, Any]:
    """Where a record comes from; folders of this machine are left out."""
    words = ["python", "-m", "benchmarks.avalanche_parity", "--only", part]
    words += ["--seeds", options.seeds] if part == "parity" else []
    return {
        "command": shlex.join(words + ["--quick"] * options.quick),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": record.git("rev-parse", "HEAD"),
        "changed_since_commit": bool(record.git("status", "--porcelain", "--", "mnemo", "strategies", "examples")),
        "versions": record.versions(),
        "hardware": machine.hardware(torch.device("cpu")),
        "quick": options.quick,
    }


def _parity(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What there is to record, again after every seed."""
    settings, seeds, runs = QUICK if options.quick else Settings(), [], []
    with processes() as run:
        for seed in map(int, options.seeds.split(",")):
            for side in page.SIDES:
                runs.append({"side": side, "seed": seed, **run(settings, side, seed, options.data_dir)})
                print(f"{side:10} seed {seed:5} average accuracy {runs[-1]['average_accuracy']:5.1f} %", flush=True)
            seeds.append(seed)
            yield {"settings": asdict(settings), "seeds": seeds, "runs": runs}


def _example(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    yield example.runs(options.quick)


if __name__ == "__main__":
    main()
