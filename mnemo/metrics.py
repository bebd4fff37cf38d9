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


def novel_accuracy(row: Sequence[float], counts: Sequence[int]) -> float | None:
    """Accuracy over all test images of the classes that came after phase 0, in %; None where there are none.

    Args:
        row: of the matrix, up to its diagonal: the accuracy on each group of classes seen so far, in %.
        counts: test images of each of these groups.

    Base accuracy, its counterpart in the few-shot literature, is the first of the row.
    """
    if len(row) < 2:
        return None
    return sum(a * n for a, n in zip(row[1:], counts[1:], strict=True)) / sum(counts[1:])


def harmonic_mean(base: float, novel: float) -> float:
    """Of base and novel accuracy, in %: near the lower one, and 0 where one of them is 0."""
    return 2 * base * novel / (base + novel) if base + novel else 0.0


def performance_drop(phase_accuracy: Sequence[float]) -> float:
    """Accuracy after phase 0 minus accuracy after the last phase, each over all classes seen by then, in points.

    Of few-shot class-incremental learning (CEC, Zhang et al., CVPR 2021). Other than forgetting, it grows with the
    number of classes to tell apart too. Raises ValueError if empty.
    """
    if not phase_accuracy:
        raise ValueError("no phase has been evaluated")
    return phase_accuracy[0] - phase_accuracy[-1]
