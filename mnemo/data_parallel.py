"""How processes share a step: each passes its part of every batch, and all end with what one process would have.

All processes draw the whole batch, from the same generators, and each takes its own rows of it. What the network says
of them is put together before the loss is taken, so that the loss is that of the whole batch, whatever it is: a mean, a
mean over the old images alone, a ranking. The gradient of every process is then a part of a sum, and no weights are
needed where parts are uneven or empty.

Two functions do it. Forward, :func:`total` adds and :func:`spread` does nothing; backward it is the other way round;
and each is the other's derivative, so that gradients of gradients are right as well, which exemplars need:

- what is local and needed by all (the rows of outputs) goes through ``total``;
- what all have and use for their own part (the weights of inner steps) goes through ``spread``;
- sums that all need for their own part (batch normalisation) go through both.

The gradient of the weights themselves is added up in one go after the step's backward pass (:func:`add_gradients`).
torch's DistributedDataParallel would wrap the network, which here grows a head in every phase, freezes and thaws parts
of itself, and is copied, folded and called with other weights; and it takes the mean of gradients of losses of parts,
which is not the gradient of the batch's loss where parts are uneven or the loss is no mean over images. What it has to
offer, gradients that are sent while others are computed, matters for networks larger than these.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import distributed
from .nets import Outputs


def own(count: int, processes: int | None = None, rank: int | None = None) -> slice:
    """The rows of ``count`` that a process takes; sizes differ by one at most, and may be 0.

    Args:
        count: rows of all processes together.
        processes, rank: by default the present ones.
    """
    processes = distributed.processes() if processes is None else processes
    rank = distributed.rank() if rank is None else rank
    size, rest = divmod(count, processes)
    first = rank * size + min(rank, rest)
    return slice(first, first + size + (rank < rest))


def is_own(classes: Tensor) -> Tensor:
    """Which images this process takes where they are shared by class: bool (n,), of their labels int64 (n,)."""
    return classes % distributed.processes() == distributed.rank()


def total(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The sums over all processes; backward, each process's part has the gradient of the sum."""
    result: tuple[Tensor, ...] = _Total.apply(*tensors) if distributed.processes() > 1 else tensors  # type: ignore[no-untyped-call]
    return result


def spread(*tensors: Tensor) -> tuple[Tensor, ...]:
    """What all processes have, for each to use on its own part; backward, the gradients of all parts are added."""
    result: tuple[Tensor, ...] = _Spread.apply(*tensors) if distributed.processes() > 1 else tensors  # type: ignore[no-untyped-call]
    return result


def spread_all(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """:func:`spread` of tensors with names."""
    return dict(zip(tensors, spread(*tensors.values()), strict=True))


def whole(part: Outputs, count: int) -> Outputs:
    """What the network says of all ``count`` images, from what it says of this process's :func:`own`."""
    return Outputs(*whole_rows(count, *part))


def whole_rows(count: int, *parts: Tensor) -> tuple[Tensor, ...]:
    """All ``count`` rows, of which each process has its :func:`own`."""
    if distributed.processes() == 1:
        return parts
    rows = own(count)
    return total(*(F.pad(part, (0, 0, rows.start, count - rows.stop)) for part in parts))  # adding 0 changes no bit


def add_gradients(parameters: Sequence[Tensor]) -> None:
    """After a backward pass through :func:`whole`: give every process the gradient of the whole batch."""
    distributed.add_up([parameter.grad for parameter in parameters if parameter.grad is not None])


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(distributed.totals(tensors))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return spread(*gradients)


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return total(*gradients)


@contextmanager
def batch_normalisation(net: nn.Module, synchronised: bool) -> Iterator[None]:
    """How batches are normalised in training while the block lasts.

    Args:
        net: has its own layers again afterwards; parameters and running statistics are the same tensors all the time.
        synchronised: by the statistics of the whole batch, as one process does. Otherwise every process normalises its
            part by itself, and running statistics become the mean over processes when the block ends.
    """
    norms = _norms(net) if distributed.processes() > 1 else []
    if synchronised:
        for holder, name, norm in norms:
            setattr(holder, name, _synchronised(norm))
    try:
        yield
    finally:
        for holder, name, norm in norms:
            setattr(holder, name, norm)
    if not synchronised:
        used = [norm for _, _, norm in norms if norm.training]
        statistics = [tensor for norm in used for tensor in (norm.running_mean, norm.running_var) if tensor is not None]
        distributed.add_up(statistics)
        for tensor in statistics:
            tensor.div_(distributed.processes())


def _norms(net: nn.Module) -> list[tuple[nn.Module, str, nn.BatchNorm2d]]:
    return [
        (holder, name, norm)
        for holder in net.modules()
        for name, norm in holder.named_children()
        if isinstance(norm, nn.BatchNorm2d)
    ]


def _synchronised(norm: nn.BatchNorm2d) -> nn.Module:
    assert norm.weight is not None
    if not norm.weight.is_cuda:
        return WholeBatchNorm(norm)
    module: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(norm)
    return module


class WholeBatchNorm(nn.Module):
    """What torch's SyncBatchNorm does, which runs on a GPU alone: normalise by the whole batch of all processes.

    Args:
        norm: whose parameters and running statistics are used and kept up to date; in evaluation it is used as it is.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, maps: Tensor) -> Tensor:
        """This process's part (n, c, h, w) of a batch, normalised."""
        norm = self.norm
        normalised: Tensor
        if not norm.training:
            normalised = norm(maps)
            return normalised
        assert norm.running_mean is not None
        near = norm.running_mean.clone().view(1, -1, 1, 1)  # squares of what is not centred would cancel each other
        offset = maps - near
        here = maps.new_full((maps.shape[1],), maps.numel() // maps.shape[1])
        sums = torch.stack([here, offset.sum((0, 2, 3)), offset.square().sum((0, 2, 3))])
        (sums,) = spread(*total(sums))
        count, first, second = sums.view(3, 1, -1, 1, 1)
        mean = first / count
        variance = (second / count - mean.square()).clamp(min=0)
        self._remember(near + mean, variance * (count / (count - 1)))
        scale, shift = (tensor.view(1, -1, 1, 1) for tensor in (norm.weight, norm.bias))
        normalised = (offset - mean) * ((variance + norm.eps).rsqrt() * scale) + shift
        return normalised

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
        momentum = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(mean.flatten(), momentum)
        norm.running_var.lerp_(variance.flatten(), momentum)
