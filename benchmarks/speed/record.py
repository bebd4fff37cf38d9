"""What is recorded of a run: all samples, and everything that a figure depends on."""

import datetime
import importlib.metadata
import json
import os
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mnemo import machine
from mnemo.disk.files import write_text

from . import images
from .options import Options
from .section import Section
from .timing import Variant

ROOT = Path(__file__).parent.parent.parent


def begin(options: Options, command: str) -> dict[str, Any]:
    """A record without sections."""
    return {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "HEAD"),
        "changed_since_commit": bool(git("status", "--porcelain", "--", "mnemo", "strategies", "benchmarks/speed")),
        "versions": versions(),
        "hardware": machine.hardware(options.device),
        "device": str(options.device),
        "threads": options.threads,
        "repeats": options.repeats,
        "quick": options.quick,
        "images": images.load(options).about,
        "load_average": list(os.getloadavg()),
        "sections": {},
    }


def versions() -> dict[str, str]:
    """Of all that is compared."""
    found = machine.versions()
    for name in ("torchvision", "pillow", "avalanche-lib"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git(*arguments: str) -> str:
    """What git says; nothing outside a checkout."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def section(found: Section) -> dict[str, Any]:
    """A section as JSON has it."""
    return {
        "title": found.title,
        "took_seconds": found.seconds,
        "variants": {variant.name: _variant(variant) for variant in found.variants},
        "ratios": [asdict(ratio) for ratio in found.ratios],
        "bars": [{**asdict(bar), "met": bar.met} for bar in found.bars],
        "figures": found.figures,
        "notes": found.notes,
    }


def _variant(variant: Variant) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "unit": variant.unit,
        "seconds": [seconds for seconds, _ in variant.samples],
        "work": [work for _, work in variant.samples],
        "processor_seconds": variant.processor_seconds,
        "median_seconds": variant.seconds,
    }
    if variant.unit != "s":
        plain["median_rate"] = variant.rate
    if variant.peak_mib:
        plain |= {"peak_mib": variant.peak_mib, "median_peak_mib": variant.peak}
    if variant.note:
        plain["note"] = variant.note
    return plain


def save(record: dict[str, Any], path: Path) -> None:
    """Write a record, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(record, indent=1) + "\n")
