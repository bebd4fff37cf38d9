"""The engine does what a plain loop does: the same numbers, however it is made fast."""

import copy
import dataclasses
import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from mnemo import engine, nets
from mnemo.augment import CropAndFlip
from mnemo.compression import random_choice
from mnemo.exemplars.mnemonics import Bilevel, Mnemonics
from mnemo.exemplars.pixels import PixelSteps
from mnemo.exemplars.rehearsal import Rehearsal
from mnemo.exemplars.stages import Optimise
from mnemo.exemplars.starts import Starts
from mnemo.images import Images
from mnemo.learner import Learner
from mnemo.memory import ExemplarMemory, per_class
from mnemo.phases import Phase
from mnemo.settings import Memory
from mnemo.settings import Training as Settings
from mnemo.stages import Situation
from mnemo.strategies.bic import bic
from mnemo.strategies.icarl import icarl
from mnemo.strategies.lucir import lucir
from mnemo.strategies.replay import replay

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SETTINGS = Settings(epochs=3, batch_size=16, backbone="small", lr=0.05)
RECIPES = [replay, icarl, lucir, bic]


def images(labels, shape=(1, 8, 8)):
    draw = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (len(labels), *shape), dtype=torch.uint8, generator=draw)
    return Images(pixels.contiguous(memory_format=torch.channels_last), labels)


def situation(recipe, augmentation, settings=SETTINGS, device="cpu"):
    """The second phase of a stream, three classes after four, with its training stage."""
    strategy = recipe(training=settings, memory=Memory(per_class=5))
    learner = Learner(strategy, 1, [120.0], [70.0], augmentation, torch.device(device), seed=3)
    old = images(torch.arange(4).repeat_interleave(9)).to(device)
    new = images(torch.arange(4, 7).repeat_interleave(11)).to(device)
    learner._grow(Phase(0, (0, 1, 2, 3), 0, old, old))
    learner.net.train()
    with torch.no_grad():
        learner.net(old.pixels)  # statistics that batch normalisation has not started with
    memory = ExemplarMemory(per_class(5))
    memory.admit(old.select(random_choice(learner.net, old, 5, torch.Generator().manual_seed(1))))
    phase = Phase(1, (4, 5, 6), 4, new, new)
    learner._grow(phase)
    return strategy.stages[0], Situation(learner.net, learner.previous, memory, phase, augmentation, (3, 1))


def plain_loop(stage, at, epochs):
    """Training as one writes it down: nothing kept, nothing folded, one batch after the other."""
    schedule, everything = stage.schedule, stage.images(at)
    at.net.head.learn_old(stage.learn_old_weights)
    learning = [p for p in at.net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=schedule.lr, momentum=0.9, weight_decay=schedule.weight_decay)
    for epoch in range(epochs):
        draw = torch.Generator().manual_seed(epoch)
        optimizer.param_groups[0]["lr"] = schedule.lr_at(epoch)
        at.net.train()
        for where in torch.randperm(len(everything), generator=draw).split(schedule.batch_size):
            batch = everything.select(where)
            pixels = at.augmentation.apply(batch.pixels, at.augmentation.draw(len(batch), batch.shape, draw))
            with torch.no_grad():
                old = at.previous(pixels) if stage.uses_previous else None
            optimizer.zero_grad()
            stage.objective(at.net(pixels), batch.labels, old).backward()
            optimizer.step()


def train(stage, at, epochs):
    loop = stage.begin(at)
    return [loop.epoch(epoch, torch.Generator().manual_seed(epoch)) for epoch in range(epochs)]


def assert_same_weights(net, other, tolerance):
    for (name, mine), (_, theirs) in zip(net.state_dict().items(), other.state_dict().items(), strict=True):
        torch.testing.assert_close(mine.cpu(), theirs.cpu(), rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("augmentation", [CropAndFlip(1, True), CropAndFlip(0, False)])
@pytest.mark.parametrize("recipe", RECIPES)
def test_training_is_a_plain_loop(recipe, augmentation):
    """In float64, so that nothing hides behind rounding."""
    torch.set_default_dtype(torch.float64)
    try:
        stage, mine = situation(recipe, augmentation)
        _, theirs = situation(recipe, augmentation)
    finally:
        torch.set_default_dtype(torch.float32)
    train(stage, mine, 3)
    plain_loop(stage, theirs, 3)
    assert_same_weights(mine.net, theirs.net, 1e-9)


def test_the_previous_network_is_asked_once_where_images_do_not_vary(monkeypatch):
    asked = []
    stage, at = situation(icarl, CropAndFlip(0, False))
    loop = stage.begin(at)
    monkeypatch.setattr(loop._previous, "_outputs", lambda pixels: asked.append(len(pixels)))
    loop.epoch(0, torch.Generator())
    assert asked == []


def test_no_gradient_reaches_the_previous_network():
    stage, at = situation(icarl, CropAndFlip(1, True))
    previous = copy.deepcopy(at.previous.state_dict())
    train(stage, at, 1)
    assert all(p.grad is None for p in at.previous.parameters())
    assert all(torch.equal(value, previous[name]) for name, value in at.previous.state_dict().items())


@pytest.mark.parametrize("backbone", ["small", "resnet20", "resnet18"])
def test_a_folded_network_says_the_same(backbone):
    torch.manual_seed(0)
    net = nets.build(backbone, "cosine", 3, [120.0] * 3, [60.0] * 3).double()
    net.head.grow(5)
    net.head.double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.bias.data):
                values.uniform_(-0.5, 0.5)
            for values in (module.running_var, module.weight.data):
                values.uniform_(0.5, 1.5)
    pixels = torch.randint(0, 256, (4, 3, 32, 32))
    folded = nets.folded(net)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(pixels).logits, net.eval()(pixels).logits)


# Recording, with a recorder that keeps to the rules of CUDA graphs and needs no GPU


def rehearse(function, inputs, warm_up):
    """Like :func:`mnemo.engine.record`: inputs and results stay in one place, and the function runs while it warms up.

    While a graph is recorded nothing is computed, so the state is as before.
    """
    static = [tensor.clone() for tensor in inputs]
    for _ in range(warm_up):
        outputs = function(*static)

    def replay(*given):
        for kept, tensor in zip(static, given, strict=True):
            kept.copy_(tensor)
        for kept, tensor in zip(outputs, function(*static), strict=True):
            kept.detach().copy_(tensor)
        return outputs

    return replay


@pytest.fixture
def recorder(monkeypatch):
    shapes = []

    def spy(function, inputs, warm_up):
        shapes.append([tuple(tensor.shape) for tensor in inputs])
        return rehearse(function, inputs, warm_up)

    monkeypatch.setattr(engine, "can_record", lambda inputs: True)
    monkeypatch.setattr(engine, "record", spy)
    return shapes


@pytest.mark.parametrize("recipe", RECIPES)
def test_recorded_steps_train_as_others_do(recipe, recorder, monkeypatch):
    stage, recorded = situation(recipe, CropAndFlip(1, True))
    shown = train(stage, recorded, 3)
    assert len(recorder) == 2, "one recording for whole batches, one for the last of an epoch"
    monkeypatch.undo()
    _, plain = situation(recipe, CropAndFlip(1, True))
    assert train(stage, plain, 3) == shown
    assert_same_weights(recorded.net, plain.net, 0)


@pytest.mark.parametrize("level", ["network", "head"])
def test_recorded_steps_move_exemplars_as_others_do(level, recorder, monkeypatch):
    pixels, settings = (
        PixelSteps(exemplar_epochs=2, exemplar_batch=10, outer_batch=8),
        Bilevel(inner_steps=2, level=level),
    )
    results = []
    for _ in range(2):
        stage, at = situation(lucir, CropAndFlip(1, True))
        chosen = random_choice(at.net, at.phase.train, 6, torch.Generator().manual_seed(2))
        at.memory.admit(at.phase.train.select(chosen))
        objective = Mnemonics(settings, Starts(), Rehearsal(stage, None, imprint=True))
        results.append([*train(Optimise(objective, pixels), at, 2)])
        monkeypatch.undo()
    assert recorder
    assert results[0] == results[1]


def test_where_recording_fails_steps_are_taken_one_by_one(monkeypatch):
    def refuse(function, inputs, warm_up):
        function(*inputs)  # it got as far as changing the network
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    stage, failed = situation(lucir, CropAndFlip(1, True))
    with monkeypatch.context() as patch:
        patch.setattr(engine, "can_record", lambda inputs: True)
        patch.setattr(engine, "record", refuse)
        with pytest.warns(RuntimeWarning, match=r"no CUDA graph \(operation not permitted[^\n]*one by one$") as warned:
            shown = train(stage, failed, 2)
    assert len(warned) == 1
    _, plain = situation(lucir, CropAndFlip(1, True))
    assert train(stage, plain, 2) == shown
    assert_same_weights(failed.net, plain.net, 0)


# Memory


def test_freed_memory_is_kept():
    code = """
import resource, torch
from mnemo import engine

def faults(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        blocks = [torch.ones(2_000_000) for _ in range(20)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults(10)
engine.keep_freed_memory()
faults(1)
print(given_back, faults(10))
"""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("another C library")
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    given_back, kept = map(int, told.split())
    assert kept < given_back / 2


# On a GPU


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("recipe", RECIPES)
def test_cuda_graphs_train_as_the_cpu_does(recipe):
    stage, gpu = situation(recipe, CropAndFlip(1, True), device="cuda")
    shown = train(stage, gpu, 2)
    _, cpu = situation(recipe, CropAndFlip(1, True))
    for mine, theirs in zip(shown, train(stage, cpu, 2), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-2)
    assert_same_weights(gpu.net, cpu.net, 1e-2)


@pytest.mark.gpu
@on_gpu
def test_bf16_trains_nearly_as_fp32_does():
    losses = []
    for precision in ("fp32", "bf16"):
        settings = dataclasses.replace(SETTINGS, precision=precision)
        stage, at = situation(lucir, CropAndFlip(1, True), settings, device="cuda")
        losses.append(train(stage, at, 3)[-1]["loss"])
        assert all(p.dtype == torch.float32 for p in at.net.parameters())
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
