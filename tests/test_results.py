"""README's tables are what the recorded results say, and nothing else."""

import importlib.util
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
def test_readme_has_the_recorded_figures(suite, name):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    begin, end = f"<!-- results:{name} -->", f"<!-- /results:{name} -->"
    assert begin in readme, f"README has no place for {name}"
    shown = readme.split(begin)[1].split(end)[0].strip()
    about = tomllib.loads((ROOT / "benchmarks" / "suites" / f"{name}.toml").read_text(encoding="utf-8"))
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
