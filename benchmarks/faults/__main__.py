"""Kill runs, fill disks, damage files, starve memory and break numbers; whatever happens, nothing may be lost.

    python -m benchmarks.faults                    # the whole campaign; leaves a record
    python -m benchmarks.faults --short            # under two minutes: some of each
    python -m benchmarks.faults --page             # tries nothing; fills the table in docs/faults.md

Every fault meets a real run of ``mnemo``, a process of its own, which then goes on with ``--resume``. It has survived
if that ends as an undisturbed run does, and is refused if one line says what is broken and in which file. Everything
else is a loss, and the exit code is 1.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: its threads would not survive a fork

import argparse
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

from mnemo import machine

from . import command, disk, plan, record

RESULTS = Path(__file__).parent.parent / "results" / "faults" / "runs" / "campaign.json"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    if arguments.page:
        record.write_page(record.load(arguments.record or RESULTS))
        return 0
    mounts = disk.own_mounts()
    command.prepare()
    turns = plan.SHORT if arguments.short else plan.WHOLE
    turns = {kind: turns[kind] for kind in (arguments.only or turns)}
    found = record.Found(arguments.seed, arguments.short, mounts)
    with tempfile.TemporaryDirectory(prefix="mnemo-faults-") as scratch:
        campaign = plan.begin(turns, Path(scratch), arguments.seed, mounts)
        with get_context("fork").Pool(arguments.jobs) as pool:
            for trials in pool.imap_unordered(campaign.trials, plan.batches(turns)):
                for trial in trials:
                    found.add(trial)
                    print(f"{trial.kind}: {trial.what} ({trial.where}): {trial.outcome} {trial.line}", flush=True)
    print(found.table())
    if path := arguments.record or (None if arguments.short or arguments.only else RESULTS):
        found.save(path)
    return 1 if found.lost else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="some of each, without a record")
    parser.add_argument("--only", nargs="+", choices=plan.WHOLE, metavar="KIND", help=f"of {', '.join(plan.WHOLE)}")
    parser.add_argument("--seed", type=int, default=1993, help="of moments, places and choices (default: 1993)")
    parser.add_argument("--jobs", type=int, default=machine.cores(), help="trials at once (default: one for each core)")
    parser.add_argument("--record", type=Path, help=f"file of the record (default: {RESULTS.name} among the results)")
    parser.add_argument("--page", action="store_true", help="only write the table of the page from the record")
    return parser


if __name__ == "__main__":
    sys.exit(main())
