"""JSON and TOML that others may have written: whatever is wrong with a text is a ValueError."""

import json
import tomllib
from typing import Any


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
