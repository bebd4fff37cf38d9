"""Runs on a cluster of Ray, or on this machine alone: each is a task of Ray, which decides where and when.

Ray is an extra, and is imported here alone, once it is needed.
"""

import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch

from .. import engine, machine, record
from ..disk.files import InputError
from . import side_by_side
from .messages import Failed, Finished, PhaseResult
from .sweep import Resources
from .tasks import Task

LOOK = 1.0
"""Seconds between two looks at the records of runs that are under way."""
STORE = 2**27
"""Bytes for the results of tasks where Ray is started here; they are a few words each."""


def execute(
    tasks: Sequence[Task], resources: Resources, address: str | None = None
) -> Generator[tuple[str, PhaseResult | Finished | Failed]]:
    """Carry out runs, each in a worker of its own; gives the name of a run and what is known of it.

    A run whose worker was lost is taken up again from its checkpoint, if its ``resume`` is set. One that fails leaves
    the others alone, but for those that take over its base network. However this ends, by closing it too, no run is
    left under way; checkpoints stay.

    Args:
        tasks: those whose base network others take over come before them.
        resources: what each of them takes.
        address: of a cluster that is there, as Ray writes it; None starts Ray on this machine, and ends it.

    Raises InputError where Ray is not installed, does not answer, or would wait for resources without end.
    """
    ray = _import()
    before = signal.getsignal(signal.SIGTERM)
    _connect(ray, address, resources)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray's own would end this process with another exit code
    try:
        yield from _carried_out(ray, tasks, resources)
    finally:
        ray.shutdown()


def _import() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    try:
        import ray
    except ImportError:
        raise InputError("Ray is not installed: pip install 'mnemo-cil[ray]'") from None
    return ray


def _connect(ray: Any, address: str | None, resources: Resources) -> None:
    here = {"num_cpus": machine.cores(), "num_gpus": torch.cuda.device_count()}
    if address is None:
        for name, wanted, there in zip(("CPU", "GPU"), (resources.cpus, resources.gpus), here.values(), strict=True):
            if wanted > there:  # where a cluster might grow, a run would wait without end
                raise InputError(f"a run takes {wanted:g} {name}, and this machine has {there}")
    options: dict[str, Any] = {"include_dashboard": False, "object_store_memory": STORE, **here}
    try:
        ray.init(address or "local", log_to_driver=False, logging_level="error", **({} if address else options))
    except Exception as error:  # Ray raises Exception itself where it takes too long to start
        where = f"--ray {address}" if address else "Ray did not start on this machine"
        raise InputError(f"{where}: {' '.join(str(error).split())}") from None


def _carried_out(
    ray: Any, tasks: Sequence[Task], resources: Resources
) -> Iterator[tuple[str, PhaseResult | Finished | Failed]]:
    # a worker that has done a run ends, so that peak memory is each run's own
    needs = {"num_cpus": resources.cpus, "num_gpus": resources.gpus, "max_retries": resources.retries}
    carry_out = ray.remote(max_calls=1, **needs)(_carry_out)
    results: dict[str, Any] = {}
    for task in tasks:
        base = results.get(task.base.name) if task.base else None
        results[task.name] = carry_out.options(name=task.name).remote(task, resources, base)
    waiting = {result: task for task, result in zip(tasks, results.values(), strict=True)}
    looks = {task.name: _Look(task) for task in tasks}
    try:
        while waiting:
            done, _ = ray.wait(list(waiting), timeout=LOOK)
            for task in waiting.values():
                yield from ((task.name, result) for result in looks[task.name].news())
            for result in done:
                yield waiting.pop(result).name, _outcome(ray, result, resources)
    finally:
        for result in waiting:
            ray.cancel(result, force=True)


def _outcome(ray: Any, result: Any, resources: Resources) -> Finished | Failed:
    try:
        outcome: Finished | Failed = ray.get(result)
    except ray.exceptions.WorkerCrashedError:
        return Failed(f"its worker was lost {resources.retries + 1} times, for want of memory perhaps")
    except ray.exceptions.RayError as error:
        return Failed(" ".join(str(error).split()))
    return outcome


class _Look:
    """Looks at the record of a run that is under way somewhere else."""

    def __init__(self, task: Task) -> None:
        self._path, self._seen, self._phases = task.folder / "run.json", 0, 0
        with suppress(OSError, InputError):
            self._phases = len(record.load(self._path).phase_accuracy)  # of an earlier command

    def news(self) -> Iterator[PhaseResult]:
        """What has been learnt since the last look."""
        with suppress(OSError, InputError):  # it is not there yet
            written = self._path.stat().st_mtime_ns
            if written == self._seen:
                return
            run = record.load(self._path)
            self._seen = written
            if len(run.phase_accuracy) > self._phases:
                self._phases = len(run.phase_accuracy)
                yield PhaseResult.of(self._phases - 1, run)


# In the worker


def _carry_out(task: Task, resources: Resources, base: Finished | Failed | None) -> Finished | Failed:
    """Args: ``base``, the outcome of the run whose base network is taken over."""
    if isinstance(base, Failed):
        return Failed(f"the run whose base network it takes over failed: {base.line}")
    try:
        engine.keep_freed_memory()
        machine.use_threads(resources.cpus)
        if task.deterministic:
            machine.use_deterministic_algorithms()
        for message in side_by_side.carry_out(task, resources.device):
            if isinstance(message, Finished):
                return message
    except Exception as error:
        return side_by_side.failure(error)
    raise AssertionError("a run ends with its last message")
