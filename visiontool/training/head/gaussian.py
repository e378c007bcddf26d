"""Linear discriminant analysis: a Gaussian for each class around its mean, all with the same, shrunk covariance."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontool.training.head.logistic import Linear

_ROWS = 8192  # at a time, so that float64 copies stay small
_LEAST = 1e-6  # of the variance between classes; where there is less inside them, that between them is taken


class Statistics(NamedTuple):
    """What linear discriminant analysis knows of a set of pictures."""

    sizes: NDArray[np.float64]  # (C,) pictures of each class, or the sum of their weights; may be 0
    means: NDArray[np.float64]  # (C, R)
    scatter: NDArray[np.float64]  # (R, R) inside the classes: their covariance times the number of pictures

    @classmethod
    def of(
        cls, features: NDArray[np.float32], class_ids: NDArray[np.int64], weights: NDArray[np.float64], n_classes: int
    ) -> "Statistics":
        """Those of features (N, R) with weights (N,). Bounded memory: some R x R numbers beside the features."""
        from scipy.sparse import csr_array

        sizes = np.bincount(class_ids, weights, n_classes).astype(np.float64)
        of_class = csr_array((weights, (class_ids, np.arange(len(features)))), (n_classes, len(features)))
        means, scatter = np.zeros((n_classes, features.shape[1])), np.zeros((features.shape[1],) * 2)
        for rows in _blocks(len(features)):
            means += of_class[:, rows] @ features[rows].astype(np.float64)
        means /= np.where(sizes > 0, sizes, 1.0)[:, None]
        for rows in _blocks(len(features)):
            residuals = (features[rows] - means[class_ids[rows]]) * np.sqrt(weights[rows, None])
            scatter += residuals.T @ residuals
        return cls(sizes, means, scatter)

    def merged(self, other: "Statistics") -> "Statistics":
        """Those of both sets of pictures, where `other` may have more classes, behind those of this one.

        Source: Chan, Golub and LeVeque 1979, "Updating formulae [...] for computing sample variances", equation 2.1.
        """
        more = len(other.sizes) - len(self.sizes)
        sizes, means = np.pad(self.sizes, (0, more)), np.pad(self.means, ((0, more), (0, 0)))
        share = (other.sizes / np.maximum(sizes + other.sizes, 1e-300))[:, None]  # a class may be in neither
        apart = other.means - means
        between = apart * np.sqrt(sizes[:, None] * share)
        return Statistics(
            sizes + other.sizes, means + share * apart, self.scatter + other.scatter + between.T @ between
        )

    def heads(self, shrinkages: Sequence[float], width: int, *, is_balanced: bool) -> Iterator[Linear]:
        """The heads of those shrinkages.

        The covariance is (1 - shrinkage) x the one inside the classes + shrinkage x its mean variance.

        Args:
            width: D >= R of the space that the features were rotated in; they vary in no other of its D directions.
            is_balanced: whether classes count the same, whatever their sizes.

        Source: Friedman 1989, "Regularized discriminant analysis", equation 18 with a pooled covariance; scikit-learn's
            LinearDiscriminantAnalysis(solver="lsqr", shrinkage=...) gives the same.
        """
        means, total = self.means, self.sizes.sum()
        log_prior = np.zeros(len(means)) if is_balanced else np.log(self.sizes / total)
        center = self.sizes @ means / total  # around it logits are small, and so is their rounding
        inside, between = np.trace(self.scatter) / total, np.sum((means - means.mean(axis=0)) ** 2) / len(means)
        variance = (inside if inside > _LEAST * between else between or 1.0) / width
        for weight in solutions(self.scatter / total, variance, shrinkages, (means - center).T):
            yield Linear(weight, log_prior - np.sum(weight * (means + center), axis=1) / 2)


def solutions(
    covariance: NDArray[np.float64], variance: float, shrinkages: Sequence[float], towards: NDArray[np.floating]
) -> Iterator[NDArray[np.float64]]:
    """(C, R) for each shrinkage: towards (R, C) by the inverse of the shrunk covariance."""
    from scipy.linalg import cho_factor, cho_solve

    for shrinkage in shrinkages:
        shrunk = (1 - shrinkage) * covariance
        shrunk[np.diag_indices_from(shrunk)] += shrinkage * variance
        yield cho_solve(cho_factor(shrunk, overwrite_a=True), towards).T


def _blocks(count: int) -> Iterator[slice]:
    return (slice(first, first + _ROWS) for first in range(0, count, _ROWS))
