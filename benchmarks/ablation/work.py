"""What a worker does: it trains a base network or runs a cell, and tells how far it is."""

import contextlib
import ctypes
import gc
import itertools
import shutil
import time
import traceback
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from mnemo import engine, experiment, record
from mnemo.disk.files import InputError, write_text
from mnemo.learner import Event, PhaseDone

from .jobs import Job, base_file

EVERY = 0.5
"""Seconds between two messages, at least."""


@dataclass(frozen=True)
class Share:
    """How much of a job is done, 0..1."""

    done: float


@dataclass(frozen=True)
class Done:
    """A job is done.

    Attributes:
        accuracy: of a cell, the average incremental accuracy in %.
    """

    accuracy: float | None = None


@dataclass(frozen=True)
class Failed:
    """A job failed; the line says why."""

    line: str


Message = Share | Done | Failed


def settle() -> None:
    """Once in each process that carries out jobs. Figures must not depend on how many there are: one thread each."""
    engine.keep_freed_memory()
    torch.set_num_threads(1)


def carry_out(job: Job) -> Iterator[Message]:
    """Do a job, from where it was broken off; whatever fails is told."""
    yield Share(0)
    try:
        _forget_peak()
        yield from _throttled(_cell(job, job.result) if job.result else _base(job))
    except InputError as error:
        yield Failed(str(error))
    except Exception as error:
        with contextlib.suppress(OSError):
            write_text(job.task.folder / "error.txt", traceback.format_exc())
        yield Failed(f"{type(error).__name__}: {' '.join(str(error).split())}")


def _throttled(messages: Iterator[Message]) -> Iterator[Message]:
    last = 0.0
    for message in messages:
        if not isinstance(message, Share) or time.monotonic() - last >= EVERY:
            last = time.monotonic()
            yield message


def _base(job: Job) -> Iterator[Message]:
    """Phase 0 up to the moment when the base network is saved."""
    prepared, path = job.task.prepare(job.task.device), base_file(job.task.folder)
    work = {key: value for key, value in prepared.work().items() if key == (0, "train")}
    with contextlib.closing(_events(prepared, job)) as events:
        for event in events:
            if path.exists():
                break
            yield Share(_share(work, event))
    if not path.exists():
        raise InputError(f"{job.task.strategy} trains no base network; the first row has to")
    job.task.latest.unlink(missing_ok=True)
    yield Done()


def _cell(job: Job, result: Path) -> Iterator[Message]:
    """A whole run; its record goes to ``result``, and then its checkpoints go."""
    folder = job.task.folder
    if (folder / "run.json").exists() and not job.task.latest.exists():
        shutil.rmtree(folder)  # it was finished, and its record has been deleted since
    prepared = job.task.prepare(job.task.device)
    work = prepared.work()
    for event in _events(prepared, job):
        yield Share(_share(work, event))
    result.parent.mkdir(parents=True, exist_ok=True)
    record.save(prepared.run.model_copy(update={"exemplar_samples": []}), result)
    shutil.rmtree(folder / "checkpoints")
    yield Done(prepared.run.average_incremental_accuracy)


def _events(prepared: experiment.Experiment, job: Job) -> Generator[Event]:
    yield from experiment.execute(prepared, job.task.folder, resume=True, base=job.task.base)


def _share(work: Mapping[tuple[int, str], float], event: Event) -> float:
    if isinstance(event, PhaseDone):
        done = sum(value for (phase, _), value in work.items() if phase <= event.phase)
    else:
        at = (event.phase, event.stage)
        done = sum(work[key] for key in itertools.takewhile(lambda key: key != at, work))
        done += work.get(at, 0) * (event.epoch + 1) / event.epochs
    return done / max(sum(work.values()), 1)


def _forget_peak() -> None:
    """Let the peak memory of a job be its own, and not that of what the process did before; on Linux and GPUs."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)  # the heap is kept otherwise; see mnemo.engine.keep_freed_memory
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
