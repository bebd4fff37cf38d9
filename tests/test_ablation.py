"""The ablation runs each cell once, goes on where it was broken off, and its table is what the records say."""

import importlib
import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from scipy import stats

from mnemo import experiment, record
from mnemo.disk.files import InputError
from mnemo.learner import PhaseDone

ROOT = Path(__file__).parent.parent
GRID = """
protocol = "{protocol}"
about = "Blobs."
seeds = [1, 2]
budgets = [2]
control = "herding"

[settings]
fine_tune_epochs = 1

[[rows]]
name = "herding"
label = "herding, as always"
strategy = "lucir"

[[rows]]
name = "random"
strategy = "lucir"
settings = {{ exemplars = "random" }}
"""


@pytest.fixture(scope="module")
def module():
    """A part of the package by its name; benchmarks are beside the library and are not installed."""
    sys.path.insert(0, str(ROOT))
    yield lambda name: importlib.import_module(f"benchmarks.ablation.{name}")
    sys.path.remove(str(ROOT))


@pytest.fixture
def main(module, blobs, tmp_path, monkeypatch):
    """The command, in ``tmp_path`` and in this process."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    return lambda path, *options: module("__main__").main([str(path), *options_for(blobs, tmp_path), *options])


def options_for(blobs, folder):
    options = {"data-dir": blobs, "out": folder / "runs", "results": folder / "results", "device": "cpu", "jobs": 1}
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


@pytest.fixture
def grid(blobs, tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(GRID.format(protocol=blobs / "blobs.toml"))
    return path


@pytest.fixture
def events(monkeypatch):
    """What was done in which folder: (folder, phase, stage or None)."""
    seen, execute = [], experiment.execute

    def spy(prepared, out, **options):
        for event in execute(prepared, out, **options):
            seen.append((out.name, event.phase, getattr(event, "stage", None)))
            yield event

    monkeypatch.setattr(experiment, "execute", spy)
    return seen


CELLS = [f"{name}-b2-s{seed}" for name in ("herding", "random") for seed in (1, 2)]


def test_each_cell_is_run_once_and_the_base_network_once_a_seed(main, grid, events, tmp_path, capsys):
    assert main(grid) == 0
    assert [folder for folder, _, stage in events if stage == "train"].count("base-1") == 2, "epochs of phase 0"
    assert {(folder, phase) for folder, phase, stage in events if stage == "train" and "base" in folder} == {
        ("base-1", 0),
        ("base-2", 0),
    }
    assert {phase for folder, phase, stage in events if stage == "train" and "-b2-" in folder} == {1, 2}
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == sorted(
        [*(f"{cell}.json" for cell in CELLS), "measured.json", "table.md", "figure.png", "figure.svg"]
    )
    run = record.load(tmp_path / "results" / "random-b2-s2.json")
    assert run.complete
    assert not run.exemplar_samples
    assert run.exemplars.per_class == 2
    assert run.config["strategy"]["exemplars"] == "random"
    assert run.config["strategy"]["fine_tune_epochs"] == 1
    assert run.command == "python -m benchmarks.ablation grid.toml (random, 2, 2)"
    assert not (tmp_path / "runs" / "random-b2-s2" / "checkpoints").exists()
    assert "4/4" in capsys.readouterr().out

    events.clear()
    (tmp_path / "results" / "random-b2-s1.json").unlink()
    assert main(grid) == 0
    assert {folder for folder, _, _ in events} == {"random-b2-s1"}, "the others are done, and base-1 is still there"
    events.clear()
    assert main(grid) == 0
    assert not events


def test_a_record_of_other_settings_is_not_taken(main, grid, tmp_path, capsys):
    assert main(grid, "--only", "herding", "--seeds", "1") == 0
    grid.write_text(grid.read_text().replace("fine_tune_epochs = 1", "fine_tune_epochs = 2"))
    assert main(grid) == 2
    error = capsys.readouterr().err
    assert "herding-b2-s1.json: fine_tune_epochs is 1, but 2" in error


def test_what_was_broken_off_goes_on(main, grid, events, tmp_path, monkeypatch, capsys):
    spied = experiment.execute

    def broken(prepared, out, **options):
        for event in spied(prepared, out, **options):
            yield event
            if out.name == "random-b2-s1" and isinstance(event, PhaseDone) and event.phase == 1:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "execute", broken)
        assert main(grid, "--seeds", "1") == 130
    assert "interrupted" in capsys.readouterr().err
    assert not (tmp_path / "results" / "random-b2-s1.json").exists()
    assert (tmp_path / "results" / "herding-b2-s1.json").exists()
    events.clear()
    assert main(grid, "--seeds", "1") == 0
    assert {phase for folder, phase, _ in events if folder == "random-b2-s1"} == {2}
    resumed = record.load(tmp_path / "results" / "random-b2-s1.json")
    (tmp_path / "results" / "random-b2-s1.json").unlink()
    assert main(grid, "--seeds", "1") == 0
    assert record.load(tmp_path / "results" / "random-b2-s1.json").accuracy == resumed.accuracy


def test_a_cell_that_fails_stops_no_other(main, grid, tmp_path, capsys):
    row = '[[rows]]\nname = "icarl"\nstrategy = "icarl"\n'
    grid.write_text(grid.read_text() + row)
    assert main(grid, "--seeds", "1") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("icarl-b2-s1: ")
    assert "head was 'cosine', is now 'linear'" in line
    assert (tmp_path / "results" / "random-b2-s1.json").exists()


def test_cells_whose_base_network_fails_are_not_begun(main, grid, events, monkeypatch, capsys):
    def broken(prepared, out, **options):
        raise ValueError("no\nluck")

    monkeypatch.setattr(experiment, "execute", broken)
    assert main(grid, "--seeds", "2") == 1
    assert capsys.readouterr().err.splitlines() == [
        "base-2: ValueError: no luck",
        "herding-b2-s2: needs base-2, which failed",
        "random-b2-s2: needs base-2, which failed",
    ]


def test_workers_are_interrupted_in_good_order(main, grid, blobs, tmp_path, until, capsys):
    command = [sys.executable, "-m", "benchmarks.ablation", str(grid), *options_for(blobs, tmp_path), "--jobs", "2"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes) as process:
        until(lambda: process.poll() is not None or (tmp_path / "results" / "measured.json").exists())
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, errors = process.communicate()
    assert (process.returncode, errors) == (130, "interrupted; the same command goes on\n")
    until(lambda: not alive(process.pid))
    assert main(grid) == 0
    assert all((tmp_path / "results" / f"{cell}.json").exists() for cell in CELLS)
    notes = json.loads((tmp_path / "results" / "measured.json").read_text())
    assert {note["processes"] for note in notes.values()} == {1, 2}


def alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("budgets", "budget", "did you mean budgets"),
        ("strategy =", "strateg =", "did you mean strategy"),
        ("seeds = [1, 2]", "seeds = [1, 1]", "seeds: 1 comes twice"),
        ("seeds = [1, 2]", "seeds = [1, 2]\nchoose = [2]", "chosen on seed 2"),
        ("budgets = [2]", "budgets = [0]", "budgets.0: input should be greater than 0"),
        ('control = "herding"', 'control = "herd"', "there is no row 'herd'"),
        ('name = "random"', 'name = "herding"', "rows: herding comes twice"),
        ('name = "random"', 'name = "../random"', "rows.1.name"),
        ("fine_tune_epochs", "fine_tune_epoch", "did you mean fine_tune_epochs"),
        ("fine_tune_epochs = 1", "fine_tune_epochs = -1", "fine_tune_epochs=-1"),
        ("fine_tune_epochs", "per_class", "per_class is what `budgets` says"),
        ('exemplars = "random"', "levl = 1", "unknown setting 'levl'"),
        ('strategy = "lucir"', 'strategy = "lucid"', "did you mean lucir"),
        ("[settings]", "[settings", "cannot be read as TOML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(main, grid, old, new, complaint, capsys):
    assert old in grid.read_text()
    grid.write_text(grid.read_text().replace(old, new))
    assert main(grid) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line


@pytest.mark.parametrize("option", [("--only", "randon"), ("--budgets", "3"), ("--seeds", "9"), ("--jobs", "0")])
def test_wrong_options_are_refused(main, grid, option, capsys):
    assert main(grid, *option) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_no_file_is_no_traceback(main, tmp_path, capsys):
    assert main(tmp_path / "none.toml") == 2
    assert "no such file" in capsys.readouterr().err


# The table, from records that are made up


def made_up(plan, jobs, cell, accuracy, forgetting):
    return record.Run(
        strategy="lucir",
        protocol="blobs",
        config=jobs.config(plan, cell),
        seed=cell.seed,
        class_order=[0, 1, 2, 3],
        class_names=list("abcd"),
        phase_classes=[[0, 1], [2, 3]],
        average_incremental_accuracy=accuracy,
        forgetting_rate=forgetting,
        by_classifier={"nearest_mean": record.Accuracies(average_incremental_accuracy=accuracy - 10)},
        exemplars=record.ExemplarHistory(per_class=2, count=8, bytes=512, rms_displacement=12.34),
        seconds={"train": 50.0, "compress": 1.0, "optimise": 6.0, "fine_tune": 2.0, "evaluate": 3.0},
        peak_memory_bytes=300 * 2**20 + cell.seed,
        hardware="a machine",
        versions={"torch": "2"},
        complete=True,
    )


ACCURACIES = {"herding": {1: 60.0, 2: 64.0, 3: 62.0, 7: 50.0}, "random": {1: 61.0, 2: 66.5, 7: 58.0}}


@pytest.fixture
def written(module, grid, tmp_path):
    """A plan, and records of some of its cells."""
    text = grid.read_text().replace("seeds = [1, 2]", "seeds = [1, 2, 3]\nchoose = [7]")
    grid.write_text(text + '[[rows]]\nname = "third"\nstrategy = "lucir"\nchoose = false\nbudgets = [2, 5]\n')
    plan_, jobs = module("plan"), module("jobs")
    plan = plan_.load(grid)
    places = jobs.Places(tmp_path / "runs", tmp_path / "results")
    places.results.mkdir()
    for cell in plan_.cells(plan):
        accuracy = ACCURACIES.get(cell.row.name, {}).get(cell.seed)
        if accuracy is not None:
            record.save(made_up(plan, jobs, cell, accuracy, accuracy / 4), places.record(cell))
    return grid


def test_the_table_is_what_the_records_say(main, written, tmp_path, capsys):
    assert main(written, "--table") == 0
    reported, chosen = (
        (tmp_path / "results" / "table.md").read_text().split("## Seeds on which defaults were chosen (7)")
    )
    lines = cells_of(reported)
    ours, theirs = ([ACCURACIES[name][seed] for seed in (1, 2)] for name in ("random", "herding"))
    assert lines["random"] == [
        "2",
        "128",
        f"{statistics.mean(ours):.1f} ± {statistics.stdev(ours):.1f} (2)",
        f"{statistics.mean(ours) - 10:.1f} ± {statistics.stdev(ours):.1f} (2)",
        f"{statistics.mean(ours) / 4:.1f} ± {statistics.stdev(ours) / 4:.1f} (2)",
        f"+1.75 (p {stats.ttest_rel(ours, theirs).pvalue:.2g})",
        "3.5",
        "62",
        "300",
        "12.3",
    ]
    assert lines["herding, as always"][2] == "62.0 ± 2.0 (3)"
    assert lines["herding, as always"][5] == "control"
    assert lines["third"][2] == "not yet measured"
    assert "### 5 raw images a class" in reported
    assert cells_of(chosen)["random"][2:6] == ["58.0 (1)", "48.0 (1)", "14.5 (1)", "+8.00"]
    assert "third" not in cells_of(chosen)
    assert "Blobs." in reported
    assert "Seeds 1, 2, 3; a machine; torch 2; `python -m benchmarks.ablation grid.toml`" in chosen
    assert "61.0" not in chosen
    assert "+1.75" in capsys.readouterr().out


def cells_of(text):
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {name: [cell.strip() for cell in cells] for name, *cells in lines}


def test_the_figure_has_curves_of_reported_seeds(main, written, tmp_path):
    assert main(written, "--table") == 0
    drawn = (tmp_path / "results" / "figure.svg").read_text()
    assert "herding, as always" in drawn
    assert "third" not in drawn, "it has no record"
    assert (tmp_path / "results" / "figure.png").stat().st_size > 10_000


def test_a_table_of_nothing(main, grid, tmp_path):
    assert main(grid, "--table") == 0
    lines = cells_of((tmp_path / "results" / "table.md").read_text())
    assert all("not yet measured" in lines[name] for name in ("herding, as always", "random"))
    assert not (tmp_path / "results" / "figure.png").exists()


def test_p_says_nothing_where_all_differ_alike(module):
    p_value = module("blocks").p_value
    assert p_value([(1.1, 1.0)]) is None
    assert p_value([(1.1, 1.0), (2.1, 2.0)]) is None
    pairs = [(61.0, 60.0), (66.5, 64.0), (60.0, 61.0)]
    assert p_value(pairs) == pytest.approx(stats.ttest_rel(*zip(*pairs, strict=True)).pvalue)


def test_a_damaged_record_is_named(module, written, tmp_path):
    (tmp_path / "results" / "random-b2-s1.json").write_text("{")
    plan = module("plan").load(written)
    with pytest.raises(InputError, match="random-b2-s1"):
        module("results").find(plan, module("jobs").Places(tmp_path / "runs", tmp_path / "results"))


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "ablations").glob("*.toml")), ids=lambda path: path.stem)
def test_the_ablations_that_come_with_the_project_are_sound(module, path, monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = module("plan").load(path)
    module("jobs").check(plan)


def test_the_page_has_the_recorded_figures(module, monkeypatch):
    monkeypatch.chdir(ROOT)
    name = "cifar100-20"
    plan = module("plan").load(Path("benchmarks/ablations") / f"{name}.toml")
    places = module("jobs").Places(Path("runs"), ROOT / "benchmarks" / "results" / "ablation" / name, None, "cpu")
    results = module("results")
    text = module("table").markdown(plan, results.find(plan, places), results.noted(places))
    page = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
    shown = page.split(f"<!-- results:{name} -->")[1].split(f"<!-- /results:{name} -->")[0]
    assert shown.strip() == text.replace("\n#", "\n##").strip()
