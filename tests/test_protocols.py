"""The protocols that come with mnemo, and a run on an image folder of larger pictures."""

import numpy as np
import pytest
from PIL import Image

from mnemo import experiment, protocols, settings
from mnemo.files import InputError

NAMES = {
    "digits",
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
