"""Weight transfer: kernels stay, scales learn, and a run with it is a run like any other."""

import copy
import os

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrize

from mnemo import experiment, nets, protocols, settings
from mnemo.augment import CropAndFlip
from mnemo.components.scaling_shifting import Scaling, Shifting, scale
from mnemo.disk import checkpoint
from mnemo.disk.files import InputError
from mnemo.images import Images
from mnemo.learner import Learner, PhaseDone, run
from mnemo.phases import split_by_class
from mnemo.settings import Memory, Training
from mnemo.strategies.joint import joint
from mnemo.strategies.lucir import lucir

TRAINING = Training(epochs=2, batch_size=16, backbone="small", lr=0.05, transfer="scaling")
KERNEL, SCALE = "parametrizations.weight.original", "parametrizations.weight.0.scale"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def build(backbone="small", head="cosine"):
    """A network whose normalisation has seen something."""
    torch.manual_seed(0)
    net = nets.build(backbone, head, 3, [120.0] * 3, [60.0] * 3)
    net.head.grow(5)
    with torch.no_grad():
        net.train()(pixels(16))
    return net.eval()


def pixels(count):
    draw = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=draw)


def move_scales(net):
    for module in net.modules():
        if isinstance(module, Scaling):
            nn.init.uniform_(module.scale, 0.5, 1.5)


def learner(training=TRAINING):
    torch.manual_seed(0)
    labels = torch.arange(6).repeat_interleave(10)
    images = Images((torch.randint(0, 200, (6, 1, 8, 8))[labels] + torch.randint(0, 50, (60, 1, 8, 8))).byte(), labels)
    stream = split_by_class(images, images, order=list(range(6)), base_classes=2, increment=2)
    strategy = lucir(training=training, memory=Memory(per_class=2))
    return Learner(strategy, 1, [120.0], [70.0], CropAndFlip(1, False), torch.device("cpu"), 0), stream


def ends(learner, stream):
    """The network's tensors at the end of every phase."""
    for event in run(learner, stream):
        if isinstance(event, PhaseDone):
            yield {name: tensor.clone() for name, tensor in learner.net.state_dict().items()}


def test_resnet32_has_the_papers_count():
    net = build("resnet32")
    before = sum(p.numel() for p in net.parameters())
    scale(net)
    assert sum(m.scale.numel() for m in net.modules() if isinstance(m, Scaling)) == 53_808
    assert sum(p.numel() for p in net.parameters()) == before + 53_808
    assert sum(p.numel() for p in net.parameters() if not p.requires_grad) == 463_792


@pytest.mark.parametrize("backbone", ["small", "resnet20"])
def test_scales_of_one_change_no_bit(backbone):
    net = build(backbone)
    scaled = copy.deepcopy(net)
    scale(scaled)
    for mode in (True, False):
        new, old = scaled.train(mode)(pixels(8)), net.train(mode)(pixels(8))
        assert all(torch.equal(a, b) for a, b in zip(new, old, strict=True))


def test_a_scale_multiplies_its_kernel():
    net = build()
    kernel = net.backbone.layers[3].weight.detach().clone()
    scale(net)
    move_scales(net)
    by_hand = torch.einsum("oikl,oi->oikl", kernel, net.state_dict()[f"backbone.layers.3.{SCALE}"][:, :, 0, 0])
    torch.testing.assert_close(net.backbone.layers[3].weight, by_hand)


def test_scaling_twice_is_scaling_once():
    net = build()
    scale(net)
    move_scales(net)
    before = copy.deepcopy(net.state_dict())
    scale(net)
    assert before.keys() == net.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("backbone", ["small", "resnet20"])
def test_a_folded_scaled_network_says_the_same(backbone):
    net = build(backbone).double()
    scale(net)
    move_scales(net)
    before = net(pixels(4)).logits
    folded = nets.folded(net)
    assert not any(isinstance(m, nn.BatchNorm2d) or parametrize.is_parametrized(m) for m in folded.modules())
    torch.testing.assert_close(folded(pixels(4)).logits, before)
    assert torch.equal(net(pixels(4)).logits, before)  # copies share a class with the original: it kept its scales


def test_folding_draws_nothing():
    net = build()
    scale(net)
    before = torch.get_rng_state()
    nets.folded(net)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_copy_is_a_network_of_its_own():
    net = build()
    scale(net)
    kept = copy.deepcopy(net)
    before = kept(pixels(4)).logits
    move_scales(net)
    assert torch.equal(kept(pixels(4)).logits, before)
    kept.load_state_dict(net.state_dict())
    assert torch.equal(kept(pixels(4)).logits, net(pixels(4)).logits)


def test_scales_can_be_given_as_arguments():
    net = build()
    scale(net)
    name = f"backbone.layers.3.{SCALE}"
    given = {**dict(net.named_parameters()), name: net.get_parameter(name).detach() * 2}
    halved = functional_call(net, given, (pixels(4),)).logits
    net.get_parameter(name).data.mul_(2)
    assert torch.equal(halved, net(pixels(4)).logits)


def test_kernels_stay_and_everything_else_learns():
    one, stream = learner()
    base, *later = ends(one, stream)
    for before, after in zip([base, *later], later, strict=False):
        for name in ("backbone.layers.0", "backbone.layers.3", "backbone.layers.6"):
            assert torch.equal(after[f"{name}.{KERNEL}"], base[f"{name}.weight"])
            assert not torch.equal(after[f"{name}.{SCALE}"], before.get(f"{name}.{SCALE}", torch.ones(())))
        assert not torch.equal(after["backbone.layers.1.weight"], before["backbone.layers.1.weight"])


def test_the_previous_network_is_the_last_phases():
    """Plain in phase 1, then scaled and frozen."""
    one, stream = learner()
    at_end = list(ends(one, stream))
    previous = one.previous.state_dict()
    assert previous.keys() == at_end[1].keys()
    assert all(torch.equal(previous[name], at_end[1][name]) for name in previous)
    assert not any(p.requires_grad for p in one.previous.parameters())
    assert not any("parametrizations" in name for name in at_end[0])


@pytest.mark.parametrize("name", sorted(experiment.strategies()))
def test_every_recipe_hands_it_on(name):
    recipe = experiment.recipe(name)
    more = {"from_scratch": False} if name == "joint" else {}
    assert recipe(**settings.arguments(recipe, {"transfer": "scaling", **more})).transfer == "scaling"
    assert recipe().transfer == "none"


def test_a_new_network_has_nothing_to_transfer():
    with pytest.raises(InputError, match="from_scratch=false"):
        joint(training=TRAINING)
    assert joint(training=TRAINING, from_scratch=False).transfer == "scaling"


# Granularity, shift, and a part of a network


def move(net, kind):
    for module in net.modules():
        if isinstance(module, kind):
            nn.init.uniform_(*module.parameters(), 0.5, 1.5)


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("granularity", ["kernel", "channel", "none"])
@pytest.mark.parametrize("backbone", ["small", "resnet20"])
def test_a_new_transfer_changes_no_bit(backbone, granularity, shift):
    net = build(backbone)
    scaled = copy.deepcopy(net)
    scale(scaled, granularity, shift)
    for mode in (True, False):
        new, old = scaled.train(mode)(pixels(8)), net.train(mode)(pixels(8))
        assert all(torch.equal(a, b) for a, b in zip(new, old, strict=True))


@pytest.mark.parametrize(("granularity", "shape"), [("kernel", (4, 3, 1, 1)), ("channel", (4, 1, 1, 1))])
@pytest.mark.parametrize("bias", [False, True])
def test_scaling_and_shifting_by_hand(granularity, shape, bias):
    """(W * S1) X + (b + S2)."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=bias))
    kernel, old = net[0].weight.detach().clone(), net[0].bias.detach().clone() if bias else torch.zeros(4)
    scale(net, granularity, shift=True)
    move(net, Scaling), move(net, Shifting)
    state = net.state_dict()
    scales, shifts = state[f"0.{SCALE}"], state["0.parametrizations.bias.0.shift"]
    assert scales.shape == shape
    assert {n for n, p in net.named_parameters() if p.requires_grad} == {
        f"0.{SCALE}",
        "0.parametrizations.bias.0.shift",
    }
    x = torch.randn(2, 3, 5, 5)
    patches = x.unfold(2, 3, 1).unfold(3, 3, 1)  # (n, in, h, w, k, k)
    by_hand = torch.einsum("nihwkl,oikl,oi->nohw", patches, kernel, scales[:, :, 0, 0].expand(4, 3))
    torch.testing.assert_close(net(x), by_hand + (old + shifts).view(1, 4, 1, 1))


def test_a_bias_is_made_only_if_asked():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 4, 3))
    scale(net)
    assert net[0].bias is None
    assert net[1].bias.requires_grad
    assert not any(isinstance(module, Shifting) for module in net.modules())


def test_without_scales_kernels_are_only_frozen():
    net = build()
    before = [*net.state_dict()]
    scale(net, "none")
    assert [*net.state_dict()] == before
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {f"backbone.layers.{index}.weight" for index in (0, 3, 6)}


@pytest.mark.parametrize(
    ("granularity", "kind", "cancelled"),
    [("channel", Scaling, True), ("kernel", Scaling, False), ("kernel", Shifting, True)],
)
def test_batch_statistics_cancel_what_moves_a_whole_channel(granularity, kind, cancelled):
    """The shift and a scale per channel do nothing there; by running statistics they do."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-12)).double()
    x = torch.randn(8, 3, 6, 6, dtype=torch.float64)
    before = net(x), net.eval()(x)
    scale(net, granularity, shift=True)
    move(net, kind)
    assert (net.eval()(x) - before[1]).abs().max() > 0.1
    assert bool((net.train()(x) - before[0]).abs().max() < 1e-9) is cancelled


@pytest.mark.parametrize("shift", [False, True])
def test_a_part_learns_and_the_rest_is_frozen(shift):
    net = build("resnet20")
    last = net.backbone.blocks[-1]
    scale(net, shift=shift, part=last)
    learns = {name for name, p in net.backbone.named_parameters() if p.requires_grad}
    kinds = [SCALE, "parametrizations.bias.0.shift"][: 1 + shift]
    assert learns == {f"blocks.8.conv{i}.{kind}" for i in (1, 2) for kind in kinds} | {
        f"blocks.8.bn{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")
    }
    assert sum(isinstance(module, Scaling) for module in net.modules()) == 2
    assert all(p.requires_grad for p in net.head.parameters())


def test_a_backbone_is_scaled_as_a_whole_network_is():
    net = build()
    alone = copy.deepcopy(net)
    scale(net, shift=True)
    scale(alone.backbone, shift=True)
    assert [*alone.state_dict()] == [*net.state_dict()]


def test_shifting_twice_is_shifting_once():
    net = build()
    scale(net, shift=True)
    move(net, Shifting)
    before = copy.deepcopy(net.state_dict())
    scale(net, shift=True)
    assert before.keys() == net.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


# Whole runs


@pytest.fixture
def prepare(blobs):
    def make(strategy="icarl", **values):
        protocol = protocols.load(str(blobs / "blobs.toml"))
        return experiment.prepare(protocol, strategy, values, data_dir=blobs, device="cpu")

    return make


@pytest.mark.parametrize("strategy", ["icarl", "mnemonics"])
def test_a_new_process_for_every_event_makes_no_difference(strategy, prepare, tmp_path):
    latest = "checkpoints/latest.safetensors"
    kept = []
    whole = prepare(strategy, transfer="scaling")
    for event in experiment.execute(whole, tmp_path / "whole", checkpoint_seconds=0):
        kept.append((event, checkpoint.load(tmp_path / "whole" / latest)[0]))
    for event, state in kept:
        again = prepare(strategy, transfer="scaling")
        going = experiment.execute(again, tmp_path / "pieces", resume=True, checkpoint_seconds=0)
        assert next(going) == event
        going.close()
        resumed = checkpoint.load(tmp_path / "pieces" / latest)[0]
        assert resumed.keys() == state.keys()
        assert all(torch.equal(tensor, state[name]) for name, tensor in resumed.items())
    assert any(name.endswith(SCALE) for name in kept[-1][1])


def test_the_base_network_is_shared_with_runs_without(prepare, tmp_path):
    plain, scaled = prepare(), prepare(transfer="scaling")
    assert experiment.base_identity(plain) == experiment.base_identity(scaled)
    alone = list(experiment.execute(prepare(transfer="scaling"), tmp_path / "alone"))
    list(experiment.execute(plain, tmp_path / "plain"))
    shared = list(experiment.execute(scaled, tmp_path / "shared", base=tmp_path / "plain"))
    assert shared == alone[len(alone) - len(shared) :]
    assert len(shared) < len(alone)
