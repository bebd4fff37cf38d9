"""The tables of docs/load.md are what the record says, what was to be reached is, and the benchmark runs."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def page(monkeypatch):
    """``benchmarks.load.page``; benchmarks are beside the library and are not installed."""
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.load.page")


@pytest.fixture
def record(page):
    return json.loads(page.RECORD.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["packing", "streaming", "h100"])
def test_the_page_has_the_recorded_figures(name, page, record):
    text = page.PAGE.read_text(encoding="utf-8")
    shown = text.split(f"<!-- results:load-{name} -->")[1].split(f"<!-- /results:load-{name} -->")[0]
    assert shown.strip() == page.table(name, record).strip()


def test_the_record_is_of_a_whole_run(record):
    assert record["command"] == "python -m benchmarks.load SCRATCH"
    assert record["commit"]
    assert not record["changed_since_commit"]
    assert not record["quick"]
    assert record["photographs"]["count"] >= 20_000
    assert (record["settings"]["width"], record["settings"]["height"]) == (400, 350)


def measured(record, *parts):
    if absent := {*parts} - record.keys():
        pytest.skip(f"not yet measured: {', '.join(sorted(absent))}")


def test_what_was_to_be_reached(page, record):
    measured(record, "reading", "training")
    assert page.ahead(record) > 1
    peaks = [
        each["peak_memory_bytes"]
        for part in record.values()
        if isinstance(part, list)
        for each in part
        if isinstance(each, dict) and "peak_memory_bytes" in each
    ]
    assert len(peaks) >= 10  # a process each
    assert max(peaks) < 4 * 2**30


def test_a_killed_pack_went_on_and_is_whole(record):
    measured(record, "killed", "resumed", "verified")
    (killed,), (resumed,), (verified,) = (record[name] for name in ("killed", "resumed", "verified"))
    assert killed["exit_code"] == -9
    assert 0 < killed["whole"] <= resumed["found_whole"] < killed["images"] == record["photographs"]["count"]
    assert verified["same"] == verified["compared"] > 0
    assert verified["bytes"] >= killed["images"] * 256 * 256 * 3


def test_a_quick_run(tmp_path):
    command = [sys.executable, "-m", "benchmarks.load", str(tmp_path / "scratch"), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "load.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in text, "a place of this machine is nobody's business"
    found = json.loads(text)
    assert found["resumed"][0]["found_whole"] >= found["killed"][0]["whole"] > 0
    assert found["verified"][0]["same"] == found["verified"][0]["compared"]
    assert [*(tmp_path / "scratch").iterdir()] == [tmp_path / "scratch" / "photographs"]
