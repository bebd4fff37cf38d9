"""README's tables are what the recorded results say, and nothing else."""

import importlib
import importlib.util
import json
import statistics
import tomllib
from pathlib import Path

import pytest

from mnemo import record

ROOT = Path(__file__).parent.parent
SUITES = sorted(path.stem for path in (ROOT / "benchmarks" / "suites").glob("*.toml"))


@pytest.fixture(scope="module")
def suite():
    # benchmarks are beside the library and are not installed
    spec = importlib.util.spec_from_file_location("suite", ROOT / "benchmarks" / "suite.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", SUITES)
def test_pages_have_the_recorded_figures(suite, name):
    about = tomllib.loads((ROOT / "benchmarks" / "suites" / f"{name}.toml").read_text(encoding="utf-8"))
    page = (ROOT / about.get("page", "README.md")).read_text(encoding="utf-8")
    begin, end = f"<!-- results:{name} -->", f"<!-- /results:{name} -->"
    assert begin in page, f"there is no place for {name}"
    shown = page.split(begin)[1].split(end)[0].strip()
    assert shown == suite.table(about, ROOT / "benchmarks" / "results" / name).strip()


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("*/*.json")), ids=lambda p: p.stem)
def test_a_recorded_result_is_whole_and_says_where_it_comes_from(path):
    run = record.load(path)
    assert run.complete
    assert run.command.startswith("mnemo run")
    assert run.hardware
    assert run.versions["torch"]
    assert len(run.phase_accuracy) == len(run.phase_classes)
    assert path.stem.endswith(f"-{run.seed}")


def few_shot_run(seed, accuracies):
    return record.Run(
        strategy="decoupled_cosine", protocol="p", config={}, seed=seed, class_order=[0, 1], class_names=["a", "b"],
        phase_classes=[[0], [1]], phase_accuracy=accuracies, average_incremental_accuracy=sum(accuracies) / 2,
        base_accuracy=[accuracies[0], 50.0], novel_accuracy=[None, 30.0], harmonic_mean=[None, 37.5],
        performance_drop=accuracies[0] - accuracies[1],
    )  # fmt: skip


def test_a_table_of_few_shot_phases(suite, tmp_path):
    for name, last in (("a", (40.0, 44.0)), ("b", (43.0, 45.0))):
        for seed, value in enumerate(last):
            record.save(few_shot_run(seed, [80.0, value]), tmp_path / f"{name}-{seed}.json")
    rows = [{"name": "a", "label": "A"}, {"name": "b", "label": "B"}, {"name": "c"}]
    about = {"few_shot": True, "control": "a", "seeds": [0, 1], "rows": rows, "about": "x."}
    lines = suite.table(about, tmp_path).splitlines()
    figures = "80.0 ± 0.0 | 61.0 ± 1.4 | 42.0 ± 2.8 | 50.0 ± 0.0 | 30.0 ± 0.0 | 37.5 ± 0.0 | 38.0 ± 2.8 | control"
    assert lines[2] == f"| A | head | {figures} |"
    assert lines[3].endswith("| +1.00 ± 0.71 |")  # averages differ by 1.5 and 0.5
    assert "not yet measured" in lines[4]
    assert lines[4].count("|") == lines[0].count("|")


def test_a_table_has_mean_and_sample_deviation(suite, tmp_path):
    values = (80.0, 90.0, 85.0)
    for seed, value in enumerate(values):
        run = record.Run(
            strategy="lucir",
            protocol="digits",
            config={},
            seed=seed,
            class_order=[0, 1],
            class_names=["a", "b"],
            phase_classes=[[0], [1]],
            phase_accuracy=[100.0, value],
            average_incremental_accuracy=value,
            forgetting_rate=1.0,
            average_forgetting=2.0,
            seconds={"train": 30.0},
        )
        record.save(run, tmp_path / f"lucir-{seed}.json")
    about = {"seeds": [0, 1, 2], "about": "", "rows": [{"name": "lucir"}, {"name": "other"}]}
    lines = suite.table(about, tmp_path).splitlines()
    assert f"85.0 ± {statistics.stdev(values):.1f}" in lines[2]
    assert lines[3].startswith("| other | | not yet measured")


def test_the_page_on_reproducibility_has_the_measured_figures(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    threads = importlib.import_module("benchmarks.threads")
    found = json.loads((ROOT / "benchmarks/results/threads/digits/measured.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "reproducibility.md").read_text(encoding="utf-8")
    shown = page.split("<!-- results:threads -->")[1].split("<!-- /results:threads -->")[0].strip()
    assert shown == threads.table(found)
    # the tolerance that the page states
    largest = found["largest"]
    assert largest["average_incremental_accuracy"] <= 1
    assert max(largest["accuracy after a phase"], largest["forgetting_rate"], largest["average_forgetting"]) <= 3
    assert largest["accuracy of a group of classes"] <= 8
