"""Steps on a head in closed form: what autograd says of the written-out loss, and what finite differences say."""

import pytest
import torch
import torch.nn.functional as F

from mnemo.fewshot.base_learner import query_loss
from mnemo.fewshot.gradient_descent import GradientDescent, Head, descend, errors, last
from mnemo.fewshot.tasks import Tasks, class_means

T, WAYS, SHOTS, QUERIES, D = 3, 4, 2, 5, 7


@pytest.fixture(autouse=True)
def in_double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def tasks():
    labels = torch.arange(WAYS).repeat_interleave(SHOTS).expand(T, -1)
    return Tasks(draw(T, WAYS * SHOTS, D), labels, draw(T, QUERIES, D, seed=2), None, WAYS)


@pytest.fixture
def answers():
    return torch.randint(0, WAYS, (T, QUERIES), generator=torch.Generator().manual_seed(3))


def learner(**values):
    """One whose bias is not 0 either."""
    made = GradientDescent(D, WAYS, **{"rate": 0.1, "steps": 3, "test_steps": 5, **values})
    torch.nn.init.normal_(made.bias)
    return made


def literal_logits(weight, bias, temperature, rows):
    """Of one task."""
    if temperature is None:
        return F.linear(rows, weight, bias)
    return temperature * F.cosine_similarity(rows.unsqueeze(1), weight.unsqueeze(0), dim=2)


def literal(made, tasks, steps):
    """The queries' logits by autograd, task by task and step by step."""
    found = []
    for index in range(T):
        one = tasks.one(index)
        support, labels, query = one.support[0], one.labels[0], one.query[0]
        if made.detach_support:
            support = support.detach()
        weight, bias = made.weight, made.bias
        if made.start == "prototypes":
            weight = torch.stack([support[labels == c].mean(0) for c in range(WAYS)])
            bias = torch.zeros(WAYS)
        weight, bias = weight + 0, bias + 0
        if not weight.requires_grad:
            weight.requires_grad_()
        if not bias.requires_grad:
            bias.requires_grad_()
        total = {"mean": 1 / len(labels), "sum_over_shot": 1 / SHOTS}[made.scale]
        for _ in range(steps):
            logits = literal_logits(weight, bias, made.temperature, support)
            loss = total * F.cross_entropy(logits, labels, reduction="sum")
            create = not made.first_order
            slopes = torch.autograd.grad(
                loss, [weight, bias], create_graph=create, retain_graph=True, allow_unused=True
            )
            weight = weight - made.rate * slopes[0]
            if slopes[1] is not None:
                bias = bias - made.rate * slopes[1]
        found.append(literal_logits(weight, bias, made.temperature, query))
    return torch.stack(found)


@pytest.mark.parametrize("temperature", [None, 8.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_closed_form_is_autograds(temperature, weighted):
    weight, bias = draw(T, WAYS, D).requires_grad_(), draw(T, WAYS, seed=2).requires_grad_()
    features = draw(T, 6, D, seed=3)
    targets = draw(T, 6, WAYS, seed=4).softmax(2)
    weights = draw(T, 6, WAYS, seed=5).softmax(2) if weighted else None
    head = Head(weight, bias, temperature)
    logits = head.logits(features)
    seen = logits if weights is None else weights * logits
    loss = -(targets * seen.log_softmax(2)).sum()
    expected = torch.autograd.grad(loss, [weight, bias], allow_unused=True)
    found = head.gradient(features, errors(logits, targets, weights))
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(found[1], torch.zeros(T, WAYS) if temperature else expected[1], rtol=0, atol=1e-12)


def test_logits_by_hand():
    head = Head(torch.tensor([[[3.0, 4.0], [0.0, 2.0]]]), torch.tensor([[1.0, -1.0]]))
    rows = torch.tensor([[[1.0, 0.0]]])
    assert head.logits(rows).tolist() == [[[4.0, -1.0]]]
    torch.testing.assert_close(head._replace(temperature=10.0).logits(rows), torch.tensor([[[6.0, 0.0]]]))


def test_a_step_with_decay_by_hand():
    head = Head(torch.tensor([[[2.0], [4.0]]]), torch.tensor([[1.0, 0.0]]))
    after = head.moved((torch.ones(1, 2, 1), torch.ones(1, 2)), rate=0.5, decay=0.1)
    torch.testing.assert_close(after.weight, torch.tensor([[[1.4], [3.3]]]))
    torch.testing.assert_close(after.bias, torch.tensor([[0.45, -0.5]]))


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("detach_support", [False, True])
@pytest.mark.parametrize(("kind", "start"), [("linear", "learned"), ("cosine", "learned"), ("cosine", "prototypes")])
def test_logits_and_meta_gradients_are_those_of_a_literal_loop(
    tasks, answers, kind, start, first_order, detach_support
):
    made = learner(kind=kind, start=start, first_order=first_order, detach_support=detach_support)
    support, query = tasks.support.requires_grad_(), tasks.query.requires_grad_()
    leaves = [support, query, *(p for p in made.parameters() if p.requires_grad)]
    for mode, steps in ((True, 3), (False, 5)):
        found, expected = made.train(mode)(tasks), literal(made, tasks, steps)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
        ours = torch.autograd.grad(query_loss(found, answers), leaves, allow_unused=True)
        theirs = torch.autograd.grad(query_loss(expected, answers), leaves, allow_unused=True)
        for one, other in zip(ours, theirs, strict=True):
            zero = torch.zeros(())
            torch.testing.assert_close(
                zero if one is None else one.norm(), zero if other is None else other.norm(), rtol=0, atol=1e-11
            )
            if one is not None and other is not None:
                torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_second_order_meta_gradients_are_finite_differences(tasks, answers, kind):
    made = learner(kind=kind)
    support = tasks.support.clone().requires_grad_()
    tasks = tasks._replace(support=support)
    loss = made.loss(tasks, answers)
    for leaf, gradient in zip((made.weight, support), torch.autograd.grad(loss, [made.weight, support]), strict=True):
        direction = draw(*leaf.shape, seed=9)
        with torch.no_grad():
            leaf += 1e-5 * direction
            above = made.loss(tasks, answers)
            leaf -= 2e-5 * direction
            below = made.loss(tasks, answers)
            leaf += 1e-5 * direction
        torch.testing.assert_close((gradient * direction).sum(), (above - below) / 2e-5, rtol=1e-6, atol=1e-9)


def test_orders_differ(tasks, answers):
    """So the switch is no dummy."""
    exact, short = learner(), learner(first_order=True)
    short.load_state_dict(exact.state_dict())
    one, other = (torch.autograd.grad(made.loss(tasks, answers), made.weight)[0] for made in (exact, short))
    assert torch.equal(exact(tasks), short(tasks))
    assert (one - other).norm() > 1e-4 * one.norm()


@pytest.mark.parametrize(("first_order", "detach_support", "felt"), [(0, 0, True), (1, 0, False), (0, 1, False)])
def test_whether_the_network_is_felt_through_the_support(tasks, answers, first_order, detach_support, felt):
    support = tasks.support.clone().requires_grad_()
    made = learner(first_order=bool(first_order), detach_support=bool(detach_support))
    loss = made.loss(tasks._replace(support=support), answers)
    (gradient,) = torch.autograd.grad(loss, support, allow_unused=True)
    assert (gradient is not None and bool(gradient.norm() > 1e-4)) is felt


def test_the_sum_over_shot_is_the_mean_at_ways_times_the_rate(tasks):
    mean, total = learner(rate=0.1 * WAYS), learner(scale="sum_over_shot")
    total.load_state_dict(mean.state_dict())
    torch.testing.assert_close(mean(tasks), total(tasks), rtol=0, atol=1e-12)


def test_tasks_do_not_feel_one_another(tasks):
    made = learner()
    alone = torch.cat([made(tasks.one(index)) for index in range(T)])
    torch.testing.assert_close(made(tasks), alone, rtol=0, atol=1e-12)


def test_no_step_is_the_first_head(tasks):
    made = learner(steps=0)
    torch.testing.assert_close(made(tasks), F.linear(tasks.query, made.weight, made.bias))
    start = made.first(tasks)
    assert last(descend(start, tasks.support, tasks.targets, [], scale=1.0), start) is start


def test_what_learns():
    def named(**values):
        return {name for name, p in learner(**values).named_parameters() if p.requires_grad}

    assert named() == {"weight", "bias"}
    assert named(kind="cosine") == {"weight"}
    assert named(start="random") == named(start="prototypes") == set()


def test_class_means_by_hand():
    features = torch.tensor([[[1.0], [3.0], [10.0]]])
    targets = torch.tensor([[[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    assert class_means(features, targets).tolist() == [[[2.0], [10.0], [0.0]]]


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_known_rows_stay_and_stand_in_the_denominator(kind):
    torch.manual_seed(3)
    support, query = torch.randn(2, 6, 5, dtype=torch.float64), torch.randn(2, 4, 5, dtype=torch.float64)
    known = torch.randn(2, 3, 5, dtype=torch.float64)
    labels = torch.arange(2).repeat_interleave(3).expand(2, -1)
    tasks = Tasks(support, labels, query, None, 2, known)
    learner = GradientDescent(5, 2, steps=4, rate=0.3, kind=kind, start="prototypes", temperature=2.0).double().train()
    ours = learner(tasks)
    for task in range(2):
        rows = torch.stack([support[task, labels[task] == c].mean(0) for c in range(2)]).requires_grad_()
        bias = torch.zeros(2, dtype=torch.float64, requires_grad=True)

        def logits(features, rows, bias, fixed=known[task]):
            if kind == "cosine":
                return 2.0 * F.normalize(features) @ F.normalize(torch.cat([fixed, rows])).T
            return features @ torch.cat([fixed, rows]).T + torch.cat([bias.new_zeros(3), bias])

        for _ in range(4):
            loss = F.cross_entropy(logits(support[task], rows, bias), labels[task] + 3)
            slopes = torch.autograd.grad(loss, [rows, bias], allow_unused=True)
            rows = (rows - 0.3 * slopes[0]).detach().requires_grad_()
            bias = (bias - 0.3 * (0 if slopes[1] is None else slopes[1])).detach().requires_grad_()
        torch.testing.assert_close(ours[task], logits(query[task], rows, bias).detach(), rtol=1e-9, atol=1e-12)


def test_adapted_prototypes_are_prototypes_at_first_and_learn():
    torch.manual_seed(0)
    tasks = Tasks(torch.randn(1, 4, 3), torch.tensor([[0, 0, 1, 1]]), torch.randn(1, 2, 3), None, 2)
    plain, adapted = (GradientDescent(3, 2, start=start).eval() for start in ("prototypes", "adapted"))
    torch.testing.assert_close(adapted(tasks), plain(tasks))
    adapted(tasks).sum().backward()
    assert adapted.gain.grad.abs().sum() > 0
    assert "gain" not in plain.state_dict()
