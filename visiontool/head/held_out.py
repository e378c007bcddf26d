"""Which pictures are held out, and what a head that never saw them says of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from visiontool.dataset import folds
from visiontool.head import calibration
from visiontool.head.balance import Balancing
from visiontool.head.logistic import Linear

FOLDS = 5
_FEW_PICTURES = 2000  # from here on a fifth of the pictures says enough, and the other folds are left out


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
        losses = self.losses(logits)
        accuracy, _ = self.mean(logits.argmax(axis=1) == self.class_ids[self.judged])
        return Judgment(tuple(heads), losses, *self.mean(losses), accuracy)

    def losses(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """(J,) cross-entropy of the logits (J, C) of the judged pictures."""
        log_p: NDArray[np.float64] = log_softmax(logits, axis=1)
        return -log_p[np.arange(len(logits)), self.class_ids[self.judged]]

    def mean(self, values: NDArray[np.float64] | NDArray[np.bool_]) -> tuple[float, float]:
        """The mean over the judged pictures of values (J,), and its standard error."""
        total = self.weights.sum()
        mean = float(self.weights @ values / total)
        return mean, float(np.sqrt(np.sum((self.weights * (values - mean)) ** 2)) / total)

    def temperature(
        self,
        logits: NDArray[np.float64],
        lowest: float = calibration.LOWEST,
        highest: float = calibration.HIGHEST,
    ) -> float:
        """The temperature that fits the logits (J, C) of the judged pictures."""
        targets = self.class_ids[self.judged]
        return calibration.temperature(logits, targets, self.weights, lowest=lowest, highest=highest)


def _rounds(class_ids: NDArray[np.int64], groups: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """In which round each picture is judged; all -1 where fewer than two classes could be."""
    never = np.full(len(class_ids), -1)
    pairs = np.unique(np.stack([class_ids, groups]), axis=1)
    count = min(FOLDS, int(np.bincount(pairs[0]).max()))  # a class of as many groups can be in every round
    if count < 2:
        return never
    rounds = np.array(folds(class_ids, groups, count, seed), np.int64)
    if len(class_ids) >= _FEW_PICTURES:
        rounds[rounds > 0] = -1
    if len(np.unique(class_ids[rounds >= 0])) < 2:
        return never
    judging, renumbered = np.unique(rounds, return_inverse=True)
    return renumbered - int(judging[0] < 0)
