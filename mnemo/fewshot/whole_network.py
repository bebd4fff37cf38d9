"""Inner loops that move the whole network, by autograd, task by task: MAML, and plain fine-tuning.

Finn, Abbeel and Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", ICML 2017.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..components.epochs import Epochs, Fast
from .embedder import Embedder
from .gradient_descent import GradientDescent, Head
from .tasks import Tasks


class WholeNetwork(Epochs):
    """Gradient steps on the support that move head and backbone together (equation 1): θ is all their weights.

    Tasks come as pixels. What of the backbone requires gradients is meta-learned (algorithm 1); all of it moves.

    Args:
        embedder: the network; it belongs to the method, not to this module.
        learner: gives the head, the rate, the numbers of steps, and whether gradients are first-order.
    """

    takes_pixels = True

    def __init__(self, embedder: Embedder, learner: GradientDescent) -> None:
        super().__init__()
        self._network = (embedder,)  # in a tuple, so that its weights are not registered a second time
        self.learner = learner
        self.features = embedder.features
        self.transductive = embedder.batch_norm == "batch"
        self._names = [name for name, _ in embedder.named_parameters()]
        blocks = {name: 1 + _block(name) for name in self._names}
        self.layers = (0, 0, *(blocks[name] for name in self._names))

    @property
    def embedder(self) -> Embedder:
        """The network."""
        return self._network[0]

    def forward(self, tasks: Tasks) -> Tensor:
        """Logits (t, q, ways) of the queries of tasks of pixels, after the last step."""
        return self.logits(tasks, self.after(tasks, self.learner.count, self.learner.rate))

    def begin(self, tasks: Tasks) -> Fast:
        """The head's weight and bias, and the backbone's weights, each (t, ...)."""
        head = self.learner.first(tasks)
        count = len(tasks.support)
        body = [p.expand(count, *p.shape) for p in self.embedder.parameters()]
        return self._ready((head.weight, head.bias, *body))

    def gradient(self, tasks: Tasks, theta: Fast) -> Fast:
        """Of the support's cross-entropy, task by task."""
        theta = self._ready(theta)
        exact = self.training and not self.learner.first_order
        each = [self._gradient(tasks.one(index), _one(theta, index), exact) for index in range(len(tasks.support))]
        return tuple(torch.cat(parts) for parts in zip(*each, strict=True))

    def logits(self, tasks: Tasks, theta: Fast) -> Tensor:
        """Logits (t, q, ways) of the queries."""
        each = [self._logits(tasks.one(i), _one(theta, i), tasks.query[i]) for i in range(len(tasks.support))]
        return torch.cat(each)

    def condition(self, tasks: Tasks, of_queries: bool) -> Tensor:
        """The mean feature (t, d) in the network before any step."""
        with torch.no_grad():
            return super().condition(self.embedder.embed(tasks), of_queries)

    def after(self, tasks: Tasks, count: int, rate: float) -> Fast:
        """θ after ``count`` steps at one rate; in evaluation mode it leads no further back."""
        theta = self.begin(tasks)
        for _ in range(count):
            slopes = self.gradient(tasks, theta)
            theta = tuple(weight - rate * slope for weight, slope in zip(theta, slopes, strict=True))
            if not self.training:
                theta = tuple(weight.detach() for weight in theta)
        return theta

    def _ready(self, theta: Fast) -> Fast:
        """The same, with leaves of a graph for what is in none."""
        return tuple(weight if weight.requires_grad else weight.detach().requires_grad_() for weight in theta)

    def _gradient(self, task: Tasks, theta: Fast, exact: bool) -> Fast:
        logits = self._logits(task, theta, None)
        loss = self.learner.loss_scale(task) * F.cross_entropy(logits[0], task.labels[0], reduction="sum")
        found = torch.autograd.grad(loss, theta, create_graph=exact, allow_unused=True)  # a cosine head has no bias
        return tuple(torch.zeros_like(w) if g is None else g for w, g in zip(theta, found, strict=True))

    def _logits(self, task: Tasks, theta: Fast, pixels: Tensor | None) -> Tensor:
        weight, bias, *body = theta
        weights = {name: tensor[0] for name, tensor in zip(self._names, body, strict=True)}
        features = self.embedder.fixed(task, weights)(pixels)
        return Head(weight, bias, self.learner.temperature).logits(features.unsqueeze(0))


def _one(theta: Fast, index: int) -> Fast:
    return tuple(weight[index : index + 1] for weight in theta)


def _block(name: str) -> int:
    """The number of the block that a parameter's name is of; 0 for a stem."""
    parts = name.partition("blocks.")[2].split(".")
    return int(parts[0]) if parts[0].isdigit() else 0
