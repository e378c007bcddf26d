"""Which head: its kind, views and strength of regularization, and its temperature, chosen on held-out pictures."""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontool.data.loader import cores
from visiontool.data.splits import folds
from visiontool.training.head.gaussian import Statistics
from visiontool.training.head.logistic import Balancing, Linear, Space, fit

# Of the L2 penalty, from one that leaves hardly any weights to one that is not there.
STRENGTHS = 10 ** (3 - 7 / 11 * np.arange(18))
SHRINKAGES = (0.9, 0.6, 0.3, 0.1, 0.03, 0.01)
_HALF_STEP = float(np.sqrt(STRENGTHS[0] / STRENGTHS[1]))
# The best was between 0.05 and 0.8 for 244 to 60,000 pictures and three networks: features have a mean length of one,
# and the penalty is compared with the sum over the pictures.
_USUAL_STRENGTH = 0.3
_WORSE = 1.02  # times the smallest loss so far: what is weaker than two such points in a row is not tried
_TOLERANCE = 1e-4  # of the path: ten times tighter changes no held-out loss in the third digit
_FINAL_TOLERANCE = 1e-6

# Cosines lie between -1 and 1. Times this, softmax is well calibrated where a class has one picture (on five sets);
# held-out pictures give a better one.
_COSINE_SCALE = 5.0
_ANY_SCALE = (1e-6, 1e6)

_FOLDS = 5
_FEW_PICTURES = 2000  # from here on a fifth of the pictures says enough, and the other folds are left out
_CLEARLY = 2.0  # standard errors
_TEMPERATURES = (0.05, 20.0)


class PathPoint(NamedTuple):
    """One point of the path of regularization, judged on held-out pictures; with balanced classes for equal ones."""

    strength: float  # of the L2 penalty, scikit-learn's 1 / C on features of mean length 1; or the shrinkage
    nll: float  # mean over the pictures, natural logarithm
    nll_error: float  # its standard error
    accuracy: float


@dataclass(frozen=True)
class TrainingSet:
    """The features of all views of all pictures, and their classes."""

    features: NDArray[np.float32]  # (V, N, R)
    class_ids: NDArray[np.int64]  # (N,)
    balance: Balancing
    width: int  # of the features before they were brought to the span of these pictures

    @classmethod
    def of(
        cls, features: NDArray[np.float32], class_ids: NDArray[np.int64], balance: Balancing, *, is_rotated: bool = True
    ) -> tuple["TrainingSet", Space]:
        """That of features (N, V, D), and the space that it has them in."""
        space = Space.of(features.reshape(-1, features.shape[2]), is_rotated=is_rotated)
        return cls(space.project(features), class_ids, balance, features.shape[2]), space

    def logistic(
        self,
        strength: float,
        all_views: bool,
        pictures: NDArray[np.int64] | None = None,
        start: Linear | None = None,
        tolerance: float = _FINAL_TOLERANCE,
    ) -> Linear:
        """The logistic head of all views, or view 0 alone, of `pictures` (None for all)."""
        classes, log_prior = len(self.balance.sizes), self.balance.log_prior
        rows = self._rows(all_views, pictures)
        return fit(*rows, strength, classes, log_prior=log_prior, start=start, tolerance=tolerance)

    def gaussian(self, shrinkages: Sequence[float], pictures: NDArray[np.int64] | None = None) -> list[Linear]:
        """The heads of linear discriminant analysis of view 0; classes are equal where they are balanced.

        Mirrored views brought nothing, on the mean of six sets and two backbones.
        """
        features, class_ids, weights = self._rows(False, pictures)
        statistics = Statistics.of(features, class_ids, weights, len(self.balance.sizes))
        return [*statistics.heads(shrinkages, self.width, is_balanced=self.balance.name != "none")]

    def nearest_mean(self, _: Sequence[float] = (), pictures: NDArray[np.int64] | None = None) -> list[Linear]:
        """A head that scores features by their cosine with each class's mean, but for their own length.

        Dividing by a picture's own length would not be linear; it changes how sure the head is, never its answer.

        Source: Wang et al. 2019, "SimpleShot", arXiv:1911.04623, section 3, centering and L2 normalization.
        """
        features, class_ids, weights = self._rows(False, pictures)
        of_class = [class_ids == class_id for class_id in range(len(self.balance.sizes))]
        means = np.stack([np.average(features[rows], axis=0, weights=weights[rows]) for rows in of_class])
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        weight = _COSINE_SCALE * means / np.where(lengths > 0, lengths, 1.0)
        return [Linear(weight, np.zeros(len(of_class)))]

    def _rows(
        self, all_views: bool, pictures: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]:
        """Features (M, R), class ids and weights, a row for each view. The views of a picture weigh as much as one."""
        features = self.features if all_views else self.features[:1]
        class_ids, weights = self.class_ids, self.balance.training_weights(self.class_ids)
        if pictures is not None:
            features, class_ids, weights = features[:, pictures], class_ids[pictures], weights[pictures]
        views, count, width = features.shape
        return features.reshape(views * count, width), np.tile(class_ids, views), np.tile(weights / views, views)


class Judgment(NamedTuple):
    """How good one way to make a head is on held-out pictures."""

    heads: tuple[Linear, ...]  # one of each round
    losses: NDArray[np.float64]  # (J,) cross-entropy of each judged picture
    nll: float
    nll_error: float
    accuracy: float


@dataclass(frozen=True)
class HeldOut:
    """A split of the pictures into rounds: each is trained without the pictures that it judges."""

    class_ids: NDArray[np.int64]  # (N,)
    rounds: NDArray[np.int64]  # (N,) in which round a picture is judged; -1: never, it is always trained on
    judged: NDArray[np.int64]  # (J,) indices of the judged pictures
    weights: NDArray[np.float64]  # (J,) how much each counts

    @classmethod
    def of(cls, class_ids: NDArray[np.int64], groups: NDArray[np.int64], balance: Balancing, seed: int) -> "HeldOut":
        """Five rounds that judge every picture once, or, of 2,000 pictures and more, one that judges a fifth.

        The members of a group stay together. A class that would be judged in one round alone is always trained on.
        """
        rounds = np.full(len(class_ids), -1)  # fewer than two classes could be judged
        pairs = np.unique(np.stack([class_ids, groups]), axis=1)
        count = min(_FOLDS, int(np.bincount(pairs[0]).max()))  # a class of as many groups can be in every round
        if count >= 2:
            fold_of = np.array(folds(class_ids, groups, count, seed), np.int64)
            if len(class_ids) >= _FEW_PICTURES:
                fold_of[fold_of > 0] = -1
            if len(np.unique(class_ids[fold_of >= 0])) >= 2:
                judging, numbers = np.unique(fold_of, return_inverse=True)
                rounds = numbers - int(judging[0] < 0)
        judged = np.flatnonzero(rounds >= 0)
        return cls(class_ids, rounds, judged, balance.judging_weights(class_ids[judged]))

    @property
    def count(self) -> int:
        """The number of rounds."""
        return int(self.rounds.max()) + 1

    def training(self) -> Iterator[NDArray[np.int64]]:
        """The indices of the pictures that each round is trained on."""
        return (np.flatnonzero(self.rounds != number) for number in range(self.count))

    def logits(self, heads: Sequence[Linear], features: NDArray[np.float32]) -> NDArray[np.float64]:
        """(J, C) of the judged pictures, from features (N, R) of view 0, by the heads of their rounds."""
        logits = np.empty((len(self.judged), len(heads[0].bias)))
        for number, head in enumerate(heads):
            of_round = self.rounds[self.judged] == number
            logits[of_round] = head.logits(features[self.judged[of_round]])
        return logits

    def judge(self, heads: Sequence[Linear], logits: NDArray[np.float64]) -> Judgment:
        """Judges the heads of the rounds by their logits (J, C)."""
        losses = self.losses(logits)
        return Judgment(tuple(heads), losses, *self.mean(losses), self.accuracy(logits))

    def temperature(self, logits: NDArray[np.floating], bounds: tuple[float, float] = _TEMPERATURES) -> float:
        """`fit_temperature` on the judged pictures' logits (J, C)."""
        return fit_temperature(logits, self.class_ids[self.judged], self.weights, bounds)

    def brier(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """(J,) squared error of the probabilities, 0 to 2: unlike the cross-entropy, no single picture decides by it.

        Source: Brier 1950, "Verification of forecasts expressed in terms of probability".
        """
        from scipy.special import softmax

        errors = softmax(logits, axis=1)
        errors[np.arange(len(errors)), self.class_ids[self.judged]] -= 1
        return np.asarray(np.sum(errors**2, axis=1))

    def accuracy(self, logits: NDArray[np.floating]) -> float:
        """The share of the judged pictures that logits (J, C) answer right."""
        return self.mean(logits.argmax(axis=1) == self.class_ids[self.judged])[0]

    def is_better(self, one: NDArray[np.float64], other: NDArray[np.float64], errors: float) -> bool:
        """Whether the losses `one` (J,) are smaller than `other` by more than so many standard errors."""
        difference, error = self.mean(other - one)
        return difference > errors * error

    def losses(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """(J,) cross-entropy of the judged pictures' logits (J, C)."""
        from scipy.special import log_softmax

        log_p: NDArray[np.float64] = log_softmax(logits, axis=1)
        return -log_p[np.arange(len(logits)), self.class_ids[self.judged]]

    def mean(self, values: NDArray[np.float64] | NDArray[np.bool_]) -> tuple[float, float]:
        """The mean of values (J,), and its standard error."""
        total = self.weights.sum()
        mean = float(self.weights @ values / total)
        return mean, float(np.sqrt(np.sum((self.weights * (values - mean)) ** 2)) / total)


def fit_temperature(
    logits: NDArray[np.floating],
    targets: NDArray[np.int64],
    weights: NDArray[np.float64],
    bounds: tuple[float, float] = _TEMPERATURES,
) -> float:
    """The T that minimizes the cross-entropy of softmax(logits / T), logits (N, C), with weights (N,).

    1 / (N + 2) of each target is spread over all classes: where every picture is right, the cross-entropy alone would
    be the smaller the lower T is, and N pictures do not show that fewer than about one in N is wrong.

    Source: Guo et al. 2017, "On calibration of modern neural networks", arXiv:1706.04599, section 4.2; for the targets,
    Platt 1999, "Probabilistic outputs for support vector machines".
    """
    from scipy.optimize import minimize_scalar

    share, spread = weights / weights.sum(), 1 / (len(logits) + 2)
    less = logits - logits.max(axis=1, keepdims=True)
    linear = share @ ((1 - spread) * less[np.arange(len(less)), targets] + spread * less.mean(axis=1))

    def loss(log_temperature: float) -> float:
        temperature = np.exp(log_temperature)
        return float(share @ np.log(np.exp(less / temperature).sum(axis=1)) - linear / temperature)

    minimum = minimize_scalar(loss, bounds=np.log(bounds), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(minimum.x))


class Choice(NamedTuple):
    """One kind of head at its best, on some features."""

    kind: str  # "logistic", "lda" or "means"
    all_views: bool
    nll: float  # held-out, at the best temperature; nan where nothing could be held out
    losses: NDArray[np.float64]  # (J,) `HeldOut.brier` of it, by which kinds and features are chosen
    logits: NDArray[np.float64]  # (J, C) held-out, before temperature
    final: Callable[[TrainingSet], Linear]  # solves it on all pictures
    path: tuple[PathPoint, ...] = ()
    chosen: int = -1
    scale: float = 1.0  # of its logits


def unjudged(classes: int) -> Choice:
    """The head where nothing can be held out to choose by."""
    return Choice("means", False, np.nan, np.empty(0), np.empty((0, classes)), lambda data: data.nearest_mean()[0])


def best_logistic(data: TrainingSet, held_out: HeldOut, tick: Callable[[], None]) -> Choice:
    """Logistic regression at its best; `tick` is called after each head."""

    def judge(strength: float, all_views: bool, start: Sequence[Linear] | None = None) -> Judgment:
        heads = []
        for training, begin in zip(held_out.training(), start or (None,) * held_out.count, strict=True):
            heads.append(data.logistic(strength, all_views, training, begin, _TOLERANCE))
            tick()
        return held_out.judge(heads, held_out.logits(heads, data.features[0]))

    all_views = True
    if len(data.features) > 1:
        every, plain = (judge(_USUAL_STRENGTH, way) for way in (True, False))
        all_views = not held_out.is_better(plain.losses, every.losses, _CLEARLY)
    # From strong to weak until it gets worse, then closer around the best.
    path: list[tuple[float, Judgment]] = []
    for strength in STRENGTHS.tolist():
        path.append((strength, judge(strength, all_views, path[-1][1].heads if path else None)))
        nlls = [judgment.nll for _, judgment in path]
        if min(nlls[-2:]) > _WORSE * min(nlls):
            break
    middle, best = min(path, key=lambda point: point[1].nll)
    path += [(each, judge(each, all_views, best.heads)) for each in (middle * _HALF_STEP, middle / _HALF_STEP)]
    path.sort(key=lambda point: -point[0])
    # Not the strongest within a standard error of the best: on pictures of neither part that had a larger loss on each
    # of five sets, and its accuracy was mixed.
    chosen = int(np.argmin([judgment.nll for _, judgment in path]))
    strength, best = path[chosen]
    logits = held_out.logits(best.heads, data.features[0])
    scaled = logits / held_out.temperature(logits)
    nll, _ = held_out.mean(held_out.losses(scaled))
    points = tuple(PathPoint(at, judgment.nll, judgment.nll_error, judgment.accuracy) for at, judgment in path)

    def final(data: TrainingSet) -> Linear:
        return data.logistic(strength, all_views, start=best.heads[-1])

    return Choice("logistic", all_views, nll, held_out.brier(scaled), logits, final, points, chosen)


def best_means(data: TrainingSet, held_out: HeldOut, tick: Callable[[], None]) -> Choice:
    """The nearest class mean; `tick` is called after each round."""
    means = _best_of("means", TrainingSet.nearest_mean, (math.nan,), data, held_out, tick)
    return means._replace(path=(), chosen=-1)


def best_gaussian(data: TrainingSet, held_out: HeldOut, tick: Callable[[], None]) -> Choice:
    """Linear discriminant analysis at its best; `tick` is called after each round."""
    return _best_of("lda", TrainingSet.gaussian, SHRINKAGES, data, held_out, tick)


def _best_of(
    kind: str,
    solve: Callable[[TrainingSet, Sequence[float], NDArray[np.int64] | None], list[Linear]],
    strengths: Sequence[float],
    data: TrainingSet,
    held_out: HeldOut,
    tick: Callable[[], None],
) -> Choice:
    """The best of heads that are solved in closed form, each at its best temperature."""
    rounds = []
    with ThreadPoolExecutor(cores()) as pool:
        for of_round in pool.map(lambda training: solve(data, strengths, training), held_out.training()):
            rounds.append(of_round)
            tick()
    judged = []
    for strength, heads in zip(strengths, zip(*rounds, strict=True), strict=True):
        logits = held_out.logits(heads, data.features[0])
        scale = 1 / held_out.temperature(logits, _ANY_SCALE)
        judged.append((strength, scale, held_out.judge([head.scaled(scale) for head in heads], scale * logits)))
    chosen = int(np.argmin([judgment.nll for *_, judgment in judged]))
    strength, scale, best = judged[chosen]
    path = tuple(PathPoint(at, each.nll, each.nll_error, each.accuracy) for at, _, each in judged)

    def final(data: TrainingSet) -> Linear:
        return solve(data, (strength,), None)[0].scaled(scale)

    logits = held_out.logits(best.heads, data.features[0])
    return Choice(kind, False, best.nll, held_out.brier(logits), logits, final, path, chosen, scale)
