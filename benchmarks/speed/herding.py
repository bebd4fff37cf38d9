"""(c) Herding, and evaluation by the nearest mean."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial.distance import cdist
from torch import Tensor

from mnemo import compression
from mnemo.classifiers import class_means, count_correct
from mnemo.images import Images
from mnemo.nets import IncrementalNet

from . import images, ours, plain
from .options import Options
from .section import Section
from .timing import Variant, interleave

PER_CLASS = 20


def measure(options: Options) -> Section:
    """Seconds of mnemo's, and of public code's way: classes one by one, images one by one, picks one by one."""
    classes = range(options.pick(images.CLASSES, 4))
    source = images.load(options)
    train = images.of_classes(source.train, classes, len(classes) * options.pick(100, 20)).to(options.device)
    test = images.of_classes(source.test, classes, len(classes) * options.pick(20, 4)).to(options.device)
    variants = [*_herding(options, train), *_picks(options, train), *_evaluation(options, train, test)]
    section = Section("herding", f"Herding of {len(classes)} classes, and nearest-mean evaluation", variants)
    interleave(variants, options.repeats, options.device)
    for what in ("herding", "picks alone", "evaluation"):
        section.compare(f"mnemo {what}", f"reference {what}")
    section.notes.append(f"{len(train)} images, {PER_CLASS} chosen of each class; {len(test)} test images")
    return section


def _networks(options: Options) -> tuple[IncrementalNet, plain.Normalised]:
    net = ours.network(options, "linear", (images.CLASSES,)).eval()
    other = ours.contiguous(ours.network(options, "linear", (images.CLASSES,)))
    return net, plain.Normalised(other).eval()


def _herding(options: Options, train: Images) -> list[Variant]:
    net, other = _networks(options)
    few = train.of_classes([0])
    draw = torch.Generator()

    def mnemo(some: Images = train) -> None:
        compression.herding(net, some, PER_CLASS, draw)

    def reference(some: Images = train) -> None:
        for label in some.labels.unique().tolist():
            reference_picks(reference_features(other, some.of_classes([label]), options), PER_CLASS)

    return [
        Variant("mnemo herding", mnemo, warm_up=lambda: mnemo(few)),
        Variant("reference herding", reference, warm_up=lambda: reference(few)),
    ]


def _picks(options: Options, train: Images) -> list[Variant]:
    """Given features; these are random, for their values change nothing in the cost."""
    draw = torch.Generator().manual_seed(0)
    counts = train.labels.bincount().tolist()
    features = [F.normalize(torch.randn(count, 64, generator=draw)) for count in counts]
    arrays = [each.numpy() for each in features]

    def mnemo() -> None:
        for each in features:
            compression.herd(each, PER_CLASS)

    def reference() -> None:
        for each in arrays:
            reference_picks(each, PER_CLASS)

    return [Variant("mnemo picks alone", mnemo), Variant("reference picks alone", reference)]


def _evaluation(options: Options, train: Images, test: Images) -> list[Variant]:
    net, other = _networks(options)
    classes = int(train.labels.max()) + 1
    exemplars = images.of_classes(train, range(classes), classes * PER_CLASS)
    few = test.select(torch.arange(len(test))[: options.batch_size].to(test.labels.device))

    def mnemo(some: Images = test) -> None:
        count_correct(net, some, {"nearest_mean": class_means(net, exemplars, True, classes)})

    def reference(some: Images = test) -> None:
        means = [_reference_mean(other, exemplars.of_classes([label]), options) for label in range(classes)]
        distances = cdist(np.stack(means), reference_features(other, some, options), "sqeuclidean")
        (distances.argmin(0) == some.labels.cpu().numpy()).sum()

    return [
        Variant("mnemo evaluation", mnemo, warm_up=lambda: mnemo(few)),
        Variant("reference evaluation", reference, warm_up=lambda: reference(few)),
    ]


@torch.no_grad()
def reference_features(net: plain.Normalised, some: Images, options: Options) -> Any:
    """Features of length 1, through a loader of PIL images."""
    batches = plain.loader(some, plain.plain_transform(), options.batch_size, shuffle=False)
    parts: Sequence[Tensor] = [net.backbone(batch.to(options.device)).cpu() for batch, _ in batches]
    return F.normalize(torch.cat(list(parts))).numpy()


def reference_picks(vectors: Any, count: int) -> list[int]:
    """iCaRL, algorithm 4, to the letter: each step takes the image that brings the mean closest to the class's."""
    mean, chosen, total = vectors.mean(0), [], np.zeros_like(vectors[0])
    for k in range(1, min(count, len(vectors)) + 1):
        distances = np.sqrt(((mean - (vectors + total) / k) ** 2).sum(1))
        distances[chosen] = np.inf
        chosen.append(int(distances.argmin()))
        total = total + vectors[chosen[-1]]
    return chosen


def _reference_mean(net: plain.Normalised, exemplars: Images, options: Options) -> Any:
    """The mean of a class's exemplars and of their mirror images."""
    mirrored = Images(exemplars.pixels.flip(3), exemplars.labels)
    mean = sum(reference_features(net, some, options).mean(0) for some in (exemplars, mirrored))
    return mean / np.linalg.norm(mean)
