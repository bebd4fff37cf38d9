"""The tables of docs/avalanche.md are what the records say, and the benchmark that makes the records runs."""

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = ("parity", "example")


@pytest.fixture
def page(monkeypatch):
    """``benchmarks.avalanche_parity.page``; benchmarks are beside the library and are not installed."""
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.avalanche_parity.page")


def recorded(page, part):
    return json.loads((page.RECORDS / f"{part}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("part", PARTS)
def test_the_page_has_the_recorded_figures(page, part):
    text = page.PAGE.read_text(encoding="utf-8")
    shown = text.split(f"<!-- results:avalanche-{part} -->")[1].split(f"<!-- /results:avalanche-{part} -->")[0]
    assert shown.strip() == getattr(page, part)(recorded(page, part)).strip()


@pytest.mark.parametrize("part", PARTS)
def test_a_record_is_whole_and_says_where_it_comes_from(page, part):
    record = recorded(page, part)
    assert record["command"].startswith(f"python -m benchmarks.avalanche_parity --only {part}")
    assert record["hardware"]
    assert record["commit"]
    assert record["versions"]["avalanche-lib"] == "0.6.0"
    assert not record["quick"]
    kinds = dict.fromkeys(run.get("side") or run["exemplars"] for run in record["runs"])
    assert len(record["runs"]) == len(kinds) * len(record["seeds"])


def test_the_parity_is_of_three_seeds_at_least(page):
    record = recorded(page, "parity")
    assert len(record["seeds"]) >= 3
    assert {run["side"] for run in record["runs"]} == set(page.SIDES)


def test_intervals_are_students(page):
    assert page.half_width([1.0, 2.0, 3.0]) == pytest.approx(4.302653 / 3**0.5, rel=1e-5)


def test_differences_are_taken_seed_by_seed(page):
    runs = [
        {"side": side, "last_accuracy": value} for value, side in ((1.0, "mnemo"), (3.0, "herding"), (5.0, "mnemo"))
    ]
    record = {"runs": [*runs, {"side": "herding", "last_accuracy": 4.0}]}
    assert page._differences(record, "last_accuracy") == [2.0, -1.0]


@pytest.mark.skipif(importlib.util.find_spec("avalanche") is None, reason="Avalanche is not installed")
def test_a_quick_run(tmp_path):
    before = (ROOT / "docs" / "avalanche.md").read_bytes()
    options = ["--quick", "--seeds", "1", "--data-dir", str(tmp_path), "--out", str(tmp_path)]
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.avalanche_parity", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    texts = [(tmp_path / f"{part}.json").read_text(encoding="utf-8") for part in PARTS]
    parity, example = map(json.loads, texts)
    assert str(tmp_path) not in "".join(texts), "a place of this machine is nobody's business"
    assert (ROOT / "docs" / "avalanche.md").read_bytes() == before
    runs = {run["side"]: run for run in parity["runs"]}
    assert set(runs["mnemo"]["same_exemplars_given_the_same_network"]) == {1.0}
    assert runs["herding"]["bytes"] == runs["mnemonics"]["bytes"] == parity["settings"]["budget"] * 64
    assert runs["herding"]["moved"] is None
    assert runs["mnemonics"]["moved"] > 0
    assert len(set(runs["mnemo"]["exemplar_rows"])) == parity["settings"]["budget"]
    for side in ("herding", "mnemonics", "avalanche"):
        assert runs[side]["avalanche_forgetting"]["first"] == pytest.approx(runs[side]["forgetting_rate"], abs=1e-3)
        assert len(runs[side]["peak_mib"]) == 3
    assert [run["exemplars"] for run in example["runs"]] == ["none", "mnemonics"]
