"""Removal: files and folders that vanish while a run is at work on them."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from .stages import Wire
from .trial import Bench, Outcome, Trial, judged

WHAT = (
    "run/checkpoints/latest.safetensors",
    "run/checkpoints/base.safetensors",
    "run/checkpoints/phase-00.safetensors",
    "run/run.json",
    "run/checksums.json",
    "run/checkpoints/.lock",
    "run/checkpoints",
    "run",
)


def trials(bench: Bench, turns: Iterable[int]) -> Iterator[Trial]:
    """A removal at a random moment for each turn, each thing in turn."""
    for turn in turns:
        folder, what, stage = bench.folder(), WHAT[turn % len(WHAT)], bench.stage()
        occurrence, _ = bench.moment(stage)
        wire = Wire()
        process = bench.start(folder, before=wire.watched)
        wire.until(stage, occurrence)
        gone = _removed(folder / what)
        wire.listen()
        code = process.wait()
        outcome: Outcome
        outcome, line = ("survived", "") if code == 0 else judged(code, process.said, ("run",))
        if outcome != "lost":
            outcome, line = _after(bench, folder, what, line)
        yield Trial("removal", f"{what}{'' if gone else ' (not there yet)'}", stage, outcome, line)
        bench.done(folder)


def _removed(path: Path) -> bool:
    if not path.exists():
        return False
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    return True


def _after(bench: Bench, folder: Path, what: str, line: str) -> tuple[Outcome, str]:
    """What goes on must end with the same record, or say what is missing."""
    process = bench.start(folder, "--resume")
    code = process.wait()
    if code:
        return judged(code, process.said, (Path(what).name, "latest.safetensors"))
    outcome, after = bench.compared(folder / "run", tuple(bench.expected.keys() - {"checkpoints", "files"}))
    return outcome, after or line
