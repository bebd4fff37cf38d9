"""Several runs at once: the same results as alone, nothing left behind however they end, and refusals in one line."""

import io
import itertools
import json
import os
import pickle
import re
import shlex
import signal
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from mnemo import console, machine
from mnemo.cli import app
from mnemo.disk.files import InputError
from mnemo.learner import EpochDone
from mnemo.protocols import load as load_protocol
from mnemo.sweeps import side_by_side, tasks
from mnemo.sweeps.messages import Failed, Finished, PhaseResult, Started, Starting

OWN = ("seconds", "peak_memory_bytes", "command")
"""What differs between two runs that are the same."""

WHEN_TOLD = """
import contextlib, os, signal
from multiprocessing import active_children
from pathlib import Path
from mnemo.sweeps import side_by_side

def execute(plans, original=side_by_side.execute):
    with contextlib.closing(original(plans)) as told:
        for name, message in told:
            if (name, type(message).__name__) == {about}:
                workers = {{worker.name: worker.pid for worker in active_children()}}
                Path("workers").write_text(" ".join(map(str, workers.values())))
                {action}
            yield name, message

side_by_side.execute = execute
"""
"""Does something in the process of the command once a worker has told of something."""


@pytest.fixture
def mnemo(blobs, tmp_path, monkeypatch):
    """``mnemo run blobs.toml`` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MNEMO_DATA_DIR", str(blobs))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    runner = CliRunner()
    return lambda *more: runner.invoke(app, ["run", str(blobs / "blobs.toml"), *map(str, more)], prog_name="mnemo")


@pytest.fixture(scope="module")
def arguments(blobs):
    """Of ``mnemo run``, for runs in the folder ``out`` of the present one."""
    return ["run", blobs / "blobs.toml", "--data-dir", blobs, "--device", "cpu", "--out", "out"]


def result(folder):
    """run.json but for what differs between two runs that are the same."""
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert run["complete"] is True
    return {key: value for key, value in run.items() if key not in OWN}


def refused(code, err, *words):
    assert code == 2
    assert err.startswith("mnemo: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z"  # nobody has waited for it yet


# Whole runs


ONE_AT_ONCE = "from mnemo import machine\nmachine.cores = lambda: 1\n"
TWO_AT_ONCE = "from mnemo import machine\nmachine.cores = lambda: 2\n"


@pytest.fixture(scope="module")
def both(arguments, fork_server, tmp_path_factory):
    """The folder of two complete runs that were carried out at once, the command's arguments and what it printed."""
    folder = tmp_path_factory.mktemp("both")
    more = ["-s", "mnemonics", "--seeds", "1,2", "--set", "exemplar_epochs=1"]
    command = fork_server.start(*arguments, *more, cwd=folder, before=TWO_AT_ONCE)
    assert command.wait() == 0, command.err
    assert command.err == ""
    return folder, [*arguments, *more], command.out


def test_results_are_those_of_runs_alone(both, fork_server, tmp_path):
    folder, _, _ = both
    for name in ("mnemonics-1", "mnemonics-2"):
        together = folder / "out" / name
        command = shlex.split(json.loads((together / "run.json").read_text(encoding="utf-8"))["command"])
        alone = fork_server.start(*command[1:], cwd=tmp_path)
        assert alone.wait() == 0, alone.err
        assert result(together) == result(tmp_path / "out" / name)


def test_what_is_printed_and_left(both):
    folder, _, printed = both
    averages = [result(folder / "out" / f"mnemonics-{seed}")["average_incremental_accuracy"] for seed in (1, 2)]
    left = {path.name for path in (folder / "out").iterdir()}
    assert left == {"mnemonics-1", "mnemonics-2", "report.html", "forgetting.png", "exemplars.png"}
    assert printed.startswith("mnemonics on blobs, cpu: 2 runs, 2 at once\n")
    for seed, average in zip((1, 2), averages, strict=True):
        lines = re.findall(rf"^mnemonics-{seed}  phase \d/3  accuracy .* \d:\d\d:\d\d$", printed, re.M)
        assert len(lines) == 3
        assert f"mnemonics-{seed}  average accuracy {average:.1f} %\n" in printed
    mean, spread = sum(averages) / 2, abs(averages[0] - averages[1]) / 2**0.5
    assert re.search(rf"mnemonics .* {mean:.2f} ± {spread:.2f} ", printed)
    assert "report: out/report.html" in printed


def test_what_is_complete_is_not_done_again(both, fork_server):
    folder, arguments, printed = both
    before = {path: path.read_bytes() for path in folder.rglob("run.json")}
    no_workers = TWO_AT_ONCE + "from mnemo.sweeps import side_by_side\ndel side_by_side._start"
    again = fork_server.start(*arguments, "--resume", cwd=folder, before=no_workers)
    assert again.wait() == 0, again.err
    assert again.out.count("complete already") == 2
    assert again.out.partition("┏")[2] == printed.partition("┏")[2]
    quiet = fork_server.start(*arguments, "--resume", "--quiet", cwd=folder, before=no_workers)
    assert (quiet.wait(), quiet.out) == (0, "")
    for more, words in (
        ([], "out/mnemonics-1 has a run already: --resume goes on with it"),
        (
            ["--resume", "--set", "epochs=3"],
            "mnemonics-1: out/mnemonics-1/checkpoints/latest.safetensors: is of another",
        ),
    ):
        command = fork_server.start(*arguments, *more, cwd=folder)
        refused(command.wait(), command.err, words)
    assert {path: path.read_bytes() for path in folder.rglob("run.json")} == before


def test_stopped_in_any_way_and_resumed(arguments, fork_server, until, tmp_path):
    """The command killed, a worker killed, Ctrl-C in a terminal, which all processes hear; and to the end at last."""
    arguments = [*arguments, "-s", "finetune", "--set", "epochs=100"]
    more = [*arguments, "--seeds", "1,2", "--resume"]

    def stopped(about, action):
        before = ONE_AT_ONCE + WHEN_TOLD.format(about=about, action=action)
        command = fork_server.start(*more, cwd=tmp_path, before=before)
        code = command.wait()
        workers = [int(pid) for pid in (tmp_path / "workers").read_text().split()]
        assert len(workers) == 1
        until(lambda: all(map(gone, workers)), 10)
        return code, command

    code, _ = stopped(("finetune-1", "Started"), "os.kill(os.getpid(), signal.SIGKILL)")
    assert code == -signal.SIGKILL

    code, command = stopped(("finetune-2", "EpochDone"), "os.kill(workers[name], signal.SIGKILL)")
    refused(code, command.err, "finetune-2: its process was killed", "--resume")
    assert "finetune-1  average accuracy" in command.out

    interrupt = "for pid in (*workers.values(), os.getpid()): os.kill(pid, signal.SIGINT)"
    code, command = stopped(("finetune-2", "PhaseResult"), interrupt)
    assert (code, command.err) == (130, "mnemo: interrupted; go on with --resume (out)\n")
    assert "finetune-1  complete already" in command.out
    assert not list(tmp_path.rglob("*.part"))

    command = fork_server.start(*more, cwd=tmp_path)
    assert command.wait() == 0, command.err
    assert "phase 1/3" not in command.out
    alone = [each if each != "out" else "alone" for each in arguments]
    assert fork_server.start(*alone, "--seed", "2", cwd=tmp_path).wait() == 0
    assert result(tmp_path / "out" / "finetune-2") == result(tmp_path / "alone")


def test_a_run_that_fails_ends_all(arguments, fork_server, tmp_path):
    """One cannot be written, which nobody can know before; what else is under way is stopped."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "finetune-1").write_text("mine")
    more = ["-s", "finetune", "--seeds", "1,2", "--set", "epochs=20000"]
    before = TWO_AT_ONCE + WHEN_TOLD.format(about=("finetune-2", "Starting"), action="")
    command = fork_server.start(*arguments, *more, cwd=tmp_path, before=before)
    refused(command.wait(), command.err, "finetune-1: Not a directory: out/finetune-1/checkpoints")
    workers = (tmp_path / "workers").read_text().split()
    assert len(workers) == 2
    assert all(gone(int(pid)) for pid in workers)


# What is refused before anything begins


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--seeds", "1,2", "--seed", "1"], "--seed and --seeds: give one of them"),
        (["--seeds", "1", "--seed", "1"], "--seed and --seeds: give one of them"),
        (["--seeds", "1,2,1"], "--seeds 1,2,1: 1 comes twice"),
        (["--seeds", "1,01"], "--seeds 1,01: 1 comes twice"),
        (["--seeds", "1,,2"], "--seeds 1,,2: there is an empty item"),
        (["--seeds", ""], "there is an empty item"),
        (["--seeds", "1,two"], "two is not a whole number between 0 and 4294967295"),
        (["--seeds", "-1,2"], "-1 is not a whole number"),
        (["--seeds", "1.0,2"], "1.0 is not a whole number"),
        (["--seeds", "²,1"], "² is not a whole number"),
        (["--seeds", "1_0,1"], "1_0 is not a whole number"),
        (["--seeds", f"1,{2**32}"], f"{2**32} is not a whole number"),
        (["--seeds", "9" * 5000], "is not a whole number"),
        (["-s", "lucir,lucir"], "--strategy lucir,lucir: lucir comes twice"),
        (["-s", "lucir,"], "--strategy lucir,: there is an empty item"),
        (["-s", "lucir,mnemonic"], "unknown strategy 'mnemonic'; did you mean mnemonics"),
        (["--seeds", "1,2", "--base", "base"], "--base: a base network belongs to one seed"),
        (["--seeds", "1,2", "--set", "epoch=3"], "unknown setting of blobs or mnemonics 'epoch'; did you mean epochs"),
        (["-s", "lucir,icarl", "--set", "inner_steps=3"], "unknown setting of blobs or lucir or icarl 'inner_steps'"),
        (["-s", "lucir,finetune", "--set", "epochs=0"], "epochs=0: "),
        (["-s", "lucir,icarl", "--set", "per_class=0"], "icarl predicts by the nearest mean of exemplars"),
        (["--seeds", "1,2", "--set", "dataset=nowhere"], "no data set 'nowhere'"),
        (["--seeds", "1,2", "--device", "gpu"], "--device gpu: choose auto, cpu or cuda"),
        (["-s", "lucir,icarl", "--base", "nowhere"], "lucir-1993: nowhere/checkpoints/base.safetensors: no such"),
    ],
)
def test_wrong_input_is_refused_in_one_line(more, words, mnemo, tmp_path):
    done = mnemo(*more)
    refused(done.exit_code, done.stderr, words)
    assert list(tmp_path.iterdir()) == []


def test_a_base_network_must_suit_every_strategy(mnemo, tmp_path):
    assert mnemo("-s", "lucir", "--seeds", "1", "--out", "base", "--quiet").exit_code == 0
    done = mnemo("-s", "lucir,icarl", "--seeds", "1", "--base", "base")
    refused(
        done.exit_code, done.stderr, "icarl-1: base/checkpoints/base.safetensors: is of another base network", "head"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
    done = mnemo("-s", "lucir,icarl", "--out", "base")
    refused(done.exit_code, done.stderr, "base is itself the folder of a run")


def test_one_combination_is_a_run_as_ever(mnemo, tmp_path):
    done = mnemo("-s", "finetune", "--seeds", "5", "--set", "epochs=1")
    assert done.exit_code == 0, done.stderr
    assert result(tmp_path / "runs" / "blobs-finetune-5")["seed"] == 5
    assert (tmp_path / "runs" / "blobs-finetune-5" / "report.html").exists()


# Parts


def test_cores_and_threads_are_shared(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 8)
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [machine.runs_at_once("cpu", runs) for runs in (2, 8, 30)] == [2, 8, 8]
    assert [machine.runs_at_once("cuda", runs) for runs in (2, 30)] == [2, machine.RUNS_ON_A_GPU]
    for processes in (1, 3, 8, 20):
        machine.share_threads(processes)
    assert chosen == [8, 2, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    machine.share_threads(1)
    assert chosen == [8, 2, 1, 1]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("no such thing"), "no such thing"),
        (OSError(28, "No space left on device", "file"), "No space left on device: file"),
        (OSError("the disk refuses"), "the disk refuses"),
        (
            torch.OutOfMemoryError("CUDA out of memory.\nTried"),
            "the GPU has too little memory for so many runs at once",
        ),
    ],
)
def test_foreseeable_failures_are_a_line(error, line):
    failure = side_by_side.failure(error)
    assert failure.line.startswith(line)
    assert failure.trace == ""


def test_other_failures_have_their_traceback_too():
    try:
        [].pop()
    except IndexError as error:
        failure = side_by_side.failure(error)
    assert failure.line == "IndexError: pop from empty list"
    assert "test_side_by_side.py" in failure.trace


MESSAGES = [
    Starting(),
    Started(),
    EpochDone(phase=0, stage="train", epoch=1, epochs=2, shown={"loss": 0.5, "accuracy": 75.0}),
    PhaseResult(phase=0, accuracy=90.0, others={}, first_classes=90.0, exemplars=6, moved=None),
    Finished(average=87.6),
    Failed("why"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_travel(message):
    assert pickle.loads(pickle.dumps(message)) == message


def test_in_a_terminal_every_run_has_a_row(blobs, monkeypatch):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(console, "console", terminal)
    task = tasks.Task(load_protocol(str(blobs / "blobs.toml")), "", 0, Path("out"), data_dir=blobs, device="cpu")
    plans = tasks.plan(tasks.combinations(task, ["finetune", "mnemonics"], [1, 2]))
    with console.SideBySide(plans) as display:
        for message in MESSAGES[:5]:
            display.show("finetune-1", message)
        display.show("mnemonics-1", Starting())
        for message in MESSAGES[:4]:
            display.show("finetune-2", message)
    drawn = terminal.file.getvalue().splitlines()[-5:-1]
    for line, words in zip(
        drawn,
        (
            r"finetune-1 +average accuracy 87\.6 % .* 100 % took 0:00:0\d",
            r"finetune-2 +phase 1/3  train 2/2  loss 0\.500 .* 33 % 0:00:0\d left",
            r"mnemonics-1 +starting .* 0 %",
            r"mnemonics-2 +waiting .* 0 %",
        ),
        strict=True,
    ):
        assert re.search(words, line), drawn


def test_names_are_unique(blobs):
    task = tasks.Task(load_protocol(str(blobs / "blobs.toml")), "", 0, Path("out"), values={"per_class": 2})
    made = tasks.combinations(task, ["finetune", "replay"], [1, 2])
    assert [each.name for each in made] == [f"{s}-{n}" for s, n in itertools.product(("finetune", "replay"), (1, 2))]
    assert [dict(each.values) for each in made] == [{}, {}, {"per_class": 2}, {"per_class": 2}]
