"""Masked soft k-means against the released code's arithmetic, one image and one class at a time."""

import math
from functools import partial

import pytest
import torch

from mnemo.fewshot.base_learner import query_loss
from mnemo.fewshot.distances import squared_distances
from mnemo.fewshot.soft_kmeans import MaskedSoftKMeans, relative, statistics
from mnemo.fewshot.tasks import Tasks, class_means

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)


def draw_tasks(count=3, ways=3, unlabelled=7, features=4, seed=0):
    draw = torch.Generator().manual_seed(seed)

    def images(number):
        return torch.randn(count, number, features, generator=draw, dtype=torch.float64)

    labels = torch.arange(ways).repeat(2).expand(count, -1)
    return Tasks(images(2 * ways), labels, images(5), images(unlabelled), ways)


def build(**settings):
    """A learner whose perceptron has something to say."""
    torch.manual_seed(1)
    learner = MaskedSoftKMeans(**settings).double()
    for parameter in learner.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return learner


# The same, written out


def distance(one, other):
    return sum((float(a) - float(b)) ** 2 for a, b in zip(one, other, strict=True))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def limits_by_hand(reach, distances):
    relative = [each / mean(distances) for each in distances]
    middle = mean(relative)
    variance = mean((each - middle) ** 2 for each in relative)
    skewness = mean((each - middle) ** 3 for each in relative) / math.sqrt(variance) ** 3
    kurtosis = mean((each - middle) ** 4 for each in relative) / variance**2 - 3
    statistics = torch.tensor([min(relative), max(relative), variance, skewness, kurtosis], dtype=torch.float64)
    return reach(statistics).tolist()


def by_hand(learner, task, pool):
    """Logits (q, ways) of a batch of one task."""
    rows, labels = task.support[0].tolist(), task.labels[0].tolist()
    own = [[row for row, label in zip(rows, labels, strict=True) if label == c] for c in range(task.ways)]
    prototypes = [[mean(column) for column in zip(*rows_of_class, strict=True)] for rows_of_class in own]
    at_first = [[distance(image, p) for image in pool] for p in prototypes]
    limits = [limits_by_hand(learner.reach, each) if learner.reach is not None else None for each in at_first]
    for step in range(learner.steps):
        distances = [[distance(image, p) for image in pool] for p in prototypes]
        refined = []
        for c in range(task.ways):
            total, weight = [sum(column) for column in zip(*own[c], strict=True)], float(len(own[c]))
            for j, image in enumerate(pool):
                share = math.exp(-distances[c][j]) / sum(math.exp(-each[j]) for each in distances)
                if limits[c] is not None:
                    start, drift, slope = limits[c]
                    reach = math.exp(start) + (step / (learner.steps - 1) * drift if learner.steps > 1 else 0)
                    mask = 1 / (1 + math.exp(-math.exp(slope) * (reach - distances[c][j] / mean(distances[c]))))
                    share *= mask**2 if learner.mask_twice else mask
                total = [a + share * b for a, b in zip(total, image, strict=True)]
                weight += share
            refined.append([each / weight for each in total])
        prototypes = refined
    return torch.tensor([[-distance(query, p) for p in prototypes] for query in task.query[0]], dtype=torch.float64)


@pytest.mark.parametrize(
    "settings", [{}, {"mask_twice": True}, {"steps": 3}, {"masked": False}, {"masked": False, "steps": 2}], ids=str
)
def test_it_does_what_is_written_out(settings):
    learner, tasks = build(**settings), draw_tasks()
    found = learner(tasks)
    for index in range(3):
        task = tasks.one(index)
        close(found[index], by_hand(learner, task, task.unlabelled[0].tolist()))


@pytest.mark.parametrize("none", [None, torch.zeros(3, 0, 4).double()])
def test_queries_stand_in_where_there_are_no_unlabelled_images(none):
    tasks = draw_tasks()
    learner, without = build(unlabelled="queries"), tasks._replace(unlabelled=none)
    assert learner.transductive
    for index in range(3):
        task = without.one(index)
        close(learner(without)[index], by_hand(learner, task, task.query[0].tolist()))
    close(learner(tasks), build()(tasks))


@pytest.mark.parametrize("none", [None, torch.zeros(3, 0, 4).double()])
def test_without_unlabelled_images_it_is_a_prototypical_network(none):
    tasks = draw_tasks()._replace(unlabelled=none)
    learner = build(steps=2)
    close(learner(tasks), -(tasks.query.unsqueeze(2) - prototypes(tasks).unsqueeze(1)).square().sum(3))
    assert learner.evidence(tasks) == {}


def test_queries_do_not_meet_unless_they_stand_in():
    tasks = draw_tasks()
    one, learner = tasks._replace(query=tasks.query[:, :1]), build()
    assert not learner.transductive
    close(learner(one), learner(tasks)[:, :1])
    standing_in = build(unlabelled="queries")
    one, tasks = one._replace(unlabelled=None), tasks._replace(unlabelled=None)
    assert not torch.allclose(standing_in(one), standing_in(tasks)[:, :1])


def test_a_mask_keeps_a_distant_image_away():
    """Two classes at -1 and 1, and images at -1, 1 and 50, the last of which has no class."""
    support, pool = torch.tensor([[[-1.0], [1.0]]]), torch.tensor([[[-1.0], [1.0], [50.0]]])
    tasks = Tasks(support, torch.tensor([[0, 1]]), torch.tensor([[[-1.0], [1.0], [5.0]]]), pool, 2)
    plain, masked = MaskedSoftKMeans(masked=False), MaskedSoftKMeans()
    for parameter in masked.parameters():
        torch.nn.init.zeros_(parameter)
    masked.reach[2].bias.data.copy_(torch.tensor([0.0, 0.0, 3.0]))  # beta 1: the mean distance; gamma e^3
    found = masked.evidence(tasks)["masks"]
    assert found.shape == (1, 3, 2)
    assert (found[0, :2] > 0.99).all()
    assert (found[0, 2] < 0.01).all()
    assert plain(tasks)[0, 1].argmax() == 0
    assert masked(tasks)[0, 1].argmax() == 1
    assert (plain.evidence(tasks)["masks"] == 1).all()
    close(plain.evidence(tasks)["assignments"].sum(2), torch.ones(1, 3))


def test_statistics_by_hand():
    found = statistics(torch.tensor([[[1.0, 2.0], [1.0, 2.0], [4.0, 2.0]]]))
    torch.testing.assert_close(found[0, 0], torch.tensor([1.0, 4.0, 2.0, 2**-0.5, -1.5]))
    assert found[0, 1].tolist() == [2.0, 2.0, 0.0, 0.0, 0.0]


def test_images_in_one_place_have_gradients():
    tasks = draw_tasks()
    support = tasks.support[:, :1].expand(-1, 6, -1).clone().requires_grad_()
    tasks = tasks._replace(support=support, unlabelled=support[:, :3])
    build(steps=2)(tasks).sum().backward()
    assert support.grad.isfinite().all()


def test_masks_and_network_learn():
    tasks, learner = draw_tasks(), build(steps=2)
    answers = torch.tensor([0, 1, 2, 0, 1]).expand(3, -1)
    unlabelled = tasks.unlabelled.clone().requires_grad_()
    weight = learner.reach[2].weight
    learner.loss(tasks._replace(unlabelled=unlabelled), answers).backward()
    for place in [(0, 3), (1, 5), (2, 0)]:
        ends = []
        for change in (1e-6, -2e-6):
            weight.data[place] += change
            ends.append(float(query_loss(learner(tasks), answers).detach()))
        weight.data[place] += 1e-6
        assert float(weight.grad[place]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-9)
    assert unlabelled.grad.abs().sum() > 0


def test_the_network_does_not_feel_the_statistics():
    """Its gradients are those with the perceptron's answers given, as in the released code."""

    class Given(torch.nn.Module):
        def forward(self, _):
            return answers

    tasks, learner = draw_tasks(), build()
    answers = learner.reach(statistics(relative(squared_distances(tasks.unlabelled, prototypes(tasks))))).detach()
    unlabelled = tasks.unlabelled.clone().requires_grad_()
    tasks = tasks._replace(unlabelled=unlabelled)
    found = torch.autograd.grad(learner(tasks).square().sum(), unlabelled)[0]
    learner.reach = Given()
    close(found, torch.autograd.grad(learner(tasks).square().sum(), unlabelled)[0])


def prototypes(tasks):
    return class_means(tasks.support, tasks.targets)


def test_tasks_and_classes_are_taken_as_they_come():
    tasks, learner = draw_tasks(), build(steps=2)
    order = torch.tensor([2, 0, 1])
    turned = Tasks(*(part[order] for part in tasks[:4]), tasks.ways)
    close(learner(turned), learner(tasks)[order])
    renamed = tasks._replace(labels=order[tasks.labels])
    close(learner(renamed)[:, :, order], learner(tasks))
    assert learner(draw_tasks(ways=5)).shape == (3, 5, 5)


def test_distances_are_those_of_pairs():
    draw = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 3, 4, generator=draw).double(), torch.randn(2, 5, 4, generator=draw).double()
    close(squared_distances(one, other), (one.unsqueeze(2) - other.unsqueeze(1)).square().sum(3))
    far = (one + 1000).float()
    torch.testing.assert_close(squared_distances(far, far)[:, 0, 1], (far[:, 0] - far[:, 1]).square().sum(1))
    assert (squared_distances(far, far) >= 0).all()
