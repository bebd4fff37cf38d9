"""An experiment: a strategy, a protocol and a seed, carried out in a folder that a kill cannot spoil."""

import contextlib
import importlib.metadata
import json
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from . import datasets, distributed, machine, record, sessions, settings
from .augment import Augmentation, CropAndFlip, ResizedCrop
from .components.in_streams import join
from .components.new_classes import Components
from .disk import checkpoint, checksums, lock
from .disk.files import InputError, sweep
from .images import digest, png_base64, statistics
from .learner import Event, Learner, PhaseDone, Position, run
from .memory import ExemplarMemory, ranks
from .names import refuse_unknown
from .phases import ClassStream, class_order, few_shot, listed_shots, split_by_class, withhold_labels
from .protocols import Protocol
from .record import CLASSIFIERS, Accuracies, ExemplarHistory, ExemplarSample, ExemplarState, Run
from .stages import Train

NO_SETTINGS = {"name", "description", "strategy"}
"""What a protocol says that decides nothing by itself."""
LATER = {key: Protocol.model_fields[key].default for key in ("order", "sessions", "unlabelled", "distractors")} | {
    "sync_batch_norm": settings.Training.sync_batch_norm
}
"""Settings that were added after runs had been recorded, and their defaults."""
NOT_IN_THE_BASE = {"sessions", "unlabelled", "distractors"}
"""Settings of a protocol that leave phase 0 as it is."""
COMPONENTS = set(asdict(Components()))
"""Settings of every strategy."""
SAMPLES = 10
"""Exemplars that a record shows."""


def strategies() -> dict[str, importlib.metadata.EntryPoint]:
    """The recipes that are installed, by name; those of other distributions too."""
    return {entry.name: entry for entry in importlib.metadata.entry_points(group="mnemo.strategies")}


def recipe(name: str) -> settings.Recipe:
    """A recipe by its name. Raises InputError, with the nearest names, if there is none."""
    known = strategies()
    refuse_unknown([name], known, "strategy")
    loaded: settings.Recipe = known[name].load()
    return loaded


@dataclass
class Experiment:
    """All that a run needs, and the record that it fills.

    Attributes:
        learner, stream: see :func:`mnemo.learner.run`.
        run: the record.
    """

    learner: Learner
    stream: ClassStream
    run: Run

    def work(self) -> dict[tuple[int, str], float]:
        """For each phase and stage about how many images pass through the network; see :class:`mnemo.stages.Stage`."""
        sizes = [self.stream.count(index) for index in range(len(self.stream))]
        sample, result, seen = self.stream.sample(), {}, 0
        for index, group in enumerate(self.stream.groups):
            quota = self.learner.memory.expected(seen + len(group), sample)
            old = sum(min(n, quota * len(g)) for n, g in zip(sizes[:index], self.stream.groups, strict=False))
            new = min(sizes[index], quota * len(group))
            for stage in self.learner.strategy.stages:
                result[index, stage.name] = stage.work(index, sizes[index], new, old)
            seen += len(group)
        return result


def prepare(
    protocol: Protocol,
    strategy: str,
    values: Mapping[str, Any],
    *,
    seed: int = 1993,
    data_dir: Path | None = None,
    device: str = "auto",
    command: str = "",
    progress: datasets.Progress | None = None,
) -> Experiment:
    """Load the data and make the learner.

    Args:
        protocol: see :mod:`mnemo.protocols`.
        strategy: a recipe's name.
        values: settings of protocol and strategy under flat names; they go before the protocol's own.
        seed: of the class order (unless the protocol has its own) and of all that is drawn.
        data_dir: where data sets are; see :mod:`mnemo.datasets`.
        device: ``auto``, ``cpu`` or ``cuda``.
        command: how this was called, for the record.
        progress: called while pictures are packed, which happens once.

    Raises:
        InputError: a name or value is wrong, the data are missing or damaged, or the processes that are to share the
            run were started with different ones.
    """
    with distributed.together():
        prepared = _prepare(protocol, strategy, values, seed, data_dir, device, command, progress)
    if distributed.processes() > 1:
        _refuse_disagreement(_identity(prepared))
    return prepared


def _prepare(
    protocol: Protocol,
    strategy: str,
    values: Mapping[str, Any],
    seed: int,
    data_dir: Path | None,
    device: str,
    command: str,
    progress: datasets.Progress | None,
) -> Experiment:
    make = recipe(strategy)
    protocol, arguments, components = _settled(protocol, strategy, values)
    where = machine.device(device)
    settings.refuse_slow_precision(settings.flat(arguments), where)
    data = datasets.load(protocol.dataset, data_dir, progress)
    order = _order(protocol, len(data.class_names), seed)
    stream = _stream(protocol, data, order, seed, data_dir)
    learner = _learner(join(make(**arguments), components), protocol, stream, where, seed)
    _refuse_missing_means(learner, stream, strategy)
    blank = Run(
        strategy=strategy,
        protocol=protocol.name,
        config=_config(protocol, arguments, components),
        seed=seed,
        class_order=order,
        class_names=list(data.class_names),
        phase_classes=[list(group) for group in stream.groups],
        evaluated_on="validation" if protocol.validation else "test",
        parameters=sum(p.numel() for p in learner.net.parameters()),
        data_digest=digest(data.train, data.test),
        command=command,
        device=str(where),
        deterministic=machine.deterministic(),
        versions=machine.versions(),
        classifier=learner.strategy.classifier,
    )
    return Experiment(learner, stream, blank)


def config(protocol: Protocol, strategy: str, values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a record's ``config`` is going to be; for this no data are read.

    Raises InputError as :func:`prepare` does where a name or value is wrong.
    """
    protocol, arguments, components = _settled(protocol, strategy, values)
    join(recipe(strategy)(**arguments), components)
    return _config(protocol, arguments, components)


def _settled(
    protocol: Protocol, strategy: str, values: Mapping[str, Any]
) -> tuple[Protocol, dict[str, Any], Components]:
    """The protocol, the recipe's arguments and the components that are meant by settings under flat names."""
    accepted = settings.defaults(recipe(strategy))
    settable = Protocol.model_fields.keys() - NO_SETTINGS
    own = {key: value for key, value in values.items() if key in settable}
    theirs = {key: value for key, value in values.items() if key not in own}
    protocol = protocol.changed(own)
    _refuse_unheard_of(protocol, {*accepted, *COMPONENTS})
    components = settings.group(Components(), {**protocol.strategy, **theirs})
    theirs = {key: value for key, value in theirs.items() if key not in COMPONENTS}
    refuse_unknown(theirs, {*accepted, *settable, *COMPONENTS}, f"setting of {protocol.name} or {strategy}")
    fixed = {key: value for key, value in protocol.strategy.items() if key in accepted}
    arguments = settings.arguments(recipe(strategy), {**fixed, **theirs})
    return protocol, arguments, components


def _config(protocol: Protocol, arguments: Mapping[str, Any], components: Components) -> dict[str, dict[str, Any]]:
    of_strategy = settings.plain({**_in_force(settings.flat(arguments)), **_used(components)})
    return {"protocol": _in_force(protocol.model_dump(exclude=NO_SETTINGS)), "strategy": of_strategy}


def _order(protocol: Protocol, classes: int, seed: int) -> list[int]:
    """The data set's labels in order of arrival."""
    if protocol.classes is not None and protocol.classes > classes:
        raise InputError(f"classes={protocol.classes}: {protocol.dataset} has {classes}")
    if protocol.order == "natural":
        return list(range(classes))[: protocol.classes]
    return class_order(classes, seed if protocol.order_seed is None else protocol.order_seed)[: protocol.classes]


def _stream(
    protocol: Protocol, data: datasets.Dataset, order: list[int], seed: int, data_dir: Path | None
) -> ClassStream:
    stream = split_by_class(
        data.train,
        data.test,
        order=order,
        base_classes=protocol.base_classes,
        increment=protocol.increment,
        validation=protocol.validation,
        seed=seed,
    )
    if protocol.sessions is not None:
        lists = sessions.read(Path(protocol.sessions).expanduser(), len(stream))
        files = partial(datasets.pictures_of, protocol.dataset, data_dir)
        listed = sessions.shots(lists, data.train.labels, stream.groups, protocol.increment_images, files)
        stream = listed_shots(stream, listed)
    elif protocol.increment_images is not None:
        stream = few_shot(stream, protocol.increment_images)
    return withhold_labels(stream, protocol.unlabelled, protocol.distractors)


def _identity(experiment: Experiment) -> dict[str, Any]:
    """What processes that share a run must have in common."""
    names = {"strategy", "protocol", "seed", "config", "class_names", "class_order", "data_digest", "deterministic"}
    said = experiment.run.model_dump(include=names)
    said["data"] = said.pop("data_digest")
    libraries = {name: experiment.run.versions[name] for name in ("mnemo-cil", "torch")}
    return {**said, "versions": libraries}


def _refuse_disagreement(said: dict[str, Any]) -> None:
    """Raise InputError where a process of the run says something else than the first one."""
    first, *others = (json.loads(text) for text in distributed.gather(json.dumps(said)))
    for number, theirs in enumerate(others, 1):
        for key in first:
            if theirs[key] != first[key]:
                found = settings.difference(key, first[key], theirs[key], "{} is {} in process 0, {} in process ")
                raise InputError(f"the processes disagree: {found}{number}")


def _in_force(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings; those that came later only where they are not the default, so that older runs are the same."""
    return {key: value for key, value in values.items() if LATER.get(key, ...) != value}


def _used(components: Components) -> dict[str, Any]:
    """Their settings, where there are any components."""
    return asdict(components) if components.components else {}


def _refuse_unheard_of(protocol: Protocol, accepted: Collection[str]) -> None:
    """A protocol may fix what this strategy does not have, but not what no strategy has."""
    others = [key for key in protocol.strategy if key not in accepted]
    if others:
        known = {key for entry in strategies().values() for key in settings.defaults(entry.load())}
        refuse_unknown(others, known, f"key in [strategy] of {protocol.name}")


def _refuse_missing_means(learner: Learner, stream: ClassStream, name: str) -> None:
    classes = sum(len(group) for group in stream.groups)
    if learner.strategy.classifier == "nearest_mean" and not learner.memory.expected(classes, stream.sample()):
        raise InputError(f"{name} predicts by the nearest mean of exemplars, and the budget is too small for any")


def _learner(strategy: Any, protocol: Protocol, stream: ClassStream, device: torch.device, seed: int) -> Learner:
    channels, _, _ = stream.shape
    if protocol.mean is None and protocol.std is None:
        mean, std = statistics(stream[0].train)
    else:
        mean, std = ([255 * value for value in values or []] for values in (protocol.mean, protocol.std))
    if not len(mean) == len(std) == channels:
        raise InputError(f"{protocol.name}: mean and std must both have {channels} values, one for each channel")
    augmentation: Augmentation = CropAndFlip(protocol.padding, protocol.mirrors)
    size = None
    if protocol.augmentation == "resized-crop":
        size = protocol.crop_size
        augmentation = ResizedCrop(size, protocol.mirrors)
    classes = sum(len(group) for group in stream.groups)
    return Learner(strategy, channels, mean, std, augmentation, device, seed, input_size=size, classes=classes)


def execute(
    experiment: Experiment,
    out: Path,
    *,
    resume: bool = False,
    base: Path | None = None,
    checkpoint_seconds: float = 20.0,
) -> Iterator[Event]:
    """Carry out an experiment, leaving run.json and checkpoints in ``out``.

    Args:
        experiment: from :func:`prepare`.
        out: a folder; made if need be.
        resume: go on where the last checkpoint there was saved; start if there is none.
        base: the folder of another run whose trained base network is taken over; it must be of the same data, network,
            seed and base schedule.
        checkpoint_seconds: at most how long to go on between two checkpoints; they are saved after whole epochs, after
            every phase, and after the base network's training.

    Of several processes that share the run all read the folder, and the first alone writes.

    Raises:
        InputError: ``out`` has a run and ``resume`` is not set; another process has a run under way there; its
            checkpoint is gone, damaged or of other settings; the processes that share the run do not find the same
            there, or no longer hold the same network and exemplars.
        OSError: the disk refuses; the last checkpoint is still there.
    """
    with contextlib.ExitStack() as held:
        with distributed.together():
            if distributed.is_first():
                held.enter_context(lock.folder(out / "checkpoints"))
        yield from _carry_out(experiment, out, resume, base, checkpoint_seconds)


def _carry_out(
    experiment: Experiment, out: Path, resume: bool, base: Path | None, checkpoint_seconds: float
) -> Iterator[Event]:
    experiment.run.hardware = machine.hardware(experiment.learner.device)
    experiment.run.threads = machine.threads()
    latest, taken_over = out / "checkpoints" / "latest.safetensors", False
    with distributed.together():
        if latest.exists() or (out / "run.json").exists():
            if not resume:
                raise InputError(f"{out} has a run already: --resume goes on with it, --out takes another folder")
            _take_up(experiment, latest)
        elif base is not None:
            _take_over(experiment, base / "checkpoints" / "base.safetensors")
            taken_over = True
    _refuse_disagreement({"the place in the run": asdict(experiment.learner.position), **_held(experiment.learner)})
    experiment.run.processes = distributed.processes()
    writing = distributed.is_first()
    if writing:
        latest.parent.mkdir(parents=True, exist_ok=True)  # a folder that refuses is better known before the work
        sweep(out)
        sweep(latest.parent)
        checksums.begin(out)
        if taken_over:
            _save(experiment, latest.parent, "base")
    saved_at = time.monotonic()
    for event in run(experiment.learner, experiment.stream):
        _note(experiment, event)
        name = _kept_as(event)
        if writing and (name or time.monotonic() - saved_at >= checkpoint_seconds):
            _save(experiment, latest.parent, *name, "latest")  # the latest last: what it has behind it is there
            saved_at = time.monotonic()
        if isinstance(event, PhaseDone):
            _refuse_disagreement(_held(experiment.learner))
            if writing:
                record.save(experiment.run, out / "run.json")
        yield event
    experiment.run.complete = True
    if writing:
        record.save(experiment.run, out / "run.json")


def _held(learner: Learner) -> dict[str, Any]:
    """Names the network and the exemplars; nothing where one process has both."""
    if distributed.processes() == 1:
        return {}
    parts = {"network": learner.net.state_dict(), "exemplars": learner.memory.state()}
    return {name: checkpoint.checksum(tensors) for name, tensors in parts.items()}


def _save(experiment: Experiment, folder: Path, *names: str) -> None:
    learner = experiment.learner
    about = {
        "position": asdict(learner.position),
        "seconds": learner.seconds,
        "run": experiment.run.model_dump(),
        "base": base_identity(experiment),
    }
    tensors = learner.state()
    for name in names:
        checkpoint.save(folder / f"{name}.safetensors", tensors, about)


def _kept_as(event: Event) -> list[str]:
    """The name of the checkpoint that is kept for good at this event: after a phase, and when the base is trained."""
    if isinstance(event, PhaseDone):
        return [f"phase-{event.phase:02d}"]
    trained = event.phase == 0 and event.stage == Train.name and event.epoch == event.epochs - 1
    return ["base"] if trained else []


def base_identity(experiment: Experiment) -> dict[str, Any]:
    """What decides the base network: two runs that agree in it train the same one."""
    learner, (first, *_) = experiment.learner, experiment.learner.strategy.stages
    base = asdict(first.base_schedule) if isinstance(first, Train) and first.base_schedule else {}
    schedule = settings.plain(_in_force(base))
    protocol = experiment.run.config["protocol"]
    objective = first.objective if isinstance(first, Train) else None
    return {
        "protocol": {key: value for key, value in protocol.items() if key not in NOT_IN_THE_BASE},
        "seed": experiment.run.seed,
        "backbone": learner.strategy.backbone,
        "head": learner.strategy.head,
        "schedule": schedule,
        "hold_out": learner.strategy.hold_out,
        **({"objective": asdict(objective)} if is_dataclass(objective) else {}),
    }


def refuse_another_base(experiment: Experiment, base: Path) -> None:
    """Raise InputError unless ``execute`` can take over the base network of the run in the folder ``base``."""
    _same_base(experiment, base / "checkpoints" / "base.safetensors")


def _same_base(experiment: Experiment, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, about = checkpoint.load(path)
    ours = base_identity(experiment)
    with checkpoint.fitting(path):
        theirs = about["base"]
    if theirs != ours:
        raise InputError(f"{path}: is of another base network: {settings.difference('base', theirs, ours)}")
    return tensors, about


def _take_up(experiment: Experiment, path: Path) -> None:
    tensors, about = checkpoint.load(path)
    with checkpoint.fitting(path):
        earlier = Run.model_validate(about["run"])
    for key in ("strategy", "protocol", "seed", "config", "class_order", "deterministic"):
        old, new = getattr(earlier, key), getattr(experiment.run, key)
        if old != new:
            raise InputError(f"{path}: is of another run: {settings.difference(key, old, new)}")
    experiment.run = earlier
    _restore(experiment, path, tensors, about)


def _take_over(experiment: Experiment, path: Path) -> None:
    tensors, about = _same_base(experiment, path)
    _restore(experiment, path, tensors, about)
    with checkpoint.fitting(path):
        experiment.run.outcomes = Run.model_validate(about["run"]).outcomes[:1]  # of the training that is taken over
    if len(experiment.learner.waypoints) < experiment.learner.strategy.waypoints:
        raise InputError(f"{path}: its run kept no waypoints; train a base network with the same waypoints setting")


def _restore(experiment: Experiment, path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    with checkpoint.fitting(path):
        experiment.learner.load(tensors, position(about), experiment.stream.groups)
        experiment.learner.seconds = dict(about["seconds"])


def position(about: Mapping[str, Any]) -> Position:
    """How far a run had come at a checkpoint that says this. Raises KeyError or ValueError: it is none of a run."""
    return TypeAdapter(Position).validate_python(about["position"])


def _note(experiment: Experiment, event: Event) -> None:
    """Bring the record up to date."""
    learner, run = experiment.learner, experiment.run
    run.seconds = {stage: round(seconds, 3) for stage, seconds in learner.seconds.items()}
    run.peak_memory_bytes = max(run.peak_memory_bytes, machine.peak_memory(learner.device))
    if not isinstance(event, PhaseDone):
        if event.epoch == event.epochs - 1:
            run.outcomes += [{} for _ in range(len(run.outcomes), event.phase + 1)]
            run.outcomes[event.phase][event.stage] = {name: float(value) for name, value in event.shown.items()}
        return
    phases = len(experiment.stream)
    earlier, run.by_classifier = run.by_classifier, {}  # a classifier that exists no longer has no average
    for name in CLASSIFIERS:
        if name in event.correct:
            row = [100 * c / n for c, n in zip(event.correct[name], event.counts, strict=True)]
            over_all = 100 * sum(event.correct[name]) / sum(event.counts)
            run.by_classifier[name] = earlier.get(name, Accuracies()).with_row(row, over_all, phases, event.counts)
    shown = run.by_classifier.get(run.classifier)
    for key, value in dict(shown or Accuracies()).items():
        setattr(run, key, value)
    run.parameters = sum(p.numel() for p in learner.net.parameters())
    state = memory_state(learner.memory)
    run.exemplars = ExemplarHistory(**state.model_dump(), phases=[*run.exemplars.phases, state])
    run.exemplar_samples = _samples(experiment)


def memory_state(memory: ExemplarMemory) -> ExemplarState:
    """What a record says of a memory."""
    return ExemplarState(
        per_class=memory.largest_class,
        count=len(memory),
        bytes=memory.bytes,
        rms_displacement=memory.rms_displacement(),
        rms_quantisation=memory.rms_quantisation(),
    )


def _samples(experiment: Experiment) -> list[ExemplarSample]:
    """The first exemplar of some classes, evenly spaced over the order of arrival."""
    memory, run = experiment.learner.memory, experiment.run
    if memory.images is None:
        return []
    first = (ranks(memory.images.labels) == 0).nonzero().squeeze(1)
    spread = torch.linspace(0, len(first) - 1, min(SAMPLES, len(first))).round().long()
    phase_of = [index for index, group in enumerate(run.phase_classes) for _ in group]
    result = []
    for position in first[spread.to(first.device)].tolist():
        label = int(memory.images.labels[position])
        after = memory.images.pixels[position]
        before = after if memory.originals is None else memory.originals[position]
        sample = ExemplarSample(
            class_name=run.class_names[run.class_order[label]],
            phase=phase_of[label],
            before=png_base64(before),
            after=png_base64(after),
            draft=_draft(memory, position),
            bytes=int(memory.sizes[position]),
            raw_bytes=memory.images.bytes_each,
        )
        result.append(sample)
    return result


def _draft(memory: ExemplarMemory, position: int) -> str | None:
    """An optimised exemplar before a lossy codec, as a picture; None where that is what is stored or was chosen."""
    if memory.codec.lossless or memory.originals is None or memory.drafts is None:
        return None
    draft = memory.drafts[position]
    return None if torch.equal(draft, memory.originals[position]) else png_base64(draft)
