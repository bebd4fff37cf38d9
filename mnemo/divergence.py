"""Training that has left the numbers is found at the end of an epoch, before it is saved.

What is not finite stays so: a broken batch or gradient leaves its mark in weights, running statistics or momenta, and
looking at them once an epoch finds it, where looking at every step would make the host wait for the device.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .disk.files import InputError

CAUSES = "a smaller {rate} may help, or precision=fp32 where it was bf16"


def refuse(place: str, shown: Mapping[str, float], tensors: Mapping[str, Tensor], rate: str = "lr") -> None:
    """Raise InputError if a value that is shown, or a tensor that has learnt, is not finite.

    Args:
        place: where in the run, such as ``phase 2, epoch 3, train``.
        shown: such as the mean loss.
        tensors: by name; those of whole numbers are finite anyway.
        rate: the setting that is too large, as like as not.
    """
    for name, value in shown.items():
        if not math.isfinite(value):
            raise InputError(f"{place}: the {name} is {value}; {CAUSES.format(rate=rate)}")
    for name in _broken(tensors):
        raise InputError(f"{place}: {name} is no longer finite; {CAUSES.format(rate=rate)}")


def _broken(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of those that are not finite. Waits for each device once; an optimiser counts its steps on the CPU."""
    by_device: dict[torch.device, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            by_device.setdefault(tensor.device, []).append(name)
    broken = []
    for names in by_device.values():
        finite = torch.stack([tensors[name].isfinite().all() for name in names]).tolist()
        broken += [name for name, sound in zip(names, finite, strict=True) if not sound]
    return broken
