"""Where tasks come from: a split's images on the device, as pixels or embedded once."""

import torch
from torch import Tensor

from ..augment import Augmentation
from ..images import Images
from .embedder import Embedder
from .episodes import Episodes
from .method import features
from .tasks import Tasks


class Source:
    """A split's images, resident on a device.

    Args:
        images: of the split.
        device: where tasks are made.
        augmentation: of all images of a task, where ``varied`` tasks are asked for.
    """

    def __init__(self, images: Images, device: torch.device, augmentation: Augmentation | None = None) -> None:
        self.labels = images.labels
        self._images, self._device, self._augmentation = images.to(device), device, augmentation
        self._features: Tensor | None = None

    def embed(self, embedder: Embedder) -> None:
        """From now on images are their features; every one passes through the network once."""
        self._features = features(embedder, self._images.pixels)

    def tasks(self, episodes: Episodes, varied: torch.Generator | None = None) -> Tasks:
        """The episodes' images.

        Args:
            episodes: which.
            varied: draws crops and flips; None leaves images as they are, as features always are.
        """
        parts = [episodes.support, episodes.query, episodes.unlabelled]
        support, query, unlabelled = (self._at(rows, varied) for rows in parts)
        some = unlabelled if episodes.unlabelled.numel() else None
        return Tasks(support, episodes.labels.to(self._device), query, some, episodes.shape.ways)

    def _at(self, rows: Tensor, varied: torch.Generator | None) -> Tensor:
        flat = rows.flatten().to(self._device)
        if self._features is not None:
            return self._features[flat].view(*rows.shape, self._features.shape[1])
        images = self._images.select(flat)
        pixels = images.pixels
        if varied is not None and self._augmentation is not None and len(flat):
            draws = self._augmentation.draw(len(flat), images.shape, varied).to(self._device)
            pixels = self._augmentation.apply(pixels, draws)
        return pixels.reshape(*rows.shape, *pixels.shape[1:])
