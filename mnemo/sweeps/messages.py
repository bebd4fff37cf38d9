"""What is told of a run in another process: plain values, since messages travel between processes."""

from dataclasses import dataclass

from ..learner import EpochDone
from ..record import Run


@dataclass(frozen=True)
class Starting:
    """A worker is being started for the run, which takes some seconds."""


@dataclass(frozen=True)
class Started:
    """A worker has begun with the run."""


@dataclass(frozen=True)
class PhaseResult:
    """What one wants to know when a phase has been learnt.

    Attributes:
        phase: counted from 0.
        accuracy: over all classes seen so far, by the strategy's classifier, in %.
        others: the same by other classifiers.
        first_classes: accuracy on the classes of the first phase, in %.
        exemplars: their number.
        moved: how far they are from the images that they started as, in grey levels; None where they are real images.
    """

    phase: int
    accuracy: float
    others: dict[str, float]
    first_classes: float
    exemplars: int
    moved: float | None

    @classmethod
    def of(cls, phase: int, run: Run) -> "PhaseResult":
        """Of the phase that the record of ``run`` ends with."""
        return cls(
            phase=phase,
            accuracy=run.phase_accuracy[-1],
            others={name: a.phase_accuracy[-1] for name, a in run.by_classifier.items() if name != run.classifier},
            first_classes=run.accuracy[-1][0] or 0.0,
            exemplars=run.exemplars.count,
            moved=run.exemplars.rms_displacement,
        )


@dataclass(frozen=True)
class Finished:
    """A run is complete.

    Attributes:
        average: its average incremental accuracy, in %.
        earlier: it was so before anything began.
    """

    average: float
    earlier: bool = False


@dataclass(frozen=True)
class Failed:
    """A worker gave up.

    Attributes:
        line: why.
        trace: where, if nobody foresaw it.
    """

    line: str
    trace: str = ""


Message = Starting | Started | EpochDone | PhaseResult | Finished
"""What is told of a run that goes well."""
