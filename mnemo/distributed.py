"""The processes that share a run: torch's own process group, as torchrun starts it. One process needs none of this.

Every function does nothing, or the obvious, where there is one process, so that callers need not ask. All but
:func:`processes`, :func:`rank` and :func:`is_first` are collective: every process calls them, in the same order.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from .disk.files import InputError, ToldElsewhere, one_line

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

ENDED = "another process of this run has ended; --resume goes on from the last checkpoint"


def asked() -> int:
    """Processes that torchrun, or another launcher with the same variables, has started for this run; at least 1."""
    return max(1, _variable("WORLD_SIZE", 1))


def processes() -> int:
    """How many processes share the work now."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if processes() > 1 else 0


def is_first() -> bool:
    """Whether this is the process that writes files and talks to people."""
    return rank() == 0


@contextmanager
def group(device: torch.device) -> Iterator[None]:
    """The group of processes, while the block lasts: gloo between processors, nccl between GPUs, one GPU a process.

    Where a process fails, the first to do so says why, and all others end with :class:`mnemo.disk.files.ToldElsewhere`.

    Args:
        device: on which this process computes; ``cuda`` becomes the GPU that LOCAL_RANK numbers.

    Raises:
        InputError: the launcher's variables are missing or wrong, the processes do not find each other, they are on
            devices of several kinds, or there are more of them on a machine than GPUs.
    """
    if asked() == 1:
        yield
        return
    if device.type == "cuda":
        _take_gpu()
    store = _meet(device)
    try:
        yield
    except (InputError, OSError, KeyboardInterrupt) as error:
        if _told_already(store):
            raise ToldElsewhere(130 if isinstance(error, KeyboardInterrupt) else 2) from None
        raise  # without leaving the group: that waits for the others, and the end of this process ends it too
    dist.destroy_process_group()


def total(tensor: Tensor) -> Tensor:
    """The sum of all processes' tensors of one shape; the same bits in every process. No gradient passes."""
    if processes() == 1:
        return tensor.detach()
    shared = tensor.detach().to(_device()).clone(memory_format=torch.contiguous_format)
    with _together_or_not_at_all():
        dist.all_reduce(shared)
    return shared.to(tensor.device)


def totals(tensors: Sequence[Tensor]) -> list[Tensor]:
    """:func:`total` of each of several tensors, in one go."""
    if processes() == 1 or not tensors:
        return list(tensors)
    flat = total(torch.cat([tensor.detach().reshape(-1) for tensor in tensors]))
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape).to(tensor.dtype) for part, tensor in zip(parts, tensors, strict=True)]


@torch.no_grad()
def add_up(tensors: Sequence[Tensor]) -> None:
    """Put into every tensor the sum over all processes."""
    if processes() > 1:
        for tensor, value in zip(tensors, totals(tensors), strict=True):
            tensor.copy_(value)


def from_first(tensor: Tensor) -> Tensor:
    """The first process's tensor; all have one of the same shape.

    For decisions, such as which images are kept: a GPU may not add in the same order twice, and a near-tie must not
    fall one way here and another way there.
    """
    if processes() == 1:
        return tensor.detach()
    shared = tensor.detach().to(_device()).clone(memory_format=torch.contiguous_format)
    with _together_or_not_at_all():
        dist.broadcast(shared, 0)
    return shared.to(tensor.device)


@torch.no_grad()
def take_from_first(module: torch.nn.Module) -> None:
    """Give a module of every process the first one's parameters and buffers."""
    if processes() > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.copy_(from_first(tensor))


def gather(text: str) -> list[str]:
    """The texts of all processes, in order."""
    if processes() == 1:
        return [text]
    own = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) if text else torch.zeros(0, dtype=torch.uint8)
    lengths = torch.zeros(processes(), dtype=torch.int64)
    lengths[rank()] = len(own)
    lengths = total(lengths)
    rows = torch.zeros(processes(), int(lengths.max()), dtype=torch.uint8)
    rows[rank(), : len(own)] = own
    rows = total(rows)
    return [bytes(row[:length].tolist()).decode() for row, length in zip(rows, lengths.tolist(), strict=True)]


@contextmanager
def together() -> Iterator[None]:
    """A block that all processes come through, or none: what fails in one ends all of them, with its line.

    Raises InputError for the first process of those that failed by wrong input or a refusing disk.
    """
    line = ""
    try:
        yield
    except (InputError, OSError) as error:
        if processes() == 1:
            raise
        line = one_line(error)
    lines = gather(line)
    for number, text in enumerate(lines):
        if text:
            raise InputError(text if set(lines) == {text} else f"process {number}: {text}")


def refuse(what: str) -> None:
    """Raise InputError where torchrun has started several processes for something that they cannot share."""
    if asked() > 1:
        raise InputError(f"{what} cannot be shared by several processes: start it without torchrun")


def _variable(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{name}={text}: a whole number is needed; torchrun sets it") from None


def _take_gpu() -> None:
    own, there = _variable("LOCAL_RANK", 0), torch.cuda.device_count()
    if own >= there:
        raise InputError(f"process {own} of this machine needs a GPU of its own, and there are {there}")
    torch.cuda.set_device(own)


def _meet(device: torch.device) -> "Store":
    """Form the group: what it was formed by, which all processes read and write."""
    from torch.distributed.distributed_c10d import PrefixStore  # here, because some builds of torch go without
    from torch.distributed.rendezvous import rendezvous

    try:
        store: Store
        store, rank, processes = next(rendezvous("env://"))
        # torchrun keeps its store when it starts processes again, and they must not read what their forerunners left
        store = PrefixStore(f"{processes}/{_variable('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        store.set(f"device/{rank}", device.type)
        kinds = [store.get(f"device/{other}").decode() for other in range(processes)]
        if len(set(kinds)) == 1:
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=rank, world_size=processes)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"the processes do not find each other; start them with torchrun ({reason})") from None
    for number, kind in enumerate(kinds):
        if kind != kinds[0]:
            raise InputError(f"process 0 is on {kinds[0]} and process {number} on {kind}: choose one by --device")
    return store


def _told_already(store: "Store") -> bool:
    """Whether another process has said why the run ends; after this call one has."""
    try:
        return bool(store.add("told", 1) > 1)
    except RuntimeError:  # it went with the process that kept it
        return False


@contextmanager
def _together_or_not_at_all() -> Iterator[None]:
    try:
        yield
    except RuntimeError:
        raise InputError(ENDED) from None


def _device() -> torch.device:
    """Where the group exchanges tensors."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
