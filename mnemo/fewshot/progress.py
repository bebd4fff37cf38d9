"""What the stages of a few-shot run tell while they work."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """Something is done, and the run can be saved now.

    Attributes:
        stage: ``pre-train``, ``meta-train`` or ``evaluate``.
        done, total: epochs, iterations or episodes.
        shown: what there is to show, such as ``loss`` and ``accuracy`` (%).
        already: how much of ``done`` was not done now but in a run that was broken off.
    """

    stage: str
    done: int
    total: int
    shown: dict[str, float] = field(default_factory=dict)
    already: int = 0
