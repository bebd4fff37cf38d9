"""What suits a data set: settings that take the place of a recipe's defaults, which are the papers'."""

from typing import Any

_LETTERS = {"backbone": "conv4", "pretrain_epochs": 20, "iterations": 2000, "halve_every": 500, "validate_every": 250}
_SMALL = {"backbone": "resnet12"}

PRESETS: dict[str, dict[str, Any]] = {
    "glyphs": {
        "backbone": "conv4-32",
        "pretrain_epochs": 6,
        "iterations": 300,
        "halve_every": 100,
        "validate_every": 100,
        "validation_episodes": 100,
    },
    "omniglot": _LETTERS,
    "fc100": _SMALL,
    "cifar-fs": _SMALL,
}
"""For each data set settings under flat names; a recipe takes those that it has. ``glyphs`` is done in a minute."""
