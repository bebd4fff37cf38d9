"""Backbones of the few-shot literature: their parameters to the last one, their maps, and their gradients."""

import pytest
import torch
from torch import nn

from mnemo.components.scaling_shifting import Scaling
from mnemo.disk.files import InputError
from mnemo.nets import FEW_SHOT_BACKBONES, HEADS, IncrementalNet, folded
from mnemo.nets.resnet12 import ResNet12

QUICK = ("conv4", "conv4-32", "resnet12-narrow")


def build(name, channels=3, side=32):
    torch.manual_seed(0)
    return FEW_SHOT_BACKBONES[name](channels, side)


def convolutions(net):
    return [module for module in net.modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize(
    ("name", "kernels", "scales", "depth"),
    [
        # counted in the released code of MTL (in TensorFlow and in PyTorch) and of E3BM; scales with shortcuts
        ("resnet12", 7_816_896 + 172_224, 868_544 + 172_224, 12),
        ("resnet12-wide", 12_414_848, 1_616_256, 12),
        ("resnet25", 36_558_960, 4_301_040, 25),
        # by hand: 9 w (3 + 3 w), and a 16th or so of ResNet-12's
        ("conv4", 9 * 64 * (3 + 3 * 64), 64 * (3 + 3 * 64), 4),
        ("conv4-32", 9 * 32 * (3 + 3 * 32), 32 * (3 + 3 * 32), 4),
        ("resnet12-narrow", 499_680, None, 12),
    ],
)
def test_parameters(name, kernels, scales, depth):
    net = build(name)
    assert sum(convolution.weight.numel() for convolution in convolutions(net)) == kernels
    if scales:
        assert sum(Scaling(convolution.weight).scale.numel() for convolution in convolutions(net)) == scales
    assert sum(convolution.kernel_size == (3, 3) for convolution in convolutions(net)) == depth
    norms = 2 * sum(convolution.out_channels for convolution in convolutions(net))
    assert sum(parameter.numel() for parameter in net.parameters()) == kernels + norms


@pytest.mark.parametrize(
    ("name", "channels", "side", "maps"),
    [
        ("conv4", 3, 84, (64, 5, 5)),
        ("conv4", 1, 28, (64, 1, 1)),
        ("conv4", 3, 32, (64, 2, 2)),
        ("conv4-32", 3, 84, (32, 5, 5)),
        ("resnet12", 3, 84, (512, 5, 5)),
        ("resnet12-wide", 3, 32, (640, 2, 2)),
        ("resnet12-narrow", 1, 28, (128, 1, 1)),
        ("resnet25", 3, 40, (640, 5, 5)),
        ("resnet25", 1, 28, (640, 4, 4)),
    ],
)
def test_shapes(name, channels, side, maps):
    net = build(name, channels, side)
    images = torch.randn(2, channels, side, side)
    with torch.inference_mode():
        assert net.maps(images).shape == (2, *maps)
        assert net(images).shape == (2, net.features)
    assert isinstance(net.blocks, nn.Sequential)
    last = [*net.modules()][-len([*net.blocks[-1].modules()]) :]
    assert last == [*net.blocks[-1].modules()]  # nothing comes after the last block


def test_features_come_from_the_maps():
    images = torch.randn(2, 3, 20, 20)
    conv4 = build("conv4-32", side=20).eval()
    torch.testing.assert_close(conv4(images), conv4.maps(images).reshape(2, -1))
    for name in ("resnet12-narrow", "resnet25"):
        net = build(name, side=20).eval()
        torch.testing.assert_close(net(images), net.maps(images).mean((2, 3)))


def test_features_of_a_resnet25_are_not_negative_and_of_a_resnet12_slightly():
    images = torch.randn(4, 3, 32, 32)
    assert build("resnet25")(images).min() >= 0
    features = build("resnet12-narrow").maps(images)
    assert features.min() < 0
    assert features.min().abs() < features.max() / 2


def test_a_block_of_resnet12_by_hand():
    net = ResNet12(2, 16, (3, 3, 3, 3)).eval()
    block = net.blocks[0]
    images = torch.randn(2, 2, 16, 16)
    steep = nn.LeakyReLU(0.1)
    inner = steep(block.bn1(block.conv1(images)))
    inner = steep(block.bn2(block.conv2(inner)))
    inner = block.bn3(block.conv3(inner)) + block.shortcut(images)
    torch.testing.assert_close(block(images), nn.functional.max_pool2d(steep(inner), 2))


@pytest.mark.parametrize(("name", "gain"), [("resnet12-narrow", 2 / 1.01), ("conv4", 2), ("resnet25", 2)])
def test_kernels_start_as_he_et_al_have_them(name, gain):
    for convolution in convolutions(build(name)):
        fan_out = convolution.out_channels * convolution.kernel_size[0] ** 2
        samples = convolution.weight.numel()
        assert convolution.weight.detach().std() == pytest.approx((gain / fan_out) ** 0.5, rel=4 / samples**0.5)


@pytest.mark.parametrize("name", QUICK)
def test_images_that_four_poolings_leave_nothing_of_are_refused(name):
    with pytest.raises(InputError, match="8 x 8 pixels are too small"):
        FEW_SHOT_BACKBONES[name](1, 8)


@pytest.mark.parametrize("name", QUICK)
def test_second_derivatives(name):
    """Meta-gradients go through the in-place activations twice; against finite differences."""
    net = build(name, 1, 16).double().eval()
    images = torch.randn(2, 1, 16, 16, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: net(x).pow(2), images, fast_mode=True)


@pytest.mark.parametrize("name", [*QUICK, "resnet25"])
def test_folding_changes_nothing(name):
    backbone = build(name, side=20)
    backbone(torch.randn(4, 3, 20, 20))  # statistics that are not those of the start
    net = IncrementalNet(backbone, HEADS["linear"](backbone.features), [120.0] * 3, [70.0] * 3).eval()
    net.head.grow(4)
    small = folded(net)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in small.modules())
    pixels = torch.randint(0, 256, (2, 3, 20, 20), dtype=torch.uint8)
    torch.testing.assert_close(small(pixels).logits, net(pixels).logits, rtol=1e-3, atol=1e-4)
