"""Sweeps: what a file says about strategies, protocols, seeds and settings, and the runs that come of it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat

from .. import experiment, protocols, record, settings
from ..counts import NonNegativeInt, PositiveInt
from ..disk.documents import from_toml, reading
from ..disk.files import InputError
from ..names import refuse_unknown
from .tasks import Task, named, shared_out

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Row(_Strict):
    """A strategy with settings.

    Attributes:
        name: of its runs' folders.
        strategy: a recipe's name.
        settings: they go before those of the file.
        base: the name of an earlier row, whose trained base network is taken over.
        label: for tables.
    """

    name: Name
    strategy: str
    settings: dict[str, Any] = {}
    base: str | None = None
    label: str = ""


class Resources(_Strict):
    """What each run takes.

    Attributes:
        cpus: cores, and threads that torch computes with.
        gpus: 0 computes on the processor; a part of 1 lets several runs share a GPU.
        retries: how often a run is taken up again after its worker was lost.
    """

    cpus: PositiveInt = 1
    gpus: NonNegativeFloat = 0
    retries: NonNegativeInt = 3

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``."""
        return "cuda" if self.gpus else "cpu"


class Sweep(_Strict):
    """What the file says. The files of ``benchmarks/suites`` are sweeps too.

    Attributes:
        protocol, protocols: one or several names, or paths of TOML files.
        seeds: each is a run.
        strategies: rows without settings of their own, by their recipes' names.
        rows: strategies with settings; after ``strategies``.
        settings: for all rows whose strategy, or the protocol, has them.
        resources: what each run takes.
        about, page, pictures, few_shot, control: for the table of a suite; a sweep does without.
    """

    protocol: str | None = None
    protocols: list[str] = []
    seeds: Annotated[list[Seed], Field(min_length=1)]
    strategies: list[str] = []
    rows: list[Row] = []
    settings: dict[str, Any] = {}
    resources: Resources = Resources()
    about: str = ""
    page: str = ""
    pictures: bool = True
    few_shot: bool = False
    control: str = ""

    @property
    def all_protocols(self) -> list[str]:
        """Names or paths."""
        return [*([self.protocol] if self.protocol else []), *self.protocols]

    @property
    def all_rows(self) -> list[Row]:
        """Those of ``strategies`` first."""
        return [*(Row(name=name, strategy=name) for name in self.strategies), *self.rows]


def load(path: Path) -> Sweep:
    """Read a file. Raises InputError, one line that names it, if it is not there or is no sweep."""
    with reading(path, "TOML"):
        values = from_toml(path.read_text(encoding="utf-8"))
        refuse_unknown(values, Sweep.model_fields, f"key in {path}")
        sweep = Sweep.model_validate(values)
    for complaint in _complaints(sweep):
        raise InputError(f"{path}: {complaint}")
    return sweep


def _complaints(sweep: Sweep) -> Iterator[str]:
    names = [row.name for row in sweep.all_rows]
    if not sweep.all_protocols:
        yield "name a protocol, or several in protocols"
    if not names:
        yield "name strategies, or give [[rows]] of strategies with settings"
    for what, items in (("protocols", sweep.all_protocols), ("seeds", sweep.seeds), ("rows", names)):
        for item in items:
            if items.count(item) > 1:  # type: ignore[arg-type]
                yield f"{what}: {item} comes twice"
    for index, row in enumerate(sweep.all_rows):
        if row.base is not None and row.base not in names[:index]:
            yield f"{row.name}: base: there is no earlier row {row.base!r}"


def tasks(sweep: Sweep, common: Task) -> list[Task]:
    """A run for every protocol, seed and row, in the folder PROTOCOL-ROW-SEED in that of ``common``.

    Those whose base network others take over come before them.

    Args:
        sweep: from :func:`load`.
        common: a run whose folder, data, command and manner the others have too.

    Raises InputError, with the run's name, where a name or setting is wrong; no data are read for it.
    """
    result = []
    for protocol in map(protocols.load, sweep.all_protocols):
        shared = shared_out(protocol, sweep.settings, [row.strategy for row in sweep.all_rows])
        for seed in sweep.seeds:
            place = {row.name: common.folder / f"{protocol.name}-{row.name}-{seed}" for row in sweep.all_rows}
            result += [
                replace(
                    common,
                    protocol=protocol,
                    strategy=row.strategy,
                    seed=seed,
                    folder=place[row.name],
                    values={**shared[row.strategy], **row.settings},
                    base=place[row.base] if row.base else None,
                )
                for row in sweep.all_rows
            ]
    _refuse_one_folder_twice(result)
    for task in result:
        if task.seed == sweep.seeds[0]:
            with named(task):
                experiment.config(task.protocol, task.strategy, task.values)
    return result


def _refuse_one_folder_twice(all_tasks: Sequence[Task]) -> None:
    names = [task.name for task in all_tasks]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name}: two runs would have this folder; name protocols and rows otherwise")


def left(all_tasks: Sequence[Task]) -> list[Task]:
    """The runs that are not complete.

    Raises InputError where a folder has another run, or any while ``resume`` is not set.
    """
    return [task for task in all_tasks if not _complete(task)]


def _complete(task: Task) -> bool:
    if not task.resume and (task.latest.exists() or (task.folder / "run.json").exists()):
        raise InputError(f"{task.folder} has a run already: --resume goes on with it, --out takes another folder")
    if not (task.folder / "run.json").exists():
        return False
    with named(task):
        run = record.load(task.folder)
        ours = {
            "strategy": task.strategy,
            "protocol": task.protocol.name,
            "seed": task.seed,
            "config": experiment.config(task.protocol, task.strategy, task.values),
            "deterministic": task.deterministic,
        }
        for key, new in ours.items():
            if (old := getattr(run, key)) != new:
                raise InputError(f"{task.folder}: is of another run: {settings.difference(key, old, new)}")
        return run.complete
