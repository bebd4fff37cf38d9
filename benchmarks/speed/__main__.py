"""Measure how fast mnemo is, as ratios to its peers in one run.

    python -m benchmarks.speed                      # everything; leaves a record and a figure
    python -m benchmarks.speed --only training      # one section
    python -m benchmarks.speed --quick              # tiny sizes: shows that it runs, and measures nothing

Variants of a comparison have the same network and images, take turns after a warm-up, and are told by the median.
"""

import argparse
import importlib
import shlex
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mnemo import engine, machine
from mnemo.disk.files import InputError

from . import record, tables
from .options import Options
from .section import Section

SECTIONS = ("training", "augmentation", "herding", "exemplars", "starting", "roofline", "growth")
RESULTS = Path(__file__).parent.parent / "results" / "speed"
QUICK = Path("runs") / "speed-quick"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        options, sections = _options(arguments), _sections(arguments.only)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    engine.keep_freed_memory()  # as the command does; peers in this process profit from it too
    warnings.filterwarnings("ignore", module="avalanche|pytorchcv|wandb|torchmetrics")
    _measure(options, sections, _command(sys.argv[1:] if argv is None else argv), arguments.out or _out(options))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", metavar="A,B", help=f"sections: {', '.join(SECTIONS)}")
    parser.add_argument("--quick", action="store_true", help="tiny sizes and two repeats: a smoke run")
    parser.add_argument("--data-dir", type=Path, help="folder that has CIFAR-100; see docs/data.md")
    parser.add_argument("--device", default="cpu", help="auto, cpu or cuda (default: cpu)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the processor")
    parser.add_argument("--repeats", type=int, help="samples of each variant (default: 5)")
    parser.add_argument("--out", type=Path, help="folder for record and figure (default: benchmarks/results/speed)")
    return parser


def _options(arguments: argparse.Namespace) -> Options:
    repeats = (2 if arguments.quick else 5) if arguments.repeats is None else arguments.repeats
    if repeats < 1 or arguments.threads < 1:
        raise InputError("--repeats and --threads must be at least 1")
    device = machine.device(arguments.device)
    return Options(arguments.quick, arguments.data_dir, device, arguments.threads, repeats)


def _sections(only: str | None) -> list[str]:
    names = only.split(",") if only else list(SECTIONS)
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        raise InputError(f"no section {', '.join(unknown)}: choose from {', '.join(SECTIONS)}")
    return names


def _command(argv: Sequence[str]) -> str:
    """What was called, without the places of this machine."""
    plain, place = [], False
    for argument in argv:
        plain.append("DIR" if place else argument)
        place = argument in ("--data-dir", "--out")
    return shlex.join(["python", "-m", "benchmarks.speed", *plain])


def _out(options: Options) -> Path:
    return QUICK if options.quick else RESULTS


def _measure(options: Options, names: Sequence[str], command: str, out: Path) -> None:
    """Measure, show, and save after every section: a run that is broken off has lost nothing."""
    console = Console() if sys.stdout.isatty() else Console(width=120)
    found: list[Section] = []
    whole = record.begin(options, command)
    # a folder deeper than the records of whole runs, which are of another kind
    path = out / "runs" / f"{whole['date'][:19].replace(':', '')}.json"
    for name in names:
        console.print(f"measuring {name} ...", style="dim")
        found.append(_section(name, options))
        whole["sections"][name] = record.section(found[-1])
        record.save(whole, path)
        tables.show(console, found[-1])
        console.print(f"  {name}: {found[-1].seconds:.0f} s in all", style="dim")
    tables.show_bars(console, found)
    if options.quick:
        console.print("A quick run has sizes so small that its figures mean nothing.", style="bold")
    _draw(whole, out)
    console.print(f"{whole['hardware']}, load {whole['load_average'][0]:.1f}; recorded in {path}")


def _section(name: str, options: Options) -> Section:
    start = time.monotonic()
    section: Section = importlib.import_module(f"{__package__}.{name}").measure(options)
    section.seconds = time.monotonic() - start
    return section


def _draw(whole: dict[str, Any], out: Path) -> None:
    if "growth" in whole["sections"]:
        from . import figure

        figure.draw(whole["sections"]["growth"], out / "growth.png")


if __name__ == "__main__":
    raise SystemExit(main())
