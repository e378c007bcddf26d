"""Which head: its kind, its views and its strength of regularization, chosen by pictures that it never saw."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from visiontool.data.dataset import folds
from visiontool.training.head.balance import Balancing
from visiontool.training.head.logistic import Linear, fit
from visiontool.training.head.temperature import BOUNDS, fit_temperature

Kind = Literal["logistic", "nearest-mean"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# From a head that hardly dares to say anything to one that is hardly held back.
STRENGTHS = np.logspace(3, -4, 12)
_HALF_STEP = float(np.sqrt(STRENGTHS[0] / STRENGTHS[1]))
# The best was between 0.05 and 0.8 for 244 to 60,000 pictures and three networks: features have a mean length of one,
# and the penalty is compared with the sum over the pictures.
_USUAL_STRENGTH = 0.3
_WORSE = 1.02  # times the smallest loss so far: what is weaker than two such points in a row is not tried
_TOLERANCE = 1e-4  # of the path: ten times tighter changes no held-out loss in the third digit
_FINAL_TOLERANCE = 1e-6

# Cosines lie between -1 and 1. Times this, softmax is neither bold nor shy where a class has one picture (measured on
# five sets); where pictures can be held out, they say it.
_COSINE_SCALE = 5.0
_ANY_SCALE = (1e-6, 1e6)

_FOLDS = 5
_FEW_PICTURES = 2000  # from here on a fifth of the pictures says enough, and the other folds are left out
_CLEARLY = 2.0  # standard errors


class Step(NamedTuple):
    """One point of the path of regularization, judged on held-out pictures.

    Where classes are balanced, nll and accuracy are those of equally frequent classes.
    """

    strength: float  # of the L2 penalty, as `logistic.fit` takes it: scikit-learn's 1 / C on features of mean length 1
    nll: float  # mean over the pictures, natural logarithm
    nll_error: float  # its standard error
    accuracy: float


@dataclass(frozen=True)
class TrainingSet:
    """The features of all views of all pictures, and their classes."""

    features: NDArray[np.float32]  # (V, N, R)
    class_ids: NDArray[np.int64]  # (N,)
    balance: Balancing

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

    def nearest_mean(self, all_views: bool, pictures: NDArray[np.int64] | None = None) -> Linear:
        """The head that gives the nearest class mean, of the same rows."""
        return nearest_mean(*self._rows(all_views, pictures), len(self.balance.sizes))

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


def nearest_mean(
    features: NDArray[np.floating], class_ids: NDArray[np.int64], weights: NDArray[np.float64], n_classes: int
) -> Linear:
    """Scores features (N, R) by the cosine between a class's mean and them, but for their own length.

    Features are centered. Dividing by a picture's own length would not be linear; it changes how sure the head is,
    never what it says.

    Source: Wang et al. 2019, "SimpleShot", arXiv:1911.04623, section 3, centering and L2 normalization.
    """
    of_class = (class_ids == class_id for class_id in range(n_classes))
    means = np.stack([np.average(features[rows], axis=0, weights=weights[rows]) for rows in of_class])
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    return Linear(_COSINE_SCALE * means / np.where(lengths > 0, lengths, 1.0), np.zeros(n_classes))


class Judgment(NamedTuple):
    """What held-out pictures say of one way to make a head."""

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
        rounds = _rounds(class_ids, groups, seed)
        judged = np.flatnonzero(rounds >= 0)
        return cls(class_ids, rounds, judged, balance.judging_weights(class_ids[judged]))

    @property
    def count(self) -> int:
        """How many rounds there are."""
        return int(self.rounds.max()) + 1

    def training(self) -> Iterator[NDArray[np.int64]]:
        """The indices of the pictures that each round is trained on."""
        return (np.flatnonzero(self.rounds != number) for number in range(self.count))

    def logits(self, heads: Sequence[Linear], features: NDArray[np.float32]) -> NDArray[np.float64]:
        """(J, C) of the judged pictures' features (N, R) of view 0, by the heads of their rounds."""
        logits = np.empty((len(self.judged), len(heads[0].bias)))
        for number, head in enumerate(heads):
            of_round = self.rounds[self.judged] == number
            logits[of_round] = head.logits(features[self.judged[of_round]])
        return logits

    def judge(self, heads: Sequence[Linear], features: NDArray[np.float32]) -> Judgment:
        """Judges the heads of the rounds by their `logits`."""
        logits = self.logits(heads, features)
        losses = self._losses(logits)
        accuracy, _ = self._mean(logits.argmax(axis=1) == self.class_ids[self.judged])
        return Judgment(tuple(heads), losses, *self._mean(losses), accuracy)

    def calibrated_nll(self, logits: NDArray[np.float64]) -> float:
        """The mean cross-entropy of the logits (J, C) at their best temperature."""
        return self._mean(self._losses(logits / self.temperature(logits)))[0]

    def temperature(self, logits: NDArray[np.float64], bounds: tuple[float, float] = BOUNDS) -> float:
        """The temperature that fits the logits (J, C) of the judged pictures."""
        return fit_temperature(logits, self.class_ids[self.judged], self.weights, bounds)

    def is_clearly_better(self, one: Judgment, other: Judgment) -> bool:
        """Whether the losses of `one` are smaller by more than chance."""
        difference, error = self._mean(other.losses - one.losses)
        return difference > _CLEARLY * error

    def _losses(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        log_p: NDArray[np.float64] = log_softmax(logits, axis=1)
        return -log_p[np.arange(len(logits)), self.class_ids[self.judged]]

    def _mean(self, values: NDArray[np.float64] | NDArray[np.bool_]) -> tuple[float, float]:
        """The mean over the judged pictures of values (J,), and its standard error."""
        total = self.weights.sum()
        mean = float(self.weights @ values / total)
        return mean, float(np.sqrt(np.sum((self.weights * (values - mean)) ** 2)) / total)


class Choice(NamedTuple):
    """One kind of head at its best."""

    kind: Kind
    all_views: bool
    nll: float  # held-out, at the best temperature; nan where nothing could be held out
    logits: NDArray[np.float64]  # (J, C) held-out, before temperature
    final: Callable[[], Linear]  # solves it on all pictures
    path: tuple[Step, ...] = ()
    chosen: int = -1


def choose(kind: Kind, data: TrainingSet, held_out: HeldOut, fitted: Callable[[], None]) -> Choice:
    """The best that `kind` can do; `fitted` is called after each head that takes time."""
    return _best_logistic(data, held_out, fitted) if kind == "logistic" else _best_nearest_mean(data, held_out)


def unjudged(kind: Kind, data: TrainingSet) -> Choice:
    """What `kind` does where nothing can be held out to choose by."""

    def final() -> Linear:
        return data.logistic(_USUAL_STRENGTH, True) if kind == "logistic" else data.nearest_mean(True)

    return Choice(kind, True, np.nan, np.empty((0, len(data.balance.sizes))), final)


def _best_logistic(data: TrainingSet, held_out: HeldOut, fitted: Callable[[], None]) -> Choice:
    def judged_at(strength: float, all_views: bool, start: Sequence[Linear] | None = None) -> Judgment:
        heads = []
        for training, begin in zip(held_out.training(), start or (None,) * held_out.count, strict=True):
            heads.append(data.logistic(strength, all_views, training, begin, _TOLERANCE))
            fitted()
        return held_out.judge(heads, data.features[0])

    all_views = True
    if len(data.features) > 1:
        every, plain = (judged_at(_USUAL_STRENGTH, way) for way in (True, False))
        all_views = not held_out.is_clearly_better(plain, every)
    path = _path(lambda strength, start: judged_at(strength, all_views, start))
    # Not the strongest within a standard error of the best: on pictures of neither part that had a larger loss on each
    # of five sets, and its accuracy was mixed.
    strength, best = min(path, key=lambda point: point[1].nll)

    def final() -> Linear:
        return data.logistic(strength, all_views, start=best.heads[-1])

    logits = held_out.logits(best.heads, data.features[0])
    steps = tuple(Step(at, judgment.nll, judgment.nll_error, judgment.accuracy) for at, judgment in path)
    chosen = [at for at, _ in path].index(strength)
    return Choice("logistic", all_views, held_out.calibrated_nll(logits), logits, final, steps, chosen)


def _path(
    judged_at: Callable[[float, Sequence[Linear] | None], Judgment],
) -> list[tuple[float, Judgment]]:
    """The strengths judged, from strong to weak: until it gets worse, and closer around the best.

    Args:
        judged_at: judges a strength, beginning at the heads of another.
    """
    path: list[tuple[float, Judgment]] = []
    for strength in STRENGTHS.tolist():
        path.append((strength, judged_at(strength, path[-1][1].heads if path else None)))
        nlls = [judgment.nll for _, judgment in path]
        if min(nlls[-2:]) > _WORSE * min(nlls):
            break
    strength, best = min(path, key=lambda point: point[1].nll)
    path += [(each, judged_at(each, best.heads)) for each in (strength * _HALF_STEP, strength / _HALF_STEP)]
    return sorted(path, key=lambda point: -point[0])


def _best_nearest_mean(data: TrainingSet, held_out: HeldOut) -> Choice:
    def judged(all_views: bool) -> tuple[Judgment, float]:
        heads = [data.nearest_mean(all_views, training) for training in held_out.training()]
        # It does not know how sure it may be: the held-out pictures say it.
        scale = 1 / held_out.temperature(held_out.logits(heads, data.features[0]), _ANY_SCALE)
        return held_out.judge([head.times(scale) for head in heads], data.features[0]), scale

    (best, scale), all_views = judged(True), True
    if len(data.features) > 1:
        plain, plain_scale = judged(False)
        if held_out.is_clearly_better(plain, best):
            best, scale, all_views = plain, plain_scale, False
    logits = held_out.logits(best.heads, data.features[0])
    return Choice("nearest-mean", all_views, best.nll, logits, lambda: data.nearest_mean(all_views).times(scale))


def _rounds(class_ids: NDArray[np.int64], groups: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """In which round each picture is judged; all -1 where fewer than two classes could be."""
    never = np.full(len(class_ids), -1)
    pairs = np.unique(np.stack([class_ids, groups]), axis=1)
    count = min(_FOLDS, int(np.bincount(pairs[0]).max()))  # a class of as many groups can be in every round
    if count < 2:
        return never
    rounds = np.array(folds(class_ids, groups, count, seed), np.int64)
    if len(class_ids) >= _FEW_PICTURES:
        rounds[rounds > 0] = -1
    if len(np.unique(class_ids[rounds >= 0])) < 2:
        return never
    judging, renumbered = np.unique(rounds, return_inverse=True)
    return renumbered - int(judging[0] < 0)
