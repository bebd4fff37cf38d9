"""Streams both ways: an Avalanche benchmark as phases, and phases as an Avalanche benchmark."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from avalanche.benchmarks import nc_benchmark

from ..datasets.torchvision_import import import_torchvision
from ..disk.files import InputError
from ..images import Images, join
from ..phases import ClassStream
from . import raw


def class_stream(train: Iterable[Any], test: Iterable[Any], seed: int = 1993) -> ClassStream:
    """The experiences of an Avalanche benchmark as phases, without their transforms.

    Args:
        train, test: ``benchmark.train_stream`` and ``benchmark.test_stream``. The phases follow ``train``; images of
            ``test`` are evaluated on with the phase that brings their class.
        seed: of :class:`mnemo.phases.ClassStream`.

    Raises:
        InputError: a class comes in two experiences, or images are not uint8; see :func:`mnemo.avalanche.raw.take`.
    """
    parts = [raw.take(experience.dataset) for experience in train]
    groups = [sorted(set(part.labels)) for part in parts]
    classes = [label for group in groups for label in group]
    if len(set(classes)) < len(classes):
        raise InputError("a class comes in two experiences; phases bring each class once")
    tests = [raw.take(experience.dataset) for experience in test]
    return ClassStream(_images(parts), _images(tests), groups, 0, seed)


def _images(parts: list[raw.Raw]) -> Images:
    return join([Images(part.pixels, torch.tensor(part.labels)) for part in parts])


def benchmark(
    stream: ClassStream,
    *,
    task_labels: bool = False,
    train_transform: Callable[[Any], Any] | None = None,
    eval_transform: Callable[[Any], Any] | None = None,
) -> Any:
    """Phases as an Avalanche benchmark (an ``NCScenario``), with labels in order of arrival.

    Args:
        stream: the phases.
        task_labels: whether every phase is a task.
        train_transform, eval_transform: of arrays uint8 (h, w, c); ``ToTensor()`` where they are None.
    """
    source = raw.Source("array", False, (), "train", False)
    phases = list(stream)
    sets = []
    for images in (join([phase.train for phase in phases]), join([phase.test for phase in phases])):
        sets.append(raw.Pictures(images.pixels, images.labels.tolist(), source))
    sizes = [len(group) for group in stream.groups]
    plain = import_torchvision().transforms.ToTensor()
    return nc_benchmark(
        *sets,
        n_experiences=len(sizes),
        task_labels=task_labels,
        fixed_class_order=list(range(sum(sizes))),
        per_exp_classes=dict(enumerate(sizes)),
        train_transform=train_transform or plain,
        eval_transform=eval_transform or plain,
    )
