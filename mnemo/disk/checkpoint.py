"""A run on disk between two epochs: one safetensors file, tensors and JSON together, so it is whole or not there."""

import contextlib
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.optim import Optimizer

from .documents import from_json
from .files import InputError, first_complaint, replacing

SCHEMA = 1


def save(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write tensors and what belongs with them (anything that JSON can hold), atomically.

    Raises OSError when the disk refuses; what was there before is still there then.
    """
    # safetensors stores dense row-major tensors; whoever loads restores channels-last
    dense = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        try:
            text = json.dumps({"schema": SCHEMA, **about})
            safetensors.torch.save_file(dense, part, {"mnemo": text, "crc32": checksum(dense, text)})
        except safetensors.SafetensorError as error:
            raise _disk_error(str(error)) from None


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`save` wrote.

    Raises:
        InputError: it is not there, is damaged, or is not a checkpoint of this kind.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        text = metadata.get("mnemo", "{}")
        if "crc32" in metadata and metadata["crc32"] != checksum(tensors, text):  # the first checkpoints have none
            raise ValueError("its checksum is wrong")
        about = from_json(text)
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint") from None
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: the checkpoint is damaged ({error})") from None
    if not isinstance(about, dict) or about.get("schema") != SCHEMA:
        raise InputError(f"{path}: not a checkpoint of this version of mnemo")
    return tensors, about


@contextlib.contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Turn what comes of taking up the checkpoint of something else into an InputError that names the file."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except ValidationError as error:
        where, message = first_complaint(error)
        raise InputError(f"{path}: the checkpoint does not fit this run ({where}: {message.lower()})") from None
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())  # torch uses several lines
        raise InputError(f"{path}: the checkpoint does not fit this run ({reason})") from None


def joined(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of several parts under names such as ``net.weight``; :func:`parted` undoes it."""
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def parted(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """What :func:`joined` was given, but for parts without a tensor."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, key = name.partition(".")
        parts.setdefault(part, {})[key] = tensor
    return parts


def of_optimizer(optimizer: Optimizer) -> dict[str, Tensor]:
    """What an optimiser whose state is all tensors, such as Adam, remembers of each parameter."""
    return joined({str(index): values for index, values in optimizer.state_dict()["state"].items()})


def into_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Take up what :func:`of_optimizer` gave, with the groups and rates that the optimiser has."""
    state = {
        int(index): {key: value.cpu() if key == "step" else value for key, value in values.items()}
        for index, values in parted(tensors).items()
    }
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _disk_error(text: str) -> OSError:
    """safetensors puts the number of the system's error into words, such as ``... (os error 28)``."""
    found = re.search(r"os error (\d+)", text)
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else OSError(text)


def checksum(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Of everything that a checkpoint says; safetensors itself checks sizes alone."""
    crc = zlib.crc32(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"
