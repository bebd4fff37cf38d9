"""Choosing exemplars: herding against a literal transcription of iCaRL, random choice, and nearest means."""

import pytest
import torch
import torch.nn.functional as F

from mnemo.classifiers import class_means, count_correct
from mnemo.compression import CHOICES, herd, herding, random_choice
from mnemo.images import Images
from mnemo.nets import CosineHead, IncrementalNet
from mnemo.nets.small import SmallNet


def literal_herding(features: torch.Tensor, count: int) -> list[int]:
    """iCaRL, algorithm 4, word for word: the next is argmin || mean - (feature + sum of the chosen) / k ||."""
    mean = features.mean(0)
    chosen: list[int] = []
    for k in range(1, min(count, len(features)) + 1):
        total = features[chosen].sum(0)
        distances = [
            float((mean - (feature + total) / k).norm()) if index not in chosen else float("inf")
            for index, feature in enumerate(features)
        ]
        chosen.append(min(range(len(features)), key=distances.__getitem__))
    return chosen


@pytest.mark.parametrize("seed", range(5))
def test_herding_is_icarls(seed):
    generator = torch.Generator().manual_seed(seed)
    features = F.normalize(torch.randn(60, 7, generator=generator, dtype=torch.float64))
    assert herd(features, 25).tolist() == literal_herding(features, 25)


def test_herding_takes_each_once_and_no_more_than_there_are():
    features = F.normalize(torch.ones(4, 3))
    assert sorted(herd(features, 10).tolist()) == [0, 1, 2, 3]
    assert herd(features, 0).tolist() == []


def test_a_prefix_of_the_herding_order_is_the_order_of_fewer():
    features = F.normalize(torch.randn(40, 5, generator=torch.Generator().manual_seed(1)))
    assert herd(features, 20)[:8].tolist() == herd(features, 8).tolist()


def net_and_images(sizes=(12, 3, 7)):
    torch.manual_seed(0)
    net = IncrementalNet(SmallNet(1, width=4), CosineHead(8), [120.0], [70.0])
    net.head.grow(len(sizes))
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    pixels = torch.randint(0, 256, (len(labels), 1, 8, 9), dtype=torch.uint8)
    order = torch.randperm(len(labels))
    return net, Images(pixels[order], labels[order])


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_is_sorted_real_and_within_its_budget(name):
    # the released code assumes that every class has exactly 500 images
    net, images = net_and_images()
    chosen = images.select(CHOICES[name](net, images, 5, torch.Generator().manual_seed(0)))
    assert chosen.labels.tolist() == [0] * 5 + [1] * 3 + [2] * 5
    everything = {(int(y), bytes(x.flatten().tolist())) for x, y in zip(images.pixels, images.labels, strict=True)}
    picked = [(int(y), bytes(x.flatten().tolist())) for x, y in zip(chosen.pixels, chosen.labels, strict=True)]
    assert len(set(picked)) == len(picked)
    assert set(picked) <= everything


def test_random_choice_follows_its_generator_alone():
    net, images = net_and_images()
    one, same, other = (random_choice(net, images, 5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_herding_works_on_unaugmented_images_in_evaluation_mode():
    net, images = net_and_images()
    net.train()
    statistics = net.backbone.layers[1].running_mean.clone()
    herding(net, images, 2, torch.Generator())
    assert net.training
    assert torch.equal(net.backbone.layers[1].running_mean, statistics)


def test_class_means_mirror_left_to_right():
    # the public code turns [:, :, :, ::-1] on channels-last arrays, which swaps red and blue instead
    torch.manual_seed(0)
    net = IncrementalNet(SmallNet(3, width=4), CosineHead(8), [120.0] * 3, [70.0] * 3).eval()
    net.head.grow(2)
    images = Images(torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8), torch.tensor([0, 0, 0, 1, 1, 1]))
    expected = []
    for label in (0, 1):
        pixels = images.pixels[images.labels == label]
        mirrored = torch.stack([pixel[:, :, torch.arange(7, -1, -1)] for pixel in pixels])
        both = [F.normalize(net.features(view)).mean(0) for view in (pixels, mirrored)]
        expected.append(F.normalize((both[0] + both[1]) / 2, dim=0))
    found = class_means(net, images, mirrors=True, classes=2)
    torch.testing.assert_close(found, torch.stack(expected))
    assert not torch.allclose(found, class_means(net, images, mirrors=False, classes=2))


def test_both_classifiers_count_as_by_hand():
    net, images = net_and_images()
    net.eval()
    means = class_means(net, images, mirrors=False, classes=3)
    outputs = net(images.pixels)
    distances = torch.cdist(F.normalize(outputs.features), means)
    found = count_correct(net, images, {"nearest_mean": means}, batch_size=4)
    assert found["head"] == int((outputs.logits.argmax(1) == images.labels).sum())
    assert found["nearest_mean"] == int((distances.argmin(1) == images.labels).sum())
    assert set(count_correct(net, images, {})) == {"head"}
