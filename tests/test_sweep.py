"""What the file of a sweep says, and the runs that come of it; for this Ray need not be there."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mnemo import experiment, protocols
from mnemo.cli import app
from mnemo.sweeps import on_ray, sweep
from mnemo.sweeps.messages import Failed, Finished, PhaseResult
from mnemo.sweeps.tasks import Task

SUITES = sorted((Path(__file__).parent.parent / "benchmarks" / "suites").glob("*.toml"))
FILE = """
protocols = ["{blobs}", "digits"]
seeds = [1, 2]
strategies = ["finetune"]
settings = {{ per_class = 2, inner_steps = 2, epochs = 1 }}

[[rows]]
name = "optimised"
strategy = "mnemonics"
settings = {{ per_class = 1 }}
base = "finetune"

[resources]
cpus = 2
gpus = 0.5
"""


@pytest.fixture
def file(blobs, tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text(FILE.format(blobs=blobs / "blobs.toml"))
    return path


@pytest.fixture
def common(blobs, tmp_path):
    return Task(protocols.load("digits"), "", 0, tmp_path / "out", {}, blobs)


@pytest.fixture
def command(blobs, file, tmp_path, monkeypatch):
    """``mnemo sweep`` of the file; Ray is the given function of tasks, resources and address."""
    monkeypatch.setattr("mnemo.report.write", lambda runs, out: out / "report.html")

    def run(*options, ray):
        monkeypatch.setattr(on_ray, "execute", ray)
        given = ["sweep", file, "--out", tmp_path / "out", "--data-dir", blobs, *options]
        return CliRunner().invoke(app, list(map(str, given)))

    return run


def here(tasks, resources, address):
    """In place of Ray: one run after the other in this process; those of finetune fail with seed 2."""
    for task in tasks:
        if task.name == "blobs-finetune-2":
            yield task.name, Failed("out of [luck]")
            continue
        prepared = task.prepare("cpu")
        for _ in experiment.execute(prepared, task.folder, resume=task.resume, base=task.base):
            pass
        yield task.name, PhaseResult.of(2, prepared.run)
        yield task.name, Finished(prepared.run.average_incremental_accuracy or 0.0)


def test_a_run_for_every_protocol_seed_and_row(file, common):
    asked = sweep.load(file)
    assert asked.resources == sweep.Resources(cpus=2, gpus=0.5)
    assert (asked.resources.device, sweep.Resources().device) == ("cuda", "cpu")
    found = sweep.tasks(asked, common)
    names = [f"{p}-{row}-{s}" for p in ("blobs", "digits") for s in (1, 2) for row in ("finetune", "optimised")]
    assert [task.name for task in found] == names
    assert found[0].values == {"epochs": 1}  # it keeps nothing
    assert found[1].values == {"per_class": 1, "inner_steps": 2, "epochs": 1}
    assert found[1].base == found[0].folder == common.folder / "blobs-finetune-1"
    assert found[0].base is None
    assert [task.seed for task in found] == [1, 1, 2, 2] * 2


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_suites_are_sweeps(path, common):
    asked = sweep.load(path)
    assert len(sweep.tasks(asked, common)) == len(asked.rows) * len(asked.seeds)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seeds = [1, 2]", "", "seeds: field required"),
        ("seeds = [1, 2]", "seeds = [1, 1]", "seeds: 1 comes twice"),
        ("seeds = [1, 2]", "seeds = [-1]", "seeds.0: input should be greater than or equal to 0"),
        ("seeds =", "seed =", "did you mean seeds"),
        ("cpus = 2", "cpu = 2", "resources.cpu: extra inputs are not permitted"),
        ('"mnemonics"', '"mnemonic"', "unknown strategy 'mnemonic'; did you mean mnemonics"),
        ('"digits"', '"digit"', "unknown protocol 'digit'; did you mean digits"),
        ("inner_steps", "iner_steps", "unknown setting of blobs or finetune or mnemonics 'iner_steps'"),
        ("per_class = 1", "per_class = -1", "blobs-optimised-1: per_class=-1"),
        ("per_class = 1", "per_clas = 1", "blobs-optimised-1: unknown setting of blobs or mnemonics 'per_clas'"),
        ('base = "finetune"', 'base = "optimised"', "optimised: base: there is no earlier row 'optimised'"),
        ('name = "optimised"', 'name = "../optimised"', "rows.0.name: string should match"),
        ('name = "optimised"', 'name = "finetune"', "rows: finetune comes twice"),
        ("protocols =", "other =", "unknown key in"),
        ("seeds = [1, 2]", "seeds = [1", "cannot be read as TOML"),
    ],
)
def test_a_wrong_file_is_one_line(old, new, words, file, command):
    file.write_text(file.read_text().replace(old, new, 1))
    result = command(ray=None)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_what_is_complete_is_not_run_again_and_what_failed_is_named(command, file, tmp_path):
    file.write_text(file.read_text().replace(', "digits"', "").replace('base = "finetune"', ""))
    first = command(ray=here)
    assert first.exit_code == 1
    assert first.stderr == "mnemo: blobs-finetune-2: out of [luck]\n"
    assert "4 runs, 0 complete already" in first.stdout
    assert "blobs-optimised-1  phase 3  accuracy" in first.stdout
    assert "mean and sample standard deviation over seeds 1, 2" in first.stdout
    refused = command(ray=None)
    assert refused.exit_code == 2
    assert "has a run already: --resume goes on with it" in refused.stderr
    given = []

    def counted(tasks, resources, address):
        given.extend(tasks)
        yield from here([replace(task, folder=tmp_path / "out" / "blobs-finetune-2-") for task in tasks], 0, "")
        (tmp_path / "out" / "blobs-finetune-2-").rename(tmp_path / "out" / "blobs-finetune-2")

    second = command("--resume", "--ray", "here", ray=counted)
    assert second.exit_code == 0, second.output
    assert [task.name for task in given] == ["blobs-finetune-2"]
    assert given[0].resume
    assert "4 runs, 3 complete already" in second.stdout
    assert command("--resume", "--quiet", ray=None).output == ""
    file.write_text(file.read_text().replace("epochs = 1", "epochs = 2"))
    other = command("--resume", ray=None)
    assert other.exit_code == 2
    assert "is of another run: epochs was 1, is now 2" in other.stderr


def test_without_ray_a_line_says_what_to_install(file, blobs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    result = CliRunner().invoke(app, ["sweep", str(file), "--out", str(tmp_path / "out"), "--data-dir", str(blobs)])
    assert result.exit_code == 2
    assert result.stderr == "mnemo: Ray is not installed: pip install 'mnemo-cil[ray]'\n"
