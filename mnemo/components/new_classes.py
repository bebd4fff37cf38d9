"""MTL, LST, E3BM and SIB in a stream: meta-learned in the base phase, applied to the new classes of every later phase.

The network has a cosine head. In a phase with a few images of each new class the rows of old classes stay, the new ones
start as class means, and components say how they go on from there:

- ``mtl`` (Sun et al., CVPR 2019): scales and shifts of the frozen backbone, and a gain and an offset of class means;
- ``e3bm`` (Liu et al., ECCV 2020): rates and weights of an ensemble of the steps' rows;
- ``lst`` (Li et al., NeurIPS 2019): unlabelled images join under pseudo-labels, unless they seem to be of an old class;
- ``sib`` (Hu et al., ICLR 2020): the test images themselves refine all rows, old ones too, for a classifier of its own;
  the others do not feel it.

In the base phase all of them are meta-learned together on pseudo-incremental episodes (as in CEC, Zhang et al., CVPR
2021, section 3.3): a few of its classes are taken for new ones, the means of the others are what is known already. How
they are put into streams is no paper's. Departures: the rows of an ensemble are combined by direction, since a cosine
head's rows have no length; together with ``e3bm``, ``lst`` adds the images that it selects to the few labelled ones,
and does not weigh them softly.
"""

from typing import Annotated, Any, Literal

import pydantic
import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from ..counts import NonNegativeInt, PositiveInt
from ..fewshot.gradient_descent import GradientDescent, last
from ..fewshot.tasks import Tasks
from .ensemble import Ensemble
from .epochs import HeadEpochs
from .hyperprior import Hyperprior
from .refined_rows import RefinedRows
from .self_training import SelfTraining

Name = Literal["mtl", "lst", "e3bm", "sib"]


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid", allow_inf_nan=False))
class Components:
    """Which components there are, and how they are meta-learned; settings of every strategy with a cosine head.

    Attributes:
        components: of ``mtl``, ``lst``, ``e3bm`` and ``sib``; results with ``sib`` are transductive.
        meta_iterations: episodes in the base phase.
        meta_lr: of Adam, for scales and shifts; everything else learns ten times as fast.
        meta_ways, meta_shots: of an episode: classes that are taken for new, and images of each.
        meta_unlabelled: unlabelled images of each, for ``lst``, and of as many classes that are known.
        row_steps: steps on the new rows, in the base phase and later; ``lst`` alone learns from pseudo-labelled images
            in the first half of them.
        row_lr: their rate; where ``e3bm`` is, at first.
        keep: pseudo-labelled images of each new class that ``lst`` learns from, at most.
        refine_steps, refine_rate: steps of ``sib`` on all rows, and their rate; see
            :class:`mnemo.components.refined_rows.RefinedRows`.
    """

    components: tuple[Name, ...] = ()
    meta_iterations: NonNegativeInt = 300
    meta_lr: PositiveFloat = 1e-3
    meta_ways: Annotated[PositiveInt, Field(ge=2)] = 5
    meta_shots: PositiveInt = 5
    meta_unlabelled: PositiveInt = 15
    row_steps: PositiveInt = 10
    row_lr: PositiveFloat = 0.01
    keep: PositiveInt = 10
    refine_steps: PositiveInt = 3
    refine_rate: PositiveFloat = 0.003

    @pydantic.field_validator("components", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Of a command line: ``[mtl,lst]`` is a string there."""
        if not isinstance(value, str):
            return value
        return tuple(name.strip() for name in value.strip("[] ").split(",") if name.strip())

    @property
    def make_rows(self) -> bool:
        """Whether any of them makes the rows of new classes; ``sib`` does not."""
        return bool(set(self.components) - {"sib"})

    def companion(self, features: int) -> "NewClasses":
        """What is meta-learned besides scales and shifts."""
        return NewClasses(features, self)


class NewClasses(nn.Module):
    """From a few images to rows for new classes.

    Args:
        features: d.
        settings: see :class:`Components`.
    """

    def __init__(self, features: int, settings: Components) -> None:
        super().__init__()
        self._settings = settings
        start: Literal["adapted", "prototypes"] = "adapted" if "mtl" in settings.components else "prototypes"
        steps, rate = settings.row_steps if settings.make_rows else 0, settings.row_lr
        common = {"steps": steps, "test_steps": steps, "rate": rate, "kind": "cosine", "start": start}
        learner: GradientDescent = GradientDescent(features, settings.meta_ways, **common)  # type: ignore[arg-type]
        if "lst" in settings.components:
            half = dict.fromkeys(("retrain_steps", "test_retrain_steps"), -(-steps // 2))
            choose = {"stages": 1, "keep": settings.keep, "select_in_training": True, "scale": "mean"}
            choose["soft"] = "e3bm" not in settings.components
            learner = SelfTraining(features, settings.meta_ways, **common, **half, **choose)  # type: ignore[arg-type]
        self.course: GradientDescent | Ensemble = learner
        if "e3bm" in settings.components:
            prior = Hyperprior(alpha="learned", combine="learned", normalise_v="softmax", first_weights="equal")
            self.course = Ensemble(HeadEpochs(learner, first_order=False), prior, steps=steps, rate=rate)
        sib = "sib" in settings.components
        self.refined = RefinedRows(settings.refine_steps, settings.refine_rate) if sib else None

    @property
    def learner(self) -> GradientDescent:
        """What takes the steps, by itself or as an ensemble of them."""
        if isinstance(self.course, Ensemble):
            assert isinstance(self.course.base, HeadEpochs)
            return self.course.base.learner
        return self.course

    def forward(self, tasks: Tasks, temperature: float) -> Tensor:
        """Logits (1, q, old + ways) of the queries of one task.

        Args:
            tasks: a batch of one, of features at unit length.
            temperature: of the cosine head.
        """
        return _logits(tasks, self._all_rows(tasks, temperature), temperature)

    def _all_rows(self, tasks: Tasks, temperature: float) -> Tensor:
        """Rows (1, old + ways, d) of length 1."""
        rows = self.rows(tasks, temperature)
        known = tasks.known if tasks.known is not None else rows[:, :0]
        return F.normalize(torch.cat([known, rows], 1), dim=2)

    def rows(self, tasks: Tasks, temperature: float) -> Tensor:
        """Rows (1, ways, d) for the new classes, at unit length."""
        self.learner.temperature = temperature
        if not isinstance(self.course, Ensemble):
            return F.normalize(last(self.course.heads(tasks), self.course.first(tasks)).weight, dim=2)
        if isinstance(self.learner, SelfTraining):
            tasks = self._with_selected(tasks, self.learner)
        steps = [(pace.v, theta[0]) for pace, theta in self.course.epochs(tasks)]
        weights = self.course.hyperprior.weights(torch.stack([v for v, _ in steps], 1))
        directions = torch.stack([F.normalize(rows, dim=2) for _, rows in steps], 1)
        return F.normalize(torch.einsum("tm,tmwd->twd", weights, directions), dim=2)

    def loss(self, tasks: Tasks, answers: Tensor, temperature: float) -> Tensor:
        """The mean of the cross-entropies of old and of new classes' queries, of one task; answers are (1, q).

        Old and new count alike, however many there are of each. Soft weights of ``lst`` learn by what LST's own loss
        gives them; ``sib`` does not feel it.
        """
        loss = _balanced(_logits(tasks, self._all_rows(tasks, temperature), temperature), answers, tasks.old)
        if isinstance(self.course, SelfTraining) and self.course.learns_from(tasks):
            loss = loss + self.course.loss_of_weights(tasks, answers)
        return loss

    def refined_loss(self, tasks: Tasks, queries: Tensor, answers: Tensor, temperature: float) -> Tensor:
        """The cross-entropy of queries (n, d) by rows that the same queries have refined; ``sib`` alone feels it.

        Args:
            tasks: a batch of one; its rows are refined.
            queries: features at unit length, constants.
            answers: (n,), 0..old + ways - 1.
            temperature: of the cosine head.
        """
        assert self.refined is not None
        refined = self.refined(self._all_rows(tasks, temperature)[0].detach(), queries, temperature)
        return F.cross_entropy(temperature * queries @ refined.T, answers.to(queries.device))

    @staticmethod
    def _with_selected(tasks: Tasks, learner: SelfTraining) -> Tasks:
        """The task with the images that self-training selects in its support."""
        if not learner.learns_from(tasks) or tasks.unlabelled is None:
            return tasks
        found = learner.evidence(tasks)
        where = found["selected"][0]
        support = torch.cat([tasks.support, tasks.unlabelled[:, where]], 1)
        labels = torch.cat([tasks.labels, found["pseudo_labels"][:, where] - tasks.old], 1)
        return tasks._replace(support=support, labels=labels, unlabelled=None)

    def groups(self, scales: list[nn.Parameter], rate: float) -> list[dict[str, Any]]:
        """For an optimiser: scales and shifts at ``rate``, everything here ten times as fast."""
        own = [p for p in self.parameters() if p.requires_grad]
        parts = ((scales, rate), (own, 10 * rate))
        return [{"params": parameters, "lr": lr} for parameters, lr in parts if parameters]


def _logits(tasks: Tasks, rows: Tensor, temperature: float) -> Tensor:
    """Logits (1, q, old + ways) of the queries by rows (1, old + ways, d) of length 1."""
    return temperature * F.normalize(tasks.query, dim=2) @ rows.transpose(1, 2)


def _balanced(logits: Tensor, answers: Tensor, old: int) -> Tensor:
    """The mean of the cross-entropies of queries of the first ``old`` classes and of the others."""
    each = F.cross_entropy(logits[0], answers[0], reduction="none")
    new = answers[0] >= old
    return (each[new].mean() + each[~new].mean()) / 2 if bool((~new).any()) else each.mean()
