"""One fault, what became of it, and who judges."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal

from mnemo.disk import checkpoint
from mnemo.disk.files import InputError

from . import command
from .command import Command
from .stages import Times, Wire

Outcome = Literal["survived", "refused", "lost"]
ERRATIC = ("seconds", "peak_memory_bytes", "command")
"""What run.json says of the clock, the machine and the caller."""
NOISE = re.compile(r"process \d+ on \S+ since [^)]+")


@dataclass(frozen=True)
class Trial:
    """A fault and its outcome.

    Attributes:
        kind: of fault, such as ``kill``.
        what: such as ``SIGKILL``, or ``a byte of latest.safetensors``.
        where: the stage that the run was in, or the command that read the file.
        outcome: ``survived``: the run ends as an undisturbed one. ``refused``: one line says what is broken, and in
            which file. ``lost``: anything else.
        line: what was said.
    """

    kind: str
    what: str
    where: str
    outcome: Outcome
    line: str = ""


@dataclass
class Bench:
    """Where trials are made, and the undisturbed run that they are compared with.

    Attributes:
        scratch: an empty folder.
        arguments: of the run; ``--out run`` is among them.
        random: draws moments and places.
        given: a folder with what a run finds in its present folder.
        times, whole, expected: of the undisturbed run: how long it was where, its folder, and what it left.
    """

    scratch: Path
    arguments: tuple[str, ...]
    random: Random = field(default_factory=Random)
    given: Path | None = None
    times: Times = field(default_factory=Times)
    whole: Path = Path()
    expected: dict[str, Any] = field(default_factory=dict)
    _made: int = 0

    def measure(self) -> None:
        """Carry out the run undisturbed."""
        self.whole, wire = self.folder(), Wire()
        process = self.start(self.whole, before=wire.watched)
        self.times.follow(wire)
        if process.wait():
            raise RuntimeError(f"an undisturbed run ends with: {process.said}")
        self.expected = told(self.whole / "run")

    def folder(self, copy: Path | None = None) -> Path:
        """A new one, which holds what another does."""
        self._made += 1
        folder = self.scratch / f"{self._made:04d}"
        if copy := copy or self.given:
            shutil.copytree(copy, folder)
        else:
            folder.mkdir(parents=True)
        return folder

    def start(self, folder: Path, *more: str, before: Callable[[], None] | None = None) -> Command:
        """Start the run in a folder."""
        return command.start([*self.arguments, *more], folder, before)

    def moment(self, stage: str) -> tuple[int, float]:
        """A time that the run is in a stage, from 0, and seconds from then on within it."""
        occurrence = self.random.randrange(len(self.times.of[stage]))
        return occurrence, self.random.uniform(0, self.times.of[stage][occurrence])

    def resumed(self, folder: Path, names: tuple[str, ...] = ()) -> tuple[Outcome, str]:
        """What becomes of the run in a folder when it goes on.

        Args:
            folder: of the trial.
            names: of files that may be complained of; where there is none, nothing may.
        """
        process = self.start(folder, "--resume")
        code = process.wait()
        if code == 0:
            return self.compared(folder / "run", tuple(self.expected))
        return judged(code, process.said, names)

    def compared(self, run: Path, keys: tuple[str, ...]) -> tuple[Outcome, str]:
        """Whether a run's folder holds what the undisturbed one does, of what :func:`told` calls by these names."""
        try:
            found = told(run)
        except (OSError, ValueError, InputError) as error:
            return "lost", f"{type(error).__name__}: {error}"
        for key in keys:
            if found.get(key) != self.expected.get(key):
                return "lost", f"{key} differs: {str(found.get(key))[:200]}"
        return "survived", ""

    def stage(self) -> str:
        """One that the run has, at random."""
        return self.random.choice(list(self.times.of))

    def done(self, folder: Path) -> None:
        """Make room."""
        shutil.rmtree(folder, ignore_errors=True)
        for said in folder.parent.glob(f"{folder.name}-*.err"):
            said.unlink()


def judged(code: int, said: str, names: tuple[str, ...]) -> tuple[Outcome, str]:
    """Whether a command that has failed was clear: exit code 2, and one line that has one of the names."""
    line = NOISE.sub("process N on HOST since TIME", " ".join(said.split()))[-300:]
    clear = code == 2 and said.startswith("mnemo: ") and said.count("\n") == 1
    named = any(name in said for name in names)
    return ("refused", line) if clear and named else ("lost", f"exit code {code}: {line}")


def told(run: Path) -> dict[str, Any]:
    """All that a run leaves, but for what clock and machine say: record, checkpoints, and the names of its files."""
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    checkpoints = {path.name: _sums(path) for path in sorted((run / "checkpoints").iterdir())}
    return {
        **{key: value for key, value in record.items() if key not in ERRATIC},
        "checkpoints": checkpoints,
        "files": sorted(path.name for path in run.iterdir()),
    }


def _sums(path: Path) -> dict[str, int]:
    tensors, _ = checkpoint.load(path)
    return {name: hash(tensor.contiguous().flatten().numpy().tobytes()) for name, tensor in tensors.items()}
