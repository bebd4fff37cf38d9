"""An Avalanche model as a network of mnemo's."""

import contextlib
import copy
from collections.abc import Iterator, Sequence

import torch
from avalanche.models import IncrementalClassifier, MultiHeadClassifier
from avalanche.models.dynamic_modules import MultiTaskModule, TrainEvalModel
from avalanche.models.utils import is_multi_task_module
from torch import Tensor, nn

from ..disk.files import InputError
from ..nets import Head, IncrementalNet, Outputs, normalised

CLASSIFIERS = (IncrementalClassifier, MultiHeadClassifier, nn.Linear)


class SeenClasses(Head):
    """Stands for the classifier, which stays where it is in the model.

    Args:
        features: their number.
        classes: how many have been seen.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features)
        self._classes = classes

    @property
    def classes(self) -> int:
        """See :class:`mnemo.nets.Head`."""
        return self._classes


class AvalancheNet(IncrementalNet):
    """A copy of a model that takes pixels and gives a logit for each class seen so far, in order of arrival.

    Features are what enters the classifier. A model that takes task labels is asked for every task. Logits of a task
    are normalised then, so that the cross-entropy over all classes is that within an image's own task, but for a
    constant.

    Args:
        model: the user's.
        classifier: the name of a module in it; None: its last classifier or linear layer.
        classes: (task, label) of the classes seen so far, in order of arrival.
        mean, std: of the eval transform, per channel, in grey levels.

    Raises:
        InputError: there is no such classifier, or the model takes task labels and it does not; and from a pass: the
            model does not use it, or does not give a row of scores for each image.
    """

    def __init__(
        self,
        model: nn.Module,
        classifier: str | None,
        classes: Sequence[tuple[int, int]],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        body = trained_part(_copied(model))
        super().__init__(body, SeenClasses(0, len(classes)), mean, std)
        self._classifier = _last_classifier(body) if classifier is None else classifier
        self._multi_task = is_multi_task_module(body)
        self._refuse_unfit_classifier()
        in_task = [task if self._multi_task else 0 for task, _ in classes]
        self._tasks = list(dict.fromkeys(in_task))
        groups = [[i for i, of in enumerate(in_task) if of == task] for task in self._tasks]
        positions = torch.tensor([position for group in groups for position in group])
        self._sizes = [len(group) for group in groups]
        self.columns: Tensor
        self.order: Tensor
        self.register_buffer("columns", torch.tensor([label for _, label in classes])[positions])
        self.register_buffer("order", positions.argsort())
        self.to(next(body.parameters()).device)

    def features(self, pixels: Tensor) -> Tensor:
        """Pixels (n, c, h, w), uint8 or floating, in grey levels 0..255, to features (n, d)."""
        return self._pass(pixels)[0]

    def forward(self, pixels: Tensor) -> Outputs:
        """Pixels (n, c, h, w), uint8 or floating, in grey levels 0..255, to outputs."""
        features, first = self._pass(pixels)
        head = self.backbone.get_submodule(self._classifier)
        scores = [first, *(head(features, task) for task in self._tasks[1:])]
        parts = [s[:, columns] for s, columns in zip(scores, self.columns.split(self._sizes), strict=True)]
        if self._multi_task:
            parts = [part.log_softmax(1) for part in parts]
        logits = torch.cat(parts, 1)[:, self.order]
        return Outputs(features, logits, logits)

    def _pass(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Features, and the scores of the first task."""
        images = normalised(pixels, self.mean, self.std).contiguous()
        with _inputs(self.backbone.get_submodule(self._classifier)) as seen:
            scores: Tensor = self.backbone(images, self._tasks[0]) if self._multi_task else self.backbone(images)
        self._refuse_strange_pass(len(seen), scores, len(images))
        return seen[0].flatten(1), scores

    def _refuse_strange_pass(self, calls: int, scores: Tensor, images: int) -> None:
        if not calls:
            raise InputError(f"classifier={self._classifier}: the model has this module but does not use it")
        if scores.ndim != 2 or len(scores) != images:
            raise InputError(f"the model must give a row of scores for each image, not {tuple(scores.shape)}")

    def _refuse_unfit_classifier(self) -> None:
        try:
            head = self.backbone.get_submodule(self._classifier)
        except AttributeError:
            raise InputError(f"classifier={self._classifier}: the model has no module of this name") from None
        if self._multi_task and not isinstance(head, MultiTaskModule):
            raise InputError(f"classifier={self._classifier}: the model takes task labels and this module does not")


def trained_part(model: nn.Module) -> nn.Module:
    """The model with the classifier that it is trained through: iCaRL's evaluates with another one."""
    if isinstance(model, TrainEvalModel):
        return nn.Sequential(model.feature_extractor, model.train_classifier)
    return model


def _copied(model: nn.Module) -> nn.Module:
    """A deep copy; results that modules keep of their last pass are copied without their graph."""
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    return copy.deepcopy(model, {id(value): value.detach() for value in kept if not value.is_leaf})


def _last_classifier(model: nn.Module) -> str:
    found: list[str] = [name for name, module in model.named_modules() if isinstance(module, CLASSIFIERS)]
    outer = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
    if not outer:
        raise InputError("the model has no linear layer: classifier=... names the module whose inputs are the features")
    return outer[-1]


@contextlib.contextmanager
def _inputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """The first argument of each of a module's calls."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        yield seen
    finally:
        handle.remove()
