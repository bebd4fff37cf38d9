"""What a campaign consists of: kinds of faults, how many of each, and the runs that they meet."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from . import damage, disk, kills, memory, neighbours, numbers, removal
from .trial import Bench, Trial

PROTOCOL = Path(__file__).with_name("tiny.toml")
INCREMENTAL = ("run", str(PROTOCOL), "--out", "run", "--device", "cpu")
FEW_SHOT = (
    *("fewshot", "protonet", "--data", "tiered-imagenet", "--data-dir", "data", "--pretrained", "pretrained"),
    *("--way", "2", "--queries", "3", "--episodes", "6", "--out", "run", "--device", "cpu"),
    *("--set", "backbone=conv4-32", "--set", "pretrain_epochs=2", "--set", "pretrain_batch_size=12"),
    *("--set", "iterations=4", "--set", "validate_every=2", "--set", "validation_episodes=4"),
)
CLASSES, PICTURES = 3, 8


WHOLE = {
    "few-shot damage": 16,
    "damage": 12,
    "disk": 9,
    "memory": 6,
    "removal": 8,
    "neighbours": 3,
    "numbers": 9,
    "few-shot kills": 6,
    "kills": 90,
}
"""Turns of each kind."""
SHORT = {"kills": 6, "numbers": 2, "disk": 2, "memory": 1, "removal": 1, "neighbours": 1, "damage": 4}
TURNS = 3
"""Of a batch, which one process does."""


@dataclass(frozen=True)
class Batch:
    """Some turns of one kind."""

    kind: str
    turns: range


@dataclass(frozen=True)
class Campaign:
    """The runs that are disturbed, and what is drawn and allowed.

    Attributes:
        run, few_shot: undisturbed; the latter is None where it is not asked for.
        seed: of moments, places and choices.
        mounts: whether file systems can be mounted.
    """

    run: Bench
    few_shot: Bench | None
    seed: int
    mounts: bool

    def trials(self, batch: Batch) -> list[Trial]:
        """All of a batch; they depend on the seed and the batch alone, and on what the processor makes of moments."""
        of = self.few_shot if batch.kind.startswith("few-shot") else self.run
        assert of is not None
        name = f"{batch.kind.replace(' ', '-')}-{batch.turns.start}"
        bench = replace(of, scratch=of.scratch / name, random=Random(f"{self.seed} {name}"))
        ways = {
            "kills": kills.trials,
            "few-shot kills": kills.trials,
            "numbers": numbers.trials,
            "disk": partial(disk.trials, mounts=self.mounts),
            "memory": memory.trials,
            "removal": removal.trials,
            "neighbours": neighbours.trials,
            "damage": partial(damage.trials, cases=damage.INCREMENTAL),
            "few-shot damage": partial(damage.trials, cases=damage.FEW_SHOT),
        }
        return list(ways[batch.kind](bench, batch.turns))


def batches(turns: Mapping[str, int]) -> list[Batch]:
    """All of a campaign."""
    return [
        Batch(kind, range(start, min(start + TURNS, count)))
        for kind, count in turns.items()
        for start in range(0, count, TURNS)
    ]


def begin(turns: Mapping[str, int], scratch: Path, seed: int, mounts: bool) -> Campaign:
    """Carry out undisturbed what is going to be disturbed, in an empty folder."""
    run, few_shot = Bench(scratch / "incremental", INCREMENTAL), None
    run.measure()
    if any(kind.startswith("few-shot") for kind in turns):
        few_shot = Bench(scratch / "few-shot", FEW_SHOT, given=_pictures(scratch / "given"))
        few_shot.measure()
    return Campaign(run, few_shot, seed, mounts)


def _pictures(folder: Path) -> Path:
    """A folder of pictures for few-shot runs: a bright square somewhere for each class, in noise."""
    draw = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for c in range(CLASSES):
            place = folder / "data" / "tiered-imagenet" / split / f"{split}-{c}"
            place.mkdir(parents=True)
            row, column = draw.integers(0, 56, 2)
            for index in range(PICTURES):
                pixels = draw.integers(0, 60, (84, 84, 3), dtype=np.uint8)
                pixels[row : row + 28, column : column + 28] += 150
                Image.fromarray(pixels).save(place / f"{index}.png")
    return folder
