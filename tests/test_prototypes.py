"""The nearest class mean, by the papers' formulas."""

import pytest
import torch
import torch.nn.functional as F

from mnemo.fewshot.base_learner import query_loss
from mnemo.fewshot.prototypes import Prototypes
from mnemo.fewshot.tasks import Tasks


@pytest.fixture
def tasks():
    draw = torch.Generator().manual_seed(0)
    labels = torch.tensor([[0, 1, 2, 0, 1, 1], [2, 2, 1, 0, 0, 1]])
    support = torch.randn(2, 6, 5, generator=draw, dtype=torch.float64)
    return Tasks(support, labels, torch.randn(2, 4, 5, generator=draw, dtype=torch.float64), None, 3)


def means(tasks, index):
    return torch.stack([tasks.support[index][tasks.labels[index] == c].mean(0) for c in range(3)])


def test_distances_by_hand():
    support = torch.tensor([[[0.0, 0.0], [2.0, 0.0], [0.0, 4.0]]])
    tasks = Tasks(support, torch.tensor([[0, 0, 1]]), torch.tensor([[[1.0, 1.0]]]), None, 2)
    torch.testing.assert_close(Prototypes()(tasks), torch.tensor([[[-1.0, -10.0]]]))


@pytest.mark.parametrize("training", [True, False])
def test_minus_squared_euclidean_distance(tasks, training):
    logits = Prototypes().train(training)(tasks)
    for index in range(2):
        torch.testing.assert_close(-logits[index], torch.cdist(tasks.query[index], means(tasks, index)).square())


@pytest.mark.parametrize("training", [True, False])
def test_cosines_times_a_temperature(tasks, training):
    logits = Prototypes("cosine", 7.0).double().train(training)(tasks)
    for index in range(2):
        one = F.cosine_similarity(tasks.query[index].unsqueeze(1), means(tasks, index).unsqueeze(0), dim=2)
        torch.testing.assert_close(logits[index], 7 * one)


def test_the_temperature_learns_where_it_is_used(tasks):
    cosine = Prototypes("cosine").double()
    query_loss(cosine(tasks), torch.zeros(2, 4, dtype=torch.int64)).backward()
    assert cosine.temperature.item() == 10
    assert cosine.temperature.grad.abs() > 0
    assert not any(p.requires_grad for p in Prototypes().parameters())


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_query_does_not_feel_the_others(tasks, metric):
    made = Prototypes(metric).double()
    assert not made.transductive
    alone = torch.cat([made(tasks._replace(query=tasks.query[:, i : i + 1])) for i in range(4)], 1)
    torch.testing.assert_close(made(tasks), alone)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_features_get_their_gradient(tasks, metric):
    made = Prototypes(metric).double()
    assert torch.autograd.gradcheck(
        lambda support, query: made(tasks._replace(support=support, query=query)),
        (tasks.support.requires_grad_(), tasks.query.requires_grad_()),
    )
