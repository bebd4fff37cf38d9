"""How fast hardware is kept busy: steps replayed as CUDA graphs, low precision, and memory that is not given back."""

import contextlib
import ctypes
import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Literal

import torch
from torch import Tensor

from . import distributed

Function = Callable[..., tuple[Tensor, ...]]
Precision = Literal["fp32", "bf16"]


class Captured:
    """A function of tensors that on a GPU is recorded once for each shape of its inputs, and then replayed.

    A step of a small network is hundreds of short kernels, and launching them one by one takes longer than they do. A
    CUDA graph launches them all at once. Where there is no GPU the function is called as it is; where recording fails,
    a RuntimeWarning says why and it is called as it is from then on.

    Args:
        function: of tensors to a tuple of tensors. It may change the tensors in ``changed`` in place; everything else
            that it reads must stay where it is. It must not wait for the device, nor depend on the values of tensors.
        changed: all tensors that the function changes, such as weights and momenta: recording runs the function a few
            times, and they are set back afterwards.
    """

    WARM_UP = 3  # runs before recording, so that libraries choose their algorithms and allocate what they keep

    def __init__(self, function: Function, changed: Sequence[Tensor] = ()) -> None:
        self._function, self._changed = function, changed
        self._replays: dict[Hashable, Function] = {}
        self._failed = False

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The function's result; on a GPU it is overwritten by the next call with inputs of the same shapes."""
        if self._failed or not can_record(inputs):
            return self._function(*inputs)
        key = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        if key not in self._replays:
            self._record(key, inputs)
        return self._replays.get(key, self._function)(*inputs)

    def _record(self, key: Hashable, inputs: Sequence[Tensor]) -> None:
        before = [tensor.clone() for tensor in self._changed]
        try:
            self._replays[key] = record(self._function, inputs, self.WARM_UP)
        except RuntimeError as error:
            self._failed = True
            reason = str(error).partition("\n")[0]
            warnings.warn(f"no CUDA graph ({reason}): steps are launched one by one", RuntimeWarning, stacklevel=3)
        with torch.no_grad():
            for tensor, value in zip(self._changed, before, strict=True):
                tensor.copy_(value)


def can_record(inputs: Sequence[Tensor]) -> bool:
    """Whether a function of these inputs can be a CUDA graph: of one process, since processes wait for each other."""
    return bool(inputs) and all(tensor.is_cuda for tensor in inputs) and distributed.processes() == 1


def record(function: Function, inputs: Sequence[Tensor], warm_up: int) -> Function:
    """The function as a CUDA graph for inputs of these shapes. Raises RuntimeError where it cannot be recorded."""
    static = [tensor.clone() for tensor in inputs]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_up):
            function(*static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function(*static)

    def replay(*given: Tensor) -> tuple[Tensor, ...]:
        for kept, tensor in zip(static, given, strict=True):
            kept.copy_(tensor, non_blocking=True)
        graph.replay()
        return outputs

    return replay


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[None]:
    """Where ``precision`` is ``bf16``: convolutions and products in bf16, weights and sums in fp32.

    Without the cache of weights that are cast already, which does not survive the recording of a graph; every weight is
    used once a pass.
    """
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, for the whole process; on Linux with glibc, else nothing is done.

    By default it returns the end of its heap to the system whenever more than some 64 MB are free there and asks for it
    again, and a training step on a CPU then takes tens of thousands of page faults. Blocks of 32 MB and more still go
    back one by one: kept, they would leave holes. It is for whoever owns the process.
    """
    trim_threshold, mmap_threshold = -1, -3  # of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return  # another C library
    mallopt(mmap_threshold, 32 * 2**20)  # the greatest that it takes
    mallopt(trim_threshold, 2**31 - 1)
