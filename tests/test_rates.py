"""Which rate serves a class."""

import torch

from mnemo import rates
from mnemo.augment import CropAndFlip
from mnemo.codecs import Jpeg, Mixed, Raw
from mnemo.compression import herding
from mnemo.images import Images
from mnemo.memory import ExemplarMemory, per_class
from mnemo.nets import IncrementalNet, LinearHead
from mnemo.nets.small import SmallNet
from mnemo.phases import Phase
from mnemo.stages import Compress, Situation


def net(classes):
    torch.manual_seed(0)
    result = IncrementalNet(SmallNet(3, width=8), LinearHead(16), [120.0] * 3, [70.0] * 3)
    result.head.grow(classes)
    return result.eval()


def blobs(classes=3, each=20, side=16, seed=0):
    torch.manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(each)
    torch.manual_seed(9)
    centres = torch.rand(classes, 3, side, side) * 200
    torch.manual_seed(seed)
    return Images((centres[labels] + 40 * torch.rand(len(labels), 3, side, side)).byte(), labels)


def test_each_class_gets_the_set_that_names_its_images():
    good, held = blobs(seed=1), blobs(seed=2)
    wrong = good.pixels.clone()
    wrong[good.labels == 1] = good.pixels[good.labels == 2].flip(0)  # class 1 looks like class 2
    best = rates.best(net(3), [Images(wrong, good.labels), good], held, [])
    assert best[1] == 1
    assert len(best) == 3


def test_a_memory_of_chosen_rates_keeps_its_budget_and_comes_back():
    images = blobs()
    codec = Mixed((Jpeg(50), Jpeg(90), Raw()))
    store = ExemplarMemory(per_class(6), codec)
    at = Situation(net(3), None, store, Phase(0, (0, 1, 2), 0, images, images), CropAndFlip(1, False), (0, 0))
    Compress(herding).begin(at).epoch(0, torch.Generator().manual_seed(0))
    assert store.bytes <= 3 * 6 * 768
    assert (torch.bincount(store.images.labels) > 0).all()
    assert store.images.labels.tolist() == sorted(store.images.labels.tolist())
    other = ExemplarMemory(per_class(6), codec)
    other.load(store.state())
    assert torch.equal(other.images.pixels, store.images.pixels)
