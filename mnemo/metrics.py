"""Accuracy and forgetting, as pure functions of the accuracy matrix.

The matrix holds in row i, column j the accuracy in % after phase i on the test images of the classes that phase j
brought, predicted among all classes seen so far; None above the diagonal.
"""

from collections.abc import Sequence

Matrix = Sequence[Sequence[float | None]]


def _known(value: float | None) -> float:
    if value is None:
        raise ValueError("the accuracy matrix has a hole on or below its diagonal")
    return value


def average_incremental_accuracy(phase_accuracy: Sequence[float]) -> float:
    """Plain mean of the accuracies over all seen classes after each phase, phase 0 included, in %.

    iCaRL (Rebuffi et al., CVPR 2017), section 4; not weighted by the number of classes. Raises ValueError if empty.
    """
    if not phase_accuracy:
        raise ValueError("no phase has been evaluated")
    return sum(phase_accuracy) / len(phase_accuracy)


def forgetting_rate(matrix: Matrix) -> float:
    """What the first phase's classes lost: their accuracy after phase 0 minus after the last phase, in points.

    Mnemonics (Liu et al., CVPR 2020), section 5: lower is better; negative where they gained.
    """
    return _known(matrix[0][0]) - _known(matrix[-1][0])


def average_forgetting(matrix: Matrix) -> float:
    """Mean over all groups but the last of (their best accuracy so far minus their accuracy now), in points.

    Chaudhry et al., ECCV 2018, equation 3, on groups of classes; the best is taken over the phases before the last.
    0 where there is only one phase.
    """
    last = len(matrix) - 1
    drops = [max(_known(matrix[i][j]) for i in range(j, last)) - _known(matrix[last][j]) for j in range(last)]
    return sum(drops) / len(drops) if drops else 0.0
