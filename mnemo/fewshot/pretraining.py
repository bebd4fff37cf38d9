"""Pre-training: an ordinary classifier of all training classes, whose backbone every method starts from.

Sun et al., CVPR 2019, section 4.1; the class head is thrown away. It is trained once for a backbone, data set, schedule
and seed, and kept under a name made of these, so that methods that are compared have the very same network.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import pydantic
import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from .. import divergence
from ..augment import Augmentation
from ..counts import NonNegativeInt, PositiveInt
from ..disk import checkpoint, lock
from ..disk.files import sweep
from ..engine import Precision
from ..images import Images
from ..memory import ExemplarMemory, per_class
from ..nets import IncrementalNet, Outputs
from ..nets.heads import LinearHead
from ..phases import Phase
from ..seeds import derive, generator
from ..settings import STRICT
from ..stages import Loop, Schedule, Situation, Train
from .embedder import Embedder
from .progress import Progress

EVERY = 20.0
"""Seconds between two checkpoints, at least."""


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Pretraining:
    """How the backbone is pre-trained: SGD with momentum 0.9, random crops and flips.

    Attributes:
        pretrain_epochs: 0 leaves the backbone as it was drawn.
        pretrain_lr: learning rate at the start.
        pretrain_annealing: ``cosine``, or ``steps`` by ten at 60 and 80 % of the epochs.
        pretrain_weight_decay: on all parameters.
        pretrain_batch_size: images a step.
        precision: ``fp32``, or ``bf16`` on a GPU.
    """

    pretrain_epochs: NonNegativeInt = 100
    pretrain_lr: PositiveFloat = 0.05
    pretrain_annealing: Literal["steps", "cosine"] = "cosine"
    pretrain_weight_decay: NonNegativeFloat = 5e-4
    pretrain_batch_size: Annotated[PositiveInt, Field(ge=2)] = 64
    precision: Precision = "fp32"

    @property
    def schedule(self) -> Schedule:
        """The same as a schedule."""
        return Schedule(
            self.pretrain_epochs,
            self.pretrain_lr,
            (0.6, 0.8),
            annealing=self.pretrain_annealing,
            weight_decay=self.pretrain_weight_decay,
            batch_size=self.pretrain_batch_size,
            precision=self.precision,
        )


@dataclass(frozen=True)
class Identity:
    """What decides a pre-trained backbone: two runs that agree in it have the same one.

    Attributes:
        data: the data set's name.
        classes, images: numbers of them.
        backbone: its name.
        mean, std: of the pixels.
        settings: see :class:`Pretraining`.
        seed: of first weights and of all that is drawn.
    """

    data: str
    classes: int
    images: int
    backbone: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    settings: Pretraining
    seed: int

    @property
    def name(self) -> str:
        """Such as ``fc100-resnet12-1993-0123456789ab``."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.data}-{self.backbone}-{self.seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def pretrain(
    embedder: Embedder, images: Images, augmentation: Augmentation, identity: Identity, folder: Path
) -> Iterator[Progress]:
    """Give a network pre-trained weights: those in ``folder`` if they are there, else it trains and keeps them there.

    Where another run is training the same weights, this one waits for them.

    Args:
        embedder: on the device where it is to be trained; its weights change.
        images: of the training classes.
        augmentation: of them.
        identity: what makes these weights what they are.
        folder: of pre-trained networks; a run that is broken off goes on from there.

    Raises:
        InputError: a file is damaged, or the weights are no longer finite.
    """
    done, going = (folder / f"{identity.name}{end}.safetensors" for end in ("", ".going"))
    if not identity.settings.pretrain_epochs:
        return
    if not done.exists():
        with lock.file(done):
            sweep(folder, identity.name)
            if not done.exists():  # another run may just have finished it
                yield from _train(embedder, images, augmentation, identity, going)
                checkpoint.save(done, embedder.backbone.state_dict(), {"identity": asdict(identity)})
                going.unlink(missing_ok=True)
    tensors, _ = checkpoint.load(done)
    with checkpoint.fitting(done):
        embedder.backbone.load_state_dict(tensors)


def _train(
    embedder: Embedder, images: Images, augmentation: Augmentation, identity: Identity, going: Path
) -> Iterator[Progress]:
    net = _classifier(embedder, identity)
    loop = _loop(net, images.to(embedder.mean.device), augmentation, identity)
    first, saved_at = 0, time.monotonic()
    if going.exists():
        first = _take_up(going, net, loop)
    for epoch in range(first, loop.epochs):
        shown = loop.epoch(epoch, generator(identity.seed, "pre-train", epoch))
        tensors = checkpoint.joined({"net": net.state_dict(), "loop": loop.state()})
        divergence.refuse(f"pre-train, epoch {epoch + 1}", shown, tensors, rate="pretrain_lr")
        if time.monotonic() - saved_at >= EVERY:
            checkpoint.save(going, tensors, {"epochs": epoch + 1})
            saved_at = time.monotonic()
        yield Progress("pre-train", epoch + 1, loop.epochs, dict(shown), first)
    loop.end()
    embedder.eval().requires_grad_(False)


def _classifier(embedder: Embedder, identity: Identity) -> IncrementalNet:
    net = IncrementalNet(embedder.backbone, LinearHead(embedder.features), identity.mean, identity.std)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(identity.seed, "pre-train", "head"))
        net.head.grow(identity.classes)
    return net.requires_grad_(True).to(embedder.mean.device)


def _loop(net: IncrementalNet, images: Images, augmentation: Augmentation, identity: Identity) -> Loop:
    phase = Phase(0, tuple(range(identity.classes)), 0, images, images)
    situation = Situation(net, None, ExemplarMemory(per_class(0)), phase, augmentation, (identity.seed, "pre-train"))
    schedule = identity.settings.schedule
    loop = Train(_cross_entropy, schedule, schedule).begin(situation)
    assert loop is not None  # who wants no epochs does not come here
    return loop


def _cross_entropy(outputs: Outputs, labels: Tensor, old: Outputs | None) -> Tensor:
    return F.cross_entropy(outputs.logits, labels)


def _take_up(path: Path, net: IncrementalNet, loop: Loop) -> int:
    tensors, about = checkpoint.load(path)
    parts = checkpoint.parted(tensors)
    with checkpoint.fitting(path):
        net.load_state_dict(parts["net"])
        loop.load(parts["loop"])
        return int(about["epochs"])
