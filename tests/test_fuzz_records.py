"""Whatever a record, a checkpoint or another file of a run has become: it is reported on or taken up, or refused."""

import copy
import json
import shutil

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mnemo import experiment, protocols, record
from mnemo.disk import checkpoint
from mnemo.disk.files import InputError
from mnemo.fewshot import episodes
from mnemo.fewshot import record as fewshot_record
from mnemo.fewshot.record import FewShotRun, Picture, ShownTask
from mnemo.images import png_base64

DOT = png_base64(torch.full((1, 4, 4), 100, dtype=torch.uint8))
FEW_SHOT = FewShotRun(
    method="mtl",
    data="glyphs",
    way=2,
    shot=1,
    queries=1,
    unlabelled=1,
    distractors=1,
    episodes=3,
    episodes_digest="x",
    accuracy=60.0,
    interval=1.0,
    batch_norm="running",
    transductive=False,
    config={"epochs": 3},
    seed=0,
    validation=[(10, 50.0), (20, 55.0)],
    curves={"alpha": [0.1, 0.2]},
    shown=[
        ShownTask(
            class_names=["a", "b"],
            accuracy=50.0,
            support=[Picture(png=DOT, label=0, point=(0.5, 0.5)), Picture(png=DOT, label=1)],
            query=[Picture(png=DOT, label=0, guess=1, right=False)],
            unlabelled=[Picture(png=DOT, label=-1, guess=1, weight=0.5, selected=True)],
        )
    ],
    seconds={"evaluate": 1.0},
    complete=True,
).model_dump()
EPISODES = {
    "schema": 1,
    "data": "x",
    "split": "test",
    "shape": {"ways": 2, "shots": 1, "queries": 1, "unlabelled": 0, "distractors": 0},
    "classes": [[0, 1]],
    "support": [[0, 2]],
    "query": [[1, 3]],
    "unlabelled": [[]],
}

values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([10**400, -(2**63), 1e308, -1e308, float("nan"), float("inf")]),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(["<script>alert(1)</script>", "\ud800", "\x00\x1b[31m", "\u202e", "a\nb", "x" * 3000, DOT]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def places(value, place=()):
    """Where something stands in what JSON holds."""
    yield place
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*place, key))


@st.composite
def changed(draw, value):
    """The value with some of its parts replaced, or left out."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from([*places(value)]))
        if not place:
            return draw(values)
        holder = value
        for key in place[:-1]:
            holder = holder[key]
        if draw(st.booleans()):
            del holder[place[-1]]
        else:
            holder[place[-1]] = draw(values)
    return value


def text_of(value):
    try:
        return json.dumps(value)
    except ValueError:  # a number of more digits than Python writes
        return assume(False)


@st.composite
def damaged(draw, content):
    """Bytes of which some are others, or the last are gone."""
    content = bytearray(content)
    for _ in range(draw(st.integers(0, 3))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(0, len(content)) | st.just(len(content)))])


@pytest.fixture(scope="module")
def finished(blobs, tmp_path_factory):
    """The folder of a run that is complete."""
    folder = tmp_path_factory.mktemp("finished")
    protocol = protocols.load(str(blobs / "blobs.toml"))
    prepared = experiment.prepare(protocol, "replay", {"epochs": 1}, data_dir=blobs, device="cpu")
    for _ in experiment.execute(prepared, folder):
        pass
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    """Makes a copy of it in the present folder, or makes it anew."""

    def copy_():
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(finished, folder)
        return folder

    return copy_


@pytest.fixture
def undrawn(monkeypatch):
    """Most of a report's time goes into its pictures."""
    for module in ("figures", "fewshot_figures"):
        monkeypatch.setattr(f"mnemo.report.{module}.save", lambda figure, path: path.write_bytes(b""))


@given(data=st.data())
def test_any_record(data, orderly, undrawn, finished, tmp_path):
    about = record.load(finished).model_dump()
    value = data.draw(changed({**about, "seconds": {"train": 1.0}, "peak_memory_bytes": 1}))
    (tmp_path / "run.json").write_text(text_of(value))
    orderly("report", tmp_path, names="run.json")


@given(value=changed(FEW_SHOT))
@example(value=FEW_SHOT)
@example(value={**FEW_SHOT, "method": "\ud800\x1b[31m"})
@example(value={**FEW_SHOT, "episodes": 10**400})
def test_any_record_of_a_few_shot_run(value, orderly, undrawn, tmp_path):
    (tmp_path / "run.json").write_text(text_of(value))
    orderly("report", tmp_path, names="run.json")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"schema": ' + "9" * 5000 + "}", '{"kind": "fewshot"', "\ufeff{}"])
def test_a_record_that_is_hard_to_read(text, orderly, tmp_path):
    (tmp_path / "run.json").write_text(text)
    assert orderly("report", tmp_path, names="run.json").exit_code == 2


def test_half_a_surrogate_pair_in_every_name(orderly, finished, tmp_path):
    value = record.load(finished).model_dump()
    value |= {"strategy": "\ud800", "protocol": "\udfff", "class_names": ["\ud800"] * 6, "command": "\x00\ud800"}
    for sample in value["exemplar_samples"]:
        sample["class_name"] = "\ud800"
    (tmp_path / "run.json").write_text(json.dumps(value))
    orderly("report", tmp_path, names="run.json")


@given(data=st.data())
def test_a_run_goes_on_whatever_its_record_has_become(data, orderly, copied, blobs, monkeypatch):
    """What counts is the checkpoint."""
    monkeypatch.setattr("mnemo.report.write", lambda runs, out: out / "report.html")
    run = copied()
    (run / "run.json").write_bytes(data.draw(damaged(b'{"schema": 1, "strategy": "replay"}')))
    done = orderly("run", blobs / "blobs.toml", "--out", run, "--set", "epochs=1", "-s", "replay", "--resume")
    assert done.exit_code == 0
    assert json.loads((run / "run.json").read_bytes())["complete"]


@pytest.mark.parametrize("name", ["latest", "base"])
@given(data=st.data())
def test_any_checkpoint(name, data, orderly, copied, finished, blobs, monkeypatch):
    """Bytes that have changed, and other contents under a checksum that is right."""
    monkeypatch.setattr("mnemo.report.write", lambda runs, out: out / "report.html")
    run = copied()
    path = run / "checkpoints" / f"{name}.safetensors"
    tensors, about = checkpoint.load(finished / "checkpoints" / path.name)
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(damaged(path.read_bytes())))
    else:
        gone = data.draw(st.none() | st.sampled_from(sorted(tensors)))
        other = data.draw(
            changed(
                {**about, "seconds": {"train": 1.0}, "run": {**about["run"], "seconds": {}, "peak_memory_bytes": 1}}
            )
        )
        assume(isinstance(other, dict))
        checkpoint.save(path, {key: tensor for key, tensor in tensors.items() if key != gone}, other)
    place = ["--out", run, "--resume"] if name == "latest" else ["--out", run.parent / "other", "--base", run]
    orderly("run", blobs / "blobs.toml", *place, "-s", "replay", "--set", "epochs=1", names=path.name)
    shutil.rmtree(run.parent / "other", ignore_errors=True)


@given(value=changed(EPISODES))
@example(value={**EPISODES, "support": [[10**30, 0]]})
def test_any_file_of_episodes(value, tmp_path):
    path, labels = tmp_path / "episodes.json", torch.tensor([0, 0, 1, 1])
    path.write_text(text_of(value))
    try:
        episodes.load(path, "x", "test", labels)
    except InputError as error:
        refusal = str(error)
        assert "episodes.json" in refusal


@given(value=changed({"schema": 1, "episodes_digest": "x", "accuracies": [50.0, 60.0, 70.0]}))
def test_any_accuracies_beside_a_record(value, orderly, undrawn, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(FEW_SHOT))
    (tmp_path / fewshot_record.ACCURACIES).write_text(text_of(value))
    orderly("report", tmp_path, names=fewshot_record.ACCURACIES)
