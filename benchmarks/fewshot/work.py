"""Running cells: each is the command that a user would give, in a process of its own."""

import json
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from mnemo.disk.files import write_text
from mnemo.fewshot import experiment, record
from mnemo.settings import defaults

from .plan import Cell, Comparison, options


@dataclass
class Places:
    """Where things are.

    Attributes:
        out: folders of runs, and the pre-trained backbones.
        results: records that are kept.
        data_dir, device: for ``mnemo fewshot``.
    """

    out: Path
    results: Path
    data_dir: Path | None
    device: str
    running: set[subprocess.Popen[str]] = field(default_factory=set)

    def record(self, cell: Cell) -> Path:
        """The kept record of a cell."""
        return self.results / f"{cell.name}.json"

    def accuracies(self, cell: Cell) -> Path:
        """The accuracy of each of its episodes."""
        return self.results / f"{cell.name}.accuracies.json"

    def done(self, cell: Cell) -> bool:
        """Whether it has been measured."""
        return self.record(cell).exists() and self.accuracies(cell).exists()


def execute(plan: Comparison, places: Places, todo: Sequence[Cell], jobs: int) -> Iterator[tuple[Cell, str]]:
    """Run cells, some at once; yields each with "" when it is done or what went wrong.

    For each seed the first cell that has to be run is run by itself, since it may have a backbone to train.
    """
    places.out.mkdir(parents=True, exist_ok=True)
    places.results.mkdir(parents=True, exist_ok=True)
    first = list({cell.seed: cell for cell in reversed(todo)}.values())
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for some in (first, [cell for cell in todo if cell not in first]):
                futures = {pool.submit(_run, plan, places, cell): cell for cell in some}
                yield from ((futures[each], _outcome(each)) for each in as_completed(futures))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(places.running):
                process.send_signal(signal.SIGTERM)
            raise


def _outcome(future: "Future[str]") -> str:
    return future.result()


_lock = threading.Lock()


def _run(plan: Comparison, places: Places, cell: Cell) -> str:
    folder = places.out / cell.name
    line = [sys.executable, "-m", "mnemo.cli", "fewshot", *arguments(plan, places, cell, folder), "--quiet", "--resume"]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    with _lock:
        places.running.add(process)
    _, said = process.communicate()
    with _lock:
        places.running.discard(process)
    if process.returncode:
        return " ".join(said.split())[-300:] or f"exit code {process.returncode}"
    _keep(plan, places, cell, folder)
    return ""


def own_options(plan: Comparison, cell: Cell) -> list[str]:
    """What a cell is, whoever runs it wherever."""
    return options(plan, cell, defaults(experiment.recipe(cell.row.method)))


def arguments(plan: Comparison, places: Places, cell: Cell, folder: Path) -> list[str]:
    """Of ``mnemo fewshot`` for a cell."""
    where = ["--out", str(folder), "--pretrained", str(places.out / "pretrained"), "--device", places.device]
    data = [] if places.data_dir is None else ["--data-dir", str(places.data_dir)]
    return [*own_options(plan, cell), *where, *data]


def _keep(plan: Comparison, places: Places, cell: Cell, folder: Path) -> None:
    """Keep the record without pictures and folders, and the accuracies to two decimals; the record last."""
    values, digest = record.load_accuracies(folder / record.ACCURACIES)
    rounded = [round(value, 2) for value in values]
    text = json.dumps({"schema": 1, "episodes_digest": digest, "accuracies": rounded}, separators=(",", ":"))
    write_text(places.accuracies(cell), text + "\n")
    command = shlex.join(["mnemo", "fewshot", *own_options(plan, cell)])
    record.save(record.load(folder).model_copy(update={"shown": [], "command": command}), places.record(cell))
