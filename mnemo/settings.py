"""Settings that strategies share, and how flat names such as ``epochs`` find their way into a recipe's signature."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal

import pydantic
import torch
from pydantic import ConfigDict, Field, NonNegativeFloat, PositiveFloat

from . import codecs
from .codecs import Codec
from .compression import CHOICES
from .counts import NonNegativeInt, PositiveInt
from .disk.files import InputError, first_complaint
from .engine import Precision
from .learner import Strategy, Transfer
from .memory import Budget, budget
from .names import refuse_unknown
from .stages import Compress, Schedule

Recipe = Callable[..., Strategy]
SomeRecipe = Callable[..., Any]
"""Of a strategy, or of a few-shot method."""
Fraction = Annotated[float, Field(ge=0, le=1)]
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Training:
    """How the network is trained. The defaults are those of LUCIR and Mnemonics on CIFAR-100.

    Attributes:
        epochs: of every phase but the first.
        base_epochs: of phase 0; the same as ``epochs`` if None.
        lr: learning rate at the start of each phase, for SGD with momentum 0.9.
        base_lr: of phase 0; the same as ``lr`` if None.
        milestones: where it is divided by ten, as fractions of the epochs.
        annealing: ``steps`` at the milestones, or ``cosine``.
        replays: how often the exemplars of an old class are drawn in an epoch, all together; 0: each of them once.
        weight_decay: on all parameters that learn.
        batch_size: images a step.
        backbone: a name in :data:`mnemo.nets.BACKBONES`.
        transfer: ``scaling`` freezes the kernels after phase 0, and scales that learn take their place; see
            :mod:`mnemo.components.scaling_shifting`.
        hold_out: part of each class's images that the network is not trained on; exemplars are optimised for it.
        waypoints: networks kept from a phase's own training until the phase ends; see
            :class:`mnemo.exemplars.starts.Starts`.
        precision: ``fp32``, or ``bf16`` for the network's training on a GPU; see :class:`mnemo.stages.Schedule`.
        sync_batch_norm: where several processes train, batch normalisation has the statistics of the whole batch.
    """

    epochs: PositiveInt = 160
    base_epochs: PositiveInt | None = None
    lr: PositiveFloat = 0.1
    base_lr: PositiveFloat | None = None
    milestones: tuple[Fraction, ...] = (0.5, 0.75)
    annealing: Literal["steps", "cosine"] = "steps"
    replays: NonNegativeInt = 0
    weight_decay: NonNegativeFloat = 5e-4
    batch_size: Annotated[PositiveInt, Field(ge=2)] = 128
    backbone: Literal["resnet32", "resnet20", "resnet8", "resnet18", "small"] = "resnet32"
    transfer: Transfer = "none"
    hold_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
    waypoints: Annotated[int, Field(ge=0, le=9)] = 0
    precision: Precision = "fp32"
    sync_batch_norm: bool = True

    @property
    def schedule(self) -> Schedule:
        """Of every phase but the first."""
        return dataclasses.replace(self._schedule(self.epochs, self.lr), replays=self.replays)

    @property
    def base_schedule(self) -> Schedule:
        """Of phase 0."""
        return self._schedule(self.base_epochs or self.epochs, self.base_lr or self.lr)

    def _schedule(self, epochs: int, lr: float) -> Schedule:
        return Schedule(
            epochs,
            lr,
            self.milestones,
            annealing=self.annealing,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            precision=self.precision,
            sync_batch_norm=self.sync_batch_norm,
        )


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Memory:
    """How much is kept of old classes, and how it is chosen.

    Attributes:
        per_class: the budget of each class, in raw images; the memory grows.
        total: the budget in raw images, shared by the classes seen so far; takes the place of ``per_class``.
        budget_bytes: the budget in bytes, shared likewise; takes the place of ``per_class``.
        exemplars: ``herding`` or ``random``.
        codec: how exemplars are kept; a budget holds as many as fit. ``raw`` pixels, ``jpeg``, ``webp``,
            ``webp-lossless``, ``half`` of height and width, or ``best-jpeg``: for each class JPEG at the quality (50,
            75 or 90) that serves it best; see :func:`mnemo.rates.best`. Results with anything but ``raw`` and
            ``webp-lossless`` compare with the literature by bytes, not by number.
        quality: of ``jpeg`` and ``webp``, 1 to 100.
        subsampling: of JPEG's colours, ``4:4:4`` (none) or ``4:2:0``.
        soft_labels: weight of the distillation from logits that are stored with every exemplar, two bytes for each
            class seen then, which count; 0: none are.
    """

    per_class: NonNegativeInt = 20
    total: PositiveInt | None = None
    budget_bytes: PositiveInt | None = None
    exemplars: Literal["herding", "random"] = "herding"
    codec: Literal["raw", "jpeg", "webp", "webp-lossless", "half", "best-jpeg"] = "raw"
    quality: Annotated[int, Field(ge=1, le=100)] = 90
    subsampling: Literal["4:4:4", "4:2:0"] = "4:4:4"
    soft_labels: NonNegativeFloat = 0.0

    @property
    def budget(self) -> Budget:
        """See :func:`mnemo.memory.budget`."""
        return budget(each=self.per_class, total=self.total, in_bytes_=self.budget_bytes)

    @property
    def storage(self) -> Codec:
        """See :mod:`mnemo.codecs`."""
        return codecs.make(self.codec, self.quality, self.subsampling)

    @property
    def compress(self) -> Compress:
        """The stage that chooses exemplars."""
        return Compress(CHOICES[self.exemplars])


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class FineTuning:
    """Training on the exemplars of all classes, as many of each, at the end of every phase but the first.

    Mnemonics, algorithm 1; the paper's rate is 0.01, halved after each fifth of 50 epochs. Phase 0 goes without: its
    classes are balanced already. Batch normalisation keeps its running statistics.

    Attributes:
        fine_tune_epochs: 0 leaves it out.
        fine_tune_lr: learning rate at the start.
    """

    fine_tune_epochs: NonNegativeInt = 0
    fine_tune_lr: PositiveFloat = 0.01

    def schedule(self, training: Training) -> Schedule:
        """What this says, with the rest as ``training`` has it."""
        return dataclasses.replace(
            training.schedule,
            epochs=self.fine_tune_epochs,
            lr=self.fine_tune_lr,
            milestones=(0.2, 0.4, 0.6, 0.8),
            gamma=0.5,
            annealing="steps",
            replays=0,
        )


def arguments(recipe: SomeRecipe, values: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's keyword arguments, defaults included, from settings under flat names.

    Raises:
        InputError: one is unknown, or is not what it ought to be.
    """
    refuse_unknown(values, defaults(recipe), "setting")
    result: dict[str, Any] = {}
    for name, parameter in inspect.signature(recipe, eval_str=True).parameters.items():
        result[name] = parameter.default
        if dataclasses.is_dataclass(parameter.default):
            result[name] = group(parameter.default, values)
        elif name in values:
            adapter = pydantic.TypeAdapter(parameter.annotation, config=ConfigDict(allow_inf_nan=False))
            result[name] = _checked(partial(adapter.validate_python, values[name]), name)
    return result


def group(default: Any, values: Mapping[str, Any]) -> Any:
    """A group of settings with those of ``values`` that it has. Raises InputError if one is not what it ought to be."""
    fields = {field.name for field in dataclasses.fields(default)}
    return _checked(partial(dataclasses.replace, default, **{k: v for k, v in values.items() if k in fields}))


def flat(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The same under flat names."""
    result: dict[str, Any] = {}
    for name, value in arguments.items():
        result |= dataclasses.asdict(value) if dataclasses.is_dataclass(value) else {name: value}  # type: ignore[arg-type]
    return result


def defaults(recipe: SomeRecipe) -> dict[str, Any]:
    """All settings of a recipe under flat names, with their defaults; a group's fields stand for the group."""
    parameters = inspect.signature(recipe).parameters.items()
    return flat({name: parameter.default for name, parameter in parameters})


def refuse_slow_precision(values: Mapping[str, Any], device: torch.device) -> None:
    """Raise InputError for bf16 on a CPU: most have no unit for it, and take 150 times as long as for fp32."""
    if values.get("precision") == "bf16" and device.type != "cuda":
        raise InputError("precision=bf16 is for a GPU: on a CPU it is far slower than fp32")


def plain(value: Any) -> Any:
    """The value as JSON gives it back: tuples are lists there."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def difference(key: str, old: Any, new: Any, line: str = "{} was {}, is now {}") -> str:
    """Where two values differ, in a line; in nested ones the first place.

    Args:
        key: their name.
        old, new: the values.
        line: has three places, for a name and its two values.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            if old.get(name) != new.get(name):
                return difference(name, old.get(name), new.get(name), line)
    return line.format(key, repr(old), repr(new))


def _checked(make: Callable[[], Any], name: str = "") -> Any:
    try:
        return make()
    except pydantic.ValidationError as error:
        where, message = first_complaint(error)
        raise InputError(f"{where or name}={error.errors()[0]['input']!r}: {message.lower()}") from None
