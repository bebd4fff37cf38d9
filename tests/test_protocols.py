"""The protocols that come with mnemo, and a run on an image folder of larger pictures."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from mnemo import experiment, protocols, settings
from mnemo.disk.files import InputError
from mnemo.fewshot import cifar_splits
from mnemo.phases import class_order

FEW_SHOT = {
    "fscil-cifar100": (60, 5, 100),
    "fscil-cub200": (100, 10, 200),
    "fscil-embedded": (60, 5, 90),
    "fscil-mini-imagenet": (60, 5, 100),
    "fscil-omniglot": (200, 25, 400),
}
NAMES = {
    "digits",
    *FEW_SHOT,
    "cifar100-b0-n10",
    *(f"{data}-b50-n{n}" for data in ("cifar100", "imagenet-subset") for n in (5, 10, 25)),
}


def test_all_are_there():
    assert set(protocols.available()) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_their_settings_are_known_and_valid(name):
    protocol = protocols.load(name)
    assert protocol.description
    for strategy in experiment.strategies():
        recipe = experiment.recipe(strategy)
        accepted = settings.defaults(recipe)
        settings.arguments(recipe, {k: v for k, v in protocol.strategy.items() if k in accepted})
    everything = {key for strategy in experiment.strategies() for key in settings.defaults(experiment.recipe(strategy))}
    assert set(protocol.strategy) <= everything


@pytest.mark.parametrize(("phases", "increment"), [(5, 10), (10, 5), (25, 2)])
def test_half_of_the_classes_come_first(phases, increment):
    for data in ("cifar100", "imagenet-subset"):
        protocol = protocols.load(f"{data}-b50-n{phases}")
        assert (protocol.base_classes, protocol.increment) == (50, increment)
        assert protocol.strategy["per_class"] == 20


@pytest.mark.parametrize("name", sorted(FEW_SHOT))
def test_few_shot_streams(name):
    protocol = protocols.load(name)
    base, increment, classes = FEW_SHOT[name]
    assert (protocol.base_classes, protocol.increment, protocol.increment_images) == (base, increment, 5)
    assert protocol.classes in (None, classes)
    assert (classes - base) % increment == 0
    published = name not in ("fscil-embedded", "fscil-omniglot")
    assert protocol.order == ("natural" if published else "shuffled")
    assert ("drawn by the seed" in protocol.description) == published
    assert "five images" in protocol.description


def test_the_sessions_of_cifar100_are_those_of_topic():
    names = sorted(name for group in cifar_splits.SUPERCLASSES.values() for name in group)  # the data set's own order
    protocol = protocols.load("fscil-cifar100")
    order = experiment._order(protocol, 100, seed=7)
    sessions = [order[start : start + 5] for start in range(60, 100, 5)]
    assert [names[c] for c in sessions[0]] == ["plain", "plate", "poppy", "porcupine", "possum"]
    assert [names[c] for c in sessions[7]] == ["whale", "willow_tree", "wolf", "woman", "worm"]


def test_natural_order_is_the_same_for_all_seeds():
    natural = protocols.load("digits").changed({"order": "natural", "classes": 6})
    assert experiment._order(natural, 10, seed=1) == experiment._order(natural, 10, seed=2) == [0, 1, 2, 3, 4, 5]
    assert experiment._order(natural.changed({"order": "shuffled"}), 10, seed=1) == class_order(10, 1)[:6]
    with pytest.raises(InputError, match=r"order_seed: .*natural is not shuffled"):
        natural.changed({"order_seed": 3})
    with pytest.raises(InputError, match="order"):
        natural.changed({"order": "alphabetical"})


def test_unlabelled_images_reach_the_stream_and_leave_the_base_alone():
    digits, values = protocols.load("digits"), {"increment_images": 5}
    plain = experiment.prepare(digits, "finetune", values)
    more = experiment.prepare(digits, "finetune", {**values, "unlabelled": 7, "distractors": 2})
    assert more.stream[1].unlabelled.shape == (7 * (2 + 2), 1, 8, 8)
    assert torch.equal(more.stream[1].train.pixels, plain.stream[1].train.pixels)
    assert experiment.base_identity(more) == experiment.base_identity(plain)
    assert more.run.config["protocol"].items() > plain.run.config["protocol"].items()
    assert not {"order", "unlabelled", "distractors"} & plain.run.config["protocol"].keys()
    with pytest.raises(InputError, match="beside its shots"):
        experiment.prepare(digits, "finetune", {**values, "unlabelled": 700})


def test_unlabelled_images_reach_the_stages():
    seen = []

    class Look:
        name = "look"

        def begin(self, situation):
            seen.append((situation.phase.unlabelled, len(situation.phase.train)))

    values = {"increment_images": 5, "unlabelled": 7, "epochs": 1}
    prepared = experiment.prepare(protocols.load("digits"), "finetune", values)
    prepared.learner.strategy = dataclasses.replace(prepared.learner.strategy, stages=[Look()], hold_out=0.2)
    for phase in prepared.stream[:2]:
        list(prepared.learner.learn(phase))
        prepared.learner.evaluate(prepared.stream)
    (none, _), (pixels, images) = seen
    assert none is None
    assert torch.equal(pixels, prepared.stream[1].unlabelled)
    assert images == 2 * 4  # one of five is held out


def test_imagenet_is_trained_as_lucir_trains_it():
    arguments = settings.arguments(experiment.recipe("lucir"), protocols.load("imagenet-subset-b50-n5").strategy)
    schedule = arguments["training"].schedule
    assert [epoch for epoch in range(1, 90) if schedule.lr_at(epoch) < schedule.lr_at(epoch - 1)] == [30, 60]
    assert (arguments["less_forget"], schedule.weight_decay, schedule.epochs) == (10, 1e-4, 90)


def test_mean_and_deviation_are_measured_where_the_protocol_has_none():
    prepared = experiment.prepare(protocols.load("digits"), "finetune", {})
    base = prepared.stream[0].train.pixels.float()
    assert prepared.learner.mean == pytest.approx([float(base.mean())])
    with pytest.raises(InputError, match="one for each channel"):
        experiment.prepare(protocols.load("digits"), "finetune", {"mean": [0.5, 0.5], "std": [1.0, 1.0]})


@pytest.mark.parametrize("strategy", ["lucir", "mnemonics"])
def test_pictures_larger_than_what_the_network_sees(tmp_path, monkeypatch, strategy):
    monkeypatch.setenv("MNEMO_DATA_DIR", str(tmp_path / "data"))
    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for name in "abcd":
            folder = tmp_path / "data" / "pictures" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    (tmp_path / "mine.toml").write_text(
        """
        dataset = "pictures"
        base_classes = 2
        increment = 2
        augmentation = "resized-crop"
        crop_size = 32
        [strategy]
        backbone = "resnet20"
        epochs = 1
        per_class = 2
        fine_tune_epochs = 1
        exemplar_epochs = 1
        adjust_epochs = 1
        inner_steps = 1
        """
    )
    prepared = experiment.prepare(protocols.load(str(tmp_path / "mine.toml")), strategy, {})
    assert prepared.learner.input_size == 32
    list(experiment.execute(prepared, tmp_path / "out"))
    assert prepared.run.complete
    assert prepared.run.exemplars.bytes == 4 * 2 * 3 * 40 * 48
    assert prepared.learner.memory.images.shape == (3, 40, 48)
