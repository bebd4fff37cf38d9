"""What happens to exemplars in a phase: they are optimised, tried against what they were, and adjusted later."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import distributed
from ..images import Images
from ..memory import ExemplarMemory, ranks, stored
from ..stages import Once, Situation
from .pixels import Objective, PixelLoop, Pixels, PixelSteps, class_balanced
from .rehearsal import Rehearsal


@dataclass(frozen=True)
class Optimise:
    """Optimise the present phase's exemplars on its images; the memory must hold them already.

    An epoch takes every exemplar once, and as many random images as that needs: of those held out of training where
    there are any. A class of which all images are kept, as few-shot phases have them, is left as it is.

    Attributes:
        objective: what they are optimised for.
        settings: how they are moved.
        name: see :class:`mnemo.stages.Stage`.
    """

    objective: Objective
    settings: PixelSteps = PixelSteps()
    name: str = "optimise"

    def begin(self, situation: Situation) -> PixelLoop | None:
        """See :class:`mnemo.stages.Stage`."""
        exemplars, phase, settings = situation.memory.images, situation.phase, self.settings
        if exemplars is None or not settings.exemplar_epochs:
            return None
        where = _last_in_rank(exemplars.labels, settings.optimised_share)
        where = where[(exemplars.labels >= phase.first_label)[where] & _stand_for_others(situation.memory)[where]]
        stood_for = phase.train if situation.held_out is None else situation.held_out

        def pairs(pixels: Pixels, generator: torch.Generator) -> Iterator[tuple[Tensor, Images]]:
            for batch in class_balanced(pixels.labels, settings.exemplar_batch, generator):
                query = torch.randint(len(stood_for), (settings.outer_batch,), generator=generator)
                yield batch, stood_for.select(query.to(stood_for.labels.device))

        if not len(where):
            return None
        gradient = self.objective.begin(situation, self.name)
        return PixelLoop(settings.exemplar_epochs, settings, situation, where, pairs, gradient)

    def work(self, phase: int, images: int, new: int, old: int) -> float:
        """See :class:`mnemo.stages.Stage`."""
        return _work(self.objective, self.settings, self.settings.exemplar_epochs, new)


@dataclass(frozen=True)
class Adjust:
    """Adjust the exemplars of older classes: half A learns so as to do well on half B, and B so as to do well on A.

    Mnemonics, equation 10. The halves are the even and the odd ranks of each class; a class with one exemplar left is
    in A only. An epoch moves A and then B once. Classes of which all images are kept are in neither.

    Attributes:
        objective, settings, name: see :class:`Optimise`.
    """

    objective: Objective
    settings: PixelSteps = PixelSteps()
    name: str = "adjust"

    def begin(self, situation: Situation) -> PixelLoop | None:
        """See :class:`mnemo.stages.Stage`."""
        exemplars, settings = situation.memory.images, self.settings
        if exemplars is None or not settings.adjust_epochs:
            return None
        older = exemplars.labels < situation.phase.first_label
        where = (older & _stand_for_others(situation.memory)).nonzero().squeeze(1)
        half = ranks(exemplars.labels)[where] % 2
        a, b = ((half == which).nonzero().squeeze(1) for which in (0, 1))

        def pairs(pixels: Pixels, generator: torch.Generator) -> Iterator[tuple[Tensor, Images]]:
            for mine, others in ((a, b), (b, a)):
                for batch in class_balanced(pixels.labels[mine], settings.exemplar_batch, generator):
                    yield mine[batch], pixels.sample(others, settings.outer_batch, generator)

        if not len(b):
            return None
        gradient = self.objective.begin(situation, self.name)
        return PixelLoop(settings.adjust_epochs, settings, situation, where, pairs, gradient)

    def work(self, phase: int, images: int, new: int, old: int) -> float:
        """See :class:`mnemo.stages.Stage`."""
        return _work(self.objective, self.settings, self.settings.adjust_epochs, old)


def _stand_for_others(memory: ExemplarMemory) -> Tensor:
    """For each exemplar whether there were other images of its class, (n,)."""
    assert memory.images is not None
    return ~torch.isin(memory.images.labels, memory.whole.to(memory.images.labels.device))


def _last_in_rank(labels: Tensor, share: float) -> Tensor:
    """Of sorted labels (n,), the positions of the last ``share`` of each class, at least one of each."""
    of_class = torch.bincount(labels)[labels]
    stay = ((1 - share) * of_class + 1e-6).floor()  # 1 - 0.9 is a little less than 0.1
    return (ranks(labels) >= stay).nonzero().squeeze(1)


def _work(objective: Objective, settings: PixelSteps, epochs: int, exemplars: int) -> float:
    updates = -(-exemplars // settings.exemplar_batch)
    return epochs * updates * objective.work(min(exemplars, settings.exemplar_batch), settings.outer_batch)


@dataclass(frozen=True)
class Accept:
    """Keep the phase's optimised exemplars only where they win a whole rehearsal against what they were.

    The rehearsal is the strategy's next phase, played ``runs`` times with either set of exemplars and the same seeds;
    both accuracies are shown. Where the optimised ones do not win, the real images that they were are stored again.

    Attributes:
        rehearsal: the next phase.
        runs: seeds.
        name: see :class:`mnemo.stages.Stage`.
    """

    rehearsal: Rehearsal
    runs: int = 2
    name: str = "accept"

    def begin(self, situation: Situation) -> "Acceptance | None":
        """See :class:`mnemo.stages.Stage`."""
        return None if situation.memory.originals is None else Acceptance(self, situation)

    def work(self, phase: int, images: int, new: int, old: int) -> float:
        """See :class:`mnemo.stages.Stage`."""
        return 2 * self.runs * self.rehearsal.work(new + old)


class Acceptance(Once):
    """The loop of :class:`Accept`."""

    def __init__(self, stage: Accept, situation: Situation) -> None:
        self._stage, self._situation = stage, situation

    def epoch(self, index: int, generator: torch.Generator) -> Mapping[str, float]:
        """Accuracies in % with the exemplars as they were and as they are, and 1 where these are kept, else 0."""
        memory, first = self._situation.memory, self._situation.phase.first_label
        assert memory.images is not None
        assert memory.originals is not None
        where = (memory.images.labels >= first).nonzero().squeeze(1)
        before = memory.images.pixels.clone()
        before[where] = stored(memory.codec, Images(memory.originals[where], memory.images.labels[where])).images.pixels
        chosen = self._accuracy(Images(before, memory.images.labels))
        optimised = self._accuracy(memory.images)
        if optimised <= chosen:
            memory.store(where, memory.originals[where].float())
        return {"chosen": chosen, "optimised": optimised, "accepted": float(optimised > chosen)}

    def _accuracy(self, exemplars: Images) -> float:
        rehearse = self._stage.rehearsal.accuracy
        found = [rehearse(self._situation, exemplars, (self._stage.name, run)) for run in range(self._stage.runs)]
        agreed: list[float] = distributed.from_first(torch.tensor(found, dtype=torch.float64)).tolist()
        return sum(agreed) / len(agreed)
