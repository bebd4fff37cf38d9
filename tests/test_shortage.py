"""Too little memory is one line, whoever runs out of it."""

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mnemo import datasets, shortage
from mnemo.cli import app


@pytest.mark.parametrize(
    "grab",
    [
        lambda: torch.empty(2**60, dtype=torch.uint8),
        lambda: np.empty(2**60, dtype=np.uint8),
        lambda: bytearray(2**62),
    ],
)
def test_what_python_numpy_and_torch_raise(grab):
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        grab()
    assert shortage.of_memory(caught.value)
    assert shortage.line(caught.value).startswith("too little memory (")
    assert "\n" not in shortage.line(caught.value)


def test_other_errors_are_not_taken_for_it():
    assert not shortage.of_memory(RuntimeError("shapes cannot be multiplied (3x4 and 5x6)"))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_command_ends_with_one_line(error, monkeypatch):
    def available(*_):
        raise error

    monkeypatch.setattr(datasets, "available", available)
    result = CliRunner().invoke(app, ["data", "list"])
    assert result.exit_code == 2
    assert result.stderr.startswith("mnemo: too little memory (")
    assert result.stderr.count("\n") == 1


def test_other_errors_of_a_command_keep_their_traceback(monkeypatch):
    def available(*_):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(datasets, "available", available)
    assert isinstance(CliRunner().invoke(app, ["data", "list"]).exception, RuntimeError)
