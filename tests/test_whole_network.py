import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mnemo.fewshot.batch_norm import with_task_statistics
from mnemo.fewshot.embedder import Embedder
from mnemo.fewshot.gradient_descent import GradientDescent
from mnemo.fewshot.method import Method
from mnemo.fewshot.tasks import Tasks
from mnemo.fewshot.whole_network import WholeNetwork


class Body(nn.Module):
    """Smooth, so that second derivatives mean something."""

    def __init__(self):
        super().__init__()
        self.features = 4
        self.blocks = nn.Sequential(
            nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh()),
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh()),
        )

    def forward(self, maps):
        return self.blocks(maps).mean((2, 3))


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def tasks(count=2):
    support, query = torch.rand(count, 4, 1, 6, 6) * 255, torch.rand(count, 6, 1, 6, 6) * 255
    return Tasks(support, torch.arange(2).repeat_interleave(2).expand(count, -1), query, None, 2)


ANSWERS = torch.arange(2).repeat_interleave(3).expand(2, -1)


def method(batch_norm="batch", learns=True, **settings):
    net = Embedder(Body(), [100.0], [80.0], batch_norm).requires_grad_(learns)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # as if they had been trained
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    learner = GradientDescent(4, 2, **{"steps": 2, "test_steps": 3, "rate": 0.5, **settings})
    return Method(net, WholeNetwork(net, learner))


def normalise(maps, norm, statistics):
    """By its running statistics, or by the mean and the variance of other maps."""
    if statistics is None:
        mean, variance = norm.running_mean, norm.running_var
    else:
        mean, variance = statistics.mean((0, 2, 3)), statistics.var((0, 2, 3), correction=0)
    return [
        (each - mean.view(1, -1, 1, 1)) / (variance + norm.eps).sqrt().view(1, -1, 1, 1)
        for each in ([maps] if statistics is None else [maps, statistics])
    ]


def body_features(body, theta, pixels, support, batch_norm):
    """The body written out: convolution, normalisation, tanh, twice."""
    maps, others = (pixels - 100) / 80, {"running": None, "batch": (pixels - 100) / 80, "support": (support - 100) / 80}
    others = others[batch_norm]
    for block in range(2):
        weight, bias, gain, offset = theta[4 * block : 4 * block + 4]
        norm = body.blocks[block][1]
        maps = F.conv2d(maps, weight, bias)
        others = None if others is None else F.conv2d(others, weight, bias)
        each = normalise(maps, norm, others)
        each = [torch.tanh(m * gain.view(1, -1, 1, 1) + offset.view(1, -1, 1, 1)) for m in each]
        maps, others = each[0], each[-1] if others is not None else None
    return maps.mean((2, 3))


def literal(given, task, steps, rate, create_graph, batch_norm):
    """One task step by step, with statistics of whatever batch comes, of the support, or running ones."""
    body, learner = given.embedder.backbone, given.base.learner
    theta = [*body.parameters(), learner.weight, learner.bias]
    theta = [t if t.requires_grad else t.detach().requires_grad_() for t in theta]

    def logits(theta, pixels):
        return F.linear(body_features(body, theta[:-2], pixels, task.support[0], batch_norm), theta[-2], theta[-1])

    for _ in range(steps):
        loss = F.cross_entropy(logits(theta, task.support[0]), task.labels[0])
        slopes = torch.autograd.grad(loss, theta, create_graph=create_graph)
        theta = [weight - rate * slope for weight, slope in zip(theta, slopes, strict=True)]
    return logits(theta, task.query[0])


@pytest.mark.parametrize("batch_norm", ["batch", "running", "support"])
@pytest.mark.parametrize("first_order", [False, True])
def test_meta_gradient_equals_a_literal_loop(batch_norm, first_order):
    given, some = method(batch_norm, first_order=first_order), tasks()
    given.train()
    given.loss(some, ANSWERS).backward()
    ours = [p.grad.clone() for p in given.parameters() if p.requires_grad]
    given.zero_grad()
    each = [literal(given, some.one(i), 2, 0.5, not first_order, batch_norm) for i in range(2)]
    F.cross_entropy(torch.cat(each), ANSWERS.flatten()).backward()
    theirs = [p.grad for p in given.parameters() if p.requires_grad]
    assert len(ours) == 10  # two convolutions with biases, two normalisations, a head
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("batch_norm", ["batch", "running", "support"])
def test_in_evaluation_the_steps_are_those_of_testing(batch_norm):
    given, some = method(batch_norm), tasks()
    theirs = torch.stack([literal(given, some.one(i), 3, 0.5, False, batch_norm) for i in range(2)])
    torch.testing.assert_close(given.eval()(some), theirs)


def test_second_order_differs_from_first_order():
    slopes = []
    for first_order in (False, True):
        torch.manual_seed(1)
        given, some = method(first_order=first_order), tasks()
        given.train().loss(some, ANSWERS).backward()
        slopes.append(next(given.embedder.parameters()).grad)
    assert not torch.allclose(*slopes)


def test_plain_fine_tuning_moves_everything_and_learns_nothing():
    given, some = method("running", learns=False, start="random"), tasks()
    assert not given.learns
    before = copy.deepcopy(given.state_dict())
    theirs = torch.stack([literal(given, some.one(i), 3, 0.5, False, "running") for i in range(2)])
    torch.testing.assert_close(given.eval()(some), theirs)
    torch.testing.assert_close(given.state_dict(), before, rtol=0, atol=0)


def test_running_statistics_stay_as_they_are():
    given = method("batch")
    before = {name: buffer.clone() for name, buffer in given.embedder.named_buffers()}
    given.train().loss(tasks(), ANSWERS).backward()
    torch.testing.assert_close(dict(given.embedder.named_buffers()), before, rtol=0, atol=0)


def test_the_network_is_registered_once():
    names = [name for name, _ in method().named_parameters()]
    assert all(name.startswith(("embedder.", "base.learner.")) for name in names)


def test_queries_matter_to_each_other_only_where_results_are_transductive():
    some = tasks()
    fewer = some._replace(query=some.query[:, :3])
    for batch_norm, transductive in (("batch", True), ("running", False), ("support", False)):
        given = method(batch_norm).eval()
        assert given.transductive == transductive
        alike = torch.allclose(given(some)[:, :3], given(fewer), rtol=1e-9)
        assert alike != transductive


def test_a_network_with_task_statistics_is_the_same_network():
    torch.manual_seed(1)
    body = Body().train()
    body(torch.rand(5, 1, 6, 6))  # so that there are running statistics
    before, maps = copy.deepcopy(body.eval()), torch.rand(3, 1, 6, 6)
    after = with_task_statistics(body)
    assert all(type(m) is not nn.BatchNorm2d for m in after.modules())
    torch.testing.assert_close(after.state_dict(), before.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(after(maps), before(maps), rtol=0, atol=0)
    torch.testing.assert_close(after.train()(maps), before.train()(maps), rtol=0, atol=0)
    torch.testing.assert_close(after.state_dict(), before.state_dict(), rtol=0, atol=0)


def test_layers_are_blocks():
    assert method().base.layers == (0, 0, *[1] * 4, *[2] * 4)
