"""What the page on few-shot learning tells of settings, data sets and networks is compared with the code."""

import dataclasses
import re
from pathlib import Path

import pytest

from mnemo import nets, settings
from mnemo.cli import _setting
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


def cells(text):
    """Of all rows of all tables in a text."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def shown(value):
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"`{value}`" if isinstance(value, str) else str(value)


def test_shared_settings_have_a_table_for_each_group():
    groups = (Network(), Pretraining(), MetaTraining(), InnerLoop())
    _, *tables = section(PAGE, "Settings that methods share").split("| setting |")
    assert [rows(table) for table in tables] == [
        {key: shown(value) for key, value in dataclasses.asdict(group).items()} for group in groups
    ]


@pytest.mark.parametrize("name", sorted(experiment.methods()))
def test_methods_are_described_with_their_settings(name):
    shared, own = rows(section(PAGE, "Settings that methods share")), rows(section(PAGE, name))
    defaults = {key: shown(value) for key, value in settings.defaults(experiment.recipe(name)).items()}
    assert own.keys() <= defaults.keys()
    assert {key: defaults[key] for key in own} == own
    assert {key: value for key, value in defaults.items() if key not in own} == {
        key: shared[key] for key in defaults.keys() - own.keys()
    }


@pytest.mark.parametrize(("name", "count"), [("mtl", [7]), ("lst", [9]), ("e3bm", [10, 8])])
def test_rows_of_the_papers_are_reached_by_settings(name, count):
    _, *tables = re.split(r"^\| row of .*$", section(PAGE, name), flags=re.M)
    found = [cells(table.split("\n\n")[0])[1:] for table in tables]
    assert [len(table) for table in found] == count
    recipe = experiment.recipe(name)
    for _, told in (row for table in found for row in table):
        pairs = dict(_setting(pair) for part in re.findall("`(.*?)`", told) for pair in part.split() if "=" in pair)
        recipe(**settings.arguments(recipe, pairs))


def test_switches_and_their_values_exist():
    recipes = [experiment.recipe(name) for name in experiment.methods()]
    for _, told in cells(section(PAGE, "As the released code has it"))[2:]:
        for part in re.findall("`([^`]*=[^`]*)`", told):
            pairs = dict(_setting(pair) for pair in part.split())
            fitting = [recipe for recipe in recipes if pairs.keys() <= settings.defaults(recipe).keys()]
            assert fitting, part
            for recipe in fitting:
                settings.arguments(recipe, pairs)


def test_presets():
    head, _, *body = cells(section(PAGE, "Presets"))
    names = [name.strip("`") for name in head[1:]]
    told = {name: {row[0].strip("`"): row[1 + place] for row in body} for place, name in enumerate(names)}
    told = {name: {key: value for key, value in some.items() if value} for name, some in told.items()}
    assert told == {name: {key: shown(value) for key, value in some.items()} for name, some in PRESETS.items()}


def test_data_sets_and_networks():
    told = rows(section(PAGE, "Data sets"))
    classes = {name: re.search(r"\d+/\d+/\d+", line).group().replace("/", ", ") for name, line in data.DATA.items()}
    assert told == classes
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
