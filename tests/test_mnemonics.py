"""The exemplar stages: pixels move, stay valid, and are stored as they ought to be."""

import dataclasses

import pytest
import torch
from torch import nn

from mnemo.augment import CropAndFlip
from mnemo.codecs import Codec, Half, Jpeg, Raw, to_uint8
from mnemo.compression import random_choice
from mnemo.exemplars.distribution_matching import DistributionMatching
from mnemo.exemplars.gradient_matching import GradientMatching, matching
from mnemo.exemplars.mnemonics import Bilevel, BilevelStep, Mnemonics, hypergradient
from mnemo.exemplars.nearest_mean import NearestMean
from mnemo.exemplars.pixels import Pixels, PixelSteps, class_balanced
from mnemo.exemplars.rehearsal import Rehearsal
from mnemo.exemplars.stages import Accept, Adjust, Optimise
from mnemo.exemplars.starts import Pool, Start, Starts
from mnemo.images import Images
from mnemo.learner import Learner, run
from mnemo.memory import ExemplarMemory, per_class, ranks
from mnemo.nets import CosineHead, IncrementalNet
from mnemo.nets.small import SmallNet
from mnemo.phases import Phase, split_by_class
from mnemo.settings import FineTuning, Memory, Training
from mnemo.stages import Compress, Schedule, Situation, Train
from mnemo.strategies.mnemonics import mnemonics
from mnemo.strategies.objectives import cross_entropy

PIXELS = PixelSteps(exemplar_epochs=1, adjust_epochs=1, exemplar_batch=8, outer_batch=16)
BILEVEL = Bilevel(inner_steps=2)
REHEARSAL = Rehearsal(Train(cross_entropy, Schedule(2, lr=0.05, batch_size=16), None), None, imprint=True)
OBJECTIVE = Mnemonics(BILEVEL, Starts(), REHEARSAL)


def situation(old_classes: int = 0, new_classes: int = 3, each: int = 4, codec: Codec = Raw()) -> Situation:
    """A phase with its exemplars in memory, the first ``each`` images of every class, and those of older classes."""
    torch.manual_seed(0)
    classes = old_classes + new_classes
    net = IncrementalNet(SmallNet(1, width=4, activation=nn.Softplus), CosineHead(8), [120.0], [70.0])
    if old_classes:
        net.head.grow(old_classes)
    net.head.grow(new_classes)
    labels = torch.arange(classes).repeat_interleave(10)
    pixels = torch.randint(1, 255, (len(labels), 1, 8, 8), dtype=torch.uint8)
    images = Images(pixels, labels)
    phase = Phase(int(old_classes > 0), tuple(range(new_classes)), old_classes, images, images)
    phase = dataclasses.replace(phase, train=images.of_classes(list(phase.labels)))
    store = ExemplarMemory(per_class(each), codec)
    store.admit(images.select((ranks(labels) < each).nonzero().squeeze(1)))
    return Situation(net, None, store, phase, CropAndFlip(1, False), (0, 0))


def go_through(stage, at: Situation) -> None:
    loop = stage.begin(at)
    for epoch in range(loop.epochs):
        loop.epoch(epoch, torch.Generator().manual_seed(epoch))
    loop.end()


@pytest.mark.parametrize("level", ["network", "head"])
def test_pixels_move_in_an_epoch(level):
    # the released step moves pixels by less than 5e-5 grey levels a phase, and what is rounded is the same image
    at = situation()
    before = at.memory.images.pixels.clone()
    loop = Optimise(Mnemonics(dataclasses.replace(BILEVEL, level=level), Starts(), REHEARSAL), PIXELS).begin(at)
    loop.epoch(0, torch.Generator().manual_seed(0))
    moved = loop.state()["values"] - before.float()
    assert moved.square().mean().sqrt() > 0.05
    assert moved.square().mean((1, 2, 3)).min() > 0, "an exemplar stayed where it was"


def test_an_update_has_the_size_that_is_asked_for():
    images = situation().memory.images
    pixels = Pixels(images, PixelSteps(pixel_step=0.25), Raw())
    where = torch.tensor([1, 5, 7])
    pixels.move(where, torch.randn(3, 1, 8, 8) * 1e-7)
    moved = pixels.values - images.pixels.float()
    assert moved[where].square().mean().sqrt() == pytest.approx(0.25, rel=1e-3)
    assert moved.flatten(1).any(1).nonzero().squeeze(1).tolist() == where.tolist()


def test_steps_fall_by_the_papers_rule():
    steps = [PixelSteps().decay_at(epoch, 50) for epoch in (0, 9, 10, 19, 20, 49)]
    assert steps == pytest.approx([1, 1, 0.5, 0.5, 0.25, 0.0625])


def test_pixels_are_clamped_not_wrapped():
    # the released code casts 256.4 to 0 and -1.2 to 255
    values = torch.tensor([-1.2, 255.6, 256.4, 300.0, 0.49, 0.51])
    assert to_uint8(values).tolist() == [0, 255, 255, 255, 0, 1]
    images = Images(torch.full((1, 1, 8, 8), 255, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    pixels = Pixels(images, PixelSteps(pixel_step=40), Raw())
    pixels.move(torch.tensor([0]), -torch.ones(1, 1, 8, 8))
    assert pixels.values.max() == 255


def test_an_untouched_exemplar_comes_back_as_it_was():
    # the released code floors after denormalising: 62 of 256 red levels lose one with no training at all
    every_level = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    store = ExemplarMemory(per_class(1))
    store.admit(Images(every_level, torch.zeros(1, dtype=torch.int64)))
    store.store(torch.tensor([0]), every_level.float())
    assert torch.equal(store.images.pixels, every_level)
    assert store.rms_displacement() == 0
    assert store.rms_quantisation() == 0


def test_displacement_and_quantisation_are_recorded():
    store = ExemplarMemory(per_class(2))
    store.admit(Images(torch.full((2, 1, 2, 2), 100, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)))
    store.store(torch.tensor([1]), torch.full((1, 1, 2, 2), 103.25))
    assert store.rms_displacement() == pytest.approx((9 / 2) ** 0.5)
    assert store.rms_quantisation() == pytest.approx((0.0625 / 2) ** 0.5)
    store.shrink(4)
    assert store.rms_displacement() == 0


def test_only_the_phase_is_optimised_and_only_the_past_adjusted():
    far = dataclasses.replace(PIXELS, pixel_step=3.0)  # so that no exemplar is rounded back to what it was
    for stage, is_moved in ((Optimise(OBJECTIVE, far), lambda y: y >= 2), (Adjust(OBJECTIVE, far), lambda y: y < 2)):
        at = situation(old_classes=2, new_classes=2)
        go_through(stage, at)
        moved = (at.memory.images.pixels != at.memory.originals).flatten(1).any(1)
        assert torch.equal(moved, is_moved(at.memory.images.labels))


def test_classes_that_are_kept_whole_stay_as_they_are():
    far = dataclasses.replace(PIXELS, pixel_step=3.0)
    for stage, whole, still in ((Optimise(OBJECTIVE, far), [3], {2}), (Adjust(OBJECTIVE, far), [1], {0})):
        at = situation(old_classes=2, new_classes=2)
        at.memory.whole = torch.tensor(whole)
        go_through(stage, at)
        moved = (at.memory.images.pixels != at.memory.originals).flatten(1).any(1)
        assert set(at.memory.images.labels[moved].tolist()) == still
        at.memory.whole = torch.arange(4)
        assert stage.begin(at) is None


def test_a_class_is_whole_where_all_its_images_are_chosen():
    at = situation(new_classes=3)
    few = at.phase.train.select(torch.tensor([0, 1, 2, 3, 10, 11, 12, 20, 21, 22, 23, 24]))  # 4, 3 and 5 of each
    at = dataclasses.replace(at, memory=ExemplarMemory(per_class(4)), phase=dataclasses.replace(at.phase, train=few))
    go_through(Compress(random_choice), at)
    assert at.memory.whole.tolist() == [0, 1]
    again = ExemplarMemory(per_class(4))
    again.load(at.memory.state())
    assert again.whole.tolist() == [0, 1]
    again.shrink(3 * 64)  # class 0 loses one of its four, class 1 has three
    assert again.whole.tolist() == [1]
    at = dataclasses.replace(at, memory=ExemplarMemory(per_class(4)), held_out=few.of_classes([1]))
    go_through(Compress(random_choice), at)
    assert at.memory.whole.tolist() == [0]


def test_adjustment_validates_on_the_other_half(monkeypatch):
    at = situation(old_classes=2, new_classes=1)
    rank = ranks(at.memory.images.labels)
    at.memory.images.pixels[:, 0, 0, 0] = rank.to(torch.uint8)  # marks every exemplar by its rank
    seen = []

    def spy(step, exemplars, labels, beside, pixels, targets, *others):
        assert set(labels.tolist()) == set(targets.tolist()) == {0, 1}
        seen.append((exemplars[:, 0, 0, 0].round().int() % 2, pixels[:, 0, 0, 0].int() % 2))
        return torch.zeros(()), torch.zeros_like(exemplars)

    monkeypatch.setattr("mnemo.exemplars.mnemonics.BilevelStep.__call__", spy)
    Adjust(OBJECTIVE, PIXELS).begin(at).epoch(0, torch.Generator().manual_seed(0))
    assert {int(mine.unique()) for mine, _ in seen} == {0, 1}
    assert all(mine.unique() != others.unique() for mine, others in seen)


def test_nothing_to_adjust():
    assert Adjust(OBJECTIVE, PIXELS).begin(situation()) is None
    assert Adjust(OBJECTIVE, PIXELS).begin(situation(old_classes=2, each=1)) is None
    assert Optimise(OBJECTIVE, dataclasses.replace(PIXELS, exemplar_epochs=0)).begin(situation()) is None


@pytest.mark.parametrize("size", [1, 5, 8, 100])
def test_batches_take_every_exemplar_once_and_classes_evenly(size):
    labels = torch.tensor([3, 3, 3, 5, 5, 5, 8, 8, 8, 8])
    batches = list(class_balanced(labels, size, torch.Generator().manual_seed(0)))
    assert torch.cat(batches).sort().values.tolist() == list(range(10))
    assert max(map(len, batches)) <= size
    for batch in batches[:-1]:
        counts = torch.bincount(labels[batch], minlength=9)[[3, 5, 8]]
        assert counts.max() - counts.min() <= 2


def test_exemplars_are_different_images_with_the_right_labels():
    # the first release starts all exemplars of a class from the same image, and slices labels off by one class
    torch.manual_seed(1)
    labels = torch.arange(6).repeat_interleave(12)
    pixels = (labels * 40).view(-1, 1, 1, 1) + torch.randint(0, 20, (72, 1, 8, 8))  # the class can be read off
    images = Images(pixels.to(torch.uint8), labels)
    stream = split_by_class(images, images, order=[4, 0, 2, 5, 1, 3], base_classes=2, increment=2)
    strategy = mnemonics(
        training=Training(epochs=1, batch_size=16, backbone="small"),
        memory=Memory(per_class=5, exemplars="random"),
        pixels=dataclasses.replace(PIXELS, pixel_step=0.5),
        bilevel=BILEVEL,
        fine_tuning=FineTuning(fine_tune_epochs=1),
    )
    learner = Learner(strategy, 1, [120.0], [70.0], CropAndFlip(1, False), torch.device("cpu"), seed=0)
    for _ in run(learner, stream):
        exemplars = learner.memory.images
        if exemplars is None:
            continue
        order = torch.tensor([c for group in stream.groups for c in group])
        read_off = (exemplars.pixels.float().mean((1, 2, 3)) - 9.5).div(40).round().long()
        assert torch.equal(read_off, order[exemplars.labels])
        assert len(exemplars.pixels.flatten(1).unique(dim=0)) == len(exemplars)
    assert torch.bincount(exemplars.labels).tolist() == [5] * 6


def test_the_recipe_has_the_papers_stages_in_order():
    strategy = mnemonics()
    assert [stage.name for stage in strategy.stages] == ["train", "compress", "optimise", "adjust", "fine_tune"]
    assert isinstance(strategy.stages[1], Compress)
    fine_tune = strategy.stages[-1]
    assert isinstance(fine_tune, Train)
    rates = [fine_tune.schedule.lr_at(epoch) for epoch in (0, 9, 10, 20, 49)]
    assert rates == pytest.approx([0.01, 0.01, 0.005, 0.0025, 0.000625])


@pytest.mark.parametrize(("on", "stages"), [("icarl", 5), ("lwf", 5), ("bic", 6)])
def test_on_other_strategies_by_one_argument(on, stages):
    strategy = mnemonics(on=on)
    names = [stage.name for stage in strategy.stages]
    assert len(names) == stages
    assert names[names.index("compress") :] == ["compress", "optimise", "adjust", "fine_tune"]
    assert strategy.classifier == ("nearest_mean" if on == "icarl" else "head")


# Starts


def pool(kinds, at, **settings):
    return Pool(at, Starts(starts=kinds, **{"pool": 4, "pseudo_images": 6} | settings), REHEARSAL, "optimise")


def drawn(pool, epoch, count=30):
    return [pool.draw(epoch, torch.Generator().manual_seed(seed)) for seed in range(count)]


def test_the_papers_start_is_the_network_itself():
    at = situation()
    assert {id(start.net) for start in drawn(pool(("current",), at), 0)} == {id(at.net)}


@pytest.mark.parametrize("kind", ["forgotten", "reset_head", "random"])
def test_a_pool_has_many_starts_and_renews_them_alike_in_every_run(kind):
    at = situation(old_classes=2)
    before = {name: tensor.clone() for name, tensor in at.net.state_dict().items()}
    one, other = (pool((kind,), at, refresh_epochs=2) for _ in range(2))
    first, later = drawn(one, 1), drawn(one, 2)
    assert len({id(start.net) for start in first}) == 4
    assert not {id(start.net) for start in first} & {id(start.net) for start in later}
    for mine, again in zip(later, drawn(other, 3), strict=True):  # a run that goes on in epoch 3 has the same pool
        for a, b in zip(mine.net.state_dict().values(), again.net.state_dict().values(), strict=True):
            assert torch.equal(a, b)
    assert all(not start.net.training for start in first)
    for name, tensor in at.net.state_dict().items():
        assert torch.equal(tensor, before[name]), "the network itself has changed"


def test_forgotten_starts_have_made_up_classes_and_forget():
    at = situation(old_classes=2)
    for start in drawn(pool(("forgotten",), at), 0):
        assert start.net.head.classes == at.net.head.classes + 2
        labels = set(start.others.labels.tolist())
        assert labels == {0, 1, 5, 6}, "exemplars of old classes, and made-up classes"
        assert start.previous is not None
    weights = [start.net.backbone.layers[0].weight for start in drawn(pool(("forgotten",), at), 0)]
    assert all(not torch.equal(weight, at.net.backbone.layers[0].weight) for weight in weights)


def test_made_up_classes_are_rotated_images_and_are_measured_on_others():
    at = situation(new_classes=3)
    phase = REHEARSAL._phase(at, ("x",))
    turned = {image.numpy().tobytes() for turn in (1, 2, 3) for image in at.phase.train.pixels.rot90(turn, (2, 3))}
    train, test = ({image.numpy().tobytes() for image in images.pixels} for images in (phase.train, phase.test))
    assert train <= turned
    assert test <= turned
    assert train.isdisjoint(test)
    assert phase.labels == range(3, 5)


def test_waypoints_are_starts():
    at = dataclasses.replace(situation(), waypoints=[situation().net, situation().net])
    found = {id(start.net) for start in drawn(pool(("waypoints",), at), 0)}
    assert found == {id(net) for net in at.waypoints}


# Objectives

OBJECTIVES = {
    "strategy's loss": Mnemonics(
        Bilevel(inner_steps=2, inner_loss="strategy", outer_loss="both", companions=4),
        Starts(starts=("forgotten",), pool=2, pseudo_images=6),
        REHEARSAL,
    ),
    "truncated": Mnemonics(Bilevel(inner_steps=4, way="truncated", window=2), Starts(), REHEARSAL),
    "first order": Mnemonics(Bilevel(inner_steps=3, way="first_order"), Starts(), REHEARSAL),
    "ridge": Mnemonics(Bilevel(level="ridge"), Starts(), REHEARSAL),
    "gradient matching": GradientMatching(Starts(), REHEARSAL),
    "distribution matching": DistributionMatching(Starts(), REHEARSAL),
    "nearest mean": NearestMean(),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_gets_better_at_what_it_asks_for(name):
    at = situation(old_classes=2)
    settings = dataclasses.replace(PIXELS, exemplar_epochs=15, exemplar_batch=100, outer_batch=30, pixel_step=1.0)
    loop = Optimise(OBJECTIVES[name], settings).begin(at)
    gradient, labels = loop._gradient, loop._pixels.labels

    def loss(values):
        draws = [torch.Generator().manual_seed(seed) for seed in range(5)]
        return sum(float(gradient(0, values, labels, at.phase.train, draw)[0]) for draw in draws)

    before = loss(loop._pixels.values.clone())
    for epoch in range(settings.exemplar_epochs):
        loop.epoch(epoch, torch.Generator().manual_seed(epoch))
    assert loss(loop._pixels.values.clone()) < before


def test_the_hypergradient_at_a_start_is_that_of_its_own_network():
    at, other = situation(), situation()
    with torch.no_grad():
        for parameter in other.net.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    step = BilevelStep(at.net.eval(), at.augmentation, BILEVEL)
    exemplars, labels = at.memory.images.pixels.float(), at.memory.images.labels
    inputs = step.inputs(
        Start(other.net.eval(), None, None), exemplars, labels, at.phase.train, torch.Generator().manual_seed(0)
    )
    expected = hypergradient(
        other.net, exemplars, labels, at.phase.train, at.augmentation, BILEVEL, torch.Generator().manual_seed(0)
    )
    loss, gradient = step(*inputs)
    assert torch.equal(loss, expected.loss)
    assert torch.equal(gradient, expected.gradient)


def test_gradients_are_matched_where_images_are_the_same():
    at = situation()
    images, draw = at.phase.train.of_classes([1]), torch.zeros(1, 3, dtype=torch.int64)
    pixels, net = images.pixels.float(), at.net.eval()
    distance, _ = matching(net, pixels, images.labels, images, at.augmentation, draw)
    assert float(distance) == pytest.approx(0, abs=1e-4)
    other, moved = matching(net, pixels.flip(2), images.labels, images, at.augmentation, draw)
    assert other > 0.1
    assert moved.abs().max() > 0


def test_the_matching_of_gradients_against_finite_differences():
    at = situation()
    net, images = at.net.double().eval(), at.phase.train.of_classes([1])
    pixels, draw = images.pixels[:3].double().flip(3), torch.tensor([[2, 0, 0]])

    def distance(values):
        return matching(net, values, images.labels[:3], images, at.augmentation, draw)

    direction = torch.randn(pixels.shape, dtype=torch.float64)
    slope = float((distance(pixels)[1] * direction).sum())
    step = 1e-4
    ends = [float(distance(pixels + sign * step * direction)[0]) for sign in (1, -1)]
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=1e-5)


def test_the_released_rate_moves_no_pixel_to_another_level():
    at = situation()
    settings = PixelSteps(exemplar_epochs=1, adjust_epochs=0, exemplar_batch=100, outer_batch=16, pixel_rate=0.026)
    go_through(Optimise(NearestMean(), settings), at)
    assert at.memory.rms_displacement() == 0
    assert at.memory.rms_quantisation() < 0.01


# What is moved, and what is kept of it


def test_a_share_stays_real():
    at = situation(each=4)
    far = dataclasses.replace(PIXELS, pixel_step=3.0, optimised_share=0.5)
    go_through(Optimise(OBJECTIVE, far), at)
    moved = (at.memory.images.pixels != at.memory.originals).flatten(1).any(1)
    assert torch.equal(moved, ranks(at.memory.images.labels) >= 2)


@pytest.mark.parametrize("codec", [Jpeg(75), Half()])
def test_what_is_stored_is_what_was_optimised_through_the_codec(codec):
    at = situation(codec=codec)
    loop = Optimise(OBJECTIVE, dataclasses.replace(PIXELS, pixel_step=5.0)).begin(at)
    loop.epoch(0, torch.Generator().manual_seed(0))
    seen = loop._pixels.seen(loop._pixels.values)
    loop.end()
    kept = at.memory.images
    first = ranks(loop._pixels.labels) < torch.bincount(kept.labels)[loop._pixels.labels]
    assert torch.equal(kept.pixels.float(), seen[first])
    assert not torch.equal(kept.pixels, at.memory.originals)
    assert at.memory.bytes <= 3 * 4 * 64 + len(codec.shared((1, 8, 8)))


@pytest.mark.parametrize(("worse", "kept"), [(True, 0), (False, 1)])
def test_the_guard_keeps_what_wins_a_rehearsal(monkeypatch, worse, kept):
    at = situation()
    real = at.memory.images.pixels.clone()
    at.memory.store(torch.arange(len(real)), 255 - real.float())

    def accuracy(rehearsal, situation, exemplars, seed):
        return 60.0 if torch.equal(exemplars.pixels, real) is worse else 50.0

    monkeypatch.setattr(Rehearsal, "accuracy", accuracy)
    loop = Accept(REHEARSAL, runs=2).begin(at)
    shown = loop.epoch(0, torch.Generator())
    assert shown == {"chosen": 60.0 if worse else 50.0, "optimised": 50.0 if worse else 60.0, "accepted": kept}
    assert torch.equal(at.memory.images.pixels, real) is worse


def test_a_rehearsal_is_the_same_again_and_sees_which_exemplars_it_has():
    at = situation(new_classes=4, each=6)
    images = at.memory.images
    rehearsal = dataclasses.replace(REHEARSAL, fine_tune=REHEARSAL.train, images=6)
    one, again = (rehearsal.accuracy(at, images, ("x", 0)) for _ in range(2))
    wrong = Images(images.pixels.flip(0).contiguous(memory_format=torch.channels_last), images.labels)
    assert one == again
    assert 0 <= one <= 100
    assert [rehearsal.accuracy(at, wrong, ("x", run)) for run in range(4)] != [
        rehearsal.accuracy(at, images, ("x", run)) for run in range(4)
    ]
    assert at.net.head.classes == 4, "the network itself has grown"


def test_logits_are_stored_with_exemplars_and_renewed_when_they_move():
    torch.manual_seed(2)
    labels = torch.arange(4).repeat_interleave(12)
    images = Images(torch.randint(0, 255, (48, 1, 8, 8), dtype=torch.uint8), labels)
    stream = split_by_class(images, images, order=[0, 1, 2, 3], base_classes=2, increment=2)
    strategy = mnemonics(
        training=Training(epochs=1, batch_size=16, backbone="small"),
        memory=Memory(per_class=5, soft_labels=1.0),
        pixels=dataclasses.replace(PIXELS, pixel_step=3.0, adjust_epochs=0),
        bilevel=BILEVEL,
        fine_tuning=FineTuning(),
    )
    learner = Learner(strategy, 1, [120.0], [70.0], CropAndFlip(1, False), torch.device("cpu"), seed=0)
    for event in learner.learn(stream[0]):
        if event.stage == "compress":
            chosen = learner.memory.images.logits.clone()
    kept = learner.memory.images
    assert not torch.equal(kept.logits, chosen)
    with torch.no_grad():
        said = learner.net.eval()(kept.pixels).logits
    torch.testing.assert_close(kept.logits, said, rtol=1e-2, atol=1e-3)
    assert len(kept) == 2 * 4, "five raw images less the bytes of logits are four"
    learner.evaluate(stream)
    for _ in learner.learn(stream[1]):
        pass
    known = (~learner.memory.images.logits.isnan()).sum(1)
    assert known.tolist() == [2] * 8 + [4] * 8


def test_exemplars_are_optimised_for_images_that_are_held_out():
    at = situation()
    other = Images(at.phase.train.pixels // 2, at.phase.train.labels)
    seen = []

    class Spy:
        def begin(self, situation, stage):
            return lambda epoch, exemplars, labels, outer, draw: (seen.append(outer), (exemplars.sum(), exemplars))[1]

        def work(self, exemplars, outer):
            return 0.0

    Optimise(Spy(), PIXELS).begin(dataclasses.replace(at, held_out=other)).epoch(0, torch.Generator())
    shown = {image.numpy().tobytes() for outer in seen for image in outer.pixels}
    assert shown <= {image.numpy().tobytes() for image in other.pixels}
