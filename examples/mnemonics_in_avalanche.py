"""Mnemonics inside Avalanche: the same strategy with no exemplars, random ones, herded ones and optimised ones.

Run it with ``python examples/mnemonics_in_avalanche.py`` where ``mnemo-cil[avalanche]`` is installed. It needs no
download and less than a minute. Everything but the plugin is Avalanche's.
"""

from typing import Any

import torch
from torch import nn

from mnemo import datasets, metrics
from mnemo.augment import CropAndFlip
from mnemo.exemplars.mnemonics import Bilevel
from mnemo.exemplars.pixels import PixelSteps
from mnemo.nets.small import SmallNet
from mnemo.phases import class_order, split_by_class
from mnemo.record import Run
from mnemo.strategies.avalanche_plugin import MnemonicsPlugin, Recorder, benchmark

# isort: split
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.models import IncrementalClassifier
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torchvision.transforms import Compose, Normalize, RandomCrop, ToTensor

SEEDS = (1, 2)
BUDGET = 30
EXEMPLARS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "random": {"choice": "random", "pixels": None},
    "herding": {"choice": "herding", "pixels": None},
    "mnemonics": {
        "choice": "random",
        "pixels": PixelSteps(exemplar_epochs=10, adjust_epochs=5),
        "bilevel": Bilevel(inner_steps=3, inner_lr=0.1),
        "augmentation": CropAndFlip(padding=1, mirrors=False),  # as the train transform does
    },
}


def learn(name: str, seed: int) -> Run:
    """One run over ten digits in three experiences."""
    data = datasets.load("digits")
    order = class_order(len(data.class_names), seed)
    stream = split_by_class(data.train, data.test, order=order, base_classes=4, increment=3)
    evaluation = Compose([ToTensor(), Normalize((0.3,), (0.37,))])
    training = Compose([ToTensor(), RandomCrop(8, padding=1), Normalize((0.3,), (0.37,))])
    digits = benchmark(stream, train_transform=training, eval_transform=evaluation)

    torch.manual_seed(seed)
    model = nn.Sequential(SmallNet(1), IncrementalClassifier(64))
    settings = EXEMPLARS[name]
    plugins = [] if settings is None else [MnemonicsPlugin(BUDGET, seed=seed, **settings)]
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        train_mb_size=32,
        train_epochs=4,
        eval_mb_size=256,
        plugins=plugins,
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True)),
    )
    recorder = Recorder(f"naive + {name}", "digits", digits.train_stream, digits.test_stream, seed=seed)
    for index, experience in enumerate(digits.train_stream):
        strategy.train(experience)
        buffer = plugins[0].storage_policy if plugins else None
        recorder.note(strategy.eval(digits.test_stream[: index + 1]), buffer)
    return recorder.run


def main() -> None:
    """Train, and print a line for each kind of exemplars: means over seeds, in % and in grey levels."""
    torch.set_num_threads(1)  # more only wait for each other on images as small as these
    print(f"{'exemplars':12}{'last accuracy':>14}{'average forgetting':>20}{'moved by':>10}")
    for name in EXEMPLARS:
        runs = [learn(name, seed) for seed in SEEDS]
        last = sum(run.phase_accuracy[-1] for run in runs) / len(runs)
        forgetting = sum(metrics.average_forgetting(run.accuracy) for run in runs) / len(runs)
        moved = sum(run.exemplars.rms_displacement or 0 for run in runs) / len(runs)
        print(f"{name:12}{last:14.1f}{forgetting:20.1f}{moved:10.2f}")


if __name__ == "__main__":
    main()
