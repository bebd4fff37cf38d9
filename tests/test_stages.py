"""Training: schedules, what learns, and strategies' objectives on a tiny stream."""

import dataclasses

import pytest
import torch

from mnemo.augment import CropAndFlip
from mnemo.disk.files import InputError
from mnemo.images import Images
from mnemo.learner import Learner, PhaseDone, run
from mnemo.nets.heads import BiasCorrectedHead
from mnemo.phases import split_by_class
from mnemo.settings import FineTuning, Memory, Training, arguments, flat
from mnemo.stages import Draws, Schedule
from mnemo.strategies.bic import _fit, bic, split_for_correction
from mnemo.strategies.finetune import finetune
from mnemo.strategies.icarl import icarl
from mnemo.strategies.joint import joint
from mnemo.strategies.lucir import lucir
from mnemo.strategies.lwf import lwf

TRAINING = Training(epochs=1, batch_size=16, backbone="small", lr=0.02)


def stream(classes=6, each=12):
    torch.manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(each)
    base = torch.randint(0, 200, (classes, 1, 8, 8))
    pixels = (base[labels] + torch.randint(0, 50, (len(labels), 1, 8, 8))).to(torch.uint8)
    images = Images(pixels, labels)
    return split_by_class(images, images, order=list(range(classes)), base_classes=2, increment=2)


def learner(strategy, seed=0):
    return Learner(strategy, 1, [120.0], [70.0], CropAndFlip(1, False), torch.device("cpu"), seed)


def test_the_learning_rate_falls_where_the_paper_says():
    # the public code steps its scheduler at the start of an epoch, which is one epoch early on torch above 1.0
    rates = [Schedule(160, 0.1).lr_at(epoch) for epoch in (0, 79, 80, 119, 120, 159)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    thirds = Training(epochs=90, milestones=(1 / 3, 2 / 3)).schedule
    assert [epoch for epoch in range(1, 90) if thirds.lr_at(epoch) < thirds.lr_at(epoch - 1)] == [30, 60]


def test_half_a_cosine():
    rates = [Schedule(4, 0.2, annealing="cosine").lr_at(epoch) for epoch in range(4)]
    assert rates == pytest.approx([0.2, 0.1 + 0.1 * 0.5**0.5, 0.1, 0.1 - 0.1 * 0.5**0.5])


def test_old_classes_are_drawn_as_often_as_is_asked_for():
    labels = torch.tensor([0] * 3 + [1] * 5 + [4] * 7 + [0])
    old = {0: [0, 1, 2, 15], 1: [3, 4, 5, 6, 7]}
    for replays in (2, 4, 11):
        draws = Draws(labels, 4, replays)
        one, other = (draws(torch.Generator().manual_seed(seed)) for seed in (0, 1))
        counts = torch.bincount(one, minlength=len(labels))
        assert counts[8:15].tolist() == [1] * 7
        for where in old.values():
            assert counts[where].sum() == replays
            assert counts[where].max() - counts[where].min() <= 1
        assert one.tolist() != other.tolist()
    once = Draws(labels, 4, 0)(torch.Generator().manual_seed(0))
    assert torch.equal(once, torch.randperm(16, generator=torch.Generator().manual_seed(0)))


def test_waypoints_are_kept_until_the_phase_ends():
    training = dataclasses.replace(TRAINING, epochs=5, waypoints=2)
    one = learner(lucir(training=training, memory=Memory(per_class=2)))
    epochs = [event.epoch for event in one.learn(stream()[0]) if event.stage == "train" and len(one.waypoints)]
    assert epochs == [1, 2, 3, 4], "after the second and the fourth of five epochs"
    assert len(one.waypoints) == 2
    weights = [net.backbone.layers[0].weight for net in (*one.waypoints, one.net)]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


def test_lucir_keeps_old_weights_and_moves_the_rest():
    phases, one = stream(), learner(lucir(training=TRAINING, memory=Memory(per_class=2)))
    events = run(one, phases)
    next(event for event in events if isinstance(event, PhaseDone))
    old = one.net.head.weights[0].detach().clone()
    body = one.net.backbone.layers[0].weight.detach().clone()
    next(event for event in events if isinstance(event, PhaseDone))
    assert torch.equal(one.net.head.weights[0], old)
    assert not torch.equal(one.net.backbone.layers[0].weight, body)


def test_balanced_fine_tuning_moves_old_weights_and_leaves_statistics():
    strategy = lucir(training=TRAINING, memory=Memory(per_class=2), fine_tuning=FineTuning(fine_tune_epochs=1))
    one = learner(strategy)
    before = None
    for event in run(one, stream()):
        if getattr(event, "stage", "") == "compress" and event.phase == 1:
            before = {name: tensor.clone() for name, tensor in one.net.state_dict().items()}
        if getattr(event, "stage", "") == "fine_tune":
            break
    after = one.net.state_dict()
    assert not torch.equal(after["head.weights.0"], before["head.weights.0"])
    assert all(torch.equal(after[name], before[name]) for name in after if "running" in name)


def test_the_previous_network_is_frozen_and_is_the_last_phases():
    one = learner(lwf(training=TRAINING, memory=Memory(per_class=2)))
    events, ends = run(one, stream()), []
    for event in events:
        if isinstance(event, PhaseDone):
            ends.append({name: tensor.clone() for name, tensor in one.net.state_dict().items()})
        elif event.phase == 1:
            previous = one.previous.state_dict()
            assert all(torch.equal(previous[name], ends[0][name]) for name in ends[0])
            assert not any(parameter.requires_grad for parameter in one.previous.parameters())
            assert one.previous.head.classes == 2


def test_without_memory_only_the_new_classes_are_left():
    done = list(run(learner(finetune(training=dataclasses.replace(TRAINING, epochs=30, lr=0.1))), stream()))[-1]
    assert done.correct["head"][-1] > 0.8 * done.counts[-1]
    assert sum(done.correct["head"][:-1]) <= 0.2 * sum(done.counts[:-1])
    assert "nearest_mean" not in done.correct


def test_joint_starts_every_phase_anew_and_keeps_everything():
    one = learner(joint(training=dataclasses.replace(TRAINING, epochs=15)))
    done = list(run(one, stream()))[-1]
    assert len(one.memory) == 6 * 12
    assert sum(done.correct["head"]) > 0.9 * sum(done.counts)
    assert [len(weight) for weight in one.net.head.weights] == [2, 2, 2]


def test_icarl_and_lwf_are_one_training_with_two_classifiers():
    ends = []
    for recipe in (icarl, lwf):
        one = learner(recipe(training=TRAINING, memory=Memory(per_class=2)))
        ends.append((list(run(one, stream()))[-1], one.predict(stream()[0].test.pixels)))
    assert ends[0][0] == ends[1][0]
    done, labels = ends[0][0], stream()[0].test.labels
    assert done.correct["nearest_mean"][0] == int((ends[0][1] == labels).sum())
    assert done.correct["head"][0] == int((ends[1][1] == labels).sum())


def test_bic_corrects_by_a_balanced_set_that_it_does_not_train_on():
    one = learner(bic(training=TRAINING, memory=Memory(per_class=4), held_out=0.25))
    for event in run(one, stream()):
        if getattr(event, "stage", "") == "correct_bias":
            break
    assert (one.net.head.gains[0], one.net.head.offsets[0]) == (1, 0)
    assert (one.net.head.gains[1], one.net.head.offsets[1]) != (1, 0)


def test_bics_split_is_balanced_and_disjoint():
    from mnemo.stages import Situation

    one = learner(bic(training=TRAINING, memory=Memory(per_class=8)))
    phases = stream()
    next(event for event in run(one, phases) if isinstance(event, PhaseDone))
    at = Situation(one.net, None, one.memory, phases[1], one.augmentation, (0, 1))
    train, held = split_for_correction(at, 0.25)
    assert torch.bincount(held.labels).tolist() == [2, 2, 2, 2]
    assert torch.bincount(train.labels).tolist() == [6, 6, 10, 10]
    sets = [{bytes(p.flatten().tolist()) for p in part.pixels} for part in (train, held)]
    assert not sets[0] & sets[1]


def test_bic_fits_the_optimum():
    torch.manual_seed(0)
    head = BiasCorrectedHead(4)
    head.grow(3)
    head.grow(3)
    raw, labels = torch.randn(60, 6), torch.randint(0, 6, (60,))
    raw[:, 3:] += 2  # new classes are favoured
    gain, offset, loss = _fit(head, raw, labels)

    def at(g, b):
        gains, offsets = torch.tensor([1.0, g]), torch.tensor([0.0, b])
        penalty = 1e-2 * ((g - 1) ** 2 + b**2)
        return float(torch.nn.functional.cross_entropy(head.correct(raw, gains, offsets), labels)) + penalty

    assert loss == pytest.approx(at(gain, offset), rel=1e-5)
    for nearby in (at(gain + 0.01, offset), at(gain - 0.01, offset), at(gain, offset + 0.01), at(gain, offset - 0.01)):
        assert nearby >= loss - 1e-7
    assert (gain * raw[:, 3:] + offset).mean() < raw[:, 3:].mean()


def test_bic_stays_finite_on_a_separable_held_out_set():
    head = BiasCorrectedHead(2)
    head.grow(1)
    head.grow(1)
    gain, offset, loss = _fit(head, torch.tensor([[5.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 1]))
    assert 1 < gain < 10
    assert abs(offset) < 5
    assert 0 < loss < 0.1


def test_a_loss_that_is_not_finite_is_one_clear_line():
    wild = dataclasses.replace(TRAINING, lr=1e30, epochs=3)
    with pytest.raises(InputError, match="a smaller lr may help"):
        list(run(learner(finetune(training=wild, head="linear")), stream()))


def test_the_same_seed_gives_the_same_run_and_another_does_not():
    def final(seed):
        one = learner(lucir(training=TRAINING, memory=Memory(per_class=2)), seed)
        list(run(one, stream()))
        return one.net.state_dict()["backbone.layers.0.weight"]

    torch.manual_seed(7)
    first = final(0)
    torch.rand(100)  # the global generator plays no part
    assert torch.equal(first, final(0))
    assert not torch.equal(first, final(1))


def test_settings_find_their_way_into_a_recipe():
    made = arguments(lucir, {"epochs": 7, "per_class": "5", "less_forget": 2})
    assert made["training"].epochs == 7
    assert made["memory"].per_class == 5
    values = flat(made)
    assert values["less_forget"] == 2.0
    assert values["batch_size"] == 128
    with pytest.raises(InputError, match="did you mean"):
        arguments(lucir, {"les_forget": 1})


def test_phases_come_in_order():
    one = learner(finetune(training=TRAINING))
    with pytest.raises(ValueError, match="does not follow"):
        list(one.learn(stream()[1]))
