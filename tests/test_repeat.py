"""The same run again: byte for byte on one machine, and from what its record holds."""

import json
import re
from dataclasses import replace

import pytest
import torch

from mnemo import experiment, protocols, record, repeat
from mnemo.datasets.digits import load_digits
from mnemo.disk.files import InputError
from mnemo.images import Images, digest

NO_REPORT = """
from mnemo import report

report.write = lambda runs, out: out / "report.html"
"""
DETERMINISTIC = """
import torch

old = torch.use_deterministic_algorithms
torch.use_deterministic_algorithms = lambda *given: (print("only deterministic algorithms"), old(*given))
"""


@pytest.fixture(scope="module")
def recorded(blobs, fork_server, tmp_path_factory):
    """The folder of a run of Mnemonics that nobody disturbed."""
    folder = tmp_path_factory.mktemp("recorded")
    arguments = ["run", blobs / "blobs.toml", "--data-dir", blobs, "--device", "cpu", "--out", "run"]
    assert fork_server.start(*arguments, cwd=folder, before=NO_REPORT).wait() == 0
    return folder / "run"


@pytest.fixture
def again(recorded, blobs, fork_server, tmp_path):
    """``mnemo run --from`` a record in its folder, or one that was written with ``changes``, in a process."""

    def start(*options, before="", **changes):
        path = recorded
        if changes:
            path = tmp_path / "changed.json"
            values = json.loads((recorded / "run.json").read_text(encoding="utf-8")) | changes
            path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
        options = ("--from", path, "--data-dir", blobs, "--out", "again", *options)
        command = fork_server.start("run", *options, cwd=tmp_path, before=NO_REPORT + before)
        return command.wait(), command

    return start


def text(folder):
    """run.json without the fields that clock and memory decide, byte for byte."""
    lines = (folder / "run.json").read_text(encoding="utf-8")
    for name in record.TIMES:
        lines, removed = re.subn(rf'^ "{name}": (\{{.*?^ \}}|\d+),\n', "", lines, flags=re.MULTILINE | re.DOTALL)
        assert removed == 1, name
    return lines


@pytest.mark.parametrize("options", [["-s", "replay"], ["-s", "replay", "--deterministic"]])
def test_two_runs_of_one_command_leave_the_same_bytes(options, blobs, fork_server, tmp_path):
    arguments = ["run", blobs / "blobs.toml", "--data-dir", blobs, "--device", "cpu", "--out", "run", *options]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert fork_server.start(*arguments, cwd=tmp_path / name, before=NO_REPORT).wait() == 0
    assert text(tmp_path / "one" / "run") == text(tmp_path / "two" / "run")
    run = record.load(tmp_path / "one" / "run")
    assert run.deterministic == ("--deterministic" in options)
    assert run.threads == 1
    assert record.without_times(run) == record.without_times(record.load(tmp_path / "two" / "run"))


def test_a_record_is_enough_to_repeat_its_run(again, recorded, tmp_path):
    code, command = again()
    assert code == 0, command.err
    assert command.err == ""
    assert f"the same results as in {recorded}" in command.out
    first, second = record.load(recorded), record.load(tmp_path / "again")
    assert record.without_times(first) == {**record.without_times(second), "command": first.command}


def test_a_run_can_be_repeated_with_deterministic_algorithms_alone(again, tmp_path):
    code, command = again("--deterministic", before=DETERMINISTIC)
    assert code == 0, command.err
    assert "only deterministic algorithms" in command.out
    assert command.err == "mnemo: warning: deterministic was False, is True\n"
    assert record.load(tmp_path / "again").deterministic


def test_what_is_recorded_as_deterministic_is_repeated_so(again):
    code, command = again(before=DETERMINISTIC, deterministic=True)
    assert code == 0, command.err
    assert "only deterministic algorithms" in command.out
    assert command.err == ""


def test_other_results_are_named(again, recorded):
    old = record.load(recorded).phase_accuracy
    code, command = again(phase_accuracy=[*old[:2], old[2] + 1.5], versions={"torch": "0.1"})
    assert code == 1
    assert f"warning: torch was 0.1, is {torch.__version__}" in command.err
    assert "phase_accuracy: 1 of 3 values differ, by 1.5 at most" in command.out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data_digest": "0123"}, "was made with other data: their digest was 0123, is"),
        ({"schema": 2}, "run.json of schema 2; this version reads 1"),
        ({"strategy": "lucri"}, "unknown strategy 'lucri'; did you mean lucir"),
        ({"config": {}}, "its config has no 'protocol'"),
        ({"class_order": [6, 6, 6, 6, 6, 6]}, "class_order.0 was 6, would be"),
    ],
)
def test_what_cannot_be_repeated_is_refused_in_one_line(changes, words, again, tmp_path):
    code, command = again(**changes)
    assert code == 2
    assert words in command.err
    assert command.err.count("\n") == 1
    assert not (tmp_path / "again" / "run.json").exists()


@pytest.mark.parametrize(
    ("options", "name"), [(["digits"], "PROTOCOL"), (["-s", "lucir"], "--strategy"), (["--set", "epochs=1"], "--set")]
)
def test_what_a_record_says_cannot_be_said_beside_it(options, name, again):
    code, command = again(*options)
    assert code == 2
    assert command.err == f"mnemo: --from repeats a run as it was recorded: leave {name} out\n"


@pytest.mark.parametrize("strategy", sorted(experiment.strategies()))
def test_a_record_holds_every_setting_of_every_strategy(strategy, blobs, tmp_path):
    def made(**values):
        accepted = experiment.settings.defaults(experiment.recipe(strategy))
        values = {key: value for key, value in values.items() if key in accepted or key == "components"}
        protocol = protocols.load(str(blobs / "blobs.toml"))
        return experiment.prepare(protocol, strategy, values, seed=3, data_dir=blobs, device="cpu")

    values = {"epochs": 3, "milestones": [0.5], "total": 12}
    try:
        first = made(**values, components=["mtl"])
    except InputError:
        first = made(**values)  # a strategy without a cosine head
    record.save(first.run, tmp_path / "run.json")
    loaded = record.load(tmp_path)
    again = replace(repeat.task(loaded, tmp_path, tmp_path), data_dir=blobs).prepare("cpu")
    repeat.refuse_another(loaded, again.run, tmp_path)
    assert again.run == first.run


def test_older_records_are_repeated_as_far_as_they_go(recorded):
    whole = record.load(recorded)
    without = {"data_digest", "threads", "outcomes", "novel_accuracy"}
    older = record.Run.model_validate(whole.model_dump(exclude=without) | {"exemplar_samples": []})
    assert repeat.differences(older, whole) == []
    assert any("whether the data are the same is not known" in line for line in repeat.warnings(older, whole))
    later = whole.model_copy(update={"config": {**whole.config, "strategy": {**whole.config["strategy"], "new": 1}}})
    repeat.refuse_another(whole, later, recorded)
    assert "config.strategy.new is a setting" not in "".join(repeat.warnings(whole, whole))
    assert any(line.startswith("strategy.new is a setting") for line in repeat.warnings(whole, later))


def test_a_digest_names_pixels_labels_and_their_order():
    data = load_digits()
    name = digest(data.train, data.test)
    pixels = data.train.pixels.clone()
    pixels[5, 0, 0, 0] += 1
    others = [
        (Images(pixels, data.train.labels), data.test),
        (Images(data.train.pixels, data.train.labels.flip(0)), data.test),
        (data.train.select(torch.arange(len(data.train)).flip(0)), data.test),
        (data.train.select(torch.arange(len(data.train) - 1)), data.test),
        (data.test, data.train),
    ]
    assert len({name, *(digest(*pair) for pair in others)}) == 6
    assert digest(Images(data.train.pixels.contiguous(), data.train.labels), data.test) == name
    sparse = digest(data.train, most=640)  # ten images of 64 bytes
    assert sparse == digest(Images(pixels, data.train.labels), most=640)
    assert sparse != digest(Images(255 - data.train.pixels, data.train.labels), most=640)
