"""The metrics against plain counting, and their refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicnn.errors import DataError
from minicnn.metrics import accuracy, calibration, confusion_matrix, confusions, per_class

pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


@given(pairs)
def test_accuracy_is_the_share_of_equal_labels(both):
    labels, predicted = zip(*both, strict=True)
    assert accuracy(labels, predicted) == pytest.approx(sum(t == p for t, p in both) / len(both))


@given(pairs)
def test_confusion_matrix_counts_each_pair_with_the_truth_in_rows(both):
    labels, predicted = zip(*both, strict=True)
    matrix = confusion_matrix(labels, predicted, 5)
    assert matrix.dtype == np.int64
    assert matrix.tolist() == [[both.count((i, j)) for j in range(5)] for i in range(5)]


@given(pairs)
def test_per_class_agrees_with_the_definitions(both):
    labels, predicted = zip(*both, strict=True)
    for name, got in per_class(labels, predicted, list("abcde")).items():
        i = "abcde".index(name)
        right, called, support = both.count((i, i)), predicted.count(i), labels.count(i)
        precision = right / called if called else 0.0
        recall = right / support if support else 0.0
        f1 = 2 * precision * recall / (precision + recall) if right else 0.0
        assert got == pytest.approx({"precision": precision, "recall": recall, "f1": f1, "support": support})


def test_classes_default_to_the_highest_label_seen():
    assert confusion_matrix([0, 1], [0, 3]).shape == (4, 4)
    assert list(per_class([0, 1], [0, 3])) == ["0", "1", "2", "3"]


def test_small_integer_labels_do_not_overflow():
    labels = np.full(300, 199, np.uint8)
    assert confusion_matrix(labels, labels, 200)[199, 199] == 300


def test_per_class_can_be_written_as_json():
    table = per_class(np.array([0, 1, 1]), np.array([0, 1, 0]), ["bag", "coat"])
    assert json.loads(json.dumps(table)) == table
    assert table["coat"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2}


@pytest.mark.parametrize(
    ("labels", "predicted", "message"),
    [
        ([0, 1], [0], "equal lengths, got 2 and 1"),
        ([], [], "labels: expected class numbers of shape"),
        ([0, 1], [[0.1, 0.9], [0.5, 0.5]], r"predicted: .* got shape \(2, 2\)"),
        ([0.0, 1.0], [0, 1], "labels: expected integer class numbers, got dtype float64"),
        ([0, -1], [0, 1], r"labels\[1\] is -1; expected 0 or more"),
    ],
)
@pytest.mark.parametrize("metric", [accuracy, confusion_matrix, per_class])
def test_wrong_labels_are_refused_by_name(metric, labels, predicted, message):
    with pytest.raises(DataError, match=message):
        metric(labels, predicted)


def test_labels_beyond_the_classes_are_refused():
    with pytest.raises(DataError, match=r"predicted\[1\] is 10; expected 0 to 9 \(10 classes\)"):
        confusion_matrix([1, 2], [1, 10], 10)
    with pytest.raises(DataError, match=r"labels\[0\] is 2; expected 0 to 1"):
        per_class([2], [1], ["bag", "coat"])


def test_a_class_name_given_twice_is_refused():
    with pytest.raises(DataError, match="each name once"):
        per_class([0], [1], ["bag", "bag"])


def test_calibration_of_a_model_that_is_right_as_often_as_it_says_is_zero():
    labels = np.array([0] * 8 + [1] * 2)
    found = calibration(labels, np.tile([0.8, 0.2], (10, 1)), bins=5)
    assert found.error == pytest.approx(0)
    assert found.count.tolist() == [0, 0, 0, 0, 10] and found.accuracy[4] == pytest.approx(0.8)


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 1)), min_size=1, max_size=40
    )
)
def test_calibration_agrees_with_the_definition(drawn):
    labels = np.array([label for label, *_ in drawn])
    probabilities = np.array([numbers for _, *numbers in drawn])
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    bins, expected = {}, 0.0
    for label, row in zip(labels, probabilities, strict=True):
        bins.setdefault(min(int(row.max() * 7), 6), []).append((row.max(), row.argmax() == label))
    for members in bins.values():
        sure, right = np.mean(members, axis=0)
        expected += abs(sure - right) * len(members) / len(labels)
    assert calibration(labels, probabilities, bins=7).error == pytest.approx(expected)


@pytest.mark.parametrize("probabilities", [[0.5, 0.5], [[1.5, -0.5]], [[np.nan, 1.0]]])
def test_calibration_refuses_what_are_not_probabilities(probabilities):
    with pytest.raises(DataError, match="probabilities: expected"):
        calibration([0], probabilities)


def test_confusions_come_most_frequent_first_and_leave_out_what_never_happened():
    matrix = np.array([[5, 2, 0], [7, 1, 2], [0, 0, 9]])
    assert confusions(matrix) == [(1, 0, 7), (0, 1, 2), (1, 2, 2)]
    assert confusions(matrix, 1) == [(1, 0, 7)]
