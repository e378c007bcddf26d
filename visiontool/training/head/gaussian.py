"""Linear discriminant analysis: a Gaussian for each class around its mean, all with the same, shrunk covariance."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from visiontool.training.head.logistic import Linear

_ROWS = 8192  # at a time, so that float64 copies stay small
_LEAST = 1e-6  # of the variance between classes; where there is less inside them, that between them is taken


def fit(
    features: NDArray[np.float32],
    class_ids: NDArray[np.int64],
    weights: NDArray[np.float64],
    shrinkages: Sequence[float],
    log_prior: NDArray[np.float64],
    width: int,
) -> Iterator[Linear]:
    """The heads of those shrinkages. Bounded memory: some R x R numbers beside the features.

    The covariance is (1 - shrinkage) x the one inside the classes + shrinkage x its mean variance.

    Args:
        features: (N, R), exactly those of a space of `width` dimensions, rotated.
        weights: (N,) of the rows.
        log_prior: (C,) logarithms of the classes' shares.
        width: D >= R; in the others of the D directions the features do not vary.

    Source: Friedman 1989, "Regularized discriminant analysis", equation 18 with a pooled covariance; scikit-learn's
        LinearDiscriminantAnalysis(solver="lsqr", shrinkage=...) gives the same.
    """
    from scipy.linalg import solve
    from scipy.sparse import csr_array

    n_classes, total = len(log_prior), weights.sum()
    of_class = csr_array((weights, (class_ids, np.arange(len(features)))), (n_classes, len(features)))
    means = sum(of_class[:, rows] @ features[rows].astype(np.float64) for rows in blocks(len(features)))
    means /= np.bincount(class_ids, weights, n_classes)[:, None]
    covariance = np.zeros((features.shape[1],) * 2)
    for rows in blocks(len(features)):
        residuals = (features[rows] - means[class_ids[rows]]) * np.sqrt(weights[rows, None] / total)
        covariance += residuals.T @ residuals
    inside, between = np.trace(covariance), np.sum((means - means.mean(axis=0)) ** 2) / n_classes
    variance = (inside if inside > _LEAST * between else between or 1.0) / width
    for shrinkage in shrinkages:
        shrunk = (1 - shrinkage) * covariance
        shrunk[np.diag_indices_from(shrunk)] += shrinkage * variance
        weight = solve(shrunk, means.T, assume_a="pos", overwrite_a=True).T
        yield Linear(weight, log_prior - np.sum(weight * means, axis=1) / 2)


def blocks(count: int) -> Iterator[slice]:
    return (slice(first, first + _ROWS) for first in range(0, count, _ROWS))
