"""Would more pictures help? Accuracy by the number of training pictures, and what it says of more of them."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontool.data.splits import folds
from visiontool.evaluation.metrics import Interval
from visiontool.training.cross_validation import probabilities_of, solve
from visiontool.training.embed_dataset import EmbeddedDataset
from visiontool.training.settings import Settings

SHARES = (0.1, 0.2, 0.4, 0.7, 1.0)  # of the training pictures
COST = sum(SHARES)  # in trials, at most
TIMES = (1, 2, 4)  # as many pictures, which are forecast
_FOLDS, _RESAMPLES = 5, 200
_EXPONENTS = np.geomspace(0.1, 2.0, 30)
_LEAST = 2  # pictures of a class


class Forecast(NamedTuple):
    """What is to be expected of all pictures, or more of them."""

    times: int  # as many pictures for training
    accuracy: float
    interval: Interval  # 95 %
    per_class: tuple[float, ...]  # recall of each class


class LearningCurve(NamedTuple):
    """Accuracy by the number of training pictures, by cross-validation."""

    labels: tuple[str, ...]
    pictures: tuple[int, ...]  # for training, the fewest first
    accuracy: tuple[float, ...]  # with so many
    recall: tuple[tuple[float, ...], ...]  # of each class, with so many
    forecasts: tuple[Forecast, ...]

    def to_json(self) -> dict[str, Any]:
        return self._asdict() | {"forecasts": [one._asdict() for one in self.forecasts]}


def measure(settings: Settings, embedded: EmbeddedDataset) -> LearningCurve:
    """The learning curve of the settings on the pictures for training."""
    train = embedded.indices_of("train")
    fold_of = folds(embedded.class_ids[train], embedded.groups[train], _FOLDS, settings.seed)
    right = np.zeros((len(SHARES), len(train)), np.bool_)
    sizes = np.zeros((len(SHARES), _FOLDS))
    for fold in np.unique(fold_of[fold_of >= 0]).tolist():
        is_out = fold_of == fold
        for number, share in enumerate(SHARES):
            some = _share_of(train[~is_out], embedded, share, settings.seed)
            head = solve(settings, embedded, some).head
            answers = probabilities_of(head, embedded, train[is_out]).argmax(axis=1)
            right[number, is_out] = answers == embedded.class_ids[train[is_out]]
            sizes[number, fold] = len(some)
    judged = train[fold_of >= 0]
    pictures = sizes.sum(axis=1) / np.count_nonzero(sizes, axis=1)
    class_ids, groups, right = embedded.class_ids[judged], embedded.groups[judged], right[:, fold_of >= 0]
    recall = [right[:, class_ids == each].mean(axis=1) for each in np.unique(class_ids)]
    labels = tuple(embedded.data.labels[each] for each in np.unique(class_ids))
    return LearningCurve(
        labels,
        tuple(round(each) for each in pictures.tolist()),
        tuple(right.mean(axis=1).tolist()),
        tuple(tuple(each.tolist()) for each in recall),
        tuple(_forecast(times, len(train), pictures, right, recall, groups) for times in TIMES),
    )


def _share_of(indices: NDArray[np.intp], embedded: EmbeddedDataset, share: float, seed: int) -> NDArray[np.intp]:
    """The first pictures of each class in a drawn order, so that fewer are among more."""
    drawn = np.random.default_rng(seed).permutation(indices)
    ids = embedded.class_ids[drawn]
    parts = [drawn[ids == each] for each in np.unique(ids)]
    return np.concatenate([part[: max(_LEAST, math.ceil(share * len(part)))] for part in parts])


def _forecast(
    times: int,
    count: int,
    pictures: NDArray[np.float64],
    right: NDArray[np.bool_],
    recall: Sequence[NDArray[np.float64]],
    groups: NDArray[np.int64],
) -> Forecast:
    at, errors = float(times * count), 1 - right.mean(axis=1)
    error, exponent = _extrapolated(pictures, errors, at)
    _, group = np.unique(groups, return_inverse=True)
    random, drawn = np.random.default_rng(0), []
    for _ in range(_RESAMPLES):
        weights = np.bincount(random.integers(0, group.max() + 1, group.max() + 1), minlength=group.max() + 1)[group]
        drawn.append(_extrapolated(pictures, 1 - right @ weights / weights.sum(), at)[0])
    low, high = np.quantile(drawn, (0.025, 0.975))
    per_class = tuple(1 - _extrapolated(pictures, 1 - each, at, exponent)[0] for each in recall)
    return Forecast(times, 1 - error, Interval(1 - float(high), 1 - float(low)), per_class)


def _extrapolated(
    pictures: NDArray[np.float64], errors: NDArray[np.float64], at: float, exponent: float | None = None
) -> tuple[float, float]:
    """The error with `at` pictures by the power law a + b / pictures**c, a and b at least 0, and c.

    Source: Cortes et al. 1994, "Learning curves: asymptotic values and rate of convergence", NeurIPS 6; c is searched,
        since least squares with bounds solve a and b at once.
    """
    from scipy.optimize import nnls

    fits = []
    for each in _EXPONENTS if exponent is None else [exponent]:
        terms = np.stack([np.ones_like(pictures), (pictures / pictures[0]) ** -each], axis=1)
        (a, b), distance = nnls(terms, errors)
        fits.append((distance, a + b * (at / pictures[0]) ** -each, each))
    _, error, best = min(fits)
    return min(float(error), 1.0), float(best)
