"""Runs gathered for a report: by protocol, then by what differs by seed only, with means over seeds."""

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..record import Accuracies, Classifier, Run

LONGEST_NAME = 24
Settings = dict[str, str]


@dataclass(frozen=True)
class Estimate:
    """A mean over runs.

    Attributes:
        mean: in the unit of the values.
        spread: sample standard deviation (n - 1 below the line), in the same unit; None for a single value.
        n: number of values.
    """

    mean: float
    spread: float | None = None
    n: int = 1

    @property
    def low(self) -> float:
        """One standard deviation below the mean."""
        return self.mean - (self.spread or 0.0)

    @property
    def high(self) -> float:
        """One standard deviation above the mean."""
        return self.mean + (self.spread or 0.0)


def estimate(values: Iterable[float | None]) -> Estimate | None:
    """Mean and sample standard deviation of those values that are there and finite; None where none is."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return None
    return Estimate(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


def phases_done(run: Run) -> int:
    """Number of phases after which the run was evaluated."""
    return min(len(run.phase_accuracy), len(run.phase_classes))


@dataclass(frozen=True)
class Group:
    """Runs of one strategy on one protocol that differ by seed only.

    Attributes:
        name: short and unique on the page.
        series: index of its colour; the same wherever the name appears.
        settings: what tells it from the other groups of the same strategy, where its name does not.
        runs: those that got furthest, all the same number of phases; means are over these.
        left_out: those that stopped earlier.
    """

    name: str
    series: int
    settings: Settings
    runs: tuple[Run, ...]
    left_out: tuple[Run, ...]

    @property
    def label(self) -> str:
        """The name, cut to what a chart has room for."""
        return self.name if len(self.name) <= LONGEST_NAME else self.name[: LONGEST_NAME - 1] + "…"

    @property
    def phases(self) -> int:
        """Number of phases of the whole stream."""
        return len(self.runs[0].phase_classes)

    @property
    def done(self) -> int:
        """Number of phases after which there is an accuracy."""
        return phases_done(self.runs[0])

    @property
    def complete(self) -> bool:
        """Whether all phases of all runs that are counted are done."""
        return all(run.complete for run in self.runs)

    @cached_property
    def seen(self) -> list[int]:
        """Number of classes seen after each phase that is done."""
        sizes = [len(classes) for classes in self.runs[0].phase_classes[: self.done]]
        return [sum(sizes[: i + 1]) for i in range(len(sizes))]

    @cached_property
    def curve(self) -> list[Estimate | None]:
        """Accuracy over all seen classes after each phase that is done, in %."""
        return [estimate(run.phase_accuracy[i] for run in self.runs) for i in range(self.done)]

    @cached_property
    def matrix(self) -> list[list[Estimate | None]]:
        """Accuracy in % after phase i (row) on phase j's classes (column); row i has i + 1 columns."""
        return [[estimate(_cell(run, i, j) for run in self.runs) for j in range(i + 1)] for i in range(self.done)]

    @property
    def base(self) -> list[Estimate | None]:
        """Accuracy on the classes of phase 0 after each phase that is done, in %."""
        return [row[0] for row in self.matrix]

    @property
    def novel(self) -> list[Estimate | None]:
        """Accuracy over all classes that came after phase 0, likewise; None in phase 0."""
        return [estimate(_at(run.novel_accuracy, i) for run in self.runs) for i in range(self.done)]

    @property
    def harmonic_mean(self) -> list[Estimate | None]:
        """Of base and novel accuracy, likewise."""
        return [estimate(_at(run.harmonic_mean, i) for run in self.runs) for i in range(self.done)]

    def over_runs(self, value: Callable[[Run], float | None]) -> Estimate | None:
        """Mean and spread of one figure of each run."""
        return estimate(value(run) for run in self.runs)

    @property
    def average_incremental_accuracy(self) -> Estimate | None:
        """In %."""
        return self.over_runs(lambda run: run.average_incremental_accuracy)

    @property
    def last_accuracy(self) -> Estimate | None:
        """Accuracy over all seen classes after the last phase that is done, in %."""
        return self.curve[-1] if self.curve else None

    @property
    def forgetting_rate(self) -> Estimate | None:
        """In points."""
        return self.over_runs(lambda run: run.forgetting_rate)

    @property
    def classifiers(self) -> list[Classifier]:
        """Those that the first run was evaluated by, its own first."""
        own = self.runs[0].classifier
        return [own, *(each for each in self.runs[0].by_classifier if each != own)]

    def accuracies(self, classifier: Classifier) -> list[Accuracies]:
        """Each run's accuracies by ``classifier``, of the runs that have them."""
        found = [accuracies_of(run, classifier) for run in self.runs]
        return [each for each in found if each is not None]


def accuracies_of(run: Run, classifier: Classifier) -> Accuracies | None:
    """The accuracies of ``run`` by ``classifier``; None where there are none."""
    if classifier in run.by_classifier:
        return run.by_classifier[classifier]
    if classifier != run.classifier:
        return None
    return Accuracies.model_validate({name: getattr(run, name) for name in Accuracies.model_fields})


@dataclass(frozen=True)
class Comparison:
    """Groups that may be compared: one protocol, the same sizes of phases, the same images to evaluate on.

    Attributes:
        protocol: its name.
        sizes: number of classes of each phase.
        evaluated_on: ``"test"`` or ``"validation"``.
        groups: at least one.
    """

    protocol: str
    sizes: tuple[int, ...]
    evaluated_on: str
    groups: tuple[Group, ...]

    @property
    def seen(self) -> list[int]:
        """Number of classes seen after each phase that any group has done."""
        return max((group.seen for group in self.groups), key=len)

    @property
    def few_shot(self) -> bool:
        """Whether all runs have few images of the classes after phase 0, and some have accuracies on these classes."""
        few = all(run.config.get("protocol", {}).get("increment_images") for run in self.runs)
        return few and any(each for group in self.groups for each in group.novel)

    @property
    def furthest(self) -> int:
        """The largest number of phases that a group has done."""
        return max(group.done for group in self.groups)

    @property
    def runs(self) -> list[Run]:
        """All runs, those left out of the means too."""
        return [run for group in self.groups for run in (*group.runs, *group.left_out)]


def gather(runs: Sequence[Run]) -> list[Comparison]:
    """Sort runs into comparisons and groups, in the order in which they come.

    A seed that comes twice with one strategy, protocol and configuration opens another group: counted
    together, two runs of one seed would feign a spread that is too small.
    """
    found: dict[tuple[str, tuple[int, ...], str], list[Run]] = {}
    for run in runs:
        sizes = tuple(len(classes) for classes in run.phase_classes)
        found.setdefault((run.protocol, sizes, run.evaluated_on), []).append(run)
    series: dict[str, int] = {}
    return [Comparison(*key, _groups(members, series)) for key, members in found.items()]


def _groups(runs: Sequence[Run], series: dict[str, int]) -> tuple[Group, ...]:
    """Groups of the runs of one comparison; ``series`` gives each new name the next colour."""
    members: dict[tuple[str, str, int], list[Run]] = {}
    times: dict[tuple[str, str, int], int] = {}
    for run in runs:
        configuration = json.dumps(_settings(run), sort_keys=True)
        times[run.strategy, configuration, run.seed] = times.get((run.strategy, configuration, run.seed), 0) + 1
        repetition = times[run.strategy, configuration, run.seed]
        members.setdefault((run.strategy, configuration, repetition), []).append(run)
    named = names([(strategy, repetition, _settings(runs[0])) for (strategy, _, repetition), runs in members.items()])
    return tuple(
        _group(name, series.setdefault(name, len(series)), settings, same)
        for (name, settings), same in zip(named, members.values(), strict=True)
    )


def _group(name: str, series: int, settings: Settings, runs: Sequence[Run]) -> Group:
    furthest = max(phases_done(run) for run in runs)
    counted = tuple(run for run in runs if phases_done(run) == furthest)
    return Group(name, series, settings, counted, tuple(run for run in runs if phases_done(run) < furthest))


def _settings(run: Run) -> Settings:
    """The configuration but for the seed: key to JSON; a key that two sections have names its section."""
    flat = {
        (section, key): json.dumps(value, default=str, sort_keys=True, ensure_ascii=False)
        for section, values in run.config.items()
        for key, value in values.items()
        if key != "seed"
    }
    keys = [key for _, key in flat]
    return {key if keys.count(key) == 1 else f"{section}.{key}": v for (section, key), v in flat.items()}


def names(groups: Sequence[tuple[str, int, Settings]]) -> list[tuple[str, Settings]]:
    """For each (strategy, repetition, settings): a name, and the settings that tell it from its like."""
    alike: dict[str, list[Settings]] = {}
    for strategy, repetition, settings in groups:
        alike.setdefault(strategy, []).append(settings | {"repetition": str(repetition)})
    named = {strategy: iter(_tell_apart(strategy, each)) for strategy, each in alike.items()}
    return [next(named[strategy]) for strategy, _, _ in groups]


def _tell_apart(strategy: str, groups: Sequence[Settings]) -> list[tuple[str, Settings]]:
    """``lucir`` where alone; ``lucir per_class=5`` where one short setting differs; else ``lucir A``, ..."""
    if len(groups) == 1:
        return [(strategy, {})]
    keys = dict.fromkeys(key for settings in groups for key in settings)
    varied = [key for key in keys if len({settings.get(key) for settings in groups}) > 1]
    differing = [{key: settings.get(key, "-") for key in varied} for settings in groups]
    names = [" ".join([strategy, *(f"{k}={v.strip(chr(34))}" for k, v in s.items())]) for s in differing]
    if len(varied) == 1 and len(set(names)) == len(names) and max(map(len, names)) <= LONGEST_NAME:
        return [(name, {}) for name in names]
    return [(f"{strategy} {_letters(index)}", settings) for index, settings in enumerate(differing)]


def _letters(index: int) -> str:
    """A, B, ..., Z, AA, AB, ..."""
    before, at = divmod(index, 26)
    return (_letters(before - 1) if before else "") + chr(ord("A") + at)


def _at(values: Sequence[float | None], index: int) -> float | None:
    return values[index] if index < len(values) else None


def _cell(run: Run, i: int, j: int) -> float | None:
    if i >= len(run.accuracy) or j >= len(run.accuracy[i]):
        return None
    return run.accuracy[i][j]
