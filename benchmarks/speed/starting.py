"""(e) Whole commands, from their start to their end."""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .options import Options
from .section import Section
from .timing import Variant, interleave

QUICK = ("base_classes=8", "epochs=1", "exemplar_epochs=1", "adjust_epochs=1", "inner_steps=1", "fine_tune_epochs=1")


def measure(options: Options) -> Section:
    """Seconds of wall time, each in a process of its own."""
    command = [sys.executable, "-m", "mnemo.cli"]
    with tempfile.TemporaryDirectory() as scratch:
        variants = [
            Variant("mnemo run digits", functools.partial(_digits, options, command, Path(scratch))),
            Variant("mnemo --help", functools.partial(_run, options, [*command, "--help"])),
            Variant("import mnemo", functools.partial(_run, options, [sys.executable, "-c", "import mnemo"])),
            Variant(
                "import mnemo.learner", functools.partial(_run, options, [sys.executable, "-c", "import mnemo.learner"])
            ),
        ]
        for variant in variants[: options.pick(1, len(variants))]:
            variant.warm_up = _nothing
        interleave(variants[:1], options.pick(min(options.repeats, 3), 1), options.device)
        interleave(variants[1:], options.pick(options.repeats, 1), options.device)
    return Section("starting", "Whole commands", variants)


def _nothing() -> None:
    """A whole run of the digits, and all of a quick benchmark, go without a warm-up."""


def _digits(options: Options, command: list[str], scratch: Path) -> None:
    out = scratch / "digits"
    shutil.rmtree(out, ignore_errors=True)
    settings = [f"--set={setting}" for setting in QUICK] if options.quick else []
    _run(options, [*command, "run", "digits", "--device", options.device.type, "--out", str(out), "--quiet", *settings])


def _run(options: Options, command: list[str]) -> None:
    threads = {"OMP_NUM_THREADS": str(options.threads)}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **threads})
