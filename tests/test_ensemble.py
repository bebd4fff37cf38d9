"""E3BM and LCC: what remains when a part is switched off, and every formula written out."""

import copy

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from mnemo.components.ensemble import Ensemble
from mnemo.components.epochs import Epochs, HeadEpochs, moved
from mnemo.components.hyperprior import Hyperprior, class_mean, per_class
from mnemo.disk.files import InputError
from mnemo.fewshot.base_learner import query_loss
from mnemo.fewshot.gradient_descent import GradientDescent, Head, errors
from mnemo.fewshot.tasks import Tasks

T, WAYS, QUERIES, D, M = 3, 4, 6, 5, 4
RATE = 2**-3  # the same in single and in double precision
KINDS = {
    "linear": {},
    "cosine": {"kind": "cosine"},
    "prototypes": {"kind": "cosine", "start": "prototypes", "detach_support": True},
}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def tasks():
    labels = torch.arange(WAYS).repeat_interleave(2).expand(T, -1)
    return Tasks(draw(T, 2 * WAYS, D), labels, draw(T, QUERIES, D, seed=1), None, WAYS)


@pytest.fixture
def answers():
    return torch.randint(0, WAYS, (T, QUERIES), generator=torch.Generator().manual_seed(2))


def learner(kind="linear", first_order=True):
    torch.manual_seed(0)
    values = {"steps": M, "test_steps": M, "rate": RATE, "first_order": first_order, **KINDS[kind]}
    return GradientDescent(D, WAYS, **values).double()


def build(kind="linear", first_order=True, steps=M, **values):
    torch.manual_seed(1)
    base = HeadEpochs(learner(kind, first_order), first_order=first_order)
    return Ensemble(base, Hyperprior(**values), steps=steps, rate=RATE).double()


def close(one, other, atol=1e-12):
    torch.testing.assert_close(one, other, rtol=0, atol=atol)


def gradients(made, tasks, answers):
    parameters = [p for p in made.parameters() if p.requires_grad]
    return torch.autograd.grad(made.loss(tasks, answers), parameters)


# What remains when a part is switched off


PLAIN = [
    {"alpha": "fixed", "combine": "last"},
    {"alpha": "learned", "combine": "learned", "decay": "learned"},
    {"softweight": 0.0},
    {"softweight": 0.0, "hyperprior": "lstm", "condition": "query", "statistic": "per_class"},
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("values", PLAIN)
def test_a_new_one_without_generation_is_the_base_learner(tasks, values, kind, training):
    made, plain = build(kind, **values).train(training), learner(kind).train(training)
    close(made(tasks), plain(tasks))
    close(made.base(tasks), plain(tasks))


@pytest.mark.parametrize("first_order", [True, False])
@pytest.mark.parametrize("values", PLAIN)
def test_its_meta_gradient_is_the_base_learners(tasks, answers, values, first_order):
    made, plain = build(first_order=first_order, **values), learner(first_order=first_order)
    ours = torch.autograd.grad(made.loss(tasks, answers), [*made.base.parameters()])
    for one, other in zip(ours, gradients(plain, tasks, answers), strict=True):
        close(one, other)


@pytest.mark.parametrize("training", [True, False])
def test_equal_is_the_mean_of_the_epochs(tasks, training):
    made, plain = build(alpha="fixed", combine="equal").train(training), learner()
    close(made(tasks), torch.stack([head.logits(tasks.query) for head in plain.heads(tasks)]).mean(0))


def test_last_is_not_equal(tasks):
    assert (build(combine="last")(tasks) - build(combine="equal")(tasks)).abs().max() > 1e-3


# The formulas


def literal(made, tasks, query):
    """alpha, v and logits of one task, written out from the equations."""
    learner, prior, hyper = made.base.learner, made.prior, made.hyperprior
    weight, bias = learner.weight.unsqueeze(0), learner.bias.unsqueeze(0)
    state = {"alpha": None, "v": None}
    logits, alphas, weights = 0, [], []
    mean = (tasks.query if query else tasks.support).mean(1)
    for m in range(M):
        head = Head(weight, bias)
        slopes = errors(head.logits(tasks.support), tasks.targets) / tasks.support.shape[1]
        slope, lean = slopes.transpose(1, 2) @ tasks.support, slopes.sum(1)
        statistic = slope.mean(1) if prior.statistic == "class_mean" else per_class(slope, weight)
        inputs = torch.cat([mean, statistic], 1)
        said = {}
        for name, psi in (("alpha", hyper.psi_alpha), ("v", hyper.psi_v)):
            if prior.hyperprior == "fc":
                said[name] = psi.rows(inputs)[0, m]
            else:
                state[name] = psi.cell(inputs, state[name])
                said[name] = psi.output(state[name][0])[0, 0]
        alpha = hyper.alpha0[m, 0] + prior.softweight * said["alpha"]
        v = hyper.v0[m] + prior.softweight * said["v"]
        weight = weight - alpha * (slope + hyper.decay[m, 0] * weight)
        bias = bias - alpha * (lean + hyper.decay[m, 0] * bias)
        logits = logits + v * Head(weight, bias).logits(tasks.query)
        alphas.append(alpha), weights.append(v)
    return torch.stack(alphas), torch.stack(weights), logits


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("hyperprior", ["fc", "lstm"])
@pytest.mark.parametrize("condition", ["support", "query"])
@pytest.mark.parametrize("statistic", ["class_mean", "per_class"])
def test_the_equations_task_by_task(tasks, hyperprior, condition, statistic, training):
    values = {"hyperprior": hyperprior, "condition": condition, "statistic": statistic, "decay": "learned"}
    made = build(softweight=0.3, **values).train(training)
    with torch.no_grad():
        for parameter in (made.hyperprior.v0, made.hyperprior.decay, made.base.learner.bias):
            parameter += 0.1 * torch.randn_like(parameter)
    logits, evidence = made(tasks), made.evidence(tasks)
    assert made.transductive is (condition == "query")
    for index in range(T):
        alpha, v, expected = literal(made, tasks.one(index), condition == "query")
        close(logits[index : index + 1], expected)
        close(evidence["alpha"][index], alpha.detach())
        close(evidence["v"][index], v.detach())
    assert torch.equal(evidence["decay"], made.hyperprior.decay[:, 0])
    assert evidence["alpha"].std(0).min() > 1e-4


def test_the_exact_meta_gradient_is_finite_differences(tasks, answers):
    values = {"hyperprior": "lstm", "statistic": "per_class", "decay": "learned", "first_weights": "equal"}
    made = build(first_order=False, softweight=0.3, **values)
    parameters = [p for p in made.parameters() if p.requires_grad]
    for parameter, gradient in zip(parameters, gradients(made, tasks, answers), strict=True):
        direction = draw(*parameter.shape, seed=9)
        with torch.no_grad():
            parameter += 1e-5 * direction
            above = made.loss(tasks, answers)
            parameter -= 2e-5 * direction
            below = made.loss(tasks, answers)
            parameter += 1e-5 * direction
        torch.testing.assert_close((gradient * direction).sum(), (above - below) / 2e-5, rtol=1e-5, atol=1e-9)


def test_first_order_has_exact_partials_at_constant_gradients(tasks, answers):
    """Of alpha0 and v0: theta_M = theta_0 - sum of alpha_m g_m, where no g_m moves."""
    made = build(alpha="learned", combine="learned", first_weights="equal")
    base, hyper = made.base, made.hyperprior
    theta, slopes = base.begin(tasks), []
    for m in range(M):
        slopes.append([part.detach() for part in base.gradient(tasks, theta)])
        theta = tuple(part - RATE * slope for part, slope in zip(theta, slopes[m], strict=True))
    logits, now = 0, base.begin(tasks)
    for m in range(M):
        now = tuple(part - hyper.alpha0[m, 0] * slope for part, slope in zip(now, slopes[m], strict=True))
        logits = logits + hyper.v0[m] * base.logits(tasks, now)
    wanted = [hyper.alpha0, hyper.v0, base.learner.weight]
    expected = torch.autograd.grad(query_loss(logits, answers), wanted)
    for one, other in zip(torch.autograd.grad(made.loss(tasks, answers), wanted), expected, strict=True):
        close(one, other)


def test_orders_differ(tasks, answers):
    one, other = (gradients(build(first_order=order), tasks, answers)[0] for order in (True, False))
    assert (one - other).norm() > 1e-4 * one.norm()


@pytest.mark.parametrize(("kind", "nothing"), [("linear", True), ("cosine", False)])
def test_class_means_of_a_linear_heads_gradient_are_nothing(tasks, kind, nothing):
    """Why there is another statistic."""
    base = build(kind).base
    theta = base.begin(tasks)
    slope = base.gradient(tasks, theta)[0]
    assert bool(class_mean(slope, theta[0]).abs().max() < 1e-15) is nothing
    assert per_class(slope, theta[0])[:, :2].min() > 1e-3


def test_per_class_statistics_by_hand():
    slope = torch.tensor([[[3.0, 4.0], [0.0, -1.0]]])
    weight = torch.tensor([[[3.0, 4.0], [0.0, 2.0]]])
    close(per_class(slope, weight), torch.tensor([[2.0, 3.0, 0.0]]))
    close(per_class(slope.flip(1), weight.flip(1)), per_class(slope, weight))


# v


@pytest.mark.parametrize("how", ["last", "equal"])
def test_a_softmax_of_first_weights(tasks, how):
    made = build(combine="learned", normalise_v="softmax", first_weights=how)
    v = made.evidence(tasks)["v"]
    wanted = torch.full((M,), 0.25) if how == "equal" else torch.tensor([0.01 / 3] * 3 + [0.99])
    close(v, wanted.double().expand(T, -1), atol=1e-6)


def test_a_softmax_stays_one(tasks):
    made = build(normalise_v="softmax", softweight=10.0)
    v = made.evidence(tasks)["v"]
    close(v.sum(1), torch.ones(T, dtype=torch.float64))
    assert v.std(0).max() > 1e-3


@pytest.mark.parametrize(("combine", "wanted"), [("last", [0.0, 0.0, 0.0, 1.0]), ("equal", [0.25] * 4)])
def test_fixed_weights_know_no_softmax(tasks, combine, wanted):
    v = build(combine=combine, normalise_v="softmax").evidence(tasks)["v"]
    assert v.tolist() == [wanted] * T


# The oracle


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_the_oracle_is_each_tasks_best_epoch(seed, training):
    labels = torch.arange(WAYS).repeat_interleave(2).expand(20, -1)
    tasks = Tasks(draw(20, 2 * WAYS, D, seed=seed), labels, draw(20, QUERIES, D, seed=seed + 10), None, WAYS)
    answers = torch.randint(0, WAYS, (20, QUERIES), generator=torch.Generator().manual_seed(seed))
    made, plain = build(alpha="fixed", combine="oracle", steps=20), learner()
    plain.steps = plain.test_steps = 20
    made.train(training), plain.train(training)
    each = torch.stack([head.logits(tasks.query) for head in plain.heads(tasks)])
    right = (each.argmax(3) == answers).sum(2)
    found = made.solve(tasks, answers)
    assert torch.equal((found.argmax(2) == answers).sum(1), right.max(0).values)
    best = [max(range(20), key=lambda m: (right[m, index], m)) for index in range(20)]
    close(found, torch.stack([each[m, index] for index, m in enumerate(best)]))
    assert (right.max(0).values > right[-1]).any()


def test_an_oracle_must_be_told(tasks, answers):
    made = build(alpha="learned", combine="oracle")
    assert made.needs_answers
    assert "v" not in made.evidence(tasks)
    with pytest.raises(TypeError, match="solve"):
        made(tasks)
    close(made.loss(tasks, answers), query_loss(made.oracle_logits(tasks, answers), answers))


def test_others_do_not_look_at_answers(tasks, answers):
    made = build()
    assert not made.needs_answers
    assert torch.equal(made.solve(tasks, answers), made.solve(tasks, (answers + 1) % WAYS))


# State


@pytest.mark.parametrize("condition", ["support", "query"])
def test_nothing_leaks_between_tasks_or_batches(tasks, answers, condition):
    made = build(hyperprior="lstm", condition=condition, statistic="per_class", softweight=1.0)
    first = made(tasks)
    made.loss(tasks, answers).backward()
    made.loss(tasks, answers).backward()  # the public code fails at its second task
    assert torch.equal(made(tasks), first)
    order = torch.tensor([2, 0, 1])
    permuted = Tasks(tasks.support[order], tasks.labels[order], tasks.query[order], None, WAYS)
    close(made(permuted), first[order])
    close(torch.cat([made(tasks.one(index)) for index in range(T)]), first)


def test_an_lstm_remembers_earlier_epochs(tasks):
    made = build(hyperprior="lstm", softweight=1.0)
    learner = made.hyperprior
    inputs = (draw(T, D), draw(T, WAYS, D), draw(T, WAYS, D, seed=1))
    fresh, states = learner.pace(1, *inputs)
    after, _ = learner.pace(1, *inputs, states)
    assert (fresh.v - after.v).abs().min() > 1e-4


@pytest.mark.parametrize(("condition", "feels"), [("support", False), ("query", True)])
def test_who_feels_the_other_queries(tasks, condition, feels):
    made = build(condition=condition, softweight=1.0)
    others = tasks.query.clone()
    others[:, 1:] += 1
    difference = (made(tasks) - made(tasks._replace(query=others)))[:, 0].abs().max()
    assert bool(difference > 1e-3) is made.transductive is feels
    assert feels or difference < 1e-12


def test_a_query_condition_without_generation_is_inductive():
    assert not build(alpha="learned", combine="learned", condition="query").transductive


# Parameters


@pytest.mark.parametrize(
    ("values", "learns"),
    [
        ({"alpha": "fixed", "combine": "equal"}, {"base"}),
        ({"alpha": "learned", "combine": "last"}, {"base", "alpha"}),
        ({"alpha": "fixed", "combine": "learned"}, {"base", "v"}),
        ({"alpha": "fixed", "combine": "last", "decay": "learned"}, {"base", "alpha"}),
        ({"alpha": "generated", "combine": "oracle"}, {"base", "alpha", "psi"}),
        ({}, {"base", "alpha", "v", "psi"}),
        ({"hyperprior": "lstm", "alpha": "learned"}, {"base", "alpha", "v", "psi"}),
    ],
)
def test_groups_are_all_that_learns(tasks, answers, values, learns):
    made = build(**values)
    groups = made.groups()
    assert list(groups) == ["base", "alpha", "v", "psi"]
    assert {name for name, group in groups.items() if group} == learns
    grouped = [id(p) for group in groups.values() for p in group]
    assert sorted(grouped) == sorted(id(p) for p in made.parameters() if p.requires_grad)
    assert len(gradients(made, tasks, answers)) == len(grouped)  # autograd refuses what is not used


def test_settings_are_checked():
    with pytest.raises(ValidationError):
        Hyperprior(lstm_width=1)
    with pytest.raises(ValidationError):
        Hyperprior(combine="best")
    with pytest.raises(InputError, match="at least one"):
        build(steps=0)


def test_a_new_ones_state_is_loaded():
    made, other = build(hyperprior="lstm"), build(hyperprior="lstm")
    nn.init.normal_(other.hyperprior.v0)
    kept = copy.deepcopy(other.state_dict())
    made.load_state_dict(kept)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in made.state_dict().items())


# Whole networks


class TwoLayers(Epochs):
    """A network of which everything moves, by autograd: two layers with a rate each."""

    layers = (1, 0)

    def __init__(self):
        super().__init__()
        self.features = D
        self.hidden = nn.Parameter(draw(D, D, seed=5))
        self.head = nn.Parameter(draw(WAYS, D, seed=6))

    def begin(self, tasks):
        return self.head.expand(len(tasks.support), -1, -1), self.hidden.expand(len(tasks.support), -1, -1)

    def gradient(self, tasks, theta):
        loss = F.cross_entropy(self.scores(tasks.support, theta).flatten(0, 1), tasks.labels.flatten(), reduction="sum")
        return torch.autograd.grad(loss / tasks.labels.shape[1], theta, create_graph=self.training)

    def logits(self, tasks, theta):
        return self.scores(tasks.query, theta)

    def scores(self, rows, theta):
        return torch.tanh(rows @ theta[1].transpose(1, 2)) @ theta[0].transpose(1, 2)


def test_layers_of_a_whole_network_have_rates_of_their_own(tasks, answers):
    prior = Hyperprior(alpha="learned", combine="learned", decay="learned", first_weights="equal")
    made = Ensemble(TwoLayers(), prior, steps=2, rate=RATE).double()
    with torch.no_grad():
        made.hyperprior.alpha0.copy_(torch.tensor([[0.5, 0.0], [0.25, 0.0]]))
        made.hyperprior.decay.copy_(torch.tensor([[0.0, 7.0], [0.5, 7.0]]))
    base, hidden = made.base, made.base.begin(tasks)[1]
    one = made.base.begin(tasks)[0]
    two = base.gradient(tasks, (one, hidden))[1]
    assert two.abs().max() > 0
    thetas = [one, hidden]
    (_, first), (_, second) = made.epochs(tasks)
    # layer 1 is the head's, and its rate 0; layer 0 is the hidden one
    close(first[0], thetas[0]), close(second[0], thetas[0])
    close(first[1], hidden - 0.5 * two)
    close(second[1], first[1] - 0.25 * (base.gradient(tasks, first)[1] + 0.5 * first[1]))
    close(made(tasks), (base.logits(tasks, first) + base.logits(tasks, second)) / 2)
    assert made.evidence(tasks)["alpha"].tolist() == [[0.25, 0.125]] * T
    assert all(g.abs().max() > 0 for g in gradients(made, tasks, answers))


def test_a_step_by_hand():
    theta = (torch.tensor([[[2.0]], [[4.0]]]), torch.tensor([[1.0], [1.0]]))
    slope = (torch.tensor([[[1.0]], [[1.0]]]), torch.tensor([[3.0], [5.0]]))
    alpha, decay = torch.tensor([[0.5, 1.0], [1.0, 2.0]]), torch.tensor([0.5, 0.0])
    weight, bias = moved(theta, slope, alpha, decay, (0, 1))
    assert weight.flatten().tolist() == [1.0, 1.0]
    assert bias.flatten().tolist() == [-2.0, -9.0]


def test_at_one_rate_and_by_itself(tasks):
    base, plain = HeadEpochs(learner()), learner()
    theta = base.after(tasks, M, RATE)
    close(base.logits(tasks, theta), plain(tasks))
