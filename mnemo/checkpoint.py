"""A run on disk between two epochs: one safetensors file, tensors and JSON together, so it is whole or not there."""

import json
import zlib
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .files import InputError, replacing

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
            safetensors.torch.save_file(dense, part, {"mnemo": text, "crc32": _checksum(dense, text)})
        except safetensors.SafetensorError as error:
            raise OSError(str(error)) from None


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
        if "crc32" in metadata and metadata["crc32"] != _checksum(tensors, text):  # the first checkpoints have none
            raise ValueError("its checksum is wrong")
        about = json.loads(text)
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint") from None
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: the checkpoint is damaged ({error})") from None
    if about.get("schema") != SCHEMA:
        raise InputError(f"{path}: not a checkpoint of this version of mnemo")
    return tensors, about


def _checksum(tensors: dict[str, Tensor], text: str) -> str:
    """Of everything that a checkpoint says; safetensors itself checks sizes alone."""
    crc = zlib.crc32(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"
