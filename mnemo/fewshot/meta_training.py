"""Meta-training: tasks of the training classes, one step of an optimiser for every few of them."""

from collections.abc import Iterator, Mapping
from typing import Any

import pydantic
import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from .. import divergence
from ..counts import NonNegativeInt, PositiveInt
from ..disk import checkpoint
from ..seeds import generator
from ..settings import STRICT
from .episodes import Episodes, Sampler, Shape
from .evaluation import accuracies
from .method import Method
from .progress import Progress
from .source import Source


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class MetaTraining:
    """How a method is meta-trained: Adam, whose rate is halved again and again.

    Attributes:
        iterations: steps of the optimiser; the defaults are those of MTL's TensorFlow code (CVPR 2019).
        tasks: of a step.
        meta_lr: learning rate at the start.
        network_share: the network's learning rate as a multiple of the others'; the PyTorch code of MTL has 0.1.
        meta_weight_decay: Adam's.
        halve_every: iterations after which the rate is halved; 0: never.
        least_lr: below which it does not go.
        varied: crops and flips for the tasks' images, where the network learns.
        validate_every: iterations between two looks at the validation classes; the best of these checkpoints is kept.
        validation_episodes: tasks of each look, always the same.
        hard_tasks: MTL's meta-batch of hard tasks: after ``hard_every`` iterations come ``hard_iterations`` more, on
            tasks whose classes are those that were named worst, one of each of the tasks before.
        hard_every, hard_iterations: see ``hard_tasks``.
    """

    iterations: NonNegativeInt = 15_000
    tasks: PositiveInt = 2
    meta_lr: PositiveFloat = 1e-3
    network_share: PositiveFloat = 1.0
    meta_weight_decay: NonNegativeFloat = 0.0
    halve_every: NonNegativeInt = 1000
    least_lr: NonNegativeFloat = 1e-4
    varied: bool = True
    validate_every: PositiveInt = 500
    validation_episodes: PositiveInt = 200
    hard_tasks: bool = False
    hard_every: PositiveInt = 10
    hard_iterations: PositiveInt = 5

    def lr_at(self, iteration: int) -> float:
        """The learning rate of an iteration, counted from 0."""
        halvings = iteration // self.halve_every if self.halve_every else 0
        return max(min(self.least_lr, self.meta_lr), self.meta_lr * 0.5**halvings)


class MetaLoop:
    """Meta-training that can be put down after any round and taken up again.

    Args:
        method: on its device; its weights change.
        settings: see above.
        train, validation: where tasks come from.
        shape: of training tasks.
        validated: the validation episodes.
        seed: of all that is drawn.
    """

    def __init__(
        self,
        method: Method,
        settings: MetaTraining,
        train: Source,
        validation: Source,
        shape: Shape,
        validated: Episodes,
        seed: int,
    ) -> None:
        self.iteration, self.curve = 0, list[tuple[int, float]]()
        self._method, self._settings, self._seed = method, settings, seed
        self._train, self._validation, self._validated = train, validation, validated
        self._sampler = Sampler(train.labels, shape)
        self._optimizer = torch.optim.Adam(
            method.groups(settings.meta_lr, settings.network_share),
            weight_decay=settings.meta_weight_decay,
        )
        self._worst: list[int] = []
        self._best = _copied(method)

    def run(self) -> Iterator[Progress]:
        """Rounds of iterations with a look at the validation classes after each; the method is the best one at last."""
        already = self.iteration
        while self.iteration < self._settings.iterations:
            until = min(self.iteration + self._settings.validate_every, self._settings.iterations)
            losses = [self._step(index) for index in range(self.iteration, until)]
            self.iteration = until
            loss = float(torch.stack(losses).mean())
            place = f"meta-train, before iteration {until}"
            divergence.refuse(place, {"loss": loss}, self._method.state_dict(), rate="meta_lr")
            accuracy = self._look()
            shown = {"loss": loss, "accuracy": accuracy}
            yield Progress("meta-train", self.iteration, self._settings.iterations, shown, already)
        self._method.load_state_dict(self._best)

    def _look(self) -> float:
        """The accuracy on the validation episodes, in %; the best method is remembered, of equals the first."""
        if self._method.takes_features:
            self._validation.embed(self._method.embedder)
        each = torch.cat([*accuracies(self._method, self._validation, self._validated)])
        accuracy = float(each.mean())
        if not self.curve or accuracy > max(value for _, value in self.curve):
            self._best = _copied(self._method)
        self.curve.append((self.iteration, accuracy))
        return accuracy

    def _step(self, iteration: int) -> Tensor:
        settings = self._settings
        place = (self._seed, "meta-train", iteration)
        episodes = self._sampler.draw(settings.tasks, *place)
        loss = self._learn(episodes, iteration, *place)
        if settings.hard_tasks:
            self._worst += self._named_worst(episodes)
            if (iteration + 1) % settings.hard_every == 0:
                self._learn_hard(iteration)
        return loss

    def _learn(self, episodes: Episodes, iteration: int, *place: int | str) -> Tensor:
        self._method.train()
        varied = generator(*place, "varied") if self._settings.varied else None
        tasks = self._train.tasks(episodes, varied)
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.lr_at(iteration) * group["share"]
        self._optimizer.zero_grad()
        loss = self._method.loss(tasks, episodes.answers.to(tasks.labels.device))
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    def _named_worst(self, episodes: Episodes) -> list[int]:
        """Of each task the class that most queries of were named wrongly (Sun et al., algorithm 3, line 14)."""
        tasks = self._train.tasks(episodes)
        wrong = self._method(tasks).detach().argmax(2).cpu() != episodes.answers
        errors = wrong.view(len(episodes), episodes.shape.ways, -1).sum(2)
        return [int(c) for c in episodes.classes.gather(1, errors.argmax(1, keepdim=True)).squeeze(1)]

    def _learn_hard(self, iteration: int) -> None:
        """More steps on tasks of the classes that were named worst, if there are enough of them; other images."""
        pool, self._worst = torch.tensor(sorted(set(self._worst))), []
        shape = self._sampler.shape
        if len(pool) < shape.classes:
            return
        for index in range(self._settings.hard_iterations):
            place = (self._seed, "meta-train", iteration, "hard", index)
            self._learn(self._sampler.draw_among(pool, self._settings.tasks, *place), iteration, *place)

    def state(self) -> dict[str, Tensor]:
        """All tensors, for a checkpoint; what belongs with them is :attr:`about`."""
        optimizer = checkpoint.of_optimizer(self._optimizer)
        return checkpoint.joined({"method": self._method.state_dict(), "best": self._best, "optimizer": optimizer})

    @property
    def about(self) -> dict[str, Any]:
        """What JSON can hold of the state."""
        return {"iteration": self.iteration, "curve": self.curve, "worst": self._worst}

    def load(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Take up what :meth:`state` and :attr:`about` gave. Raises KeyError or RuntimeError if it does not fit."""
        parts = checkpoint.parted(tensors)
        self._method.load_state_dict(parts["method"])
        device = self._method.embedder.mean.device
        self._best = {name: tensor.to(device) for name, tensor in parts["best"].items()}
        checkpoint.into_optimizer(self._optimizer, parts.get("optimizer", {}))
        self.iteration, self.curve = about["iteration"], [(int(i), float(value)) for i, value in about["curve"]]
        self._worst = list(about["worst"])


def _copied(method: Method) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in method.state_dict().items()}
