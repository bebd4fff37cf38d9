"""A head whose weights are fixed from the start, for all classes that will ever come: a simplex."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..disk.files import InputError
from .heads import Head, Outputs

WIDTH = 512
"""Of the space that the simplex is in, as in the public code of NC-FSCIL."""


def simplex(classes: int, width: int) -> Tensor:
    """Vertices (classes, width) of a simplex equiangular tight frame, of length 1, each two at a cosine of -1/(K-1).

    Turned at random: rotations come from torch's global generator.

    Args:
        classes: K, at least 2.
        width: at least K.
    """
    axes, _ = torch.linalg.qr(torch.randn(width, classes, dtype=torch.float64))  # in double: exact in single
    centred = torch.eye(classes, dtype=torch.float64) - 1 / classes
    vertices: Tensor = (classes / (classes - 1)) ** 0.5 * axes @ centred
    return vertices.T.to(torch.get_default_dtype()).contiguous()


class Projection(nn.Module):
    """The public code's neck: two layers with layer normalisation, a third without, and a linear way past all three.

    Args:
        features: d.
        width: of what comes out.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        hidden = 2 * features
        self.layers = nn.Sequential(
            nn.Linear(features, hidden),
            nn.LayerNorm(hidden),
            nn.LeakyReLU(0.1),
            nn.Linear(hidden, hidden),
            nn.LayerNorm(hidden),
            nn.LeakyReLU(0.1),
            nn.Linear(hidden, width, bias=False),
        )
        self.past = nn.Linear(features, width, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """(n, d) to (n, width)."""
        result: Tensor = self.layers(features) + self.past(features)
        return result


class SimplexHead(Head):
    """Logits are cosines of projected features and the vertices of a simplex; of those, the classes seen so far.

    The classes get their vertices in order of arrival, and the projection learns in their place. Weights come from
    torch's global generator.

    Args:
        features: d.
        classes: of the whole stream, which have to be known in advance: 2 to 512.

    Attributes:
        frame: (classes, 512), all vertices.
        means: (classes, d), mean features of the classes seen so far, for whoever keeps them.

    Raises:
        InputError: there is no room for so many classes, or their number is not known.
    """

    def __init__(self, features: int, classes: int | None) -> None:
        super().__init__(features)
        if classes is None or not 2 <= classes <= WIDTH:
            raise InputError(f"a simplex needs to know how many classes will come, 2 to {WIDTH}; it got {classes}")
        self.projection = Projection(features, WIDTH)
        self.frame: Tensor
        self.means: Tensor
        self.register_buffer("frame", simplex(classes, WIDTH))
        self.register_buffer("means", torch.zeros(classes, features))

    def grow(self, count: int) -> None:
        """Give ``count`` classes their vertices. Raises ValueError if there are none left."""
        vertices = self.frame[self.classes : self.classes + count].clone()
        if len(vertices) < count:
            raise ValueError(f"the simplex has {len(self.frame)} vertices, and {self.classes} are taken")
        self.weights.append(nn.Parameter(vertices, requires_grad=False))

    def learn_old(self, flag: bool) -> None:
        """Does nothing: no vertex ever moves."""

    def forward(self, features: Tensor) -> Outputs:
        """Features (n, d) to outputs."""
        cosines = F.linear(F.normalize(self.projection(features)), self._weight())
        return Outputs(features, cosines, cosines)
