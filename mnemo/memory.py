"""The exemplar memory: what is kept of the classes whose images are gone, and how much of it."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .files import InputError
from .images import Images, join

Budget = Callable[[int, int], int]
"""(classes seen so far, bytes of one image) to exemplars a class."""


def per_class(count: int) -> Budget:
    """``count`` exemplars of every class; the memory grows. The main setting of LUCIR and Mnemonics: 20."""
    return lambda classes, bytes_each: count


def in_total(count: int) -> Budget:
    """About ``count`` exemplars in all, rounded up by class as iCaRL does: 2000 of 60 classes are 34 each."""
    return lambda classes, bytes_each: math.ceil(count / classes)


def in_bytes(count: int) -> Budget:
    """As many whole exemplars of every class as ``count`` bytes of pixels hold; never more."""
    return lambda classes, bytes_each: count // (classes * bytes_each)


def everything() -> Budget:
    """All images; for the ceiling that joint training sets."""
    return per_class(2**62)


def budget(*, each: int, total: int | None = None, in_bytes_: int | None = None) -> Budget:
    """The budget that a recipe's arguments name: in bytes or in total where one of them is given, else per class.

    Raises:
        InputError: both are given.
    """
    if total is not None and in_bytes_ is not None:
        raise InputError("total and budget_bytes both set the budget: give one of them")
    if in_bytes_ is not None:
        return in_bytes(in_bytes_)
    return per_class(each) if total is None else in_total(total)


class ExemplarMemory:
    """Exemplars by class, best first, as uint8 pixels.

    Attributes:
        images: all exemplars, sorted by label and then by rank; None while empty.
        originals: what the exemplars were before any pixel was optimised, uint8 of the same shape; None where none was.
            Evidence for the record: nothing is trained on it, and it does not count as memory.
        squared_rounding: mean square of what rounding changed, in grey levels, (n,); None as above.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.images: Images | None = None
        self.originals: Tensor | None = None
        self.squared_rounding: Tensor | None = None

    def __len__(self) -> int:
        return 0 if self.images is None else len(self.images)

    @property
    def bytes(self) -> int:
        """What the stored pixels take."""
        return 0 if self.images is None else len(self.images) * self.images.bytes_each

    @property
    def largest_class(self) -> int:
        """Exemplars of the class that has most."""
        return 0 if self.images is None else int(torch.bincount(self.images.labels).max())

    def quota(self, classes: int, bytes_each: int) -> int:
        """Exemplars of each class when ``classes`` have been seen."""
        return self._budget(classes, bytes_each)

    def shrink(self, count: int) -> None:
        """Keep the first ``count`` exemplars of each class."""
        if self.images is not None:
            self._keep((ranks(self.images.labels) < count).nonzero().squeeze(1))

    def admit(self, exemplars: Images) -> None:
        """Add exemplars of new classes: sorted by label, best first. Raises ValueError if a class is known already."""
        if self.images is not None and torch.isin(exemplars.labels, self.images.labels).any():
            raise ValueError("exemplars of a class that the memory already holds")
        old = self.images
        self.images = exemplars if old is None else join([old, exemplars])
        if self.originals is not None and self.squared_rounding is not None:
            self.originals = join([Images(self.originals, old.labels), exemplars]).pixels if old else None
            self.squared_rounding = torch.cat([self.squared_rounding, torch.zeros(len(exemplars))])

    def store(self, where: Tensor, pixels: Tensor) -> None:
        """Replace exemplars by optimised ones, rounded to uint8.

        Args:
            where: int64 (m,), positions in :attr:`images`.
            pixels: floating (m, c, h, w) in grey levels; values outside 0..255 are clamped, not wrapped.
        """
        if self.images is None:
            raise ValueError("the memory is empty")
        if not pixels.isfinite().all():
            raise InputError("optimised exemplars are no longer finite; a smaller inner_lr or pixel_step may help")
        if self.originals is None or self.squared_rounding is None:
            self.originals = self.images.pixels.clone()
            self.squared_rounding = torch.zeros(len(self))
        rounded = to_uint8(pixels)
        stored = self.images.pixels.clone()
        stored[where] = rounded
        self.images = Images(stored, self.images.labels)
        error = (rounded.to(pixels.dtype) - pixels.clamp(0, 255)).square().mean((1, 2, 3))
        self.squared_rounding[where.cpu()] = error.float().cpu()

    def rms_displacement(self) -> float | None:
        """Root mean square distance of stored pixels from the real images they started as, in grey levels."""
        if self.images is None or self.originals is None:
            return None
        return float((self.images.pixels.float() - self.originals.float()).square().mean().sqrt())

    def rms_quantisation(self) -> float | None:
        """Root mean square of what rounding to whole grey levels changed, over all exemplars."""
        return None if self.squared_rounding is None else float(self.squared_rounding.mean().sqrt())

    def state(self) -> dict[str, Tensor]:
        """All tensors, for a checkpoint."""
        if self.images is None:
            return {}
        tensors = {"pixels": self.images.pixels, "labels": self.images.labels}
        if self.originals is not None and self.squared_rounding is not None:
            tensors |= {"originals": self.originals, "squared_rounding": self.squared_rounding}
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up what :meth:`state` gave."""
        self.images = Images(_last(tensors["pixels"]), tensors["labels"]) if tensors else None
        self.originals = _last(tensors["originals"]) if "originals" in tensors else None
        self.squared_rounding = tensors.get("squared_rounding")
        if self.squared_rounding is not None:
            self.squared_rounding = self.squared_rounding.cpu()

    def _keep(self, where: Tensor) -> None:
        if self.images is None or len(where) == len(self.images):
            return
        if not len(where):
            self.images = self.originals = self.squared_rounding = None
            return
        self.images = self.images.select(where)
        if self.originals is not None and self.squared_rounding is not None:
            self.originals = self.originals[where]
            self.squared_rounding = self.squared_rounding[where.cpu()]


def _last(pixels: Tensor) -> Tensor:
    return pixels.contiguous(memory_format=torch.channels_last)


def ranks(labels: Tensor) -> Tensor:
    """For labels (n,) sorted by class: the position of each within its class, int64 (n,)."""
    counts = torch.bincount(labels)
    starts = counts.cumsum(0) - counts
    return torch.arange(len(labels), device=labels.device) - starts[labels]


def to_uint8(pixels: Tensor) -> Tensor:
    """Grey levels as uint8, rounded to the nearest and clamped to 0..255."""
    return pixels.detach().round().clamp(0, 255).to(torch.uint8)
