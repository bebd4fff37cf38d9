"""The exemplar buffer, and the plugin that replays it."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from avalanche.benchmarks.utils import AvalancheDataset, concat_datasets
from avalanche.models.utils import is_multi_task_module
from avalanche.training.plugins import ReplayPlugin
from avalanche.training.storage_policy import ExemplarsBuffer
from torch import Tensor

from ..augment import Augmentation, CropAndFlip
from ..codecs import Codec, Raw
from ..compression import CHOICES
from ..disk.files import InputError
from ..exemplars.mnemonics import Bilevel, Mnemonics
from ..exemplars.pixels import PixelSteps
from ..exemplars.rehearsal import Rehearsal
from ..exemplars.stages import Adjust, Optimise
from ..exemplars.starts import Starts
from ..images import Images
from ..memory import ExemplarMemory
from ..phases import Phase
from ..seeds import generator
from ..stages import Compress, Schedule, Situation, Stage, Train
from . import raw
from .icarl import hand_over, icarl_plugin
from .network import AvalancheNet

UNVARIED = CropAndFlip(padding=0, mirrors=False)


@dataclass(frozen=True)
class Known:
    """A class that has been seen.

    Attributes:
        label, task, inner_label: see :class:`mnemo.avalanche.raw.Raw`.
        experience: that brought it, counted from 0.
    """

    label: int
    task: int
    inner_label: Any
    experience: int


class MnemonicsBuffer(ExemplarsBuffer):
    """Exemplars that are chosen by mnemo and, unless ``pixels`` is None, optimised by bilevel gradients.

    ``ReplayPlugin(mem_size, storage_policy=MnemonicsBuffer(mem_size))`` takes it, and so does whatever else takes an
    ``ExemplarsBuffer``. Every class seen so far has ``max_size // classes`` places; what no longer fits goes, last in
    rank. Exemplars are uint8 pixels, optimised or not, and go through the transforms of the images that they stand for.
    Nothing is drawn from global generators, and the model is left as it is.

    Args:
        max_size: images in all. With a codec it is their bytes as raw pixels that count, and more than these may fit.
        choice: ``herding`` or ``random``; where exemplars are optimised, what they start as.
        pixels: how they are moved; None keeps real images, which is the control.
        bilevel: the gradient. Its ``level`` is ``network`` or ``ridge``, its losses are cross-entropies.
        augmentation: of images while exemplars are optimised: as near to the train transform as can be.
        classifier: see :class:`mnemo.avalanche.network.AvalancheNet`.
        codec: how exemplars are kept, such as ``Jpeg(75)``; see :mod:`mnemo.codecs`. They are replayed as decoded.
        seed: of all that is drawn.

    Attributes:
        memory: the exemplars in mnemo's form, labelled in order of arrival.

    Raises:
        InputError: ``bilevel`` asks for what an Avalanche model cannot give.
    """

    def __init__(
        self,
        max_size: int,
        *,
        choice: Literal["herding", "random"] = "random",
        pixels: PixelSteps | None = PixelSteps(),
        bilevel: Bilevel = Bilevel(),
        augmentation: Augmentation = UNVARIED,
        classifier: str | None = None,
        codec: Codec = Raw(),
        seed: int = 0,
    ) -> None:
        super().__init__(max_size)
        if bilevel.level == "head" or {bilevel.inner_loss, bilevel.outer_loss} != {"cross_entropy"}:
            raise InputError("in Avalanche bilevel has level=network or ridge, and cross_entropy for both losses")
        self._stages = [Compress(CHOICES[choice]), *(_optimisation(pixels, bilevel) if pixels else [])]
        self._augmentation, self._classifier, self._seed = augmentation, classifier, seed
        self._known: list[Known] = []
        self._sources: list[raw.Source] = []
        self._form: tuple[float, ...] | None = None
        self.memory = ExemplarMemory(self._budget, codec)

    @property
    def classes(self) -> list[int]:
        """Avalanche's labels of the classes seen so far, in order of arrival."""
        return [known.label for known in self._known]

    @property
    def buffer_groups(self) -> dict[int, SimpleNamespace]:
        """Avalanche's labels to objects whose ``buffer`` is that class's data set, as its balanced buffers have them.

        Its ER-AML and MIR ask for these. Classes that have no place are left out.
        """
        positions = dict[int, list[int]]()
        for position, label in enumerate(getattr(self.buffer, "targets", [])):
            positions.setdefault(int(label), []).append(position)
        return {label: SimpleNamespace(buffer=self.buffer.subset(where)) for label, where in positions.items()}

    @property
    def buffer_datasets(self) -> list[AvalancheDataset]:
        """A data set for each class, as Avalanche's balanced buffers have them."""
        return [group.buffer for group in self.buffer_groups.values()]

    def post_adapt(self, agent: Any, exp: Any) -> None:
        """Take up an experience that ``agent.model`` has been trained on.

        Raises:
            InputError: one of its classes has come before, its images or eval transform are not those of earlier
                experiences, or they are not supported; see
                :func:`mnemo.avalanche.raw.take` and :func:`mnemo.avalanche.raw.normalisation`.
        """
        taken, model = raw.take(exp.dataset), agent.model
        mean, std = raw.normalisation(exp.dataset, taken.pixels)
        self._refuse_change(taken.pixels, mean, std)
        device = next(model.parameters()).device
        phase = self._phase(taken, is_multi_task_module(model), device)
        _move(self.memory, device)
        for stage in self._stages:
            net = AvalancheNet(model, self._classifier, [(k.task, k.label) for k in self._known], mean, std)
            self._go_through(stage, phase, net)
        self._sources.append(taken.source)
        self._refresh()

    def update(self, strategy: Any, **kwargs: Any) -> None:
        """What Avalanche 0.6 calls in place of :meth:`post_adapt`."""
        self.post_adapt(strategy, strategy.experience)

    def resize(self, strategy: Any, new_size: int) -> None:
        """Change the size; where it shrinks, exemplars that are last in rank go."""
        self.max_size = new_size
        if self.memory.images is not None:
            self.memory.shrink(self.memory.quota(len(self._known), self.memory.images.shape))
        self._refresh()

    def _budget(self, classes: int, bytes_each: int) -> int:
        return self.max_size // classes * bytes_each

    def _phase(self, taken: raw.Raw, by_task: bool, device: torch.device) -> Phase:
        """The experience as a phase, on a device; its classes are known from now on."""
        tasks = taken.tasks if by_task else [0] * len(taken.tasks)
        keys = list(zip(tasks, taken.labels, strict=True))
        new = sorted(set(keys))
        earlier = {(known.task if by_task else 0, known.label) for known in self._known}
        if earlier & set(new):
            raise InputError(f"class {min(earlier & set(new))[1]} has come before: each may come once")
        first = len(self._known)
        for key in new:
            where = keys.index(key)
            self._known.append(Known(key[1], taken.tasks[where], taken.inner_labels[where], len(self._sources)))
        index = {key: label for label, key in enumerate(new, first)}
        images = Images(taken.pixels, torch.tensor([index[key] for key in keys])).to(device)
        none = images.select(torch.zeros(0, dtype=torch.int64, device=device))
        return Phase(len(self._sources), tuple(label for _, label in new), first, images, none)

    def _refuse_change(self, pixels: Tensor, mean: list[float], std: list[float]) -> None:
        """Exemplars of all experiences are moved together, so they must enter the model in one way."""
        now = (*pixels.shape[1:], *mean, *std)
        if self._form is not None and not _alike(now, self._form):
            raise InputError("the size of images or their eval transform has changed since the first experience")
        self._form = self._form or now

    def _go_through(self, stage: Stage, phase: Phase, net: AvalancheNet) -> None:
        seed = (self._seed, phase.index)
        loop = stage.begin(Situation(net, None, self.memory, phase, self._augmentation, seed))
        if loop is not None:
            for epoch in range(loop.epochs):
                loop.epoch(epoch, generator(*seed, stage.name, epoch))
            loop.end()

    def _refresh(self) -> None:
        """Bring the data set up to date. Experiences with the same transforms are one data set in it."""
        _move(self.memory, torch.device("cpu"))
        alike = itertools.groupby(range(len(self._sources)), self._sources.__getitem__)
        self.buffer = concat_datasets([part for source, of in alike for part in self._dataset(source, set(of))])

    def _dataset(self, source: raw.Source, experiences: set[int]) -> list[AvalancheDataset]:
        """The exemplars of some experiences: one data set or none."""
        of = [label for label, known in enumerate(self._known) if known.experience in experiences]
        images = None if self.memory.images is None else self.memory.images.of_classes(of)
        if images is None or not len(images):
            return []
        known = [self._known[label] for label in images.labels.tolist()]
        labels, tasks, inner = ([getattr(k, name) for k in known] for name in ("label", "task", "inner_label"))
        return [raw.give_back(raw.Raw(images.pixels, labels, tasks, inner, source))]


def _alike(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Up to rounding, which is less than a tenth of a grey level."""
    return len(one) == len(other) and np.allclose(one, other, rtol=1e-3, atol=0.05)


def _optimisation(pixels: PixelSteps, bilevel: Bilevel) -> Sequence[Stage]:
    nothing = Rehearsal(Train(_refuse, Schedule(0), None), None, False)  # an Avalanche strategy cannot be rehearsed
    objective = Mnemonics(bilevel, Starts(), nothing)
    return [Optimise(objective, pixels), Adjust(objective, pixels)]


def _refuse(*outputs: Any) -> Any:
    raise AssertionError("the strategy's own loss is not known here")


def _move(memory: ExemplarMemory, device: torch.device) -> None:
    """Between experiences exemplars are on the CPU: a checkpoint may be taken up on another device."""
    memory.load({name: tensor.to(device) for name, tensor in memory.state().items()})


class MnemonicsPlugin(ReplayPlugin, supports_distributed=False):  # type: ignore[call-arg, unused-ignore]
    """Replay with a :class:`MnemonicsBuffer`: ``plugins=[MnemonicsPlugin(200)]``.

    Beside iCaRL's own plugin it replays nothing, and gives it its exemplars instead; see
    :func:`mnemo.avalanche.icarl.hand_over`.

    Args:
        mem_size: images in all.
        batch_size, batch_size_mem: new images and exemplars in a batch; see Avalanche's ReplayPlugin.
        settings: of :class:`MnemonicsBuffer`.
    """

    def __init__(
        self, mem_size: int = 200, batch_size: int | None = None, batch_size_mem: int | None = None, **settings: Any
    ) -> None:
        super().__init__(mem_size, batch_size, batch_size_mem, storage_policy=MnemonicsBuffer(mem_size, **settings))

    def before_training(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Raise InputError where the strategy has another ReplayPlugin: the later one would undo the earlier."""
        if sum(isinstance(plugin, ReplayPlugin) for plugin in strategy.plugins) > 1:
            raise InputError(
                "the strategy has another ReplayPlugin: take Naive, or let its storage_policy be a MnemonicsBuffer"
            )

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Put exemplars into the batches."""
        if icarl_plugin(strategy) is None:
            super().before_training_exp(strategy, *args, **kwargs)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Choose and optimise exemplars."""
        self.storage_policy.post_adapt(strategy, strategy.experience)

    def before_train_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Give iCaRL its exemplars, where several experiences are trained on in one call."""
        self._serve_icarl(strategy)

    def after_training(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Give iCaRL its exemplars; its plugin, which comes after this one, has chosen its own by now."""
        self._serve_icarl(strategy)

    def _serve_icarl(self, strategy: Any) -> None:
        icarl = icarl_plugin(strategy)
        if icarl is not None and len(self.storage_policy.buffer):
            hand_over(self.storage_policy.buffer, icarl, strategy)
