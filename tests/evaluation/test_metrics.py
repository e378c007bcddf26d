"""Metrics, worked out by hand and compared with scikit-learn's."""

import json

import numpy as np
import pytest
from sklearn import metrics as oracle

from visiontool.evaluation.metrics import calibration_error, measure, wilson


def _one_hot(predicted: list[int], classes: int) -> np.ndarray:
    return np.eye(classes)[predicted]


def test_wilson_interval_of_worked_examples() -> None:
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I, method 3
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    low, high = wilson(29, 29)
    assert low == pytest.approx(0.8830, abs=1e-4)
    assert high == 1.0


def test_counts_and_shares_by_hand() -> None:
    truth = np.array([0, 0, 0, 1, 1, 2])
    got = measure(_one_hot([0, 0, 1, 1, 1, 0], 3), truth, ["ant", "bee", "cat"])
    assert got.pictures == 6
    assert got.accuracy == pytest.approx(4 / 6)
    assert got.balanced_accuracy == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert got.confusion.tolist() == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    ant, bee, cat = got.per_class
    assert (ant.label, ant.pictures) == ("ant", 3)
    assert (ant.recall, ant.precision) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (bee.recall, bee.precision, bee.f1) == (1.0, pytest.approx(2 / 3), pytest.approx(0.8))
    assert (cat.recall, cat.precision, cat.f1) == (0.0, None, 0.0)
    assert got.macro_f1 == pytest.approx((2 / 3 + 0.8 + 0) / 3)
    assert got.top5 is None
    assert got.nll == pytest.approx(-np.log(1e-12) * 2 / 6)  # finite where a certain answer is wrong
    assert json.loads(json.dumps(got.to_json()))["confusion"] == got.confusion.tolist()


def test_agrees_with_scikit_learn() -> None:
    random = np.random.default_rng(1)
    probabilities = random.dirichlet(np.full(8, 0.3), 4000)
    truth = np.array([random.choice(8, p=p) for p in probabilities])
    got = measure(probabilities, truth, [str(n) for n in range(8)])
    predicted = probabilities.argmax(axis=1)
    assert got.accuracy == pytest.approx(oracle.accuracy_score(truth, predicted))
    assert got.balanced_accuracy == pytest.approx(oracle.balanced_accuracy_score(truth, predicted))
    assert got.macro_f1 == pytest.approx(oracle.f1_score(truth, predicted, average="macro"))
    assert got.nll == pytest.approx(oracle.log_loss(truth, probabilities))
    assert got.top5 == pytest.approx(oracle.top_k_accuracy_score(truth, probabilities, k=5))
    assert got.confusion.tolist() == oracle.confusion_matrix(truth, predicted).tolist()
    assert got.ece < 0.03  # the truth was drawn from these probabilities


def test_a_class_without_pictures_is_left_out_of_the_means() -> None:
    got = measure(_one_hot([0, 1, 2], 4), np.array([0, 1, 1]), ["a", "b", "nowhere", "nothing"])
    assert got.classes == 2
    assert got.balanced_accuracy == pytest.approx(0.75)
    assert got.macro_f1 == pytest.approx((1 + 2 / 3) / 2)
    assert (got.per_class[2].pictures, got.per_class[2].recall, got.per_class[2].precision) == (0, None, 0.0)
    assert (got.per_class[3].recall, got.per_class[3].precision, got.per_class[3].f1) == (None, None, None)


def test_calibration_error_of_bins_of_equal_size() -> None:
    # 30 pictures make 15 bins of two: the less certain half is right always, the other half never.
    confidences = np.repeat([0.6, 0.9], 15)
    right = np.repeat([True, False], 15)
    in_mixed_bin = abs(0.75 - 0.5)  # one of each kind
    assert calibration_error(confidences, right) == pytest.approx((14 * 0.4 + 2 * in_mixed_bin + 14 * 0.9) / 30)
    # Two pictures make two bins.
    assert calibration_error(np.array([0.8, 0.7]), np.array([True, False])) == pytest.approx((0.2 + 0.7) / 2)
