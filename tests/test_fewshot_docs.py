"""What the page on few-shot learning tells of settings, data sets and networks is compared with the code."""

import dataclasses
import re
from pathlib import Path

import pytest

from mnemo import nets, settings
from mnemo.components.new_classes import Components
from mnemo.fewshot import data, experiment, record
from mnemo.fewshot.meta_training import MetaTraining
from mnemo.fewshot.presets import PRESETS
from mnemo.fewshot.pretraining import Pretraining
from mnemo.fewshot.system import InnerLoop, Network

ROOT = Path(__file__).parent.parent
PAGE = "docs/fewshot.md"


def section(page, title):
    text = "\n" + (ROOT / page).read_text(encoding="utf-8")
    level = re.search(rf"^(#+) {re.escape(title)}$", text, re.M).group(1)
    body = text.split(f"\n{level} {title}\n", 1)[1]
    return re.split(rf"^#{{1,{len(level)}}} ", body, maxsplit=1, flags=re.M)[0]


def rows(text):
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:3] == "| `"]
    return {name.strip("` "): row[1] for row in cells for name in row[0].split(", ")}


def shown(value):
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"`{value}`" if isinstance(value, str) else str(value)


def test_shared_settings():
    groups = (Network(), Pretraining(), MetaTraining(), InnerLoop())
    defaults = {key: value for group in groups for key, value in dataclasses.asdict(group).items()}
    assert rows(section(PAGE, "Settings that methods share")) == {key: shown(v) for key, v in defaults.items()}


@pytest.mark.parametrize("name", sorted(experiment.methods()))
def test_methods_are_described_with_their_settings(name):
    shared, own = rows(section(PAGE, "Settings that methods share")), rows(section(PAGE, name))
    defaults = {key: shown(value) for key, value in settings.defaults(experiment.recipe(name)).items()}
    assert own.keys() <= defaults.keys()
    assert {key: defaults[key] for key in own} == own
    assert {key: value for key, value in defaults.items() if key not in own} == {
        key: shared[key] for key in defaults.keys() - own.keys()
    }


def test_data_sets_and_networks():
    assert rows(section(PAGE, "Data sets")).keys() == data.DATA.keys()
    assert rows(section(PAGE, "Networks")).keys() == nets.FEW_SHOT_BACKBONES.keys()


def test_presets_are_of_data_sets_and_settings():
    known = {key for name in experiment.methods() for key in settings.defaults(experiment.recipe(name))}
    assert PRESETS.keys() <= data.DATA.keys()
    assert {key for preset in PRESETS.values() for key in preset} <= known


def test_components_are_described():
    defaults = {key: shown(value or None) for key, value in dataclasses.asdict(Components()).items()}
    assert rows(section("docs/fscil.md", "Components")) == defaults


def test_record_is_described():
    parts = {
        "Few-shot runs": record.FewShotRun,
        "paired": record.Paired,
        "shown": record.ShownTask,
        "Pictures of a shown task": record.Picture,
    }
    for title, model in parts.items():
        fields = {field.alias or name for name, field in model.model_fields.items()}
        assert rows(section("docs/run-json.md", title).split("\n### ")[0]).keys() == fields
