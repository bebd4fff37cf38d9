"""Logistic regression of a batch of tasks: scikit-learn's, and the conditions of a minimum."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import linear_model

from mnemo.fewshot.logistic_regression import LogisticRegression, fit, newton_step
from mnemo.fewshot.tasks import Tasks


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(ways, shots, features, count=2):
    labels = torch.arange(ways).repeat_interleave(shots).expand(count, -1)
    support = draw(count, ways * shots, features) + 2 * draw(count, ways, features, seed=1).repeat_interleave(shots, 1)
    return Tasks(support, labels, 2 * draw(count, 6, features, seed=2), None, ways)


def scikit_learns(tasks, index, cost):
    """Chances (q, ways), at a tolerance far below its own."""
    support, query = (F.normalize(part[index].double(), dim=1).numpy() for part in (tasks.support, tasks.query))
    model = linear_model.LogisticRegression(C=cost, tol=1e-9, max_iter=10_000)
    return model.fit(support, tasks.labels[index].numpy()).predict_proba(query)


@pytest.mark.parametrize("cost", [1.0, 30.0])
@pytest.mark.parametrize(("ways", "shots", "features"), [(5, 1, 64), (5, 5, 64), (3, 20, 4), (20, 1, 8)])
def test_chances_are_scikit_learns(ways, shots, features, cost):
    """With more features than images, and with fewer."""
    tasks = make(ways, shots, features)
    chances = LogisticRegression(cost)(tasks).double().softmax(2).numpy()
    for index in range(2):
        np.testing.assert_allclose(chances[index], scikit_learns(tasks, index, cost), atol=1e-5)


def test_unequal_shots_are_scikit_learns():
    """So that biases differ."""
    labels = torch.tensor([[0, 0, 0, 0, 0, 1, 2], [2, 1, 0, 0, 1, 1, 1]])
    tasks = make(7, 1, 10)._replace(labels=labels, ways=3)
    chances = LogisticRegression()(tasks).double().softmax(2).numpy()
    for index in range(2):
        np.testing.assert_allclose(chances[index], scikit_learns(tasks, index, 1.0), atol=1e-5)


def test_the_gradient_vanishes():
    """That of the penalised loss in all weights, by autograd, where classes are pulled apart with hardly a penalty."""
    features = F.pad(draw(2, 12, 5).double(), (0, 1), value=1.0)
    targets = F.one_hot(torch.arange(4).repeat(3), 4).double().expand(2, -1, -1)
    weight = fit(features, targets, 1e4).requires_grad_()
    loss = -1e4 * (targets * (features @ weight).log_softmax(2)).sum() + 0.5 * weight[:, :-1].square().sum()
    (gradient,) = torch.autograd.grad(loss, weight)
    assert gradient.abs().max() < 1e-8
    assert weight[:, -1].sum(1).abs().max() < 1e-8


def test_a_newton_step_solves_autograds_hessian():
    features, targets = F.pad(draw(1, 7, 3).double(), (0, 1), value=1.0), F.one_hot(torch.arange(7) % 3, 3).double()
    penalty = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    weight = draw(4, 3, seed=3).double()
    weight -= weight.mean(1, keepdim=True)  # as all steps from 0 leave it

    def loss(flat):
        at = flat.view(4, 3)
        entropies = -(targets * (features[0] @ at).log_softmax(1)).sum()
        return 2.0 * entropies + 0.5 * (penalty.unsqueeze(1) * at.square()).sum()

    flat = weight.flatten().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(flat), flat)
    step = newton_step(features, (features @ weight).softmax(2), gradient.view(1, 4, 3), penalty, 2.0)
    torch.testing.assert_close(torch.autograd.functional.hessian(loss, flat) @ step.flatten(), gradient)


def test_tasks_do_not_feel_one_another():
    tasks = make(5, 2, 16, count=3)
    alone = torch.cat([LogisticRegression()(tasks.one(index)) for index in range(3)])
    torch.testing.assert_close(LogisticRegression()(tasks), alone)


def test_length_does_not_matter_where_features_are_normalised():
    tasks = make(5, 2, 16)
    longer = tasks._replace(support=3 * tasks.support, query=0.5 * tasks.query)
    torch.testing.assert_close(LogisticRegression()(tasks), LogisticRegression()(longer))
    plain = LogisticRegression(normalise=False)
    assert (plain(tasks) - plain(longer)).abs().max() > 0.1


@pytest.mark.parametrize("training", [True, False])
def test_logits_have_the_features_type_and_no_gradient(training):
    tasks = make(3, 1, 8)
    tasks.support.requires_grad_()
    logits = LogisticRegression().train(training)(tasks)
    assert logits.dtype == torch.float32
    assert not logits.requires_grad
    assert not list(LogisticRegression().parameters())


def test_long_features_are_no_trouble():
    """All chances are 0 or 1 after the first step."""
    tasks = make(2, 1, 64)
    long = tasks._replace(support=1000 * tasks.support, query=1000 * tasks.query)
    logits = LogisticRegression(normalise=False)(long)
    assert logits.isfinite().all()
    assert torch.equal(logits.argmax(2), LogisticRegression(normalise=False)(tasks).argmax(2))
