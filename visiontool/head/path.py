"""The path of regularization, from strong to weak: the strength with the smallest loss on held-out pictures."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from visiontool.head.held_out import HeldOut, Judgment
from visiontool.head.logistic import Linear
from visiontool.head.solved import Step
from visiontool.head.training_set import TrainingSet

# The best was between 0.05 and 0.8 for 244 to 60,000 pictures and three networks: features have a mean length of one,
# and the penalty is compared with the sum over the pictures.
USUAL_STRENGTH = 0.3
# From a head that hardly dares to say anything to one that is hardly held back.
STRENGTHS = np.logspace(3, -4, 12)
_HALF_STEP = float(np.sqrt(STRENGTHS[0] / STRENGTHS[1]))
_WORSE = 1.02  # times the smallest loss so far: what is weaker than two such points in a row is not tried
_TOLERANCE = 1e-4  # ten times tighter changes no held-out loss in the third digit


class Point(NamedTuple):
    """One strength, judged."""

    strength: float
    judgment: Judgment

    @property
    def step(self) -> Step:
        """What is reported of it."""
        return Step(self.strength, self.judgment.nll, self.judgment.nll_error, self.judgment.accuracy)


def follow(
    data: TrainingSet, held_out: HeldOut, all_views: bool, fitted: Callable[[], None]
) -> tuple[list[Point], int]:
    """The points judged, from strong to weak, and the index of the best: the one with the smallest loss.

    Not the strongest within a standard error of it: on pictures of neither part that had a larger loss on each of five
    sets, and its accuracy was mixed.

    Args:
        fitted: called after each head.
    """
    points: list[Point] = []
    start: Sequence[Linear] | None = None
    for strength in STRENGTHS:
        points.append(judged_at(float(strength), data, held_out, all_views, start, fitted))
        start = points[-1].judgment.heads
        smallest = min(point.judgment.nll for point in points)
        if min(point.judgment.nll for point in points[-2:]) > _WORSE * smallest:
            break
    best = min(points, key=_nll)
    for strength in (best.strength * _HALF_STEP, best.strength / _HALF_STEP):
        points.append(judged_at(strength, data, held_out, all_views, best.judgment.heads, fitted))
    points.sort(key=lambda point: -point.strength)
    return points, points.index(min(points, key=_nll))


def judged_at(
    strength: float,
    data: TrainingSet,
    held_out: HeldOut,
    all_views: bool,
    start: Sequence[Linear] | None,
    fitted: Callable[[], None],
) -> Point:
    """The heads of all rounds at `strength`, judged."""
    heads = []
    for training, begin in zip(held_out.training(), start or (None,) * held_out.count, strict=True):
        heads.append(data.logistic(strength, all_views, training, start=begin, tolerance=_TOLERANCE))
        fitted()
    return Point(strength, held_out.judge(heads, data.features[0]))


def _nll(point: Point) -> float:
    return point.judgment.nll
