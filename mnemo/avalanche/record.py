"""run.json of an Avalanche run."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import avalanche
import torch

from .. import machine
from ..disk.files import InputError
from ..experiment import memory_state
from ..record import Accuracies, ExemplarHistory, ExemplarState, Run
from .buffer import MnemonicsBuffer

ACCURACY = re.compile(r"Top1_Acc_Exp/eval_phase/test_stream(?:/Task\d+)?/Exp(\d+)")


class Recorder:
    """Makes the record of a run from what ``strategy.eval`` returns, experience by experience::

        recorder = Recorder("naive + mnemonics", "digits", benchmark.train_stream, benchmark.test_stream, seed=1)
        for index, experience in enumerate(benchmark.train_stream):
            strategy.train(experience)
            recorder.note(strategy.eval(benchmark.test_stream[: index + 1]), buffer)
        mnemo.record.save(recorder.run, folder / "run.json")

    The strategy's evaluator needs ``accuracy_metrics(experience=True)``. The accuracy after a phase is over all test
    images of the classes seen so far; Avalanche's ``StreamAccuracy`` would also be that if it were evaluated so.

    Args:
        strategy, protocol: names, for the report.
        train, test: the benchmark's streams.
        seed: of the run.
        settings: of the strategy, for the report.
        class_names: in the order of Avalanche's labels; None: the labels.
        device: where the strategy trains.

    Attributes:
        run: the record so far.
    """

    def __init__(
        self,
        strategy: str,
        protocol: str,
        train: Sequence[Any],
        test: Sequence[Any],
        *,
        seed: int,
        settings: Mapping[str, Any] | None = None,
        class_names: Sequence[str] | None = None,
        device: str = "cpu",
    ) -> None:
        groups = [sorted({int(label) for label in experience.dataset.targets}) for experience in train]
        order = [label for group in groups for label in group]
        names = [str(label) for label in range(max(order) + 1)] if class_names is None else list(class_names)
        self._counts = [len(experience.dataset) for experience in test]
        self.run = Run(
            strategy=strategy,
            protocol=protocol,
            config={"protocol": {"experiences": len(groups)}, "strategy": dict(settings or {})},
            seed=seed,
            class_order=order,
            class_names=names,
            phase_classes=groups,
            device=device,
            hardware=machine.hardware(torch.device(device)),
            versions=machine.versions() | {"avalanche-lib": avalanche.__version__},
        )

    def note(self, results: Mapping[str, Any], buffer: MnemonicsBuffer | None = None) -> None:
        """Add a phase.

        Args:
            results: what ``strategy.eval(test_stream[: k + 1])`` returned after experience k, counted from 0.
            buffer: the exemplars as they are now; None where there are none, or others.

        Raises:
            InputError: the accuracy on one of these experiences is not among the results.
        """
        seen = len(self.run.accuracy) + 1
        row = _accuracies(results, seen)
        over_all = sum(a * n for a, n in zip(row, self._counts, strict=False)) / sum(self._counts[:seen])
        earlier = self.run.by_classifier.get("head", Accuracies())
        accuracies = earlier.with_row(row, over_all, len(self._counts), self._counts[:seen])
        state = ExemplarState() if buffer is None else memory_state(buffer.memory)
        history = ExemplarHistory(**state.model_dump(), phases=[*self.run.exemplars.phases, state])
        complete = seen == len(self._counts)
        changed = {"by_classifier": {"head": accuracies}, "exemplars": history, "complete": complete}
        self.run = self.run.model_copy(update={**dict(accuracies), **changed})


def _accuracies(results: Mapping[str, Any], experiences: int) -> list[float]:
    """In %, of the first ``experiences``."""
    named = ((ACCURACY.fullmatch(name), value) for name, value in results.items())
    found = {int(match[1]): 100 * float(value) for match, value in named if match}
    if not found.keys() >= set(range(experiences)):
        raise InputError("no accuracy for each experience so far: give the evaluator accuracy_metrics(experience=True)")
    return [found[index] for index in range(experiences)]
