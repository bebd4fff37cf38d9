"""Test tasks image by image: what was learned from, what was guessed, and where all of it is in feature space."""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from ..fewshot.record import FewShotRun, Picture, ShownTask
from . import svg
from .fewshot_groups import Contest
from .samples import data_uri, decoded, reduced
from .svg import MARKERS

DISTRACTOR = "M-3.6-3.6L3.6 3.6M3.6-3.6L-3.6 3.6"
SIDE, MOST_SIDE = 42, 64  # pixels of the screen that a picture takes; of the smaller ones 15 stand in a row
PLANE = 440.0  # width of the picture of the feature space


@dataclass(frozen=True)
class Shot:
    """One image of a task.

    Attributes:
        uri: its picture, at the size at which it is shown.
        class_name: of its class; empty for a distractor.
        guess: name of the class that it was taken for; empty where nothing was guessed.
        right: whether that is right; None where nothing was guessed.
        weight: soft weight of its pseudo-label, formatted; empty where there is none.
        selected: whether it was learned from; None where nothing was selected.
    """

    uri: str
    class_name: str
    guess: str
    right: bool | None
    weight: str
    selected: bool | None


@dataclass(frozen=True)
class Way:
    """A class of a task: its images with labels, and those to be named."""

    name: str
    code: str
    mark: Markup
    support: list[Shot]
    query: list[Shot]


@dataclass(frozen=True)
class Task:
    """What the page shows of a test task.

    Attributes:
        number: from 1 on, among those of its run.
        accuracy: of its queries, in %, formatted.
        ways: its classes.
        unlabelled: images without a label: those that were learned from first, then by falling weight.
        side: width of a picture, in pixels of the screen.
        across: images with labels that stand side by side.
        unreadable: pictures that could not be decoded.
        plane: the feature space; None where no image has a place in it.
    """

    number: int
    accuracy: str
    ways: list[Way]
    unlabelled: list[Shot]
    side: int
    across: int
    unreadable: int
    plane: Markup | None


@dataclass(frozen=True)
class Sheet:
    """The tasks of a group's first run that has any."""

    name: str
    kind: str
    seed: int
    tasks: list[Task]


def sheets(contests: Sequence[Contest]) -> list[Sheet]:
    """For each group the tasks of its first run that shows any."""
    found = []
    for contest in contests:
        where = f" on {contest.name}" if len(contests) > 1 else ""
        for group in contest.groups:
            shown = [run for run in group.runs if run.shown][:1]
            found += [Sheet(group.name + where, group.kind, run.seed, _tasks(run)) for run in shown]
    return found


def code_point(name: str) -> str:
    """``U+10E1`` for a name that is one character beyond ASCII, which a reader's fonts may lack; else empty."""
    return f"U+{ord(name):04X}" if len(name) == 1 and not name.isascii() else ""


def readable(name: str) -> str:
    """The name; a mark that combines with what stands before it gets a dotted circle to stand on."""
    return "\N{DOTTED CIRCLE}" + name if name and unicodedata.category(name[0]).startswith("M") else name


def mark(index: int, role: str) -> Markup:
    """A mark of the feature space's picture for a legend: a class by its shape and colour, a role by its filling."""
    return Markup('<svg class="mark" viewBox="-8 -8 16 16" aria-hidden="true">{}</svg>').format(_spot(index, role))


def _tasks(run: FewShotRun) -> list[Task]:
    return [_task(number, shown) for number, shown in enumerate(run.shown, 1)]


def _task(number: int, shown: ShownTask) -> Task:
    uris = {picture.png: _uri(picture.png) for picture in (*shown.support, *shown.query, *shown.unlabelled)}
    sides = [side for uri, side in uris.values() if uri]
    side = max(sides, default=28)
    unlabelled = sorted(shown.unlabelled, key=lambda picture: (not picture.selected, -(picture.weight or 0.0)))
    ways = [_way(shown, index, uris) for index in range(len(shown.class_names))]
    return Task(
        number,
        svg.number(shown.accuracy, 1),
        ways,
        _shots(shown, unlabelled, uris),
        min(max(side, SIDE), MOST_SIDE),
        min(max([2, *(len(way.support) for way in ways)]), 3),
        sum(not uris[picture.png][0] for picture in (*shown.support, *shown.query, *shown.unlabelled)),
        _plane(shown),
    )


def _uri(png: str) -> tuple[str, int]:
    """The picture as an address and its longer side in pixels; an empty one where it cannot be read."""
    picture = decoded(png)
    if picture is None:
        return "", 0
    pixels = reduced(np.array(picture, dtype=np.uint8))
    return data_uri(pixels), max(pixels.shape[:2])


def _way(shown: ShownTask, index: int, uris: dict[str, tuple[str, int]]) -> Way:
    name = shown.class_names[index]
    support, query = (
        _shots(shown, [picture for picture in pictures if picture.label == index], uris)
        for pictures in (shown.support, shown.query)
    )
    return Way(readable(name), code_point(name), mark(index, "query"), support, query)


def _shots(shown: ShownTask, pictures: Sequence[Picture], uris: dict[str, tuple[str, int]]) -> list[Shot]:
    return [
        Shot(
            uris[picture.png][0],
            _name(shown, picture.label),
            _name(shown, picture.guess),
            picture.right,
            "" if picture.weight is None else f"{picture.weight:.2f}",
            picture.selected,
        )
        for picture in pictures
        if uris[picture.png][0]
    ]


def _name(shown: ShownTask, label: int | None) -> str:
    known = label is not None and 0 <= label < len(shown.class_names)
    return readable(shown.class_names[label]) if known and label is not None else ""


def _plane(shown: ShownTask) -> Markup | None:
    """All images where they are in the plane, the labelled ones on top."""
    roles = [(p, "unlabelled" if p.label >= 0 else "distractor") for p in shown.unlabelled]
    roles += [(p, "query") for p in shown.query] + [(p, "support") for p in shown.support]
    there = [(picture, role) for picture, role in roles if _place(picture)]
    if not there:
        return None
    height = PLANE * max(_place(picture)[1] for picture, _ in there)
    parts = [svg.path("edge", f"M1 1H{PLANE + 39:.0f}V{height + 39:.0f}H1z")]
    parts += [_placed(shown, picture, role, height) for picture, role in there]
    return svg.drawing(PLANE + 40, height + 40, "The task in feature space", parts)


def _place(picture: Picture) -> tuple[float, ...]:
    """Where it is, within 0..1; empty where that is not known."""
    point = picture.point or ()
    return tuple(min(max(value, 0.0), 1.0) for value in point) if all(map(math.isfinite, point)) else ()


def _placed(shown: ShownTask, picture: Picture, role: str, height: float) -> Markup:
    x, y = _place(picture)
    own, guess = _name(shown, picture.label), _name(shown, picture.guess)
    words = " ".join(filter(None, [role, own and f"of {own}", guess and f"taken for {guess}"]))
    return Markup('<g transform="translate({:.1f} {:.1f})">{}<title>{}</title></g>').format(
        20 + PLANE * x, 20 + height - PLANE * y, _spot(picture.label, role), words
    )


def _spot(index: int, role: str) -> Markup:
    """Shape and colour say the class: both together tell 64 apart."""
    if role == "distractor":
        return svg.path("spot distractor", DISTRACTOR)
    count = len(MARKERS)
    return svg.path(f"spot {role}", MARKERS[index % count], svg.series(index + index // count))
