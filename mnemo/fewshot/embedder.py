"""The network of a few-shot method: from pixels to features, and what of it learns."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..components.scaling_shifting import Granularity, scale
from ..nets import FEW_SHOT_BACKBONES, normalised
from .batch_norm import statistics_of_first, with_task_statistics
from .tasks import Tasks

BatchNorm = Literal["running", "batch", "support"]
Learns = Literal["nothing", "last_weights", "weights", "last_scales", "scales"]


class Embedder(nn.Module):
    """Normalisation and a backbone.

    Args:
        backbone: (n, c, h, w) to (n, d); has ``features``, d, and ``blocks``.
        mean, std: per channel, in grey levels 0..255.
        batch_norm: which statistics normalise a task's images. ``running``: those of pre-training. ``batch``: those of
            the support for the support, of the queries for the queries; results are transductive then. ``support``:
            those of the task's support for all its images. Statistics are part of every gradient.
    """

    def __init__(
        self, backbone: nn.Module, mean: Sequence[float], std: Sequence[float], batch_norm: BatchNorm = "running"
    ) -> None:
        super().__init__()
        self.backbone, self.batch_norm = with_task_statistics(backbone), batch_norm
        self.features: int = backbone.features  # type: ignore[assignment]
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.get_default_dtype()).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.get_default_dtype()).view(1, -1, 1, 1))

    def train(self, mode: bool = True) -> "Embedder":
        """Statistics are what ``batch_norm`` says, whether the network learns or not."""
        return super().train(False)

    @property
    def learns(self) -> bool:
        """Whether any of its weights does."""
        return any(p.requires_grad for p in self.parameters())

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (n, c, h, w), uint8 or floating, in grey levels 0..255, to features (n, d), by running statistics."""
        features: Tensor = self.backbone(normalised(pixels, self.mean, self.std))
        return features

    def embed(self, tasks: Tasks) -> Tasks:
        """Tasks whose images are pixels, as tasks whose images are features."""
        if self.batch_norm == "running":
            parts = [part for part in (tasks.support, tasks.query, tasks.unlabelled) if part is not None]
            features = _together(self, parts)
        else:
            each = [[*self.task_features(tasks.one(index))] for index in range(len(tasks.support))]
            features = [torch.stack(part) for part in zip(*each, strict=True)]
        support, query, *rest = features
        return Tasks(support, tasks.labels, query, rest[0] if rest else None, tasks.ways)

    def task_features(self, task: Tasks, weights: dict[str, Tensor] | None = None) -> Iterator[Tensor]:
        """Features (n, d) of the support, the queries and, if there are any, the unlabelled images of one task.

        Args:
            task: a batch of one, of pixels.
            weights: in place of the network's own, by name.
        """
        call = self.fixed(task, weights)
        yield call(None)
        for part in (task.query, task.unlabelled):
            if part is not None:
                yield call(part[0])

    def fixed(self, task: Tasks, weights: dict[str, Tensor] | None = None) -> Callable[[Tensor | None], Tensor]:
        """The network, pixels (n, c, h, w) to features (n, d), with statistics as this task sees them.

        None stands for the pixels of the task's support.
        """
        values = {**dict(self.named_parameters()), **dict(self.named_buffers()), **(weights or {})}
        support = task.support[0]

        def call(pixels: Tensor | None) -> Tensor:
            if self.batch_norm == "support" and pixels is not None:
                return self._call(torch.cat([support, pixels]), values, len(support))[len(support) :]
            pixels = support if pixels is None else pixels
            return self._call(pixels, values, 0 if self.batch_norm == "running" else len(pixels))

        return call

    def _call(self, pixels: Tensor, values: dict[str, Tensor], first: int) -> Tensor:
        with statistics_of_first(self, first):
            features: Tensor = functional_call(self, values, (pixels,))
        return features


def _together(embedder: Embedder, parts: Sequence[Tensor]) -> list[Tensor]:
    """Features (t, n_i, d) of pixels (t, n_i, c, h, w), all in one batch."""
    flat = torch.cat([part.flatten(0, 1) for part in parts])
    features = embedder(flat).split([part.shape[0] * part.shape[1] for part in parts])
    return [each.view(*part.shape[:2], -1) for each, part in zip(features, parts, strict=True)]


def let_learn(embedder: Embedder, what: Learns, granularity: Granularity = "kernel") -> None:
    """Freeze a network but for a part of it; changes it.

    Sun et al., CVPR 2019, tables 3 and 4. ``weights``: kernels and the affine parameters of batch normalisation;
    ``scales``: scaling and shifting (SS) of frozen kernels; ``last_...``: those of the last block alone (Theta4).

    Args:
        embedder: the network.
        what: of it.
        granularity: of the scales; see :class:`mnemo.components.scaling_shifting.Scaling`.
    """
    embedder.requires_grad_(False)
    backbone: nn.Module = embedder.backbone
    last: nn.Module = backbone.blocks[-1]  # type: ignore[index,assignment]
    part = last if what.startswith("last_") else backbone
    if what.endswith("weights"):
        part.requires_grad_(True)
    elif what.endswith("scales"):
        scale(part, granularity, shift=True)


def embedder(
    backbone: str, shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float], batch_norm: BatchNorm
) -> Embedder:
    """A new network. Weights come from torch's global generator: fork and seed it around the call.

    Args:
        backbone: a name in :data:`mnemo.nets.FEW_SHOT_BACKBONES`.
        shape: channels, height and width of an image.
        mean, std: per channel, in grey levels 0..255.
        batch_norm: see :class:`Embedder`.
    """
    net = Embedder(FEW_SHOT_BACKBONES[backbone](shape[0], shape[1]), mean, std, batch_norm)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub leaves it out
    return net.eval()
