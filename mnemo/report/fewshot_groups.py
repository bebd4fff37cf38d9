"""Few-shot runs gathered for a report: by data, way and shot, then by what differs by seed only."""

import json
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from ..fewshot.record import ACCURACIES, FewShotRun, load_accuracies
from ..record import EvaluatedOn
from .summary import LONGEST_NAME, Estimate, Settings, estimate, names

SHAPE = ("queries", "unlabelled", "distractors", "episodes")  # of tasks, beside way and shot


@dataclass(frozen=True)
class Evaluated:
    """A run, and the accuracies of its episodes in % where they are known."""

    run: FewShotRun
    accuracies: Sequence[float] | None = None


@dataclass(frozen=True)
class MethodGroup:
    """Runs of one method that differ by seed only.

    Attributes:
        name: short and unique in its comparison.
        series: index of its colour and its marker.
        settings: what tells it from the other groups of the same method, where its name does not.
        members: those that have an accuracy; means are over these.
        left_out: those that were not evaluated.
    """

    name: str
    series: int
    settings: Settings
    members: tuple[Evaluated, ...]
    left_out: tuple[FewShotRun, ...]

    @property
    def label(self) -> str:
        """The name, cut to what a chart has room for."""
        return self.name if len(self.name) <= LONGEST_NAME else self.name[: LONGEST_NAME - 1] + "…"

    @property
    def runs(self) -> list[FewShotRun]:
        """Those that have an accuracy."""
        return [member.run for member in self.members]

    @property
    def first(self) -> FewShotRun:
        """One that stands for all in what does not differ by seed."""
        return (*self.runs, *self.left_out)[0]

    @property
    def kind(self) -> str:
        """How its numbers came about: ``inductive, batch norm running``."""
        words = "transductive" if self.first.transductive else "inductive"
        return f"{words}, batch norm {self.first.batch_norm}"

    @property
    def accuracy(self) -> Estimate | None:
        """In %: of one run with its 95 % interval over episodes, of several with the sample deviation over seeds."""
        if len(self.members) == 1 and self.runs[0].accuracy is not None:
            return Estimate(self.runs[0].accuracy, self.runs[0].interval)
        return self.over_runs(lambda run: run.accuracy)

    def over_runs(self, value: Callable[[FewShotRun], float | None]) -> Estimate | None:
        """Mean and spread of one figure of each run."""
        return estimate(value(run) for run in self.runs)


@dataclass(frozen=True)
class Contest:
    """Groups that may be compared: the same data, way and shot, and classes of the same split.

    Attributes:
        data, way, shot, evaluated_on: see :class:`mnemo.fewshot.record.FewShotRun`.
        groups: at least one.
    """

    data: str
    way: int
    shot: int
    evaluated_on: EvaluatedOn
    groups: tuple[MethodGroup, ...]

    @property
    def name(self) -> str:
        """``glyphs, 5-way 1-shot``."""
        return f"{self.data}, {self.way}-way {self.shot}-shot"

    @property
    def chance(self) -> float:
        """The accuracy of blind guesses, in %."""
        return 100 / self.way

    @property
    def runs(self) -> list[FewShotRun]:
        """All runs, those left out of the means too."""
        return [run for group in self.groups for run in (*group.runs, *group.left_out)]

    @property
    def ranked(self) -> list[tuple[MethodGroup, Estimate]]:
        """Groups that have an accuracy, the best first."""
        found = [(group, accuracy) for group in self.groups if (accuracy := group.accuracy)]
        return sorted(found, key=lambda each: -each[1].mean)

    @property
    def baseline(self) -> MethodGroup:
        """The group that the others are compared with: the one that records name, else the first."""
        named = {run.paired.baseline for run in self.runs if run.paired}
        found = [group for group in self.groups if group.first.method in named]
        return found[0] if len(found) == 1 else self.groups[0]


def evaluated(run: FewShotRun, place: Path | None) -> Evaluated:
    """A run with what lies beside its record. Raises InputError if that is damaged."""
    if place is None:
        return Evaluated(run)
    file = (place if place.is_dir() else place.parent) / ACCURACIES
    accuracies, digest = load_accuracies(file) if file.exists() else ([], "")
    fits = digest == run.episodes_digest and len(accuracies) == run.episodes
    return Evaluated(run, accuracies if fits else None)


def gather(runs: Sequence[FewShotRun], places: Sequence[Path] = ()) -> list[Contest]:
    """Sort runs into contests and groups, in the order in which they come.

    A seed that comes twice with one method and configuration opens another group; see
    :func:`mnemo.report.summary.gather`.

    Args:
        runs: at least one.
        places: where they were read from; see :func:`mnemo.report.write`.
    """
    found: dict[tuple[str, int, int, EvaluatedOn], list[Evaluated]] = {}
    for run, place in zip_longest(runs, places[: len(runs)]):
        found.setdefault((run.data, run.way, run.shot, run.evaluated_on), []).append(evaluated(run, place))
    return [Contest(*key, _groups(members)) for key, members in found.items()]


def paired(group: MethodGroup, baseline: MethodGroup) -> Estimate | None:
    """Points by which a group is better on the same episodes, episode by episode; None where none are the same.

    Of one run with its 95 % interval, of several the sample standard deviation over seeds.
    """
    gaps = [gap for member in group.members if (gap := _gap(member, baseline))]
    return gaps[0] if len(gaps) == 1 else estimate(gap.mean for gap in gaps)


def _gap(one: Evaluated, baseline: MethodGroup) -> Estimate | None:
    """Against the baseline's run on the same episodes, of several the one of the same seed if there is one."""
    alike = [other for other in baseline.members if _same_episodes(one, other)]
    if not alike:
        return None
    other = min(alike, key=lambda each: each.run.seed != one.run.seed)
    gaps = [mine - theirs for mine, theirs in zip(one.accuracies or (), other.accuracies or (), strict=True)]
    error = statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else 0.0
    return Estimate(statistics.fmean(gaps), 1.96 * error)


def _same_episodes(one: Evaluated, other: Evaluated) -> bool:
    digest = one.run.episodes_digest
    known = one.accuracies is not None and other.accuracies is not None
    return known and digest != "" and digest == other.run.episodes_digest


def _groups(members: Sequence[Evaluated]) -> tuple[MethodGroup, ...]:
    found: dict[tuple[str, str, int], list[Evaluated]] = {}
    times: Counter[tuple[str, str, int]] = Counter()
    for member in members:
        run, configuration = member.run, json.dumps(_settings(member.run), sort_keys=True)
        times[run.method, configuration, run.seed] += 1
        repetition = times[run.method, configuration, run.seed]
        found.setdefault((run.method, configuration, repetition), []).append(member)
    named = names([(method, repetition, _settings(same[0].run)) for (method, _, repetition), same in found.items()])
    return tuple(
        _group(name, series, settings, same)
        for series, ((name, settings), same) in enumerate(zip(named, found.values(), strict=True))
    )


def _group(name: str, series: int, settings: Settings, members: Sequence[Evaluated]) -> MethodGroup:
    done = tuple(member for member in members if member.run.accuracy is not None)
    left_out = tuple(member.run for member in members if member.run.accuracy is None)
    return MethodGroup(name, series, settings, done, left_out)


def _settings(run: FewShotRun) -> Settings:
    """The configuration but for the seed, and the shape of tasks: key to JSON."""
    values = {key: value for key, value in run.config.items() if key != "seed"}
    values |= {key: getattr(run, key) for key in SHAPE}
    return {key: json.dumps(value, default=str, sort_keys=True, ensure_ascii=False) for key, value in values.items()}
