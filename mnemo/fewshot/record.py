"""What a few-shot run leaves behind: run.json of its own kind, and the accuracy of every episode beside it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..disk import checksums
from ..disk.documents import from_json, reading
from ..disk.files import InputError
from ..record import SCHEMA, EvaluatedOn, Percent

ACCURACIES = "accuracies.json"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Paired(_Strict):
    """How a run differs from a baseline on the same episodes, in points.

    Attributes:
        baseline: its method.
        difference: mean of this run's accuracies less those of the baseline, episode by episode.
        interval: half the width of its 95 % interval.
    """

    baseline: str
    difference: float
    interval: float


class Picture(_Strict):
    """One image of a task that is shown.

    Attributes:
        png: the picture in base64.
        label: of its class within the task, 0..ways-1; -1 for a distractor.
        guess: the class that was guessed; None for an image that was labelled.
        right: whether the guess is right; None as above.
        weight: soft weight of its pseudo-label; None where there is none.
        selected: whether it was learned from.
        point: where it is in the picture of the feature space, (x, y).
    """

    png: str
    label: int
    guess: int | None = None
    right: bool | None = None
    weight: float | None = None
    selected: bool | None = None
    point: tuple[float, float] | None = None


class ShownTask(_Strict):
    """A test task that a report shows.

    Attributes:
        class_names: of its ways.
        accuracy: of its queries, in %.
        support, query, unlabelled: its images; of the unlabelled ones at most some.
    """

    class_names: list[str]
    accuracy: Percent
    support: list[Picture]
    query: list[Picture]
    unlabelled: list[Picture] = []


class FewShotRun(_Strict):
    """One method, meta-trained with one seed and evaluated on test episodes. Accuracies are in %.

    Attributes:
        way, shot, queries, unlabelled, distractors: see :class:`mnemo.fewshot.episodes.Shape`.
        episodes: how many there are; ``episodes_digest`` names them.
        accuracy: the mean over episodes, after the last step, of the checkpoint that was best on validation episodes.
        interval: half the width of its 95 % interval.
        batch_norm: whose statistics normalise a task's images; see :class:`mnemo.fewshot.embedder.Embedder`.
        transductive: whether what is said of a query depends on the other queries.
        validation: after each look at the validation episodes the iterations done and the accuracy.
        curves: what a report draws over the inner loop's epochs, by name, such as ``alpha`` and ``v``: means over test
            tasks.
        pretrained: name of the pre-trained backbone; None where there is none.
        pretrained_digest: names its very weights, which other hardware trains otherwise; empty in older records.
    """

    schema_: int = Field(default=SCHEMA, alias="schema")
    kind: Literal["fewshot"] = "fewshot"
    method: str
    data: str
    way: int
    shot: int
    queries: int
    unlabelled: int = 0
    distractors: int = 0
    episodes: int
    episodes_digest: str = ""
    accuracy: Percent | None = None
    interval: float | None = None
    paired: Paired | None = None
    batch_norm: str
    transductive: bool
    config: dict[str, Any]
    seed: int
    evaluated_on: EvaluatedOn = "test"
    pretrained: str | None = None
    pretrained_digest: str = ""
    parameters: int = 0
    meta_learned: int = 0
    validation: list[tuple[int, Percent]] = []
    curves: dict[str, list[float]] = {}
    shown: list[ShownTask] = []
    data_digest: str = ""
    command: str = ""
    device: str = "cpu"
    threads: int = 0
    deterministic: bool = False
    hardware: str = ""
    versions: dict[str, str] = {}
    seconds: dict[str, float] = {}
    peak_memory_bytes: int = 0
    complete: bool = False

    model_config = ConfigDict(extra="forbid", populate_by_name=True, serialize_by_alias=True)


class _Accuracies(_Strict):
    schema_: int = Field(alias="schema")
    episodes_digest: str
    accuracies: list[Percent]


def save(run: FewShotRun, path: Path) -> None:
    """Write run.json atomically. Raises OSError when the disk refuses."""
    checksums.write_text(path, json.dumps(run.model_dump(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def load(path: Path) -> FewShotRun:
    """Read run.json, given itself or its folder. Raises InputError: not there, or not a record of this kind."""
    path = path / "run.json" if path.is_dir() else path
    data = _json(path)
    if data.get("schema") != SCHEMA or data.get("kind") != "fewshot":
        raise InputError(f"{path}: not the record of a few-shot run of schema {SCHEMA}")
    with reading(path, "a record"):
        return FewShotRun.model_validate(data)


def save_accuracies(values: Sequence[float], digest: str, path: Path) -> None:
    """Write the accuracy of every episode, in %, and the name of the episodes. Raises OSError."""
    about = {"schema": SCHEMA, "episodes_digest": digest, "accuracies": [round(value, 6) for value in values]}
    checksums.write_text(path, json.dumps(about) + "\n")


def load_accuracies(path: Path) -> tuple[list[float], str]:
    """What :func:`save_accuracies` wrote. Raises InputError if it is not there or is damaged."""
    with reading(path, "accuracies"):
        accuracies = _Accuracies.model_validate(_json(path))
    return accuracies.accuracies, accuracies.episodes_digest


def _json(path: Path) -> dict[str, Any]:
    with reading(path, "JSON", missing="no such run"):
        data = from_json(checksums.read_text(path))
    if not isinstance(data, dict):
        raise InputError(f"{path}: not a record")
    return data
