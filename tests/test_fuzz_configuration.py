"""Whatever a protocol's file, a setting or a benchmark's file says: it is taken, or refused in one line.

More examples, other ones each time: pytest --hypothesis-profile=thorough tests/test_fuzz_*.py
"""

import contextlib
import json
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from benchmarks.ablation import plan as ablations
from benchmarks.fewshot import plan as comparisons
from mnemo import experiment, settings
from mnemo.disk.files import InputError
from mnemo.protocols import Protocol

KEYS = sorted(
    (Protocol.model_fields.keys() - experiment.NO_SETTINGS) | set(settings.defaults(experiment.recipe("mnemonics")))
)
PROTOCOL = """
dataset = "blobs"
base_classes = 2
increment = 2

[strategy]
backbone = "small"
epochs = 1
"""
ABLATION = """
protocol = "digits"
seeds = [1, 2]
budgets = [5]
control = "a"

[settings]
epochs = 1

[[rows]]
name = "a"
strategy = "lucir"

[[rows]]
name = "b"
strategy = "icarl"
settings = { epochs = 2 }
"""
COMPARISON = """
data = "glyphs"
shots = [1]
seeds = [1]

[[groups]]
title = "t"
control = "a"

[[groups.rows]]
name = "a"
label = "A"
method = "protonet"
"""

texts = st.text(max_size=20)
written = st.recursive(
    st.one_of(
        st.integers().map(str),
        st.sampled_from(
            ["1e400", "-0.0", "nan", "-inf", "9" * 400, "9" * 5000, "1979-05-27", "12:30:00", "true", "''"]
        ),
        st.floats().map(repr),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(json.dumps),
        st.sampled_from(["digits", "lucir", "small", "jpeg", "../x", "\x1b[31m", "\u202e", "[/]"]).map(json.dumps),
    ),
    lambda values: st.lists(values, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
    max_leaves=4,
)
"""A value as TOML has it."""
names = st.sampled_from(KEYS) | st.text(string.ascii_letters + "_-.", min_size=1, max_size=10)


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    """What is asked here is over before it begins."""
    monkeypatch.setattr("mnemo.experiment.execute", lambda *_, **__: iter(()))
    monkeypatch.setattr("mnemo.report.write", lambda runs, out: out / "report.html")


@st.composite
def changed(draw, text):
    """A file in which some lines are left out, come twice, have another value or are something else, or that is cut."""
    lines = text.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        index = draw(st.integers(0, len(lines) - 1))
        key = lines[index].partition("=")[0].strip()
        lines[index] = draw(
            st.one_of(
                st.just(""),
                st.just(f"{lines[index]}\n{lines[index]}"),
                written.map(lambda value, key=key: f"{key} = {value}"),
                st.tuples(names, written).map(" = ".join),
                texts,
            )
        )
    whole = "\n".join(lines).encode(errors="surrogatepass")
    return whole[: draw(st.integers(0, len(whole)))] if draw(st.booleans()) else whole


@given(content=changed(PROTOCOL) | st.binary(max_size=40))
@example(content=b"a = " + b"[" * 5000)
@example(content=b"a = " + b"{a = " * 3000)
@example(content=b"increment = " + b"9" * 5000)
@example(content=PROTOCOL.replace("= 1", f"= {'9' * 400}").encode())
@example(content=b'name = "../../elsewhere"' + PROTOCOL.encode())
@example(content=b'name = "\\u001b[31m[/]"' + PROTOCOL.encode())
@example(content=b"padding = 99999999999999999999" + PROTOCOL.encode())
def test_any_protocol(content, orderly, tmp_path):
    (tmp_path / "mine.toml").write_bytes(content)
    orderly("run", "mine.toml", "--out", "run")
    assert {path.name for path in tmp_path.iterdir()} <= {"mine.toml", "run"}


@given(
    setting=st.one_of(st.tuples(names, written | texts).map("=".join), texts),
    strategy=st.sampled_from(["mnemonics", "joint"]),
)
@example(setting="epochs=" + "[" * 5000, strategy="mnemonics")
@example(setting="epochs=" + "9" * 5000, strategy="mnemonics")
@example(setting="total=" + "9" * 400, strategy="mnemonics")
@example(setting="budget_bytes='" + "9" * 400 + "'", strategy="mnemonics")
@example(setting="dataset='\udcff'", strategy="joint")
def test_any_setting(setting, strategy, orderly, tmp_path):
    (tmp_path / "mine.toml").write_text(PROTOCOL)
    orderly("run", "mine.toml", "--out", "run", "--strategy", strategy, f"--set={setting}")


@given(setting=st.tuples(names, written | texts).map("=".join))
def test_any_setting_of_a_few_shot_method(setting, orderly, monkeypatch):
    monkeypatch.setattr("mnemo.fewshot.data.load", refuse_data)
    orderly("fewshot", "mtl", f"--set={setting}")


def refuse_data(*_, **__):
    raise InputError("there is nothing here")


@pytest.mark.parametrize("option", ["--strategy", "--device", "--seeds", "--data-dir", "--base", "--out"])
@given(value=st.text(min_size=1, max_size=20).filter(lambda text: "\0" not in text and not text.startswith("/")))
@example(value="\n")
@example(value="[/]")
@example(value="\x1b[31m\udcff")
@example(value="a" * 5000)
def test_any_option(option, value, orderly, tmp_path):
    (tmp_path / "mine.toml").write_text(PROTOCOL)
    orderly("run", "mine.toml", f"{option}={value}")


@given(value=texts.filter(lambda text: "\0" not in text and not text.startswith("-")))  # no command line has a NUL
@example(value="x\n.toml")
def test_any_name(value, orderly):
    for command in (["run"], ["report"], ["data", "check"], ["data", "import"], ["fewshot"]):
        orderly(*command, value)


@pytest.mark.parametrize(("load", "text"), [(ablations.load, ABLATION), (comparisons.load, COMPARISON)])
@given(data=st.data())
def test_any_file_of_a_benchmark(load, text, data, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(data.draw(changed(text)))
    with contextlib.suppress(InputError):
        load(path)
    path.write_text(text)
    load(path)
