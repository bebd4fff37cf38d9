"""Protocols: which data, in which phases, and the settings that a comparison fixes for every strategy."""

from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from ..counts import NonNegativeInt, PositiveInt
from ..disk.documents import from_toml
from ..disk.files import InputError, first_complaint
from ..names import refuse_unknown
from ..visible import in_a_line

MOST_PIXELS = 4096
"""Of a side, as for what :func:`mnemo.datasets.import_` makes."""


class Protocol(BaseModel):
    """What a TOML file of a protocol says.

    Attributes:
        name: the file's, without its ending; that of a folder where runs are kept.
        description: one line.
        dataset: a name or folder that :func:`mnemo.datasets.load` knows.
        classes: the first in the order, which alone are used; None: all of them.
        base_classes: classes of phase 0; 0 starts with a phase of ``increment``.
        increment: classes of every further phase.
        order: ``shuffled``, or ``natural``: the data set's own, as few-shot protocols have it.
        order_seed: shuffles the classes; the run's own seed if None. 1993 gives the published order.
        increment_images: training images of each class after phase 0, at most; None: all that there are.
        sessions: a folder of published lists of these images; see :mod:`mnemo.sessions`. None: the seed draws them.
        unlabelled: of the other training images of each class after phase 0 so many come without labels.
        distractors: other classes of which as many unlabelled images come along in each phase.
        validation: training images of each class that are held out, and evaluated on in place of the test images.
        augmentation: ``crop`` pads, crops and mirrors; ``resized-crop`` is ImageNet's.
        padding: pixels on each side, for ``crop``.
        crop_size: height and width of what the network sees, for ``resized-crop``.
        mirrors: whether images are mirrored at random.
        mean, std: of the pixels, per channel, 0..1; measured on phase 0's training images if None.
        strategy: settings for every strategy that has them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    description: str = ""
    dataset: str
    classes: PositiveInt | None = None
    base_classes: NonNegativeInt
    increment: PositiveInt
    increment_images: PositiveInt | None = None
    sessions: str | None = None
    unlabelled: NonNegativeInt = 0
    distractors: NonNegativeInt = 0
    order: Literal["shuffled", "natural"] = "shuffled"
    order_seed: NonNegativeInt | None = None
    validation: NonNegativeInt = 0
    augmentation: Literal["crop", "resized-crop"] = "crop"
    padding: int = Field(4, ge=0, le=MOST_PIXELS)
    crop_size: int = Field(224, gt=0, le=MOST_PIXELS)
    mirrors: bool = True
    mean: list[float] | None = Field(None, min_length=1, max_length=4)
    std: list[PositiveFloat] | None = Field(None, min_length=1, max_length=4)
    strategy: dict[str, Any] = {}

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if Path(name).name != name or name == ".." or in_a_line(name) != name:
            raise ValueError(f"{in_a_line(name)} cannot be the name of a folder")
        return name

    @field_validator("order_seed")
    @classmethod
    def _needs_shuffling(cls, seed: int | None, others: ValidationInfo) -> int | None:
        if seed is not None and others.data.get("order") == "natural":
            raise ValueError("order = natural is not shuffled; leave one of them out")
        return seed

    def changed(self, values: dict[str, Any]) -> "Protocol":
        """This protocol with some values replaced. Raises InputError if one is not what it ought to be."""
        return _validated({**self.model_dump(), **values}, self.name)


def available() -> dict[str, Protocol]:
    """The protocols that come with mnemo, by name."""
    folder = resources.files(__name__)
    files = sorted(f.name for f in folder.iterdir() if f.name.endswith(".toml"))
    return {name.removesuffix(".toml"): _parse((folder / name).read_text(encoding="utf-8"), name) for name in files}


def load(name: str) -> Protocol:
    """A protocol by its name, or from the path of a TOML file.

    Raises:
        InputError: there is no such protocol, or its file is not one.
    """
    path = Path(name)
    if path.suffix != ".toml":
        known = available()
        refuse_unknown([name], known, "protocol")
        return known[name]
    try:
        return _parse(path.read_text(encoding="utf-8"), path.name)
    except FileNotFoundError:
        raise InputError(f"{path}: no such protocol file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None


def _parse(text: str, file: str) -> Protocol:
    try:
        values = from_toml(text)
    except ValueError as error:
        raise InputError(f"{file}: not valid TOML: {error}") from None
    refuse_unknown(values, Protocol.model_fields, f"key in {file}")
    return _validated({"name": file.removesuffix(".toml"), **values}, file)


def _validated(values: dict[str, Any], where: str) -> Protocol:
    try:
        return Protocol.model_validate(values)
    except ValidationError as error:
        key, message = first_complaint(error)
        raise InputError(f"{where}: {key}: {message.lower()}") from None
