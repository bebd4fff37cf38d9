"""What a run of the benchmark was asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """The command's options; see ``python -m benchmarks.speed --help``.

    Attributes:
        quick: tiny sizes and a small network: shows that everything runs, and measures nothing.
        data_dir: where CIFAR-100 is; None: the library's own place.
        device: of networks and images.
        threads: of the processor.
        repeats: samples of each variant.
    """

    quick: bool
    data_dir: Path | None
    device: torch.device
    threads: int
    repeats: int

    @property
    def backbone(self) -> str:
        """A name of a network in mnemo."""
        return self.pick("resnet32", "small")

    @property
    def batch_size(self) -> int:
        """Images a training step."""
        return self.pick(128, 16)

    def pick(self, full: T, quick: T) -> T:
        """A size for a whole run and for a quick one."""
        return quick if self.quick else full
