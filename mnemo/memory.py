"""The exemplar memory: what is kept of the classes whose images are gone, and how much of it, counted in bytes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .codecs import Codec, Raw, to_uint8
from .disk.files import InputError
from .images import Images, join

Budget = Callable[[int, int], int]
"""(classes seen so far, bytes of one raw image) to bytes for each class."""


def per_class(count: int) -> Budget:
    """Bytes of ``count`` raw images for every class; the memory grows. LUCIR and Mnemonics, main setting: 20."""
    return lambda classes, bytes_each: count * bytes_each


def in_total(count: int) -> Budget:
    """Bytes of about ``count`` raw images in all, rounded up by class as iCaRL does: 2000 of 60 classes are 34 each."""
    return lambda classes, bytes_each: math.ceil(count / classes) * bytes_each


def in_bytes(count: int) -> Budget:
    """``count`` bytes in all, an equal share for every class."""
    return lambda classes, bytes_each: count // classes


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


@dataclass(frozen=True)
class Stored:
    """Images as they would be kept.

    Attributes:
        images: as they are decoded.
        files: an encoded file for each; None where pixels are kept as they are.
        sizes: what each takes, int64 (n,) on the CPU: file, its entry in the index of files, and logits.
    """

    images: Images
    files: list[bytes] | None
    sizes: Tensor

    def select(self, where: Tensor) -> "Stored":
        """Those at ``where``, int64 (m,)."""
        files = None if self.files is None else [self.files[i] for i in where.tolist()]
        return Stored(self.images.select(where), files, self.sizes[where.cpu()])

    def with_logits(self, logits: Tensor) -> "Stored":
        """The same with logits (n, classes), kept in half precision: two bytes each, and two for their number."""
        before = 0 if self.images.logits is None else _logit_bytes(self.images.logits)
        images = self.images.with_logits(logits.half().float())
        return Stored(images, self.files, self.sizes - before + _logit_bytes(logits))


def _logit_bytes(logits: Tensor) -> Tensor:
    return 2 * (~logits.isnan()).sum(1).cpu() + 2


def stored(codec: Codec, images: Images) -> Stored:
    """Images through a codec, without logits."""
    images = images.with_logits(None)
    if isinstance(codec, Raw):
        return Stored(images, None, torch.full((len(images),), images.bytes_each))
    files = codec.encode(images.pixels)
    pixels = codec.decode(files, images.shape).to(images.labels.device)
    sizes = torch.tensor([len(file) for file in files], dtype=torch.int64) + _index_entry(codec, images.bytes_each)
    return Stored(Images(_last(pixels), images.labels), files, sizes)


def _index_entry(codec: Codec, bytes_each: int) -> int:
    """Bytes that say how long a file is; files are kept one after the other."""
    if codec.fixed_size:
        return 0
    return 2 if bytes_each < 50_000 else 4


NONE = torch.zeros(0, dtype=torch.int64)


class ExemplarMemory:
    """Exemplars by class, best first.

    Files are decoded when they are stored, once, never while training.

    Args:
        budget: bytes for each class.
        codec: how exemplars are kept; see :mod:`mnemo.codecs`.
        soft_labels: weight of the distillation from logits that are stored with every exemplar; 0: none are.

    Attributes:
        images: all exemplars as they are decoded, sorted by label and then by rank; None while empty.
        originals: the real images that they were chosen as, uint8 of the same shape; None where those are what is kept.
            Evidence for the record: nothing is trained on it, and it does not count as memory. So are the next two.
        drafts: what was given to be stored: optimised pixels before the codec; None as above.
        squared_error: mean square of what rounding and codec changed, in grey levels, (n,); None as above.
        whole: int64 (k,) on the CPU, classes of which every image is kept. Their exemplars stand for no others, so that
            there is nothing to optimise them for.
    """

    def __init__(self, budget: Budget, codec: Codec = Raw(), soft_labels: float = 0.0) -> None:
        self.codec, self.soft_labels = codec, soft_labels
        self._budget = budget
        self._stored: Stored | None = None
        self.originals: Tensor | None = None
        self.drafts: Tensor | None = None
        self.squared_error: Tensor | None = None
        self.whole = NONE

    def __len__(self) -> int:
        return 0 if self._stored is None else len(self._stored.images)

    @property
    def images(self) -> Images | None:
        """See above."""
        return None if self._stored is None else self._stored.images

    @property
    def sizes(self) -> Tensor:
        """Bytes that each exemplar takes, int64 (n,) on the CPU."""
        return torch.zeros(0, dtype=torch.int64) if self._stored is None else self._stored.sizes

    @property
    def bytes(self) -> int:
        """What is kept takes: all files, their index, and what they share, once."""
        return 0 if self.images is None else int(self.sizes.sum()) + len(self.codec.shared(self.images.shape))

    @property
    def largest_class(self) -> int:
        """Exemplars of the class that has most."""
        return 0 if self.images is None else int(torch.bincount(self.images.labels).max())

    def quota(self, classes: int, shape: tuple[int, int, int]) -> int:
        """Bytes for each class when ``classes`` have been seen, what files of this shape share taken off."""
        shared = math.ceil(len(self.codec.shared(shape)) / classes)
        return max(0, self._budget(classes, math.prod(shape)) - shared)

    def expected(self, classes: int, sample: Images) -> int:
        """About how many exemplars of each class there will be, judged by some images; exact for raw images."""
        size = float(stored(self.codec, sample).sizes.float().mean())
        return int(self.quota(classes, sample.shape) / size)

    def shrink(self, quota: int) -> None:
        """Keep of each class the first exemplars that fit in ``quota`` bytes together."""
        if self.images is not None:
            self._keep(fitting(self.images.labels.cpu(), self.sizes, quota))

    def admit(self, originals: Images, kept: Stored | None = None, whole: Tensor = NONE) -> None:
        """Add exemplars of new classes: sorted by label, best first. Raises ValueError if a class is known already.

        Args:
            originals: the images as they are.
            kept: the same in the form of the memory's codec; None: they are encoded here.
            whole: int64 (k,), those of the classes that have no other images.
        """
        self.whole = torch.cat([self.whole, whole.cpu()])
        exemplars = stored(self.codec, originals) if kept is None else kept
        originals = Images(originals.pixels, originals.labels)
        if self.images is not None and torch.isin(exemplars.images.labels, self.images.labels).any():
            raise ValueError("exemplars of a class that the memory already holds")
        if not self.codec.lossless and self.originals is None:
            self._begin_evidence()
        before = self._stored
        self._stored = exemplars if before is None else joined([before, exemplars])
        if self.originals is not None and self.drafts is not None and self.squared_error is not None:
            labels = exemplars.images.labels if before is None else before.images.labels
            new = [originals] if before is None else [Images(self.originals, labels), originals]
            drafts = [originals] if before is None else [Images(self.drafts, labels), originals]
            self.originals, self.drafts = join(new).pixels, join(drafts).pixels.clone()  # a file shares no tensor
            error = _squared_error(exemplars.images.pixels, originals.pixels.float())
            self.squared_error = torch.cat([self.squared_error, error])

    def store(self, where: Tensor, pixels: Tensor) -> None:
        """Replace exemplars by optimised ones, rounded to uint8 and encoded. They may take more bytes than before.

        Args:
            where: int64 (m,), positions in :attr:`images`.
            pixels: floating (m, c, h, w) in grey levels; values outside 0..255 are clamped, not wrapped.
        """
        if self._stored is None:
            raise ValueError("the memory is empty")
        if not pixels.isfinite().all():
            raise InputError("optimised exemplars are no longer finite; a smaller inner_lr or pixel_step may help")
        if self.originals is None:
            self._begin_evidence()
        assert self.drafts is not None
        assert self.squared_error is not None
        rounded = to_uint8(pixels)
        new = stored(self.codec, Images(rounded, self._stored.images.labels[where]))
        if self._stored.images.logits is not None:
            new = new.with_logits(self._stored.images.logits[where])
        self._stored = _replaced(self._stored, where, new)
        self.drafts = self.drafts.index_copy(0, where, rounded)
        self.squared_error[where.cpu()] = _squared_error(new.images.pixels, pixels.clamp(0, 255))

    def remember(self, where: Tensor, logits: Tensor) -> None:
        """Replace the logits of the exemplars at ``where`` (m,) by ``logits`` (m, classes), as many as they were."""
        assert self._stored is not None
        assert self._stored.images.logits is not None
        rows = self._stored.images.logits.clone()
        rows[where, : logits.shape[1]] = logits.to(rows.dtype)
        self._stored = self._stored.with_logits(rows)

    def rms_displacement(self) -> float | None:
        """Root mean square distance of stored pixels from the real images they stand for, in grey levels."""
        if self.images is None or self.originals is None:
            return None
        return float((self.images.pixels.float() - self.originals.float()).square().mean().sqrt())

    def rms_quantisation(self) -> float | None:
        """Root mean square of what rounding and codec changed, over all exemplars."""
        return None if self.squared_error is None else float(self.squared_error.mean().sqrt())

    def state(self) -> dict[str, Tensor]:
        """All tensors, for a checkpoint: ``pixels``, or ``files``, ``index`` and ``shared``, are what counts."""
        if self._stored is None or self.images is None:
            return {}
        tensors = {"labels": self.images.labels}
        if self.images.logits is not None:
            known = ~self.images.logits.isnan()
            tensors["logits"] = self.images.logits[known].half()
            tensors["logit_counts"] = known.sum(1).short()
        if self._stored.files is None:
            tensors["pixels"] = self.images.pixels
        else:
            tensors |= self._file_tensors(self._stored.files, self.images)
        if self.originals is not None and self.drafts is not None and self.squared_error is not None:
            tensors |= {"originals": self.originals, "drafts": self.drafts, "squared_error": self.squared_error}
        return tensors | ({"whole": self.whole} if len(self.whole) else {})

    def _file_tensors(self, files: Sequence[Any], images: Images) -> dict[str, Tensor]:
        entry = _index_entry(self.codec, images.bytes_each)
        lengths = np.array([len(file) for file in files], dtype="<u4").view(np.uint8).reshape(-1, 4)[:, :entry]
        parts = {"files": b"".join(files), "index": lengths.tobytes(), "shared": self.codec.shared(images.shape)}
        tensors = {name: torch.frombuffer(bytearray(part), dtype=torch.uint8) for name, part in parts.items() if part}
        return {**tensors, "shape": torch.tensor(images.shape)}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up what :meth:`state` gave. Raises InputError where files are damaged."""
        self._stored = None
        if "pixels" in tensors:
            self._stored = stored(Raw(), Images(_last(tensors["pixels"]), tensors["labels"]))
        elif "files" in tensors:
            self._stored = self._from_files(tensors)
        if self._stored is not None and "logits" in tensors:
            self._stored = self._stored.with_logits(_unpacked(tensors["logits"], tensors["logit_counts"]))
        self.originals = _last(tensors["originals"]) if "originals" in tensors else None
        self.drafts = _last(tensors["drafts"]) if "drafts" in tensors else None
        self.squared_error = tensors["squared_error"].cpu() if "squared_error" in tensors else None
        self.whole = tensors["whole"].cpu() if "whole" in tensors else NONE

    def _from_files(self, tensors: dict[str, Tensor]) -> Stored:
        labels = tensors["labels"]
        channels, height, width = tensors["shape"].tolist()
        entry = _index_entry(self.codec, channels * height * width)
        content = tensors["files"].cpu().numpy().tobytes()
        lengths = [len(content) // len(labels)] * len(labels)
        if entry:
            index = np.zeros((len(labels), 4), np.uint8)
            index[:, :entry] = tensors["index"].cpu().numpy().reshape(-1, entry)
            lengths = index.view("<u4").squeeze(1).tolist()
        ends = np.cumsum(lengths)
        files = [content[end - length : end] for end, length in zip(ends, lengths, strict=True)]
        pixels = self.codec.decode(files, (channels, height, width)).to(labels.device)
        return Stored(Images(_last(pixels), labels), files, torch.tensor(lengths) + entry)

    def _begin_evidence(self) -> None:
        """From now on remember what exemplars were; so far they are what is stored."""
        if self.images is None:
            self.squared_error = torch.zeros(0, dtype=torch.float32)
            self.originals = self.drafts = torch.zeros(0)
        else:
            self.originals, self.drafts = self.images.pixels.clone(), self.images.pixels.clone()
            self.squared_error = torch.zeros(len(self), dtype=torch.float32)

    def _keep(self, where: Tensor) -> None:
        if self._stored is None or len(where) == len(self):
            return
        labels = self._stored.images.labels.cpu()
        gone = torch.ones(len(labels), dtype=torch.bool).index_fill(0, where.cpu(), False)
        self.whole = self.whole[~torch.isin(self.whole, labels[gone])]
        if not len(where):
            self._stored = self.originals = self.drafts = self.squared_error = None
            return
        on_device = where.to(self._stored.images.labels.device)
        self._stored = self._stored.select(on_device)
        if self.originals is not None and self.drafts is not None and self.squared_error is not None:
            self.originals, self.drafts = self.originals[on_device], self.drafts[on_device]
            self.squared_error = self.squared_error[where]


def fitting(labels: Tensor, sizes: Tensor, quota: int) -> Tensor:
    """Positions of the first of each class that fit in ``quota`` bytes together; labels (n,) are sorted, sizes (n,)."""
    total = sizes.cumsum(0)
    first = ranks(labels) == 0
    before = (total - sizes)[first]
    within = total - before[first.cumsum(0) - 1]
    return (within <= min(quota, 2**62)).nonzero().squeeze(1)


def joined(parts: Sequence[Stored]) -> Stored:
    """All of them, one after the other. Raises ValueError if there is none."""
    files: list[bytes] | None = []
    for part in parts:
        files = None if files is None or part.files is None else [*files, *part.files]
    return Stored(join([part.images for part in parts]), files, torch.cat([part.sizes for part in parts]))


def _replaced(old: Stored, where: Tensor, new: Stored) -> Stored:
    pixels = old.images.pixels.clone()
    pixels[where] = new.images.pixels
    files = old.files
    if files is not None and new.files is not None:
        files = [*files]
        for position, file in zip(where.tolist(), new.files, strict=True):
            files[position] = file
    return Stored(
        Images(pixels, old.images.labels, old.images.logits), files, old.sizes.index_copy(0, where.cpu(), new.sizes)
    )


def _unpacked(logits: Tensor, counts: Tensor) -> Tensor:
    """Rows (n, most) out of logits one after the other and how many each has (n,), NaN behind them."""
    counts = counts.long()
    rows = logits.new_full((len(counts), int(counts.max())), torch.nan, dtype=torch.float)
    rows[torch.arange(rows.shape[1], device=counts.device) < counts.unsqueeze(1)] = logits.float()
    return rows


def _squared_error(kept: Tensor, given: Tensor) -> Tensor:
    return (kept.to(given.dtype) - given).square().mean((1, 2, 3)).float().cpu()


def _last(pixels: Tensor) -> Tensor:
    return pixels.contiguous(memory_format=torch.channels_last)


def ranks(labels: Tensor) -> Tensor:
    """For labels (n,) sorted by class: the position of each within its class, int64 (n,)."""
    counts = torch.bincount(labels)
    starts = counts.cumsum(0) - counts
    return torch.arange(len(labels), device=labels.device) - starts[labels]
