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
    with pytest.raises(ValueError, match="no phase"):
        metrics.performance_drop([])


def test_base_and_novel_by_hand():
    # 30 of 60 and 9 of 20 images of later classes: 39 of 80
    assert metrics.novel_accuracy([70.0, 50.0, 45.0], counts=[100, 60, 20]) == 48.75
    assert metrics.novel_accuracy([70.0], counts=[100]) is None
    assert metrics.harmonic_mean(60, 30) == 40
    assert metrics.harmonic_mean(0, 30) == metrics.harmonic_mean(0, 0) == 0
    assert metrics.performance_drop([90, 95, 65]) == 25
    assert metrics.performance_drop([90]) == 0


ROWS = (([90.0], 90.0), ([60.0, 80.0], 65.0), ([70.0, 50.0, 95.0], 67.5))  # of 60, 20 and 20 images


def grown(accuracies, rows):
    for row, over_all in rows:
        accuracies = accuracies.with_row(row, over_all, phases=3, counts=[60, 20, 20][: len(row)])
    return accuracies


def test_a_record_grows_row_by_row():
    accuracies = grown(Accuracies(), ROWS)
    assert accuracies.accuracy == MATRIX
    assert accuracies.phase_accuracy == [90.0, 65.0, 67.5]
    assert accuracies.average_incremental_accuracy == pytest.approx(222.5 / 3)
    assert (accuracies.forgetting_rate, accuracies.average_forgetting) == (20, 25)
    assert accuracies.base_accuracy == [90, 60, 70]
    assert accuracies.novel_accuracy == [None, 80, 72.5]
    assert accuracies.harmonic_mean == [None, pytest.approx(480 / 7), pytest.approx(2 * 70 * 72.5 / 142.5)]
    assert accuracies.performance_drop == 22.5


def test_a_run_that_an_older_version_began():
    later = {"base_accuracy", "novel_accuracy", "harmonic_mean", "performance_drop"}
    older = Accuracies.model_validate(grown(Accuracies(), ROWS[:2]).model_dump(exclude=later))
    assert older.novel_accuracy == []
    accuracies = grown(older, ROWS[2:])
    assert accuracies.base_accuracy == [90, 60, 70]
    assert accuracies.novel_accuracy == [None, None, 72.5]
    assert accuracies.performance_drop == 22.5
