"""Networks: LUCIR's ResNet-32 to the parameter, and heads that grow."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mnemo import nets
from mnemo.nets.resnet import BasicBlock


def build(backbone="small", head="cosine", channels=3, classes=(5,), **more):
    torch.manual_seed(0)
    net = nets.build(backbone, head, channels, [120.0] * channels, [70.0] * channels, **more)
    for count in classes:
        net.head.grow(count)
    return net


def test_resnet32_is_lucirs():
    net = build("resnet32", "cosine", classes=(50, 50))
    assert sum(p.numel() for p in net.parameters()) == 472_657
    blocks = [m for m in net.modules() if isinstance(m, BasicBlock)]
    assert len(blocks) == 15
    assert [block.last_relu for block in blocks] == [True] * 14 + [False]
    maps = net.backbone.blocks(net.backbone.stem(torch.randn(2, 3, 32, 32)))
    assert maps.shape == (2, 64, 8, 8)
    assert (maps < 0).any()


@pytest.mark.parametrize(
    ("name", "channels", "size", "parameters"),
    [
        ("resnet20", 3, 32, 272_474 - 650),
        ("resnet18", 3, 64, 11_176_512),
        ("small", 1, 8, None),
        ("small", 1, 28, None),
    ],
)
def test_backbones(name, channels, size, parameters):
    # He et al. count ResNet-20 with identity shortcuts (269,722 + 650 head = 0.27 M); two projections and their
    # normalisation add 2,752. ResNet-18 without its head is torchvision's 11,689,512 - 513,000.
    backbone = nets.BACKBONES[name](channels)
    if parameters:
        assert sum(p.numel() for p in backbone.parameters()) == parameters
    assert backbone(torch.randn(2, channels, size, size)).shape == (2, backbone.features)


@pytest.mark.parametrize("head", nets.HEADS)
def test_growing_keeps_what_is_known(head):
    net = build(head=head, classes=(4,)).eval()
    pixels = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    before = net(pixels)
    net.head.grow(2)
    after = net(pixels)
    assert after.logits.shape == (3, 6)
    torch.testing.assert_close(after.logits[:, :4], before.logits)
    torch.testing.assert_close(after.scores[:, :4], before.scores)
    assert net.head.classes == 6


@pytest.mark.parametrize("head", nets.HEADS)
def test_old_weights_can_be_frozen_and_learn_again(head):
    net = build(head=head, classes=(4, 3, 2))
    net.head.learn_old(False)
    assert [w.requires_grad for w in net.head.weights] == [False, False, True]
    net.head.learn_old(True)
    assert all(w.requires_grad for w in net.head.weights)


def test_a_cosine_head_is_the_formula():
    net = build(classes=(3, 2))
    features = torch.randn(4, net.head.width)
    with torch.no_grad():
        net.head.scale.fill_(7.0)
    outputs = net.head(features)
    weights = torch.cat(list(net.head.weights))
    by_hand = torch.stack([F.cosine_similarity(features, w.expand_as(features)) for w in weights], 1)
    torch.testing.assert_close(outputs.scores, by_hand)
    torch.testing.assert_close(outputs.logits, 7 * by_hand)


def test_imprinting_takes_directions_at_the_old_length():
    head = build(classes=(4, 2)).head
    directions = torch.randn(2, head.width)
    old = torch.cat(list(head.weights)[:1])
    head.imprint(directions)
    torch.testing.assert_close(F.normalize(head.weights[-1]), F.normalize(directions))
    torch.testing.assert_close(head.weights[-1].norm(dim=1), old.norm(dim=1).mean().expand(2))
    first = build(classes=(4,)).head
    before = first.weights[0].clone()
    first.imprint(torch.randn(4, first.width))
    assert torch.equal(first.weights[0], before)


def test_bias_correction_by_hand():
    head = build(head="bias_corrected", classes=(2, 3)).head
    head.gains[1], head.offsets[1] = 0.5, -2.0
    features = torch.randn(4, head.width)
    raw, corrected = head.uncorrected(features), head(features).logits
    torch.testing.assert_close(corrected[:, :2], raw[:, :2])
    torch.testing.assert_close(corrected[:, 2:], 0.5 * raw[:, 2:] - 2)


def test_pixels_are_normalised_by_the_network():
    net = build(channels=1).eval()
    grey = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(net.features(grey), net.backbone((grey.float() - 120) / 70))
    torch.testing.assert_close(net.features(grey), net.features(grey.float()))


def test_larger_images_are_cropped_at_their_centre():
    net = build(channels=1, input_size=8).eval()
    pixels = torch.randint(0, 256, (2, 1, 12, 11), dtype=torch.uint8)
    torch.testing.assert_close(net.features(pixels), net.features(pixels[:, :, 2:10, 1:9]))


def test_gradients_reach_pixels_through_integer_means():
    net = nets.build("small", "cosine", 1, [120], [70])
    net.head.grow(2)
    pixels = torch.rand(2, 1, 8, 8, requires_grad=True)
    net(pixels).logits.sum().backward()
    assert pixels.grad.abs().sum() > 0


def test_weights_start_as_the_papers():
    net = build("resnet32", "cosine", classes=(50,))
    convolution = next(m for m in net.modules() if isinstance(m, nn.Conv2d) and m.out_channels == 64)
    fan_out = 64 * 9
    assert convolution.weight.detach().std() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    assert float(net.head.scale.detach()) == 1
    assert net.head.weights[0].abs().max() <= 1 / 8
