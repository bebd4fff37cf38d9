"""What a run leaves behind: run.json, everything that a report needs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from . import metrics
from .disk import checksums
from .disk.documents import from_json, reading
from .disk.files import InputError

SCHEMA = 1
Classifier = Literal["head", "nearest_mean", "refined"]
CLASSIFIERS: dict[Classifier, str] = {
    "head": "head",
    "nearest_mean": "nearest mean",
    "refined": "refined rows (transductive)",
}
"""How people are told of them."""
EvaluatedOn = Literal["test", "validation"]
Percent = float
TIMES = frozenset({"seconds", "peak_memory_bytes"})
"""Fields that clock and memory decide: all else is the same in two runs of one command on one machine."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Accuracies(_Strict):
    """The accuracies of one classifier, in %, after each phase that is done; see :mod:`mnemo.metrics`.

    ``base_accuracy`` to ``performance_drop`` are empty in older records.
    """

    accuracy: list[list[Percent | None]] = []
    phase_accuracy: list[Percent] = []
    average_incremental_accuracy: Percent | None = None
    forgetting_rate: float | None = None
    average_forgetting: float | None = None
    base_accuracy: list[Percent | None] = []
    novel_accuracy: list[Percent | None] = []
    harmonic_mean: list[Percent | None] = []
    performance_drop: float | None = None

    def with_row(self, row: list[Percent], over_all: Percent, phases: int, counts: Sequence[int]) -> "Accuracies":
        """These accuracies and those after one more of ``phases`` phases.

        Args:
            row: one for each group of classes seen so far.
            over_all: over all test images of these groups.
            phases: length of the whole stream, the width of the matrix.
            counts: test images of each group.
        """
        matrix = [*self.accuracy, [*row, *([None] * (phases - len(row)))]]
        over_phases = [*self.phase_accuracy, over_all]
        missing = [None] * (len(self.accuracy) - len(self.novel_accuracy))  # in a run that an older version began
        novel = metrics.novel_accuracy(row, counts)
        mean = None if novel is None else metrics.harmonic_mean(row[0], novel)
        return Accuracies(
            accuracy=matrix,
            phase_accuracy=over_phases,
            average_incremental_accuracy=metrics.average_incremental_accuracy(over_phases),
            forgetting_rate=metrics.forgetting_rate(matrix),
            average_forgetting=metrics.average_forgetting(matrix),
            base_accuracy=[each[0] for each in matrix],
            novel_accuracy=[*missing, *self.novel_accuracy, novel],
            harmonic_mean=[*missing, *self.harmonic_mean, mean],
            performance_drop=metrics.performance_drop(over_phases),
        )


class ExemplarState(_Strict):
    """The exemplar memory after a phase.

    Attributes:
        per_class: exemplars a class (the largest number where classes differ).
        count: exemplars in all.
        bytes: what is kept takes on disk, headers included.
        rms_displacement: root mean square over all stored pixels of how far they are from the real images that they
            stand for, by optimisation and codec, in grey levels; None where real images are kept as they are.
        rms_quantisation: the same for what rounding and codec changed.
    """

    per_class: int = 0
    count: int = 0
    bytes: int = 0
    rms_displacement: float | None = None
    rms_quantisation: float | None = None


class ExemplarHistory(ExemplarState):
    """The memory at the end of the run, and after each phase."""

    phases: list[ExemplarState] = []


class ExemplarSample(_Strict):
    """One exemplar; pictures are PNG files in base64.

    Attributes:
        class_name: its class.
        phase: the one that brought it.
        before: the real image that it was chosen as.
        after: as it is decoded from what is stored.
        draft: as it was optimised, before a lossy codec; None where the codec is lossless (it is ``after`` then) or
            nothing was optimised (it is ``before`` then).
        bytes: what it takes on disk, without what all exemplars share; None in older records.
        raw_bytes: what the pixels of the real image take; None as above.
    """

    class_name: str
    phase: int
    before: str
    after: str
    draft: str | None = None
    bytes: int | None = None
    raw_bytes: int | None = None


class Run(_Strict):
    """One run of one strategy on one protocol with one seed. Accuracies are in %.

    ``accuracy`` to ``performance_drop`` are those of ``classifier``, the one by which the strategy predicts;
    ``by_classifier`` has the same for every classifier that there is. ``outcomes`` has for each phase, by the names of
    its stages, what each showed in its last epoch. ``data_digest`` and ``threads`` are empty in older records.
    """

    schema_: int = Field(default=SCHEMA, alias="schema")
    kind: Literal["incremental"] = "incremental"
    strategy: str
    protocol: str
    config: dict[str, dict[str, Any]]
    seed: int
    class_order: list[int]
    class_names: list[str]
    phase_classes: list[list[int]]
    evaluated_on: EvaluatedOn = "test"
    parameters: int = 0
    data_digest: str = ""
    command: str = ""
    device: str = "cpu"
    threads: int = 0
    deterministic: bool = False
    hardware: str = ""
    processes: int = 1
    versions: dict[str, str] = {}
    classifier: Classifier = "head"
    accuracy: list[list[Percent | None]] = []
    phase_accuracy: list[Percent] = []
    average_incremental_accuracy: Percent | None = None
    forgetting_rate: float | None = None
    average_forgetting: float | None = None
    base_accuracy: list[Percent | None] = []
    novel_accuracy: list[Percent | None] = []
    harmonic_mean: list[Percent | None] = []
    performance_drop: float | None = None
    by_classifier: dict[Classifier, Accuracies] = {}
    exemplars: ExemplarHistory = ExemplarHistory()
    exemplar_samples: list[ExemplarSample] = []
    outcomes: list[dict[str, dict[str, float]]] = []
    seconds: dict[str, float] = {}
    peak_memory_bytes: int = 0
    complete: bool = False

    model_config = ConfigDict(extra="forbid", populate_by_name=True, serialize_by_alias=True)


def without_times(run: BaseModel) -> dict[str, Any]:
    """A record, of whatever kind, without what clock and memory decide."""
    return run.model_dump(exclude=set(TIMES))


def save(run: Run, path: Path) -> None:
    """Write run.json atomically. Raises OSError when the disk refuses."""
    checksums.write_text(path, json.dumps(run.model_dump(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def load(path: Path) -> Run:
    """Read run.json, given itself or its folder.

    Raises:
        InputError: it is not there, or is not a record of this kind.
    """
    if path.is_dir():
        path = path / "run.json"
    with reading(path, "JSON", missing="no such run"):
        data = from_json(checksums.read_text(path))
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else None
        raise InputError(f"{path}: run.json of schema {found!r}; this version reads {SCHEMA}")
    with reading(path, "a record"):
        return Run.model_validate(data)
