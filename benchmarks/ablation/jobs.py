"""Jobs: what is left to do of the grid, base networks first."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mnemo import experiment, settings
from mnemo.disk.files import InputError
from mnemo.names import refuse_unknown
from mnemo.protocols import Protocol
from mnemo.record import Run
from mnemo.sweeps.tasks import Task

from .plan import Ablation, Cell, cells

OF_PROTOCOL = Protocol.model_fields.keys() - experiment.NO_SETTINGS


@dataclass(frozen=True)
class Places:
    """Where things are: runs under way, finished records, and data sets."""

    out: Path
    results: Path
    data_dir: Path | None = None
    device: str = "auto"

    def record(self, cell: Cell) -> Path:
        """The record of a finished cell."""
        return self.results / f"{cell.name}.json"

    def base(self, seed: int) -> Path:
        """The folder of a base network."""
        return self.out / f"base-{seed}"


@dataclass(frozen=True)
class Job:
    """Something for a worker: a cell, or the base network of a seed.

    Attributes:
        task: what is run. Its base is another job's.
        result: where the record goes; None for a base network.
    """

    task: Task
    result: Path | None = None

    @property
    def name(self) -> str:
        """Such as ``herding-b5-s1993`` or ``base-1993``."""
        return self.task.name

    @property
    def needs(self) -> str:
        """The job that has to be done before; empty if there is none."""
        return self.task.base.name if self.task.base else ""


def base_file(folder: Path) -> Path:
    """The checkpoint of a base network."""
    return folder / "checkpoints" / "base.safetensors"


def left(plan: Ablation, places: Places, chosen: Sequence[Cell]) -> list[Job]:
    """Jobs for those of the cells ``chosen`` that have no record yet, and for base networks that are not there."""
    todo = [cell for cell in chosen if not places.record(cell).exists()]
    jobs = [Job(task(plan, places, cell), places.record(cell)) for cell in todo]
    seeds = dict.fromkeys(cell.seed for cell in todo)
    bases = [_base(plan, places, seed) for seed in seeds]
    return [*(base for base in bases if not base_file(base.task.folder).exists()), *jobs]


def _base(plan: Ablation, places: Places, seed: int) -> Job:
    """Of the first row: all rows have the same base network, and are refused one by one where they have not."""
    row = plan.rows[0]
    whole = task(plan, places, Cell(row, plan.budgets_of(row)[0], seed))
    return Job(replace(whole, folder=places.base(seed), base=None))


def task(plan: Ablation, places: Places, cell: Cell) -> Task:
    """The run of a cell."""
    return Task(
        plan.load_protocol(),
        cell.row.strategy,
        cell.seed,
        places.out / cell.name,
        values(plan, cell),
        data_dir=places.data_dir,
        device=places.device,
        base=places.base(cell.seed),
        resume=True,
        command=f"{command(plan)} ({cell.row.name}, {cell.budget}, {cell.seed})",
    )


def command(plan: Ablation) -> str:
    """How this is called, without the places of this machine."""
    return f"python -m benchmarks.ablation {plan.path.name if plan.path.is_absolute() else plan.path.as_posix()}"


def values(plan: Ablation, cell: Cell) -> dict[str, Any]:
    """The settings of a cell: of those for all cells, what its strategy or the protocol has."""
    accepted = OF_PROTOCOL | settings.defaults(experiment.recipe(cell.row.strategy)).keys()
    common = {**plan.settings, "per_class": cell.budget}
    return {**{key: value for key, value in common.items() if key in accepted}, **cell.row.settings}


def check(plan: Ablation) -> None:
    """Raises InputError where the settings of any row are wrong, before the first of them is run."""
    known = {key for row in plan.rows for key in settings.defaults(experiment.recipe(row.strategy))}
    refuse_unknown(plan.settings, known | OF_PROTOCOL, f"setting of all rows of {plan.path}:")
    for row in plan.rows:
        try:
            config(plan, Cell(row, plan.budgets_of(row)[0], plan.seeds_of(row)[0]))
        except InputError as error:
            raise InputError(f"{plan.path}: {row.name}: {error}") from None


def config(plan: Ablation, cell: Cell) -> dict[str, dict[str, Any]]:
    """What a record's ``config`` is to be; :func:`mnemo.experiment.prepare` tells it too, but loads the data."""
    given, make = values(plan, cell), experiment.recipe(cell.row.strategy)
    protocol = plan.load_protocol().changed({key: value for key, value in given.items() if key in OF_PROTOCOL})
    accepted = settings.defaults(make)
    fixed = {key: value for key, value in protocol.strategy.items() if key in accepted}
    theirs = {key: value for key, value in given.items() if key not in OF_PROTOCOL}
    arguments = settings.arguments(make, {**fixed, **theirs})
    make(**arguments)
    both = {"protocol": protocol.model_dump(exclude=experiment.NO_SETTINGS), "strategy": settings.flat(arguments)}
    plain: dict[str, dict[str, Any]] = json.loads(json.dumps(both))  # where tuples are lists, as in a record
    return plain


def refuse_stale(plan: Ablation, places: Places, found: Mapping[tuple[str, int, int], Run]) -> None:
    """Raises InputError where a record was made with other settings than the file has now."""
    for cell in cells(plan):
        run = found.get((cell.row.name, cell.budget, cell.seed))
        for change in _changes(plan, cell, run) if run else []:
            raise InputError(f"{places.record(cell)}: {change} in {plan.path}; delete it to run that cell again")


def _changes(plan: Ablation, cell: Cell, run: Run) -> list[str]:
    """A setting that only one side has came or went with a version of mnemo, and is no change."""
    changes = [] if run.strategy == cell.row.strategy else [f"strategy is {run.strategy}, but {cell.row.strategy}"]
    for part, now in config(plan, cell).items() if not changes else []:
        before = run.config.get(part, {})
        changes += [
            f"{key} is {before[key]!r}, but {now[key]!r}" for key in now if before.get(key, now[key]) != now[key]
        ]
    return changes
