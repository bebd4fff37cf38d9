"""One run: through mnemo's learner, or through Avalanche's Naive with some exemplars."""

import copy
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from mnemo import datasets, machine, metrics
from mnemo.augment import CropAndFlip
from mnemo.exemplars.mnemonics import Bilevel
from mnemo.exemplars.pixels import PixelSteps
from mnemo.images import statistics
from mnemo.learner import Learner, PhaseDone, run
from mnemo.memory import ExemplarMemory
from mnemo.phases import ClassStream
from mnemo.settings import Memory, Training
from mnemo.strategies.replay import replay

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Avalanche's own
    from mnemo.strategies.avalanche_plugin import MnemonicsBuffer, MnemonicsPlugin, Recorder, benchmark

    # isort: split
    from avalanche.evaluation.metrics import accuracy_metrics, forgetting_metrics
    from avalanche.models import IncrementalClassifier
    from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
    from avalanche.training.storage_policy import ClassBalancedBuffer
    from avalanche.training.supervised import Naive
    from torchvision.transforms import Compose, Normalize, RandomCrop, RandomHorizontalFlip, ToTensor

from .settings import Settings, stream

MIB = 2**20
Result = dict[str, Any]
"""What a run came to, as JSON has it: accuracies in %, forgetting in points."""


def in_mnemo(settings: Settings, seed: int, data_dir: Path | None) -> Result:
    """``replay`` with herded exemplars; and whether the plugin's buffer, given its networks, chooses the same."""
    phases = stream(settings, seed, data_dir)
    learner, made = _learner(settings, phases, seed), _benchmark(settings, phases)
    buffer = MnemonicsBuffer(settings.budget, choice="herding", pixels=None, classifier="1", seed=seed)
    matrix: list[list[float | None]] = []
    accuracies, same = [], []
    for event in run(learner, phases):
        if isinstance(event, PhaseDone):
            right = event.correct["head"]
            row = [100 * a / n for a, n in zip(right, event.counts, strict=True)]
            matrix.append([*row, *[None] * (len(phases) - len(row))])
            accuracies.append(100 * sum(right) / sum(event.counts))
            buffer.post_adapt(SimpleNamespace(model=_logits(learner)), made.train_stream[event.phase])
            same.append(_equal(buffer.memory, learner.memory))
    rows = _rows(settings, learner.memory, data_dir)
    return _result(matrix, accuracies) | {"exemplar_rows": rows, "same_exemplars_given_the_same_network": same}


def in_avalanche(settings: Settings, seed: int, data_dir: Path | None, exemplars: str) -> Result:
    """Naive with the plugin that :func:`plugin` names."""
    phases = stream(settings, seed, data_dir)
    made, replayed = _benchmark(settings, phases), plugin(exemplars, settings, seed)
    strategy = _naive(settings, _model(settings, phases, seed), replayed)
    recorder = Recorder(f"naive + {exemplars}", settings.dataset, made.train_stream, made.test_stream, seed=seed)
    buffer = replayed.storage_policy if isinstance(replayed, MnemonicsPlugin) else None
    peaks, results = [], {}
    for index, experience in enumerate(made.train_stream):
        strategy.train(experience, reset_optimizer_state=True)  # mnemo's momentum starts anew with every phase
        results = strategy.eval(made.test_stream[: index + 1])
        recorder.note(results, buffer)
        peaks.append(machine.peak_memory(torch.device("cpu")) / MIB)
    found = _result(recorder.run.accuracy, recorder.run.phase_accuracy)
    found |= {"avalanche_forgetting": _forgetting(results), "peak_mib": peaks}
    return found if buffer is None else found | _kept(settings, buffer.memory, data_dir)


def plugin(name: str, settings: Settings, seed: int) -> ReplayPlugin:
    """``herding``: real images; ``mnemonics``: the same, optimised; ``avalanche``: its own buffer."""
    sizes = {
        "batch_size": settings.batch_size - settings.old_in_batch,
        "batch_size_mem": settings.old_in_batch,
    }
    if name == "avalanche":
        return ReplayPlugin(settings.budget, **sizes, storage_policy=ClassBalancedBuffer(settings.budget))
    steps = PixelSteps(
        exemplar_epochs=settings.exemplar_epochs,
        adjust_epochs=settings.adjust_epochs,
        pixel_step=settings.pixel_step,
    )
    return MnemonicsPlugin(
        settings.budget,
        **sizes,
        choice="herding",
        pixels=steps if name == "mnemonics" else None,
        bilevel=Bilevel(inner_steps=2),
        augmentation=CropAndFlip(settings.padding, settings.mirrors),
        seed=seed,
    )


def _learner(settings: Settings, phases: ClassStream, seed: int) -> Learner:
    training = Training(
        epochs=settings.epochs,
        lr=settings.lr,
        milestones=(),
        weight_decay=settings.weight_decay,
        batch_size=settings.batch_size,
        backbone=settings.backbone,  # type: ignore[arg-type]
    )
    memory = Memory(total=settings.budget, exemplars="herding")
    mean, std = statistics(phases[0].train)
    augmentation = CropAndFlip(settings.padding, settings.mirrors)
    recipe = replay(training=training, memory=memory, head="linear")
    return Learner(recipe, phases.shape[0], mean, std, augmentation, torch.device("cpu"), seed)


def _benchmark(settings: Settings, phases: ClassStream) -> Any:
    """The phases with mnemo's normalisation and augmentation as transforms."""
    mean, std = ([value / 255 for value in values] for values in statistics(phases[0].train))
    plain = [ToTensor(), Normalize(mean, std)]
    varied = [ToTensor(), RandomCrop(phases.shape[1], padding=settings.padding)]
    varied += [RandomHorizontalFlip()] if settings.mirrors else []
    return benchmark(phases, train_transform=Compose([*varied, plain[1]]), eval_transform=Compose(plain))


def _model(settings: Settings, phases: ClassStream, seed: int) -> nn.Module:
    """The backbone that mnemo's learner starts with, and Avalanche's classifier, which grows as mnemo's head does."""
    backbone = copy.deepcopy(_learner(settings, phases, seed).net.backbone)
    torch.manual_seed(seed)
    return nn.Sequential(backbone, IncrementalClassifier(int(backbone.features), settings.base_classes))


def _naive(settings: Settings, model: nn.Module, replayed: ReplayPlugin) -> Any:
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=settings.lr, momentum=0.9, weight_decay=settings.weight_decay),
        train_mb_size=settings.batch_size,
        train_epochs=settings.epochs,
        eval_mb_size=256,
        plugins=[replayed],
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True), forgetting_metrics(experience=True, stream=True)),
    )


def _logits(learner: Learner) -> nn.Module:
    return nn.Sequential(learner.net.backbone, _Logits(learner.net.head))


class _Logits(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(features).logits
        return logits


def _equal(one: ExemplarMemory, other: ExemplarMemory) -> float:
    """The share of exemplars, rank by rank, that are the same image."""
    assert one.images is not None
    assert other.images is not None
    return float((one.images.pixels == other.images.pixels).flatten(1).all(1).float().mean())


def _rows(settings: Settings, memory: ExemplarMemory, data_dir: Path | None) -> list[int]:
    """Where exemplars, or the images that they started as, are in the data set."""
    assert memory.images is not None
    pixels = memory.images.pixels if memory.originals is None else memory.originals
    train = datasets.load(settings.dataset, data_dir).train
    where = {key: row for row, key in reversed([*enumerate(_keys(train.pixels))])}
    return [where[key] for key in _keys(pixels)]


def _keys(pixels: Tensor) -> Iterable[bytes]:
    return (image.contiguous().numpy().tobytes() for image in pixels)


def _kept(settings: Settings, memory: ExemplarMemory, data_dir: Path | None) -> Result:
    return {
        "exemplar_rows": _rows(settings, memory, data_dir),
        "exemplars": len(memory),
        "bytes": memory.bytes,
        "moved": memory.rms_displacement(),
    }


def _result(matrix: list[list[float | None]], accuracies: list[float]) -> Result:
    return {
        "accuracy": matrix,
        "phase_accuracy": accuracies,
        "average_accuracy": metrics.average_incremental_accuracy(accuracies),
        "last_accuracy": accuracies[-1],
        "forgetting_rate": metrics.forgetting_rate(matrix),
        "average_forgetting": metrics.average_forgetting(matrix),
    }


def _forgetting(results: Mapping[str, Any]) -> Result:
    """What Avalanche's own metrics say, in points: of the first experience, and the stream's mean."""
    found = {name: 100 * float(value) for name, value in results.items() if "Forgetting" in name}
    first = next(value for name, value in found.items() if name.startswith("Exp") and name.endswith("Exp000"))
    return {"first": first, "stream": next(value for name, value in found.items() if name.startswith("Stream"))}
