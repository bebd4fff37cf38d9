"""Where a run is: its process tells through a pipe what it enters and what it leaves."""

import importlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

STAGES = {
    "training": [("mnemo.stages", "Training.epoch")],
    "exemplar step": [("mnemo.exemplars.pixels", "PixelLoop.epoch")],
    "meta-training": [("mnemo.fewshot.meta_training", "MetaLoop._step")],
    "evaluation": [("mnemo.learner", "Learner.evaluate"), ("mnemo.fewshot.meta_training", "MetaLoop._look")],
    "checkpoint": [("mnemo.disk.checkpoint", "save")],
    "record": [("mnemo.record", "save"), ("mnemo.fewshot.experiment", "_finish")],
    "report": [("mnemo.report", "write")],
}
"""For each stage the functions, with their modules, that are called in it alone."""


class Wire:
    """A pipe from a process that is watched."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self._rest, self._lines = b"", deque[bytes]()
        self.inside: list[str] = []

    def watched(self) -> None:
        """In the process: tell of everything that is entered, and left in good order."""
        os.close(self._read)
        for stage in STAGES:
            around(stage, lambda call, stage=stage: self._told(stage, call))

    def _told(self, stage: str, call: Callable[[], Any]) -> Any:
        os.write(self._write, f"+{stage}\n".encode())
        result = call()
        os.write(self._write, f"-{stage}\n".encode())
        return result

    def heard(self) -> Iterator[tuple[bool, str]]:
        """Outside: whether a stage is entered, and which, until the process has ended."""
        if self._write >= 0:
            os.close(self._write)
            self._write = -1
        while self._lines or self._listened():
            line = self._lines.popleft()
            stage = line[1:].decode()
            entered = line.startswith(b"+")
            self.inside.append(stage) if entered else self.inside.remove(stage)
            yield entered, stage

    def _listened(self) -> bool:
        """Whether there was more; who asks may have stopped in the midst of what came at once."""
        while self._read >= 0 and not self._lines:
            data = os.read(self._read, 4096)
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._lines.extend(lines)
            if not data:
                os.close(self._read)
                self._read = -1
        return bool(self._lines)

    def listen(self) -> None:
        """Wait until the process has ended."""
        for _ in self.heard():
            pass

    def until(self, stage: str, occurrence: int) -> bool:
        """Wait until a stage is entered for the ``occurrence``-th time, from 0; whether that came."""
        found = (name for entered, name in self.heard() if entered and name == stage)
        return any(index == occurrence for index, _ in enumerate(found))


@dataclass
class Times:
    """How long an undisturbed run is in each stage, in seconds, each time that it is there."""

    of: dict[str, list[float]] = field(default_factory=dict)

    def follow(self, wire: Wire) -> None:
        """Take them from a run."""
        since = {}
        for entered, stage in wire.heard():
            if entered:
                since[stage] = time.monotonic()
            else:
                self.of.setdefault(stage, []).append(time.monotonic() - since[stage])


def at(stage: str, occurrence: int, action: Callable[[], None]) -> None:
    """In the process: do something when a stage is entered for the ``occurrence``-th time, from 0."""
    left = [occurrence]

    def then(call: Callable[[], Any]) -> Any:
        if not left[0]:
            action()
        left[0] -= 1
        return call()

    around(stage, then)


def around(stage: str, wrapper: Callable[[Callable[[], Any]], Any]) -> None:
    """In the process: have ``wrapper`` called in place of whatever a stage does, with that as its argument."""
    for module, name in STAGES[stage]:
        wrap(importlib.import_module(module), name, lambda call, *_: wrapper(call))


def wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """In the process: have ``wrapper`` called in place of a function or method, which modules do not import by name.

    Args:
        owner: the module or class that has it.
        name: of it; dots lead through what ``owner`` has.
        wrapper: takes the call as it would be, without arguments, and then its arguments.
    """
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    original = getattr(owner, last)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        return wrapper(lambda: original(*arguments, **options), *arguments)

    setattr(owner, last, wrapped)
