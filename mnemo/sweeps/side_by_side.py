"""Several runs side by side on one device, each in a process of its own, which tells by messages how far it is.

Workers are spawned and not forked, since neither torch's threads nor CUDA survive a fork. A script that calls this must
therefore keep its own work under ``if __name__ == "__main__"``.
"""

import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from .. import engine, experiment, machine, shortage
from ..disk.files import InputError
from ..learner import EpochDone
from .messages import Failed, Finished, Message, PhaseResult, Started, Starting
from .tasks import Plan, Task, named

INTERRUPTED = 130
GRACE = 10.0
"""Seconds that a worker has to end by itself: an operation of torch is not broken off."""


def workers(plans: Sequence[Plan]) -> int:
    """How many of the runs are under way at once.

    It counts those that are complete too: a run that is resumed beside others then has the same number of threads as
    before, on which the last digits of its figures depend.
    """
    return machine.runs_at_once(plans[0].device, len(plans))


@dataclass(frozen=True)
class _Worker:
    plan: Plan
    process: BaseProcess
    messages: Connection
    heard: set[type] = field(default_factory=set)


def execute(plans: Sequence[Plan]) -> Generator[tuple[str, Message]]:
    """Carry out all that is planned; gives the name of a run and what it tells.

    However this ends, by closing it too, no worker is left. Checkpoints stay.

    Raises:
        InputError: a run failed, or its worker was killed; the line names it.
        KeyboardInterrupt: a worker was told to end.
    """
    yield from ((plan.task.name, plan.finished) for plan in plans if plan.finished)
    waiting = deque(plan for plan in plans if not plan.finished)
    most = workers(plans)
    running: dict[Connection, _Worker] = {}
    try:
        while waiting or running:
            while waiting and len(running) < most:
                _start(waiting[0], most, running)
                yield waiting.popleft().task.name, Starting()
            for messages in wait(list(running)):
                assert isinstance(messages, Connection)
                yield from _hear(running[messages], running)
    finally:
        _stop(list(running.values()))


def _start(plan: Plan, most: int, running: dict[Connection, _Worker]) -> None:
    spawn = get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_work, args=(plan.task, plan.device, most, theirs), name=plan.task.name, daemon=True)
    with _no_interruption():
        process.start()
        running[ours] = _Worker(plan, process, ours)
    theirs.close()  # ours is the only end now that is read, and the worker's the only one that is written


def _hear(worker: _Worker, running: dict[Connection, _Worker]) -> Iterator[tuple[str, Message]]:
    try:
        message = worker.messages.recv()
    except (EOFError, OSError):  # it has ended, maybe in the midst of a message
        _part_from(worker)
        del running[worker.messages]
        return
    worker.heard.add(type(message))
    if isinstance(message, Failed):
        _refuse(worker, message)
    yield worker.plan.task.name, message


def _part_from(worker: _Worker) -> None:
    worker.process.join()
    worker.messages.close()
    if Finished not in worker.heard:
        _tell_why(worker)


def _refuse(worker: _Worker, message: Failed) -> None:
    with named(worker.plan.task):
        error = InputError(message.line)
        if message.trace:
            error.add_note(message.trace)
        raise error


def _tell_why(worker: _Worker) -> None:
    """A worker has ended without a word."""
    code = worker.process.exitcode or 0
    if code in (INTERRUPTED, -signal.SIGTERM, -signal.SIGINT):  # where all processes of a group are told to end
        raise KeyboardInterrupt
    with named(worker.plan.task):
        if code == -9:  # SIGKILL, which Windows does not know
            raise InputError("its process was killed, for want of memory perhaps; --resume goes on")
        reason = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        raise InputError(f"its process ended {reason}; --resume goes on")


def _stop(running: Sequence[_Worker]) -> None:
    try:
        for worker in running:
            if Started in worker.heard:
                worker.process.terminate()
            else:  # it has nothing to put in order, and does not hear SIGTERM until torch is imported
                worker.process.kill()
        for worker in running:
            worker.process.join(GRACE)
    finally:  # after a second interruption too
        for worker in running:
            worker.process.kill()
            worker.process.join()


@contextmanager
def _no_interruption() -> Iterator[None]:
    """Keep signals back while a process is started, which inherits this.

    Otherwise it could be interrupted half way, and lost. And Ctrl-C comes to all processes of a terminal, while workers
    are to be ended by their parent alone.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # starting it lets signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# In the worker


def _work(task: Task, device: str, most: int, messages: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    try:
        messages.send(Started())
        engine.keep_freed_memory()
        machine.share_threads(most)
        if task.deterministic:
            machine.use_deterministic_algorithms()
        for message in carry_out(task, device):
            messages.send(message)
    except Exception as error:
        with suppress(OSError):  # the parent is gone
            messages.send(failure(error))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # from here there is nothing to put in order


def carry_out(task: Task, device: str) -> Iterator[Message]:
    """Carry out a run in this process, which is its own; tells how far it is."""
    prepared = task.prepare(device)
    machine.use_one_thread_if_small(prepared.learner.strategy.backbone)
    for event in experiment.execute(prepared, task.folder, resume=task.resume, base=task.base):
        yield event if isinstance(event, EpochDone) else PhaseResult.of(event.phase, prepared.run)
    yield Finished(prepared.run.average_incremental_accuracy or 0.0)


def failure(error: Exception) -> Failed:
    """What is told of an error that ended a run."""
    if isinstance(error, InputError):
        return Failed(str(error))
    if isinstance(error, torch.OutOfMemoryError):
        return Failed("the GPU has too little memory for so many runs at once; name fewer of them at a time")
    if isinstance(error, OSError):
        return Failed(f"{error.strerror or error}: {error.filename}" if error.filename else str(error))
    if shortage.of_memory(error):
        return Failed(shortage.line(error))
    words = " ".join(str(error).split())
    return Failed(f"{type(error).__name__}: {words}", "".join(traceback.format_exception(error)))


def _end(*_: object) -> None:
    raise SystemExit(INTERRUPTED)


def _end_with_parent() -> None:
    """Leave no orphan where the parent is killed. A checkpoint is whole at any moment."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(INTERRUPTED)
