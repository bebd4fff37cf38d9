"""Episodes: which images make up a task. They are drawn from a seed, or read from a file that people can share."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import pydantic
import torch
from pydantic import ConfigDict, Field, TypeAdapter
from torch import Tensor

from ..counts import NonNegativeInt, PositiveInt
from ..disk import checksums
from ..disk.documents import from_json, reading
from ..disk.files import InputError
from ..seeds import generator

SCHEMA = 1


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Shape:
    """How large a task is.

    Attributes:
        ways: classes.
        shots: support images of each.
        queries: images of each that are asked about.
        unlabelled: images of each that come without their label.
        distractors: further classes of which only unlabelled images come, as many of each.
    """

    ways: Annotated[PositiveInt, Field(ge=2)] = 5
    shots: PositiveInt = 1
    queries: PositiveInt = 15
    unlabelled: NonNegativeInt = 0
    distractors: NonNegativeInt = 0

    @property
    def classes(self) -> int:
        """Classes that a task takes images of."""
        return self.ways + (self.distractors if self.unlabelled else 0)

    @property
    def each(self) -> int:
        """Images that it takes of one of its own classes."""
        return self.shots + self.queries + self.unlabelled

    @property
    def revealed(self) -> "Shape":
        """That of tasks whose unlabelled images are in the support."""
        return Shape(self.ways, self.shots + self.unlabelled, self.queries)


@dataclass(frozen=True)
class Episodes:
    """Which images tasks consist of: rows of a split's images.

    Attributes:
        shape: of every task.
        classes: int64 (t, ways + distractors), the distractors last.
        support: int64 (t, ways * shots), class by class, in the order of ``classes``.
        query: int64 (t, ways * queries), likewise.
        unlabelled: int64 (t, (ways + distractors) * unlabelled), likewise.
    """

    shape: Shape
    classes: Tensor
    support: Tensor
    query: Tensor
    unlabelled: Tensor

    def __len__(self) -> int:
        return len(self.classes)

    def slice(self, start: int, stop: int) -> "Episodes":
        """Those from ``start`` up to ``stop``."""
        parts = (self.classes, self.support, self.query, self.unlabelled)
        return Episodes(self.shape, *(part[start:stop] for part in parts))

    @property
    def labels(self) -> Tensor:
        """Of the support, int64 (t, ways * shots), 0..ways-1."""
        return self._labels(self.shape.ways, self.shape.shots)

    @property
    def answers(self) -> Tensor:
        """Of the queries, int64 (t, ways * queries), 0..ways-1."""
        return self._labels(self.shape.ways, self.shape.queries)

    @property
    def hidden(self) -> Tensor:
        """Of the unlabelled images, int64, 0..ways-1, and -1 for those of distractors; for reports and controls."""
        labels = self._labels(self.shape.classes, self.shape.unlabelled)
        return labels.where(labels < self.shape.ways, -1)

    @property
    def digest(self) -> str:
        """Names what is asked in these very tasks, in 16 hexadecimal digits.

        Tasks that differ in what else there is to learn from have the same: their results compare in pairs.
        """
        parts = (self.classes[:, : self.shape.ways].contiguous(), self.query)
        return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()[:16]

    def revealed(self) -> "Episodes":
        """The same tasks with their unlabelled images in the support: the upper bound of learning from them.

        Raises InputError where there are distractors, which have no label within the task.
        """
        if self.shape.distractors and self.shape.unlabelled:
            raise InputError("unlabelled images of distracting classes cannot be given labels")
        parts = [part.unflatten(1, (self.shape.ways, -1)) for part in (self.support, self.unlabelled)]
        support = torch.cat(parts, 2).flatten(1)
        return Episodes(self.shape.revealed, self.classes, support, self.query, self.unlabelled[:, :0])

    def _labels(self, classes: int, each: int) -> Tensor:
        return torch.arange(classes).repeat_interleave(each).expand(len(self), -1)


class Sampler:
    """Draws tasks from labelled images.

    Args:
        labels: of a split's images, int64 (n,), 0..classes-1.
        shape: of the tasks.

    Raises:
        InputError: there are too few classes, or too few images of one.
    """

    def __init__(self, labels: Tensor, shape: Shape) -> None:
        self.shape = shape
        self._rows = [rows.cpu() for rows in labels.argsort(stable=True).split(labels.bincount().tolist())]
        if len(self._rows) < shape.classes:
            raise InputError(f"a task has {shape.classes} classes, but there are only {len(self._rows)}")
        fewest = min(len(rows) for rows in self._rows)
        if fewest < shape.each:
            raise InputError(f"a task takes {shape.each} images of a class, but one has only {fewest}")

    def draw(self, count: int, *place: int | str) -> Episodes:
        """``count`` tasks. Support and queries of one are the same however many unlabelled images there are.

        Args:
            count: of tasks.
            place: names what they are for, such as ``(seed, "test")``; see :func:`mnemo.seeds.generator`.
        """
        return self._episodes([self._task(generator(*place, index)) for index in range(count)])

    def draw_among(self, pool: Tensor, count: int, *place: int | str) -> Episodes:
        """The same, of the classes in ``pool``, int64 (n,), at least as many as a task has."""
        return self._episodes([self._task(generator(*place, index), pool) for index in range(count)])

    def _task(self, drawn: torch.Generator, pool: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Classes (c,), and the rows of their images (c, images)."""
        among = torch.arange(len(self._rows)) if pool is None else pool
        classes = among[torch.randperm(len(among), generator=drawn)[: self.shape.classes]]
        return classes, torch.stack([self._some(int(c), drawn) for c in classes])

    def _episodes(self, tasks: list[tuple[Tensor, Tensor]]) -> Episodes:
        shape, (classes, rows) = self.shape, (torch.stack(parts) for parts in zip(*tasks, strict=True))
        support, query, unlabelled = rows.split([shape.shots, shape.queries, shape.unlabelled], dim=2)
        own = slice(0, shape.ways)
        parts = (support[:, own], query[:, own], unlabelled)
        return Episodes(shape, classes, *(part.flatten(1) for part in parts))

    def _some(self, c: int, drawn: torch.Generator) -> Tensor:
        rows = self._rows[c]
        chosen: Tensor = rows[torch.randperm(len(rows), generator=drawn)[: self.shape.each]]
        return chosen


def save(episodes: Episodes, path: Path, data: str, split: str) -> None:
    """Write tasks as JSON, atomically. Raises OSError when the disk refuses.

    Args:
        episodes: the tasks.
        path: of the file.
        data: the data set's name.
        split: ``train``, ``validation`` or ``test``.
    """
    parts = {name: getattr(episodes, name).tolist() for name in _PARTS}
    about = {"schema": SCHEMA, "data": data, "split": split, "shape": asdict(episodes.shape)}
    checksums.write_text(path, json.dumps({**about, **parts}, separators=(",", ":")) + "\n")


_PARTS = ("classes", "support", "query", "unlabelled")
_ROWS = TypeAdapter(list[list[NonNegativeInt]])


def load(path: Path, data: str, split: str, labels: Tensor) -> Episodes:
    """Read what :func:`save` wrote.

    Args:
        path: of the file.
        data: what it must have been drawn from.
        split: likewise.
        labels: of that split's images, int64 (n,).

    Raises:
        InputError: it is not there, is no such file, or does not fit the data.
    """
    with reading(path, "episodes"):
        values = from_json(checksums.read_text(path))
        if not isinstance(values, dict) or values.get("schema") != SCHEMA:
            raise ValueError(f"no episodes of schema {SCHEMA}")
        shape = TypeAdapter(Shape).validate_python(values.get("shape"))
        parts = [_rows(values, name) for name in _PARTS]
    if (found := (values.get("data"), values.get("split"))) != (data, split):
        raise InputError(f"{path}: episodes of {found[0]} ({found[1]}), not of {data} ({split})")
    episodes = Episodes(shape, *parts)
    _refuse_unsound(path, episodes, labels)
    return episodes


def _rows(values: dict[str, object], name: str) -> Tensor:
    rows = _ROWS.validate_python(values.get(name))
    if not rows:
        raise ValueError("no episode")
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"{name}: rows differ in length")
    return torch.tensor(rows, dtype=torch.int64).view(len(rows), len(rows[0]))


def _refuse_unsound(path: Path, episodes: Episodes, labels: Tensor) -> None:
    """Counts must be those of the shape, and every image of the class that it stands for."""
    shape = episodes.shape
    wanted = {
        "classes": (episodes.classes, shape.classes),
        "support": (episodes.support, shape.ways * shape.shots),
        "query": (episodes.query, shape.ways * shape.queries),
        "unlabelled": (episodes.unlabelled, shape.classes * shape.unlabelled),
    }
    for name, (part, width) in wanted.items():
        if part.shape != (len(episodes), width):
            raise InputError(f"{path}: {name} is {tuple(part.shape)}, not {(len(episodes), width)}")
    for name, each in (("support", shape.shots), ("query", shape.queries), ("unlabelled", shape.unlabelled)):
        part, width = wanted[name]
        if part.numel() and int(part.max()) >= len(labels):
            raise InputError(f"{path}: {name} has image {int(part.max())}, but there are only {len(labels)}")
        classes = episodes.classes[:, : width // max(each, 1)].repeat_interleave(each, dim=1)
        if not torch.equal(labels[part], classes):
            raise InputError(f"{path}: {name} has an image of another class; is it of another data set?")
