"""Checksums of a folder's files, kept beside them: a byte that changes on the disk is noticed and not believed.

A run's folder has them, and a folder of arrays that mnemo made. Elsewhere files are written and read without.
"""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

from . import files
from .documents import from_json
from .files import InputError

NAME = "checksums.json"
CHUNK = 2**20


def begin(folder: Path) -> None:
    """Let a folder have checksums of what :func:`write_text` writes there. Raises OSError when the disk refuses."""
    if not (folder / NAME).exists():
        _write(folder, {})


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically, and its checksum before it. Raises OSError when the disk refuses."""
    if (path.parent / NAME).exists():
        known = _read(path.parent)
        valid = [f"{zlib.crc32(text.encode()):08x}"]
        if path.exists():
            valid.append(_of(path))  # a kill between the two writes leaves what was there
        if not set(valid) <= set(known.get(path.name, [])):
            _write(path.parent, {**known, path.name: valid})
    files.write_text(path, text)


def read_text(path: Path) -> str:
    """The text of a file. Raises InputError if its checksum is wrong, OSError or ValueError if it cannot be read."""
    verify(path)
    return path.read_text(encoding="utf-8")


def write_all(folder: Path, most: int | None = None) -> None:
    """Write the checksums of all files of a folder, up to ``most`` bytes. Raises OSError when the disk refuses."""
    there = (path for path in sorted(folder.iterdir()) if path.is_file())
    _write(folder, {path.name: [_of(path)] for path in there if most is None or path.stat().st_size <= most})


def verify(path: Path, most: int | None = None) -> None:
    """Raise InputError if the checksum of a file is not the one that is kept beside it, if there is any.

    Args:
        path: of the file.
        most: bytes; a file that has more is not read.
    """
    if not path.is_file() or (most is not None and path.stat().st_size > most):
        return
    expected = _read(path.parent).get(path.name)
    if expected and _of(path) not in expected:
        raise InputError(f"{path}: damaged, its checksum is not that in {NAME} (remove that if you changed the file)")


def _of(path: Path) -> str:
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            crc = zlib.crc32(chunk, crc)
    return f"{crc:08x}"


def _write(folder: Path, known: Mapping[str, list[str]]) -> None:
    files.write_text(folder / NAME, json.dumps(known, indent=1) + "\n")


def _read(folder: Path) -> dict[str, list[str]]:
    path = folder / NAME
    try:
        known = from_json(path.read_text(encoding="utf-8"))
        return {str(name): [str(each) for each in sums] for name, sums in known.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, TypeError):
        raise InputError(f"{path}: damaged; remove it to read what lies beside it unchecked") from None
