"""mnemo inside Avalanche; skipped where Avalanche is missing (tests/test_avalanche_missing.py has that case)."""

import copy
import importlib.util
import pickle
import re
import runpy
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from mnemo import codecs, datasets, metrics, nets, record, report
from mnemo.augment import CropAndFlip
from mnemo.compression import CHOICES
from mnemo.disk.files import InputError
from mnemo.exemplars.mnemonics import Bilevel
from mnemo.exemplars.pixels import PixelSteps
from mnemo.images import Images
from mnemo.learner import Learner, PhaseDone, run
from mnemo.nets.small import SmallNet
from mnemo.phases import split_by_class
from mnemo.settings import FineTuning, Memory, Training
from mnemo.strategies.mnemonics import mnemonics

if importlib.util.find_spec("avalanche") is None:
    pytest.skip("Avalanche is not installed", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Avalanche's own
    from mnemo.strategies.avalanche_plugin import (
        MnemonicsBuffer,
        MnemonicsPlugin,
        Recorder,
        benchmark,
        class_stream,
    )

    # isort: split
    from avalanche.benchmarks import class_incremental_benchmark, nc_benchmark
    from avalanche.benchmarks.utils import _make_taskaware_classification_dataset, as_classification_dataset
    from avalanche.checkpointing import maybe_load_checkpoint, save_checkpoint
    from avalanche.core import SupervisedPlugin
    from avalanche.evaluation.metrics import Forgetting, accuracy_metrics, forgetting_metrics, loss_metrics
    from avalanche.logging import CSVLogger, TensorboardLogger, TextLogger
    from avalanche.models import IncrementalClassifier, MultiHeadClassifier, MultiTaskModule
    from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
    from avalanche.training.supervised import DER, EWC, GEM, ICaRL, LwF, Naive, Replay
    from torchvision.transforms import Compose, Lambda, Normalize, RandomCrop, Resize, ToTensor

    from mnemo.avalanche import compatibility, raw
    from mnemo.avalanche.network import AvalancheNet

pytestmark = [
    pytest.mark.filterwarnings("ignore:::avalanche"),
    pytest.mark.filterwarnings("ignore:No loggers specified"),
    pytest.mark.filterwarnings("ignore:.*pre_adapt and post_adapt"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # its loggers leave files open
]

ROOT = Path(__file__).parent.parent
MEAN, STD = 0.3, 0.37
EVALUATION = Compose([ToTensor(), Normalize((MEAN,), (STD,))])
TRAINING = Compose([ToTensor(), RandomCrop(8, padding=1), Normalize((MEAN,), (STD,))])
FEW = {"pixels": PixelSteps(exemplar_epochs=2, adjust_epochs=1, pixel_step=2.0), "bilevel": Bilevel(inner_steps=1)}


def digits(increment=2, classes=6, each=20):
    """A stream of a few digits, in a shuffled order."""
    data = datasets.load("digits")
    order = [7, 2, 9, 4, 0, 5, 1, 3, 6, 8][:classes]
    few = [images_of(data.train, order, each), images_of(data.test, order, 10)]
    return split_by_class(*few, order=order, base_classes=increment, increment=increment)


def images_of(images, classes, each):
    where = [(images.labels == c).nonzero().squeeze(1)[:each] for c in classes]
    return images.select(torch.cat(where).sort().values)


def in_avalanche(stream=None, **settings):
    return benchmark(stream or digits(), train_transform=TRAINING, eval_transform=EVALUATION, **settings)


def model(classifier=None, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(SmallNet(1, width=8), classifier or nn.Linear(16, 10))


class Heads(MultiTaskModule):
    """One classifier for each task."""

    def __init__(self):
        super().__init__()
        self.backbone, self.classifier = SmallNet(1, width=8), MultiHeadClassifier(16)

    def forward(self, x, task_labels):
        return self.classifier(self.backbone(x), task_labels)


class Kept(nn.Module):
    """Keeps its last features, with their graph; so does one of Avalanche's modules."""

    def __init__(self):
        super().__init__()
        self.backbone, self.classifier, self.kept = SmallNet(1, width=8), nn.Linear(16, 10), None

    def forward(self, x):
        self.kept = self.backbone(x)
        return self.classifier(self.kept)


def strategy(net, plugins=(), template=Naive, evaluator=None, **settings):
    evaluator = evaluator or EvaluationPlugin(accuracy_metrics(experience=True))
    common = {
        "criterion": nn.CrossEntropyLoss(),
        "train_mb_size": 16,
        "train_epochs": 1,
        "eval_mb_size": 64,
        "evaluator": evaluator,
    }
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    return template(model=net, optimizer=optimizer, plugins=list(plugins), **common, **settings)


def icarl(plugins):
    torch.manual_seed(0)
    backbone, classifier = SmallNet(1, width=8), nn.Linear(16, 6)
    return ICaRL(
        feature_extractor=backbone,
        classifier=classifier,
        optimizer=torch.optim.SGD([*backbone.parameters(), *classifier.parameters()], lr=0.05),
        memory_size=12,
        buffer_transform=None,
        fixed_memory=True,
        train_mb_size=16,
        eval_mb_size=64,
        plugins=plugins,
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True)),
    )


TEMPLATES = {
    "naive": lambda plugins: strategy(model(), plugins),
    "growing": lambda plugins: strategy(model(IncrementalClassifier(16)), plugins),
    "keeps features": lambda plugins: strategy(Kept(), plugins),
    "icarl": icarl,
    "lwf": lambda plugins: strategy(model(), plugins, LwF, alpha=1.0, temperature=2.0),
    "ewc": lambda plugins: strategy(model(), plugins, EWC, ewc_lambda=0.1),
    "der": lambda plugins: strategy(model(), plugins, DER, mem_size=12, batch_size_mem=8),
    "gem": lambda plugins: strategy(model(), plugins, GEM, patterns_per_exp=6, memory_strength=0.5),
}


def labels_of(buffer):
    return [int(label) for label in buffer.buffer.targets]


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates(template):
    plugin = MnemonicsPlugin(12, **FEW)
    learner, digits_in_avalanche = TEMPLATES[template]([plugin]), in_avalanche()
    for index, experience in enumerate(digits_in_avalanche.train_stream):
        learner.train(experience)
        learner.eval(digits_in_avalanche.test_stream[: index + 1])
        seen = 2 * (index + 1)
        counts = np.bincount(labels_of(plugin.storage_policy))
        assert counts.tolist() == [12 // seen] * seen  # the budget, in equal parts
    assert plugin.storage_policy.memory.rms_displacement() > 0.5  # exemplars move


class Memories(SupervisedPlugin, supports_distributed=False):
    """Notes whether iCaRL trains on a buffer's exemplars."""

    def __init__(self, buffer):
        super().__init__()
        self.buffer, self.same = buffer, []

    def before_training_exp(self, strategy, *args, **kwargs):
        own = next(plugin for plugin in strategy.plugins if type(plugin).__name__ == "_ICaRLPlugin")
        if own.x_memory:
            exemplars = torch.stack([self.buffer.buffer.eval()[index][0] for index in range(12)])
            self.same.append(torch.cat(own.x_memory).equal(exemplars))


def test_icarl_has_the_exemplars_for_its_memory_and_its_means():
    plugin = MnemonicsPlugin(12, **FEW)
    watch = Memories(plugin.storage_policy)
    learner = icarl([plugin, watch])
    learner.train(in_avalanche().train_stream[:2])
    assert watch.same == [True]
    own = next(plugin for plugin in learner.plugins if type(plugin).__name__ == "_ICaRLPlugin")
    exemplars = [plugin.storage_policy.buffer.eval()[index][0] for index in range(12)]
    torch.testing.assert_close(torch.cat(own.x_memory), torch.stack(exemplars), rtol=0, atol=0)
    assert [label for labels in own.y_memory for label in labels] == labels_of(plugin.storage_policy)
    learner.model.eval()
    features = [F.normalize(learner.model.feature_extractor(x), dim=1).mean(0) for x in (exemplars_of(own, 0))]
    torch.testing.assert_close(own.class_means[0], F.normalize(sum(features), dim=0), rtol=1e-4, atol=1e-5)


def exemplars_of(own, index):
    return own.x_memory[index], own.x_memory[index].flip(3)


class Watch(SupervisedPlugin, supports_distributed=False):
    """Notes the labels that are trained on."""

    labels: set

    def before_forward(self, strategy, *args, **kwargs):
        self.labels |= set(strategy.mb_y.tolist())


def test_a_replay_plugin_takes_the_buffer():
    buffer = MnemonicsBuffer(12, **FEW)
    watch, seen = Watch(), []
    learner = strategy(model(), [ReplayPlugin(12, storage_policy=buffer), watch])
    for experience in in_avalanche().train_stream:
        watch.labels = set()
        learner.train(experience)
        seen.append(watch.labels)
    assert seen == [{0, 1}, {0, 1, 2, 3}, set(range(6))]  # replayed in the batches that it was trained on


def test_the_replay_template_takes_the_buffer_in_place_of_its_own():
    learner = strategy(model(), template=Replay, mem_size=12)
    own = next(plugin for plugin in learner.plugins if isinstance(plugin, ReplayPlugin))
    own.storage_policy = MnemonicsBuffer(12, **FEW)
    learner.train(in_avalanche().train_stream)
    assert len(own.storage_policy.buffer) == 12


def test_two_replay_plugins_are_refused():
    learner = strategy(model(), [MnemonicsPlugin(12, **FEW)], template=Replay, mem_size=12)
    with pytest.raises(InputError, match="another ReplayPlugin"):
        learner.train(in_avalanche().train_stream[0])


@pytest.mark.parametrize("choice", ["herding", "random"])
def test_the_control_keeps_real_images(choice):
    stream = digits()
    plugin = MnemonicsPlugin(12, choice=choice, pixels=None)
    strategy(model(), [plugin]).train(in_avalanche(stream).train_stream)
    memory = plugin.storage_policy.memory
    real = torch.cat([phase.train.pixels for phase in stream])
    assert memory.rms_displacement() is None
    assert all((real == pixels).flatten(1).all(1).any() for pixels in memory.images.pixels)


class Listed(Dataset):
    def __init__(self, images, targets):
        self.images, self.targets = images, targets

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], self.targets[index]


KINDS = {
    "tensor": lambda pixels: pixels,
    "tensor without channels": lambda pixels: pixels[0],
    "array": lambda pixels: pixels.permute(1, 2, 0).numpy(),
    "array without channels": lambda pixels: pixels[0].numpy(),
    "grey picture": lambda pixels: Image.fromarray(pixels[0].numpy()),
    "picture": lambda pixels: Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).numpy()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_taken_is_given_back(kind):
    images = digits()[0].train
    items = [KINDS[kind](pixels) for pixels in images.pixels]
    inner = _make_taskaware_classification_dataset(
        Listed(items, images.labels.tolist()), transform_groups={"train": (None, lambda y: y + 3), "eval": (None, None)}
    )
    outer = _make_taskaware_classification_dataset(
        inner.freeze_transforms(), transform_groups={"train": np.asarray, "eval": lambda image: -np.asarray(image)}
    )
    taken = raw.take(outer)
    given = raw.give_back(taken)
    assert taken.pixels[:, :1].equal(images.pixels)
    assert type(raw._inner(given, 0)[0][0]) is type(items[0])
    for one, other in ((outer.train(), given.train()), (outer.eval(), given.eval())):
        for index in (0, len(items) - 1):
            assert np.array_equal(one[index][0], other[index][0])
            assert one[index][1:] == other[index][1:]


@pytest.mark.parametrize("new_style", [False, True])
def test_exemplars_go_through_the_transforms_of_their_stream(new_style):
    """Also with Avalanche's newer benchmarks, whose items have no task label, and with labels that it maps."""
    data = images_of(datasets.load("digits").train, [5, 6, 8, 9], 12)
    pixels = list(data.pixels.squeeze(1).numpy())
    black = Lambda(lambda x: torch.zeros(1, 8, 8))
    if new_style:
        pictures = Listed(pixels, torch.searchsorted(torch.tensor([5, 6, 8, 9]), data.labels).tolist())
        both = as_classification_dataset(pictures, transform_groups={"train": black, "eval": EVALUATION})
        sets = {"train": both, "test": both}
        made = class_incremental_benchmark(sets, class_order=[2, 0, 3, 1], num_classes_per_exp=[2, 2])
    else:
        pictures = Listed(pixels, data.labels.tolist())
        made = nc_benchmark(
            *(pictures, pictures),
            n_experiences=2,
            task_labels=False,
            fixed_class_order=[8, 5, 9, 6],
            class_ids_from_zero_from_first_exp=True,
            train_transform=black,
            eval_transform=EVALUATION,
        )
    plugin = MnemonicsPlugin(8, choice="herding", pixels=None)
    strategy(model(), [plugin]).train(made.train_stream)
    buffer = plugin.storage_policy
    found = [buffer.buffer.eval()[index] for index in range(len(buffer.buffer))]
    assert buffer.classes == ([0, 2, 1, 3] if new_style else [0, 1, 2, 3])
    assert all(not buffer.buffer.train()[index][0].any() for index in range(8))
    assert {len(item) for item in found} == {2 if new_style else 3}
    assert [int(item[1]) for item in found] == labels_of(buffer)
    kept = (torch.stack([item[0] for item in found]) * STD + MEAN) * 255
    torch.testing.assert_close(kept, buffer.memory.images.pixels.float(), rtol=0, atol=1e-3)


def test_normalisation_is_found_out():
    images = [pixels.permute(1, 2, 0).numpy() for pixels in torch.randint(256, (40, 3, 6, 6)).byte()]
    transform = Compose([ToTensor(), Normalize((0.1, 0.5, 0.9), (0.2, -0.5, 3.0))])
    dataset = _make_taskaware_classification_dataset(Listed(images, [0] * 40), transform=transform)
    mean, std = raw.normalisation(dataset, raw.take(dataset).pixels)
    assert mean == pytest.approx([25.5, 127.5, 229.5], rel=1e-4)
    assert std == pytest.approx([51, -127.5, 765], rel=1e-4)


@pytest.mark.parametrize(
    ("transform", "complaint"),
    [
        (Compose([ToTensor(), Lambda(lambda x: x.square())]), "more than a scale and an offset"),
        (Compose([ToTensor(), Lambda(lambda x: x.flip(2))]), "more than a scale and an offset"),
        (Compose([ToTensor(), Lambda(torch.zeros_like)]), "more than a scale and an offset"),
        (Compose([ToTensor(), Resize(4)]), "keep the shape"),
        (Compose([ToTensor(), torch.flatten]), "keep the shape"),
    ],
)
def test_other_transforms_are_refused(transform, complaint):
    made = benchmark(digits(), eval_transform=transform)
    buffer = MnemonicsBuffer(12, **FEW)
    with pytest.raises(InputError, match=complaint):
        buffer.post_adapt(SimpleNamespace(model=model()), made.train_stream[0])
    assert buffer.classes == []  # it is as it was


def test_images_without_pixels_are_refused():
    floats = _make_taskaware_classification_dataset(Listed(list(torch.rand(4, 1, 8, 8)), [0, 0, 1, 1]))
    with pytest.raises(InputError, match=r"uint8, not Tensor torch.float32: leave transforms to the benchmark"):
        raw.take(floats)
    differing = _make_taskaware_classification_dataset(
        Listed([torch.zeros(1, 8, size, dtype=torch.uint8) for size in (8, 9)], [0, 1])
    )
    with pytest.raises(InputError, match="differ in size"):
        raw.take(differing)


def test_a_class_that_comes_again_is_refused():
    buffer, experience = MnemonicsBuffer(12, **FEW), in_avalanche().train_stream[0]
    buffer.post_adapt(SimpleNamespace(model=model()), experience)
    with pytest.raises(InputError, match="class 0 has come before"):
        buffer.post_adapt(SimpleNamespace(model=model()), experience)


@pytest.mark.parametrize("settings", [{"level": "head"}, {"inner_loss": "strategy"}, {"outer_loss": "both"}])
def test_what_a_model_cannot_give_is_refused(settings):
    with pytest.raises(InputError, match="level=network or ridge"):
        MnemonicsBuffer(12, bilevel=Bilevel(**settings))


@pytest.mark.parametrize(
    ("net", "classifier", "complaint"),
    [
        (nn.Sequential(SmallNet(1)), None, "no linear layer"),
        (nn.Sequential(SmallNet(1)), "1", "no module of this name"),
    ],
)
def test_a_model_without_the_classifier_is_refused(net, classifier, complaint):
    with pytest.raises(InputError, match=complaint):
        AvalancheNet(net, classifier, [(0, 0)], [0.0], [1.0])


def test_a_classifier_that_is_not_used_is_refused():
    net = model()
    net.forward = lambda x: net[1](net[0](x))
    net.append(nn.Linear(16, 10))
    ours = AvalancheNet(net, None, [(0, 0)], [0.0], [1.0])
    with pytest.raises(InputError, match="classifier=2: the model has this module but does not use it"):
        ours(torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize("way", ["reverse", "unrolled", "truncated", "first_order"])
@pytest.mark.parametrize("level", ["network", "ridge"])
def test_ways_and_levels(way, level):
    settings = FEW | {"bilevel": Bilevel(inner_steps=2, window=1, way=way, level=level, companions=4)}
    buffer = MnemonicsBuffer(12, **settings)
    for experience in in_avalanche().train_stream[:2]:
        buffer.post_adapt(SimpleNamespace(model=model()), experience)
    assert buffer.memory.rms_displacement() > 0.5


def test_model_and_global_generators_stay_as_they_are():
    net = model().train()
    before, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    MnemonicsBuffer(12, **FEW).post_adapt(SimpleNamespace(model=net), in_avalanche().train_stream[0])
    assert all(value.equal(net.state_dict()[name]) for name, value in before.items())
    assert net.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    assert not any(module._forward_pre_hooks for module in net.modules())
    assert torch.get_rng_state().equal(random)


def test_the_network_says_what_the_model_says():
    net = model(IncrementalClassifier(16, 10, masking=False)).eval()
    ours = AvalancheNet(net, None, [(0, 7), (0, 2), (0, 5)], [255 * MEAN], [255 * STD]).eval()
    pixels = digits()[0].train.pixels[:5]
    images = torch.stack([EVALUATION(p.permute(1, 2, 0).numpy()) for p in pixels])
    torch.testing.assert_close(ours(pixels).logits, net(images)[:, [7, 2, 5]])
    torch.testing.assert_close(ours.features(pixels), net[0](images))
    assert ours.head.classes == 3


def test_with_many_heads_the_loss_is_that_of_the_own_head():
    net, made = Heads(), in_avalanche(task_labels=True)
    for experience in made.train_stream:
        net.pre_adapt(None, experience)
    classes = [(task, label) for task in (1, 0, 2) for label in (2 * task, 2 * task + 1)]
    ours = AvalancheNet(net, None, classes, [255 * MEAN], [255 * STD]).eval()
    pixels = digits()[0].train.pixels[:4]
    images = torch.stack([EVALUATION(p.permute(1, 2, 0).numpy()) for p in pixels])
    own = [
        F.cross_entropy(net.eval()(images[[i]], task), torch.tensor([2 * task])) for i, task in enumerate((0, 1, 2, 1))
    ]
    found = F.cross_entropy(ours(pixels).logits, torch.tensor([2, 0, 4, 0]), reduction="none")
    torch.testing.assert_close(found - torch.stack(own), torch.full((4,), 3.0).log())


def test_many_heads():
    plugin = MnemonicsPlugin(12, **FEW)
    learner, made = strategy(Heads(), [plugin]), in_avalanche(task_labels=True)
    for experience in made.train_stream:
        learner.train(experience)
    buffer = plugin.storage_policy
    assert [int(task) for task in buffer.buffer.targets_task_labels] == [label // 2 for label in labels_of(buffer)]
    assert buffer.memory.rms_displacement() > 0.5


def test_heads_that_share_labels():
    data = images_of(datasets.load("digits").train, [0, 1, 2, 3], 12)
    pictures = Listed(list(data.pixels.squeeze(1).numpy()), data.labels.tolist())
    made = nc_benchmark(
        *(pictures, pictures),
        n_experiences=2,
        task_labels=True,
        fixed_class_order=[0, 1, 2, 3],
        class_ids_from_zero_in_each_exp=True,
        train_transform=EVALUATION,
        eval_transform=EVALUATION,
    )
    plugin = MnemonicsPlugin(8, **FEW)
    strategy(Heads(), [plugin]).train(made.train_stream)
    buffer = plugin.storage_policy
    items = [buffer.buffer[index][1:] for index in range(8)]
    assert [(int(label), int(task)) for label, task in items] == [
        (y, t) for t in (0, 1) for y in (0, 1) for _ in (0, 1)
    ]


def test_other_images_in_a_later_experience_are_refused():
    buffer, experiences = MnemonicsBuffer(12, **FEW), in_avalanche().train_stream
    buffer.post_adapt(SimpleNamespace(model=model()), experiences[0])
    with pytest.raises(InputError, match="has changed since the first"):
        buffer.post_adapt(SimpleNamespace(model=model()), benchmark(digits()).train_stream[1])


def test_sizes():
    buffer, made = MnemonicsBuffer(13, choice="herding", pixels=None), in_avalanche()
    agent = SimpleNamespace(model=model())
    buffer.post_adapt(agent, made.train_stream[0])
    best = buffer.memory.images.pixels[[0, 6]]
    buffer.resize(agent, 4)
    assert labels_of(buffer) == [0, 0, 1, 1]
    assert buffer.memory.images.pixels[[0, 2]].equal(best)  # the last in rank have gone
    buffer.post_adapt(agent, made.train_stream[1])
    assert labels_of(buffer) == [0, 1, 2, 3]
    buffer.post_adapt(agent, made.train_stream[2])  # six classes in four places: none has one
    assert len(buffer.buffer) == 0


@pytest.mark.parametrize("name", ["jpeg", "half", "best-jpeg"])
def test_a_codec_keeps_more_images_in_the_same_bytes(name):
    codec, made = codecs.make(name, 75, "4:2:0"), in_avalanche(blown_up(digits()))
    buffer = MnemonicsBuffer(12, **FEW, codec=codec)
    for experience in made.train_stream:
        buffer.post_adapt(SimpleNamespace(model=model()), experience)
        assert buffer.memory.bytes <= 12 * 24 * 24
        assert len(buffer.buffer) == len(buffer.memory) > 12
    pixels = torch.stack([item[0] for item in buffer.buffer.eval()]) * STD + MEAN
    decoded = buffer.memory.images.pixels.float() / 255
    torch.testing.assert_close(pixels, decoded, rtol=0, atol=1e-5)
    assert buffer.memory.rms_displacement() > 0.5
    again = pickle.loads(pickle.dumps(buffer))
    again.resize(None, 6)
    assert again.memory.bytes <= 6 * 24 * 24
    assert 6 < len(again.buffer) < len(buffer.buffer)


def blown_up(stream):
    """The same with images of three times the height and width: a file has a header."""
    parts = ([phase.train for phase in stream], [phase.test for phase in stream])
    train, test = (
        Images(
            torch.cat([one.pixels for one in part]).repeat_interleave(3, 2).repeat_interleave(3, 3),
            torch.cat([one.labels for one in part]),
        )
        for part in parts
    )
    return split_by_class(train, test, order=list(range(6)), base_classes=2, increment=2)


def test_groups_are_classes():
    buffer, made = MnemonicsBuffer(13, choice="herding", pixels=None), in_avalanche()
    assert buffer.buffer_groups == {}
    for experience in made.train_stream:
        buffer.post_adapt(SimpleNamespace(model=model()), experience)
    found = {label: [int(y) for y in group.buffer.targets] for label, group in buffer.buffer_groups.items()}
    assert found == {label: [label] * 2 for label in range(6)}
    assert [len(data) for data in buffer.buffer_datasets] == [2] * 6
    ours = torch.stack([item[0] for data in buffer.buffer_datasets for item in data.eval()])
    together = torch.stack([item[0] for item in buffer.buffer.eval()])
    torch.testing.assert_close(ours, together, rtol=0, atol=0)


def test_memory_does_not_grow():
    buffer, sizes = MnemonicsBuffer(24, choice="herding", pixels=FEW["pixels"], bilevel=FEW["bilevel"]), []
    for experience in benchmark(digits(1, 8, 30), eval_transform=ToTensor()).train_stream:
        buffer.post_adapt(SimpleNamespace(model=model()), experience)
        sizes.append(len(pickle.dumps(buffer)))
    images = 24 * 64
    assert buffer.memory.bytes == images
    assert max(sizes) - sizes[0] < 8 * 4000 + images  # a class's labels and transforms, and no images


def test_checkpoints(tmp_path):
    """A run that is saved and taken up ends as one that was not."""
    made = in_avalanche()
    plain, ended = MnemonicsPlugin(12, **FEW), []
    for stop in (False, True):
        plugin = MnemonicsPlugin(12, **FEW)
        learner = strategy(model(), [plugin])
        for index, experience in enumerate(made.train_stream):
            torch.manual_seed(index)
            learner.train(experience)
            if stop and index == 1:
                save_checkpoint(learner, tmp_path / "checkpoint.pt")
                learner = strategy(model(seed=9), [plain])
                learner, done = maybe_load_checkpoint(learner, tmp_path / "checkpoint.pt")
                assert done == 2
        ended.append(learner)
    (one, other) = ended
    buffers = [next(p for p in learner.plugins if isinstance(p, MnemonicsPlugin)).storage_policy for learner in ended]
    assert all(
        v.equal(w) for v, w in zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    )
    assert buffers[0].memory.images.pixels.equal(buffers[1].memory.images.pixels)


def test_optimisers_are_found_where_they_say(monkeypatch):
    monkeypatch.delattr(torch.optim, "sgd", raising=False)
    compatibility.let_dill_find_optimisers()
    assert torch.optim.sgd.SGD is torch.optim.SGD


def test_loggers_and_metrics_are_untouched(tmp_path):
    found = []
    for kind in (ReplayPlugin, lambda size: MnemonicsPlugin(size, **FEW)):
        folder = tmp_path / str(len(found))
        folder.mkdir()
        with (folder / "text").open("w") as text:
            loggers = [TextLogger(text), CSVLogger(str(folder / "csv")), TensorboardLogger(str(folder / "board"))]
            several = [accuracy_metrics(epoch=True, experience=True, stream=True), loss_metrics(experience=True)]
            evaluator = EvaluationPlugin(*several, forgetting_metrics(experience=True), loggers=loggers)
            learner, made = strategy(model(), [kind(12)], evaluator=evaluator), in_avalanche()
            for experience in made.train_stream:
                learner.train(experience)
                results = learner.eval(made.test_stream)
            loggers[1].close()
        sizes = {path.name: len(path.read_text().splitlines()) for path in (folder / "csv").glob("*.csv")}
        assert (folder / "text").read_text().count("Top1_Acc_Exp") == 9
        assert list((folder / "board").iterdir())
        found.append((results.keys(), sizes))
    assert found[0] == found[1]


def test_the_same_exemplars_as_our_learner(tmp_path):
    """The same networks and seeds through both: the same images are chosen, and pixels move alike."""
    for choice in CHOICES:
        recipe = mnemonics(
            on="icarl",
            training=Training(epochs=1, batch_size=32, backbone="small"),
            memory=Memory(total=24, exemplars=choice),
            pixels=FEW["pixels"],
            bilevel=FEW["bilevel"],
            fine_tuning=FineTuning(fine_tune_epochs=0),
        )
        stream = digits()
        learner = Learner(
            recipe,
            channels=1,
            mean=[255 * MEAN],
            std=[255 * STD],
            augmentation=CropAndFlip(1, mirrors=False),
            device=torch.device("cpu"),
            seed=5,
        )
        settings = FEW | {"augmentation": learner.augmentation, "choice": choice, "seed": 5, "classifier": "1"}
        made, buffer = in_avalanche(stream), MnemonicsBuffer(24, **settings)
        for event in run(learner, stream):
            if isinstance(event, PhaseDone):
                net = nn.Sequential(learner.net.backbone, Logits(learner.net.head))
                buffer.post_adapt(SimpleNamespace(model=net), made.train_stream[event.phase])
                ours, theirs = learner.memory, buffer.memory
                assert theirs.originals.equal(ours.originals)
                difference = (theirs.images.pixels.float() - ours.images.pixels.float()).abs()
                assert difference.max() <= 1
                assert difference.mean() < 0.02
        assert theirs.rms_displacement() == pytest.approx(ours.rms_displacement(), rel=0.01)


class Logits(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, features):
        return self.head(features).logits


def test_forgetting_agrees_where_an_experience_was_known_best_at_once():
    def of_avalanche(matrix):
        metric = Forgetting()
        for index in range(len(matrix) - 1):
            metric.update(index, matrix[index][index], initial=True)
            metric.update(index, matrix[-1][index])
        return metric.result()

    falling = [[90.0, None, None], [70.0, 80.0, None], [50.0, 60.0, 70.0]]
    theirs = of_avalanche(falling)
    assert theirs[0] == metrics.forgetting_rate(falling) == 40
    assert sum(theirs.values()) / 2 == metrics.average_forgetting(falling) == 30
    rising = [[80.0, None, None], [90.0, 80.0, None], [50.0, 60.0, 70.0]]
    theirs = of_avalanche(rising)
    assert theirs[0] == metrics.forgetting_rate(rising) == 30
    assert sum(theirs.values()) / 2 == 25  # from what it was right after it was learnt
    assert metrics.average_forgetting(rising) == 30  # from what it was at best


def test_the_record_of_a_run_is_reported(tmp_path):
    made, plugin = in_avalanche(), MnemonicsPlugin(12, **FEW)
    evaluator = EvaluationPlugin(accuracy_metrics(experience=True, stream=True), forgetting_metrics(experience=True))
    learner = strategy(model(), [plugin], evaluator=evaluator)
    recorder = Recorder("naive + mnemonics", "six digits", made.train_stream, made.test_stream, seed=3)
    for index, experience in enumerate(made.train_stream):
        learner.train(experience)
        results = learner.eval(made.test_stream[: index + 1])
        recorder.note(results, plugin.storage_policy)
        assert recorder.run.phase_accuracy[-1] == pytest.approx(
            100 * results[next(name for name in results if name.startswith("Top1_Acc_Stream/eval"))]
        )
        assert recorder.run.complete == (index == 2)
    record.save(recorder.run, tmp_path / "run.json")
    loaded = record.load(tmp_path)
    assert loaded == recorder.run
    assert [None if v is None else 0 <= v <= 100 for v in loaded.accuracy[1]] == [True, True, None]
    theirs = [v for name, v in results.items() if name.startswith("ExperienceForgetting") and name.endswith("Exp000")]
    assert 100 * theirs[0] == pytest.approx(loaded.forgetting_rate)
    assert loaded.exemplars.count == 12
    assert [state.per_class for state in loaded.exemplars.phases] == [6, 3, 2]
    assert loaded.versions["avalanche-lib"] == "0.6.0"
    assert "naive + mnemonics" in report.write([loaded], tmp_path / "report").read_text()


def test_a_record_needs_the_accuracy_of_every_experience():
    made = in_avalanche()
    recorder = Recorder("naive", "digits", made.train_stream, made.test_stream, seed=0)
    with pytest.raises(InputError, match=r"accuracy_metrics\(experience=True\)"):
        recorder.note({"Top1_Acc_Exp/eval_phase/train_stream/Task000/Exp000": 1.0})


@pytest.mark.parametrize("task_labels", [False, True])
def test_streams_both_ways(task_labels):
    stream = digits()
    made = in_avalanche(stream, task_labels=task_labels)
    assert [list(map(int, e.task_labels)) for e in made.train_stream] == [[k * task_labels] for k in range(3)]
    back = class_stream(made.train_stream, made.test_stream)
    assert back.groups == [(0, 1), (2, 3), (4, 5)]
    for phase, other in zip(stream, back, strict=True):
        for ours, theirs in ((phase.train, other.train), (phase.test, other.test)):
            assert ours.pixels.equal(theirs.pixels)
            assert ours.labels.equal(theirs.labels)


def test_phases_need_new_classes():
    experience = in_avalanche().train_stream[0]
    with pytest.raises(InputError, match="two experiences"):
        class_stream([experience, experience], [experience])


def test_cifar_sized_pictures_in_colour():
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat_interleave(8)
    images = Images(torch.randint(256, (32, 3, 32, 32), generator=draw).byte(), labels)
    stream = split_by_class(images, images, order=[2, 0, 3, 1], base_classes=2, increment=2)
    transform = Compose([ToTensor(), Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))])
    plugin = MnemonicsPlugin(8, **FEW, augmentation=CropAndFlip())
    net = nn.Sequential(nets.BACKBONES["resnet8"](3), IncrementalClassifier(64))
    strategy(net, [plugin]).train(benchmark(stream, train_transform=transform, eval_transform=transform).train_stream)
    assert plugin.storage_policy.memory.bytes == 8 * 3072


def test_a_strange_backbone_is_not_folded():
    """Its convolution comes right before a batch normalisation in name only."""

    class Preactivated(nn.Module):
        features = 4

        def __init__(self):
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1)

        def forward(self, x):
            return self.convolution(torch.relu(self.norm(x))).flatten(1)[:, :4]

    backbone = Preactivated()
    nn.init.normal_(backbone.norm.weight)
    backbone.norm.running_mean += 0.5
    net = nets.IncrementalNet(backbone, nets.HEADS["linear"](4), [100.0], [50.0]).eval()
    net.head.grow(3)
    pixels = torch.randint(256, (5, 1, 8, 8)).byte()
    torch.testing.assert_close(nets.folded(net)(pixels).logits, net(pixels).logits)
    assert not any(parameter.requires_grad for parameter in nets.folded(net).parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu():
    plugin = MnemonicsPlugin(12, **FEW)
    learner = strategy(model(IncrementalClassifier(16)), [plugin], device="cuda")
    learner.train(in_avalanche().train_stream)
    assert plugin.storage_policy.memory.rms_displacement() > 0.5


def test_the_example(capsys):
    runpy.run_path(str(ROOT / "examples" / "mnemonics_in_avalanche.py"), run_name="__main__")
    first_words = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert first_words == ["exemplars", "none", "random", "herding", "mnemonics"]


def test_what_the_page_shows_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "avalanche.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```py\n(.*?)^```$", page, re.M | re.S)
    exec(compile(block, "block", "exec"), {"__name__": "block"})
    assert record.load(tmp_path).complete
