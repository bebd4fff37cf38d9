"""Several worker processes, each of which takes one job after the other.

Unlike concurrent.futures, a worker that is killed costs its job alone. Workers are spawned and not forked, since
neither torch's threads nor CUDA survive a fork.
"""

import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from . import work
from .jobs import Job
from .work import Done, Failed, Message

GRACE = 10.0
"""Seconds that a worker has to end."""


class Queue:
    """Jobs in order; one that needs another waits for it, and fails with it."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._waiting = list(jobs)
        self._undone = {job.name for job in jobs}
        self._failed: set[str] = set()

    def take(self) -> Job | None:
        """The next job that can be done now."""
        for job in self._waiting:
            if job.needs not in self._undone:
                self._waiting.remove(job)
                return job
        return None

    def note(self, job: Job, message: Message) -> None:
        """Hear what is told of a job that was taken."""
        if isinstance(message, Done | Failed):
            self._undone.remove(job.name)
        if isinstance(message, Failed):
            self._failed.add(job.name)

    def hopeless(self) -> Iterator[tuple[Job, Failed]]:
        """Take out the jobs that need one that failed."""
        for job in [job for job in self._waiting if job.needs in self._failed]:
            self._waiting.remove(job)
            self._undone.remove(job.name)
            yield job, Failed(f"needs {job.needs}, which failed")


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    job: Job | None = None


def execute(jobs: Sequence[Job], processes: int) -> Generator[tuple[Job, Message]]:
    """Carry out all jobs; gives what is told of each. With one process that is this one.

    However this ends, no worker is left; what was under way can be resumed.
    """
    queue = Queue(jobs)
    with closing(_alone(queue) if processes == 1 else _side_by_side(queue, processes)) as told:
        for job, message in told:
            queue.note(job, message)
            yield job, message
            yield from queue.hopeless()


def _alone(queue: Queue) -> Generator[tuple[Job, Message]]:
    work.settle()
    while job := queue.take():
        for message in work.carry_out(job):
            yield job, message


def _side_by_side(queue: Queue, processes: int) -> Generator[tuple[Job, Message]]:
    workers: list[_Worker] = []
    try:
        while True:
            _hand_out(queue, workers, processes)
            busy = [worker for worker in workers if worker.job]
            if not busy:
                return
            ready = wait([worker.pipe for worker in busy])
            for worker in busy:
                if worker.pipe in ready:
                    yield _hear(worker, workers)
    finally:
        _stop(workers)


def _hand_out(queue: Queue, workers: list[_Worker], processes: int) -> None:
    while idle := next((worker for worker in workers if not worker.job), None) or len(workers) < processes:
        job = queue.take()
        if job is None:
            return
        worker = idle if isinstance(idle, _Worker) else _start(workers)
        worker.job = job
        with suppress(OSError):  # it is gone, which is noticed when it is heard
            worker.pipe.send(job)


def _start(workers: list[_Worker]) -> _Worker:
    spawn = get_context("spawn")
    ours, theirs = spawn.Pipe()
    with _no_interruption():
        process = spawn.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        workers.append(_Worker(process, ours))
    theirs.close()
    return workers[-1]


def _hear(worker: _Worker, workers: list[_Worker]) -> tuple[Job, Message]:
    assert worker.job
    job, message = worker.job, _received(worker)
    if message is None:
        worker.process.join()
        workers.remove(worker)
        return job, Failed(f"its process ended with exit code {worker.process.exitcode}, for want of memory perhaps")
    if isinstance(message, Done | Failed):
        worker.job = None
    return job, message


def _received(worker: _Worker) -> Message | None:
    try:
        message: Message = worker.pipe.recv()
    except (EOFError, OSError):  # it has ended, maybe in the midst of a message
        return None
    return message


def _stop(workers: Sequence[_Worker]) -> None:
    """A checkpoint is whole at any moment, so that workers may end at any."""
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join(GRACE)
        worker.process.kill()
        worker.process.join()


@contextmanager
def _no_interruption() -> Iterator[None]:
    """Ctrl-C comes to all processes of a terminal; workers inherit that they do not hear it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # starting it lets signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection) -> None:
    """In the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    work.settle()
    with suppress(EOFError, OSError):  # the parent is gone
        while True:
            for message in work.carry_out(pipe.recv()):
                pipe.send(message)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
