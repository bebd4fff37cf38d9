"""Run a grid of methods, budgets and seeds on one protocol, and write a table and a figure of it.

    python -m benchmarks.ablation FILE                      # runs what has no record yet, then writes both
    python -m benchmarks.ablation FILE --only A,B           # two of the rows
    python -m benchmarks.ablation FILE --table              # runs nothing

FILE is a TOML file; see benchmarks.ablation.plan. The base network of a seed is trained once, for all rows. Broken off,
the same command goes on where it was.
"""

import argparse
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from mnemo import machine
from mnemo.disk.files import InputError, write_text
from mnemo.names import refuse_unknown

from ..suite import write_table
from . import jobs, pool, results, table
from .display import Display
from .jobs import Places
from .plan import Ablation, Cell, cells, load
from .work import Done

RESULTS = Path(__file__).parent.parent / "results" / "ablation"
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    console = Console() if sys.stdout.isatty() else Console(width=200)
    try:
        return _main(arguments, console)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--data-dir", type=Path, help="folder that has the data set; see docs/data.md")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--jobs", type=int, metavar="N", help="worker processes (default: one for each core)")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--only", type=_items, metavar="ROW,ROW", help="run these rows alone")
    parser.add_argument("--budgets", type=_numbers, metavar="N,N", help="run these budgets alone")
    parser.add_argument("--seeds", type=_numbers, metavar="N,N", help="run these seeds alone")
    parser.add_argument("--out", type=Path, help="folder for what is under way (default: runs/ablation/NAME)")
    parser.add_argument("--results", type=Path, help="folder for records (default: benchmarks/results/ablation/NAME)")
    parser.add_argument(
        "--page", type=Path, help="a page whose place for this table is filled; the figure goes beside it"
    )
    return parser


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",")]


def _numbers(text: str) -> list[int]:
    return [int(item) for item in _items(text)]


def _main(arguments: argparse.Namespace, console: Console) -> int:
    plan = load(arguments.file)
    places = _places(arguments, plan)
    jobs.check(plan)
    jobs.refuse_stale(plan, places, results.find(plan, places))
    failed = [] if arguments.table else _run(arguments, plan, places, console)
    _write(plan, places, console)
    if arguments.page:
        _fill(arguments.page, plan, places)
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0


def _places(arguments: argparse.Namespace, plan: Ablation) -> Places:
    out = arguments.out or Path("runs") / "ablation" / plan.name
    return Places(out, arguments.results or RESULTS / plan.name, arguments.data_dir, arguments.device)


def _run(arguments: argparse.Namespace, plan: Ablation, places: Places, console: Console) -> list[str]:
    """Run what is left; returns a line for each failure."""
    chosen = _chosen(arguments, plan)
    todo = jobs.left(plan, places, chosen)
    processes = _processes(arguments, len(todo))
    earlier = len(chosen) - sum(job.result is not None for job in todo)
    if not todo:
        return []
    places.results.mkdir(parents=True, exist_ok=True)
    with Display(console, earlier, todo) as display, contextlib.closing(pool.execute(todo, processes)) as told:
        for job, message in told:
            if isinstance(message, Done) and job.result:
                results.note(places, job.name, processes)
            display.show(job, message)
    return display.failed


def _chosen(arguments: argparse.Namespace, plan: Ablation) -> list[Cell]:
    """The cells that the options leave."""
    grid = cells(plan)
    _refuse(arguments.only, [cell.row.name for cell in grid], "row")
    _refuse(arguments.budgets, [cell.budget for cell in grid], "budget")
    _refuse(arguments.seeds, [cell.seed for cell in grid], "seed")
    return [
        cell
        for cell in grid
        if cell.row.name in (arguments.only or [cell.row.name])
        and cell.budget in (arguments.budgets or [cell.budget])
        and cell.seed in (arguments.seeds or [cell.seed])
    ]


def _refuse(given: Sequence[Any] | None, known: Sequence[Any], what: str) -> None:
    refuse_unknown(map(str, given or []), set(map(str, known)), what)


def _processes(arguments: argparse.Namespace, count: int) -> int:
    device = machine.device(arguments.device).type
    if arguments.jobs is None:
        return max(machine.runs_at_once(device, count), 1)
    if arguments.jobs < 1:
        raise InputError("--jobs must be at least 1")
    return int(arguments.jobs)


def _write(plan: Ablation, places: Places, console: Console) -> None:
    from . import figure  # matplotlib takes a second

    found = results.find(plan, places)
    places.results.mkdir(parents=True, exist_ok=True)
    write_text(places.results / "table.md", table.markdown(plan, found, results.noted(places)))
    drawn = figure.draw(plan, found, places.results)
    table.show(console, plan, found)
    console.print(f"{places.results / 'table.md'}{' and figure.png' if drawn else ''}", style="dim", highlight=False)


def _fill(page: Path, plan: Ablation, places: Places) -> None:
    """The table, a level lower, and the figure, as they were written last."""
    text = (places.results / "table.md").read_text(encoding="utf-8")
    write_table(plan.name, text.replace("\n#", "\n##").rstrip(), page)
    if (places.results / "figure.png").exists():
        shutil.copyfile(places.results / "figure.png", page.with_name(f"{plan.name}.png"))


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"  # for workers
    signal.signal(signal.SIGTERM, _interrupt)
    raise SystemExit(main())
