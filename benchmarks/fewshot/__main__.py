"""Run few-shot methods on the same tasks, with the same backbone, and write a table of them.

    python -m benchmarks.fewshot FILE                          # runs what has no record yet, then writes the table
    python -m benchmarks.fewshot FILE --only A,B --shots 1     # some of it
    python -m benchmarks.fewshot FILE --table --page PAGE      # runs nothing; fills the table's place in a page

FILE is a TOML file; see benchmarks.fewshot.plan. Broken off, the same command goes on where it was.
"""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mnemo import machine
from mnemo.disk.files import InputError, write_text
from mnemo.fewshot import record
from mnemo.names import refuse_unknown

from ..suite import write_table
from . import figure
from .plan import Cell, Comparison, cells, load
from .results import Results
from .table import markdown
from .work import Places, execute

RESULTS = Path(__file__).parent.parent / "results" / "fewshot"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    try:
        return _main(_parser().parse_args(argv))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fewshot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--data-dir", type=Path, help="folder that has the data set; see docs/data.md")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at once (default: one for each core)")
    parser.add_argument("--only", type=_items, metavar="ROW,ROW", help="run these rows alone")
    parser.add_argument("--shots", type=_items, metavar="N,N", help="run these numbers of shots alone")
    parser.add_argument("--seeds", type=_items, metavar="N,N", help="run these seeds alone")
    parser.add_argument("--out", type=Path, help="folder for what is under way (default: runs/fewshot/NAME)")
    parser.add_argument("--results", type=Path, help="folder for records (default: benchmarks/results/fewshot/NAME)")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--figure", type=Path, metavar="PNG", help="draw the rows beside the papers' there")
    parser.add_argument("--page", type=Path, help="a page whose place for this table is filled")
    return parser


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",")]


def _main(arguments: argparse.Namespace) -> int:
    plan = load(arguments.file)
    out = arguments.out or Path("runs") / "fewshot" / plan.name
    places = Places(out, arguments.results or RESULTS / plan.name, arguments.data_dir, arguments.device)
    failed = [] if arguments.table else _run(arguments, plan, places)
    results = Results(plan, places)
    text = markdown(results)
    places.results.mkdir(parents=True, exist_ok=True)
    write_text(places.results / "table.md", text)
    if arguments.page:
        write_table(plan.name, text, arguments.page)
    else:
        print(text)
    if arguments.figure:
        figure.draw(results, arguments.figure)
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0


def _run(arguments: argparse.Namespace, plan: Comparison, places: Places) -> list[str]:
    """Run what is left; returns a line for each failure."""
    chosen = _chosen(arguments, plan)
    todo = [cell for cell in chosen if not places.done(cell)]
    jobs = arguments.jobs or machine.runs_at_once("cpu", len(todo) or 1)
    failed, console = [], Console(width=None if sys.stdout.isatty() else 160)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("runs", total=len(chosen), completed=len(chosen) - len(todo))
        start = time.monotonic()
        for cell, complaint in execute(plan, places, todo, jobs):
            progress.advance(task)
            line = complaint or _result(places, cell)
            console.print(f"{cell.name}: {line}  [dim]{time.monotonic() - start:.0f} s[/]", highlight=False)
            failed += [f"{cell.name}: {complaint}"] if complaint else []
    return failed


def _result(places: Places, cell: Cell) -> str:
    run = record.load(places.record(cell))
    return f"accuracy {run.accuracy:.2f} ± {run.interval:.2f} %"


def _chosen(arguments: argparse.Namespace, plan: Comparison) -> list[Cell]:
    grid = cells(plan)
    wanted = {"row": arguments.only, "shots": arguments.shots, "seed": arguments.seeds}
    keys = [{"row": cell.row.name, "shots": str(cell.shot), "seed": str(cell.seed)} for cell in grid]
    for what, given in wanted.items():
        refuse_unknown(given or [], {key[what] for key in keys}, what)
    return [
        cell
        for cell, key in zip(grid, keys, strict=True)
        if all(key[what] in given for what, given in wanted.items() if given)
    ]


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)  # else runs that are under way would outlive this process
    sys.exit(main())
