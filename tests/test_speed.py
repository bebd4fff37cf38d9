"""The benchmark of speed runs, and its record holds what its figures are made from; how fast it is, is not tested."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SECTIONS = ("augmentation", "herding", "exemplars", "roofline")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    out = tmp_path_factory.mktemp("speed")
    options = ["--quick", "--repeats", "2", "--threads", "1", "--data-dir", str(out), "--out", str(out)]
    command = [sys.executable, "-m", "benchmarks.speed", "--only", ",".join(SECTIONS), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def record(out):
    (path,) = (out / "runs").glob("*.json")
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_record_says_where_it_comes_from(record, out):
    assert record["command"].startswith("python -m benchmarks.speed --only")
    assert str(out) not in json.dumps(record), "a place of this machine is nobody's business"
    assert record["quick"]
    assert record["threads"] == 1
    assert record["hardware"]
    assert {"mnemo-cil", "torch", "torchvision", "avalanche-lib"} <= record["versions"].keys()
    assert "random images" in record["images"]
    assert tuple(record["sections"]) == SECTIONS


@pytest.mark.parametrize("name", SECTIONS)
def test_every_variant_has_its_samples(record, name):
    for variant in record["sections"][name]["variants"].values():
        assert len(variant["seconds"]) == len(variant["work"]) == record["repeats"]
        assert len(variant["processor_seconds"]) == record["repeats"]
        assert all(seconds > 0 for seconds in variant["seconds"])
        assert variant["median_seconds"] == statistics.median(variant["seconds"])


@pytest.mark.parametrize("name", ["augmentation", "herding", "exemplars"])
def test_ratios_are_those_of_the_median_rates(record, name):
    section = record["sections"][name]
    assert section["ratios"]
    for ratio in section["ratios"]:
        ours, peer = (rates(section["variants"][ratio[key]]) for key in ("ours", "peer"))
        assert ratio["value"] == pytest.approx(statistics.median(ours) / statistics.median(peer))
        turns = [a / b for a, b in zip(ours, peer, strict=True)]
        assert (ratio["low"], ratio["high"]) == pytest.approx((min(turns), max(turns)))


def rates(variant):
    return [work / seconds for work, seconds in zip(variant["work"], variant["seconds"], strict=True)]


def test_a_bar_is_met_or_missed_by_its_figure(record):
    bars = [bar for section in record["sections"].values() for bar in section["bars"]]
    assert len(bars) == 2 + 2 + 3
    for bar in bars:
        better = bar["value"] <= bar["limit"] if bar["at_most"] else bar["value"] >= bar["limit"]
        assert bar["met"] == better


def test_batched_and_class_by_class_steps_give_the_same_gradient(record):
    assert record["sections"]["exemplars"]["figures"]["gradients differ by"] < 1e-4


def test_memory_is_measured_in_processes_of_their_own(record):
    for variant in record["sections"]["exemplars"]["variants"].values():
        assert variant["median_peak_mib"] > 0
