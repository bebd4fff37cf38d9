"""Names that nobody knows, and those that may have been meant."""

import difflib
from collections.abc import Iterable

from .disk.files import InputError


def refuse_unknown(names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raises InputError, with the nearest names, if one of ``names`` is not ``known``."""
    known = sorted(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
            raise InputError(f"unknown {what} {name!r}; {hint}")
