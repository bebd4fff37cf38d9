"""The command as people and programs use it: what it prints, what it leaves, and how it refuses."""

import json
import os
import pty
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
from typer.testing import CliRunner

from mnemo import experiment, protocols
from mnemo.cli import app

STRATEGIES = ["bic", "finetune", "icarl", "joint", "lucir", "lwf", "mnemonics", "replay"]
LEFT = ["checkpoints", "checksums.json", "exemplars.png", "forgetting.png", "report.html", "run.json"]


@pytest.fixture
def mnemo(blobs, tmp_path, monkeypatch):
    """``mnemo`` in this process, in an empty folder, with the data set ``blobs`` in its data folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MNEMO_DATA_DIR", str(blobs))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments], prog_name="mnemo")


@pytest.fixture
def no_report(monkeypatch):
    """Half of a tiny run's time goes into its pictures."""
    monkeypatch.setattr("mnemo.report.write", lambda runs, out: out / "report.html")


@pytest.fixture
def protocol(blobs):
    return blobs / "blobs.toml"


def settings(**values):
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def finished(result):
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def refused(result, *words):
    """Exit code 2, nothing but one line on standard error, and in it all the words."""
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == 2
    assert result.stderr.startswith("mnemo: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


def load(folder):
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


# What is imported


def python(code):
    """Standard output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_and_version_import_nothing_heavy():
    code = """
import sys
from mnemo import cli
for sys.argv in (["mnemo", "--help"], ["mnemo", "run", "--help"], ["mnemo", "--version"]):
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code
heavy = {"torch", "numpy", "torchvision", "matplotlib", "sklearn", "PIL", "avalanche"}
print("imported:", heavy & set(sys.modules))
"""
    told = python(code)
    assert "imported: set()" in told
    assert "Usage: mnemo" in told
    assert "--strategy" in told
    assert re.search(r"^mnemo \d+\.\d+", told, re.MULTILINE)


def test_the_library_imports_no_pictures_and_no_plots():
    told = python(
        "import sys; from mnemo import experiment, protocols, report, datasets, exemplars;"
        "experiment.recipe('mnemonics');"
        "print({'torchvision', 'matplotlib', 'avalanche', 'sklearn', 'rich', 'typer'} & set(sys.modules))"
    )
    assert told == "set()\n"


# A run


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_finishes(strategy, mnemo, protocol, tmp_path):
    printed = finished(mnemo("run", protocol, "-s", strategy, "--out", tmp_path / "run"))
    run = load(tmp_path / "run")
    assert run["complete"] is True
    assert (run["strategy"], run["protocol"], run["seed"]) == (strategy, "blobs", 1993)
    assert sorted(run["class_order"]) == list(range(6))
    assert [len(group) for group in run["phase_classes"]] == [2, 2, 2]
    assert [[value is not None for value in row] for row in run["accuracy"]] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
    values = [value for row in run["accuracy"] for value in row if value is not None]
    assert all(0 <= value <= 100 for value in [*values, *run["phase_accuracy"], run["average_incremental_accuracy"]])
    assert -100 <= run["forgetting_rate"] <= 100
    each = {"finetune": 0, "joint": 12}.get(strategy, 3)
    assert [(state["per_class"], state["count"]) for state in run["exemplars"]["phases"]] == [
        (each, each * classes) for classes in (2, 4, 6)
    ]
    assert [state["bytes"] for state in run["exemplars"]["phases"]] == [64 * each * classes for classes in (2, 4, 6)]
    moved = run["exemplars"]["rms_displacement"]
    assert moved > 0 if strategy == "mnemonics" else moved is None
    assert run["seconds"].keys() >= {"train", "evaluate"}
    assert len(re.findall(r"^phase [123]/3  accuracy", printed, re.MULTILINE)) == 3
    left = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert left == [name for name in LEFT if each or name != "exemplars.png"]


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(
    ("values", "counts"),
    [
        ({"per_class": 5}, [10, 20, 30]),
        ({"per_class": 50}, [24, 48, 72]),
        ({"total": 12}, [12, 12, 12]),
        ({"total": 10}, [10, 12, 12]),
        ({"budget_bytes": 64 * 11}, [10, 8, 6]),
        ({"budget_bytes": 64 * 5}, [4, 4, 0]),
        ({"per_class": 0}, [0, 0, 0]),
    ],
)
def test_budgets_are_kept(values, counts, mnemo, protocol, tmp_path):
    """Down to nothing, where there is nothing to optimise, to fine-tune on and to take means of."""
    finished(mnemo("run", protocol, "--out", tmp_path / "run", *settings(**values)))
    run = load(tmp_path / "run")
    assert run["complete"] is True
    assert [state["count"] for state in run["exemplars"]["phases"]] == counts
    assert ("nearest_mean" in run["by_classifier"]) == (counts[-1] > 0)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(
    ("strategy", "values"),
    [
        (strategy, values)
        for strategy in ("lucir", "mnemonics")
        for values in ({"base_classes": 6}, {"base_classes": 0, "increment": 5}, {"base_classes": 1, "increment": 1})
    ],
)
def test_streams_of_every_shape(strategy, values, mnemo, protocol, tmp_path):
    finished(mnemo("run", protocol, "-s", strategy, "--out", tmp_path / "run", *settings(epochs=1, **values)))
    run = load(tmp_path / "run")
    assert run["complete"] is True
    sizes = [len(group) for group in run["phase_classes"]]
    assert sizes == {6: [6], 0: [5, 1], 1: [1] * 6}[values["base_classes"]]


def test_a_run_has_a_folder_of_its_own(mnemo, protocol, tmp_path):
    printed = finished(mnemo("run", protocol, "-s", "finetune", "--seed", "7"))
    assert "report: runs/blobs-finetune-7/report.html" in printed
    assert load(tmp_path / "runs" / "blobs-finetune-7")["seed"] == 7


def test_quiet_prints_nothing(mnemo, protocol):
    assert finished(mnemo("run", protocol, "-s", "finetune", "--quiet")) == ""


def test_without_a_terminal_there_are_lines_of_plain_text(fork_server, protocol, blobs, tmp_path):
    arguments = ["run", protocol, "--data-dir", blobs, "--out", "run"]
    command = fork_server.start(*arguments, cwd=tmp_path)
    assert command.wait() == 0
    assert command.err == ""
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\x80-\x9f]", command.out)
    phases = [line for line in command.out.splitlines() if line.startswith("phase")]
    assert len(phases) == 3
    assert all(re.search(r"grey levels  \d:\d\d:\d\d$", line) for line in phases), "a line was broken"
    assert load(tmp_path / "run")["command"] == f"mnemo run {protocol} --data-dir {blobs} --out run"


def read_all(handle, chunks):
    """All that comes out of a terminal; Linux says with an error that nobody writes to it any more."""
    try:
        while chunk := os.read(handle, 65536):
            chunks.append(chunk)
    except OSError:
        pass


TERMINAL = """
import functools, os
from rich.progress import Progress

os.environ |= {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
Progress.update = functools.partialmethod(Progress.update, refresh=True)
"""
"""It is drawn ten times a second, and a tiny run may be over by then: here it is drawn at every event."""


@pytest.mark.parametrize("resume", [False, True])
def test_in_a_terminal_there_is_live_progress(resume, fork_server, protocol, blobs, tmp_path):
    arguments = ["run", protocol, "--data-dir", blobs, "--out", "run", *settings(epochs=3)]
    if resume:
        interrupt = "from mnemo import record\ndef save(*_): raise KeyboardInterrupt\nrecord.save = save"
        assert fork_server.start(*arguments, cwd=tmp_path, before=interrupt).wait() == 130
    ours, theirs = pty.openpty()
    chunks = []
    reader = threading.Thread(target=read_all, args=(ours, chunks))
    reader.start()
    command = fork_server.start(*arguments, "--resume", cwd=tmp_path, before=TERMINAL, out=os.ttyname(theirs))
    code = command.wait()
    os.close(theirs)
    reader.join()
    os.close(ours)
    printed = b"".join(chunks).decode()
    assert code == 0, printed
    assert "Traceback" not in printed
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed)
    assert "starting" in plain
    assert re.search(r"phase \d/3  \w+ \d/\d  loss \d\.\d+.* \d+ % \d:\d\d:\d\d left", plain)
    assert ("phase 1/3  accuracy" in plain) == (not resume)
    assert "phase 3/3  accuracy" in plain
    assert "report: run/report.html" in plain


# A base network that is taken over


@pytest.mark.usefixtures("no_report")
def test_a_base_network_taken_over_is_as_good_as_one_trained(mnemo, protocol, tmp_path):
    finished(mnemo("run", protocol, "-s", "finetune", "--out", "base"))
    finished(mnemo("run", protocol, "--out", "trained"))
    finished(mnemo("run", protocol, "--out", "taken", "--base", "base"))
    trained, taken = load(tmp_path / "trained"), load(tmp_path / "taken")
    for run in (trained, taken):
        for key in ("seconds", "peak_memory_bytes", "command"):
            run.pop(key)
    assert taken == trained


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--base", "nowhere"], ["nowhere/checkpoints/base.safetensors: no such checkpoint"]),
        (["--base", "base", "-s", "icarl"], ["another base network: head was 'cosine', is now 'linear'"]),
        (["--base", "base", "--seed", "3"], ["seed was 1993, is now 3"]),
        (["--base", "base", "--set", "base_epochs=3"], ["epochs was 2, is now 3"]),
        (["--base", "base", "--set", "backbone=resnet20"], ["backbone was 'small', is now 'resnet20'"]),
        (["--base", "base", "--set", "base_classes=3"], ["base_classes was 2, is now 3"]),
    ],
)
def test_another_base_network_is_refused(more, words, mnemo, protocol, tmp_path):
    experiment_ = experiment.prepare(protocols.load(str(protocol)), "finetune", {}, device="cpu")
    for event in experiment.execute(experiment_, tmp_path / "base"):
        if event.stage == "train" and event.epoch == 1:
            break  # the base network is trained, and saved
    refused(mnemo("run", protocol, "-s", "lucir", "--out", "run", *more), *words)
    assert not (tmp_path / "run").exists()


def test_a_damaged_base_network_is_refused(mnemo, protocol, tmp_path):
    path = tmp_path / "base" / "checkpoints" / "base.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no")
    refused(mnemo("run", protocol, "--out", "run", "--base", "base"), "base.safetensors: the checkpoint is damaged")
    assert not (tmp_path / "run").exists()


# What is refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["digitz"], ["unknown protocol 'digitz'", "did you mean digits?"]),
        (["nowhere.toml"], ["nowhere.toml: no such protocol file"]),
        (["-s", "mnemonic"], ["unknown strategy 'mnemonic'", "did you mean mnemonics"]),
        (["--set", "epoch=3"], ["unknown setting of digits or mnemonics 'epoch'", "did you mean epochs"]),
        (["--set", "name=other"], ["unknown setting", "'name'"]),
        (["-s", "finetune", "--set", "per_class=3"], ["unknown setting of digits or finetune 'per_class'"]),
        (["--set", "epochs"], ["--set epochs: write KEY=VALUE"]),
        (["--set", "=3"], ["--set =3: write KEY=VALUE"]),
        (["--set", "epochs=-1"], ["epochs=-1: input should be greater than 0"]),
        (["--set", "epochs=many"], ["epochs='many': input should be a valid integer"]),
        (["--set", "epochs=["], ["epochs='['"]),
        (["--set", "lr=0"], ["lr=0: "]),
        (["--set", "lr=nan"], ["lr=nan: input should be a finite number"]),
        (["--set", "lr=inf"], ["lr=inf: input should be a finite number"]),
        (["--set", "pixel_step=inf"], ["pixel_step=inf: input should be a finite number"]),
        (["--set", "less_forget=inf"], ["less_forget=inf: input should be a finite number"]),
        (["--set", "milestones=[2.0]"], ["milestones.0=2.0: "]),
        (["--set", "on=joint"], ["on='joint': input should be 'lucir', 'icarl', 'lwf' or 'bic'"]),
        (["--set", "backbone=vgg"], ["backbone='vgg': "]),
        (["--set", "total=4", "--set", "budget_bytes=4"], ["total and budget_bytes"]),
        (["-s", "icarl", "--set", "per_class=0"], ["icarl predicts by the nearest mean of exemplars"]),
        (["--set", "increment=0"], ["digits: increment: input should be greater than 0"]),
        (["--set", "base_classes=11"], ["cannot split 10 classes into 11 base classes"]),
        (["--set", "validation=142"], ["validation=142: class ", "none would be left"]),
        (["--set", "mean=[0.5]"], ["mean and std must both have 1 value"]),
        (["--set", "mean=[0.5]", "--set", "std=[0]"], ["std.0: input should be greater than 0"]),
        (["--set", "dataset=nowhere"], ["no data set 'nowhere'"]),
        (["cifar100-b50-n5"], ["cifar100", "mnemo data fetch cifar100"]),
        (["--device", "gpu"], ["--device gpu: choose auto, cpu or cuda"]),
        (["--seed", str(2**32)], [f"seed {2**32}: must be between 0 and {2**32 - 1}"]),
    ],
)
def test_wrong_input_is_refused_in_one_line(arguments, words, mnemo, tmp_path):
    refused(mnemo("run", *arguments), *words)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_gpu_is_refused(mnemo, tmp_path):
    refused(mnemo("run", "--device", "cuda"), "--device cuda: this torch sees no CUDA device")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("increment = 2", "increment = "), ["mine.toml: not valid TOML"]),
        (("increment = 2", "incremnt = 2"), ["unknown key in mine.toml 'incremnt'", "did you mean increment"]),
        (("increment = 2", ""), ["mine.toml: increment: field required"]),
        (("increment = 2", 'increment = "two"'), ["mine.toml: increment: input should be a valid integer"]),
        (("increment = 2", "increment = -2"), ["mine.toml: increment: input should be greater than 0"]),
        (("base_classes = 2", "base_classes = 2.5"), ["mine.toml: base_classes: "]),
        (("padding = 1", "order_seed = 4294967296"), ["seed 4294967296: must be between"]),
        (("epochs = 2\nb", "epoch = 2\nb"), ["unknown key in [strategy] of mine 'epoch'", "did you mean epochs"]),
        (("epochs = 2\nb", "mirrors = true\nb"), ["unknown key in [strategy] of mine 'mirrors'"]),
        (("lr = 0.05", 'lr = "fast"'), ["lr='fast': input should be a valid number"]),
        (("lr = 0.05", "lr = nan"), ["lr=nan: input should be a finite number"]),
    ],
)
def test_a_wrong_protocol_is_refused_in_one_line(change, words, mnemo, protocol, tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text(protocol.read_text().replace(*change))
    refused(mnemo("run", mine), *words)
    assert list(tmp_path.iterdir()) == [mine]


def test_a_protocol_that_is_no_text_is_refused(mnemo, tmp_path):
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe\x00")
    refused(mnemo("run", "mine.toml"), "mine.toml: cannot be read")
    (tmp_path / "folder.toml").mkdir()
    refused(mnemo("run", "folder.toml"), "folder.toml: cannot be read")


def test_a_damaged_data_set_is_refused(mnemo, protocol, blobs, tmp_path):
    (tmp_path / "data" / "blobs").mkdir(parents=True)
    for path in (blobs / "blobs").iterdir():
        (tmp_path / "data" / "blobs" / path.name).write_bytes(path.read_bytes()[:-1])
    for arguments in (["run", protocol], ["data", "check", "blobs"]):
        refused(mnemo(*arguments, "--data-dir", tmp_path / "data"), "blobs/", ".npy")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    ("setting", "stage"), [("lr=1e30", "train"), ("inner_lr=1e30", "optimise"), ("fine_tune_lr=1e30", "fine_tune")]
)
def test_training_that_diverges_is_one_line(setting, stage, mnemo, protocol):
    result = mnemo("run", protocol, "--set", setting, *settings(fine_tune_epochs=4))
    refused(result, f"{stage}: the loss is ", "a smaller lr may help")


def test_a_folder_that_cannot_be_written_is_known_before_the_work(mnemo, protocol, tmp_path):
    (tmp_path / "file").write_text("mine")
    result = mnemo("run", protocol, "--out", "file")
    refused(result, "Not a directory: file/checkpoints")
    assert "phase" not in result.stdout.splitlines()[-1].split()[:1]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--seed", "-1"], ["--seed", "greater than or equal to 0"]),
        (["run", "--sed", "1"], ["No such option: --sed"]),
        (["rnu"], ["No such command 'rnu'"]),
        (["report"], ["Missing argument"]),
    ],
)
def test_wrong_usage_ends_with_a_hint(arguments, words, mnemo, tmp_path):
    result = mnemo(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    for word in ["Usage: mnemo", "--help", *words]:
        assert word in result.stderr
    assert list(tmp_path.iterdir()) == []


# The other commands


def test_reports_of_one_run_and_of_several(mnemo, protocol, tmp_path):
    for seed in (1, 2):
        finished(mnemo("run", protocol, "-s", "replay", "--seed", seed, "--out", f"run-{seed}", "--quiet"))
    assert finished(mnemo("report", "run-1", "run-2/run.json", "--out", "both")) == "both/report.html\n"
    assert sorted(path.name for path in (tmp_path / "both").iterdir()) == [
        name for name in LEFT if name.endswith(("png", "html"))
    ]
    assert finished(mnemo("report", "run-1")) == "report/report.html\n"
    refused(mnemo("report", "run-1", "run-3", "--out", "three"), "run-3: no such run")
    assert not (tmp_path / "three").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["run.json: cannot be read as JSON"]),
        ("[]", ["run.json of schema None"]),
        ('{"schema": 99}', ["run.json of schema 99; this version reads 1"]),
        ('{"schema": 1}', ["run.json: strategy: field required"]),
    ],
)
def test_a_damaged_record_is_refused(text, words, mnemo, tmp_path):
    (tmp_path / "run.json").write_text(text)
    refused(mnemo("report", tmp_path), *words)


def test_list_shows_what_there_is(mnemo):
    printed = finished(mnemo("list"))
    for name in [*STRATEGIES, *protocols.available(), "resnet32", "cifar100"]:
        assert re.search(rf"^ *{name} +\S", printed, re.MULTILINE), name


def test_data_commands(mnemo, blobs, tmp_path):
    assert re.search(r"^ *blobs +a folder of arrays +/", finished(mnemo("data", "list")), re.MULTILINE)
    assert finished(mnemo("data", "check", "blobs")).startswith("blobs: 6 classes, 1 x 8 x 8")
    refused(mnemo("data", "check", "blob"), "no data set 'blob'", "did you mean blobs?")
    refused(mnemo("data", "pack", "blobs"), "nothing to pack")
    mine = tmp_path / "mine"
    command = ["data", "import", blobs / "blobs", "--name", "copy", "--data-dir", mine]
    assert finished(mnemo(*command)) == f"{mine / 'copy'}\n"
    assert np.array_equal(np.load(mine / "copy" / "train_labels.npy"), np.repeat(np.arange(6), 12))
    refused(mnemo(*command), "there already")
    refused(mnemo("data", "import", tmp_path / "nowhere"), "no such file or folder")
    assert finished(mnemo("data", "fetch", "digits")) == "digits: comes with scikit-learn, nothing to fetch\n"
