"""Components in a stream: MTL, LST and E3BM on the new classes of few-shot phases."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from mnemo import experiment, protocols, record
from mnemo.components import in_streams, refined_rows
from mnemo.components.new_classes import Components, NewClasses
from mnemo.components.refined_rows import RefinedRows
from mnemo.disk.files import InputError
from mnemo.fewshot.tasks import Tasks
from mnemo.learner import PhaseDone

NAMES = ("mtl", "lst", "e3bm", "sib")
SUBSETS = [list(some) for count in (1, 2, 3, 4) for some in itertools.combinations(NAMES, count)]
SETTINGS = {
    "base_classes": 6,
    "increment": 2,
    "increment_images": 5,
    "unlabelled": 8,
    "distractors": 2,
    "base_epochs": 2,
    "epochs": 1,
    "backbone": "small",
    "meta_iterations": 26,
    "row_steps": 4,
    "keep": 4,
}


def tasks(count=6, known=3, unlabelled=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    unit = lambda *shape: F.normalize(torch.randn(1, *shape, 5, generator=generator), dim=-1)  # noqa: E731
    labels = torch.arange(2).repeat_interleave(count // 2).unsqueeze(0)
    return Tasks(unit(count), labels, unit(4), unit(unlabelled) if unlabelled else None, 2, unit(known))


def made(*components, **settings):
    torch.manual_seed(1)
    return NewClasses(5, Components(components, **{"meta_ways": 2, "row_steps": 6, **settings})).eval()


@pytest.mark.parametrize("components", SUBSETS)
def test_rows_have_unit_length_and_old_classes_keep_theirs(components):
    some = tasks()
    learner = made(*components)
    rows = learner.rows(some, 8.0)
    assert rows.shape == (1, 2, 5)
    torch.testing.assert_close(rows.norm(dim=2), torch.ones(1, 2))
    logits = learner(some, 8.0)
    torch.testing.assert_close(logits[:, :, :3], 8 * some.query @ some.known.transpose(1, 2))
    torch.testing.assert_close(logits[:, :, 3:], 8 * some.query @ rows.transpose(1, 2))


def test_without_a_step_rows_are_class_means():
    learner = made("mtl", row_lr=1e-12)
    some = tasks()
    means = torch.stack([some.support[0, some.labels[0] == c].mean(0) for c in range(2)])
    torch.testing.assert_close(learner.rows(some, 8.0)[0], F.normalize(means))


def test_mtl_without_learning_takes_the_steps_of_gradient_descent():
    some = tasks()
    rows = torch.stack([some.support[0, some.labels[0] == c].mean(0) for c in range(2)]).requires_grad_()
    for _ in range(6):
        joint = F.normalize(torch.cat([some.known[0], rows]))
        (slope,) = torch.autograd.grad(F.cross_entropy(8 * some.support[0] @ joint.T, some.labels[0] + 3), rows)
        rows = (rows - 0.05 * slope).detach().requires_grad_()
    torch.testing.assert_close(made("mtl", row_lr=0.05).rows(some, 8.0)[0], F.normalize(rows.detach()))


def test_an_ensemble_of_the_last_epoch_alone_is_no_ensemble():
    some, plain, ensemble = tasks(), made("mtl"), made("mtl", "e3bm")
    with torch.no_grad():
        ensemble.course.hyperprior.v0.copy_(torch.tensor([-90.0] * 5 + [90.0]))
    torch.testing.assert_close(ensemble.rows(some, 8.0), plain.rows(some, 8.0))


def test_weights_of_an_ensemble_sum_to_one_and_are_equal_at_first():
    some, learner = tasks(unlabelled=0), made("e3bm")
    each = torch.stack([F.normalize(theta[0], dim=2) for _, theta in learner.course.epochs(some)])
    torch.testing.assert_close(learner.rows(some, 10.0), F.normalize(each.mean(0), dim=2), atol=2e-2, rtol=0)


@pytest.mark.parametrize("components", [["lst"], ["mtl", "lst", "e3bm"]])
def test_without_unlabelled_images_self_training_changes_nothing(components):
    others = [name for name in components if name != "lst"]
    some = tasks(unlabelled=0)
    learner = made(*components)
    same = made(*others) if others else made("mtl")  # a gain of 1 and an offset of 0 leave class means as they are
    torch.testing.assert_close(learner.rows(some, 8.0), same.rows(some, 8.0))


def test_unlabelled_images_that_seem_old_change_nothing():
    some = tasks()
    old = some._replace(unlabelled=some.known[:, [0, 1, 2, 0]] + 0.0)
    for components in (["lst"], ["lst", "e3bm"]):
        learner = made(*components, row_lr=1e-4)
        alone = some._replace(unlabelled=None)
        torch.testing.assert_close(learner.rows(old, 8.0), learner.rows(alone, 8.0))
        assert not torch.allclose(learner.rows(some, 8.0), learner.rows(alone, 8.0), atol=1e-7)


def test_old_and_new_classes_count_alike():
    some, learner = tasks(unlabelled=0), made("mtl")
    logits = learner(some, 8.0)[0]
    answers = torch.tensor([[0, 3, 4, 4]])
    each = F.cross_entropy(logits, answers[0], reduction="none")
    torch.testing.assert_close(learner.loss(some, answers, 8.0), (each[0] + each[1:].mean()) / 2)


def test_names_from_a_command_line():
    assert Components("[mtl, lst]").components == ("mtl", "lst")
    assert Components("e3bm").components == ("e3bm",)
    assert Components("[]").components == ()


def prepare(strategy="finetune", seed=3, **values):
    settings = {**SETTINGS, **values}
    return experiment.prepare(protocols.load("digits"), strategy, settings, seed=seed, device="cpu")


def carry_out(prepared, out, resume=False, until=None):
    seconds = 20.0 if until is None else 0.0
    events = experiment.execute(prepared, out, resume=resume, checkpoint_seconds=seconds)
    for index, _ in enumerate(events):
        if index + 1 == until:
            break
    events.close()


def result(out):
    return record.load(out).model_copy(update={"seconds": {}, "peak_memory_bytes": 0, "exemplar_samples": []})


@pytest.mark.parametrize("components", SUBSETS)
def test_every_subset_runs_and_where_it_is_broken_off_ends_as_if_it_were_not(components, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_streams, "ROUND", 2)
        short = {"components": components, "meta_iterations": 3}
        events = list(experiment.execute(prepare(**short), tmp_path / "whole"))
        stages = [event.stage for event in events if not isinstance(event, PhaseDone)]
        assert stages.count("meta-learn") == 2  # 3 episodes in rounds of 2
        assert stages.count("learn new classes") == (2 if components != ["sib"] else 0)
        middle = 3 if components != ["mtl"] else 6  # in meta-learning; for one of them among later phases
        carry_out(prepare(**short), tmp_path / "broken", until=middle)
        carry_out(prepare(**short), tmp_path / "broken", resume=True)
    assert result(tmp_path / "broken") == result(tmp_path / "whole")


def test_sib_has_a_classifier_of_its_own_and_leaves_the_head_alone(tmp_path):
    for name, components in (("with", ["mtl", "sib"]), ("without", ["mtl"])):
        carry_out(prepare(components=components, meta_iterations=2), tmp_path / name)
    run, other = (record.load(tmp_path / name) for name in ("with", "without"))
    assert run.classifier == "refined"
    assert run.by_classifier["head"] == other.by_classifier["head"]
    assert run.phase_accuracy == run.by_classifier["refined"].phase_accuracy
    assert set(other.by_classifier) == {"head"}


def test_refined_rows_are_those_of_autograd():
    torch.manual_seed(2)
    some, refined = tasks(count=8), RefinedRows(steps=2, rate=0.3).double()
    rows, queries = some.known[0].double(), some.query[0].double()
    theirs = rows
    for _ in range(2):
        leaf = theirs.detach().requires_grad_()
        scores = 8 * queries @ F.normalize(leaf).T
        (slope,) = torch.autograd.grad(scores, leaf, refined.synthesiser(scores.unsqueeze(0))[0].detach())
        theirs = F.normalize(theirs - 0.3 * 3 / 4 * slope)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refined_rows, "QUERIES_AT_ONCE", 3)
        torch.testing.assert_close(refined(rows, queries, 8.0), theirs)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(refined(rows[order], queries, 8.0), theirs[order])  # classes have no order


def test_meta_learning_moves_what_it_should_and_nothing_else(tmp_path):
    for components, scaled in ((["mtl"], True), (["e3bm", "lst"], False)):
        prepared = prepare(components=components)
        learner, stream = prepared.learner, prepared.stream
        before, own = None, None
        for event in learner.learn(stream[0]):
            if event.stage == "train":
                before = {name: p.detach().clone() for name, p in learner.net.backbone.named_parameters()}
                own = {name: p.detach().clone() for name, p in learner.net.companion.named_parameters()}
        after = dict(learner.net.backbone.named_parameters())
        kernels = [name for name in before if before[name].ndim == 4]
        for name in kernels:
            now = after.get(name, after.get(name.replace("weight", "parametrizations.weight.original")))
            assert torch.equal(now, before[name])
        assert any(name.endswith(".scale") for name in after) == scaled
        if scaled:
            scales = torch.cat([p.flatten() for name, p in after.items() if name.endswith(".scale")])
            assert (scales != 1).any()
        moved = {name for name, p in learner.net.companion.named_parameters() if not torch.equal(p, own[name])}
        assert moved
        assert all(("gain" in name or "offset" in name) for name in moved) == (components == ["mtl"])


def test_components_share_a_base_network_with_runs_that_have_none(tmp_path):
    carry_out(prepare(), tmp_path / "plain")
    shared = prepare(components=["mtl", "e3bm"])
    events = experiment.execute(shared, tmp_path / "shared", base=tmp_path / "plain")
    assert next(events).stage == "meta-learn"


def test_configuration_has_components_where_there_are_any():
    assert "components" not in prepare().run.config["strategy"]
    assert prepare(components=["lst"]).run.config["strategy"]["components"] == ["lst"]


@pytest.mark.parametrize(
    ("strategy", "values", "message"),
    [
        ("finetune", {"components": ["mlt"]}, "components"),
        ("icarl", {"components": ["mtl"]}, "cosine head"),
        ("teen", {"components": ["mtl"]}, "a way of its own"),
        ("cec", {"components": ["mtl"]}, "a way of its own"),
        ("nc_fscil", {"components": ["mtl"]}, "need a cosine head"),
        ("nc_fscil", {"components": ["mtl"], "base_loss": "cross_entropy"}, "a way of its own"),
        ("finetune", {"components": ["mtl"], "base_classes": 2}, "too small"),
        ("finetune", {"componets": ["mtl"]}, "did you mean components"),
    ],
)
def test_components_that_are_not_right(strategy, values, message, tmp_path):
    with pytest.raises(InputError, match=message):
        carry_out(prepare(strategy, **values), tmp_path / "run")
