"""Whole few-shot runs on tiny made-up images."""

import json

import pytest
import torch
from typer.testing import CliRunner

from mnemo.augment import CropAndFlip
from mnemo.cli import app
from mnemo.disk.files import InputError
from mnemo.fewshot import experiment, record
from mnemo.fewshot.data import FewShotData, Split
from mnemo.fewshot.embedder import Embedder, let_learn
from mnemo.fewshot.experiment import Asked
from mnemo.fewshot.meta_training import MetaTraining
from mnemo.fewshot.show import plane
from mnemo.images import Images
from mnemo.nets import FEW_SHOT_BACKBONES
from mnemo.record import without_times

FAST = {
    "backbone": "conv4-32",
    "pretrain_epochs": 2,
    "pretrain_batch_size": 32,
    "iterations": 6,
    "validate_every": 2,
    "validation_episodes": 10,
    "steps": 3,
    "test_steps": 4,
    "stage_steps": 4,
    "retrain_steps": 2,
    "test_retrain_steps": 2,
    "train_unlabelled": 4,
}


def split(classes, seed):
    """A bright square somewhere for each class, in noise."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 60, (classes * 14, 1, 16, 16), generator=generator, dtype=torch.uint8)
    labels = torch.arange(classes).repeat_interleave(14)
    for c in range(classes):
        top, left = 3 * (c % 4) + 1, 4 * (c // 4 % 4)
        pixels[labels == c, :, top : top + 3, left : left + 4] += 150
    images = Images(pixels.contiguous(memory_format=torch.channels_last), labels)
    return Split(images, tuple(f"class {c}" for c in range(classes)))


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    data = FewShotData("toys", split(8, 0), split(6, 1), split(7, 2), CropAndFlip(1, False))
    monkeypatch.setattr(experiment.data_sets, "load", lambda *_: data)
    return data


def prepare(method="mtl", asked=Asked(3, 1, 4, episodes=20), seed=5, baseline=None, **values):
    settings = {**FAST, **({"tasks": 1, "validation_episodes": 3} if method == "maml" else {}), **values}
    accepted = experiment.settings.defaults(experiment.recipe(method))
    fitting = {key: value for key, value in settings.items() if key in accepted}
    return experiment.prepare(method, "toys", fitting, asked, seed=seed, baseline=baseline, device="cpu")


def carry_out(prepared, folder, resume=False, until=None):
    """Run; stop after ``until`` events as a kill would."""
    events = experiment.execute(prepared, folder / "run", folder / "pretrained", resume=resume)
    seen = []
    for event in events:
        seen.append(event)
        if len(seen) == until:
            break
    events.close()
    return seen


def result(folder):
    run = record.load(folder / "run")
    return run.model_copy(update={"seconds": {}, "peak_memory_bytes": 0, "command": ""})


LCC = {"on": "maml", "steps": 1, "learn": "weights", "batch_norm": "support", "inner_lr": 0.1}
LCC |= {"alpha": "learned", "decay": "learned", "combine": "learned"}
METHODS = {
    **{key: {} for key in ["protonet", "rfs", "maml", "mtl", "lst", "e3bm", "soft_kmeans"]},
    "sib": {"rate": 0.01},
    "tpn": {"neighbours": 5},
}


@pytest.mark.parametrize(("method", "extra"), [*METHODS.items(), ("e3bm", LCC)])
def test_every_method_runs_and_leaves_a_record(method, extra, tmp_path):
    asked = Asked(3, 1, 4, episodes=20, unlabelled=4 if method in ("lst", "soft_kmeans") else 0)
    carry_out(prepare(method, asked, keep=2, **extra), tmp_path)
    run, (values, digest) = record.load(tmp_path / "run"), record.load_accuracies(tmp_path / "run" / record.ACCURACIES)
    assert run.complete
    assert run.method == method
    assert run.accuracy == pytest.approx(sum(values) / 20)
    assert run.accuracy > 100 / 3  # the squares are easy to tell apart
    assert digest == run.episodes_digest
    assert run.transductive == (method in ("maml", "sib", "tpn"))
    assert run.pretrained_digest
    assert len(run.shown) == 2
    assert len(run.shown[0].query) == 12
    assert (len(run.validation) == 3) == (method != "rfs")


def test_settings_are_chosen_on_validation_classes(toys, tmp_path):
    """Where the test classes cannot be told from each other and the validation classes can."""
    noise = torch.randint_like(toys.test.images.pixels, 200)
    toys.test.images.pixels.copy_(noise)
    found = {}
    for classes in ("test", "validation"):
        folder = tmp_path / classes
        folder.mkdir()
        carry_out(prepare("rfs", Asked(3, 1, 4, episodes=20, evaluated_on=classes)), folder)
        found[classes] = record.load(folder / "run")
        assert found[classes].evaluated_on == classes
        assert json.loads((folder / "run" / "episodes.json").read_text())["split"] == classes
    assert found["test"].accuracy < 50 < 60 < found["validation"].accuracy
    assert {name for task in found["validation"].shown for name in task.class_names} <= set(toys.validation.class_names)
    with pytest.raises(InputError, match="is of another run"):
        carry_out(prepare("rfs", Asked(3, 1, 4, episodes=20)), tmp_path / "validation", resume=True)


def test_tasks_to_choose_settings_by_are_not_those_that_choose_a_checkpoint():
    prepared = prepare(asked=Asked(3, 1, 4, episodes=10, evaluated_on="validation"))
    loop = prepared.loop(prepared.method(prepared.net()))
    assert prepared.test.digest != loop._validated.digest


def test_a_seed_decides_everything(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        carry_out(prepare(), tmp_path / name)
    assert result(tmp_path / "one") == result(tmp_path / "two")
    (tmp_path / "three").mkdir()
    carry_out(prepare(seed=6), tmp_path / "three")
    assert result(tmp_path / "three").episodes_digest != result(tmp_path / "one").episodes_digest


@pytest.mark.parametrize(("method", "until"), [("mtl", 1), ("mtl", 5), ("lst", 4), ("e3bm", 3), ("maml", 4)])
def test_a_broken_off_run_ends_as_one_that_was_not(method, until, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr("mnemo.fewshot.pretraining.EVERY", 0)
    asked = Asked(3, 1, 4, episodes=30, unlabelled=2 if method == "lst" else 0)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    carry_out(prepare(method, asked), whole)
    carry_out(prepare(method, asked), broken, until=until)
    later = carry_out(prepare(method, asked), broken, resume=True)
    assert result(broken) == result(whole)
    assert later[0].done > later[0].already or later[0].stage == "pre-train"


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "CHECKPOINT_SECONDS", 0)
    carry_out(prepare(), tmp_path, until=4)  # two epochs, two of three rounds
    later = carry_out(prepare(), tmp_path, resume=True)
    assert [event.stage for event in later] == ["meta-train", "evaluate"]
    assert later[0].already == 4


def test_methods_share_a_pre_trained_backbone(tmp_path):
    first = carry_out(prepare(), tmp_path)
    second = tmp_path / "second"
    events = list(experiment.execute(prepare("rfs"), second, tmp_path / "pretrained"))
    assert first[0].stage == "pre-train"
    assert [event.stage for event in events] == ["evaluate"]
    assert record.load(second).pretrained == record.load(tmp_path / "run").pretrained
    assert len([*(tmp_path / "pretrained").glob("*.safetensors")]) == 1


def test_another_schedule_is_another_backbone():
    names = {prepare(**change).run.pretrained for change in ({}, {"pretrain_lr": 0.2}, {"seed": 6})}
    assert len(names) == 3
    assert prepare(pretrain_epochs=0).run.pretrained is None


def test_a_baseline_is_compared_task_by_task(tmp_path):
    carry_out(prepare("rfs"), tmp_path)
    later = tmp_path / "later"
    later.mkdir()
    carry_out(prepare("mtl", baseline=tmp_path / "run"), later)
    ours, theirs = (torch.tensor(record.load_accuracies(f / "run" / record.ACCURACIES)[0]) for f in (later, tmp_path))
    paired = record.load(later / "run").paired
    gaps = (ours - theirs).double()
    assert paired.baseline == "rfs"
    assert paired.difference == pytest.approx(float(gaps.mean()), abs=1e-4)
    assert paired.interval == pytest.approx(1.96 * float(gaps.std()) / 20**0.5, abs=1e-4)


def test_a_baseline_on_other_tasks_is_refused(tmp_path):
    carry_out(prepare("rfs"), tmp_path)
    with pytest.raises(InputError, match="its episodes are others"):
        prepare("mtl", seed=6, baseline=tmp_path / "run")


def test_episodes_of_a_file(tmp_path):
    carry_out(prepare("rfs"), tmp_path)
    again = prepare("rfs", Asked(file=tmp_path / "run" / "episodes.json"), seed=77)
    assert again.test.digest == record.load(tmp_path / "run").episodes_digest
    assert (again.run.way, again.run.shot, again.run.queries, again.run.episodes) == (3, 1, 4, 20)


def test_another_run_in_the_folder(tmp_path):
    carry_out(prepare(), tmp_path)
    with pytest.raises(InputError, match="has a run already"):
        carry_out(prepare(), tmp_path)
    with pytest.raises(InputError, match="steps was 3, is now 5"):
        carry_out(prepare(steps=5), tmp_path, resume=True)


def test_a_damaged_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "CHECKPOINT_SECONDS", 0)
    carry_out(prepare(), tmp_path, until=4)
    path = tmp_path / "run" / "checkpoints" / "latest.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="damaged"):
        carry_out(prepare(), tmp_path, resume=True)


def test_the_best_checkpoint_on_validation_tasks_is_evaluated(tmp_path, monkeypatch):
    looks = iter([50.0, 90.0, 70.0])
    kept = {}

    def pretended(loop):
        accuracy = next(looks)
        kept[accuracy] = loop._method.base.weight.detach().clone()
        if not loop.curve or accuracy > max(value for _, value in loop.curve):
            loop._best = {name: tensor.clone() for name, tensor in loop._method.state_dict().items()}
        loop.curve.append((loop.iteration, accuracy))
        return accuracy

    monkeypatch.setattr("mnemo.fewshot.meta_training.MetaLoop._look", pretended)
    prepared = prepare(meta_lr=0.5, least_lr=0.5)
    seen = {}
    evaluate = experiment.accuracies

    def watched(method, *rest):
        seen["weight"] = method.base.weight.detach().clone()
        return evaluate(method, *rest)

    monkeypatch.setattr(experiment, "accuracies", watched)
    carry_out(prepared, tmp_path)
    assert torch.equal(seen["weight"], kept[90.0])
    assert not torch.equal(seen["weight"], kept[70.0])


def test_hard_tasks_are_of_the_classes_that_were_named_worst(monkeypatch, tmp_path):
    pools = []
    from mnemo.fewshot.episodes import Sampler

    draw = Sampler.draw_among

    def watched(self, pool, *rest):
        pools.append(pool)
        return draw(self, pool, *rest)

    monkeypatch.setattr(Sampler, "draw_among", watched)
    settings = {"hard_tasks": True, "hard_every": 6, "hard_iterations": 2, "tasks": 3}
    carry_out(prepare(asked=Asked(2, 1, 4, episodes=5), **settings), tmp_path)
    assert len(pools) == 2
    assert len(pools[0]) >= 2
    assert torch.equal(pools[0], pools[0].unique())  # sorted, each class once


def test_the_worst_class_by_hand(toys):
    prepared = prepare(asked=Asked(3, 1, 4, episodes=2))
    method = prepared.method(prepared.net())
    loop = prepared.loop(method)
    episodes = loop._sampler.draw(2, "x")
    logits = torch.zeros(2, 12, 3)
    logits[0, :, 0] = 1  # first task: everything is named 0, so 1 and 2 are all wrong; the first of them counts
    logits[1].scatter_(1, episodes.answers[1].unsqueeze(1), 1.0)
    logits[1, 8:10] = torch.tensor([9.0, 0, 0])  # second task: two of class 2 are wrong
    loop._method.forward = lambda tasks: logits
    assert loop._named_worst(episodes) == [int(episodes.classes[0, 1]), int(episodes.classes[1, 2])]


def test_the_learning_rate_is_halved_down_to_a_floor():
    settings = MetaTraining(meta_lr=0.8, halve_every=10, least_lr=0.3)
    assert [settings.lr_at(i) for i in (0, 9, 10, 19, 20, 500)] == [0.8, 0.8, 0.4, 0.4, 0.3, 0.3]
    assert MetaTraining(meta_lr=0.8, halve_every=0).lr_at(10**6) == 0.8


@pytest.mark.parametrize(
    ("what", "learning"),
    [("nothing", 0), ("last_weights", 1), ("weights", 4), ("last_scales", 1), ("scales", 4)],
)
def test_what_of_the_network_learns(what, learning):
    body = FEW_SHOT_BACKBONES["conv4-32"](1, 16)
    net = Embedder(body, [100.0], [50.0])
    pixels = torch.randint(0, 256, (3, 1, 16, 16), dtype=torch.uint8)
    before = net.eval()(pixels)
    let_learn(net, what)
    torch.testing.assert_close(net(pixels), before)  # scales are 1 and shifts 0
    learns = {name.split(".")[2] for name, p in net.named_parameters() if p.requires_grad}
    assert len(learns) == learning
    assert learning != 1 or learns == {"3"}
    if what.endswith("scales"):
        shapes = [tuple(p.shape) for p in net.parameters() if p.requires_grad]
        assert (32, 32, 1, 1) in shapes
        assert (32,) in shapes
        assert not any(len(shape) == 4 and shape[-1] == 3 for shape in shapes)


def test_points_of_the_plane_keep_distances_of_flat_features():
    flat = torch.rand(9, 2, generator=torch.Generator().manual_seed(0))
    turned = flat @ torch.linalg.qr(torch.rand(6, 2, generator=torch.Generator().manual_seed(1)))[0].T
    points = plane(turned)
    assert points.min() == 0
    assert points.max() == 1
    ratio = torch.pdist(points) / torch.pdist(flat.double())
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backbone": "conv9"}, "backbone='conv9'"),
        ({"step": 3}, "did you mean steps"),
        ({"iterations": -1}, "iterations=-1"),
        ({"precision": "bf16"}, "precision=bf16 is for a GPU"),
    ],
)
def test_settings_that_are_not_right(values, message):
    with pytest.raises(InputError, match=message):
        experiment.prepare("mtl", "toys", values, device="cpu")


def test_a_method_that_is_unknown():
    with pytest.raises(InputError, match=r"unknown few-shot method 'mlt'.*mtl"):
        prepare("mlt")


def test_tasks_that_the_data_do_not_suffice_for():
    with pytest.raises(InputError, match="8 classes, but there are only 7"):
        prepare(asked=Asked(8))
    with pytest.raises(InputError, match="shots"):
        prepare(asked=Asked(3, 0))
    with pytest.raises(InputError, match="episodes=0"):
        prepare(asked=Asked(3, 1, 4, episodes=0))


def test_records_that_are_damaged(tmp_path):
    path = tmp_path / record.ACCURACIES
    for text, message in (("[]", "not a record"), ("{", "cannot be read"), ('{"schema": 1}', "accuracies|digest")):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            record.load_accuracies(path)
    (tmp_path / "run.json").write_text(json.dumps({"schema": 1, "kind": "incremental"}))
    with pytest.raises(InputError, match="not the record of a few-shot run"):
        record.load(tmp_path)


def test_a_record_is_enough_to_repeat_its_run(tmp_path, monkeypatch):
    monkeypatch.setattr("mnemo.report.write", lambda runs, out: out / "report.html")
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    asked = Asked(3, 1, 4, episodes=10, unlabelled=2)
    carry_out(prepare("lst", asked, reveal=True), tmp_path)  # its tasks are not those that were drawn
    folders = ["--out", tmp_path / "again", "--pretrained", tmp_path / "pretrained"]

    def again(*more):
        return CliRunner().invoke(app, ["fewshot", "--from", *map(str, [tmp_path / "run", *folders, *more])])

    repeated = again()
    assert repeated.exit_code == 0, repeated.output
    assert "the same results as in" in repeated.output
    first, second = (without_times(record.load(tmp_path / name)) for name in ("run", "again"))
    assert first == {**second, "command": ""}
    run = record.load(tmp_path / "run")
    run.accuracy += 1
    record.save(run, tmp_path / "run" / "run.json")
    other = again("--resume")
    assert other.exit_code == 1
    assert "accuracy: differs, by 1 at most" in other.output
    (tmp_path / "run" / "episodes.json").unlink()
    refused = again("--resume")
    assert refused.exit_code == 2
    assert "episodes_digest" in refused.output
    assert "leave --way out" in again("--way", 4).output
