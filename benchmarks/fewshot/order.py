"""Whether the rows of a group stand in the order of the paper whose figures are beside them."""

import itertools
import re
from collections.abc import Iterator

from .plan import Group, Row
from .results import Gap, Results

SHOTS = (1, 5)
"""What the papers' figures are of, in their order: ``39.3 / 51.8``."""
SHOWN = 8


def sentences(results: Results, group: Group) -> list[str]:
    """One for each number of shots at which the paper and the records have two rows in common."""
    return [text for shot in SHOTS if (text := _sentence(results, group, shot))]


def _sentence(results: Results, group: Group, shot: int) -> str:
    found = [(ahead, behind, results.gap(ahead, behind, shot)) for ahead, behind in _pairs(group, shot)]
    gaps = [(ahead, behind, gap) for ahead, behind, gap in found if isinstance(gap, Gap)]
    if not gaps:
        return ""
    alike = sum(gap.mean > gap.interval for _, _, gap in gaps)
    against = sorted((each for each in gaps if each[2].mean < -each[2].interval), key=lambda each: each[2].mean)
    told = [f"{behind.label} is {_ahead(gap)} ahead of {ahead.label}" for ahead, behind, gap in against]
    more = [f"and {len(told) - SHOWN} more"] if len(told) > SHOWN else []
    return (
        f"Pairs of rows at {shot} shot{'s' if shot > 1 else ''}: {alike} as in the paper, "
        f"{len(gaps) - alike - len(against)} too near to tell, {len(against)} the other way round"
        f"{': ' if told else ''}{'; '.join([*told[:SHOWN], *more])}."
    )


def _ahead(gap: Gap) -> str:
    return str(Gap(-gap.mean, gap.interval)).lstrip("+")


def _pairs(group: Group, shot: int) -> Iterator[tuple[Row, Row]]:
    """The rows that the paper tells apart: first the one that is ahead there."""
    for one, other in itertools.combinations(group.rows, 2):
        theirs = [paper(row, shot) for row in (one, other)]
        if None not in theirs and theirs[0] != theirs[1]:
            yield (one, other) if theirs[0] > theirs[1] else (other, one)  # type: ignore[operator]


def paper(row: Row, shot: int) -> float | None:
    """The paper's accuracy in %; None where it has none that can be read."""
    figures = re.findall(r"\d+\.\d+", row.paper)
    place = SHOTS.index(shot)
    return float(figures[place]) if place < len(figures) else None
