"""How public code trains: images through PIL one by one, a DataLoader, and a loop; nothing of it is mnemo's engine."""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mnemo.datasets.torchvision_import import import_torchvision
from mnemo.images import Images
from mnemo.nets import IncrementalNet
from mnemo.stages import Objective

from .images import MEAN, STD
from .ours import LR


class Pictures(Dataset):  # type: ignore[type-arg]
    """Images as torchvision's data sets give them: a transformed PIL image and its label.

    Attributes:
        targets: the labels, as a list.
    """

    def __init__(self, images: Images, transform: Callable[[Any], Any] | None) -> None:
        self._arrays = images.pixels.cpu().permute(0, 2, 3, 1).contiguous().numpy()
        self._transform = transform
        self.targets: list[int] = images.labels.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = Image.fromarray(self._arrays[index])
        return self._transform(image) if self._transform else image, self.targets[index]


def training_transform() -> Callable[[Any], Any]:
    """RandomCrop(32, 4), RandomHorizontalFlip, ToTensor, Normalize."""
    transforms = import_torchvision().transforms
    return transforms.Compose([*varied(), *plain_transform().transforms])


def varied() -> list[Any]:
    """The random part of it."""
    transforms = import_torchvision().transforms
    return [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]


def plain_transform() -> Any:
    """ToTensor, Normalize."""
    transforms = import_torchvision().transforms
    scaled = ([value / 255 for value in values] for values in (MEAN, STD))
    return transforms.Compose([transforms.ToTensor(), transforms.Normalize(*scaled)])


def loader(
    images: Images, transform: Callable[[Any], Any], batch_size: int, workers: int = 0, shuffle: bool = True
) -> DataLoader:  # type: ignore[type-arg]
    """A DataLoader; its workers stay, so that an epoch does not pay for their start."""
    pictures = Pictures(images, transform)
    return DataLoader(pictures, batch_size, shuffle, num_workers=workers, persistent_workers=workers > 0)


class Normalised(torch.nn.Module):
    """mnemo's network without its normalisation, which a transform has done: images (n, 3, h, w) to outputs."""

    def __init__(self, net: IncrementalNet) -> None:
        super().__init__()
        self.backbone, self.head = net.backbone, net.head

    def forward(self, images: Tensor) -> Any:
        return self.head(self.backbone(images))


def optimizer(net: torch.nn.Module) -> torch.optim.SGD:
    """SGD as public code makes it, on the parameters that learn."""
    learning = [parameter for parameter in net.parameters() if parameter.requires_grad]
    return torch.optim.SGD(learning, lr=LR, momentum=0.9, weight_decay=5e-4)


class Training:
    """A plain loop over a loader, with the loss of one of mnemo's recipes."""

    def __init__(
        self, net: IncrementalNet, previous: IncrementalNet | None, objective: Objective, batches: Any, device: Any
    ) -> None:
        self._net, self._previous = Normalised(net), Normalised(previous).eval() if previous is not None else None
        self._objective, self._batches, self._device = objective, batches, device
        self._optimizer = optimizer(self._net)

    def epoch(self) -> tuple[float, int]:
        """One pass: the sum of losses and the images named rightly."""
        self._net.train()
        loss_sum, correct = 0.0, 0
        for images, labels in self._batches:
            images, labels = images.to(self._device), labels.to(self._device)
            loss, logits = self._step(images, labels)
            loss_sum += loss.item()
            correct += int((logits.argmax(1) == labels).sum())
        return loss_sum, correct

    def _step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self._net(images)
        old = None
        if self._previous is not None:
            with torch.no_grad():
                old = self._previous(images)
        loss = self._objective(outputs, labels, old)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return loss, outputs.logits
