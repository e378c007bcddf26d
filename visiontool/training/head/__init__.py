"""The linear head behind a frozen backbone: solved on embeddings, chosen and calibrated on held-out pictures."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from visiontool.errors import DataError
from visiontool.training.head import select
from visiontool.training.head.features import Features, candidates
from visiontool.training.head.logistic import Balance, Balancing, Space
from visiontool.training.head.select import STRENGTHS, Choice, HeldOut, PathPoint, TrainingSet

__all__ = ["Balance", "Features", "Head", "HeadOptions", "Kind", "PathPoint", "Solution", "Transforms", "solve"]

Kind = Literal["auto", "logistic", "lda", "means"]
Transforms = Literal["auto", "none", "power"]

_IN_DOUBT = 1.0  # standard errors
_NAMES = {"logistic": "logistic regression", "lda": "linear discriminant analysis", "means": "nearest class means"}


@dataclass(frozen=True)
class Head:
    """A linear head on features of a backbone's outputs: probabilities = softmax(logits / temperature)."""

    weight: NDArray[np.float32]  # (C, F)
    bias: NDArray[np.float32]  # (C,)
    temperature: float
    features: Features

    def logits(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """(..., C) of outputs (..., D)."""
        logits: NDArray[np.float32] = self.features.of(outputs) @ self.weight.T + self.bias
        return logits


class HeadOptions(NamedTuple):
    """What a head is to be."""

    kind: Kind = "auto"  # logistic regression, linear discriminant analysis, or nearest class means
    transform: Transforms = "auto"  # of `Features`
    stages: int | None = None  # how many of the network's outputs it sees; None to choose
    balance: Balance = "auto"  # see `logistic.Balancing`


_ANY = HeadOptions()


class Candidate(NamedTuple):
    """One way to make a head, at its best on held-out pictures."""

    kind: str
    transform: str
    stages: int
    brier: float
    nll: float
    accuracy: float


@dataclass(frozen=True)
class Solution:
    """A head and how it was chosen."""

    head: Head
    kind: str  # "logistic", "lda" or "means"
    balance: str  # what was done: "none", "weights" or "logit-adjust"
    all_views: bool  # False: the plain view alone is better on held-out pictures
    path: tuple[PathPoint, ...]  # of penalties or shrinkages, from strong to weak; empty where none was judged
    chosen: int  # index of the chosen one in `path`; -1 where the head is none of it
    candidates: tuple[Candidate, ...]  # the best first
    notes: tuple[str, ...]  # what was chosen by itself and why, for the user
    scale: float  # by which the logits of linear discriminant analysis and of class means were multiplied
    # The logits (J, C), before temperature, and classes (J,) of the pictures by which it was chosen, if there were any.
    held_out: tuple[NDArray[np.float64], NDArray[np.int64]] | None = None
    extended: dict[str, Any] | None = None  # how a run that was extended did on its own pictures, before and after


def solve(
    outputs: NDArray[np.float32],
    class_ids: NDArray[np.int64],
    n_classes: int,
    groups: NDArray[np.int64],
    *,
    widths: Sequence[int] = (),
    options: HeadOptions = _ANY,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Solution:
    """The head for these pictures; what the options leave open is chosen on held-out pictures.

    Args:
        outputs: (N, V, D), finite; V views of each picture, view 0 as `predict` sees it.
        class_ids: (N,), each class at least once.
        groups: (N,) numbers; pictures of one group are never trained on to judge another of it.
        widths: of the network's outputs, side by side in `outputs`, the embedding first; none for the embedding alone.
        seed: of the split into folds.
        progress: called with the number of heads solved and of all; the latter is an estimate until the end.

    Raises:
        DataError: a class has no picture.
    """
    sizes = np.bincount(class_ids, minlength=n_classes)
    empty = np.flatnonzero(sizes == 0)
    if len(empty):
        raise DataError(f"{len(empty):,} of {n_classes:,} classes have no picture to train on, e.g. class {empty[0]}")
    widths = tuple(widths) or outputs.shape[2:]
    allowed = candidates(widths, None if options.transform == "auto" else options.transform, options.stages)
    balancing = Balancing.of(options.balance, sizes)
    # The threads of BLAS wait by spinning: on a busy machine that took fifteen times as long. `logistic` has its own.
    with threadpool_limits(1, user_api="blas"):
        held_out = HeldOut.of(class_ids, groups, balancing, seed)
        expected, done = held_out.count * (len(STRENGTHS) + 20) + 1, 0

        def tick(is_last: bool = False) -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, done if is_last else max(expected, done + 1))

        def data_of(features: Features, kind: str) -> tuple[TrainingSet, Space]:
            is_logistic = kind == "logistic"
            seen = features.of(outputs if is_logistic else outputs[:, :1])
            return TrainingSet.of(seen, class_ids, balancing, is_rotated=is_logistic)

        choices = [(select.unjudged(n_classes), allowed[0])]
        if len(held_out.judged):
            choices = _judged(options.kind, allowed, data_of, held_out, tick)
        choice, features = choices[0]
        temperature = held_out.temperature(choice.logits) if len(held_out.judged) else 1.0
        data, space = data_of(features, choice.kind)
        final = space.unfold(choice.final(data))
    tick(is_last=True)
    return Solution(
        head=Head(final.weight.astype(np.float32), final.bias.astype(np.float32), temperature, features),
        kind=choice.kind,
        balance=balancing.name if choice.kind != "means" else "none",
        all_views=choice.all_views,
        path=choice.path,
        chosen=choice.chosen,
        candidates=tuple(
            Candidate(
                each.kind,
                of.transform,
                len(of.widths),
                held_out.mean(each.losses)[0],
                each.nll,
                held_out.accuracy(each.logits),
            )
            for each, of in choices
            if len(held_out.judged)
        ),
        notes=tuple(_notes(choices, options.balance, balancing, held_out)),
        scale=choice.scale,
        held_out=(choice.logits, class_ids[held_out.judged]) if len(held_out.judged) else None,
    )


def _judged(
    kind: Kind,
    allowed: Sequence[Features],
    data_of: Callable[[Features, str], tuple[TrainingSet, Space]],
    held_out: HeldOut,
    tick: Callable[[], None],
) -> list[tuple[Choice, Features]]:
    """All that was tried, the best first; in doubt that is logistic regression on the embedding, which timm can load.

    What is solved in closed form tries the features in turn, to where more stages are no better than fewer. Logistic
    regression takes the most time and gains less by other features than the embedding, so it tries those if alone.
    """

    def loss(one: tuple[Choice, Features]) -> float:
        return held_out.mean(one[0].losses)[0]

    solve, name = (select.best_means, "means") if kind == "means" else (select.best_gaussian, "lda")
    tried: list[tuple[Choice, Features]] = []
    for features in allowed:
        tried.append((solve(data_of(features, name)[0], held_out, tick), features))
        if len(features.widths) > 1 and min(tried, key=loss) is not tried[-1]:
            break
    if kind in ("auto", "logistic"):
        best = allowed[0] if kind == "auto" else min(tried, key=loss)[1]
        logistic = [
            (select.best_logistic(data_of(features, "logistic")[0], held_out, tick), features)
            for features in dict.fromkeys((allowed[0], best))
        ]
        tried = logistic if kind == "logistic" else [*logistic, *tried]
    ordered = sorted(tried, key=loss)
    if kind == "auto" and not held_out.is_better(ordered[0][0].losses, tried[0][0].losses, _IN_DOUBT):
        ordered.sort(key=lambda each: each is not tried[0])
    return ordered


def _notes(
    choices: Sequence[tuple[Choice, Features]], balance: str, balancing: Balancing, held_out: HeldOut
) -> Iterator[str]:
    smallest, largest, choice = balancing.sizes.min(), balancing.sizes.max(), choices[0][0]
    if len(held_out.judged):
        others = [one for one in choices if one[0].kind != choice.kind]
        (first, loss), *rest = (
            (f"{_NAMES[each.kind]} on {of}", f"{held_out.mean(each.losses)[0]:.3f}")
            for each, of in (choices[0], *others[:1])
        )
        than = "".join(f" ({other}: {more})" for other, more in rest)
        yield f"head: {first}, Brier score {loss} on held-out pictures{than}"
    if balance == "auto" and balancing.name != "none" and choice.kind != "means":
        yield (
            f"the largest class has {largest:,} pictures to train on and the smallest {smallest:,}: logits are adjusted"
            " so that no class is favored for its size (--balance none turns it off)"
        )
    if balance not in ("auto", "none") and choice.kind == "means":
        yield f"--balance {balance} does not change class means: they favor no class for its size"
    if not len(held_out.judged):
        yield (
            "too few pictures to hold some out: the head, nearest class means, is unproven and its probabilities are"
            " not calibrated; more pictures of each class change that"
        )
        return
    unjudged = np.setdiff1d(held_out.class_ids, held_out.class_ids[held_out.judged])
    if len(unjudged):
        yield (
            f"{len(unjudged):,} of {len(balancing.sizes):,} classes have too few pictures to hold some out: how well"
            " they are recognized played no part in the choices"
        )
    if choice.kind == "logistic" and not choice.all_views:
        yield "only the plain view is used: held-out pictures are recognized better without the others"
