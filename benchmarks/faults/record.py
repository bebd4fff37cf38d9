"""The record of a campaign, and the table that is made from it."""

import datetime
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from mnemo import machine
from mnemo.disk.files import write_text

from ..speed.record import git
from ..suite import write_table
from .trial import Trial

PAGE = Path(__file__).parent.parent.parent / "docs" / "faults.md"
CODE = ("mnemo", "strategies", "benchmarks/faults")
OUTCOMES = ("survived", "refused", "lost")


@dataclass
class Found:
    """What has been tried, and what became of it.

    Attributes:
        seed: of all that was drawn.
        short: whether it was only some of each.
        mounts: whether disks were really full.
        commit, changed: the code that was tried, and whether that was not all of it.
    """

    seed: int
    short: bool
    mounts: bool
    trials: list[Trial] = field(default_factory=list)
    commit: str = field(default_factory=lambda: git("rev-parse", "HEAD"))
    changed: bool = field(default_factory=lambda: bool(git("status", "--porcelain", "--", *CODE)))
    _since: float = field(default_factory=time.monotonic)

    def add(self, trial: Trial) -> None:
        self.trials.append(trial)

    @property
    def lost(self) -> int:
        return sum(trial.outcome == "lost" for trial in self.trials)

    def table(self) -> str:
        return table([asdict(trial) for trial in self._ordered()])

    def _ordered(self) -> list[Trial]:
        """By kind; trials of several processes come as they are done."""
        return sorted(self.trials, key=lambda trial: (trial.kind, trial.where, trial.what, trial.line))

    def save(self, path: Path) -> None:
        """Write the record. Raises OSError."""
        counts = Counter(trial.outcome for trial in self.trials)
        about = {
            "command": f"python -m benchmarks.faults --seed {self.seed}{' --short' if self.short else ''}",
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "commit": self.commit,
            "changed_since_commit": self.changed,
            "versions": machine.versions(),
            "hardware": machine.hardware(torch.device("cpu")),
            "seed": self.seed,
            "short": self.short,
            "full_file_systems": self.mounts,
            "seconds": round(time.monotonic() - self._since),
            "injected": len(self.trials),
            **{outcome: counts[outcome] for outcome in OUTCOMES},
            "trials": [asdict(trial) for trial in self._ordered()],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(about, indent=1) + "\n")


def load(path: Path) -> dict[str, Any]:
    """A record."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write_page(record: dict[str, Any]) -> None:
    """Fill the table's place in docs/faults.md."""
    write_table("faults", text(record), PAGE)


def text(record: dict[str, Any]) -> str:
    """The table of a record, and where it comes from."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return (
        f"{table(record['trials'])}\n\n`{record['command']}`, commit {record['commit'][:7]}, {record['date'][:10]}, "
        f"{record['hardware']}; {versions}; {record['seconds'] / 60:.0f} minutes."
    )


def table(trials: list[dict[str, str]]) -> str:
    """Counts by kind of fault, and of kills by the stage that they met."""
    return "\n".join(_rows(trials))


def _rows(trials: list[dict[str, str]]) -> Iterator[str]:
    yield "| fault | injected | survived | clearly refused | lost |"
    yield "|---|---|---|---|---|"
    for name in dict.fromkeys(_name(trial) for trial in trials):
        yield _row(name, [trial for trial in trials if _name(trial) == name])
    yield _row("all", trials)


def _name(trial: dict[str, str]) -> str:
    return f"kill in {trial['where']}" if trial["kind"] == "kill" else trial["kind"]


def _row(name: str, trials: list[dict[str, str]]) -> str:
    counts = Counter(trial["outcome"] for trial in trials)
    return f"| {name} | {len(trials)} | {' | '.join(str(counts[outcome]) for outcome in OUTCOMES)} |"
