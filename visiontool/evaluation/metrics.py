"""How good probabilities are on pictures whose classes are known."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_BINS = 15
_Z95 = 1.959963984540054  # of the normal distribution, for 95 %
_LEAST = float(np.finfo(np.float64).eps)  # for a picture's loss, which would be infinite at 0; as scikit-learn's
_RESAMPLES = 1000
_AT_ONCE = 50  # resamples, so that their weights take little memory


class Interval(NamedTuple):
    """Where the true value is, with 95 % confidence."""

    low: float
    high: float


class Measure(NamedTuple):
    """A figure of `Metrics`, as people read it."""

    name: str
    meaning: str
    value: float
    interval: Interval | None
    is_share: bool  # of 1, and the more the better

    @property
    def text(self) -> str:
        return self._format(self.value)

    @property
    def range(self) -> str:
        """ "15.0 to 85.0%", or "" where no interval is known."""
        low, high = map(self._format, self.interval or (0, 0))
        return f"{low.rstrip('%')} to {high}" if self.interval else ""

    def _format(self, value: float) -> str:
        return f"{value:.1%}" if self.is_share else f"{value:.3f}"


_MEASURES = {
    "accuracy": ("Accuracy", "share of the pictures that are answered right", True),
    "balanced_accuracy": ("Balanced accuracy", "mean recall of the classes", True),
    "macro_f1": ("Macro F1", "mean F1 of the classes", True),
    "top5": ("Top 5", "the true class is among the best five", True),
    "nll": ("Log loss", "mean −log of the true class's probability", False),
    "brier": ("Brier score", "mean squared distance of the probabilities from the truth", False),
    "ece": ("Calibration error", "how far probabilities are from shares", False),
}


@dataclass(frozen=True)
class ClassMetrics:
    label: str
    pictures: int  # of this class
    recall: float | None  # share of them that were recognized; None where there are none
    precision: float | None  # share of the answers with this class that are right; None where there are none
    f1: float | None  # None where there is neither


@dataclass(frozen=True)
class Metrics:
    """Of scikit-learn's names, the values are those that scikit-learn gives, over the classes that have pictures."""

    pictures: int
    classes: int  # that have pictures: means over classes are over these
    accuracy: float
    interval: Interval  # of the accuracy: Wilson's, or by resampling where groups have several pictures
    top5: float  # share with the true class among the best five, or among all where there are fewer
    balanced_accuracy: float  # mean recall of the classes
    macro_precision: float  # a class that is never the answer counts as 0
    macro_recall: float
    macro_f1: float
    weighted_precision: float  # classes weighted by their pictures
    weighted_recall: float
    weighted_f1: float
    ece: float  # expected calibration error, 0 to 1: how far probabilities are from shares of right answers
    nll: float  # log loss: mean negative logarithm of the true class's probability
    brier: float  # mean squared distance of the probabilities from the truth; of one class where there are two
    per_class: tuple[ClassMetrics, ...]  # in the order of the labels
    confusion: NDArray[np.int64]  # (C, C): pictures of the row's class that were taken for the column's
    intervals: Mapping[str, Interval]  # of the fields of these names; all but Wilson's by resampling

    def measures(self, classes: int) -> list[Measure]:
        """The figures for people; top 5 where there are more than five `classes`, the model's or the largest's."""
        return [
            Measure(name, meaning, getattr(self, field), self.intervals.get(field), is_share)
            for field, (name, meaning, is_share) in _MEASURES.items()
            if field != "top5" or classes > 5
        ]

    def confusions(self) -> list[tuple[int, int, int]]:
        """A class, another that was the answer, and how many pictures: most first, then the largest share of theirs."""
        wrong = self.confusion - np.diag(self.confusion.diagonal())
        true, answer = wrong.nonzero()
        counts = wrong[true, answer]
        order = np.lexsort((-counts / self.confusion.sum(axis=1)[true], -counts))
        return list(zip(*(column[order].tolist() for column in (true, answer, counts)), strict=True))

    def averages(self) -> dict[str, tuple[float, float, float]]:
        """Precision, recall and F1 over the classes."""
        return {
            "Macro average": (self.macro_precision, self.macro_recall, self.macro_f1),
            "Weighted average": (self.weighted_precision, self.weighted_recall, self.weighted_f1),
        }

    def to_json(self) -> dict[str, Any]:
        intervals = {name: list(interval) for name, interval in self.intervals.items()}
        values = {**asdict(self), "interval": list(self.interval), "intervals": intervals}
        return {**values, "confusion": self.confusion.tolist()}


@dataclass(frozen=True)
class MultilabelMetrics:
    """Where a picture may have several labels; the values are scikit-learn's, over the labels that some picture has."""

    pictures: int
    mean_average_precision: float  # of the labels: how well probabilities rank pictures, whatever the thresholds
    micro: tuple[float, float, float]  # precision, recall and F1 of all answers together
    macro: tuple[float, float, float]  # means of the labels; one that is never given has a precision of 0
    exact: float  # share of the pictures with all their labels and no other
    interval: Interval  # of it
    per_class: tuple[ClassMetrics, ...]  # in the order of the labels

    def measures(self, _: int) -> list[Measure]:
        """The figures for people."""
        return [
            Measure("mAP", "mean average precision of the labels", self.mean_average_precision, None, True),
            Measure("Micro F1", "F1 of all answers together", self.micro[2], None, True),
            Measure("Macro F1", "mean F1 of the labels", self.macro[2], None, True),
            Measure("All right", "pictures with all their labels and no other", self.exact, self.interval, True),
        ]

    def averages(self) -> dict[str, tuple[float, float, float]]:
        """Precision, recall and F1."""
        return {"Micro average": self.micro, "Macro average": self.macro}

    def confusions(self) -> list[tuple[int, int, int]]:
        """None: no label takes the place of another."""
        return []

    def to_json(self) -> dict[str, Any]:
        names = ("precision", "recall", "f1")
        return asdict(self) | {kind: dict(zip(names, getattr(self, kind), strict=True)) for kind in ("micro", "macro")}


def measure_labels(
    probabilities: NDArray[np.floating], given: NDArray[np.bool_], targets: NDArray[np.bool_], labels: Sequence[str]
) -> MultilabelMetrics:
    """Compares probabilities and given labels (N, L) of N >= 1 pictures with the labels that they have (N, L)."""
    from sklearn.metrics import average_precision_score, precision_recall_fscore_support

    occur = targets.any(axis=0)
    truth, answers = targets[:, occur], given[:, occur]
    averages = {}
    for kind in ("micro", "macro"):
        precision, recall, f1, _ = precision_recall_fscore_support(truth, answers, average=kind, zero_division=0)
        averages[kind] = float(precision), float(recall), float(f1)
    hits, of, taken = (each.sum(axis=0) for each in (given & targets, targets, given))
    per_class = tuple(
        ClassMetrics(label, int(n), _share(hit, n), _share(hit, answered), _share(2 * hit, n + answered))
        for label, hit, n, answered in zip(labels, hits, of, taken, strict=True)
    )
    exact = (given == targets).all(axis=1)
    ranked = float(average_precision_score(truth, probabilities[:, occur]))
    interval = wilson(int(exact.sum()), len(exact))
    return MultilabelMetrics(
        len(exact), ranked, **averages, exact=float(exact.mean()), interval=interval, per_class=per_class
    )


def measure(
    probabilities: NDArray[np.floating],
    class_ids: NDArray[np.int64],
    labels: Sequence[str],
    groups: NDArray[np.integer],
) -> Metrics:
    """Compares probabilities (N, C) of N >= 1 pictures with their class_ids (N,).

    `groups` (N,) are the numbers of the pictures' groups. For the intervals whole groups are drawn: the pictures of one
    are no independent evidence.
    """
    classes = len(labels)
    predicted = probabilities.argmax(axis=1)
    confusion = np.bincount(class_ids * classes + predicted, minlength=classes**2).reshape(classes, classes)
    hits, true, answers = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    per_class = tuple(
        ClassMetrics(label, int(of), _share(hit, of), _share(hit, taken), _share(2 * hit, of + taken))
        for label, hit, of, taken in zip(labels, hits, true, answers, strict=True)
    )
    occurring = [each for each in per_class if each.pictures]
    weights = [each.pictures for each in occurring]
    scores = {name: [getattr(each, name) or 0.0 for each in occurring] for name in ("precision", "recall", "f1")}
    losses = losses_of(probabilities, class_ids)
    right = predicted == class_ids
    intervals = _intervals(losses, predicted, class_ids, classes, groups)
    if len(np.unique(groups)) == len(groups):
        intervals["accuracy"] = wilson(int(right.sum()), len(right))
    return Metrics(
        pictures=len(class_ids),
        classes=len(occurring),
        accuracy=float(right.mean()),
        interval=intervals["accuracy"],
        top5=float(losses["top5"].mean()),
        balanced_accuracy=float(np.mean(scores["recall"])),
        **{f"macro_{name}": float(np.mean(values)) for name, values in scores.items()},
        **{f"weighted_{name}": float(np.average(values, weights=weights)) for name, values in scores.items()},
        ece=calibration_error(probabilities.max(axis=1), right),
        nll=float(losses["nll"].mean()),
        brier=float(losses["brier"].mean()),
        per_class=per_class,
        confusion=confusion,
        intervals=intervals,
    )


def losses_of(probabilities: NDArray[np.floating], class_ids: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """What is a mean over pictures, for each of them (N,): accuracy, top5, nll and brier."""
    of_truth = probabilities[np.arange(len(class_ids)), class_ids].astype(np.float64)
    classes = probabilities.shape[1]
    squares = np.einsum("nc,nc->n", probabilities, probabilities, dtype=np.float64)
    brier = squares - 2 * of_truth + 1  # the sum over the classes of (p - y)^2
    return {
        "accuracy": (probabilities.argmax(axis=1) == class_ids).astype(np.float64),
        "top5": ((probabilities > of_truth[:, None]).sum(axis=1) < 5).astype(np.float64),
        "nll": -np.log(np.maximum(of_truth, _LEAST)),
        "brier": brier / 2 if classes == 2 else brier,
    }


def _intervals(
    losses: Mapping[str, NDArray[np.float64]],
    predicted: NDArray[np.integer],
    class_ids: NDArray[np.int64],
    classes: int,
    groups: NDArray[np.integer],
) -> dict[str, Interval]:
    """The central 95 % of what groups give that are drawn anew, as many with repetition.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3 (percentile intervals); Field
        and Welsh 2007, "Bootstrapping clustered data", JRSS B 69 (groups as units).
    """
    from scipy.sparse import csr_array

    _, group = np.unique(groups, return_inverse=True)
    count = int(group.max()) + 1
    pictures = np.bincount(group)
    sums = {name: np.bincount(group, values) for name, values in losses.items()}
    counted = ((losses["accuracy"], class_ids), (np.ones(len(group)), class_ids), (np.ones(len(group)), predicted))
    hits, true, answers = (csr_array((each, (group, of)), shape=(count, classes)) for each, of in counted)
    drawn: dict[str, list[NDArray[np.float64]]] = {}
    for weights in _resamples(count):
        total = weights @ pictures
        for name, values in sums.items():
            drawn.setdefault(name, []).append(weights @ values / total)
        hit, of, taken = weights @ hits, weights @ true, weights @ answers
        present = of > 0
        recalls, f1 = (hit / np.maximum(of, 1), 2 * hit / np.maximum(of + taken, 1))
        for name, shares in (("balanced_accuracy", recalls), ("macro_f1", f1)):
            drawn.setdefault(name, []).append((shares * present).sum(axis=1) / present.sum(axis=1))
    return {name: _central(np.concatenate(values)) for name, values in drawn.items()}


def _resamples(count: int) -> Iterator[NDArray[np.float64]]:
    """How often each of `count` groups is drawn, (n, count) for some of the resamples at a time; seeded."""
    random = np.random.default_rng(0)
    for _ in range(0, _RESAMPLES, _AT_ONCE):
        rows = random.integers(0, count, (_AT_ONCE, count)) + count * np.arange(_AT_ONCE)[:, None]
        yield np.bincount(rows.ravel(), minlength=_AT_ONCE * count).reshape(_AT_ONCE, count).astype(np.float64)


def _central(values: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, (0.025, 0.975))
    return Interval(float(low), float(high))


@dataclass(frozen=True)
class Difference:
    """How two models differ on the same pictures."""

    better: str  # A, by its name
    worse: str  # B
    accuracy: float  # of A, minus that of B
    interval: Interval  # of the difference, by resampling groups
    only_a: int  # pictures that A alone has right
    only_b: int
    p_value: float  # of McNemar's test: how likely so uneven counts are where both are equally good

    @property
    def is_real(self) -> bool:
        """Whether both tests say so, at 95 %."""
        return self.p_value < 0.05 and not self.interval.low <= 0 <= self.interval.high


def difference(
    better: str, worse: str, a: NDArray[np.bool_], b: NDArray[np.bool_], groups: NDArray[np.integer]
) -> Difference:
    """Compares which pictures (N,) two models have right.

    Source: McNemar 1947, "Note on the sampling error of the difference between correlated proportions", Psychometrika
        12; exact, as a binomial test of the pictures that one model alone has right.
    """
    from scipy.stats import binomtest

    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    _, group = np.unique(groups, return_inverse=True)
    pictures = np.bincount(group)
    sums = np.bincount(group, a.astype(np.float64) - b)
    drawn = [weights @ sums / (weights @ pictures) for weights in _resamples(len(pictures))]
    p_value = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    interval = _central(np.concatenate(drawn))
    return Difference(better, worse, float(a.mean() - b.mean()), interval, only_a, only_b, p_value)


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
