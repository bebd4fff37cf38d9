"""SIB: what its steps are by autograd, and whom they depend on."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mnemo.components.ensemble import Ensemble
from mnemo.components.hyperprior import Hyperprior
from mnemo.components.synthetic_gradient import PerClass, SyntheticGradient, TaskNorm, synthesiser
from mnemo.fewshot.base_learner import query_loss
from mnemo.fewshot.prototypes import Prototypes
from mnemo.fewshot.tasks import Tasks

T, WAYS, QUERIES, D = 3, 4, 8, 6
RATE = 2**-4  # the same in single and in double precision
NETWORKS = ["batch_norm", "layer_norm", "equivariant"]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def tasks():
    labels = torch.arange(WAYS).repeat_interleave(2).expand(T, -1)
    return Tasks(draw(T, 2 * WAYS, D), labels, draw(T, QUERIES, D, seed=1), None, WAYS)


@pytest.fixture
def answers():
    return torch.randint(0, WAYS, (T, QUERIES), generator=torch.Generator().manual_seed(2))


def build(network="batch_norm", **values):
    """One that has learned something: no parameter is at a special value."""
    torch.manual_seed(0)
    made = SyntheticGradient(D, WAYS, network=network, **{"rate": RATE, **values}).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return made


def as_published(network):
    """The public code's layers, with BatchNorm1d in training mode, for one task."""
    layers = nn.Sequential(
        *(nn.BatchNorm1d(8 * WAYS).double() if isinstance(part, TaskNorm) else part for part in network.layers)
    ).train()
    for mine, theirs in zip(network.layers, layers, strict=True):
        if isinstance(mine, TaskNorm):
            theirs.load_state_dict({"weight": mine.weight, "bias": mine.bias}, strict=False)
    return layers


def literal(made, one, steps, rate):
    """A task's scores, by autograd through scores that are written out."""
    support, query = F.normalize(one.support[0], dim=1), one.query[0]
    theta = made.diagonal * torch.stack([support[one.labels[0] == c].mean(0) for c in range(WAYS)])
    network = as_published(made.synthesiser)

    def score(theta):
        return made.scale * (made.bias + F.cosine_similarity(query.unsqueeze(1), theta.unsqueeze(0), dim=2))

    for _ in range(steps):
        scores = score(theta)
        (slope,) = torch.autograd.grad(scores, theta, grad_outputs=network(scores), create_graph=True)
        theta = theta - rate * slope
    return score(theta)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("steps", [1, 3])
def test_scores_and_meta_gradients_are_autograds(tasks, answers, steps, training):
    made = build(steps=steps).train(training)
    found = made(tasks)
    expected = torch.stack([literal(made, tasks.one(index), steps, RATE) for index in range(T)])
    torch.testing.assert_close(found, expected)
    parameters = [made.scale, made.bias, made.diagonal, made.synthesiser.layers[0].weight]
    ours, theirs = (torch.autograd.grad(query_loss(logits, answers), parameters) for logits in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_the_fixed_part_of_a_new_one():
    made = SyntheticGradient(D, WAYS)
    assert (made.scale.item(), made.bias.item(), made.steps, made.rate) == (10, 0, 3, 1e-3)
    assert torch.equal(made.diagonal, torch.ones(D))
    assert [part.out_features for part in made.synthesiser.layers if isinstance(part, nn.Linear)] == [32, 32, 4]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("network", NETWORKS)
def test_without_steps_it_is_cosine_prototypes(tasks, network, training):
    made = SyntheticGradient(D, WAYS, steps=0, network=network).double().train(training)
    unit = tasks._replace(support=F.normalize(tasks.support, dim=2))
    torch.testing.assert_close(made(tasks), Prototypes("cosine").double()(unit), rtol=0, atol=1e-12)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_step_tells(tasks, network):
    one, two, three = (build(network, steps=steps)(tasks) for steps in (0, 1, 2))
    assert (one - two).abs().max() > 1e-4
    assert (two - three).abs().max() > 1e-4


@pytest.mark.parametrize("network", NETWORKS)
def test_all_of_it_learns_through_the_steps(tasks, answers, network):
    made = build(network)
    made.loss(tasks, answers).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in made.parameters())


@pytest.mark.parametrize("network", NETWORKS)
def test_a_batch_of_tasks_is_its_tasks(tasks, network):
    made = build(network)
    assert made.transductive
    alone = torch.cat([made(tasks.one(index)) for index in range(T)])
    torch.testing.assert_close(made(tasks), alone, rtol=0, atol=1e-12)


def test_it_needs_no_gradient_to_answer(tasks):
    made = build()
    with torch.no_grad():
        answered = made(tasks)
    torch.testing.assert_close(answered, made(tasks))


def test_task_norm_is_batch_norm_task_by_task():
    values = draw(T, QUERIES, 5)
    norm, theirs = TaskNorm(5).double(), nn.BatchNorm1d(5).double()
    for one in (norm, theirs):
        nn.init.constant_(one.weight, 2), nn.init.constant_(one.bias, 0.3)
    for mode in (True, False):
        torch.testing.assert_close(norm.train(mode)(values), torch.stack([theirs(value) for value in values]))
    assert torch.equal(norm(values[:, :1]), torch.full((T, 1, 5), 0.3, dtype=torch.float64))


@pytest.mark.parametrize(("network", "leaks"), [("batch_norm", True), ("layer_norm", False), ("equivariant", False)])
def test_whether_queries_leak_within_the_network(network, leaks):
    made, scores = synthesiser(network, WAYS).double(), draw(T, QUERIES, WAYS)
    others = scores.clone()
    others[:, 1:] += 1
    others[:, 1:, 0] += 1
    assert torch.allclose(made(scores)[:, 0], made(others)[:, 0]) is not leaks


def test_the_equivariant_one_permutes_with_classes(tasks):
    made, order = build("equivariant"), torch.tensor([2, 0, 3, 1])
    renamed = tasks._replace(labels=order.argsort()[tasks.labels])
    torch.testing.assert_close(made(renamed), made(tasks)[:, :, order], rtol=0, atol=1e-12)
    assert (build()(renamed) - build()(tasks)[:, :, order]).abs().max() > 1e-4


def test_the_equivariant_one_takes_any_number_of_ways():
    made = PerClass().double()
    assert all(made(draw(T, QUERIES, ways)).shape == (T, QUERIES, ways) for ways in (2, 5, 20))


# With E3BM on top


@pytest.mark.parametrize("network", NETWORKS)
def test_led_at_one_rate_it_is_itself(tasks, network):
    made = build(network, steps=3)
    led = Ensemble(made, Hyperprior(alpha="fixed", combine="last"), steps=3, rate=RATE).double()
    torch.testing.assert_close(led(tasks), made(tasks), rtol=0, atol=1e-12)
    assert led.transductive


def test_scores_of_all_its_steps_are_added_up(tasks):
    made = build(steps=3)
    led = Ensemble(made, Hyperprior(alpha="learned", combine="learned"), steps=3).double()
    with torch.no_grad():
        led.hyperprior.v0.copy_(torch.tensor([0.5, -0.25, 0.75]))
        led.hyperprior.alpha0.fill_(RATE)
    each = [build(steps=steps)(tasks) for steps in (1, 2, 3)]
    torch.testing.assert_close(led(tasks), 0.5 * each[0] - 0.25 * each[1] + 0.75 * each[2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("hyperprior", ["fc", "lstm"])
@pytest.mark.parametrize("network", NETWORKS)
def test_synthesiser_and_hyperprior_learn_together(tasks, answers, network, hyperprior):
    prior = Hyperprior(hyperprior=hyperprior, condition="query", first_weights="equal", softweight=0.1)
    led = Ensemble(build(network), prior, steps=3, rate=1e-3).double()
    led.loss(tasks, answers).backward()
    for name, group in led.groups().items():
        assert group, name
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in group), name
