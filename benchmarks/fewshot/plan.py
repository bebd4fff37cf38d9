"""What the file of a comparison of few-shot methods says, and the cells of its grid."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from mnemo.counts import NonNegativeInt, PositiveInt
from mnemo.disk.documents import from_toml, reading
from mnemo.disk.files import InputError
from mnemo.names import refuse_unknown
from mnemo.record import EvaluatedOn


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Row(_Strict):
    """A method.

    Attributes:
        name: of folders and records.
        label: in the table.
        method: a recipe's name.
        settings: they go before those of the file.
        unlabelled, distractors: of its tasks.
        shots: in place of the file's.
        paper: what a paper reports for this row, as it is to stand in the table.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    label: str
    method: str
    settings: dict[str, Any] = {}
    unlabelled: NonNegativeInt | None = None
    distractors: NonNegativeInt = 0
    shots: list[PositiveInt] | None = None
    paper: str = ""


class Group(_Strict):
    """Rows that belong together.

    Attributes:
        title: of their table.
        control: the row that the others are compared with, in this group or an earlier one.
        paper: what the column of the papers' figures is of.
        rows: the methods.
    """

    title: str
    control: str
    paper: str = ""
    rows: Annotated[list[Row], Field(min_length=1)]


class Comparison(_Strict):
    """What the file says.

    Attributes:
        name: the file's, without its ending.
        path: of the file, as it was given.
        about: a sentence for the caption.
        data: a few-shot data set.
        ways, shots, queries, episodes: of the test tasks.
        seeds: each has its own backbone and tasks.
        evaluated_on: ``validation`` is for settings that are to be chosen.
        settings: for all rows whose method has them.
        groups: of rows; the very first row trains the backbone that all others share.
    """

    name: str
    path: Path
    about: str = ""
    data: str
    ways: PositiveInt = 5
    shots: Annotated[list[PositiveInt], Field(min_length=1)]
    queries: PositiveInt = 15
    episodes: PositiveInt = 1000
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)]
    evaluated_on: EvaluatedOn = "test"
    settings: dict[str, Any] = {}
    groups: Annotated[list[Group], Field(min_length=1)]

    @property
    def rows(self) -> list[Row]:
        """Of all groups."""
        return [row for group in self.groups for row in group.rows]

    def shots_of(self, row: Row) -> list[int]:
        """What a row is measured with."""
        return row.shots or self.shots


@dataclass(frozen=True)
class Cell:
    """One run: a method, a number of shots and a seed."""

    row: Row
    shot: int
    seed: int

    @property
    def name(self) -> str:
        """Such as ``mtl-1-1993``."""
        return f"{self.row.name}-{self.shot}-{self.seed}"


def load(path: Path) -> Comparison:
    """Read a file. Raises InputError if it is not there or is not one of this kind."""
    with reading(path, "TOML"):
        values = from_toml(path.read_text(encoding="utf-8"))
        plan = Comparison.model_validate({**values, "name": path.stem, "path": path})
    names = [row.name for row in plan.rows]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{path}: row {twice[0]} comes twice")
    refuse_unknown([group.control for group in plan.groups], names, f"control in {path}:")
    return plan


def cells(plan: Comparison) -> list[Cell]:
    """The whole grid; first for each seed the cell that trains its backbone."""
    grid = [Cell(row, shot, seed) for row in plan.rows for shot in plan.shots_of(row) for seed in plan.seeds]
    first = grid[: len(plan.seeds)]
    return [*first, *(cell for cell in grid if cell not in first)]


def options(plan: Comparison, cell: Cell, accepted: Mapping[str, Any]) -> list[str]:
    """Of ``mnemo fewshot`` for a cell, but for folders and device.

    Args:
        plan: the file.
        cell: one of its.
        accepted: the settings that the cell's method has.
    """
    row = cell.row
    settings = {key: value for key, value in plan.settings.items() if key in accepted} | row.settings
    sizes = {"data": plan.data, "way": plan.ways, "shot": cell.shot, "queries": plan.queries}
    sizes |= {"episodes": plan.episodes, "seed": cell.seed, "distractors": row.distractors or None}
    sizes["unlabelled"] = row.unlabelled
    flags = [part for name, value in sizes.items() if value is not None for part in (f"--{name}", str(value))]
    chosen_by = ["--validation"] if plan.evaluated_on == "validation" else []
    pairs = [part for key, value in settings.items() for part in ("--set", f"{key}={_toml(value)}")]
    return [row.method, *flags, *chosen_by, *pairs]


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def command(plan: Comparison) -> str:
    """How everything is run again."""
    return shlex.join([Path(sys.executable).name, "-m", "benchmarks.fewshot", str(plan.path)])
