"""Label propagation (TPN) against its equations written out, one pair of images at a time."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from mnemo.disk.files import InputError
from mnemo.fewshot.label_propagation import LabelPropagation, nearest, normalised, propagate, weights
from mnemo.fewshot.tasks import Tasks

close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


def draw_tasks(count=3, ways=3, unlabelled=4, features=4, seed=0):
    draw = torch.Generator().manual_seed(seed)

    def images(number):
        return torch.randn(count, number, features, generator=draw, dtype=torch.float64)

    labels = torch.arange(ways).repeat(2).expand(count, -1)
    return Tasks(images(2 * ways), labels, images(5), images(unlabelled), ways)


ANSWERS = torch.tensor([0, 1, 2, 0, 1]).expand(3, -1)


def build(**settings):
    torch.manual_seed(1)
    return LabelPropagation(4, **{"neighbours": 5, **settings}).double()


def by_hand(learner, task):
    """F* (n, ways) of a batch of one task."""
    parts = [task.support[0], task.query[0]] + ([] if task.unlabelled is None else [task.unlabelled[0]])
    images = [image for part in parts for image in part]
    count, k = len(images), min(learner.neighbours, len(images))
    sigma = [learner.scale * (1 if learner.relation is None else math.exp(learner.relation(i).item())) for i in images]
    scaled = [[float(x) / s for x in image] for image, s in zip(images, sigma, strict=True)]
    pairs = [[sum((a - b) ** 2 for a, b in zip(i, j, strict=True)) / len(i) for j in scaled] for i in scaled]
    near = [set(sorted(range(count), key=row.__getitem__)[:k]) for row in pairs]
    weight = [
        [math.exp(-pairs[i][j] / 2) if j in near[i] or i in near[j] else 0.0 for j in range(count)]
        for i in range(count)
    ]
    degree = [sum(row) for row in weight]
    matrix = [
        [(i == j) - learner.alpha * weight[i][j] / math.sqrt(degree[i] * degree[j]) for j in range(count)]
        for i in range(count)
    ]
    labels = task.labels[0].tolist()
    start = [[float(i < len(labels) and labels[i] == c) for c in range(task.ways)] for i in range(count)]
    return torch.tensor(matrix, dtype=torch.float64).inverse() @ torch.tensor(start, dtype=torch.float64)


SETTINGS = [{}, {"neighbours": 20}, {"neighbours": 1}, {"alpha": 0.5, "scale": 0.6}, {"learned_scale": False}]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("has_unlabelled", [True, False])
@torch.no_grad()
def test_it_does_what_is_written_out(has_unlabelled, settings):
    learner, tasks = build(**settings), draw_tasks()
    tasks = tasks if has_unlabelled else tasks._replace(unlabelled=None)
    found, loss = learner(tasks), 0.0
    for index in range(3):
        everywhere = by_hand(learner, tasks.one(index))
        close(found[index], everywhere[6:11])
        answers = torch.cat([tasks.labels[index], ANSWERS[index]])
        loss += F.cross_entropy(everywhere[:11], answers) / 3
    close(learner.loss(tasks, ANSWERS), loss)


def test_no_unlabelled_images_are_none():
    tasks, learner = draw_tasks(), build()
    close(learner(tasks._replace(unlabelled=tasks.unlabelled[:, :0])), learner(tasks._replace(unlabelled=None)))


def test_a_graph_of_neighbours_by_hand():
    """Three images on a line, 0, 1 and 3: the last has the second for a neighbour, who would rather have the first."""
    images = torch.tensor([[[0.0], [1.0], [3.0]]])
    found = weights(images, torch.ones(1, 3))
    expected = [[1.0, math.exp(-0.5), math.exp(-4.5)], [math.exp(-0.5), 1.0, math.exp(-2)]]
    torch.testing.assert_close(found[0, :2], torch.tensor(expected))
    near = nearest(found, 2)
    assert (near[0] > 0).tolist() == [[True, True, False], [True, True, True], [False, True, True]]
    torch.testing.assert_close(nearest(found, 9), found)
    assert torch.equal(nearest(found, 1)[0], torch.eye(3))
    sums = near.sum(2)[0]
    graph = normalised(near)[0]
    torch.testing.assert_close(graph[1, 2], near[0, 1, 2] / (sums[1] * sums[2]).sqrt())
    torch.testing.assert_close(graph, graph.T)


def test_an_image_is_at_no_distance_from_itself():
    images = 1000 * torch.randn(2, 9, 200, generator=torch.Generator().manual_seed(0))
    assert torch.equal(weights(images, torch.full((2, 9), 1e-3)), torch.eye(9).expand(2, -1, -1))


def test_labels_spread_as_a_series():
    """(I - aS)^-1 Y is Y + aSY + a²S²Y + .."""
    learner, tasks = build(alpha=0.6), draw_tasks(count=1)
    graph = learner.evidence(tasks)["graph"]
    targets = torch.zeros(1, 15, 3).double()
    targets[:, :6] = tasks.targets
    series, term = targets.clone(), targets
    for _ in range(80):
        term = 0.6 * graph @ term
        series += term
    close(propagate(graph, targets, 0.6), series)


def test_unlabelled_images_lead_from_support_to_query():
    """Classes start at 0 and 10; a query at 6 is nearer to the latter, but a chain of images joins it to the former."""
    line = torch.arange(1.0, 6.0).view(1, -1, 1)
    labels = torch.tensor([[0, 1]])
    tasks = Tasks(torch.tensor([[[0.0], [10.0]]]), labels, torch.tensor([[[6.0]]]), line, 2)
    learner = LabelPropagation(1, neighbours=3, learned_scale=False)
    assert learner(tasks)[0, 0].argmax() == 0
    assert learner(tasks._replace(unlabelled=None))[0, 0].argmax() == 1


def test_it_is_transductive():
    tasks, learner = draw_tasks(), build()
    assert learner.transductive
    assert not torch.allclose(learner(tasks._replace(query=tasks.query[:, :1])), learner(tasks)[:, :1])


def test_evidence_has_scales_and_graph():
    tasks = draw_tasks()
    found = build(scale=0.5, learned_scale=False).evidence(tasks)
    assert torch.equal(found["scales"], torch.full((3, 15), 0.5).double())
    assert found["graph"].shape == (3, 15, 15)
    assert build().evidence(tasks)["scales"].std() > 0


@pytest.mark.parametrize("name", ["query", "relation"])
def test_gradients_are_finite_differences(name):
    tasks, learner = draw_tasks(), build()
    leaf = learner.relation[0].weight if name == "relation" else tasks.query.requires_grad_()
    learner.loss(tasks, ANSWERS).backward()
    flat = leaf.detach().view(-1)  # shares its memory
    for place in (0, 7, 20):
        ends = []
        for change in (1e-6, -2e-6):
            flat[place] += change
            ends.append(float(learner.loss(tasks, ANSWERS).detach()))
        flat[place] += 1e-6
        assert float(leaf.grad.view(-1)[place]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-8)


def test_equal_images_and_tiny_scales_are_no_trouble():
    tasks = draw_tasks()
    support = tasks.support[:, :1].expand(-1, 6, -1).clone().requires_grad_()
    tasks = tasks._replace(support=support, unlabelled=support[:, :3])
    for scale in (1.0, 1e-12):
        loss = build(scale=scale).loss(tasks, ANSWERS)
        loss.backward()
        assert loss.isfinite()
        assert support.grad.isfinite().all()


def test_tasks_and_classes_are_taken_as_they_come():
    tasks, learner = draw_tasks(), build()
    order = torch.tensor([2, 0, 1])
    turned = Tasks(*(part[order] for part in tasks[:4]), tasks.ways)
    close(learner(turned), learner(tasks)[order])
    renamed = tasks._replace(labels=order[tasks.labels])
    close(learner(renamed)[:, :, order], learner(tasks))
    assert learner(draw_tasks(ways=5)).shape == (3, 5, 5)


@pytest.mark.parametrize("settings", [{"alpha": 1.0}, {"alpha": -0.1}, {"neighbours": 0}], ids=str)
def test_what_cannot_be_is_refused(settings):
    with pytest.raises(InputError, match="label propagation needs"):
        LabelPropagation(4, **settings)
