"""How good probabilities are on pictures whose classes are known."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_BINS = 15
_Z95 = 1.959963984540054  # of the normal distribution, for 95 %
_LEAST = 1e-12  # probability that a picture's loss is computed with, so that one cannot be infinite


class Interval(NamedTuple):
    """Where the true share is, with 95 % confidence."""

    low: float
    high: float


@dataclass(frozen=True)
class ClassMetrics:
    label: str
    pictures: int  # of this class
    recall: float | None  # share of them that were recognized; None where there are none
    precision: float | None  # share of the answers with this class that are right; None where there are none
    f1: float | None  # None where there is neither


@dataclass(frozen=True)
class Metrics:
    pictures: int
    classes: int  # that have pictures: means over classes are over these
    accuracy: float
    interval: Interval  # of the accuracy
    balanced_accuracy: float  # mean recall of the classes
    macro_f1: float  # mean F1 of the classes
    ece: float  # expected calibration error, 0 to 1: how far probabilities are from shares of right answers
    nll: float  # mean negative logarithm of the true class's probability
    top5: float | None  # share with the true class among the best five; None for five classes and fewer
    per_class: tuple[ClassMetrics, ...]  # in the order of the labels
    confusion: NDArray[np.int64]  # (C, C): pictures of the row's class that were taken for the column's

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "interval": list(self.interval), "confusion": self.confusion.tolist()}


def measure(probabilities: NDArray[np.floating], class_ids: NDArray[np.int64], labels: Sequence[str]) -> Metrics:
    """Compares probabilities (N, C) of N >= 1 pictures with their class_ids (N,)."""
    classes, rows = len(labels), np.arange(len(class_ids))
    predicted = probabilities.argmax(axis=1)
    confusion = np.bincount(class_ids * classes + predicted, minlength=classes**2).reshape(classes, classes)
    counts = zip(labels, confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0), strict=True)
    per_class = tuple(
        ClassMetrics(label, int(true), _share(hits, true), _share(hits, answers), _share(2 * hits, true + answers))
        for label, hits, true, answers in counts
    )
    occurring = [each for each in per_class if each.pictures]
    right = predicted == class_ids
    of_truth = probabilities[rows, class_ids]
    return Metrics(
        pictures=len(class_ids),
        classes=len(occurring),
        accuracy=float(right.mean()),
        interval=wilson(int(right.sum()), len(right)),
        balanced_accuracy=float(np.mean([each.recall for each in occurring])),
        macro_f1=float(np.mean([each.f1 for each in occurring])),
        ece=calibration_error(probabilities.max(axis=1), right),
        nll=float(-np.log(np.maximum(of_truth, _LEAST)).mean()),
        top5=float(((probabilities > of_truth[:, None]).sum(axis=1) < 5).mean()) if classes > 5 else None,
        per_class=per_class,
        confusion=confusion,
    )


def wilson(right: int, count: int) -> Interval:
    """The score interval of `right` of `count`, at 95 %.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference", JASA 22.
    """
    share, z2 = right / count, _Z95**2
    center = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z95 / (1 + z2 / count) * float(np.sqrt(share * (1 - share) / count + z2 / (4 * count**2)))
    return Interval(max(0.0, center - half), min(1.0, center + half))


def calibration_error(confidences: NDArray[np.floating], right: NDArray[np.bool_]) -> float:
    """The mean distance of the probability (N,) of answers and the share of right ones, in 15 bins of equal size.

    Source: Nguyen and O'Connor 2015, "Posterior calibration and exploratory analysis for natural language processing
        models", arXiv:1508.05154 (bins of equal size instead of equal width).
    """
    order = np.argsort(confidences, kind="stable")
    bins = np.array_split(order, min(_BINS, len(order)))
    return sum(len(rows) * abs(float(confidences[rows].mean() - right[rows].mean())) for rows in bins) / len(order)


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
