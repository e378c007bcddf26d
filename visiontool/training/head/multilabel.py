"""The head for several labels a picture: a discriminant and a sigmoid for each label, all solved at once.

On collages of three data sets it was better than a logistic regression for each label (docs/training.md).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from visiontool.errors import DataError
from visiontool.inference.network import sigmoid
from visiontool.training.head import Candidate, Head, HeadOptions, Solution
from visiontool.training.head.features import candidates
from visiontool.training.head.gaussian import Statistics, solutions
from visiontool.training.head.logistic import Linear, Space

SHRINKAGES = (0.97, 0.9, 0.6, 0.3, 0.1, 0.03, 0.01)
_FEW = 5  # pictures with a label, and without it, from which on it has a sigmoid and a threshold of its own

Floats = NDArray[np.float64]
Targets = NDArray[np.bool_]  # (N, L): which labels each picture has


def solve(
    outputs: NDArray[np.float32],
    targets: Targets,
    fold_of: NDArray[np.intp],
    widths: Sequence[int],
    options: HeadOptions,
    progress: Callable[[int, int], None],
) -> tuple[Solution, Floats]:
    """The head for pictures with outputs (N, D) in the plain view, and from which probability (L,) on labels are given.

    Args:
        fold_of: (N,) which fold judges a picture; -1 for none.
        widths: of the network's outputs, side by side in `outputs`, the embedding first.

    Raises:
        DataError: no picture can be held out.
    """
    judged, tried = np.flatnonzero(fold_of >= 0), []
    if not len(judged):
        raise DataError("too few pictures to choose a head by: a label needs 2 of them in train")
    transform = None if options.transform == "auto" else options.transform
    with threadpool_limits(1, user_api="blas"):  # see `head.solve`
        allowed = candidates(tuple(widths), transform, options.stages)
        for number, features in enumerate(allowed):
            progress(number, len(allowed))
            seen = features.of(outputs)
            space = Space.of(seen, is_rotated=False)
            rows, width = space.project(seen[:, None])[0], seen.shape[1]
            scores = np.empty((len(SHRINKAGES), len(rows), targets.shape[1]))
            for fold in np.unique(fold_of[judged]).tolist():
                heads = _discriminants(rows[fold_of != fold], targets[fold_of != fold], SHRINKAGES, width)
                for place, linear in enumerate(heads):
                    scores[place, fold_of == fold] = linear.logits(rows[fold_of == fold])
            best = int(np.argmin([_linear_error(each[judged], targets[judged]) for each in scores]))
            sigmoids = np.array(_by_label(_sigmoid, scores[best, judged], targets[judged])).T
            probabilities = sigmoid(sigmoids[0] * scores[best, judged] + sigmoids[1])
            final = space.unfold(next(_discriminants(rows, targets, SHRINKAGES[best : best + 1], width)))
            weight, bias = sigmoids[0, :, None] * final.weight, sigmoids[0] * final.bias + sigmoids[1]
            head = Head(weight.astype(np.float32), bias.astype(np.float32), 1.0, features)
            tried.append((_candidate(head, probabilities, targets[judged]), head, probabilities))
            if len(features.widths) > 1 and min(tried, key=lambda one: one[0].brier) is not tried[-1]:
                break
    progress(len(allowed), len(allowed))
    tried.sort(key=lambda one: one[0].brier)
    choice, head, probabilities = tried[0]
    note = f"head: linear discriminants on {head.features}, Brier score {choice.brier:.3f} on held-out pictures"
    solution = Solution(head, "lda", "none", False, (), -1, tuple(one[0] for one in tried), (note,), 1.0)
    return solution, np.array(_by_label(_threshold, probabilities, targets[judged]))


def _discriminants(
    rows: NDArray[np.float32], targets: Targets, shrinkages: Sequence[float], width: int
) -> Iterator[Linear]:
    """For each shrinkage the linear functions of rows (N, R) that come nearest to targets (N, L) as 0 and 1.

    Each has the direction of the linear discriminant between the pictures with a label and those without, where these
    two have the same covariance.

    Source: Hastie, Tibshirani and Friedman 2009, "The Elements of Statistical Learning", exercise 4.2.
    """
    whole = Statistics.of(rows, np.zeros(len(rows), np.int64), np.ones(len(rows)), 1)
    shares, covariance = targets.mean(axis=0), whole.scatter / len(rows)
    variance = float(np.trace(covariance)) / width or 1.0
    towards = rows.T @ (targets - shares).astype(np.float32) / len(rows)
    for weight in solutions(covariance, variance, shrinkages, towards):
        yield Linear(weight, shares - weight @ whole.means[0])


def _linear_error(scores: Floats, targets: Targets) -> float:
    """The mean squared error of the best linear function of each label's scores (N, L)."""
    x, y = scores - scores.mean(axis=0), targets - targets.mean(axis=0)
    slopes = (x * y).sum(axis=0) / np.maximum((x * x).sum(axis=0), np.finfo(np.float64).tiny)
    return float(np.mean((y - slopes * x) ** 2))


def _by_label(fit: Callable[[Floats, NDArray[np.bool_]], Any], values: Floats, targets: Targets) -> list[Any]:
    """What `fit` gives for values and targets (N, L) of each label; of all together where a label has few pictures."""
    of_all = fit(values.ravel(), targets.ravel())
    has_enough = np.minimum(targets.sum(axis=0), (~targets).sum(axis=0)) >= _FEW
    return [fit(*of_label) if own else of_all for *of_label, own in zip(values.T, targets.T, has_enough, strict=True)]


def _sigmoid(scores: Floats, targets: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and offset of the logits of scores (N,).

    Source: Platt 1999, "Probabilistic outputs for support vector machines".
    """
    from sklearn.linear_model import LogisticRegression

    scale = float(scores.std()) or 1.0
    fitted = LogisticRegression().fit(scores[:, None] / scale, targets)
    return float(fitted.coef_[0, 0]) / scale, float(fitted.intercept_[0])


def _threshold(probabilities: Floats, targets: NDArray[np.bool_]) -> float:
    """Where F1 is highest, in the middle between two of the probabilities (N,)."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, steps = precision_recall_curve(targets, probabilities)
    best = int(np.argmax((2 * precision * recall / np.maximum(precision + recall, 1e-9))[:-1]))
    return float(steps[max(0, best - 1) : best + 1].mean())


def _candidate(head: Head, probabilities: Floats, targets: Targets) -> Candidate:
    """How held-out probabilities (J, L) are: means over all of them."""
    of_truth = np.where(targets, probabilities, 1 - probabilities)
    nll = -float(np.log(np.maximum(of_truth, np.finfo(np.float64).eps)).mean())
    figures = float(np.mean((1 - of_truth) ** 2)), nll, float((of_truth > 0.5).mean())
    return Candidate("lda", head.features.transform, len(head.features.widths), *figures)
