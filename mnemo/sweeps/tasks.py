"""Tasks: one run of several, and what can be known of it before it begins."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import experiment, machine, settings
from ..datasets import Progress
from ..disk import checkpoint
from ..disk.files import InputError
from ..names import refuse_unknown
from ..protocols import Protocol
from .messages import Finished


@dataclass(frozen=True)
class Task:
    """One of the runs: what :func:`mnemo.experiment.prepare` and :func:`mnemo.experiment.execute` take.

    Attributes:
        folder: where it is carried out; its name is the run's, and no two may have the same.
        deterministic: whether its process calls :func:`mnemo.machine.use_deterministic_algorithms`.
    """

    protocol: Protocol
    strategy: str
    seed: int
    folder: Path
    values: Mapping[str, Any] = field(default_factory=dict)
    data_dir: Path | None = None
    device: str = "auto"
    base: Path | None = None
    resume: bool = False
    command: str = ""
    deterministic: bool = False

    @property
    def name(self) -> str:
        """Such as ``lucir-1993``."""
        return self.folder.name

    @property
    def latest(self) -> Path:
        """The checkpoint that a resumed run goes on from."""
        return self.folder / "checkpoints" / "latest.safetensors"

    def prepare(self, device: str, progress: Progress | None = None) -> experiment.Experiment:
        """The experiment on ``device``; ``progress`` is called while pictures are packed."""
        return experiment.prepare(
            self.protocol,
            self.strategy,
            self.values,
            seed=self.seed,
            data_dir=self.data_dir,
            device=device,
            command=self.command,
            progress=progress,
        )


def combinations(common: Task, strategies: Sequence[str], seeds: Sequence[int]) -> list[Task]:
    """A task for every strategy and seed, in the folder STRATEGY-SEED in that of ``common``.

    Each strategy takes those settings of ``common`` that it or the protocol has.

    Raises InputError, with the nearest names, for an unknown strategy and for a setting that none has.
    """
    values = shared_out(common.protocol, common.values, strategies)
    return [
        replace(common, strategy=name, seed=seed, folder=common.folder / f"{name}-{seed}", values=values[name])
        for name in strategies
        for seed in seeds
    ]


def shared_out(protocol: Protocol, values: Mapping[str, Any], strategies: Sequence[str]) -> dict[str, dict[str, Any]]:
    """For each strategy those of the settings ``values`` that it or the protocol has.

    Raises InputError, with the nearest names, for an unknown strategy and for a setting that none has.
    """
    of_protocol = Protocol.model_fields.keys() - experiment.NO_SETTINGS
    of_all = of_protocol | experiment.COMPONENTS
    accepted = {name: of_all | settings.defaults(experiment.recipe(name)).keys() for name in strategies}
    what = f"setting of {' or '.join([protocol.name, *strategies])}"
    refuse_unknown(values, set().union(*accepted.values()), what)
    return {name: {key: values[key] for key in values if key in accepted[name]} for name in strategies}


@dataclass(frozen=True)
class Plan:
    """A task that has been looked through.

    Attributes:
        device: ``cpu`` or ``cuda``.
        phases: their number.
        work: see :meth:`mnemo.experiment.Experiment.work`.
        finished: not None if there is nothing left to do.
    """

    task: Task
    device: str
    phases: int
    work: dict[tuple[int, str], float]
    finished: Finished | None


def plan(tasks: Sequence[Task], progress: Progress | None = None) -> list[Plan]:
    """Look through all tasks, so that what is wrong with any is known before the first begins; pack their pictures.

    Raises InputError, with the run's name where it is about the run's folder or base network.
    """
    device = machine.device(tasks[0].device).type
    return [_plan(task, device, progress) for task in tasks]


def _plan(task: Task, device: str, progress: Progress | None) -> Plan:
    prepared = task.prepare(device, progress)
    with named(task):
        _refuse_another_run(task)
        if task.base is not None and not task.latest.exists():
            experiment.refuse_another_base(prepared, task.base)
        phases = len(prepared.stream)
        work = prepared.work()
        return Plan(task, device, phases, work, _finished(task, prepared))


def _refuse_another_run(task: Task) -> None:
    if (task.folder.parent / "run.json").exists():
        raise InputError(f"{task.folder.parent} is itself the folder of a run: --out takes another")
    if not task.resume and (task.latest.exists() or (task.folder / "run.json").exists()):
        raise InputError(f"{task.folder} has a run already: --resume goes on with it, --out takes another folder")


def _finished(task: Task, prepared: experiment.Experiment) -> Finished | None:
    """What there is of a run whose last checkpoint is its end; it must be the same run."""
    if not task.latest.exists():
        return None
    _, about = checkpoint.load(task.latest)
    with checkpoint.fitting(task.latest):
        reached = experiment.position(about)
    if reached.phase < len(prepared.stream):
        return None
    for _ in experiment.execute(prepared, task.folder, resume=True):
        pass  # there is nothing to do but to compare settings
    return Finished(prepared.run.average_incremental_accuracy or 0.0, earlier=True)


@contextmanager
def named(task: Task) -> Iterator[None]:
    """Put the run's name before what an InputError says."""
    try:
        yield
    except InputError as error:
        error.args = (f"{task.name}: {error}",)
        raise
