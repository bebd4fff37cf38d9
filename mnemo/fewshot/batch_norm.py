"""Batch normalisation by the statistics of a task's images, in place of running ones."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TaskBatchNorm(nn.BatchNorm2d):
    """Normalises a whole batch by its first images, where their number is given; statistics are part of the graph.

    Attributes:
        first: how many images give the statistics; 0: none, it is an ordinary batch normalisation then.
    """

    first = 0

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (n, c, h, w); running statistics stay as they are where a batch's are taken."""
        if not self.first:
            return super().forward(maps)
        if self.first == len(maps):
            return F.batch_norm(maps, None, None, self.weight, self.bias, True, 0.0, self.eps)
        variance, mean = torch.var_mean(maps[: self.first], (0, 2, 3), correction=0)
        gain = self.weight * (variance + self.eps).rsqrt()
        return maps * gain.view(1, -1, 1, 1) + (self.bias - mean * gain).view(1, -1, 1, 1)


def with_task_statistics(net: nn.Module) -> nn.Module:
    """The same network, its batch normalisations made into :class:`TaskBatchNorm`; parameters stay and so do names."""
    for name, child in net.named_children():
        if isinstance(child, nn.BatchNorm2d):
            norm = TaskBatchNorm(child.num_features, child.eps, child.momentum)
            norm.weight, norm.bias = child.weight, child.bias
            for key, buffer in child.named_buffers():
                setattr(norm, key, buffer)
            setattr(net, name, norm.train(child.training))
        else:
            with_task_statistics(child)
    return net


@contextmanager
def statistics_of_first(net: nn.Module, images: int) -> Iterator[None]:
    """Within, the first ``images`` of a batch give the statistics of the network's batch normalisations."""
    norms = [module for module in net.modules() if isinstance(module, TaskBatchNorm)]
    for norm in norms:
        norm.first = images
    try:
        yield
    finally:
        for norm in norms:
            norm.first = 0
