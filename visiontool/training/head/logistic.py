"""L2 multinomial logistic regression: the weights and the coordinates that it is solved with, and scipy's L-BFGS."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Balance = Literal["auto", "none", "weights", "logit-adjust"]
_MOST_UNEVEN = 10  # largest class / smallest, above which "auto" adjusts
_BLOCK = 1 << 18  # numbers
_PARTS = 8  # of the rows, worked on at the same time; always as many, so that sums do not depend on the machine
_MOST_STEPS = 1000
_SAME = 1e-7
_NOTHING = 1e-10  # of the squares, along a direction: more exact than the embeddings themselves
_ROWS = 8192  # at a time, so that float64 copies stay small
_MOST_SAMPLED = 1 << 14  # rows from which the directions are found: they need not be exact to be an exact rotation


class Balancing(NamedTuple):
    """What is done about classes of different sizes.

    "none": pictures count the same, and probabilities are right where classes are as frequent as in training.
    "weights": classes count the same: a picture of class c weighs n / (C n_c).
    "logit-adjust": the logarithm of each class's share is added to its logit in training and left out afterwards, so
    that the logits are those of equally frequent classes. "auto" does so where classes are very uneven.

    Source: for logit adjustment, Menon et al. 2021, "Long-tail learning via logit adjustment", arXiv:2007.07314,
    the logit adjusted softmax cross-entropy with tau = 1.
    """

    name: str
    sizes: NDArray[np.int64]  # (C,) pictures of each class

    @classmethod
    def of(cls, name: Balance, sizes: NDArray[np.int64]) -> "Balancing":
        """The balance called `name`, where "auto" is decided by the sizes of the classes."""
        if name == "auto":
            name = "logit-adjust" if sizes.max() > _MOST_UNEVEN * sizes.min() else "none"
        return cls(name, sizes)

    @property
    def log_prior(self) -> NDArray[np.float64]:
        """(C,) to be added to the logits in training."""
        if self.name == "logit-adjust":
            return np.asarray(np.log(self.sizes / self.sizes.sum()))
        return np.zeros(len(self.sizes))

    def training_weights(self, class_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """(N,) weight of each picture in training, 1 on average."""
        return _equal(class_ids, self.sizes) if self.name == "weights" else np.ones(len(class_ids))

    def judging_weights(self, class_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """(N,) weight of each held-out picture: a balanced head is judged for equally frequent classes."""
        if self.name == "none":
            return np.ones(len(class_ids))
        return _equal(class_ids, np.bincount(class_ids, minlength=len(self.sizes)))


class Linear(NamedTuple):
    """A linear head in the coordinates of the features it was made from."""

    weight: NDArray[np.float64]  # (C, R)
    bias: NDArray[np.float64]  # (C,)

    def logits(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N, C) of features (N, R)."""
        return features @ self.weight.T + self.bias

    def scaled(self, factor: float) -> "Linear":
        """The head whose logits are those of this one times `factor`."""
        return Linear(factor * self.weight, factor * self.bias)


@dataclass(frozen=True)
class Space:
    """An exact change of coordinates: z = (x - mean) / scale @ basis.

    One scale for all directions, not one for each feature: what varies little in a trained network's embedding
    says little, and stretching it costs likelihood on held-out pictures of four of five sets measured.
    """

    mean: NDArray[np.float64]  # (D,)
    scale: float  # root of the mean squared distance from the mean, so that `strength` means the same for any network
    # (D, R), orthonormal; it spans all rows, so an L2 solution in it is that in all of D. None: not rotated.
    basis: NDArray[np.float64] | None

    @classmethod
    def of(cls, embeddings: NDArray[np.float32], *, is_rotated: bool = True) -> "Space":
        """The space of embeddings (N, D); of fewer than D it is always that which they span."""
        count, width = embeddings.shape
        mean = embeddings.mean(axis=0, dtype=np.float64)
        squares = sum(float(np.sum((_rows_from(embeddings, first) - mean) ** 2)) for first in range(0, count, _ROWS))
        scale = float(np.sqrt(squares / count))
        if scale <= _SAME * float(np.linalg.norm(mean)):  # nothing but rounding: all pictures have the same embedding
            scale = 1.0
        if count >= width and not is_rotated:
            return cls(mean, scale, None)
        if count >= width:
            sampled = embeddings[:: -(-count // _MOST_SAMPLED)] - mean
            return cls(mean, scale, np.linalg.eigh(sampled.T @ sampled)[1])
        centered = embeddings - mean
        squares_along, combinations = np.linalg.eigh(centered @ centered.T)
        spanned = squares_along > _NOTHING * count * scale**2
        return cls(mean, scale, centered.T @ (combinations[:, spanned] / np.sqrt(squares_along[spanned])))

    def project(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """(V, N, R) of embeddings (N, V, D): views first, so that one view and all views are both one block."""
        count, views, width = embeddings.shape
        features = np.empty((views, count, width if self.basis is None else self.basis.shape[1]), np.float32)
        for view in range(views):
            for first in range(0, count, _ROWS):
                rows = (_rows_from(embeddings[:, view], first) - self.mean) / self.scale
                features[view, first : first + _ROWS] = rows if self.basis is None else rows @ self.basis
        return features

    def unfold(self, head: Linear) -> Linear:
        """The head that gives of embeddings what `head` gives of features."""
        weight = (head.weight if self.basis is None else head.weight @ self.basis.T) / self.scale
        return Linear(weight, head.bias - weight @ self.mean)


def fit(
    features: NDArray[np.floating],
    class_ids: NDArray[np.int64],
    weights: NDArray[np.float64],
    strength: float,
    n_classes: int,
    *,
    log_prior: NDArray[np.float64] | None = None,
    start: Linear | None = None,
    tolerance: float = 1e-6,
) -> Linear:
    """The head with the smallest sum of `weights` x cross-entropy + strength / 2 x the sum of squared weights.

    The bias is not penalized. `strength` is scikit-learn's 1 / C; 2 / C for two classes, of which it has one row.

    Args:
        features: (N, R); any will do, but columns that are not correlated take the fewest steps.
        weights: (N,) of the rows; their sum stands for the number of pictures.
        log_prior: (C,) added to the logits while training only (`Balancing`).
        start: where to begin, as the solution at a similar strength.
        tolerance: of the largest element of the preconditioned gradient of the mean loss.
    """
    if features.size <= _PARTS * _BLOCK:
        features = features.astype(np.float64)  # once, and not in each step
    total, width = weights.sum(), features.shape[1]
    weights = weights / total
    penalty = strength / total
    added = np.zeros(n_classes) if log_prior is None else log_prior
    start = start or Linear(np.zeros((n_classes, width)), np.zeros(n_classes))
    # The curvature of the loss at weights of zero. In coordinates of equal curvature L-BFGS takes the fewest steps.
    curvature = (1 - 1 / n_classes) / n_classes
    moments = np.zeros(width)  # the weighted mean of the squares of each column
    for rows in _blocks(*features.shape):
        moments += weights[rows] @ features[rows].astype(np.float64) ** 2
    scale = np.append(1 / np.sqrt(curvature * moments + penalty), 1 / np.sqrt(curvature))

    def head(point: NDArray[np.float64]) -> Linear:
        scaled = point.reshape(n_classes, width + 1) * scale
        return Linear(scaled[:, :-1], scaled[:, -1])

    def objective(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        at = head(point)
        losses = map_parts(
            lambda rows: _loss(at, features[rows], class_ids[rows], weights[rows], at.bias + added), parts
        )
        loss, gradient = next(losses)
        for other_loss, other_gradient in losses:
            loss += other_loss
            gradient += other_gradient
        gradient[:, :-1] += penalty * at.weight
        return loss + penalty / 2 * float(np.sum(at.weight**2)), (gradient * scale).ravel()

    from scipy.optimize import minimize  # which takes a second to import

    count = len(features)
    number = _PARTS if count * max(n_classes, width) > _PARTS * _BLOCK else 1
    parts = [slice(count * part // number, count * (part + 1) // number) for part in range(number)]
    begin = np.column_stack([start.weight, start.bias]) / scale
    options = {"gtol": tolerance, "ftol": 0.0, "maxiter": _MOST_STEPS, "maxfun": 2 * _MOST_STEPS}
    with ThreadPoolExecutor(_PARTS) as pool:
        map_parts = pool.map if len(parts) > 1 else map
        return head(minimize(objective, begin.ravel(), jac=True, method="L-BFGS-B", options=options).x)


def _loss(
    head: Linear,
    features: NDArray[np.floating],
    class_ids: NDArray[np.int64],
    weights: NDArray[np.float64],
    bias: NDArray[np.float64],
) -> tuple[float, NDArray[np.float64]]:
    """The weighted cross-entropy and its gradient (C, R + 1), that of the bias last."""
    n_classes, width = head.weight.shape
    transposed = np.ascontiguousarray(head.weight.T)
    loss, gradient = 0.0, np.zeros((n_classes, width + 1))
    for rows in _blocks(len(features), max(n_classes, width)):
        block = features[rows].astype(np.float64, copy=False)
        targets, weight = class_ids[rows], weights[rows]
        row = np.arange(len(block))
        logits = block @ transposed
        logits += bias
        logits -= logits.max(axis=1, keepdims=True)
        of_target = logits[row, targets]
        exponentials = np.exp(logits, out=logits)
        sums = exponentials.sum(axis=1)
        loss += float(weight @ (np.log(sums) - of_target))
        exponentials *= (weight / sums)[:, None]
        exponentials[row, targets] -= weight
        gradient[:, :-1] += exponentials.T @ block
        gradient[:, -1] += exponentials.sum(axis=0)
    return loss, gradient


def _blocks(count: int, width: int) -> Iterator[slice]:
    """Rows 0 to `count`, so many at a time that neither features nor logits leave the processor's cache."""
    rows = max(1, _BLOCK // max(1, width))
    return (slice(first, first + rows) for first in range(0, count, rows))


def _rows_from(embeddings: NDArray[np.float32], first: int) -> NDArray[np.float64]:
    return embeddings[first : first + _ROWS].astype(np.float64)


def _equal(class_ids: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = 1 / sizes[class_ids]
    return weights * (len(class_ids) / weights.sum()) if len(class_ids) else weights
