"""The command ``mnemo`` as a process, forked from one that has imported everything it needs.

It has a process, arguments, folder, signals, output and exit code of its own. It is there at once, where a new
interpreter would import torch for seconds.
"""

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

# Not mnemo.cli and mnemo.console: what they find out about the terminal is about the child's.
IMPORTS = (
    "typer",
    "rich.progress",
    "rich.table",
    "sklearn.datasets",
    "torch._dynamo",
    "mnemo.experiment",
    "mnemo.fewshot.experiment",
    "mnemo.report.figures",
    "mnemo.strategies.mnemonics",
)


def prepare() -> None:
    """Import what the command needs. torch must have one thread: others would not survive a fork."""
    for name in IMPORTS:
        importlib.import_module(name)


@dataclass
class Command:
    """A process that runs the command.

    Attributes:
        pid: its number.
        err: file of what it says on standard error.
    """

    pid: int
    err: Path

    def wait(self) -> int:
        """Its exit code; negative: the signal that ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    @property
    def said(self) -> str:
        return self.err.read_text(encoding="utf-8", errors="replace")


def start(arguments: Sequence[str], folder: Path, before: Callable[[], None] | None = None) -> Command:
    """Start ``mnemo`` with these arguments in a folder.

    Args:
        arguments: of the command.
        folder: the present one of the process; its output goes beside it.
        before: what is done in the process before.
    """
    pid = os.fork()
    err = folder.with_name(f"{folder.name}-{pid or os.getpid()}.err")
    if not pid:
        _child(arguments, folder, err, before)
    return Command(pid, err)


def _child(arguments: Sequence[str], folder: Path, err: Path, before: Callable[[], None] | None) -> None:
    code = 1
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background
    try:
        _redirect(err)
        os.chdir(folder)
        sys.argv = ["mnemo", *arguments]
        if before:
            before()
        from mnemo.cli import main

        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _redirect(err: Path) -> None:
    for number, path in enumerate((os.devnull, os.devnull, err)):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
        os.close(handle)
