"""The stages that bring components into a stream; see :mod:`mnemo.components.new_classes`."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..alignment import Align
from ..compression import shuffled_by_class, unit_features
from ..disk import checkpoint
from ..disk.files import InputError
from ..fewshot.episodes import Episodes, Sampler, Shape
from ..fewshot.tasks import Tasks
from ..images import Images
from ..learner import Strategy
from ..memory import ranks
from ..nets import IncrementalNet
from ..rows import MeanRows, mean_directions, temperature, unadjusted
from ..seeds import generator as seeded
from ..stages import Loop, Once, Situation
from .new_classes import Components, NewClasses
from .scaling_shifting import Scaling, Shifting, scale

PER_CLASS = 100
"""Images of each base class that episodes are made of, and class means are taken over, at most."""
ROUND = 25
"""Episodes of a round; class means are taken anew and the run can be saved after each."""
QUERIES = 15
"""Of each new class of an episode; of each known class there is one."""


def join(strategy: Strategy, settings: Components) -> Strategy:
    """The strategy with components: one stage more in the base phase, after training, and one more at the end of all.

    Raises InputError if the strategy has no place for them.
    """
    if not settings.components:
        return strategy
    if strategy.head != "cosine":
        raise InputError(f"components={list(settings.components)} need a cosine head")
    adjusted = any(isinstance(stage, MeanRows) and stage.adjustment is not unadjusted for stage in strategy.stages)
    aligned = any(isinstance(stage, Align) for stage in strategy.stages)
    if strategy.from_scratch or strategy.companion is not None or adjusted or aligned:
        raise InputError(
            f"components={list(settings.components)}: this strategy learns new classes in a way of its own"
        )
    first, *others = strategy.stages
    learn = [LearnNewClasses(settings)] if settings.make_rows else []
    joined = dataclasses.replace(
        strategy, stages=[first, MetaLearn(settings), *others, *learn], companion=settings.companion
    )
    return dataclasses.replace(joined, refine=refine, classifier="refined") if "sib" in settings.components else joined


@dataclass(frozen=True)
class MetaLearn:
    """Meta-learn the components on pseudo-incremental episodes; in the base phase alone."""

    settings: Components
    name: str = "meta-learn"

    def begin(self, situation: Situation) -> "MetaLearning | None":
        """See :class:`mnemo.stages.Stage`."""
        if situation.phase.index:
            return None
        return MetaLearning(self.settings, situation)

    def work(self, phase: int, images: int, new: int, old: int) -> float:
        """See :class:`mnemo.stages.Stage`."""
        episode = self.settings.meta_ways * (self.settings.meta_shots + QUERIES)
        return 0 if phase else 2 * episode * self.settings.meta_iterations


class MetaLearning:
    """The loop of :class:`MetaLearn`: an epoch is a round of episodes."""

    def __init__(self, settings: Components, situation: Situation) -> None:
        self._settings, self._net = settings, situation.net
        self.epochs = -(-settings.meta_iterations // ROUND)
        self._images = _few_of_each(situation.phase.train, situation.generator("meta-learn"))
        self._sampler = Sampler(self._images.labels, _shape(settings, len(situation.phase.classes), self._images))
        self._seed = situation.seed
        scales = _let_only_components_learn(situation.net, "mtl" in settings.components)
        self._features = None if scales else unit_features(situation.net, self._images)
        groups = companion(situation.net).groups(scales, settings.meta_lr)
        self._optimizer = torch.optim.Adam(groups) if groups else None

    def epoch(self, index: int, generator: torch.Generator) -> Mapping[str, float]:
        """A round: the mean loss, and the accuracy on queries in %."""
        self._net.eval()
        everything = self._all()
        means = mean_directions(everything, self._images.labels)
        losses, right, asked = [], 0, 0
        for episode in range(min(ROUND, self._settings.meta_iterations - index * ROUND)):
            drawn = self._sampler.draw(1, *self._seed, "meta-learn", index, episode)
            tasks, answers = self._task(drawn, means, generator)
            own = seeded(*self._seed, "refine", index, episode)  # so that the others do not feel sib's draws
            alike = self._alike(drawn, tasks, everything, own) if companion(self._net).refined else None
            loss, logits = self._step(tasks, answers, alike)
            losses.append(loss)
            right += int((logits.argmax(2) == answers).sum())
            asked += answers.numel()
        return {"loss": float(torch.stack(losses).mean()), "accuracy": 100 * right / asked}

    def _step(self, tasks: Tasks, answers: Tensor, alike: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        learner, factor = companion(self._net), temperature(self._net)
        learner.train()
        loss = learner.loss(tasks, answers, factor)
        if alike is not None:
            loss = loss + learner.refined_loss(tasks, *alike, factor)
        if self._optimizer is not None:
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
        with torch.no_grad():
            return loss.detach(), learner.eval()(tasks, factor)

    def _all(self) -> Tensor:
        """Unit features of all images, as the network is now."""
        return unit_features(self._net, self._images) if self._features is None else self._features

    def _task(self, drawn: Episodes, means: Tensor, generator: torch.Generator) -> tuple[Tasks, Tensor]:
        """An episode with known classes, and its answers (1, q)."""
        known = _known(drawn, len(means))
        others = _one_of_each(self._images.labels.cpu(), known, generator)
        query = torch.cat([drawn.query[0], others])
        support, unlabelled = self._embed(drawn.support[0]), drawn.unlabelled[0]
        answers = torch.cat([drawn.answers[0] + len(known), torch.arange(len(known))]).to(means.device)
        some = self._embed(unlabelled) if len(unlabelled) else None
        labels = drawn.labels.to(means.device)
        tasks = Tasks(support, labels, self._embed(query), some, drawn.shape.ways, means[known].unsqueeze(0))
        return tasks, answers.unsqueeze(0)

    def _alike(
        self, drawn: Episodes, tasks: Tasks, features: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Queries (n, d) of which every class, new or known, has as many, as test images do, and answers (n,)."""
        new, labels = len(drawn.answers[0]), self._images.labels.cpu()
        each, known = new // drawn.shape.ways, _known(drawn, int(labels.max()) + 1)
        by_class = shuffled_by_class(labels, generator)
        by_class = by_class[(ranks(labels[by_class]) < each) & torch.isin(labels[by_class], known)]
        others = features[by_class.to(features.device)]
        queries = torch.cat([tasks.query[0, :new].detach(), others])
        return queries, torch.cat([drawn.answers[0] + len(known), torch.searchsorted(known, labels[by_class])])

    def _embed(self, rows: Tensor) -> Tensor:
        """Unit features (1, n, d) of images, with a gradient where the network learns."""
        where = rows.to(self._images.labels.device)
        if self._features is not None:
            return self._features[where].unsqueeze(0)
        return F.normalize(self._net.features(self._images.select(where).pixels)).unsqueeze(0)

    def state(self) -> dict[str, Tensor]:
        """The optimiser's."""
        if self._optimizer is None:
            return {}
        return checkpoint.of_optimizer(self._optimizer)

    def load(self, state: dict[str, Tensor]) -> None:
        """Take up what :meth:`state` gave."""
        if self._optimizer is not None:
            checkpoint.into_optimizer(self._optimizer, state)

    def end(self) -> None:
        """Where features have changed, base classes get the means of the new ones for rows."""
        self._net.requires_grad_(True)
        _freeze_scaled(self._net)
        if self._features is None:
            _set_rows(self._net, 0, mean_directions(self._all(), self._images.labels))


@dataclass(frozen=True)
class LearnNewClasses:
    """Let components make the rows of a later phase's classes, from its labelled and unlabelled images."""

    settings: Components
    name: str = "learn new classes"

    def begin(self, situation: Situation) -> Loop | None:
        """See :class:`mnemo.stages.Stage`."""
        return _Learning(situation) if situation.phase.index else None

    def work(self, phase: int, images: int, new: int, old: int) -> float:
        """See :class:`mnemo.stages.Stage`."""
        return images / 3 if phase else 0


class _Learning(Once):
    """The loop of :class:`LearnNewClasses`."""

    def __init__(self, situation: Situation) -> None:
        self._situation = situation

    def epoch(self, index: int, generator: torch.Generator) -> Mapping[str, float]:
        """Set the rows: the share of the phase's images that they name rightly, in %."""
        net, phase = self._situation.net, self._situation.phase
        support = unit_features(net, phase.train).unsqueeze(0)
        labels = (phase.train.labels - phase.first_label).unsqueeze(0)
        some = None if phase.unlabelled is None else unit_features(net, phase.unlabelled).unsqueeze(0)
        known = torch.cat([F.normalize(group.detach()) for group in list(net.head.weights)[:-1]]).unsqueeze(0)
        tasks = Tasks(support, labels, support, some, len(phase.classes), known)
        learner, factor = companion(net).eval(), temperature(net)
        _set_rows(net, -1, learner.rows(tasks, factor).detach()[0])
        right = learner(tasks, factor).argmax(2) == labels + tasks.old
        return {"accuracy": 100 * float(right.double().mean())}


@torch.no_grad()
def refine(net: IncrementalNet, features: Tensor) -> Tensor:
    """The rows of all classes, refined by unit features (n, d) of the images that are asked about: (classes, d)."""
    refined = companion(net).refined
    assert refined is not None
    rows: Tensor = refined(F.normalize(torch.cat(list(net.head.weights))), features, temperature(net))
    return rows


def companion(net: IncrementalNet) -> NewClasses:
    """The network's components."""
    assert isinstance(net.companion, NewClasses)
    return net.companion


@torch.no_grad()
def _set_rows(net: IncrementalNet, group: int, directions: Tensor) -> None:
    """Give the classes of a group new rows, of the mean length of the group's present ones."""
    weight = net.head.weights[group]
    weight.copy_(F.normalize(directions) * weight.norm(dim=1).mean())


def _known(drawn: Episodes, classes: int) -> Tensor:
    """The classes that an episode takes for known, ascending."""
    own = drawn.classes[0, : drawn.shape.ways].tolist()
    return torch.tensor([c for c in range(classes) if c not in own])


def _few_of_each(images: Images, generator: torch.Generator) -> Images:
    labels = images.labels.cpu()
    rows = [(labels == c).nonzero().squeeze(1) for c in labels.unique()]
    some = [each[torch.randperm(len(each), generator=generator)[:PER_CLASS]] for each in rows]
    return images.select(torch.cat(some).to(images.labels.device))


def _one_of_each(labels: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(len(labels), generator=generator)
    first = {int(labels[row]): int(row) for row in order.flip(0)}
    return torch.tensor([first[int(c)] for c in classes])


def _shape(settings: Components, classes: int, images: Images) -> Shape:
    """Of episodes; a base phase with few classes or images has smaller ones."""
    ways = min(settings.meta_ways, classes // 2)
    if ways < 2:
        raise InputError(f"components={list(settings.components)}: a base phase of {classes} classes is too small")
    fewest = int(images.labels.bincount().min())
    shots = min(settings.meta_shots, max(1, fewest // 3))
    queries = min(QUERIES, max(1, (fewest - shots) // 2))
    if "lst" not in settings.components:
        return Shape(ways, shots, queries)
    unlabelled = min(settings.meta_unlabelled, fewest - shots - queries)
    return Shape(ways, shots, queries, unlabelled, min(ways, classes - ways - 1))


def _let_only_components_learn(net: IncrementalNet, scaled: bool) -> list[nn.Parameter]:
    """Freeze the network but for its companion and, if it is scaled, scales and shifts, which are returned."""
    net.backbone.requires_grad_(False)
    net.head.requires_grad_(False)
    if not scaled:
        return []
    scale(net, shift=True)
    found: list[nn.Parameter] = [m.scale for m in net.backbone.modules() if isinstance(m, Scaling)]
    found += [m.shift for m in net.backbone.modules() if isinstance(m, Shifting)]
    for parameter in found:
        parameter.requires_grad_(True)
    return found


def _freeze_scaled(net: IncrementalNet) -> None:
    """Kernels and biases that have scales and shifts stay as they are."""
    for name, parameter in net.named_parameters():
        if name.endswith(".original"):
            parameter.requires_grad_(False)
