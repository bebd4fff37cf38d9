"""The records of a comparison, each read once, and the difference of two rows task by task."""

import functools
import statistics
from dataclasses import dataclass

from mnemo.fewshot import record
from mnemo.fewshot.record import FewShotRun

from .plan import Cell, Comparison, Row
from .work import Places


@dataclass(frozen=True)
class Gap:
    """How far a row is ahead of another one.

    Attributes:
        mean: over the tasks that both have solved, in points.
        interval: half the width of its 95 % interval.
    """

    mean: float
    interval: float

    def __str__(self) -> str:
        return f"{self.mean:+.2f} ± {self.interval:.2f}"


class Results:
    """The records that there are."""

    def __init__(self, plan: Comparison, places: Places) -> None:
        self.plan = plan
        self._places = places
        self._run = functools.cache(record.load)
        self._accuracies = functools.cache(record.load_accuracies)

    def of(self, row: Row, shot: int) -> dict[int, FewShotRun]:
        """Those of a row with so many shots, by seed."""
        cells = [Cell(row, shot, seed) for seed in self.plan.seeds if shot in self.plan.shots_of(row)]
        return {cell.seed: self._run(self._places.record(cell)) for cell in cells if self._places.done(cell)}

    def all(self) -> list[FewShotRun]:
        """In the order of the plan."""
        return [
            run for row in self.plan.rows for shot in self.plan.shots_of(row) for run in self.of(row, shot).values()
        ]

    def gap(self, row: Row, other: Row, shot: int) -> Gap | str:
        """Over all seeds that both have; a word or two where they must not be compared, and "" where none has both."""
        ours, theirs = self.of(row, shot), self.of(other, shot)
        gaps: list[float] = []
        for seed in [seed for seed in ours if seed in theirs]:
            files = [self._places.accuracies(Cell(each, shot, seed)) for each in (row, other)]
            (mine, digest), (yours, same) = map(self._accuracies, files)
            if digest != same:
                return "other tasks"
            if len({ours[seed].pretrained_digest, theirs[seed].pretrained_digest} - {""}) > 1:
                return "other backbone"
            gaps += [a - b for a, b in zip(mine, yours, strict=True)]
        if not gaps:
            return ""
        return Gap(statistics.mean(gaps), 1.96 * statistics.stdev(gaps) / len(gaps) ** 0.5)
