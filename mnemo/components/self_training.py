"""Self-training: a head learns from the support and from its own pseudo-labels, and meta-learns how to do so.

Li, Sun, Liu, Zheng, Zhou, Chua and Schiele, "Learning to Self-Train for Semi-Supervised Few-Shot Classification",
NeurIPS 2019 (LST), arXiv 1906.00562.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..disk.files import InputError
from ..fewshot.base_learner import query_loss
from ..fewshot.gradient_descent import GradientDescent, Head, Kind, Scale, Start, descend, last
from ..fewshot.tasks import Tasks
from .pseudo_labels import Judged, PseudoLabelled, gathered, judge, reported
from .soft_weights import Output, SoftWeights, Weigh, retrain


class SelfTraining(GradientDescent):
    """LST. A head that a few steps on the support have made labels the unlabelled images; then it starts afresh.

    It starts from theta', takes m steps on support and pseudo-labelled images together, and fine-tunes on the support
    alone up to step T. In evaluation that can recur: the unlabelled images are split, image i into subset i modulo
    ``stages``, and the model that stage k ends with labels the images that the next stage learns from.

    Meta-training (:meth:`loss`) trains theta' and the network on the queries at theta_T, and the soft weighting
    network on the queries at theta_m; what one of them learns from is a constant for the other.

    Departures from the released code. Places of hard selection that no image fills stay empty; see
    :func:`~.pseudo_labels.most_confident`. The soft weighting network reads vectors; see
    :class:`~.soft_weights.SoftWeights`. Subsets are disjoint, as many as stages; there they overlap for one shot
    and are used again where stages outnumber them. The answer is that of the last step, not of the best on the
    queries. ``scale`` holds for both losses: in ``mean`` each is divided by its own number of images, whereas in
    the released ``sum_over_shot`` the pseudo-labelled images outweigh the support by their number; ``mean`` with a
    rate ``ways`` times as high differs in that alone. Without unlabelled images, or with m = 0, this is
    :class:`GradientDescent`.

    Args:
        features, ways, rate, kind, start, scale, first_order, detach_support, temperature: as of
            :class:`GradientDescent`. ``detach_support`` is of the unlabelled images too. ``first_order`` is of what
            reaches theta' and the network; the soft weighting network can only be felt through the steps.
        steps, test_steps: T, re-training included.
        retrain_steps, test_retrain_steps: m.
        stage_steps: T of all stages but the last.
        pseudo_steps: on the support, for the first pseudo-labels.
        hard: learn from the ``keep`` (Z) most confident images of each class only.
        select_in_training: in meta-training too.
        soft: weigh pseudo-labelled images by the soft weighting network.
        soft_output: see :class:`~.soft_weights.SoftWeights`.
        weigh: weights multiply an image's ``logits``, or that of its pseudo-class multiplies its ``loss`` (control).
        stages: of evaluation; 1: not recursive.
        mixing: a stage learns from what all stages before it have selected, not from the latest alone.

    Raises:
        InputError: re-training takes more steps than there are, or there is no stage.
    """

    def __init__(
        self,
        features: int,
        ways: int,
        *,
        steps: int = 20,
        test_steps: int = 100,
        retrain_steps: int = 5,
        test_retrain_steps: int = 10,
        stage_steps: int = 40,
        pseudo_steps: int = 10,
        hard: bool = True,
        keep: int = 20,
        select_in_training: bool = False,
        soft: bool = True,
        soft_output: Output = "softmax",
        weigh: Weigh = "logits",
        stages: int = 4,
        mixing: bool = False,
        rate: float = 0.01,
        kind: Kind = "linear",
        start: Start = "learned",
        scale: Scale = "sum_over_shot",
        first_order: bool = False,
        detach_support: bool = True,
        temperature: float = 8.0,
    ) -> None:
        super().__init__(
            features, ways, steps=steps, test_steps=test_steps, rate=rate, kind=kind, start=start, scale=scale,
            first_order=first_order, detach_support=detach_support, temperature=temperature,
        )  # fmt: skip
        fewest = min(test_steps, stage_steps) if stages > 1 else test_steps
        if retrain_steps > steps or test_retrain_steps > fewest or stages < 1:
            raise InputError("self-training needs a stage, and as many steps in all as re-training takes, or more")
        self.retrain_steps, self.test_retrain_steps = retrain_steps, test_retrain_steps
        self.stage_steps, self.pseudo_steps = stage_steps, pseudo_steps
        self.hard, self.keep, self.select_in_training = hard, keep, select_in_training
        self.weigh, self.stages, self.mixing = weigh, stages, mixing
        self.soft_weights = SoftWeights(features, soft_output) if soft else None

    @property
    def retraining(self) -> int:
        """m, in the present mode."""
        return self.retrain_steps if self.training else self.test_retrain_steps

    def heads(self, tasks: Tasks) -> Iterator[Head]:
        """The heads after each step of the last stage; to them the soft weights are constants."""
        if not self.learns_from(tasks):
            return super().heads(tasks)
        return self._of_last_stage(tasks, self._latest(tasks, self.judged(tasks)))

    def loss(self, tasks: Tasks, answers: Tensor) -> Tensor:
        """L_Q(theta_T) and, of the soft weighting network alone, L_Q(theta_m); a scalar, with answers (t, q)."""
        if self.soft_weights is None or not self.learns_from(tasks):
            return super().loss(tasks, answers)
        chosen = self._latest(tasks, self.judged(tasks))
        final = last(self._of_last_stage(tasks, chosen), self.first(tasks))
        return query_loss(final.logits(tasks.query), answers) + self._loss_of_weights(tasks, answers, chosen)

    def loss_of_weights(self, tasks: Tasks, answers: Tensor) -> Tensor:
        """L_Q(theta_m) alone, which only the soft weighting network feels; 0 where there is none."""
        if self.soft_weights is None:
            return tasks.query.new_zeros(())
        return self._loss_of_weights(tasks, answers, self._latest(tasks, self.judged(tasks)))

    def evidence(self, tasks: Tasks) -> dict[str, Tensor]:
        """What was thought of unlabelled images, (t, u) each; nothing where none is learned from.

        See :func:`~.pseudo_labels.reported`: set 0 is judged by the head that a few steps on the support have made,
        set k by the head that stage k has made. ``soft_weights``, if any, are those of the pseudo-class.
        """
        if tasks.unlabelled is None or not self.learns_from(tasks):
            return {}
        found = reported(self.judged(tasks))
        if (weights := self._weights(tasks, tasks.unlabelled)) is not None:
            found["soft_weights"] = weights.detach().gather(2, found["pseudo_labels"].unsqueeze(2)).squeeze(2)
        return found

    def learns_from(self, tasks: Tasks) -> bool:
        """Whether there are unlabelled images, and steps on them."""
        return tasks.unlabelled is not None and tasks.unlabelled.shape[1] > 0 and self.retraining > 0

    @torch.no_grad()
    def judged(self, tasks: Tasks) -> list[Judged]:
        """What the model of each stage said of its subset, and what it kept of it for the next."""
        pool, support = self._pool(tasks), self.support(tasks)
        stages = 1 if self.training else min(self.stages, pool.shape[1])
        keep = self.keep if self.hard and (self.select_in_training or not self.training) else None
        places = torch.arange(pool.shape[1], device=pool.device)
        rates, scale = [self.rate] * self.pseudo_steps, self.loss_scale(tasks)
        first = self.first(tasks)
        head = last(descend(first, support, tasks.targets, rates, scale=scale), first)
        judged = [judge(head, pool, places[::stages], keep)]
        for stage in range(1, stages):
            chosen = self._latest(tasks, judged)
            weights = self._weights(tasks, chosen.features)
            head = last(self._stage(tasks, chosen, weights, self.stage_steps), first)
            judged.append(judge(head, pool, places[stage::stages], keep))
        return judged

    def _pool(self, tasks: Tasks) -> Tensor:
        """Features (t, u, d) of the unlabelled images, as the steps see them."""
        assert tasks.unlabelled is not None  # see learns_from
        return tasks.unlabelled.detach() if self.detach_support else tasks.unlabelled

    def _latest(self, tasks: Tasks, judged: list[Judged]) -> PseudoLabelled:
        """What the stage after these learns from."""
        return gathered(self._pool(tasks), judged if self.mixing else judged[-1:], tasks.old + tasks.ways)

    def _weights(self, tasks: Tasks, features: Tensor) -> Tensor | None:
        """Soft weights (t, n, ways) of images (t, n, d); None if not soft."""
        return None if self.soft_weights is None else self.soft_weights(features, tasks.rows(self.support(tasks)))

    def _of_last_stage(self, tasks: Tasks, chosen: PseudoLabelled) -> Iterator[Head]:
        weights = self._weights(tasks, chosen.features)
        steps = self.steps if self.training else self.test_steps
        return self._stage(tasks, chosen, None if weights is None else weights.detach(), steps)

    def _stage(self, tasks: Tasks, chosen: PseudoLabelled, weights: Tensor | None, steps: int) -> Iterator[Head]:
        """The heads after each of ``steps`` steps from theta', the first m of them on ``chosen`` too."""
        head = self.first(tasks)
        for after in self._retrained(head, tasks, chosen, weights, self.first_order):
            head = after
            yield head
        rates, scale = [self.rate] * (steps - self.retraining), self.loss_scale(tasks)
        support = self.support(tasks)
        yield from descend(head, support, tasks.targets, rates, scale=scale, first_order=self.first_order)

    def _retrained(
        self, head: Head, tasks: Tasks, chosen: PseudoLabelled, weights: Tensor | None, first_order: bool
    ) -> Iterator[Head]:
        scale = self.loss_scale(tasks)
        own = 1 / chosen.mask.sum(1).clamp(min=1).view(-1, 1, 1) if self.scale == "mean" else scale
        rates, support = [self.rate] * self.retraining, self.support(tasks)
        return retrain(
            head, support, tasks.targets, chosen, weights, rates,
            scale=scale, pseudo_scale=own, weigh=self.weigh, first_order=first_order,
        )  # fmt: skip

    def _loss_of_weights(self, tasks: Tasks, answers: Tensor, chosen: PseudoLabelled) -> Tensor:
        """L_Q(theta_m), where all but the soft weights is constant."""
        tasks = tasks._replace(support=tasks.support.detach(), query=tasks.query.detach())
        chosen = chosen._replace(features=chosen.features.detach())
        start = self.first(tasks)
        first = start._replace(weight=start.weight.detach(), bias=start.bias.detach())
        heads = self._retrained(first, tasks, chosen, self._weights(tasks, chosen.features), first_order=False)
        return query_loss(last(heads, first).logits(tasks.query), answers)
