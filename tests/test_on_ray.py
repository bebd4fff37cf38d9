"""Runs on Ray: a worker that is killed costs nothing but time. Where Ray is installed; see ``make test-ray``."""

import os
import signal
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from mnemo import experiment, protocols, record
from mnemo.disk.files import InputError
from mnemo.sweeps import on_ray
from mnemo.sweeps.messages import Failed, Finished, PhaseResult
from mnemo.sweeps.sweep import Resources
from mnemo.sweeps.tasks import Task

pytest.importorskip("ray")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(480)]


def parent(process):
    return int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])


def workers(name):
    """Processes of workers that carry out the run ``name``, of the Ray that this process has started."""
    found, parents = [], {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(process.name)] = parent(process)
            if (process / "cmdline").read_text().startswith(f"ray::{name}"):
                found.append(int(process.name))
        except (OSError, IndexError):
            continue
    return [each for each in found if os.getpid() in ancestors(each, parents)]


def ancestors(process, parents):
    while process in parents:
        process = parents[process]
        yield process


@pytest.mark.skipif(not Path("/proc").exists(), reason="workers are found in /proc")
def test_a_killed_worker_is_replaced_and_its_run_goes_on(blobs, tmp_path, monkeypatch):
    monkeypatch.setattr(on_ray, "LOOK", 0.02)
    protocol = protocols.load(str(blobs / "blobs.toml"))
    values = {"base_epochs": 2, "epochs": 40}
    killed = Task(protocol, "replay", 1, tmp_path / "killed", values, blobs, resume=True)
    taking = replace(killed, strategy="lucir", folder=tmp_path / "taking", base=killed.folder)
    failing = replace(killed, folder=tmp_path / "failing", values={"lr": 1e9})
    hopeless = replace(failing, folder=tmp_path / "hopeless", base=failing.folder)
    told, first_phase, victims = {}, killed.folder / "checkpoints" / "phase-00.safetensors", []
    with closing(on_ray.execute([killed, taking, failing, hopeless], Resources(cpus=2, retries=1))) as events:
        for name, message in events:
            told.setdefault(name, []).append(message)
            if name == "killed" and not victims:
                victims, written = workers(name), first_phase.stat().st_mtime_ns
                assert len(victims) == 1  # each takes both cores
                os.kill(victims[0], signal.SIGKILL)
    assert [type(message) for message in told["killed"]] == [PhaseResult, *([PhaseResult] * 2), Finished]
    assert first_phase.stat().st_mtime_ns == written  # it was not learnt again
    assert isinstance(told["taking"][-1], Finished)
    assert isinstance(told["failing"][-1], Failed)
    assert "a smaller lr may help" in told["failing"][-1].line
    assert "the run whose base network it takes over failed: " in told["hopeless"][-1].line
    alone = replace(killed, folder=tmp_path / "alone").prepare("cpu")
    assert [1 for _ in experiment.execute(alone, tmp_path / "alone")]
    ours, theirs = (record.load(tmp_path / name) for name in ("killed", "alone"))
    assert ours.phase_accuracy == theirs.phase_accuracy
    assert ours.complete


def test_what_this_machine_does_not_have_is_refused(tmp_path, blobs):
    task = Task(protocols.load("digits"), "replay", 1, tmp_path / "run", {}, blobs)
    with pytest.raises(InputError, match=r"^a run takes 1000 CPU, and this machine has \d+$"):
        next(on_ray.execute([task], Resources(cpus=1000)))
