"""How models answer best together, found on pictures of known classes."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visiontool.errors import DataError, ModelError
from visiontool.evaluation.evaluate import Evaluation, halves, part
from visiontool.inference.classifier import Classifier
from visiontool.inference.ensemble import LEAST, STACKED_LEAST, Combination, Ensemble, Kind, columns_of

Floats = NDArray[np.float64]

_ROUNDS = 50  # of greedy selection
_STEPS = 1000  # of the weights that minimize the loss
_LEAST_A_CLASS = 50  # pictures for stacking, whose C * (M * C + 1) numbers fit fewer by heart


def fit(kind: Kind, probabilities: Sequence[NDArray[np.floating]], class_ids: NDArray[np.int64]) -> Combination:
    """The combination of that kind that is best for these pictures. Judge it on others.

    Args:
        kind: "average" and "vote" have nothing to fit; "weighted" minimizes the log loss; "greedy" the wrong answers,
            then the log loss; "stacking" is a logistic regression on the logarithms of all probabilities.
        probabilities: (N, C) of each model, its classes in one order (`ensemble.columns_of`).
        class_ids: (N,), the true ones.

    Raises:
        DataError: for stacking fewer than 50 pictures of a class.

    Source: "greedy": Caruana et al. 2004, "Ensemble Selection from Libraries of Models", with replacement.
    """
    stacked = np.stack(probabilities).astype(np.float64)
    weights: Floats = np.full(len(stacked), 1 / len(stacked))
    if kind == "stacking":
        return Combination(kind, tuple(weights.tolist()), _stacker(stacked, class_ids))
    if kind == "weighted":
        of_truth = np.maximum(stacked[:, np.arange(len(class_ids)), class_ids], LEAST)
        for _ in range(_STEPS):  # EM for the shares of a mixture: each step lowers the loss, and they add up to 1
            weights = (weights[:, None] * of_truth / (weights @ of_truth)).mean(axis=1)
        weights[weights < 1e-6] = 0
    elif kind == "greedy":
        weights = _greedy(stacked, class_ids)
    return Combination(kind, tuple((weights / weights.sum()).tolist()))


def ensemble_of(
    kind: Kind, models: Sequence[Classifier], evaluations: Sequence[Evaluation], name: str
) -> tuple[Ensemble, list[Evaluation]]:
    """The ensemble, fitted on half of the pictures; and how its members and, at the end, it do on the other half.

    Raises:
        ModelError: the models know different classes, or one is an ensemble itself.
        DataError: as `fit` and `evaluate.halves`.
    """
    if any(isinstance(model, Ensemble) for model in models):
        raise ModelError("an ensemble's members are single models; name them instead of the ensemble")
    shared = set.intersection(*({sample.path for sample in one.samples} for one in evaluations))
    evaluations = [part(one, np.flatnonzero([each.path in shared for each in one.samples])) for one in evaluations]
    first = evaluations[0]
    given = [one.probabilities[:, columns_of(first.spec, one.spec)] for one in evaluations]
    fitting, judging = halves(first)
    combination = fit(kind, [each[fitting] for each in given], first.class_ids[fitting])
    ensemble = Ensemble(models, combination, name)
    probabilities = np.exp(combination.logits(given)).astype(np.float32)
    kept = [one for one, weight in zip(evaluations, combination.weights, strict=True) if weight > 0]
    size_bytes, latency_ms = sum(one.size_bytes for one in kept), sum(one.latency_ms or 0.0 for one in kept)
    costs: dict[str, Any] = {"size_bytes": size_bytes, "latency_ms": latency_ms}
    together = replace(first, spec=ensemble.spec, path=ensemble.path, probabilities=probabilities, **costs)
    return ensemble, [part(one, judging) for one in (*evaluations, together)]


def _greedy(stacked: Floats, class_ids: NDArray[np.int64]) -> Floats:
    """How often each model is taken: in each round the one that helps most, and of all rounds the best."""

    def loss(mean: Floats) -> tuple[int, float]:
        of_truth = np.maximum(mean[np.arange(len(class_ids)), class_ids], LEAST)
        return int((mean.argmax(axis=1) != class_ids).sum()), float(-np.log(of_truth).mean())

    total, taken, rounds = np.zeros(stacked.shape[1:]), np.zeros(len(stacked)), []
    for number in range(1, _ROUNDS + 1):
        least, winner = min((loss((total + one) / number), index) for index, one in enumerate(stacked))
        total += stacked[winner]
        taken[winner] += 1
        rounds.append((least, number, taken.copy()))
    return min(rounds)[2]


def _stacker(stacked: Floats, class_ids: NDArray[np.int64]) -> tuple[Floats, Floats]:
    classes = stacked.shape[2]
    if (fewest := int(np.bincount(class_ids, minlength=classes).min())) < _LEAST_A_CLASS:
        raise DataError(
            f"--ensemble stacking is fitted on {_LEAST_A_CLASS} pictures or more of each class of the models; "
            f"the fewest here are {fewest}.\nTake more, or --ensemble weighted, which needs few."
        )
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        features = np.concatenate([*np.log(np.maximum(stacked, STACKED_LEAST))], axis=1)
        model = LogisticRegression(max_iter=1000).fit(features, class_ids)
    coefficients, intercept = model.coef_, model.intercept_
    if classes == 2:  # one row for the second class against the first
        coefficients, intercept = (np.concatenate([-values, values]) / 2 for values in (coefficients, intercept))
    return coefficients, intercept
