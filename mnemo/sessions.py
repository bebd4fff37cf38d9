"""Published lists of the images of each phase, as TOPIC (Tao et al., CVPR 2020) and CEC (Zhang et al., CVPR 2021) use.

``session_1.txt`` lists all training images of the base classes, ``session_2.txt`` the few of the next phase, and so on,
one a line: the path of a picture, of which its name and perhaps its folder's count, or its place among the training
images, from 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .disk.files import InputError


@dataclass(frozen=True)
class Session:
    """What a list says.

    Attributes:
        path: of the list.
        lines: of all images, in order; all different.
    """

    path: Path
    lines: tuple[str, ...]


def read(folder: Path, phases: int) -> list[Session]:
    """The lists of so many phases. Raises InputError when one is missing or empty, or has an image twice."""
    return [_read(folder / f"session_{number}.txt") for number in range(1, phases + 1)]


def _read(path: Path) -> Session:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: missing; sessions need a list for each phase") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not lines:
        raise InputError(f"{path}: lists no images")
    return Session(path, lines)


def shots(
    lists: Sequence[Session],
    labels: Tensor,
    groups: Sequence[Sequence[int]],
    count: int | None,
    files: Callable[[], Sequence[Path]],
) -> dict[int, list[int]]:
    """For each class after phase 0 the rows of its listed training images.

    Args:
        lists: of each phase.
        labels: of all training images, int64 (n,).
        groups: the classes of each phase.
        count: images that each class after phase 0 must have; None: equally many.
        files: gives the pictures of all training images; called for lists of paths alone.

    Raises:
        InputError: a list names an image that is not there, or is there twice, or is of a class of another phase; the
            first does not have all images of the base classes; or a later one has not ``count`` of each class.
    """
    find = _by_place(len(labels)) if all(line.isdecimal() for line in lists[0].lines) else _by_name(files())
    result: dict[int, list[int]] = {}
    for phase, (session, classes) in enumerate(zip(lists, groups, strict=True)):
        rows = _rows(session, find)
        found: dict[int, list[int]] = {c: [] for c in classes}
        for line, row in zip(session.lines, rows, strict=True):
            if (c := int(labels[row])) not in found:
                raise InputError(f"{session.path}: {line} is of class {c}, which phase {phase} does not bring")
            found[c].append(row)
        if phase:
            count = _refuse_unequal(session, found, count)
            result |= found
        else:
            _refuse_partial(session, found, labels)
    return result


def _rows(session: Session, find: Callable[[str], int | None]) -> list[int]:
    rows: dict[int, str] = {}
    for line in session.lines:
        row = find(line)
        if row is None:
            raise InputError(f"{session.path}: {line} is no training image of this data set")
        if row in rows:
            raise InputError(f"{session.path}: {line} is listed twice")
        rows[row] = line
    return list(rows)


def _refuse_unequal(session: Session, found: dict[int, list[int]], count: int | None) -> int:
    """The images of each class. Raises InputError unless they are ``count``, or equally many where that is None."""
    count = len(next(iter(found.values()))) if count is None else count
    for c, rows in found.items():
        if not rows or len(rows) != count:
            raise InputError(f"{session.path}: {len(rows)} images of class {c}; there must be {count} of each class")
    return count


def _refuse_partial(session: Session, found: dict[int, list[int]], labels: Tensor) -> None:
    counts = labels.bincount().tolist()
    for c, rows in found.items():
        if len(rows) != counts[c]:
            raise InputError(f"{session.path}: {len(rows)} images of base class {c}, which has {counts[c]} to train on")


def _by_place(count: int) -> Callable[[str], int | None]:
    return lambda line: int(line) if line.isdecimal() and int(line) < count else None


def _by_name(files: Sequence[Path]) -> Callable[[str], int | None]:
    """From a path to the row of the picture with that name; of several, of the one in a folder of the same name."""
    rows: dict[str, list[int]] = {}
    for row, path in enumerate(files):
        rows.setdefault(path.name, []).append(row)

    def find(line: str) -> int | None:
        *folders, name = line.replace("\\", "/").split("/")
        found = rows.get(name, [])
        if len(found) > 1:
            found = [row for row in found if files[row].parent.name in folders[-1:]]
        return found[0] if found else None

    return find
