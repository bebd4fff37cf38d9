"""Self-training (LST): hard selection, soft weights, recursion, and where the gradients of meta-training go."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from mnemo.components.pseudo_labels import most_confident, revealed
from mnemo.components.self_training import SelfTraining
from mnemo.components.soft_weights import SoftWeights
from mnemo.disk.files import InputError
from mnemo.fewshot.base_learner import query_loss
from mnemo.fewshot.gradient_descent import GradientDescent
from mnemo.fewshot.tasks import Tasks

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
SHORT = {"steps": 5, "test_steps": 7, "retrain_steps": 3, "test_retrain_steps": 2, "stage_steps": 4, "pseudo_steps": 3}


def draw_tasks(count=3, ways=3, shots=2, unlabelled=11, features=4, spread=0.8, seed=0):
    """Tasks of Gaussian classes, and their queries' labels; the unlabelled images come class by class."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(count, ways, features, generator=draw, dtype=torch.float64)

    def images(labels):
        noise = torch.randn(count, len(labels), features, generator=draw, dtype=torch.float64)
        return centres[:, labels] + spread * noise

    labels, answers = torch.arange(ways).repeat_interleave(shots), torch.arange(ways).repeat_interleave(4)
    hidden = torch.arange(unlabelled) * ways // max(unlabelled, 1)
    tasks = Tasks(images(labels), labels.expand(count, -1), images(answers), images(hidden), ways)
    return tasks, answers.expand(count, -1)


def build(training=True, features=4, ways=3, of=SelfTraining, **settings):
    torch.manual_seed(1)
    learner = of(features, ways, rate=0.2, **settings).double().train(training)
    if learner.start == "learned":
        torch.nn.init.normal_(learner.bias, std=0.3)
    for parameter in learner.parameters():
        assert parameter.dtype == torch.float64
    return learner


# A second implementation: a task at a time, a class at a time, with autograd for every step


def soft_weights_by_hand(network, features, prototypes):
    joined = torch.cat([network.of_image.weight, network.of_prototype.weight], 1)
    rows = []
    for image in features:
        pairs = [network.rest(joined @ torch.cat([image, p]) + network.of_image.bias) for p in prototypes]
        rows.append(torch.cat(pairs))
    scores = torch.stack(rows)
    return scores.softmax(1) if network.output == "softmax" else 1 / (1 + (-scores).exp())


def chosen_by_hand(head, images, places, ways, keep):
    """(place, pseudo-label) of what is kept."""
    weight, bias = head
    probabilities = (images[places] @ weight.T + bias).softmax(1).detach()
    labels = [int(row.argmax()) for row in probabilities]
    if keep is None:
        return list(zip(places, labels, strict=True))
    kept = []
    for c in range(ways):
        own = [(float(probabilities[i, c]), places[i]) for i in range(len(places)) if labels[i] == c]
        kept += [(place, c) for _, place in sorted(own, reverse=True)[:keep]]
    return kept


def trained_by_hand(learner, task, chosen, retrain_steps, steps, prototypes):
    support, labels, pool = task.support[0], task.labels[0], task.unlabelled[0]
    places, pseudo = [place for place, _ in chosen], torch.tensor([label for _, label in chosen], dtype=torch.int64)
    mean = learner.scale == "mean"
    weight, bias = learner.weight, learner.bias
    for step in range(steps):
        loss = F.cross_entropy(support @ weight.T + bias, labels, reduction="sum") / (
            len(labels) if mean else task.shots
        )
        if step < retrain_steps and places:
            logits = pool[places] @ weight.T + bias
            own = torch.ones(len(places), dtype=torch.float64)
            if learner.soft_weights is not None:
                soft = soft_weights_by_hand(learner.soft_weights, pool[places], prototypes)
                if learner.weigh == "logits":
                    logits = soft * logits
                else:
                    own = torch.stack([soft[i, label] for i, label in enumerate(pseudo)])
            losses = own * F.cross_entropy(logits, pseudo, reduction="none")
            loss = loss + losses.sum() / (len(places) if mean else task.shots)
        gradients = torch.autograd.grad(loss, [weight, bias], create_graph=True)
        weight, bias = weight - learner.rate * gradients[0], bias - learner.rate * gradients[1]
    return weight, bias


def by_hand(learner, task, m=None, steps=None):
    """Logits (q, ways) of a batch of one task."""
    training = learner.training
    m = learner.retraining if m is None else m
    steps = (learner.steps if training else learner.test_steps) if steps is None else steps
    keep = learner.keep if learner.hard and (learner.select_in_training or not training) else None
    stages = 1 if training else learner.stages
    pool = task.unlabelled[0]
    prototypes = torch.stack([task.support[0][task.labels[0] == c].mean(0) for c in range(task.ways)])
    head, chosen = trained_by_hand(learner, task, [], 0, learner.pseudo_steps, prototypes), []
    for stage in range(stages):
        latest = chosen_by_hand(head, pool, list(range(stage, len(pool), stages)), task.ways, keep)
        chosen = chosen + latest if learner.mixing else latest
        total = steps if stage == stages - 1 else learner.stage_steps
        head = trained_by_hand(learner, task, chosen, m, total, prototypes)
    return task.query[0] @ head[0].T + head[1]


SETTINGS = [
    {},
    {"soft": False, "hard": False, "stages": 1},
    {"soft": False, "stages": 1, "keep": 2},
    {"soft": False, "stages": 3, "keep": 2},
    {"hard": False, "stages": 1},
    {"stages": 1, "keep": 3},
    {"stages": 3, "keep": 2},
    {"stages": 3, "keep": 2, "mixing": True},
    {"stages": 2, "keep": 2, "soft_output": "sigmoid", "scale": "mean", "select_in_training": True},
    {"stages": 2, "keep": 2, "weigh": "loss", "scale": "mean"},
    {"start": "random", "soft": False, "keep": 1},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_steps_are_those_of_a_second_implementation(training, settings):
    learner = build(training, **{**SHORT, **settings})
    learner.weight.requires_grad_(True), learner.bias.requires_grad_(True)  # autograd needs them for its steps
    tasks, _ = draw_tasks()
    found = learner(tasks)
    for index in range(3):
        close(found[index], by_hand(learner, tasks.one(index)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("lacks", ["images", "all images", "steps"])
def test_with_nothing_to_learn_from_it_is_gradient_descent(lacks, training):
    tasks, answers = draw_tasks(unlabelled=0 if lacks == "all images" else 11)
    tasks = tasks._replace(unlabelled=None) if lacks == "images" else tasks
    more = {"retrain_steps": 0, "test_retrain_steps": 0} if lacks == "steps" else {}
    learner = build(training, **{**SHORT, **more})
    options = {"steps": 5, "test_steps": 7, "scale": "sum_over_shot", "detach_support": True}
    plain = build(training, of=GradientDescent, **options)
    plain.load_state_dict({"weight": learner.weight, "bias": learner.bias})
    assert torch.equal(learner(tasks), plain(tasks))
    assert torch.equal(learner.loss(tasks, answers), plain.loss(tasks, answers))
    assert learner.evidence(tasks) == {}


def test_pseudo_labels_matter():
    tasks, _ = draw_tasks()
    learner = build(**SHORT)
    assert not torch.allclose(learner(tasks), learner(tasks._replace(unlabelled=None)), atol=1e-3)


# Hard selection


def test_hard_selection_by_hand():
    labels = torch.tensor([[0, 1, 0, 0, 2], [2, 2, 2, 2, 2]])
    confidences = torch.tensor([[0.5, 0.6, 0.9, 0.7, 0.4], [0.5, 0.9, 0.6, 0.9, 0.7]])
    rows, mask = most_confident(labels, confidences, range(3), keep=2)
    assert rows.shape == mask.shape == (2, 6)
    assert mask.tolist() == [[True, True, True, False, True, False], [False] * 4 + [True, True]]
    assert rows[mask].tolist() == [2, 3, 1, 4, 1, 3]


def test_hard_selection_of_more_than_there_is_keeps_all():
    labels, confidences = torch.tensor([[0, 1, 1]]), torch.tensor([[0.9, 0.8, 0.7]])
    rows, mask = most_confident(labels, confidences, range(2), keep=20)
    assert rows.shape == (1, 6)
    assert rows[mask].tolist() == [0, 1, 2]


def test_one_selected_image_moves_the_head_whatever_empty_places_hold():
    """Both images are called class 0, which leaves the place of class 1 empty: its row points at one of them."""
    tasks, _ = draw_tasks(count=1, ways=2, unlabelled=2, features=2)
    tasks = tasks._replace(unlabelled=tasks.support[:, :1].expand(-1, 2, -1) * torch.tensor([[[3.0], [1.0]]]).double())
    learner = build(False, features=2, ways=2, **{**SHORT, "keep": 1, "stages": 1, "soft": False})
    evidence = learner.evidence(tasks)
    assert evidence["pseudo_labels"][0].unique().numel() == 1
    assert evidence["selected"].tolist() == [[True, False]]
    alone = tasks._replace(unlabelled=tasks.unlabelled[:, :1])
    close(learner(tasks), learner(alone))


# Recursion and mixing, in two dimensions by hand

PLANE = Tasks(
    support=torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]], dtype=torch.float64),
    labels=torch.tensor([[0, 1]]),
    query=torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64),
    # in turn of subset 0, called 0 and 1, and of subset 1, whose second the first stage calls 1 and no longer 0
    unlabelled=torch.tensor([[[2.0, 4.0], [3.0, 0.0], [-2.0, -4.0], [0.1, -1.0]]], dtype=torch.float64),
    ways=2,
)


def on_the_plane(**settings):
    steps = {"steps": 1, "retrain_steps": 1, "test_steps": 1, "test_retrain_steps": 1, "stage_steps": 1}
    learner = SelfTraining(2, 2, rate=1.0, soft=False, pseudo_steps=0, keep=1, **steps, **settings).double().eval()
    with torch.no_grad():
        learner.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    return learner


def one_step(images):
    """The weight of class 0, minus that of class 1, after a step of rate 1 from (1, 0) and (-1, 0)."""
    first = [1.0, 0.0]
    for (x, y), label in images:
        error = 1 / (1 + math.exp(-2 * x)) - (label == 0)
        first = [first[0] - error * x, first[1] - error * y]
    return first


SUPPORT = [((1, 0), 0), ((-1, 0), 1)]
FIRST, SECOND = [((2, 4), 0), ((-2, -4), 1)], [((3, 0), 0), ((0.1, -1), 1)]


@pytest.mark.parametrize(("mixing", "learned"), [(False, SECOND), (True, FIRST + SECOND)])
def test_recursion_replaces_and_mixing_accumulates(mixing, learned):
    learner = on_the_plane(stages=2, mixing=mixing)
    weight = one_step(SUPPORT + learned)
    found = learner(PLANE)[0]  # no bias: errors of class 0 and 1 are symmetrical in FIRST alone
    bias = sum((label == 0) - 1 / (1 + math.exp(-2 * x)) for (x, _), label in SUPPORT + learned)
    close(found[:, 0], torch.tensor([weight[0] + bias, weight[1] + bias], dtype=torch.float64))
    close(found[:, 1], -found[:, 0])


def test_a_stage_labels_by_what_the_one_before_has_learned():
    recursive, single = on_the_plane(stages=2).evidence(PLANE), on_the_plane(stages=1).evidence(PLANE)
    assert single["pseudo_labels"].tolist() == [[0, 0, 1, 0]]
    assert single["stages"].tolist() == [[0, 0, 0, 0]]
    assert single["selected"].tolist() == [[False, True, True, False]]
    assert recursive["pseudo_labels"].tolist() == [[0, 0, 1, 1]]
    assert recursive["stages"].tolist() == [[0, 1, 0, 1]]
    assert recursive["selected"].all()
    assert recursive["confidences"][0, 0] == pytest.approx(1 / (1 + math.exp(-4)))
    x, y = one_step(SUPPORT + FIRST)
    assert recursive["confidences"][0, 1] == pytest.approx(1 / (1 + math.exp(-6 * x)))
    assert recursive["confidences"][0, 3] == pytest.approx(1 / (1 + math.exp(2 * (0.1 * x - y))))


def test_more_stages_than_images_are_as_many_as_images():
    close(on_the_plane(stages=9)(PLANE), on_the_plane(stages=4)(PLANE))


# Gradients


def gradients(scalar, learner):
    return dict(
        zip(
            [name for name, _ in learner.named_parameters()],
            torch.autograd.grad(scalar, list(learner.parameters()), allow_unused=True, retain_graph=True),
            strict=True,
        )
    )


@pytest.mark.parametrize("first_order", [False, True])
def test_each_part_learns_from_its_own_loss(first_order):
    """The soft weights from the queries at theta_m, theta' from those at theta_T, against the second implementation."""
    learner = build(**SHORT, first_order=first_order)
    tasks, answers = draw_tasks()
    found = gradients(learner.loss(tasks, answers), learner)

    def loss(steps):
        logits = torch.stack([by_hand(learner, tasks.one(i), 3, steps) for i in range(3)])
        return query_loss(logits, answers)

    after_retraining, final = gradients(loss(3), learner), gradients(loss(5), learner)
    theta = {"weight", "bias"}
    for name in found.keys() - theta:
        close(found[name], after_retraining[name])
        if name != "soft_weights.rest.4.bias":  # which a softmax over classes does not feel
            assert not torch.allclose(found[name], final[name])
    for name in theta:
        assert torch.allclose(found[name], final[name], rtol=1e-10, atol=1e-10) != first_order
        assert not torch.allclose(found[name], after_retraining[name] + final[name])


def test_the_final_queries_do_not_reach_the_soft_weights():
    learner = build(**SHORT)
    tasks, answers = draw_tasks()
    found = gradients(query_loss(learner(tasks), answers), learner)
    assert all((gradient is None) == name.startswith("soft_weights") for name, gradient in found.items())


@pytest.mark.parametrize("detach", [True, False])
def test_the_retrained_queries_do_not_reach_theta_or_the_network(detach):
    learner = build(**SHORT, detach_support=detach)
    tasks, answers = draw_tasks()
    parts = {name: getattr(tasks, name).clone().requires_grad_() for name in ("query", "support", "unlabelled")}
    tasks = tasks._replace(**parts)
    both, final = learner.loss(tasks, answers), query_loss(learner(tasks), answers)
    assert both > final
    leaves = [parts["query"], learner.weight, learner.bias]
    leaves += [] if detach else [parts["support"], parts["unlabelled"]]
    for leaf in leaves:
        one, other = (torch.autograd.grad(scalar, leaf, retain_graph=True)[0] for scalar in (both, final))
        close(one, other)


@pytest.mark.parametrize("detach", [True, False])
def test_whether_the_network_is_felt_through_what_is_learned_from(detach):
    tasks, answers = draw_tasks()
    support, unlabelled = tasks.support.clone().requires_grad_(), tasks.unlabelled.clone().requires_grad_()
    query = tasks.query.clone().requires_grad_()
    tasks = tasks._replace(support=support, unlabelled=unlabelled, query=query)
    loss = build(**SHORT, detach_support=detach).loss(tasks, answers)
    found = torch.autograd.grad(loss, [query, support, unlabelled], allow_unused=True)
    assert [gradient is None for gradient in found] == [False, detach, detach]


def test_first_order_gradients_are_those_at_the_last_head():
    learner = build(**SHORT, first_order=True)
    tasks, answers = draw_tasks()
    found = gradients(query_loss(learner(tasks), answers), learner)
    *_, head = learner.heads(tasks)
    weight = head.weight.detach().requires_grad_()
    at_the_end = torch.autograd.grad(query_loss(head._replace(weight=weight).logits(tasks.query), answers), weight)[0]
    close(found["weight"], at_the_end.sum(0))


def differences(parameter, function, step=1e-6):
    found = torch.zeros_like(parameter)
    with torch.no_grad():
        for place in range(min(parameter.numel(), 6)):
            flat = parameter.view(-1)
            before = flat[place].item()
            flat[place] = before + step
            above = function()
            flat[place] = before - step
            found.view(-1)[place] = (above - function()) / (2 * step)
            flat[place] = before
    return found


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_meta_gradients_are_finite_differences(kind):
    tasks, answers = draw_tasks()
    learner = build(**{**SHORT, "kind": kind, "temperature": 3.0})
    at_m = build(**{**SHORT, "steps": 3, "kind": kind, "temperature": 3.0})
    at_m.load_state_dict(learner.state_dict())
    learner.loss(tasks, answers).backward()
    for parameter, other, steps in [
        (learner.weight, learner.weight, learner),
        (learner.soft_weights.rest[4].weight, at_m.soft_weights.rest[4].weight, at_m),
        (learner.soft_weights.of_prototype.weight, at_m.soft_weights.of_prototype.weight, at_m),
    ]:
        expected = differences(other, lambda steps=steps: float(query_loss(steps(tasks), answers)))
        torch.testing.assert_close(parameter.grad.view(-1)[:6], expected.view(-1)[:6], rtol=1e-5, atol=1e-8)


# What holds of it as a whole


def test_self_training_helps_where_one_image_of_a_class_is_not_enough():
    """Two clusters that differ along one axis and spread along the other, where one image says little."""
    draw = torch.Generator().manual_seed(0)
    labels, answers, hidden = torch.tensor([0, 1]), torch.arange(2).repeat(20), torch.arange(2).repeat(30)
    centres, spread = torch.tensor([[2.0, 0.0], [-2.0, 0.0]]), torch.tensor([0.6, 1.8])
    support, query, unlabelled = (
        centres[each] + spread * torch.randn(100, len(each), 2, generator=draw) for each in (labels, answers, hidden)
    )
    tasks = Tasks(support, labels.expand(100, -1), query, unlabelled, 2)

    def accuracy(learner):
        torch.nn.init.zeros_(learner.weight)
        return float((learner.eval()(tasks).argmax(2) == answers).float().mean())

    plain = accuracy(GradientDescent(2, 2, test_steps=40))
    single, recursive = (accuracy(SelfTraining(2, 2, test_steps=40, soft=False, stages=stages)) for stages in (1, 3))
    assert single > plain + 0.01
    assert recursive > single


@pytest.mark.parametrize("training", [True, False])
def test_tasks_do_not_meet(training):
    tasks, answers = draw_tasks()
    learner = build(training, **SHORT, keep=2)
    order = torch.tensor([2, 0, 1])
    turned = Tasks(*(part[order] for part in tasks[:4]), tasks.ways)
    close(learner(turned), learner(tasks)[order])
    close(learner.loss(turned, answers), learner.loss(tasks, answers))
    for name, found in learner.evidence(turned).items():
        close(found, learner.evidence(tasks)[name][order])


def test_queries_do_not_meet():
    tasks, _ = draw_tasks()
    learner = build(False, **SHORT)
    assert not learner.transductive
    close(learner(tasks._replace(query=tasks.query[:, :1])), learner(tasks)[:, :1])


@pytest.mark.parametrize("ways", [2, 7])
def test_soft_weights_serve_any_number_of_classes(ways):
    torch.manual_seed(0)
    network = SoftWeights(4, "sigmoid").double()
    images, prototypes = torch.randn(2, 5, 4).double(), torch.randn(2, ways, 4).double()
    order = torch.randperm(ways)
    close(network(images, prototypes)[:, :, order], network(images, prototypes[:, order]))
    close(network(images, prototypes)[:, :, :1], network(images, prototypes[:, :1]))
    network.output = "softmax"
    close(network(images, prototypes).sum(2), torch.ones(2, 5).double())


def test_more_classes_need_no_other_soft_weights():
    tasks, answers = draw_tasks(ways=7)
    learner, other = build(ways=7, **SHORT), build(ways=3, **SHORT)
    learner.soft_weights.load_state_dict(other.soft_weights.state_dict())
    assert learner.loss(tasks, answers).isfinite()


def test_evidence_has_the_weight_of_the_pseudo_class():
    tasks, _ = draw_tasks()
    learner = build(False, **SHORT, keep=1, stages=2)
    found = learner.evidence(tasks)
    assert {tuple(each.shape) for each in found.values()} == {(3, 11)}
    for index in range(3):
        task = tasks.one(index)
        prototypes = torch.stack([task.support[0][task.labels[0] == c].mean(0) for c in range(3)])
        weights = soft_weights_by_hand(learner.soft_weights, task.unlabelled[0], prototypes)
        close(found["soft_weights"][index], weights[range(11), found["pseudo_labels"][index]].detach())
    assert all(1 <= count <= 2 * 3 for count in found["selected"].sum(1).tolist())


def test_hard_selection_is_of_evaluation_unless_told():
    tasks, _ = draw_tasks()
    options = {**SHORT, "keep": 1, "stages": 1}
    assert build(**options).evidence(tasks)["selected"].all()
    assert not build(**options, select_in_training=True).evidence(tasks)["selected"].all()
    assert not build(False, **options).evidence(tasks)["selected"].all()
    assert build(False, **options, hard=False).evidence(tasks)["selected"].all()


def test_the_upper_bound_has_the_unlabelled_images_in_its_support():
    tasks, _ = draw_tasks(unlabelled=9)
    hidden = torch.arange(3).repeat_interleave(3).expand(3, -1)
    known = revealed(tasks, hidden)
    assert known.shots == 5
    assert known.unlabelled is None
    close(known.targets.sum(1), torch.full((3, 3), 5.0).double())
    close(known.support[:, 6:], tasks.unlabelled)
    assert revealed(known, hidden) is known


@pytest.mark.parametrize(
    "settings", [{"retrain_steps": 21}, {"test_retrain_steps": 101}, {"stage_steps": 9}, {"stages": 0}], ids=str
)
def test_what_cannot_be_is_refused(settings):
    with pytest.raises(InputError, match="self-training needs"):
        SelfTraining(4, 3, **settings)


@pytest.mark.parametrize("hard", [False, True])
def test_what_seems_to_be_of_a_known_class_is_not_learned_from(hard):
    torch.manual_seed(0)
    support = torch.tensor([[[5.0, 0.0], [0.0, 5.0]]])
    old = torch.tensor([[[-5.0, -5.0]]])
    pool = torch.tensor([[[4.0, 0.3], [-3.0, -3.2], [0.2, 4.5], [-4.0, -5.0]]])
    tasks = Tasks(support, torch.tensor([[0, 1]]), pool[:, :3], pool, 2, old)
    learner = SelfTraining(2, 2, hard=hard, soft=False, stages=1, start="prototypes", kind="cosine").eval()
    found = learner.evidence(tasks)
    assert found["pseudo_labels"].tolist() == [[1, 0, 2, 0]]
    assert found["selected"].tolist() == [[True, False, True, False]]
    logits = learner(tasks)
    assert logits.shape == (1, 3, 3)
    assert logits.argmax(2).tolist() == [[1, 0, 2]]
