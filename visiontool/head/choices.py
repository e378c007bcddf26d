"""The kinds of head, each at its best by what held-out pictures say."""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from visiontool.head.few_shot import nearest_mean
from visiontool.head.held_out import HeldOut, Judgment
from visiontool.head.logistic import Linear
from visiontool.head.path import USUAL_STRENGTH, follow, judged_at
from visiontool.head.solved import Step
from visiontool.head.training_set import TrainingSet

Kind = Literal["logistic", "nearest-mean"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_TOLERANCE = 1e-6
_ANY_SCALE = (1e-6, 1e6)
_CLEARLY = 2.0  # standard errors


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
    return _logistic(data, held_out, fitted) if kind == "logistic" else _nearest_mean(data, held_out)


def unjudged(kind: Kind, data: TrainingSet) -> Choice:
    """What `kind` does where nothing can be held out to choose by."""

    def final() -> Linear:
        if kind == "logistic":
            return data.logistic(USUAL_STRENGTH, True, tolerance=_TOLERANCE)
        return nearest_mean(*data.rows(True), data.n_classes)

    return Choice(kind, True, np.nan, np.empty((0, data.n_classes)), final)


def _logistic(data: TrainingSet, held_out: HeldOut, fitted: Callable[[], None]) -> Choice:
    all_views = True
    if len(data.features) > 1:
        every, plain = (judged_at(USUAL_STRENGTH, data, held_out, way, None, fitted) for way in (True, False))
        all_views = not _is_clearly_better(plain.judgment, every.judgment, held_out)
    points, chosen = follow(data, held_out, all_views, fitted)
    best = points[chosen]

    def final() -> Linear:
        start = best.judgment.heads[-1]
        return data.logistic(best.strength, all_views, start=start, tolerance=_TOLERANCE)

    logits = held_out.logits(best.judgment.heads, data.features[0])
    nll, _ = held_out.mean(held_out.losses(logits / held_out.temperature(logits)))
    return Choice("logistic", all_views, nll, logits, final, tuple(point.step for point in points), chosen)


def _nearest_mean(data: TrainingSet, held_out: HeldOut) -> Choice:
    def judge(all_views: bool) -> tuple[Judgment, float]:
        heads = [nearest_mean(*data.rows(all_views, training), data.n_classes) for training in held_out.training()]
        # It does not know how sure it may be: the held-out pictures say it.
        scale = 1 / held_out.temperature(held_out.logits(heads, data.features[0]), *_ANY_SCALE)
        return held_out.judge([head.times(scale) for head in heads], data.features[0]), scale

    (best, scale), all_views = judge(True), True
    if len(data.features) > 1:
        plain, plain_scale = judge(False)
        if _is_clearly_better(plain, best, held_out):
            best, scale, all_views = plain, plain_scale, False

    def final() -> Linear:
        return nearest_mean(*data.rows(all_views), data.n_classes).times(scale)

    logits = held_out.logits(best.heads, data.features[0])
    return Choice("nearest-mean", all_views, best.nll, logits, final)


def _is_clearly_better(plain: Judgment, every: Judgment, held_out: HeldOut) -> bool:
    """Whether the plain view alone is better than all by more than chance: mostly the others help a little."""
    gain, error = held_out.mean(every.losses - plain.losses)
    return gain > _CLEARLY * error
