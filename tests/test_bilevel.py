"""Hypergradients against a known answer, against finite differences, and against each other."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mnemo import bilevel, mnemonics
from mnemo.augment import CropAndFlip
from mnemo.images import Images
from mnemo.mnemonics import Bilevel
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
