"""Would more pictures help? Accuracy by the number of training pictures, and what it says of more of them."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontool.evaluation.metrics import Interval
from visiontool.progress import silent
from visiontool.searching.trials import FOLDS
from visiontool.training.cross_validation import cross_validate
from visiontool.training.embed_dataset import EmbeddedDataset
from visiontool.training.settings import Settings

SHARES = (0.1, 0.2, 0.4, 0.7, 1.0)  # of the training pictures
COST = sum(SHARES)  # in trials, at most
TIMES = (1, 2, 4)  # as many pictures, which are forecast
_RESAMPLES = 200
_EXPONENTS = np.geomspace(0.1, 2.0, 30)


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
    right = []
    for share in SHARES:
        judged, probabilities = cross_validate(settings, FOLDS, embedded, train, silent, share)
        right.append(probabilities.argmax(axis=1) == embedded.class_ids[judged])
    class_ids, groups, rows = embedded.class_ids[judged], embedded.groups[judged], np.stack(right)
    occurring = np.unique(class_ids)
    recall = np.stack([rows[:, class_ids == each].mean(axis=1) for each in occurring])
    pictures = np.array(SHARES) * (1 - 1 / FOLDS) * len(train)
    return LearningCurve(
        tuple(embedded.data.labels[each] for each in occurring),
        tuple(round(each) for each in pictures.tolist()),
        tuple(rows.mean(axis=1).tolist()),
        tuple(map(tuple, recall.tolist())),
        tuple(_forecast(times, times * len(train), pictures, rows, recall, groups) for times in TIMES),
    )


def _forecast(
    times: int,
    at: int,
    pictures: NDArray[np.float64],
    right: NDArray[np.bool_],
    recall: NDArray[np.float64],
    groups: NDArray[np.int64],
) -> Forecast:
    error, exponent = _extrapolated(pictures, 1 - right.mean(axis=1), at)
    _, group = np.unique(groups, return_inverse=True)
    random, drawn = np.random.default_rng(0), []
    for _ in range(_RESAMPLES):
        weights = np.bincount(random.integers(0, group.max() + 1, group.max() + 1), minlength=group.max() + 1)[group]
        drawn.append(_extrapolated(pictures, 1 - right @ weights / weights.sum(), at)[0])
    low, high = np.quantile(drawn, (0.025, 0.975))
    per_class = tuple(1 - _extrapolated(pictures, 1 - each, at, exponent)[0] for each in recall)
    return Forecast(times, 1 - error, Interval(1 - float(high), 1 - float(low)), per_class)


def _extrapolated(
    pictures: NDArray[np.float64], errors: NDArray[np.float64], at: int, exponent: float | None = None
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
