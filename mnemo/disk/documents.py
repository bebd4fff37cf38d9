"""JSON and TOML that others may have written: whatever is wrong with a text is a ValueError."""

import contextlib
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .files import InputError, first_complaint


def from_json(text: str) -> Any:
    """What a JSON text says. Raises ValueError if it is none, or is nested too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def from_toml(text: str) -> dict[str, Any]:
    """What a TOML text says. Raises ValueError if it is none, or is nested too deeply to be read."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


@contextlib.contextmanager
def reading(path: Path, what: str, missing: str = "no such file") -> Iterator[None]:
    """Turn what comes of a document that is not as it should be into an InputError, one line that names the file.

    Args:
        path: of the document.
        what: it cannot be read as, such as ``TOML``.
        missing: what is said where it is not there.
    """
    from pydantic import ValidationError  # here, since help texts should not wait for it

    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: {missing}") from None
    except ValidationError as error:
        where, message = first_complaint(error)
        raise InputError(f"{path}: {where}: {message[:1].lower()}{message[1:]}") from None
    except (OSError, ValueError) as error:  # neither UTF-8 nor TOML is a ValueError too
        raise InputError(f"{path}: cannot be read as {what} ({error})") from None
