"""What README and docs show is run, and what they tell of settings and fields is compared with the code."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest

from mnemo import experiment, protocols, record, settings

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S))
]


def section(page, title):
    """The text under a heading, up to the next one of any level that is not deeper."""
    text = "\n" + (ROOT / page).read_text(encoding="utf-8")
    level = re.search(rf"^(#+) {re.escape(title)}$", text, re.M).group(1)
    body = text.split(f"\n{level} {title}\n", 1)[1]
    return re.split(rf"^#{{1,{len(level)}}} ", body, maxsplit=1, flags=re.M)[0]


def rows(text):
    """First cell, without its backticks, to second cell, of all tables in a text."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:3] == "| `"]
    return {name.strip("` "): row[1] for row in cells for name in row[0].split(", ")}


def shown(value):
    """A default as the tables write it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return f"`{value}`" if isinstance(value, str) else str(value)


def test_quickstart(capsys):
    runpy.run_path(str(ROOT / "examples" / "quickstart.py"), run_name="__main__")
    first_words = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert first_words == ["strategy", "finetune", "lucir", "mnemonics", "mnemonics", "its"]


@pytest.mark.parametrize("block", BLOCKS)
def test_what_pages_show_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "block", "exec"), {"__name__": "block"})


def test_readme_shows_the_api():
    assert any(param.id == "README.md-0" for param in BLOCKS)


@pytest.mark.parametrize("name", sorted(experiment.strategies()))
def test_strategies_are_described_with_their_settings(name):
    shared = rows(section("docs/strategies.md", "Settings that strategies share"))
    own = rows(section("docs/strategies.md", name))
    defaults = settings.defaults(experiment.recipe(name))
    assert defaults.keys() <= shared.keys() | own.keys()
    assert own.keys() <= defaults.keys()
    assert {key: shown(defaults[key]) for key in own} == own


def test_shared_settings_are_described():
    shared = rows(section("docs/strategies.md", "Settings that strategies share"))
    groups = {"training": settings.Training(), "memory": settings.Memory(), "fine_tuning": settings.FineTuning()}
    assert shared == {key: shown(value) for key, value in settings.flat(groups).items()}


def test_run_json_is_described():
    page = "docs/run-json.md"
    assert rows(section(page, "Fields")).keys() == {
        field.alias or name for name, field in record.Run.model_fields.items()
    }
    assert rows(section(page, "exemplars")).keys() == record.ExemplarHistory.model_fields.keys()
    assert rows(section(page, "exemplar_samples")).keys() == record.ExemplarSample.model_fields.keys()


def test_protocols_are_described():
    table = section("docs/protocols.md", "Protocols").split("\n## ")[0]
    assert rows(table).keys() == protocols.available().keys()
    keys = {key.strip("[]") for key in rows(section("docs/protocols.md", "The keys"))}
    assert keys == protocols.Protocol.model_fields.keys() - {"name"}


def test_tests_that_pages_name_are_there():
    there = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "mnemonics.md").read_text(encoding="utf-8")))
    assert len(named) > 10
    assert not {name for name in named if f"def {name}(" not in there}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages(page):
    links = re.findall(r"[^!]\[[^]]*\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


def test_versions_agree():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
