import pytest
from typer.testing import CliRunner

from mnemo.cli import app
from mnemo.fewshot import record

QUICK = ["--set", "pretrain_epochs=1", "--set", "pretrain_batch_size=512", "--device", "cpu"]


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_run_and_its_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = run("fewshot", "rfs", "--episodes", 10, "--out", "a", *QUICK)
    assert first.exit_code == 0, first.output
    second = run(
        "fewshot", "protonet", "--set", "learn=nothing", "--episodes", 10, "--out", "b", "--baseline", "a", *QUICK
    )
    assert second.exit_code == 0, second.output
    assert "against rfs" in second.output
    assert {path.name for path in (tmp_path / "b").iterdir()} >= {
        "run.json", "report.html", "accuracies.json", "episodes.json", "accuracy.png", "checkpoints",
    }  # fmt: skip
    assert record.load(tmp_path / "b").paired.baseline == "rfs"
    again = run("fewshot", "rfs", "--episodes", 10, "--out", "a", *QUICK)
    assert again.exit_code == 2
    assert "--resume" in again.output
    both = run("report", "a", "b", "--out", "both")
    assert both.exit_code == 0, both.output
    assert (tmp_path / "both" / "report.html").exists()


def test_settings_are_chosen_on_validation_classes_and_that_is_repeated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = run("fewshot", "rfs", "--episodes", 10, "--validation", *QUICK)
    assert first.exit_code == 0, first.output
    assert "10 validation tasks" in first.output
    (folder,) = (tmp_path / "runs").glob("glyphs-rfs-*-validation")
    (folder / "episodes.json").unlink()
    again = run("fewshot", "--from", folder, "--out", "again")
    assert again.exit_code == 0, again.output
    assert record.load(tmp_path / "again").evaluated_on == "validation"
    refused = run("fewshot", "rfs", "--episodes", 10, "--out", "b", "--episode-file", "again/episodes.json", *QUICK)
    assert refused.exit_code == 2
    assert "episodes of glyphs (validation), not of glyphs (test)" in refused.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mlt"], "did you mean mtl"),
        (["mtl", "--data", "glyph"], "did you mean glyphs"),
        (["mtl", "--set", "learn=everything"], "learn='everything'"),
        (["mtl", "--set", "shots=2"], "unknown setting"),
        (["mtl", "--data", "fc100", "--data-dir", "nowhere"], "cifar100"),
        (["mtl", "--way", "99"], "a task has 99 classes"),
        (["rfs", "--episode-file", "none.json"], "no such file"),
        (["rfs", "--baseline", "nowhere"], "no such run"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("fewshot", *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_the_catalogue_has_methods_and_data_sets():
    output = run("list").output
    assert all(word in output for word in ("e3bm", "lst", "fc100", "glyphs", "resnet12"))
