"""The machine that a run is on: what it computes with, and what it took."""

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

import torch

from .disk.files import InputError

RUNS_ON_A_GPU = 4
"""At once; more of them would only wait for each other."""


def device(name: str) -> torch.device:
    """The device called ``auto``, ``cpu`` or ``cuda``. Raises InputError if it is none of these or is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this torch sees no CUDA device")
    if name not in ("cpu", "cuda"):
        raise InputError(f"--device {name}: choose auto, cpu or cuda")
    return torch.device(name)


def use_one_thread_if_small(backbone: str) -> None:
    """Let a small network run on one thread of the processor: waking a second one costs more than it does.

    Sets torch's number of threads for the whole process, so it is for whoever owns that; OMP_NUM_THREADS goes before.
    """
    if backbone == "small" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def use_deterministic_algorithms() -> None:
    """Let torch use none but algorithms that give the same bits again, for the whole process.

    It is for whoever owns the process, before anything is computed. What has no such algorithm then raises a
    RuntimeError of torch. On a CPU they are used anyway; on a GPU they cost speed.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def deterministic() -> bool:
    """Whether :func:`use_deterministic_algorithms` has been called."""
    return torch.are_deterministic_algorithms_enabled()


def threads() -> int:
    """Threads of the processor that torch computes with."""
    return torch.get_num_threads()


def use_threads(number: int) -> None:
    """Let torch compute with as many threads, for the whole process; OMP_NUM_THREADS goes before."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(number)


def cores() -> int:
    """Cores of the processor that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def runs_at_once(device: str, runs: int) -> int:
    """How many of several runs, each a process, are best under way at once on ``cpu`` or ``cuda``."""
    return min(runs, RUNS_ON_A_GPU if device == "cuda" else cores())


def share_threads(processes: int) -> None:
    """Let torch use this process's share of the cores among ``processes``; OMP_NUM_THREADS goes before."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cores() // processes))


def peak_memory(device: torch.device) -> int:
    """Most bytes that this process has held: on the GPU where that is the device, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":  # ru_maxrss would count what the process that started this one has held
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:", 1)[1].split()[0]) * 1024
    try:
        import resource  # not on Windows
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def hardware(device: torch.device) -> str:
    """The processor, how many threads of it are used, and the GPU if there is one."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux
    text = f"{name}, {torch.get_num_threads()} of {os.cpu_count()} cores"
    return f"{torch.cuda.get_device_name(device)}; {text}" if device.type == "cuda" else text


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that numbers depend on."""
    names = ("mnemo-cil", "torch", "numpy", "scikit-learn")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}
