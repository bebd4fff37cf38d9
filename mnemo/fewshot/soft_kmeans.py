"""Prototypes that unlabelled images refine.

Ren, Triantafillou, Ravi, Snell, Swersky, Tenenbaum, Larochelle and Zemel, "Meta-Learning for Semi-Supervised Few-Shot
Classification", ICLR 2018: soft k-means (section 3.1.1) and masked soft k-means (section 3.1.3).
"""

from typing import Literal

import torch
from torch import Tensor, nn

from .base_learner import BaseLearner
from .distances import squared_distances
from .tasks import Tasks, class_means


class MaskedSoftKMeans(BaseLearner):
    """Steps of k-means from the support's class means; an unlabelled image counts where a mask lets it.

    A query's logits are its negative squared distances to the prototypes. Without unlabelled images this is a
    prototypical network (Snell et al., NeurIPS 2017).

    For each class a perceptron says from how the distances to it are spread how far it reaches (beta) and how sharply
    that ends (gamma). The paper leaves it open how these are kept positive, and what they are in a later step. As in
    the released code they are exponentials, and over the steps up to a third output is added to beta.

    Args:
        steps: of k-means.
        masked: False: all masks are 1, plain soft k-means.
        mask_twice: weigh by the square of the mask, as the released code does; the paper's equation 8 has it once.
        unlabelled: ``given``; with ``queries`` the queries stand in where a task has no unlabelled images.

    Attributes:
        transductive: where queries stand in.
    """

    def __init__(
        self,
        *,
        steps: int = 1,
        masked: bool = True,
        mask_twice: bool = False,
        unlabelled: Literal["given", "queries"] = "given",
    ) -> None:
        super().__init__()
        self.steps, self.mask_twice = steps, mask_twice
        self.transductive = unlabelled == "queries"
        self.reach = _perceptron() if masked else None

    def forward(self, tasks: Tasks) -> Tensor:
        """Logits (t, q, ways)."""
        prototypes, _, _ = self._refined(tasks)
        return -squared_distances(tasks.query, prototypes)

    def evidence(self, tasks: Tasks) -> dict[str, Tensor]:
        """Of unlabelled images in the last step, (t, u, ways) each: ``assignments`` to classes, and ``masks``."""
        _, assignments, masks = self._refined(tasks)
        if not assignments.shape[1]:
            return {}
        return {"assignments": assignments.detach(), "masks": masks.detach()}

    def _refined(self, tasks: Tasks) -> tuple[Tensor, Tensor, Tensor]:
        """Prototypes (t, ways, d), assignments and masks (t, u, ways) of the last step."""
        prototypes, images = class_means(tasks.support, tasks.targets), self._unlabelled(tasks)
        assignments = masks = images.new_ones(*images.shape[:2], tasks.ways)
        if not images.shape[1]:
            return prototypes, assignments, masks
        everything = torch.cat([tasks.support, images], 1)
        limits = self._limits(squared_distances(images, prototypes))
        for step in range(self.steps):
            distances = squared_distances(images, prototypes)
            assignments = (-distances).softmax(2)
            masks = self._masks(distances, limits, step)
            weights = assignments * (masks.square() if self.mask_twice else masks)
            prototypes = class_means(everything, torch.cat([tasks.targets, weights], 1))
        return prototypes, assignments, masks

    def _unlabelled(self, tasks: Tasks) -> Tensor:
        given = tasks.support[:, :0] if tasks.unlabelled is None else tasks.unlabelled
        return tasks.query if self.transductive and not given.shape[1] else given

    def _limits(self, distances: Tensor) -> Tensor | None:
        """What the perceptron says of classes, (t, 1, ways, 3); None without masks."""
        if self.reach is None:
            return None
        limits: Tensor = self.reach(statistics(relative(distances.detach())))
        return limits.unsqueeze(1)

    def _masks(self, distances: Tensor, limits: Tensor | None, step: int) -> Tensor:
        """Equation 9: sigmoid of gamma * (beta - relative distance), (t, u, ways)."""
        if limits is None:
            return torch.ones_like(distances)
        start, drift, slope = limits.unbind(3)
        reach = start.exp() + step / max(self.steps - 1, 1) * drift
        return (slope.exp() * (reach - relative(distances))).sigmoid()


def relative(distances: Tensor) -> Tensor:
    """Distances (t, u, ways) over their mean over the images, for each class; equation 6 of the paper."""
    mean = distances.mean(1, keepdim=True)
    return distances / mean.where(mean > 0, 1)


def statistics(distances: Tensor) -> Tensor:
    """Minimum, maximum, variance, skewness and excess kurtosis over u of (t, u, ways): (t, ways, 5).

    The last two are 0 where all are equal.
    """
    centred = distances - distances.mean(1, keepdim=True)
    variance = centred.square().mean(1)
    spread = variance.where(variance > 0, 1)
    skewness, kurtosis = centred.pow(3).mean(1) / spread.pow(1.5), centred.pow(4).mean(1) / spread.square()
    excess = (kurtosis - 3).where(variance > 0, 0)
    return torch.stack([distances.amin(1), distances.amax(1), variance, skewness, excess], 2)


def _perceptron() -> nn.Sequential:
    """5 - 20 - 3 with weights of deviation 0.01, as in the released code: beta and gamma are near 1 at first."""
    layers = nn.Sequential(nn.Linear(5, 20), nn.Tanh(), nn.Linear(20, 3))
    for layer in (layers[0], layers[2]):
        assert isinstance(layer, nn.Linear)
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)
    return layers
