"""What both sides have in common."""

from dataclasses import dataclass
from pathlib import Path

import torch

from mnemo import datasets
from mnemo.images import Images
from mnemo.phases import ClassStream, class_order, split_by_class


@dataclass(frozen=True)
class Settings:
    """Of all runs.

    Attributes:
        dataset: its name in mnemo.
        base_classes, increment: of the first phase, and of each of the two that follow.
        images: of a class, the first ones that the data set has.
        budget: exemplars in all.
        backbone: a name in :data:`mnemo.nets.BACKBONES`.
        epochs: of every phase.
        lr: learning rate, constant; SGD with momentum 0.9.
        weight_decay: on all parameters.
        batch_size: images a step.
        padding, mirrors: of random crops and flips.
        exemplar_epochs, adjust_epochs: of optimised exemplars.
        pixel_step: grey levels.
    """

    dataset: str = "cifar100"
    base_classes: int = 4
    increment: int = 3
    images: int = 100
    budget: int = 140
    backbone: str = "resnet8"
    epochs: int = 10
    lr: float = 0.05
    weight_decay: float = 5e-4
    batch_size: int = 32
    padding: int = 4
    mirrors: bool = True
    exemplar_epochs: int = 10
    adjust_epochs: int = 5
    pixel_step: float = 1.0

    @property
    def old_in_batch(self) -> int:
        """How many images of a batch Avalanche draws from the exemplars: their share. mnemo draws from the union."""
        return round(self.batch_size * self.budget / (self.budget + self.increment * self.images))

    @property
    def classes(self) -> int:
        """In all."""
        return self.base_classes + 2 * self.increment


QUICK = Settings("digits", images=40, backbone="small", epochs=1, padding=1, mirrors=False, exemplar_epochs=1)
"""Shows that everything runs, and measures nothing."""


def stream(settings: Settings, seed: int, data_dir: Path | None) -> ClassStream:
    """The phases: which classes come, and in which order, depends on the seed."""
    data = datasets.load(settings.dataset, data_dir)
    order = class_order(len(data.class_names), seed)[: settings.classes]
    train = _first(data.train, order, settings.images)
    base, increment = settings.base_classes, settings.increment
    return split_by_class(train, data.test, order=order, base_classes=base, increment=increment)


def _first(images: Images, classes: list[int], each: int) -> Images:
    rows = [(images.labels == label).nonzero().squeeze(1)[:each] for label in classes]
    return images.select(torch.cat(rows).sort().values)
