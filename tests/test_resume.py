"""A run that is stopped anywhere, in any way, and taken up again ends as if nothing had happened."""

import contextlib
import json
import os
import shutil
import signal

import pytest
import safetensors.torch
import torch

from mnemo import experiment, protocols
from mnemo.disk import checkpoint
from mnemo.disk.files import InputError
from mnemo.learner import EpochDone, PhaseDone

BEYOND = {
    "per_class": 12,
    "codec": "jpeg",
    "soft_labels": 1.0,
    "replays": 3,
    "hold_out": 0.2,
    "waypoints": 1,
    "starts": ["waypoints", "forgotten", "reset_head"],
    "pool": 3,
    "refresh_epochs": 1,
    "rehearsal_epochs": 1,
    "companions": 2,
    "way": "truncated",
    "inner_steps": 2,
    "window": 1,
    "guard_runs": 1,
}

RECIPES = [
    pytest.param("mnemonics", {}, id="mnemonics"),
    pytest.param("mnemonics", {"level": "head", "total": 10}, id="mnemonics-head-total"),
    pytest.param("mnemonics", {"on": "bic", "way": "unrolled"}, id="mnemonics-bic-unrolled"),
    pytest.param("mnemonics", BEYOND, id="mnemonics-beyond-the-paper"),
    pytest.param("bic", {"per_class": 6, "fine_tune_epochs": 0}, id="bic"),
    pytest.param("finetune", {}, id="finetune"),
    pytest.param("icarl", {"exemplars": "random"}, id="icarl"),
    pytest.param("joint", {}, id="joint"),
    pytest.param("joint", {"from_scratch": False}, id="joint-warm"),
    pytest.param("lucir", {"budget_bytes": 900}, id="lucir-bytes"),
    pytest.param("lwf", {"per_class": 0, "validation": 2}, id="lwf-without-memory"),
    pytest.param("replay", {"mirrors": True}, id="replay"),
]

CHECKPOINTS = [f"{name}.safetensors" for name in ("base", "latest", "phase-00", "phase-01", "phase-02")]

AT_EVENT = """
import itertools, os, resource, signal
from mnemo import experiment

def execute(*arguments, original=experiment.execute, **options):
    for count, event in enumerate(original(*arguments, checkpoint_seconds=0, **options)):
        if ({when}):
            {action}
        yield event

experiment.execute = execute
"""
"""Does something in the process of the command once an event has been saved."""

NO_REPORT = """
from mnemo import report

report.write = lambda runs, out: out / "report.html"
"""
"""Half of a tiny run's time goes into its pictures."""


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch, fork_server):
    """Not for the disk, and not for the server: it starts while the tests in this process run."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def prepare(blobs):
    def make(strategy="mnemonics", **values):
        protocol = protocols.load(str(blobs / "blobs.toml"))
        return experiment.prepare(protocol, strategy, values, data_dir=blobs, device="cpu")

    return make


@pytest.fixture
def arguments(blobs):
    """Of ``mnemo run``, for a folder ``run`` in the present one."""
    return ["run", blobs / "blobs.toml", "--data-dir", blobs, "--out", "run", "--device", "cpu"]


@pytest.fixture(scope="module")
def undisturbed(blobs, fork_server, tmp_path_factory):
    """What a run leaves that nobody disturbed; the same for all who ask with the same arguments."""
    known = {}

    def result(arguments):
        key = tuple(map(str, arguments))
        if key not in known:
            folder = tmp_path_factory.mktemp("undisturbed")
            assert fork_server.start(*arguments, cwd=folder, before=NO_REPORT).wait() == 0
            known[key] = told(folder / "run")
        return known[key]

    return result


def told(folder):
    """run.json, byte for byte, without what the clock and the machine say."""
    text = (folder / "run.json").read_text(encoding="utf-8")
    run = json.loads(text)
    assert json.dumps(run, indent=1, ensure_ascii=False) + "\n" == text
    assert run["complete"] is True
    assert run.pop("seconds").keys() >= {"train", "evaluate"}
    assert run.pop("peak_memory_bytes") > 0
    return json.dumps(run, indent=1)


def same(state, other):
    assert state.keys() == other.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, other[name]), name


def finish(prepared, folder, **options):
    return list(experiment.execute(prepared, folder, resume=True, **options))


def leftovers(folder):
    return list(folder.rglob("*.part"))


# In one process: every event of every strategy


@pytest.mark.parametrize(("strategy", "values"), RECIPES)
def test_a_new_process_for_every_event_makes_no_difference(strategy, values, prepare, tmp_path):
    """Every event, every tensor of the checkpoint after it, and the record are the same."""
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    latest = whole / "checkpoints" / "latest.safetensors"
    expected = []
    for event in experiment.execute(prepare(strategy, **values), whole, checkpoint_seconds=0):
        expected.append((event, checkpoint.load(latest)[0]))
    for event, state in expected:
        going = experiment.execute(prepare(strategy, **values), pieces, resume=True, checkpoint_seconds=0)
        assert next(going) == event
        going.close()
        same(checkpoint.load(pieces / "checkpoints" / "latest.safetensors")[0], state)
    assert finish(prepare(strategy, **values), pieces) == []
    assert told(pieces) == told(whole)


def test_from_any_event_to_the_end(prepare, tmp_path):
    """The strategy with most kinds of stages, stopped once, at each place in turn."""
    values = {"base_classes": 3, "increment": 3}
    latest = tmp_path / "whole" / "checkpoints" / "latest.safetensors"
    events, kept = [], []
    for event in experiment.execute(prepare(**values), tmp_path / "whole", checkpoint_seconds=0):
        events.append(event)
        kept.append(latest.read_bytes())
    stages = [event.stage for event in events if isinstance(event, EpochDone) and event.phase]
    assert list(dict.fromkeys(stages)) == ["train", "compress", "optimise", "adjust", "fine_tune"]
    for number, content in enumerate(kept):
        folder = tmp_path / str(number)
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / "latest.safetensors").write_bytes(content)
        assert finish(prepare(**values), folder) == events[number + 1 :]
        assert told(folder) == told(tmp_path / "whole"), f"stopped after {events[number]}"


def test_between_checkpoints_the_work_since_the_last_one_is_done_again(prepare, tmp_path):
    events = list(experiment.execute(prepare(), tmp_path / "whole"))
    for stop in (3, 11, 20):
        folder = tmp_path / str(stop)
        going = experiment.execute(prepare(), folder)  # too quick for a checkpoint by the clock
        for _ in range(stop):
            next(going)
        going.close()
        again = finish(prepare(), folder)
        assert again == events[len(events) - len(again) :]
        assert told(folder) == told(tmp_path / "whole")


def test_resume_starts_where_there_is_nothing(prepare, tmp_path):
    assert finish(prepare("finetune"), tmp_path / "new") == finish(prepare("finetune"), tmp_path / "newer")
    assert told(tmp_path / "new") == told(tmp_path / "newer")


# Processes that are killed


def at(stage, phase=1):
    """The first time that ``stage`` of ``phase`` is done, or the phase for "phase"."""
    if stage == "phase":
        return f"event.phase == {phase} and not hasattr(event, 'stage')"
    return f"getattr(event, 'stage', '') == {stage!r} and event.phase == {phase}"


@pytest.mark.parametrize(
    ("stage", "phase"),
    [
        ("train", 0),
        ("train", 1),
        ("compress", 1),
        ("optimise", 1),
        ("adjust", 1),
        ("fine_tune", 1),
        ("phase", 1),
        ("phase", 2),
    ],
)
def test_killed_in(stage, phase, arguments, undisturbed, fork_server, tmp_path):
    before = AT_EVENT.format(when=at(stage, phase), action="os.kill(os.getpid(), signal.SIGKILL)")
    killed = fork_server.start(*arguments, cwd=tmp_path, before=before)
    assert killed.wait() == -signal.SIGKILL
    again = fork_server.start(*arguments, "--resume", cwd=tmp_path, before=NO_REPORT)
    assert again.wait() == 0, again.err
    assert told(tmp_path / "run") == undisturbed(arguments)


@pytest.mark.parametrize(
    ("name", "times"),
    [("base.safetensors", 1), ("latest.safetensors", 2), ("phase-01.safetensors", 1), ("run.json", 2)],
)
def test_killed_while_a_file_is_written(name, times, arguments, undisturbed, fork_server, tmp_path):
    """The new file lies there whole under its temporary name, and is not in its place yet."""
    before = f"""
import os, signal

def replace(source, target, original=os.replace, left=[{times}]):
    left[0] -= str(target).endswith({name!r})
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    original(source, target)

os.replace = replace
"""
    killed = fork_server.start(*arguments, cwd=tmp_path, before=before)
    assert killed.wait() == -signal.SIGKILL
    assert len(leftovers(tmp_path)) == 1
    again = fork_server.start(*arguments, "--resume", cwd=tmp_path, before=NO_REPORT)
    assert again.wait() == 0, again.err
    assert told(tmp_path / "run").replace(" --resume", "") == undisturbed(arguments)
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == CHECKPOINTS


# Processes that are interrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(number, arguments, undisturbed, fork_server, until, tmp_path):
    arguments = [*arguments, "-s", "finetune", "--set", "epochs=60", "--set", "base_epochs=2"]
    command = fork_server.start(*arguments, cwd=tmp_path)
    until((tmp_path / "run" / "run.json").exists)  # the first phase is done
    os.kill(command.pid, number)
    assert command.wait() == 130
    assert command.err == "mnemo: interrupted; go on with --resume (run)\n"
    assert leftovers(tmp_path) == []
    again = fork_server.start(*arguments, "--resume", cwd=tmp_path)
    assert again.wait() == 0, again.err
    assert "phase 1/3" not in again.out
    assert told(tmp_path / "run") == undisturbed(arguments)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_before_there_is_anything(number, arguments, fork_server, tmp_path):
    before = f"""
import os
from mnemo import datasets
datasets.load = lambda *_: os.kill(os.getpid(), {int(number)})
"""
    command = fork_server.start(*arguments, cwd=tmp_path, before=before)
    assert command.wait() == 130
    assert command.err == "mnemo: interrupted\n"
    assert list(tmp_path.iterdir()) == []


# A disk that is full


FULL = "resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, resource.RLIM_INFINITY))"
"""No file may become larger; Python ignores the signal, so that writing fails as on a full disk."""


@pytest.mark.parametrize(
    ("when", "size", "file"),
    [
        pytest.param(at("optimise"), 50_000, "run/checkpoints/latest.safetensors", id="checkpoint"),
        pytest.param(at("phase", 2), 2_000, "run/run.json", id="record"),
        pytest.param(at("phase", 2), 30_000, "run/forgetting.png", id="report"),
    ],
)
def test_a_full_disk(when, size, file, arguments, undisturbed, fork_server, tmp_path):
    before = AT_EVENT.format(when=when, action=FULL.format(size=size))
    full = fork_server.start(*arguments, cwd=tmp_path, before=before)
    assert full.wait() == 2
    assert full.err.startswith("mnemo: ")
    assert full.err.endswith(f"{file}\n")
    assert full.err.count("\n") == 1
    assert leftovers(tmp_path) == []
    checkpoint.load(tmp_path / "run" / "checkpoints" / "latest.safetensors")
    again = fork_server.start(*arguments, "--resume", cwd=tmp_path)
    assert again.wait() == 0, again.err
    assert told(tmp_path / "run") == undisturbed(arguments)
    assert (tmp_path / "run" / "report.html").exists()


# What is refused, and what is left alone


@pytest.fixture(scope="module")
def complete(blobs, fork_server, tmp_path_factory):
    """The folder of a complete run of ``finetune``."""
    folder = tmp_path_factory.mktemp("complete")
    arguments = ["run", blobs / "blobs.toml", "--data-dir", blobs, "--out", "run", "--device", "cpu", "-s", "finetune"]
    assert fork_server.start(*arguments, cwd=folder).wait() == 0
    return folder / "run"


@pytest.fixture
def finished(complete, tmp_path):
    """A copy of it, in the present folder of the next command."""
    shutil.copytree(complete, tmp_path / "run")
    return tmp_path / "run"


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(command, *words):
    """Exit code 2, and a line that has all the words."""
    assert command.wait() == 2
    assert command.err.startswith("mnemo: ")
    assert command.err.count("\n") == 1
    for word in words:
        assert word in command.err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([], ["run has a run already", "--resume", "--out"]),
        (["--resume", "--set", "epochs=3"], ["epochs was 2, is now 3"]),
        (["--resume", "--set", "padding=2"], ["padding was 1, is now 2"]),
        (["--resume", "--set", "increment=1"], ["increment was 2, is now 1"]),
        (["--resume", "--set", "milestones=[0.5]"], ["milestones was [0.5, 0.75], is now [0.5]"]),
        (["--resume", "--seed", "5"], ["seed was 1993, is now 5"]),
        (["--resume", "-s", "replay"], ["strategy was 'finetune', is now 'replay'"]),
    ],
)
def test_another_run_in_the_folder_is_refused(more, words, arguments, finished, fork_server):
    before = contents(finished)
    refused(fork_server.start(*arguments, "-s", "finetune", *more, cwd=finished.parent), *words)
    assert contents(finished) == before


def test_a_record_without_checkpoints_is_not_overwritten(arguments, finished, fork_server):
    shutil.rmtree(finished / "checkpoints")
    before = contents(finished)
    command = fork_server.start(*arguments, "-s", "finetune", "--resume", cwd=finished.parent)
    refused(command, "run/checkpoints/latest.safetensors: no such checkpoint")
    assert contents(finished) == before


def test_resuming_a_complete_run_only_rewrites_the_report(arguments, finished, fork_server):
    before = contents(finished)
    checkpoints = {path: path.stat().st_mtime_ns for path in (finished / "checkpoints").iterdir()}
    (finished / "report.html").unlink()
    command = fork_server.start(*arguments, "-s", "finetune", "--resume", cwd=finished.parent)
    assert command.wait() == 0
    assert "report: run/report.html" in command.out
    assert contents(finished) == before
    assert {path: path.stat().st_mtime_ns for path in (finished / "checkpoints").iterdir()} == checkpoints


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGES = {
    "empty": lambda content: b"",
    "cut in the header": lambda content: content[:1000],
    "cut in a tensor": lambda content: content[:-1000],
    "longer": lambda content: content + b"more",
    "a bit of the header's length": lambda content: flipped(content, 1),
    "a bit of the record": lambda content: flipped(content, content.index(b"class_order") + 30),
    "a bit of a tensor": lambda content: flipped(content, len(content) * 2 // 3),
    "the last bit": lambda content: flipped(content, -1 % len(content)),
    "something else": lambda content: b"PK" + content[2:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused(damage, arguments, finished, fork_server):
    path = finished / "checkpoints" / "latest.safetensors"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    before = contents(finished)
    command = fork_server.start(*arguments, "-s", "finetune", "--resume", cwd=finished.parent)
    refused(command, "run/checkpoints/latest.safetensors: the checkpoint is damaged")
    assert contents(finished) == before


def test_no_bit_of_a_checkpoint_changes_unseen(tmp_path):
    """Every bit of a small one: what is loaded is what was saved, or nothing."""
    path = tmp_path / "small.safetensors"
    tensors = {"a": torch.tensor(1.5), "b": torch.arange(4, dtype=torch.uint8), "c": torch.zeros(0)}
    checkpoint.save(path, tensors, {"position": {"phase": 1}})
    content, about = path.read_bytes(), checkpoint.load(path)[1]
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with contextlib.suppress(InputError):
            loaded, said = checkpoint.load(path)
            same(loaded, tensors)
            assert said == about


def test_a_file_of_another_program_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"weights": torch.zeros(3)}, path)
    with pytest.raises(InputError, match="not a checkpoint of this version of mnemo"):
        checkpoint.load(path)


def test_a_network_of_another_shape_is_refused_in_one_line(prepare, tmp_path):
    """Not what a setting decides, but a change of the program: torch says it in many lines."""
    finish(prepare("finetune"), tmp_path)
    path = tmp_path / "checkpoints" / "latest.safetensors"
    tensors, about = checkpoint.load(path)
    name = next(name for name, tensor in tensors.items() if name.startswith("net.backbone") and tensor.ndim == 4)
    checkpoint.save(path, {**tensors, name: torch.zeros(1)}, about)
    with pytest.raises(InputError, match="does not fit this run") as refusal:
        finish(prepare("finetune"), tmp_path)
    assert "\n" not in str(refusal.value)


def test_checkpoints_are_kept_after_every_phase(prepare, tmp_path):
    events = finish(prepare("finetune"), tmp_path)
    assert sum(isinstance(event, PhaseDone) for event in events) == 3
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == CHECKPOINTS
