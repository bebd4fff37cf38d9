"""Images of ImageNet's size: how fast they are decoded and loaded, beside ResNet-18, and in how much memory.

    python -m benchmarks.load SCRATCH          # about half an hour on two cores, 6 GB in SCRATCH
    python -m benchmarks.load SCRATCH --quick  # tiny: shows that everything runs, and measures nothing

Photographs that are in SCRATCH already are used; what else is written there is removed. Linux only.
"""

import argparse
import datetime
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mnemo import machine
from mnemo.datasets import chunks

from ..speed import record
from . import work
from .photographs import generate

RESULTS = Path(__file__).parent.parent / "results" / "load" / "runs"


@dataclass(frozen=True)
class Settings:
    """Sizes of a run.

    Attributes:
        train, test: photographs of each class.
        classes: their number.
        width, height: of the photographs in pixels.
        part: photographs that are packed with each number of ``workers``.
        repeats: samples of each figure.
        kill_at: share of the pack at which the packing process is killed.
        chunk: images under one checksum.
        batch: images of a batch that is only read.
        batches: batches of a sample.
        backbone: the network.
        step_batch, steps: images of a training step, and steps of a sample.
        seed: of all that is drawn.
    """

    train: int = 200
    test: int = 10
    classes: int = 100
    width: int = 400
    height: int = 350
    part: int = 1000
    workers: tuple[int, ...] = (1, 2)
    repeats: int = 3
    kill_at: float = 0.4
    chunk: int = chunks.CHUNK
    batch: int = 128
    batches: int = 150
    backbone: str = "resnet18"
    step_batch: int = 16
    steps: int = 2
    seed: int = 1993


QUICK = Settings(6, 1, 4, 90, 80, 16, (1,), 1, 0.2, 4, 8, 3, "small", 2, 1)


def main() -> None:
    """Measure and record."""
    options = _options()
    settings = QUICK if options.quick else Settings()
    about = _about(settings, options.quick)
    for found in _measured(settings, options.scratch):
        record.save(about | found, options.out / "load.json")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scratch", type=Path, help="folder for photographs and packs")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: a smoke run")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the record")
    return parser.parse_args()


def _about(settings: Settings, quick: bool) -> dict[str, Any]:
    """Where a record comes from; folders of this machine are left out."""
    torch.set_num_threads(1)
    return {
        "command": "python -m benchmarks.load SCRATCH" + " --quick" * quick,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": record.git("rev-parse", "HEAD"),
        "changed_since_commit": bool(record.git("status", "--porcelain", "--", "mnemo", "benchmarks/load")),
        "versions": record.versions(),
        "hardware": machine.hardware(torch.device("cpu")),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "load_average": list(os.getloadavg()),
        "quick": quick,
        "settings": asdict(settings),
    }


def _measured(settings: Settings, scratch: Path) -> Iterator[dict[str, Any]]:
    """What there is to record, again after every step."""
    found: dict[str, Any] = {}
    size = (settings.width, settings.height)
    made = generate(
        scratch / "photographs", settings.train, settings.test, size=size, classes=settings.classes, seed=settings.seed
    )
    found["photographs"] = {"count": made.count, "mean_bytes": made.mean_bytes}
    packs = scratch / "packs"
    shutil.rmtree(packs, ignore_errors=True)
    try:
        for name, values in _steps(settings, made.folder, packs):
            found.setdefault(name, []).append(values)
            print(name, values, flush=True)
            yield {**found, "load_average_at_end": list(os.getloadavg())}
    finally:
        shutil.rmtree(packs, ignore_errors=True)


def _steps(settings: Settings, photographs: Path, packs: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    place, chunk = packs / "whole", settings.chunk
    for _ in range(settings.repeats):
        for workers in settings.workers:
            yield (
                "decoding",
                {
                    "workers": workers,
                    **work.apart(chunk, work.decoding, photographs, packs, workers, settings.part),
                },
            )
            for part in packs.glob("part-*"):
                shutil.rmtree(part)
    yield "killed", work.killed_pack(chunk, photographs, place, settings.kill_at)
    yield "resumed", work.apart(chunk, work.whole_pack, photographs, place)
    yield "verified", work.apart(chunk, work.verified, place, photographs)
    for turn in range(settings.repeats):
        for cold in (True, False):
            arguments = (place, settings.batch, settings.batches, cold, settings.seed + turn)
            yield "reading", {"cold": cold, **work.apart(chunk, work.reading, *arguments)}
    arguments = (place, settings.step_batch, settings.steps, settings.repeats, settings.backbone, settings.seed)
    yield "training", work.apart(chunk, work.training, *arguments)


if __name__ == "__main__":
    main()
