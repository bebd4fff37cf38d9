"""What the file of an ablation says, and the cells of its grid."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from mnemo import protocols
from mnemo.counts import NonNegativeInt, PositiveInt
from mnemo.disk.documents import from_toml, reading
from mnemo.disk.files import InputError
from mnemo.names import refuse_unknown
from mnemo.protocols import Protocol

Budgets = Annotated[list[PositiveInt], Field(min_length=1)]
Seeds = Annotated[list[NonNegativeInt], Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Row(_Strict):
    """A method.

    Attributes:
        name: of folders and records.
        label: in table and figure; the name if empty.
        strategy: a recipe's name.
        settings: they go before those of the file.
        budgets, seeds: in place of the file's.
        curve: whether the figure has it.
        choose: whether it is run with the seeds on which defaults are chosen.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
    label: str = ""
    strategy: str
    settings: dict[str, Any] = {}
    budgets: Budgets | None = None
    seeds: Seeds | None = None
    curve: bool = True
    choose: bool = True

    @property
    def title(self) -> str:
        """How people call it."""
        return self.label or self.name


class Ablation(_Strict):
    """What the file says.

    Attributes:
        name: the file's, without its ending.
        path: of the file, as it was given.
        protocol: a name, or the path of a TOML file.
        about: a sentence for the caption.
        seeds: those that are reported.
        choose: seeds on which defaults are chosen; they have a table of their own.
        budgets: of rows that do not say otherwise, in raw images a class.
        control: the row that others are compared with.
        settings: for all cells whose strategy has them, under flat names.
        rows: the methods.
    """

    name: str
    path: Path
    protocol: str
    about: str = ""
    seeds: Seeds
    choose: list[NonNegativeInt] = []
    budgets: Budgets
    control: str
    settings: dict[str, Any] = {}
    rows: Annotated[list[Row], Field(min_length=1)]

    @property
    def all_budgets(self) -> list[int]:
        """Of all rows, least first."""
        return sorted({budget for row in self.rows for budget in self.budgets_of(row)})

    def budgets_of(self, row: Row) -> list[int]:
        """The budgets that a row is run with."""
        return row.budgets or self.budgets

    def seeds_of(self, row: Row) -> list[int]:
        """The seeds of a row that are reported."""
        return row.seeds or self.seeds

    def chosen_on(self, row: Row) -> list[int]:
        """The seeds of a row on which defaults are chosen."""
        return self.choose if row.choose else []

    def load_protocol(self) -> Protocol:
        """The protocol itself. Raises InputError if it is not there or is not one."""
        return protocols.load(self.protocol)


@dataclass(frozen=True)
class Cell:
    """One run: a method, a budget in raw images a class, and a seed."""

    row: Row
    budget: int
    seed: int

    @property
    def name(self) -> str:
        """Such as ``herding-b5-s1993``."""
        return f"{self.row.name}-b{self.budget}-s{self.seed}"


def load(path: Path) -> Ablation:
    """Read a file. Raises InputError if it is not there or is not one of this kind."""
    with reading(path, "TOML"):
        values = from_toml(path.read_text(encoding="utf-8"))
        _refuse_unknown_keys(path, values)
        plan = Ablation.model_validate({**values, "name": path.stem, "path": path})
    for complaint in _complaints(plan):
        raise InputError(f"{path}: {complaint}")
    return plan


def _refuse_unknown_keys(path: Path, values: Mapping[str, Any]) -> None:
    """Before pydantic, which does not know what may have been meant."""
    refuse_unknown(values, Ablation.model_fields.keys() - {"name", "path"}, f"key in {path}:")
    rows = values.get("rows")
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict):
            refuse_unknown(row, Row.model_fields, f"key in [[rows]] of {path}:")


def _complaints(plan: Ablation) -> Iterator[str]:
    """What is wrong between values that are right by themselves."""
    names = [row.name for row in plan.rows]
    if plan.control not in names:
        yield f"control: there is no row {plan.control!r}"
    yield from _twice("rows", names)
    parts: list[tuple[str, Ablation | Row]] = [("", plan), *((f"{row.name}: ", row) for row in plan.rows)]
    for where, some in parts:
        yield from _twice(f"{where}seeds", some.seeds or [])
        yield from _twice(f"{where}budgets", some.budgets or [])
        if "per_class" in some.settings:
            yield f"{where}settings: per_class is what `budgets` says"
        if both := set(some.seeds or []) & set(plan.choose):
            yield f"{where}seeds: a default that is chosen on seed {min(both)} cannot be reported on it"
    yield from _twice("choose", plan.choose)


def _twice(where: str, items: Sequence[object]) -> Iterator[str]:
    for item in items:
        if items.count(item) > 1:
            yield f"{where}: {item} comes twice"


def cells(plan: Ablation) -> list[Cell]:
    """The whole grid, budget by budget."""
    return [
        Cell(row, budget, seed)
        for budget in plan.all_budgets
        for row in plan.rows
        if budget in plan.budgets_of(row)
        for seed in [*plan.seeds_of(row), *plan.chosen_on(row)]
    ]
