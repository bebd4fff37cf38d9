"""Files that are either whole or not there."""

import contextlib
import glob
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class InputError(Exception):
    """Something that the user gave, or that lies on disk, is not usable; the message is one clear line."""


class ToldElsewhere(Exception):
    """Another process of the same run has said why it ends.

    Args:
        code: to exit with.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def one_line(error: InputError | OSError) -> str:
    """What there is to tell of a foreseeable failure."""
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
    return str(error)


def first_complaint(error: "ValidationError") -> tuple[str, str]:
    """Where pydantic found the first fault, as ``a.b.0``, and what it says of it."""
    first = error.errors()[0]
    return ".".join(str(part) for part in first["loc"]), first["msg"]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place, flushed to disk, once the block ends without an error.

    A kill or a full disk at any moment leaves what was there before. Raises OSError that names ``path`` when the disk
    refuses.
    """
    part = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        part = Path(name)
        os.close(handle)
        yield part
        with open(part, "rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)  # mkstemp made it private
        os.replace(part, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        error.filename = str(path)  # a write that fails does not say where, and nobody knows the temporary name
        raise
    finally:
        if part:
            part.unlink(missing_ok=True)


def sweep(folder: Path, name: str = "") -> None:
    """Remove what kills in the midst of :func:`replacing` have left in ``folder``, of files whose name begins so."""
    for part in folder.glob(f".{glob.escape(name)}*.part"):
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
