"""The comparison of few-shot methods: its files, its tables, and the page that shows them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from benchmarks.fewshot import figure, table
from benchmarks.fewshot import plan as plans
from benchmarks.fewshot.__main__ import RESULTS, main
from benchmarks.fewshot.plan import Cell, options
from benchmarks.fewshot.results import Results
from benchmarks.fewshot.work import Places
from mnemo import settings
from mnemo.cli import _setting
from mnemo.fewshot import data, experiment, record
from mnemo.fewshot.record import FewShotRun

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "benchmarks" / "comparisons").glob("*.toml"))

TOYS = """
data = "glyphs"
shots = [1, 5]
episodes = 3
seeds = [4, 5]
[settings]
backbone = "conv4-32"
iterations = 7
[[groups]]
title = "all"
control = "mean"
paper = "a paper"
[[groups.rows]]
name = "rfs"
label = "regression"
method = "rfs"
paper = "1.5"
[[groups.rows]]
name = "mean"
label = "means"
method = "protonet"
settings = { learn = "nothing", varied = false }
shots = [1]
"""


@pytest.fixture
def toys(tmp_path):
    (tmp_path / "toys.toml").write_text(TOYS)
    return plans.load(tmp_path / "toys.toml"), Places(tmp_path, tmp_path / "results", None, "cpu")


def markdown(plan, places):
    return table.markdown(Results(plan, places))


def keep(places, name, values, digest="d", **more):
    places.results.mkdir(exist_ok=True)
    run = FewShotRun(
        method="m", data="glyphs", way=5, shot=1, queries=15, episodes=3, batch_norm="running", config={}, seed=4,
        accuracy=sum(values) / len(values), interval=0.5, hardware="a machine", **{"transductive": False, **more},
    )  # fmt: skip
    record.save(run, places.results / f"{name}.json")
    about = {"schema": 1, "episodes_digest": digest, "accuracies": values}
    (places.results / f"{name}.accuracies.json").write_text(json.dumps(about))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_have_rows_that_recipes_accept(path):
    plan = plans.load(path)
    assert plan.data in data.DATA
    for cell in plans.cells(plan):
        recipe = experiment.recipe(cell.row.method)
        accepted = settings.defaults(recipe)
        assert cell.row.settings.keys() <= accepted.keys()
        words = options(plan, cell, accepted)
        given = [_setting(words[place + 1]) for place, word in enumerate(words) if word == "--set"]
        fitting = {key: value for key, value in plan.settings.items() if key in accepted}
        assert dict(given) == fitting | cell.row.settings
        recipe(**settings.arguments(recipe, dict(given)))


def test_the_cell_that_trains_a_backbone_is_first_for_each_seed(toys):
    names = [cell.name for cell in plans.cells(toys[0])]
    assert names == ["rfs-1-4", "rfs-1-5", "rfs-5-4", "rfs-5-5", "mean-1-4", "mean-1-5"]


def test_options_are_a_users(toys):
    plan, row = toys[0], toys[0].rows[1]
    words = " ".join(options(plan, Cell(row, 1, 5), settings.defaults(experiment.recipe("protonet"))))
    assert words == (
        "protonet --data glyphs --way 5 --shot 1 --queries 15 --episodes 3 --seed 5 "
        "--set backbone=conv4-32 --set iterations=7 --set learn=nothing --set varied=false"
    )


def test_settings_are_chosen_on_validation_classes(tmp_path):
    (tmp_path / "toys.toml").write_text(TOYS.replace("episodes = 3", 'episodes = 3\nevaluated_on = "validation"'))
    plan, places = plans.load(tmp_path / "toys.toml"), Places(tmp_path, tmp_path / "results", None, "cpu")
    assert "--validation" in options(plan, Cell(plan.rows[0], 1, 5), {})
    assert "over 3 validation tasks" in markdown(plan, places)


def test_figures_of_a_table(toys):
    plan, places = toys
    keep(places, "rfs-1-4", [40.0, 50.0, 60.0], transductive=True)
    assert "| regression | 50.00 ± 0.50 | not yet measured |  |  | T | 1.5 |" in markdown(plan, places)
    keep(places, "rfs-1-5", [44.0, 54.0, 64.0], "e")
    keep(places, "mean-1-4", [41.0, 48.0, 58.0])
    text = markdown(plan, places)
    # two seeds: 50 and 54; differences -1, 2, 2 of the seed that both have: mean 1, deviation sqrt 3
    assert "| regression | 52.00 ± 2.83 (2 seeds) | not yet measured | +1.00 ± 1.96 |  | T | 1.5 |" in text
    assert "| means | 49.00 ± 0.50 |  | control | control |  |  |" in text
    assert "a machine" in text


ORDER = """
data = "glyphs"
shots = [1, 5]
seeds = [4]
[[groups]]
title = "all"
control = "a"
paper = "a paper, 1 / 5 shots"
rows = [
    { name = "a", label = "A", method = "rfs", paper = "40.0 / 50.0" },
    { name = "b", label = "B", method = "rfs", paper = "41.0 / 50.0" },
    { name = "c", label = "C", method = "rfs", paper = "42.0 / not legible" },
    { name = "d", label = "D", method = "rfs" },
]
"""


def test_pairs_of_rows_are_held_against_the_papers_order(tmp_path):
    (tmp_path / "order.toml").write_text(ORDER)
    plan, places = plans.load(tmp_path / "order.toml"), Places(tmp_path, tmp_path / "results", None, "cpu")
    assert "Pairs of" not in markdown(plan, places), "nothing is measured"
    for name, values in (("a", [50, 51, 52]), ("b", [60, 61, 62]), ("c", [58, 59, 61]), ("d", [0, 0, 0])):
        keep(places, f"{name}-1-4", [float(value) for value in values])
        keep(places, f"{name}-5-4", [float(value) for value in values])
    # C - B is -2, -2, -1: mean -5/3, deviation 1/sqrt 3. At 5 shots A and B are equal in the paper, and C has no figure
    assert [line for line in markdown(plan, places).splitlines() if line.startswith("Pairs of")] == [
        "Pairs of rows at 1 shot: 2 as in the paper, 0 too near to tell, 1 the other way round: "
        "B is 1.67 ± 0.65 ahead of C."
    ]
    keep(places, "c-1-4", [59.0, 62.0, 61.0])
    assert "2 as in the paper, 1 too near to tell, 0 the other way round." in markdown(plan, places)


def test_a_figure_shows_the_papers_rows_and_the_measured_ones(toys, tmp_path, monkeypatch):
    plan, places = toys
    for name, accuracy in (("rfs-1-4", 50.0), ("rfs-1-5", 54.0), ("mean-1-4", 49.0)):
        keep(places, name, [accuracy, accuracy + 1, accuracy - 1])
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path: drawn.append(self))
    figure.draw(Results(plan, places), tmp_path / "figure.png")
    theirs, ours = drawn[0].axes
    assert [label.get_text() for label in theirs.get_yticklabels()] == ["regression", "means"]
    assert theirs.lines[0].get_xydata().tolist() == [[1.5, 0]]
    measured = [bar.lines[0].get_xydata().tolist() for bar in ours.containers]
    assert measured == [[[52, 0]], [[49, 1]]], "the mean over seeds"
    assert list(ours.lines[1].get_xdata()) == [49, 49], "a line at the control"


def test_the_command_draws_the_figure(toys, tmp_path, capsys):
    plan, places = toys
    keep(places, "rfs-1-4", [50.0, 51.0, 52.0])
    words = [str(plan.path), "--table", "--results", str(places.results), "--figure", str(tmp_path / "figure.png")]
    assert main(words) == 0
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_rows_on_other_tasks_are_not_compared(toys):
    plan, places = toys
    keep(places, "rfs-1-4", [40.0, 50.0, 60.0])
    keep(places, "mean-1-4", [41.0, 48.0, 58.0], "another")
    assert "other tasks" in markdown(plan, places)


def test_rows_on_other_weights_are_not_compared(toys):
    plan, places = toys
    keep(places, "mean-1-4", [41.0, 48.0, 58.0], pretrained_digest="one")
    for digest, words in (("", "+1.00 ±"), ("one", "+1.00 ±"), ("two", "other backbone")):
        keep(places, "rfs-1-4", [42.0, 49.0, 59.0], pretrained_digest=digest)
        assert words in markdown(plan, places)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "mean"', 'name = "rfs"', "row rfs comes twice"),
        ('control = "mean"', 'control = "maen"', "did you mean mean"),
        ("episodes = 3", "episodes = 0", "episodes"),
        ("episodes = 3", "episode = 3", "episode"),
    ],
)
def test_a_file_that_is_not_right(old, new, message, tmp_path, capsys):
    (tmp_path / "toys.toml").write_text(TOYS.replace(old, new))
    assert main([str(tmp_path / "toys.toml"), "--table"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--only", "rsf"], ["--shots", "2"], ["--seeds", "9"]])
def test_options_that_are_not_right(option, toys, tmp_path, capsys):
    assert main([str(tmp_path / "toys.toml"), "--results", str(tmp_path / "r"), *option]) == 2
    assert "unknown" in capsys.readouterr().err


def test_runs_end_with_the_command(toys, tmp_path):
    """SIGTERM reaches the process that was started alone, not those that it has started."""
    line = [sys.executable, "-m", "benchmarks.fewshot", str(tmp_path / "toys.toml"), "--jobs", "1", "--only", "rfs"]
    line += ["--out", str(tmp_path / "out"), "--results", str(tmp_path / "results")]
    process = subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    lock = tmp_path / "out" / "rfs-1-4" / "checkpoints" / ".lock"
    while not (lock.exists() and lock.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    run = int(re.match(r"process (\d+)", lock.read_text()).group(1))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 130
    assert process.stderr.read() == "interrupted; the same command goes on\n"
    with pytest.raises(ProcessLookupError):
        os.kill(run, 0)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_page_has_the_recorded_figures(path):
    page = (ROOT / "docs" / "fewshot.md").read_text(encoding="utf-8")
    shown = re.search(rf"<!-- results:{path.stem} -->\n(.*)<!-- /results:{path.stem} -->", page, re.S).group(1)
    kept = RESULTS / path.stem
    if not any(kept.glob("*.accuracies.json")):
        assert not shown.strip()
        return
    plan = plans.load(path)
    text = markdown(plan, Places(Path(), kept, None, "cpu"))
    assert _figures(shown) == _figures(text)


def _figures(text):
    return [line for line in text.splitlines() if line.startswith(("|", "Pairs of"))]
