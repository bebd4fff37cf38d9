"""Kills: a signal at a random moment of a random stage, and sometimes another one when the run goes on."""

import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from mnemo import report
from mnemo.disk import checkpoint
from mnemo.disk.files import InputError

from .stages import Wire
from .trial import Bench, Trial

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ENDS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 130, signal.SIGINT: 130}
AGAIN = 0.25
"""How often what goes on is killed again."""


def trials(bench: Bench, turns: Iterable[int]) -> Iterator[Trial]:
    """A kill for each turn, or a few; in all stages in turn. A signal that comes when all is over is none."""
    stages = list(bench.times.of)
    for turn in turns:
        stage = stages[turn % len(stages)]
        number = SIGNALS[turn // len(stages) % len(SIGNALS)]
        folder = bench.folder()
        killed = list(_killed(bench, folder, stage, number))
        while killed and bench.random.random() < AGAIN:
            killed += _killed(bench, folder, bench.stage(), bench.random.choice(SIGNALS))
        if killed:
            broken = next((line for _, _, line in killed if line), "") or unsound(folder)
            outcome, line = ("lost", broken) if broken else bench.resumed(folder)
            for name, where, _ in killed:
                yield Trial("kill", name, where, outcome, line)
        bench.done(folder)


def _killed(bench: Bench, folder: Path, stage: str, number: signal.Signals) -> Iterator[tuple[str, str, str]]:
    """Start or go on, and kill: the signal, the stage that it met, and what is wrong with how the run ended."""
    occurrence, delay = bench.moment(stage)
    wire, slow = Wire(), bench.random.random() < 0.5

    def before() -> None:
        wire.watched()
        if slow:
            _save_after_every_epoch()

    process = bench.start(folder, "--resume", before=before)
    met = wire.until(stage, occurrence)
    if met:
        time.sleep(delay)
        os.kill(process.pid, number)
    wire.listen()
    code = process.wait()
    if not met or (code == 0 and stage == "report"):
        return  # what goes on may not come there again; and a report is the last of all
    wrong = "" if code == ENDS[number] and "Traceback" not in process.said else f"exit code {code}: {process.said}"
    yield number.name, wire.inside[-1] if wire.inside else "between stages", wrong


def _save_after_every_epoch() -> None:
    from mnemo import experiment

    original = experiment.execute
    experiment.execute = lambda *arguments, **options: original(*arguments, checkpoint_seconds=0, **options)  # type: ignore[assignment]


def unsound(folder: Path) -> str:
    """What is wrong with a file that the kill has left; each must be whole."""
    try:
        for path in (folder / "run").glob("checkpoints/*.safetensors"):
            checkpoint.load(path)
        if (folder / "run" / "run.json").exists():
            report.load(folder / "run")
    except InputError as error:
        return str(error)
    return ""
