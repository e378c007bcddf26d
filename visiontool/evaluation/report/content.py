"""What the page says of an evaluation, as values that its template only has to lay out."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontool.evaluation.evaluate import Evaluation
from visiontool.evaluation.metrics import Interval, Metrics, wilson
from visiontool.text import listed, plural

_BINS, _LEAST_IN_BIN = 15, 10
_MOST_IN_TABLE = 30  # classes whose confusion matrix is a table of counts; of more it is a picture
_PAIRS_LISTED = 15
_PLOT = 300  # side of the reliability diagram


class Kind(NamedTuple):
    """A kind of measure, by the name of its attribute of `Metrics`."""

    attribute: str
    name: str
    meaning: str
    is_share: bool = True  # of 1, the more the better


KINDS = (
    Kind("accuracy", "Accuracy", "share of the pictures that are answered right"),
    Kind("balanced_accuracy", "Balanced accuracy", "mean recall of the classes"),
    Kind("macro_f1", "Macro F1", "mean F1 of the classes"),
    Kind("top5", "Top 5", "the true class is among the best five"),
    Kind("nll", "Log loss", "mean −log of the true class's probability", False),
    Kind("brier", "Brier score", "mean squared distance of the probabilities from the truth", False),
    Kind("ece", "Calibration error", "how far probabilities are from shares", False),
)
_MOST_TRIVIAL = 5  # classes, of which each is among the best five


class Measure(NamedTuple):
    kind: Kind
    value: float
    interval: Interval | None

    @property
    def text(self) -> str:
        return self._format(self.value)

    @property
    def range(self) -> str:
        if self.interval is None:
            return ""
        return f"{self._format(self.interval.low).rstrip('%')} to {self._format(self.interval.high)}"

    def _format(self, value: float) -> str:
        return percent(value) if self.kind.is_share else f"{value:.3f}"


def percent(share: float | None) -> str:
    """ "93.5%", or a dash where there is none."""
    return "–" if share is None else f"{share:.1%}"


def measures_for(evaluations: Sequence[Evaluation]) -> tuple[Kind, ...]:
    """The kinds of measures that say something of these evaluations."""
    is_trivial = all(len(evaluation.spec.labels) <= _MOST_TRIVIAL for evaluation in evaluations)
    return tuple(kind for kind in KINDS if not (is_trivial and kind.attribute == "top5"))


def section_of(evaluation: Evaluation, measures: Sequence[Kind]) -> dict[str, Any]:
    """Everything about one model but its pictures."""
    metrics, labels = evaluation.metrics, evaluation.spec.labels
    confusion = np.asarray(metrics.confusion)
    wrong = confusion - np.diag(confusion.diagonal())
    occurring = np.flatnonzero(confusion.sum(axis=0) + confusion.sum(axis=1))
    intervals = {"accuracy": metrics.interval, **metrics.intervals}
    values = [Measure(kind, getattr(metrics, kind.attribute), intervals.get(kind.attribute)) for kind in measures]
    return {
        "name": evaluation.spec.name,
        "origin": evaluation.origin,
        "pictures": metrics.pictures,
        "wrong": int(wrong.sum()),
        "measures": values,
        "labels": labels,
        "classes": _classes(metrics, occurring, wrong),
        "confusions": _most_frequent(wrong, confusion.sum(axis=1)),
        "matrix": _matrix(confusion, occurring, labels),
        "bins": _bins(evaluation),
        "plot": _PLOT,
    }


def data_facts(evaluation: Evaluation) -> Mapping[str, str]:
    """What is judged: how many pictures, of how many classes, and how they are spread over these."""
    per_class = evaluation.metrics.per_class
    counts = sorted(each.pictures for each in per_class if each.pictures)
    facts = {
        "Judged": f"{evaluation.origin}: {plural(evaluation.metrics.pictures, 'picture')}",
        "Classes": f"{len(counts):,} of the model's {len(per_class):,} have pictures here",
        "Pictures in a class": f"{counts[0]:,} to {counts[-1]:,}, median {np.median(counts):,.0f}",
    }
    without = [each.label for each in per_class if not each.pictures]
    facts |= {"Without a picture": listed(without, "class", "classes")} if without else {}
    unread = [*evaluation.unreadable]
    return facts | {"Unreadable": listed(unread, "picture", "pictures") if unread else "none"}


def _classes(metrics: Metrics, occurring: NDArray[np.intp], wrong: NDArray[np.int64]) -> list[dict[str, Any]]:
    """A row for each class that has pictures or was an answer: the worst F1 first, those without pictures last."""
    rows = []
    for class_id in occurring.tolist():
        answer = int(wrong[class_id].argmax())
        rows.append(
            {
                "class_id": class_id,
                "metrics": metrics.per_class[class_id],
                "taken_for": answer if wrong[class_id, answer] else None,
                "times": int(wrong[class_id, answer]),
            }
        )
    return sorted(rows, key=lambda row: (not row["metrics"].pictures, row["metrics"].f1))


def _most_frequent(wrong: NDArray[np.int64], totals: NDArray[np.int64]) -> list[dict[str, int]]:
    """The pairs of classes that are confused most often."""
    true, answer = wrong.nonzero()
    counts = wrong[true, answer]
    order = np.lexsort((-counts / totals[true], -counts))[:_PAIRS_LISTED]
    names = ("true", "answer", "count", "total")
    columns = (true[order], answer[order], counts[order], totals[true[order]])
    return [dict(zip(names, row, strict=True)) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _matrix(confusion: NDArray[np.int64], occurring: NDArray[np.intp], labels: Sequence[str]) -> dict[str, Any]:
    """The confusion matrix of the classes that occur: all counts, or of many classes those that are not zero."""
    part = confusion[np.ix_(occurring, occurring)]
    totals = part.sum(axis=1)
    matrix = {"class_ids": occurring.tolist(), "labels": [labels[i] for i in occurring], "totals": totals.tolist()}
    if len(part) <= _MOST_IN_TABLE:
        # The root of the share, in ten steps: a few pictures can be told from none.
        levels = np.ceil(10 * np.sqrt(part / np.maximum(totals, 1)[:, None])).astype(int)
        return {**matrix, "counts": part.tolist(), "levels": levels.tolist(), "cells": None}
    rows, columns = part.nonzero()
    return {**matrix, "cells": np.stack((rows, columns, part[rows, columns]), axis=1).tolist()}


def _bins(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The points of the reliability diagram: answers by their probability, in bins of equal size."""
    sure = evaluation.probabilities.max(axis=1)
    right = evaluation.probabilities.argmax(axis=1) == evaluation.class_ids
    order = np.argsort(sure, kind="stable")
    bins = []
    for rows in np.array_split(order, max(1, min(_BINS, len(order) // _LEAST_IN_BIN))):
        low, high = wilson(int(right[rows].sum()), len(rows))
        point = {"count": len(rows), "probability": float(sure[rows].mean()), "share": float(right[rows].mean())}
        bins.append({**point, "low": low, "high": high})
    return bins
