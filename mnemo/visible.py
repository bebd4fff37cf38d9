"""Text that others may have written, such as names of classes, files and protocols, as what it is and no more.

Control characters move a terminal's cursor and change its colours, line ends begin lines of their own, marks of the
direction of writing reorder what stands around them, and halves of surrogate pairs cannot be written at all.
"""

import re

_OTHERS = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_IN_A_LINE = re.compile(f"[\x00-\x1f{_OTHERS}]")
_ON_A_PAGE = re.compile(f"[\x00-\x08\x0b-\x1f{_OTHERS}]")


def in_a_line(text: object) -> str:
    r"""The text in one line, with ``\x1b`` and the like in place of what does more than to be seen."""
    return _IN_A_LINE.sub(_named, str(text))


def on_a_page(text: str) -> str:
    """The same but for line ends and tabs, which may stay."""
    return _ON_A_PAGE.sub(_named, text)


def _named(character: re.Match[str]) -> str:
    return ascii(character[0])[1:-1]
