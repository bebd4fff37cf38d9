"""What examples/mnemonics_in_avalanche.py measures, with its own function and seeds, and larger steps beside it."""

import runpy
import warnings
from pathlib import Path
from typing import Any

from mnemo import metrics
from mnemo.exemplars.pixels import PixelSteps

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "mnemonics_in_avalanche.py"
LARGER = "mnemonics, larger steps"


def runs(quick: bool) -> dict[str, Any]:
    """A result for each kind of exemplars and seed. Accuracies in %, forgetting in points, moves in grey levels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Avalanche's own
        example = runpy.run_path(str(EXAMPLE))
        kinds, seeds = example["EXEMPLARS"], example["SEEDS"][: 1 if quick else None]
        larger = PixelSteps(exemplar_epochs=20, adjust_epochs=20, pixel_step=2.0)
        kinds[LARGER] = kinds["mnemonics"] | {"pixels": larger}
        names = ["none", "mnemonics"] if quick else list(kinds)
        found = [(name, seed, example["learn"](name, seed)) for name in names for seed in seeds]
    return {"budget": example["BUDGET"], "seeds": list(seeds), "runs": [_result(*each) for each in found]}


def _result(name: str, seed: int, run: Any) -> dict[str, Any]:
    return {
        "exemplars": name,
        "seed": seed,
        "accuracy": run.accuracy,
        "last_accuracy": run.phase_accuracy[-1],
        "average_forgetting": metrics.average_forgetting(run.accuracy),
        "moved": run.exemplars.rms_displacement,
    }
