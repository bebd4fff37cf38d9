"""Squared Euclidean distances, for base-learners that compare images."""

from torch import Tensor


def squared_distances(one: Tensor, other: Tensor) -> Tensor:
    """Squared distances (t, n, m) between features (t, n, d) and (t, m, d); never negative, and never (t, n, m, d)."""
    centre = other.mean(1, keepdim=True).detach()  # moves both, so that large means do not cost digits
    one, other = one - centre, other - centre
    lengths = one.square().sum(2, keepdim=True) + other.square().sum(2).unsqueeze(1)
    return (lengths - 2 * one @ other.transpose(1, 2)).clamp(min=0)
