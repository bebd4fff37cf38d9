"""Gradient descent on a head over fixed features, in closed form and for a batch of tasks at once.

Only the head moves in the inner loops of MTL, LST and E3BM. So a task is embedded once, and a step is two matrix
products: with logits z = Wx + b and G = dL/dz, dL/dW is G'X and dL/db the sum of G's rows. Written out so, the steps
are ordinary tensor operations: autograd through them gives the exact second-order meta-gradient.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base_learner import BaseLearner
from .tasks import Tasks

Kind = Literal["linear", "cosine"]
Scale = Literal["mean", "sum_over_shot"]
Start = Literal["learned", "random", "prototypes", "adapted"]


class Head(NamedTuple):
    """A classifier for each of t tasks.

    Attributes:
        weight: (t, ways, d).
        bias: (t, ways); zeros for a cosine head, which has none.
        temperature: None for a linear head; for a cosine head what cosines are multiplied by.
        known: rows (t, old, d) that stay as they are, without a bias; see :class:`mnemo.fewshot.tasks.Tasks`.
    """

    weight: Tensor
    bias: Tensor
    temperature: float | None = None
    known: Tensor | None = None

    def logits(self, features: Tensor) -> Tensor:
        """Logits (t, n, old + ways) of features (t, n, d)."""
        own = self._scores(features, self.weight)
        if self.temperature is None:
            own = own + self.bias.unsqueeze(1)
        return own if self.known is None else torch.cat([self._scores(features, self.known), own], 2)

    def _scores(self, features: Tensor, rows: Tensor) -> Tensor:
        if self.temperature is None:
            return features @ rows.transpose(1, 2)
        return self.temperature * F.normalize(features, dim=2) @ F.normalize(rows, dim=2).transpose(1, 2)

    def gradient(self, features: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient in weight and bias of a loss whose gradient in the logits of ``features`` is known.

        Args:
            features: (t, n, d).
            errors: dL/dz, (t, n, old + ways).
        """
        errors = errors[:, :, errors.shape[2] - self.weight.shape[1] :]
        if self.temperature is None:
            return errors.transpose(1, 2) @ features, errors.sum(1)
        rows, directions = F.normalize(features, dim=2), F.normalize(self.weight, dim=2)
        pull = errors.transpose(1, 2) @ rows
        radial = (pull * directions).sum(2, keepdim=True) * directions  # a cosine does not feel the weight's length
        length = self.weight.norm(dim=2, keepdim=True).clamp(min=1e-12)
        return self.temperature * (pull - radial) / length, torch.zeros_like(self.bias)

    def moved(self, gradient: tuple[Tensor, Tensor], rate: Tensor | float, decay: Tensor | float = 0.0) -> "Head":
        """After a step: theta - rate * (gradient + decay * theta)."""
        weight, bias = gradient
        return self._replace(
            weight=self.weight - rate * (weight + decay * self.weight),
            bias=self.bias - rate * (bias + decay * self.bias),
        )


def errors(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """The gradient in the logits of the summed cross-entropy: softmax minus targets, (t, n, ways) all of them.

    Args:
        logits: z.
        targets: one-hot rows or distributions.
        weights: if given, the loss is that of ``weights * z``, as LST weighs pseudo-labelled images.
    """
    if weights is None:
        return logits.softmax(2) - targets
    return weights * ((weights * logits).softmax(2) - targets)


def descend(
    head: Head,
    features: Tensor,
    targets: Tensor,
    rates: Sequence[Tensor | float],
    *,
    scale: float,
    first_order: bool = False,
) -> Iterator[Head]:
    """Heads after each of ``len(rates)`` steps on the cross-entropy.

    Args:
        head: where it starts; not given back.
        features: (t, n, d).
        targets: (t, n, ways).
        rates: one a step.
        scale: of the summed loss: 1/n makes it a mean.
        first_order: take gradients for constants.
    """
    for rate in rates:
        gradient = head.gradient(features, scale * errors(head.logits(features), targets))
        if first_order:
            gradient = (gradient[0].detach(), gradient[1].detach())
        head = head.moved(gradient, rate)
        yield head


def last(heads: Iterator[Head], start: Head) -> Head:
    """The last of some heads; ``start`` if there is none."""
    for head in heads:
        start = head
    return start


class GradientDescent(BaseLearner):
    """A head that starts from a meta-learned one and takes steps on the support: the base-learner of MTL.

    Sun et al., CVPR 2019, equation 3 and algorithm 2: theta'_0 = theta, theta' <- theta' - beta grad L(support). Their
    TensorFlow code differentiates through the steps; their PyTorch code does not (``first_order``) and feels the
    network through the queries alone (``detach_support``).

    Args:
        features: d.
        ways: classes of a task.
        steps: in meta-training.
        test_steps: when the module is in evaluation mode.
        rate: beta.
        kind: ``linear``, or ``cosine`` with a temperature.
        start: ``learned``, ``random`` (a head that is drawn once and never learns), ``prototypes`` (class means), or
            ``adapted``: class means times a gain plus an offset, (d,) each, which are learned and hold for any class.
        scale: of the inner loss: the ``mean``, or as in the TensorFlow code the ``sum_over_shot``, ways times that.
        first_order, detach_support: see above.
        temperature: of a cosine head.
    """

    def __init__(
        self,
        features: int,
        ways: int,
        *,
        steps: int = 20,
        test_steps: int = 100,
        rate: float = 0.01,
        kind: Kind = "linear",
        start: Start = "learned",
        scale: Scale = "mean",
        first_order: bool = False,
        detach_support: bool = False,
        temperature: float = 8.0,
    ) -> None:
        super().__init__()
        self.steps, self.test_steps, self.rate = steps, test_steps, rate
        self.start, self.scale = start, scale
        self.first_order, self.detach_support = first_order, detach_support
        self.temperature = temperature if kind == "cosine" else None
        learns = start == "learned"
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(ways, features)), requires_grad=learns)
        self.bias = nn.Parameter(torch.zeros(ways), requires_grad=learns and kind == "linear")
        if start == "adapted":
            self.gain, self.offset = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))

    def forward(self, tasks: Tasks) -> Tensor:
        """Logits (t, q, ways), of the last step."""
        return last(self.heads(tasks), self.first(tasks)).logits(tasks.query)

    def heads(self, tasks: Tasks) -> Iterator[Head]:
        """The heads after each step."""
        support = self.support(tasks)
        rates = [self.rate] * self.count
        scale = self.loss_scale(tasks)
        return descend(self.first(tasks), support, tasks.targets, rates, scale=scale, first_order=self.first_order)

    @property
    def count(self) -> int:
        """Steps, in training or in testing as the mode is."""
        return self.steps if self.training else self.test_steps

    def support(self, tasks: Tasks) -> Tensor:
        """The support's features, as the steps see them."""
        return tasks.support.detach() if self.detach_support else tasks.support

    def loss_scale(self, tasks: Tasks) -> float:
        """What the summed loss is multiplied by."""
        return 1 / (tasks.shots if self.scale == "sum_over_shot" else tasks.labels.shape[1])

    def first(self, tasks: Tasks) -> Head:
        """The heads that the steps start from."""
        count = len(tasks.support)
        if self.start in ("learned", "random"):
            weight, bias = self.weight.expand(count, -1, -1), self.bias.expand(count, -1)
            return Head(weight, bias, self.temperature, tasks.known)
        means = tasks.prototypes(self.support(tasks))
        if self.start == "adapted":
            means = self.gain * means + self.offset
        return Head(means, means.new_zeros(count, tasks.ways), self.temperature, tasks.known)
