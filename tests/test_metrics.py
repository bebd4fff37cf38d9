"""Metrics against a matrix worked out by hand."""

import pytest

from mnemo import metrics
from mnemo.record import Accuracies

MATRIX = [[90.0, None, None], [60.0, 80.0, None], [70.0, 50.0, 95.0]]


def test_by_hand():
    assert metrics.average_incremental_accuracy([90, 70, 65]) == 75
    assert metrics.forgetting_rate(MATRIX) == 20  # 90 - 70: after the first phase minus after the last
    # maximum before the last phase minus the last: 90 - 70 and 80 - 50
    assert metrics.average_forgetting(MATRIX) == 25


def test_the_best_is_taken_over_earlier_phases():
    matrix = [[60.0, None, None], [90.0, 80.0, None], [70.0, 85.0, 95.0]]
    assert metrics.forgetting_rate(matrix) == -10
    assert metrics.average_forgetting(matrix) == (20 - 5) / 2


def test_one_phase_forgets_nothing():
    assert metrics.average_forgetting([[90.0]]) == 0
    assert metrics.forgetting_rate([[90.0]]) == 0


def test_holes_and_emptiness_are_refused():
    with pytest.raises(ValueError, match="hole"):
        metrics.average_forgetting([[90.0, None], [None, 80.0]])
    with pytest.raises(ValueError, match="no phase"):
        metrics.average_incremental_accuracy([])


def test_a_record_grows_row_by_row():
    accuracies = Accuracies()
    for row, over_all in (([90.0], 90.0), ([60.0, 80.0], 65.0), ([70.0, 50.0, 95.0], 68.0)):
        accuracies = accuracies.with_row(row, over_all, phases=3)
    assert accuracies.accuracy == MATRIX
    assert accuracies.phase_accuracy == [90.0, 65.0, 68.0]
    assert accuracies.average_incremental_accuracy == pytest.approx(223 / 3)
    assert (accuracies.forgetting_rate, accuracies.average_forgetting) == (20, 25)
