"""The most memory that a piece of work takes, each time in a process of its own, because a peak never falls."""

import contextlib
import importlib
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from . import ours
from .options import Options

MIB = 2**20
Measure = Callable[..., float]
"""(module, the name of a function in it, its keyword arguments) to MiB."""


@contextlib.contextmanager
def processes(options: Options) -> Iterator[Measure]:
    """A function that measures; its processes are forked from one that has imported torch and done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with context.Pool(1, maxtasksperchild=1) as pool:
        yield lambda module, name, **arguments: pool.apply(peak, (options, module, name, arguments))


def peak(options: Options, module: str, name: str, arguments: dict[str, Any]) -> float:
    """MiB beyond what the process held before, at most, while the work that ``module.name`` makes is done."""
    torch.set_num_threads(options.threads)
    work: Callable[[], object] = getattr(importlib.import_module(module), name)(options, **arguments)
    _load_libraries(options)
    before = _held(options.device)
    work()
    return max(0.0, _most(options.device) - before) / MIB


def _load_libraries(options: Options) -> None:
    """Differentiate something small twice: code and threads that this brings into memory are not the work's."""
    net = ours.network(options, "linear", (2,))
    pixels = torch.zeros(2, 3, 32, 32, device=options.device, requires_grad=True)
    loss = F.cross_entropy(net(pixels).logits, torch.zeros(2, dtype=torch.int64, device=options.device))
    (gradient,) = torch.autograd.grad(loss, pixels, create_graph=True)
    gradient.square().sum().backward()


def _held(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    return _status("VmRSS")


def _most(device: torch.device) -> int:
    """``ru_maxrss`` would not do: a process inherits it from the one that started it, VmHWM it does not."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(name: str) -> int:
    """A figure of this process in bytes. On Linux only."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
