"""Metrics, worked out by hand and compared with scikit-learn's."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from visiontool.evaluation.metrics import calibration_error, difference, measure, wilson

_MACRO = {"average": "macro", "zero_division": 0}


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
    got = measure(_one_hot([0, 0, 1, 1, 1, 0], 3), truth, ["ant", "bee", "cat"], np.arange(6))
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
    assert got.top5 == 1.0
    assert got.nll == pytest.approx(-np.log(np.finfo(float).eps) * 2 / 6)  # finite where a certain answer is wrong
    assert json.loads(json.dumps(got.to_json()))["confusion"] == got.confusion.tolist()


@settings(deadline=None)
@given(st.integers(2, 8), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_agrees_with_scikit_learn(classes: int, pictures: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.full(classes, 0.3), pictures)
    truth = random.integers(0, classes, pictures)
    got = measure(probabilities, truth, [str(n) for n in range(classes)], np.arange(pictures))
    predicted, numbers, occurring = probabilities.argmax(axis=1), range(classes), np.unique(truth)
    assert got.accuracy == pytest.approx(oracle.accuracy_score(truth, predicted))
    assert got.confusion.tolist() == oracle.confusion_matrix(truth, predicted, labels=numbers).tolist()
    assert got.balanced_accuracy == pytest.approx(oracle.recall_score(truth, predicted, labels=occurring, **_MACRO))
    for average in ("macro", "weighted"):
        theirs = oracle.precision_recall_fscore_support(
            truth, predicted, labels=occurring, average=average, zero_division=0
        )
        ours = [getattr(got, f"{average}_{name}") for name in ("precision", "recall", "f1")]
        assert ours == pytest.approx(theirs[:3])
    assert got.nll == pytest.approx(oracle.log_loss(truth, probabilities, labels=numbers))
    of_classes = probabilities if classes > 2 else probabilities[:, 1]
    assert got.brier == pytest.approx(oracle.brier_score_loss(truth, of_classes, labels=numbers))
    top5 = oracle.top_k_accuracy_score(truth, probabilities, k=5, labels=numbers) if classes > 5 else 1.0
    assert got.top5 == pytest.approx(top5)


def test_calibration_of_a_truth_drawn_from_the_probabilities() -> None:
    random = np.random.default_rng(1)
    probabilities = random.dirichlet(np.full(8, 0.3), 4000)
    truth = np.array([random.choice(8, p=p) for p in probabilities])
    assert measure(probabilities, truth, [str(n) for n in range(8)], np.arange(4000)).ece < 0.03


def test_intervals_by_resampling() -> None:
    random = np.random.default_rng(2)
    probabilities = random.dirichlet(np.full(3, 0.5), 400)
    truth = np.array([random.choice(3, p=p) for p in probabilities])
    alone = measure(probabilities, truth, ["a", "b", "c"], np.arange(400))
    assert set(alone.intervals) == {"accuracy", "top5", "nll", "brier", "balanced_accuracy", "macro_f1"}
    assert alone.intervals["accuracy"] == alone.interval == wilson(round(400 * alone.accuracy), 400)
    assert all(low <= getattr(alone, name) <= high for name, (low, high) in alone.intervals.items())
    # Each picture four times says no more than once: with groups the intervals stay, without they would be half.
    groups = np.repeat(np.arange(400), 4)
    again = measure(np.repeat(probabilities, 4, axis=0), np.repeat(truth, 4), ["a", "b", "c"], groups)
    assert again.interval == pytest.approx(alone.interval, abs=0.01)
    assert again.intervals["macro_f1"] == pytest.approx(alone.intervals["macro_f1"], abs=0.005)


def test_two_models_on_the_same_pictures() -> None:
    # 15 that A alone has right and 5 that B alone has: twice the binomial tail of 15 and more of 20 is 0.0414.
    a = np.array([True] * 15 + [False] * 5 + [True] * 80)
    b = np.array([False] * 15 + [True] * 5 + [True] * 80)
    got = difference("a", "b", a, b, np.arange(100))
    assert (got.only_a, got.only_b, got.accuracy) == (15, 5, pytest.approx(0.1))
    assert got.p_value == pytest.approx(0.0414, abs=1e-4)
    assert got.is_real
    assert got.interval == pytest.approx((0.01, 0.19), abs=0.015)  # 0.1 -+ 1.96 sqrt(0.2 - 0.01) / 10
    assert not difference("a", "b", a, b, np.arange(100) // 20).is_real  # of five groups only one speaks for A
    assert difference("a", "b", a, a, np.arange(100)).p_value == 1.0


def test_a_class_without_pictures_is_left_out_of_the_means() -> None:
    got = measure(_one_hot([0, 1, 2], 4), np.array([0, 1, 1]), ["a", "b", "nowhere", "nothing"], np.arange(3))
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
