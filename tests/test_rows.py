"""Few-shot streams on a frozen base network: class means, TEEN, CEC's graph, NC-FSCIL's simplex, and whole runs."""

import itertools
import os

import pytest
import torch
import torch.nn.functional as F

from mnemo import experiment, protocols, record
from mnemo.compression import unit_features
from mnemo.disk.files import InputError
from mnemo.fewshot.episodes import Sampler, Shape
from mnemo.learner import PhaseDone
from mnemo.rows import mean_directions
from mnemo.strategies.cec import PrototypeGraph, graph, pseudo_incremental, turned_features
from mnemo.strategies.teen import calibrated

SETTINGS = {
    "base_classes": 6,
    "increment": 2,
    "increment_images": 5,
    "base_epochs": 3,
    "epochs": 1,
    "backbone": "small",
}
OWN = {
    "finetune": {},
    "decoupled_cosine": {},
    "teen": {},
    "cec": {"graph_epochs": 2, "episodes": 5, "ways": 4, "queries": 5},
    "nc_fscil": {"align_epochs": 2},
}
FROZEN = ["decoupled_cosine", "teen", "cec"]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def prepare(strategy, seed=3, **values):
    settings = {**SETTINGS, **OWN[strategy], **values}
    return experiment.prepare(protocols.load("digits"), strategy, settings, seed=seed, device="cpu")


def carry_out(prepared, out, resume=False, base=None, until=None):
    events = experiment.execute(prepared, out, resume=resume, base=base, checkpoint_seconds=0)
    done = list(itertools.islice(events, until))
    events.close()
    return done


def result(out):
    return record.load(out).model_copy(update={"seconds": {}, "peak_memory_bytes": 0, "exemplar_samples": []})


def after_phases(prepared):
    """The learner's phases, one after the other, with a copy of what its network holds after each."""
    learner, stream = prepared.learner, prepared.stream
    for index in range(len(stream)):
        list(learner.learn(stream[index]))
        learner.evaluate(stream)
        yield stream[index], {name: tensor.clone() for name, tensor in learner.net.state_dict().items()}


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_mean_directions_by_hand():
    features = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.6, 0.8], [1.0, 0.0]])
    means = mean_directions(features, torch.tensor([7, 5, 7, 5]))
    expected = torch.tensor([[1.0, 0.0], [0.6, 1.8]])
    torch.testing.assert_close(means, expected / expected.norm(dim=1, keepdim=True))


def test_rows_are_the_class_means_of_their_own_phase_and_stay():
    prepared, rows = prepare("decoupled_cosine"), []
    for phase, state in after_phases(prepared):
        net, images = prepared.learner.net, phase.train
        for label, row in zip(phase.labels, state[f"head.weights.{phase.index}"], strict=True):
            with torch.no_grad():
                features = F.normalize(net.eval().features(images.pixels[images.labels == label]))
            torch.testing.assert_close(row, F.normalize(features.mean(0), dim=0), atol=1e-5, rtol=0)
        rows.append(state[f"head.weights.{phase.index}"])
        assert all(torch.equal(state[f"head.weights.{index}"], kept) for index, kept in enumerate(rows))
        assert len(images) == (5 * len(phase.classes) if phase.index else len(images))
    assert [len(group) for group in rows] == [6, 2, 2]


def test_what_the_stage_tells_is_the_accuracy_of_the_head():
    prepared = prepare("teen")
    learner, stream = prepared.learner, prepared.stream
    for index in range(2):
        told = [event.shown["accuracy"] for event in learner.learn(stream[index]) if event.stage == "mean_rows"]
        images = stream[index].train
        with torch.no_grad():
            named = learner.net.eval()(images.pixels).logits.argmax(1)
        assert told == [pytest.approx(100 * float((named == images.labels).double().mean()))]
        learner.evaluate(stream)


@pytest.mark.parametrize("strategy", FROZEN)
def test_the_backbone_is_that_of_the_base_phase(strategy):
    (_, first), *others = after_phases(prepare(strategy))
    frozen = [name for name in first if not name.startswith(("head.weights", "companion._extra_state"))]
    assert any("running_mean" in name for name in frozen)
    for _, state in others:
        assert all(torch.equal(state[name], first[name]) for name in frozen)


def test_teen_by_hand():
    base, means = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.6, 0.8]])
    heavy, light = torch.tensor([10 * 0.8, 10 * 0.6]).exp()
    drawn = torch.tensor([light, heavy]) / torch.tensor([light, heavy]).norm()
    expected = 0.7 * means + 0.3 * drawn
    torch.testing.assert_close(calibrated(means, base, 0.3, 10.0), expected)
    torch.testing.assert_close(calibrated(means, base, 0.0, 10.0), means)


def test_teen_calibrates_new_rows_alone_by_base_rows():
    plain = [state for _, state in after_phases(prepare("decoupled_cosine"))][-1]
    ours = [state for _, state in after_phases(prepare("teen", calibration=0.4, temperature=5))][-1]
    base = plain["head.weights.0"]
    assert torch.equal(ours["head.weights.0"], base)
    for name in ("head.weights.1", "head.weights.2"):
        torch.testing.assert_close(ours[name], F.normalize(calibrated(plain[name], base, 0.4, 5.0)))


def test_the_graph_by_hand():
    torch.manual_seed(0)
    adapts, prototypes = PrototypeGraph(6), unit(4, 6)
    with torch.no_grad():
        adapts.last.weight.normal_()
        adapts.last.bias.normal_()
        rows = adapts(3 * prototypes)
        nodes = prototypes * 6**0.5
        expected = []
        for node in nodes:
            scores = torch.stack([(adapts.query.weight @ node) @ (adapts.key.weight @ other) for other in nodes])
            shares = (scores / 6**0.5).exp() / (scores / 6**0.5).exp().sum()
            mixed = sum(share * (adapts.value.weight @ other) for share, other in zip(shares, nodes, strict=True))
            moved = node + adapts.last.weight @ mixed + adapts.last.bias
            expected.append(F.normalize((moved - moved.mean()) / (moved.var(correction=0) + 1e-5).sqrt(), dim=0))
    torch.testing.assert_close(rows, torch.stack(expected))


def test_the_graph_starts_out_by_leaving_prototypes_as_they_are():
    prototypes = unit(5, 8)
    centred = prototypes - prototypes.mean(1, keepdim=True)
    torch.testing.assert_close(PrototypeGraph(8)(prototypes), F.normalize(centred))


def test_a_new_graph_takes_up_the_prototypes_of_another():
    one, other = PrototypeGraph(4), PrototypeGraph(4)
    one.prototypes = unit(3, 4)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.prototypes, one.prototypes)
    assert "prototypes" in dict(other.named_buffers())


def test_new_classes_of_an_episode_are_turned_base_classes():
    labels = torch.arange(5).repeat_interleave(8)
    drawn = Sampler(labels, Shape(3, 2, 4)).draw(1, 0, "test")
    turn, image = torch.arange(4.0).view(4, 1), torch.arange(40.0)
    features = torch.stack([turn.expand(4, 40), image.expand(4, 40), labels.expand(4, 40)], 2)
    prototypes, queries, answers = pseudo_incremental(features, drawn, torch.tensor([2, 3, 1]))
    assert prototypes.shape == (6, 3)
    assert prototypes[:, 0].tolist() == [0, 0, 0, 2, 3, 1]
    assert prototypes[:, 2].tolist() == 2 * drawn.classes[0].tolist()
    assert torch.equal(prototypes[:, 0][answers], queries[:, 0])
    assert torch.equal(prototypes[:, 2][answers], queries[:, 2])
    assert answers.bincount().tolist() == [4] * 6
    assert not set(queries[:, 1].long().tolist()) & set(drawn.support[0].tolist())
    assert torch.equal(prototypes[:3, 1], prototypes[3:, 1])


def test_turned_features_are_those_of_turned_images():
    prepared = prepare("cec")
    images, net = prepared.stream[1].train, prepared.learner.net
    features = turned_features(net, images)
    for turn in range(4):
        torch.testing.assert_close(features[turn], unit_features(net, images.pixels.rot90(turn, (2, 3))))
    assert not torch.allclose(features[0], features[1])


def test_the_graph_learns_in_the_base_phase_and_evolves_all_rows():
    plain = [state for _, state in after_phases(prepare("decoupled_cosine"))]
    prepared = prepare("cec", graph_lr=0.05)
    first = {name: weight.clone() for name, weight in prepared.learner.net.companion.named_parameters()}
    evolved = [state for _, state in after_phases(prepared)]
    adapts = graph(prepared.learner.net)
    assert all(not torch.equal(weight, first[name]) for name, weight in adapts.named_parameters())
    raw = torch.cat([plain[-1][f"head.weights.{index}"] for index in range(3)])
    torch.testing.assert_close(adapts.prototypes, raw)
    rows = torch.cat([evolved[-1][f"head.weights.{index}"] for index in range(3)])
    torch.testing.assert_close(rows, adapts(raw).detach())
    assert (evolved[1]["head.weights.0"] - evolved[0]["head.weights.0"]).abs().max() > 1e-4


def test_a_graph_without_training_keeps_its_weights():
    prepared = prepare("cec", graph_epochs=0)
    stages = [event.stage for event in prepared.learner.learn(prepared.stream[0])]
    assert stages == ["train"] * 3 + ["mean_rows", "evolve"]
    assert not prepared.learner.net.companion.last.weight.any()


def test_a_base_phase_that_is_too_small_for_episodes(tmp_path):
    with pytest.raises(InputError, match="at least 501 images"):
        carry_out(prepare("cec", shots=500), tmp_path / "run")


def test_nc_fscil_aligns_the_projection_alone_after_the_base_phase():
    prepared = prepare("nc_fscil")
    assert prepared.learner.net.head.frame.shape == (10, 512), "a vertex for every class of the stream"
    (first_phase, first), *others = after_phases(prepared)
    last = first
    frozen = [n for n in first if not n.startswith(("head.projection", "head.means", "head.weights"))]
    assert any("running_mean" in name for name in frozen)
    for phase, state in others:
        assert all(torch.equal(state[name], first[name]) for name in frozen)
        assert not torch.equal(state["head.projection.past.weight"], last["head.projection.past.weight"])
        assert torch.equal(state["head.means"][: phase.first_label], last["head.means"][: phase.first_label])
        last = state
    with torch.no_grad():
        images, label = first_phase.train, first_phase.labels[-1]
        shown = prepared.learner.net.eval().features(images.pixels[images.labels == label])
    torch.testing.assert_close(last["head.means"][label], shown.mean(0), atol=1e-4, rtol=1e-4)
    assert torch.equal(torch.cat([last[f"head.weights.{index}"] for index in range(3)]), first["head.frame"])


def test_few_images_and_old_means_go_to_their_vertices():
    prepared = prepare("nc_fscil", align_epochs=60)
    learner, stream = prepared.learner, prepared.stream
    list(learner.learn(stream[0]))
    learner.evaluate(stream)
    shown = [event.shown for event in learner.learn(stream[1])]
    assert shown[-1]["loss"] < 0.1 * shown[0]["loss"]
    assert shown[-1]["accuracy"] > 90
    head, images = learner.net.head, stream[1].train
    with torch.no_grad():
        assert (head(head.means[:6]).scores.argmax(1) == torch.arange(6)).sum() > 3, "old classes are still known"
        assert torch.equal(learner.net.eval()(images.pixels).logits.argmax(1), images.labels)


def test_nc_fscil_on_a_shared_base_network(tmp_path):
    carry_out(prepare("decoupled_cosine"), tmp_path / "one")
    settings = {"base_loss": "cross_entropy", "align_epochs": 10}
    shared = carry_out(prepare("nc_fscil", **settings), tmp_path / "shared", base=tmp_path / "one")
    assert shared[0].stage == "align"
    carry_out(prepare("nc_fscil", **settings), tmp_path / "own")
    assert result(tmp_path / "shared") == result(tmp_path / "own")
    done = [event for event in shared if isinstance(event, PhaseDone)]
    assert done[0].correct["head"][0] > 0.5 * done[0].counts[0]
    with pytest.raises(InputError, match="head was 'cosine', is now 'simplex'"):
        carry_out(prepare("nc_fscil"), tmp_path / "other", base=tmp_path / "one")


def test_base_networks_of_another_loss_weight_are_others():
    one, same, other = (prepare("nc_fscil", loss_weight=weight) for weight in (10.0, 10.0, 5.0))
    assert experiment.base_identity(one) == experiment.base_identity(same) != experiment.base_identity(other)


SHARED = {"base_loss": "cross_entropy", "align_epochs": 1}
BROKEN_OFF = [("decoupled_cosine", {}), ("cec", {}), ("nc_fscil", {}), ("nc_fscil", SHARED)]


@pytest.mark.parametrize(("strategy", "values"), BROKEN_OFF)
def test_a_run_that_is_broken_off_after_any_stage_ends_as_one_that_was_not(strategy, values, tmp_path):
    events = carry_out(prepare(strategy, base_epochs=1, **values), tmp_path / "whole")
    for until in range(1, len(events)):
        out = tmp_path / str(until)
        carry_out(prepare(strategy, base_epochs=1, **values), out, until=until)
        carry_out(prepare(strategy, base_epochs=1, **values), out, resume=True)
        assert result(out) == result(tmp_path / "whole")


@pytest.mark.parametrize("strategy", OWN)
def test_strategies_run_on_a_few_shot_stream(strategy, tmp_path):
    done = [event for event in carry_out(prepare(strategy), tmp_path / "run") if isinstance(event, PhaseDone)]
    assert [len(event.counts) for event in done] == [1, 2, 3]
    base = [event.correct["head"][0] / event.counts[0] for event in done]
    if strategy in FROZEN:
        assert base[0] > 0.5
        assert base[-1] > 0.5 * base[0], "the base classes are not forgotten"


@pytest.mark.parametrize(("one", "other"), [("finetune", "cec"), ("cec", "teen"), ("teen", "decoupled_cosine")])
def test_base_networks_are_shared(one, other, tmp_path):
    carry_out(prepare(one), tmp_path / "one")
    shared = carry_out(prepare(other), tmp_path / "shared", base=tmp_path / "one")
    assert shared[0].stage == "mean_rows"
    carry_out(prepare(other), tmp_path / "own")
    assert result(tmp_path / "shared") == result(tmp_path / "own")


def test_decoupled_cosine_may_keep_exemplars(tmp_path):
    done = carry_out(prepare("decoupled_cosine", per_class=4), tmp_path / "run")[-1]
    assert done.correct.keys() == {"head", "nearest_mean"}
    assert record.load(tmp_path / "run").exemplars.count == 40
