"""What has been measured: the records of finished cells, and when and from which commit each came."""

import datetime
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mnemo import record
from mnemo.disk.files import write_text
from mnemo.record import Run

from ..speed.record import git
from .jobs import Places
from .plan import Ablation, Row, cells

Key = tuple[str, int, int]
"""The name of a row, a budget and a seed."""
Found = dict[Key, Run]


def find(plan: Ablation, places: Places) -> Found:
    """All records that there are. Raises InputError where one is damaged."""
    there = [(cell, places.record(cell)) for cell in cells(plan)]
    runs = {(cell.row.name, cell.budget, cell.seed): record.load(path) for cell, path in there if path.exists()}
    return {key: run for key, run in runs.items() if run.complete}


def by_seed(found: Found, row: Row, budget: int, seeds: Iterable[int]) -> dict[int, Run]:
    """Those of a row and a budget, of these seeds."""
    return {seed: found[row.name, budget, seed] for seed in seeds if (row.name, budget, seed) in found}


def bytes_a_class(run: Run) -> float:
    """What the pixels take that are stored of a class, at the end."""
    return run.exemplars.bytes / classes(run)


def classes(run: Run) -> int:
    """All that the run learnt."""
    return sum(map(len, run.phase_classes))


def note(places: Places, name: str, processes: int) -> None:
    """Note when a cell was measured, from which commit, and beside how many others."""
    measured = noted(places)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    measured[name] = {"date": now, "commit": _commit(), "processes": processes}
    write_text(_ledger(places), json.dumps(measured, indent=1, sort_keys=True) + "\n")


def noted(places: Places) -> dict[str, dict[str, Any]]:
    """What :func:`note` noted, by the cells' names."""
    path = _ledger(places)
    noted: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return noted


def _ledger(places: Places) -> Path:
    return places.results / "measured.json"


def _commit() -> str:
    """The first figures of the commit; with a + where the library has been changed since."""
    commit, changes = git("rev-parse", "--short=7", "HEAD"), git("status", "--porcelain", "--", "mnemo", "strategies")
    return f"{commit}+" if changes else commit
