"""What suits a data set: settings that take the place of a recipe's defaults, which are the papers'."""

from typing import Any

# Chosen on the validation classes of glyphs: summed over many pseudo-labels, the inner loss drowns the support.
_SHORT = {"meta_lr": 0.005, "network_share": 0.1, "inner_loss": "mean"}

PRESETS: dict[str, dict[str, Any]] = {
    "glyphs": _SHORT
    | {
        "backbone": "conv4-32",
        "pretrain_epochs": 6,
        "iterations": 300,
        "halve_every": 100,
        "validate_every": 100,
        "validation_episodes": 100,
        "unlabelled": 10,  # there are 30 images of a class
        "train_unlabelled": 10,
        "keep": 4,
        "stages": 3,
    },
    "omniglot": {
        "backbone": "conv4",
        "pretrain_epochs": 20,
        "iterations": 2000,
        "halve_every": 500,
        "validate_every": 250,
        "unlabelled": 4,  # there are 20
        "train_unlabelled": 4,
        "keep": 2,
        "stages": 2,
    },
}
"""For each data set settings under flat names; a recipe takes those that it has. ``glyphs`` is done in a minute."""
