"""The page on faults says what the record says, nothing was lost, and the campaign calls a loss a loss."""

import importlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
with pytest.MonkeyPatch.context() as patch:  # benchmarks are beside the library and are not installed
    patch.syspath_prepend(ROOT)
    damage, plan, record, trial = (
        importlib.import_module(f"benchmarks.faults.{name}") for name in ("damage", "plan", "record", "trial")
    )
RECORD = ROOT / "benchmarks" / "results" / "faults" / "runs" / "campaign.json"


@pytest.fixture(scope="module")
def campaign():
    return record.load(RECORD)


def test_the_page_is_what_the_record_says(campaign):
    page = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    assert f"<!-- results:faults -->\n{record.text(campaign)}\n<!-- /results:faults -->" in page


def test_the_record_is_of_a_whole_campaign_in_which_nothing_was_lost(campaign):
    outcomes = [each["outcome"] for each in campaign["trials"]]
    assert campaign["injected"] == len(outcomes)
    assert {name: campaign[name] for name in record.OUTCOMES} == {
        name: outcomes.count(name) for name in record.OUTCOMES
    }
    assert campaign["lost"] == 0
    assert not campaign["short"]
    assert not campaign["changed_since_commit"]
    kills = [each for each in campaign["trials"] if each["kind"] == "kill"]
    assert len(kills) >= 100
    assert {each["what"] for each in kills} == {"SIGKILL", "SIGTERM", "SIGINT"}
    assert {"training", "exemplar step", "checkpoint", "report"} <= {each["where"] for each in kills}
    kinds = {"broken number", "damage", "disk", "kill", "memory", "removal", "second run"}
    assert {each["kind"] for each in campaign["trials"]} == kinds


def test_the_record_says_where_it_comes_from_and_no_place_of_a_machine(campaign):
    assert re.fullmatch(r"python -m benchmarks\.faults --seed \d+", campaign["command"])
    assert {"python", "mnemo-cil", "torch"} <= campaign["versions"].keys()
    assert re.fullmatch("[0-9a-f]{40}", campaign["commit"])
    assert not re.search(r"(?<![\w.])/(tmp|home|root)\b", json.dumps(campaign))


@pytest.mark.parametrize(
    ("code", "said", "outcome"),
    [
        (2, "mnemo: run/a.json: damaged\n", "refused"),
        (2, "mnemo: run/b.json: damaged\n", "lost"),  # it names another file
        (2, "mnemo: run/a.json: damaged\nand more\n", "lost"),
        (1, "mnemo: run/a.json: damaged\n", "lost"),
        (1, 'Traceback (most recent call last):\n  File "a.json"\n', "lost"),
    ],
)
def test_what_counts_as_clear(code, said, outcome):
    assert trial.judged(code, said, ("a.json",))[0] == outcome


@pytest.fixture
def bench(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "run.json").write_text('{"accuracy": 1.0, "seconds": {}}')
    return trial.Bench(tmp_path, (), expected=trial.told(tmp_path / "run"))


@pytest.mark.parametrize("text", ['{"accuracy": 1.5, "seconds": {}}', "{}", "{", ""])
def test_another_record_is_a_loss(text, bench):
    run = bench.scratch / "run"
    assert bench.compared(run, tuple(bench.expected)) == ("survived", "")
    (run / "run.json").write_text(text)
    assert bench.compared(run, tuple(bench.expected))[0] == "lost"


def test_a_file_that_is_missing_or_left_over_is_a_loss(bench):
    (bench.scratch / "run" / "run.json.part").touch()
    assert bench.compared(bench.scratch / "run", tuple(bench.expected))[0] == "lost"


@pytest.mark.parametrize("name", damage.DAMAGES)
def test_damages_change_a_file(name):
    content = bytes(range(1, 256)) * 8
    for seed in range(20):
        assert damage.DAMAGES[name](content, damage.Random(seed)) != content


def test_batches_are_all_turns_once():
    turns = [(batch.kind, turn) for batch in plan.batches(plan.WHOLE) for turn in batch.turns]
    assert len(turns) == len(set(turns)) == sum(plan.WHOLE.values())
