"""Hypergradients against a known answer, against finite differences, and against each other."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mnemo import bilevel
from mnemo.augment import CropAndFlip
from mnemo.exemplars import mnemonics
from mnemo.exemplars.mnemonics import Bilevel
from mnemo.images import Images
from mnemo.nets import BiasCorrectedHead, CosineHead, IncrementalNet, LinearHead
from mnemo.nets.small import SmallNet

WAYS = sorted(bilevel.WAYS.items())


@pytest.mark.parametrize(("name", "way"), WAYS)
def test_parts_of_the_inner_loss_are_a_matter_of_memory(name, way):
    problem = small_problem(images=7)
    whole = hypergradient(*problem, way=name, inner_part=7)
    for size in (1, 3, 100):
        loss, gradient = hypergradient(*problem, way=name, inner_part=size)
        torch.testing.assert_close(loss, whole.loss)
        torch.testing.assert_close(gradient, whole.gradient)


@pytest.mark.parametrize(("name", "way"), WAYS)
@pytest.mark.parametrize("steps", [1, 3, 7])
def test_quadratic_with_a_known_answer(name, way, steps):
    # inner 1/2 |theta - e|^2 gives theta_T = e + (1 - lr)^T (theta_0 - e); outer 1/2 |theta_T - target|^2 has
    # the gradient (1 - (1 - lr)^T) (theta_T - target)
    generator = torch.Generator().manual_seed(0)
    start, exemplars, target = (torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(3))
    lr = 0.3
    loss, gradient = way(
        lambda theta, e, step: 0.5 * (theta["w"] - e).square().sum(),
        lambda theta: 0.5 * (theta["w"] - target).square().sum(),
        {"w": start},
        exemplars,
        steps,
        lr,
    )
    kept = (1 - lr) ** steps
    reached = exemplars + kept * (start - exemplars)
    torch.testing.assert_close(loss, 0.5 * (reached - target).square().sum())
    torch.testing.assert_close(gradient, (1 - kept) * (reached - target))


def small_problem(head: type[nn.Module] = CosineHead, classes: int = 4, images: int = 6):
    """A smooth float64 network on 8x8 images; ReLU has kinks at which finite differences mean nothing."""
    torch.manual_seed(3)
    net = IncrementalNet(SmallNet(1, width=3, activation=nn.Softplus), head(6), [100.0], [60.0])
    net.head.grow(classes - 1)
    net.head.grow(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 1.5)
    net.double().eval()
    pixels = torch.rand(images, 1, 8, 8, dtype=torch.float64) * 255
    labels = torch.arange(images) % classes
    queries = Images(torch.randint(0, 256, (9, 1, 8, 8), dtype=torch.uint8), torch.arange(9) % classes)
    return net, pixels, labels, queries


def hypergradient(net, pixels, labels, queries, **settings):
    chosen = Bilevel(**{"inner_steps": 3, "inner_lr": 0.05} | settings)
    generator = torch.Generator().manual_seed(11)
    return mnemonics.hypergradient(net, pixels, labels, queries, CropAndFlip(1, True), chosen, generator)


@pytest.mark.parametrize("way", bilevel.WAYS)
@pytest.mark.parametrize("level", ["network", "head"])
@pytest.mark.parametrize("head", [CosineHead, LinearHead, BiasCorrectedHead])
def test_against_finite_differences(way, level, head):
    net, pixels, labels, queries = small_problem(head)

    def loss(at):
        return hypergradient(net, at, labels, queries, level=level, way=way).loss

    gradient = hypergradient(net, pixels, labels, queries, level=level, way=way).gradient
    generator = torch.Generator().manual_seed(5)
    for _ in range(4):
        direction = torch.randn(pixels.shape, generator=generator, dtype=torch.float64)
        step = 1e-3  # grey levels
        difference = (loss(pixels + step * direction) - loss(pixels - step * direction)) / (2 * step)
        torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("level", ["network", "head"])
@pytest.mark.parametrize("steps", [1, 2, 6])
def test_all_ways_agree(level, steps):
    problem = small_problem()
    results = [hypergradient(*problem, level=level, way=way, inner_steps=steps) for way in bilevel.WAYS]
    for other in results[1:]:
        torch.testing.assert_close(other.loss, results[0].loss, rtol=1e-12, atol=0)
        torch.testing.assert_close(other.gradient, results[0].gradient, rtol=1e-9, atol=1e-15)


def stepwise_problem():
    """The arguments of a way before ``steps``; as under augmentation, what a step sees depends on its number."""
    net, pixels, labels, queries = small_problem()

    def inner(theta, at, step):
        return F.cross_entropy(torch.func.functional_call(net, theta, (at.roll(step, -1),)).logits, labels)

    def outer(theta):
        return F.cross_entropy(torch.func.functional_call(net, theta, (queries.pixels,)).logits, queries.labels)

    return inner, outer, {name: value.detach() for name, value in net.named_parameters()}, pixels


def descended(inner, theta, exemplars, steps, lr):
    """Where plain gradient descent arrives."""
    for step in steps:
        theta = {name: value.detach().requires_grad_() for name, value in theta.items()}
        gradients = torch.autograd.grad(inner(theta, exemplars, step), list(theta.values()))
        theta = {name: theta[name].detach() - lr * gradient for name, gradient in zip(theta, gradients, strict=True)}
    return theta


def assert_is_gradient(gradient, function, at, step):
    """Along random directions, against central differences."""
    generator = torch.Generator().manual_seed(5)
    for _ in range(4):
        direction = torch.randn(at.shape, generator=generator, dtype=torch.float64)
        difference = (function(at + step * direction) - function(at - step * direction)) / (2 * step)
        torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-5, atol=1e-12)


def test_reverse_is_unrolled_where_every_step_sees_something_else():
    problem = (*stepwise_problem(), 5, 0.05)
    found, exact = bilevel.reverse(*problem), bilevel.unrolled(*problem)
    torch.testing.assert_close(found.loss, exact.loss, rtol=1e-10, atol=0)
    assert (found.gradient - exact.gradient).norm() < 1e-10 * exact.gradient.norm()


@pytest.mark.parametrize("window", [1, 2, 4])
def test_truncated_starts_at_the_reached_parameters(window):
    inner, outer, parameters, pixels = stepwise_problem()
    steps, lr = 5, 0.05
    reached = descended(inner, parameters, pixels, range(steps - window), lr)

    def rest(at):
        return outer(descended(inner, reached, at, range(steps - window, steps), lr))

    # features of a network come with a graph of their own, through which the earlier steps must not be kept
    loss, gradient = bilevel.truncated(window)(inner, outer, parameters, 1 * pixels.requires_grad_(), steps, lr)
    torch.testing.assert_close(loss, rest(pixels.detach()), rtol=1e-12, atol=0)
    assert_is_gradient(gradient, rest, pixels.detach(), 1e-3)


@pytest.mark.parametrize("window", [3, 4, 100])
def test_truncated_to_all_steps_is_reverse(window):
    problem = (*stepwise_problem(), 3, 0.05)
    loss, gradient = bilevel.truncated(window)(*problem)
    exact = bilevel.reverse(*problem)
    torch.testing.assert_close(loss, exact.loss, rtol=1e-10, atol=0)
    torch.testing.assert_close(gradient, exact.gradient, rtol=1e-10, atol=0)


@pytest.mark.parametrize("window", [0, -1])
def test_truncated_to_nothing_is_refused(window):
    with pytest.raises(ValueError, match="no step would be differentiated"):
        bilevel.truncated(window)


def test_first_order_is_exact_for_one_step():
    problem = (*stepwise_problem(), 1, 0.05)
    found, exact = bilevel.first_order(*problem), bilevel.reverse(*problem)
    torch.testing.assert_close(found.loss, exact.loss, rtol=1e-10, atol=0)
    torch.testing.assert_close(found.gradient, exact.gradient, rtol=1e-10, atol=0)


@pytest.mark.parametrize("steps", [2, 8])
def test_first_order_is_close_for_several_steps(steps):
    problem = (*stepwise_problem(), steps, 0.5)
    found, exact = bilevel.first_order(*problem), bilevel.reverse(*problem)
    torch.testing.assert_close(found.loss, exact.loss, rtol=1e-10, atol=0)
    assert F.cosine_similarity(found.gradient.flatten(), exact.gradient.flatten(), 0) > 0.5
    assert (found.gradient - exact.gradient).norm() > 1e-3 * exact.gradient.norm()


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_first_order_of_the_quadratic_with_a_known_answer(steps):
    # d2 inner / d theta d e is -1: every step adds lr * v, with v = theta_T - target all the way
    generator = torch.Generator().manual_seed(0)
    start, exemplars, target = (torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(3))
    lr = 0.3
    _, gradient = bilevel.first_order(
        lambda theta, e, step: 0.5 * (theta["w"] - e).square().sum(),
        lambda theta: 0.5 * (theta["w"] - target).square().sum(),
        {"w": start},
        exemplars,
        steps,
        lr,
    )
    reached = exemplars + (1 - lr) ** steps * (start - exemplars)
    torch.testing.assert_close(gradient, steps * lr * (reached - target))


def test_what_is_left_out_is_not_computed():
    problem = (*stepwise_problem(), 5, 0.05)
    flops = {}
    for name in ("reverse", "first_order", "truncated"):
        way = bilevel.truncated(2) if name == "truncated" else getattr(bilevel, name)
        with FlopCounterMode(display=False) as counter:
            way(*problem)
        flops[name] = counter.get_total_flops()
    # a convolution's second derivative computes half of the Hessian product whether asked for it or not
    assert flops["first_order"] < 0.95 * flops["reverse"]
    assert flops["truncated"] < 0.7 * flops["reverse"]


def test_parts_make_no_difference_to_first_order():
    inner, outer, parameters, pixels = stepwise_problem()

    def parts(theta, at, step):
        yield 0.25 * inner(theta, at, step)
        yield outer(theta)  # has nothing of the exemplars
        yield 0.75 * inner(theta, at, step)

    def whole(*at):
        return sum(parts(*at))

    expected = bilevel.first_order(whole, outer, parameters, pixels, 3, 0.05)
    found = bilevel.first_order(parts, outer, parameters, pixels, 3, 0.05)
    torch.testing.assert_close(found.gradient, expected.gradient, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("m", [4, 6, 15])  # fewer than the 6 features, as many, more
def test_closed_form_is_the_head_of_least_squares(m):
    generator = torch.Generator().manual_seed(2)
    features, queries = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (m, 9))
    labels, targets, identity = torch.arange(m) % 4, torch.arange(9) % 4, torch.eye(6, dtype=torch.float64)

    def loss(at):
        # the ridge as so many more equations
        left = torch.cat([at / at.norm(dim=1, keepdim=True), 0.3**0.5 * identity])
        right = torch.cat([torch.eye(4, dtype=torch.float64)[labels] - 0.25, torch.zeros(6, 4, dtype=torch.float64)])
        head = torch.linalg.lstsq(left, right).solution
        return F.cross_entropy(7 * (queries / queries.norm(dim=1, keepdim=True)) @ head, targets)

    found = bilevel.closed_form(features, labels, queries, targets, classes=4, ridge=0.3, scale=7)
    assert found.gradient.shape == features.shape
    assert not found.loss.requires_grad
    torch.testing.assert_close(found.loss, loss(features), rtol=1e-10, atol=0)
    assert_is_gradient(found.gradient, loss, features, 1e-5)


@pytest.mark.parametrize(("ridge", "scale"), [(0, 1), (-1, 1), (1, 0), (float("nan"), 1)])
def test_closed_form_refuses_what_has_no_solution(ridge, scale):
    x, y = torch.ones(3, 2), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match="above 0"):
        bilevel.closed_form(x, y, x, y, 2, ridge, scale)


def test_head_level_is_the_network_level_with_a_frozen_backbone():
    # without augmentation both see the same features; the first keeps the backbone where it is at every step
    net, pixels, labels, queries = small_problem()
    parameters = dict(net.head.named_parameters())

    def inner(theta, at, step):
        outputs = torch.func.functional_call(net, {f"head.{n}": p for n, p in theta.items()}, (at,))
        return F.cross_entropy(outputs.logits, labels)

    def outer(theta):
        outputs = torch.func.functional_call(net, {f"head.{n}": p for n, p in theta.items()}, (queries.pixels,))
        return F.cross_entropy(outputs.logits, queries.labels)

    expected = bilevel.unrolled(inner, outer, parameters, pixels, 3, 0.05)
    found = mnemonics.hypergradient(
        net,
        pixels,
        labels,
        queries,
        CropAndFlip(0, False),
        Bilevel(level="head", inner_steps=3, inner_lr=0.05),
        torch.Generator(),
    )
    torch.testing.assert_close(found.gradient, expected.gradient, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("way", bilevel.WAYS)
@pytest.mark.parametrize("level", ["network", "head"])
def test_the_inner_gradient_is_not_cut_off(way, level):
    # the first public release computes inner gradients without create_graph, and its exemplars get no gradient at all
    net, pixels, labels, queries = small_problem()
    gradient = hypergradient(net, pixels, labels, queries, level=level, way=way).gradient
    assert gradient.shape == pixels.shape
    assert (gradient.abs().amax((1, 2, 3)) > 0).all()


def test_nothing_is_changed_and_no_gradient_left():
    net, pixels, labels, queries = small_problem()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    at = pixels.clone()
    hypergradient(net, pixels, labels, queries)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(at, pixels)
    assert not pixels.requires_grad


def test_reverse_needs_no_more_graph_for_more_steps():
    """What autograd saves for the way back is counted; benchmarks measure bytes."""
    held = {}
    for way in bilevel.WAYS:
        for steps in (2, 8):
            held[way, steps] = most_saved(lambda w=way, s=steps: hypergradient(*small_problem(), way=w, inner_steps=s))
    assert held["reverse", 8] == held["reverse", 2]
    assert held["unrolled", 8] > 3 * held["unrolled", 2]


def most_saved(work) -> int:
    """The largest number of bytes that saved tensors held at one time, in one graph and the next."""
    alive = {"now": 0, "most": 0}

    class Saved:
        def __init__(self, tensor):
            self.tensor, self.bytes = tensor, tensor.numel() * tensor.element_size()
            alive["now"] += self.bytes
            alive["most"] = max(alive["most"], alive["now"])

        def __del__(self):
            alive["now"] -= self.bytes

    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        work()
    return alive["most"]
