"""Every run in a process that has done nothing else: a peak of memory never falls."""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .settings import Settings

Run = Callable[[Settings, str, int, Path | None], dict[str, Any]]
"""(settings, side, seed, folder of data) to what the run came to."""


@contextmanager
def processes() -> Iterator[Run]:
    """A function that carries out a run; its processes are forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.work"])
    with context.Pool(1, maxtasksperchild=1) as pool:
        yield lambda *arguments: pool.apply(carry_out, arguments)


def carry_out(settings: Settings, side: str, seed: int, data_dir: Path | None) -> dict[str, Any]:
    """A run of one side, on one thread."""
    from . import work  # here: the page needs no Avalanche

    torch.set_num_threads(1)
    if side == "mnemo":
        return work.in_mnemo(settings, seed, data_dir)
    return work.in_avalanche(settings, seed, data_dir, side)
