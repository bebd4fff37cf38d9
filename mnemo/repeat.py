"""Repeating a recorded run: what its record asks for again, and whether the same comes out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError

from . import machine
from .disk.files import InputError, first_complaint
from .fewshot.experiment import Asked
from .fewshot.record import FewShotRun
from .protocols import Protocol
from .record import TIMES, Run
from .sweeps.tasks import Task

Record = Run | FewShotRun
CIRCUMSTANCES = frozenset({"command", "device", "hardware", "threads", "deterministic", "versions"})
"""Fields that say how a run was made, and not what came out; ``paired`` depends on another run."""


def task(recorded: Run, folder: Path, path: Path) -> Task:
    """The run of the record at ``path``, to be carried out in ``folder``.

    Raises InputError where the record's protocol is not one of this version.
    """
    try:
        protocol = Protocol.model_validate({"name": recorded.protocol, **recorded.config["protocol"]})
        values = recorded.config["strategy"]
    except KeyError as error:
        raise InputError(f"{path}: its config has no {error}, so it cannot be repeated") from None
    except ValidationError as error:
        where, message = first_complaint(error)
        raise InputError(f"{path}: config.protocol.{where}: {message.lower()}") from None
    return Task(
        protocol,
        recorded.strategy,
        recorded.seed,
        folder,
        values,
        device=recorded.device,
        deterministic=recorded.deterministic,
    )


def asked(recorded: FewShotRun, folder: Path) -> Asked:
    """The test tasks of a few-shot record: read from episodes.json in its ``folder``, or drawn again without it."""
    episodes = folder / "episodes.json"
    return Asked(
        recorded.way,
        recorded.shot,
        recorded.queries,
        recorded.unlabelled,
        recorded.distractors,
        recorded.episodes,
        episodes if episodes.exists() else None,
        recorded.evaluated_on,
    )


def refuse_another(recorded: Record, run: Record, path: Path) -> None:
    """Raise InputError where a run that is prepared is not the recorded one: other data, tasks or settings."""
    if recorded.data_digest and recorded.data_digest != run.data_digest:
        raise InputError(
            f"{path}: was made with other data: their digest was {recorded.data_digest}, is {run.data_digest}"
        )
    fixed = ("config", "class_order", "class_names") if isinstance(recorded, Run) else ("config", "episodes_digest")
    for key in fixed:
        for place, (old, new) in _changed(getattr(recorded, key), getattr(run, key)).items():
            name = ".".join([key, *map(str, place)])
            raise InputError(f"{path}: cannot be repeated by this version: {name} was {old!r}, would be {new!r}")


def warnings(recorded: Record, run: Record) -> list[str]:
    """Lines on what may make a run come out otherwise than the recorded one; asked for before it is begun."""
    lines = [
        f"{name} was {old}, is {run.versions.get(name)}"
        for name, old in recorded.versions.items()
        if old != run.versions.get(name)
    ]
    now = {
        "device": run.device,
        "hardware": machine.hardware(torch.device(run.device)),
        "deterministic": run.deterministic,
    }
    lines += [
        f"{key} was {getattr(recorded, key)}, is {new}" for key, new in now.items() if getattr(recorded, key) != new
    ]
    if not recorded.data_digest:
        lines.append("the record is older than digests of data: whether the data are the same is not known")
    came = sorted(_leaves(run.config).keys() - _leaves(recorded.config).keys())
    lines += [f"{'.'.join(map(str, place))} is a setting that the record does not have" for place in came]
    return lines


def differences(recorded: Record, run: Record) -> list[str]:
    """A line for each result that is not the recorded one.

    What an older record does not have is passed over, and so are pictures that were taken out of it.
    """
    apart = {*TIMES, *CIRCUMSTANCES, "paired"}
    old, new = recorded.model_dump(exclude=apart, exclude_unset=True), run.model_dump(exclude=apart)
    lines = []
    for name in old:
        changed = _changed(old[name], new.get(name))
        if changed and (old[name] or name != "exemplar_samples"):
            lines.append(f"{name}: {_described(changed, len(_leaves(old[name])))}")
    return lines


def _changed(old: Any, new: Any) -> dict[tuple[Any, ...], tuple[Any, Any]]:
    """The places of ``old`` at which ``new`` has something else, and what both have there."""
    before, after = _leaves(old), _leaves(new)
    return {place: (value, after.get(place)) for place, value in before.items() if value != after.get(place)}


def _leaves(value: Any, place: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
    """The values that are neither a mapping nor a sequence, by the keys that lead to them."""
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    else:
        return {place: value}
    return {key: leaf for name, item in items for key, leaf in _leaves(item, (*place, name)).items()}


def _described(changed: Mapping[tuple[Any, ...], tuple[Any, Any]], number: int) -> str:
    gaps = [abs(old - new) for old, new in changed.values() if _number(old) and _number(new)]
    text = f"{len(changed)} of {number} values differ" if number > 1 else "differs"
    if len(gaps) < len(changed):
        return text
    old, new = next(iter(changed.values()))
    return f"{text}, by {max(gaps):.3g} at most; the first was {old:.6g}, is {new:.6g}"


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
