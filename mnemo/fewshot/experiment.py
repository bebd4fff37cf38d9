"""A few-shot run: a method, a data set and a seed, carried out in a folder that a kill cannot spoil."""

import importlib.metadata
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from .. import datasets, machine, settings
from ..disk import checkpoint, checksums, lock
from ..disk.files import InputError, first_complaint, sweep
from ..images import digest, statistics
from ..names import refuse_unknown
from ..record import EvaluatedOn
from ..seeds import derive
from . import data as data_sets
from . import episodes as episode_files
from .data import FewShotData
from .embedder import Embedder, embedder, let_learn
from .episodes import Episodes, Sampler, Shape
from .evaluation import accuracies, interval
from .meta_training import MetaLoop
from .method import Method
from .presets import PRESETS
from .pretraining import Identity, pretrain
from .progress import Progress
from .record import ACCURACIES, FewShotRun, Paired, load, load_accuracies, save, save_accuracies
from .show import curves, shown_tasks
from .source import Source
from .system import System

CHECKPOINT_SECONDS = 20.0
Recipe = Callable[..., System]


def methods() -> dict[str, importlib.metadata.EntryPoint]:
    """The recipes that are installed, by name; those of other distributions too."""
    return {entry.name: entry for entry in importlib.metadata.entry_points(group="mnemo.methods")}


def recipe(name: str) -> Recipe:
    """A recipe by its name. Raises InputError, with the nearest names, if there is none."""
    known = methods()
    refuse_unknown([name], known, "few-shot method")
    loaded: Recipe = known[name].load()
    return loaded


@dataclass(frozen=True)
class Asked:
    """What the tasks are like that a run is evaluated on.

    Attributes:
        ways, shots, queries, distractors: see :class:`mnemo.fewshot.episodes.Shape`.
        unlabelled: likewise; None lets the recipe say.
        episodes: how many.
        file: read them from here; shape and number are those of the file.
        evaluated_on: ``test`` classes, or those of ``validation``, to choose settings by. The tasks are others than
            those that a checkpoint is chosen by.
    """

    ways: int = 5
    shots: int = 1
    queries: int = 15
    unlabelled: int | None = None
    distractors: int = 0
    episodes: int = 2000
    file: Path | None = None
    evaluated_on: EvaluatedOn = "test"

    def draw(self, data: FewShotData, default_unlabelled: int, seed: int) -> Episodes:
        """The episodes. Raises InputError if the data do not suffice, or the file does not fit them."""
        labels = data.evaluated_on(self.evaluated_on).images.labels
        if self.file is not None:
            return episode_files.load(self.file, data.name, self.evaluated_on, labels)
        if self.episodes < 1:
            raise InputError(f"episodes={self.episodes}: there must be one at least")
        unlabelled = default_unlabelled if self.unlabelled is None else self.unlabelled
        try:
            shape = Shape(
                ways=self.ways,
                shots=self.shots,
                queries=self.queries,
                unlabelled=unlabelled,
                distractors=self.distractors,
            )
        except ValidationError as error:
            where, message = first_complaint(error)
            raise InputError(f"{where}: {message.lower()}") from None
        return Sampler(labels, shape).draw(self.episodes, seed, "test")


@dataclass
class Experiment:
    """All that a run needs, and the record that it fills.

    Attributes:
        system: what the recipe made.
        data: classes for training, validation and testing.
        identity: of the pre-trained backbone.
        test: the episodes that it is evaluated on.
        device: where everything is.
        run: the record.
        baseline: another run on the same episodes, with the accuracy of each; None: there is none.
    """

    system: System
    data: FewShotData
    identity: Identity
    test: Episodes
    device: torch.device
    run: FewShotRun
    baseline: tuple[FewShotRun, list[float]] | None = None

    @property
    def training_shape(self) -> Shape:
        """Of the tasks of meta-training: the test tasks', but for the number of unlabelled images."""
        few = self.system.train_unlabelled
        if few is None or self.system.reveals:
            return self.test.shape
        return replace(self.test.shape, unlabelled=few)

    def net(self) -> Embedder:
        """The network as it is first drawn."""
        identity, network = self.identity, self.system.network
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(identity.seed, "network"))
            shape = self.data.train.images.shape
            net = embedder(network.backbone, shape, identity.mean, identity.std, network.batch_norm)
        return net.to(self.device)

    def method(self, net: Embedder) -> Method:
        """The method, of a network that has its pre-trained weights; changes what of the network learns."""
        let_learn(net, self.system.learns, self.system.granularity)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.run.seed, "method"))
            return self.system.make(net, self.test.shape).to(self.device)

    def loop(self, method: Method) -> MetaLoop | None:
        """Its meta-training, where there is any."""
        meta, seed, shape = self.system.meta, self.run.seed, self.test.shape
        if meta is None or not meta.iterations or not method.learns:
            return None
        train = Source(self.data.train.images, self.device, self.data.augmentation)
        validation = Source(self.data.validation.images, self.device)
        if method.takes_features and not method.embedder.learns:
            train.embed(method.embedder)
        validated = Sampler(validation.labels, shape).draw(meta.validation_episodes, seed, "validation")
        return MetaLoop(method, meta, train, validation, self.training_shape, validated, seed)


def prepare(
    method: str,
    data: str,
    values: Mapping[str, Any],
    asked: Asked = Asked(),
    *,
    baseline: Path | None = None,
    seed: int = 1993,
    data_dir: Path | None = None,
    device: str = "auto",
    command: str = "",
    progress: datasets.Progress | None = None,
) -> Experiment:
    """Load the data, and make what a run needs.

    Args:
        method: a recipe's name.
        data: a name in :data:`mnemo.fewshot.data.DATA`.
        values: the recipe's settings under flat names; they go before those that suit the data set.
        asked: the test tasks.
        baseline: the folder of another run, to be compared with episode by episode.
        seed: of all that is drawn.
        data_dir, device, command, progress: see :func:`mnemo.experiment.prepare`.

    Raises:
        InputError: a name or value is wrong, or the data are missing or do not suffice.
    """
    make, where = recipe(method), machine.device(device)
    accepted = settings.defaults(make)
    suited = {key: value for key, value in PRESETS.get(data, {}).items() if key in accepted}
    arguments = settings.arguments(make, {**suited, **values})
    system = make(**arguments)
    settings.refuse_slow_precision(settings.flat(arguments), where)
    loaded = data_sets.load(data, data_dir, progress)
    identity = _identity(loaded, system, seed)
    test = asked.draw(loaded, system.unlabelled, seed)
    if system.reveals:
        test = test.revealed()
    shape = test.shape
    run = FewShotRun(
        method=method,
        data=data,
        way=shape.ways,
        shot=shape.shots,
        queries=shape.queries,
        unlabelled=shape.unlabelled,
        distractors=shape.distractors,
        episodes=len(test),
        episodes_digest=test.digest,
        batch_norm=system.network.batch_norm,
        transductive=False,
        config=settings.plain(settings.flat(arguments)),
        seed=seed,
        evaluated_on=asked.evaluated_on,
        pretrained=identity.name if system.pretraining.pretrain_epochs else None,
        data_digest=digest(loaded.train.images, loaded.validation.images, loaded.test.images),
        command=command,
        device=str(where),
        deterministic=machine.deterministic(),
        versions=machine.versions(),
    )
    experiment = Experiment(system, loaded, identity, test, where, run, _baseline(baseline, test))
    _describe(experiment)
    return experiment


def _identity(data: FewShotData, system: System, seed: int) -> Identity:
    mean, std = statistics(data.train.images)
    images, classes = len(data.train.images), len(data.train.class_names)
    backbone, settings_ = system.network.backbone, system.pretraining
    return Identity(data.name, classes, images, backbone, tuple(mean), tuple(std), settings_, seed)


def _describe(experiment: Experiment) -> None:
    """Put into the record what only the method itself knows."""
    method = experiment.method(experiment.net())
    experiment.run.transductive = method.transductive
    experiment.run.parameters = sum(p.numel() for p in method.parameters())
    experiment.run.meta_learned = sum(p.numel() for p in method.parameters() if p.requires_grad)


def _baseline(folder: Path | None, test: Episodes) -> tuple[FewShotRun, list[float]] | None:
    if folder is None:
        return None
    values, digest = load_accuracies(folder / ACCURACIES)
    if digest != test.digest or len(values) != len(test):
        raise InputError(f"{folder}: its episodes are others; give both runs the same seed, shape and number of them")
    return load(folder), values


def execute(experiment: Experiment, out: Path, pretrained: Path, *, resume: bool = False) -> Iterator[Progress]:
    """Carry out an experiment, leaving run.json, accuracies.json, episodes.json and checkpoints in ``out``.

    Args:
        experiment: from :func:`prepare`.
        out: a folder; made if need be.
        pretrained: the folder of pre-trained backbones, shared by runs.
        resume: go on where the last checkpoint there was saved; start if there is none.

    Raises:
        InputError: ``out`` has a run and ``resume`` is not set; another process has a run under way there; a file is
            damaged or of other settings; a loss or a weight is no longer finite.
        OSError: the disk refuses.
    """
    with lock.folder(out / "checkpoints"):
        yield from _carry_out(experiment, out, pretrained, resume)


def _carry_out(experiment: Experiment, out: Path, pretrained: Path, resume: bool) -> Iterator[Progress]:
    run = experiment.run
    run.hardware, run.threads = machine.hardware(experiment.device), machine.threads()
    latest = out / "checkpoints" / "latest.safetensors"
    kept = _kept(experiment, out, latest, resume)
    latest.parent.mkdir(parents=True, exist_ok=True)
    sweep(out)
    sweep(latest.parent)
    checksums.begin(out)
    episode_files.save(experiment.test, out / "episodes.json", run.data, run.evaluated_on)
    net = experiment.net()
    stage = pretrain(net, experiment.data.train.images, experiment.data.augmentation, experiment.identity, pretrained)
    yield from _timed(experiment, stage)
    if run.pretrained is not None:
        run.pretrained_digest = checkpoint.checksum(net.backbone.state_dict())
    method = experiment.method(net)
    loop = experiment.loop(method)
    saver = _Saver(experiment, loop, latest)
    saver.take_up(kept)
    yield from _timed(experiment, _trained(experiment, loop, saver))
    yield from _timed(experiment, _evaluated(experiment, method, saver))
    _finish(experiment, out, saver.accuracies)


def _kept(experiment: Experiment, out: Path, latest: Path, resume: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The checkpoint to go on from; empty if there is none."""
    if not latest.exists() and not (out / "run.json").exists():
        return {}, {}
    if not resume:
        raise InputError(f"{out} has a run already: --resume goes on with it, --out takes another folder")
    tensors, about = checkpoint.load(latest)
    with checkpoint.fitting(latest):
        earlier = FewShotRun.model_validate(about["run"])
    for key in ("method", "data", "seed", "config", "episodes_digest", "unlabelled", "distractors", "deterministic"):
        old, new = getattr(earlier, key), getattr(experiment.run, key)
        if old != new:
            raise InputError(f"{latest}: is of another run: {settings.difference(key, old, new)}")
    experiment.run.seconds = earlier.seconds
    return tensors, about


class _Saver:
    """Saves a run now and then, and takes it up again."""

    def __init__(self, experiment: Experiment, loop: MetaLoop | None, path: Path) -> None:
        self.accuracies: list[float] = []
        self._experiment, self._loop, self._path = experiment, loop, path
        self._saved_at = time.monotonic()

    def take_up(self, kept: tuple[dict[str, Tensor], dict[str, Any]]) -> None:
        tensors, about = kept
        if not about:
            return
        with checkpoint.fitting(self._path):
            if self._loop is not None:
                self._loop.load(tensors, about["loop"])
            self.accuracies = [float(value) for value in about["accuracies"]]

    def save(self, *, at_once: bool = False) -> None:
        if not at_once and time.monotonic() - self._saved_at < CHECKPOINT_SECONDS:
            return
        loop = self._loop
        about = {
            "run": self._experiment.run.model_dump(),
            "loop": loop.about if loop else None,
            "accuracies": self.accuracies,
        }
        checkpoint.save(self._path, loop.state() if loop else {}, about)
        self._saved_at = time.monotonic()


def _trained(experiment: Experiment, loop: MetaLoop | None, saver: _Saver) -> Iterator[Progress]:
    if loop is None:
        return
    for event in loop.run():
        saver.save()
        yield event
    experiment.run.validation = loop.curve
    saver.save(at_once=True)


def _evaluated(experiment: Experiment, method: Method, saver: _Saver) -> Iterator[Progress]:
    split, test = experiment.data.evaluated_on(experiment.run.evaluated_on), experiment.test
    source = Source(split.images, experiment.device)
    method.eval()
    if method.takes_features:
        source.embed(method.embedder)
    already, total = len(saver.accuracies), len(test)
    for each in accuracies(method, source, test.slice(already, total)):
        saver.accuracies += each.tolist()
        saver.save()
        mean = sum(saver.accuracies) / len(saver.accuracies)
        yield Progress("evaluate", len(saver.accuracies), total, {"accuracy": mean}, already)
    saver.save(at_once=True)
    experiment.run.curves = curves(method, source, test)
    experiment.run.shown = shown_tasks(method, source, split, test)


def _timed(experiment: Experiment, events: Iterator[Progress]) -> Iterator[Progress]:
    """The same events; the seconds between them are added to the record under their stage's name."""
    start, seconds = time.perf_counter(), experiment.run.seconds
    for event in events:
        seconds[event.stage] = round(seconds.get(event.stage, 0.0) + time.perf_counter() - start, 3)
        yield event
        start = time.perf_counter()


def _finish(experiment: Experiment, out: Path, values: list[float]) -> None:
    run, each = experiment.run, torch.tensor(values, dtype=torch.float64)
    run.accuracy, run.interval = float(each.mean()), interval(each)
    if experiment.baseline is not None:
        other, theirs = experiment.baseline
        gaps = each - torch.tensor(theirs, dtype=torch.float64)
        run.paired = Paired(baseline=other.method, difference=float(gaps.mean()), interval=interval(gaps))
    run.peak_memory_bytes = machine.peak_memory(experiment.device)
    run.complete = True
    save_accuracies(values, run.episodes_digest, out / ACCURACIES)
    save(run, out / "run.json")
