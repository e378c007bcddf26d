"""Weights and stackers: what must be true of them whatever the models answer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from visiontool import DataError
from visiontool.evaluation.ensembling import fit


def answers(seed, members=3, pictures=60, classes=4):
    """Probabilities of models, the first ones better, and the true classes."""
    random = np.random.default_rng(seed)
    class_ids = random.integers(0, classes, pictures)
    logits = random.normal(0, 1, (members, pictures, classes))
    for number, each in enumerate(logits):
        each[np.arange(pictures), class_ids] += random.uniform(0, 3) / (number + 1)
    powers = np.exp(logits)
    return [*(powers / powers.sum(axis=2, keepdims=True))], class_ids


def judged(probabilities, class_ids):
    wrong = int((probabilities.argmax(axis=1) != class_ids).sum())
    return wrong, -np.log(probabilities[np.arange(len(class_ids)), class_ids]).mean()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["average", "vote", "weighted", "greedy"]), st.integers(2, 4))
def test_weights_are_on_the_simplex_and_not_worse_than_what_they_began_with(seed, kind, members):
    probabilities, class_ids = answers(seed, members)
    combination = fit(kind, probabilities, class_ids)
    weights = np.array(combination.weights)
    assert weights.shape == (members,)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1)
    mixed = np.tensordot(weights, np.stack(probabilities), 1)
    if kind == "greedy":
        assert judged(mixed, class_ids) <= min(judged(each, class_ids) for each in probabilities)
    elif kind == "weighted":
        of_truth = np.stack(probabilities)[:, np.arange(len(class_ids)), class_ids]
        sum_is_1 = {"type": "eq", "fun": lambda w: w.sum() - 1}
        best = minimize(
            lambda w: -np.log(np.maximum(w @ of_truth, 1e-30)).mean(),
            np.full(members, 1 / members),
            bounds=[(0, 1)] * members,
            constraints=sum_is_1,
        )
        assert judged(mixed, class_ids)[1] <= best.fun + 1e-4
    else:
        assert np.ptp(weights) == 0
    if kind != "vote":
        kept = [(each, weight) for each, weight in zip(probabilities, weights, strict=True) if weight > 0]
        logits = type(combination)(kind, [w for _, w in kept]).logits([each for each, _ in kept])
        assert np.exp(logits) == pytest.approx(mixed)


def test_votes_are_counted_and_the_mean_orders_those_that_are_equal():
    probabilities = [np.array([[0.6, 0.4, 0.0]]), np.array([[0.1, 0.9, 0.0]]), np.array([[0.3, 0.3, 0.4]])]
    logits = fit("vote", probabilities, np.array([1])).logits(probabilities)
    assert np.exp(logits) == pytest.approx(np.full((1, 3), 1 / 3), abs=1e-3)
    assert np.argsort(-logits[0]).tolist() == [1, 0, 2]


@pytest.mark.parametrize("classes", [2, 3])
def test_a_stacker_learns_which_model_knows_which_class(classes):
    random = np.random.default_rng(0)
    class_ids = np.repeat(np.arange(classes), 60)
    right = np.full((len(class_ids), classes), 0.1 / (classes - 1))
    right[np.arange(len(class_ids)), (class_ids + 1) % classes] = 0.9  # always the class after the true one
    noise = random.dirichlet(np.ones(classes), len(class_ids))
    stacker = fit("stacking", [right, noise], class_ids)
    assert np.exp(stacker.logits([right, noise])).sum(axis=1) == pytest.approx(1)
    assert (stacker.logits([right, noise]).argmax(axis=1) == class_ids).all()


def test_what_cannot_be_fitted_says_why():
    probabilities, _ = answers(0)
    with pytest.raises(DataError, match="(?s)50 pictures or more.*fewest here are 9.*--ensemble weighted"):
        fit("stacking", probabilities, np.repeat([0, 1, 2, 3], [17, 17, 17, 9]))
