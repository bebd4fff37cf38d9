"""Avalanche 0.6, brought to where an epoch of its second experience begins."""

import contextlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mnemo.datasets.torchvision_import import import_torchvision
from mnemo.images import Images

from . import ours, plain
from .options import Options
from .timing import Timed, clock

INSTALL = "Avalanche is not installed: pip install -e '.[benchmark]', or make speed"


def installed() -> bool:
    """Whether Avalanche is there."""
    return importlib.util.find_spec("avalanche") is not None


class Logits(nn.Module):
    """mnemo's head, giving logits alone."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(features).logits
        return logits


class Poised(Exception):
    """Everything is ready for the first step of the second experience."""


def replay(options: Options, groups: tuple[int, int], new: Images, exemplars: Images) -> Callable[[], Timed]:
    """An epoch of Naive with ReplayPlugin; a batch has new images and exemplars in the proportion of their numbers."""
    import_torchvision()  # before Avalanche, which imports it itself
    from avalanche.training.plugins import ReplayPlugin
    from avalanche.training.supervised import Naive

    net = ours.contiguous(ours.network(options, "cosine", groups))
    model = nn.Sequential(net.backbone, Logits(net.head))
    old = round(options.batch_size * len(exemplars) / (len(exemplars) + len(new)))
    plugin = ReplayPlugin(len(exemplars), batch_size=options.batch_size - old, batch_size_mem=old)
    strategy = Naive(model=model, optimizer=plain.optimizer(model), plugins=[plugin], **_common(options))
    return _poise(strategy, groups, new, exemplars, options.device)


def icarl(options: Options, groups: tuple[int, int], new: Images, exemplars: Images) -> Callable[[], Timed]:
    """An epoch of ICaRL: binary cross-entropy of sigmoids, towards the old network's for old classes."""
    transforms = import_torchvision().transforms
    from avalanche.training.supervised import ICaRL

    net = ours.contiguous(ours.network(options, "linear", groups))
    strategy = ICaRL(
        feature_extractor=net.backbone,
        classifier=Logits(net.head),
        optimizer=plain.optimizer(nn.ModuleList([net.backbone, net.head])),
        memory_size=len(exemplars),
        buffer_transform=transforms.Compose(plain.varied()),
        fixed_memory=True,
        plugins=[],
        **_common(options),
    )
    return _poise(strategy, groups, new, exemplars, options.device)


def _common(options: Options) -> dict[str, Any]:
    """No metrics and no loggers: what Avalanche would spend on them is not counted."""
    from avalanche.training.plugins import EvaluationPlugin

    return {
        "train_mb_size": options.batch_size,
        "train_epochs": 1,
        "eval_mb_size": options.batch_size,
        "device": options.device,
        "evaluator": EvaluationPlugin(),
    }


def _experiences(groups: tuple[int, int], new: Images, exemplars: Images) -> Any:
    """The first has the exemplars alone, and keeps them; the second has the new images."""
    from avalanche.benchmarks import nc_benchmark

    both = Images(torch.cat([exemplars.pixels, new.pixels]), torch.cat([exemplars.labels, new.labels]))
    pictures = plain.Pictures(both, None)
    return nc_benchmark(
        pictures,
        pictures,
        n_experiences=2,
        task_labels=False,
        fixed_class_order=list(range(sum(groups))),
        per_exp_classes={0: groups[0]},
        train_transform=plain.training_transform(),
        eval_transform=plain.plain_transform(),
    ).train_stream


def _poise(
    strategy: Any, groups: tuple[int, int], new: Images, exemplars: Images, device: torch.device
) -> Callable[[], Timed]:
    from avalanche.core import SupervisedPlugin

    class Counter(SupervisedPlugin, supports_distributed=False):
        """Stops before the second experience's first epoch, and counts images."""

        images = 0

        def before_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
            if strategy.clock.train_exp_counter:
                raise Poised

        def after_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
            self.images += len(strategy.mb_y)

    counter = Counter()
    strategy.plugins.append(counter)
    first, second = _experiences(groups, new, exemplars)
    strategy.train(first)
    with contextlib.suppress(Poised):
        strategy.train(second)

    def epoch() -> Timed:
        start, counter.images = clock(device), 0
        strategy.training_epoch()
        return Timed(clock(device) - start, counter.images)

    return epoch
