"""iCaRL's own memory in Avalanche, which is no ``ExemplarsBuffer``: a list of tensors for each class."""

from typing import Any

import torch
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.training.supervised.icarl import _ICaRLPlugin


def icarl_plugin(strategy: Any) -> Any:
    """The plugin that makes a strategy iCaRL, or None."""
    return next((plugin for plugin in strategy.plugins if isinstance(plugin, _ICaRLPlugin)), None)


@torch.no_grad()
def hand_over(buffer: AvalancheDataset, icarl: Any, strategy: Any) -> None:
    """Let iCaRL train on a buffer's exemplars, and classify by their means.

    Args:
        buffer: exemplars, sorted by class and rank.
        icarl: the plugin.
        strategy: the strategy.
    """
    evaluated, by_class = buffer.eval(), dict[int, list[torch.Tensor]]()
    for index, label in enumerate(buffer.targets):
        by_class.setdefault(int(label), []).append(evaluated[index][0])
    icarl.x_memory = [torch.stack(images).to(strategy.device) for images in by_class.values()]
    icarl.y_memory = [[label] * len(images) for label, images in by_class.items()]
    icarl.order = [torch.arange(1, len(images) + 1) for images in by_class.values()]
    training = strategy.model.training
    strategy.model.eval()
    icarl.compute_class_means(strategy)
    strategy.model.train(training)
