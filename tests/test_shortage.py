"""Too little memory is one line, whoever runs out of it."""

import numpy as np
import pytest
import torch

from mnemo import shortage


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
