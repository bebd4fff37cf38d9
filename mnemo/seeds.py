"""Randomness by name: every place that draws has a generator of its own, so that nothing depends on what ran before."""

import hashlib

import torch


def derive(*path: int | str) -> int:
    """A seed that belongs to ``path``, in 0..2**63 - 1; the same on every machine."""
    digest = hashlib.sha256("/".join(str(part) for part in path).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*path: int | str) -> torch.Generator:
    """A fresh generator (on the CPU) for the place that ``path`` names, such as ``(1993, 2, "train", 7)``."""
    return torch.Generator().manual_seed(derive(*path))
