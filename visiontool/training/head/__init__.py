"""The linear head behind a frozen backbone: solved on embeddings, chosen and calibrated on held-out pictures."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from visiontool.errors import DataError
from visiontool.text import plural
from visiontool.training.head import select
from visiontool.training.head.logistic import Balance, Balancing, Space
from visiontool.training.head.select import STRENGTHS, Choice, HeldOut, PathPoint, TrainingSet

__all__ = ["Balance", "Head", "PathPoint", "Solution", "solve"]

_FEW_SHOT = 5  # pictures of the smallest class, up to which both kinds of head are tried


@dataclass(frozen=True)
class Head:
    """A linear head: logits = embedding @ weight.T + bias, probabilities = softmax(logits / temperature)."""

    weight: NDArray[np.float32]  # (C, D)
    bias: NDArray[np.float32]  # (C,)
    temperature: float


@dataclass(frozen=True)
class Solution:
    """A head and how it was chosen."""

    head: Head
    kind: str  # "logistic" or "nearest-mean"
    balance: str  # what was done: "none", "weights" or "logit-adjust"
    all_views: bool  # False: the plain view alone is better on held-out pictures
    path: tuple[PathPoint, ...]  # of logistic regression, from strong to weak; empty where none was judged
    chosen: int  # index of the chosen one in `path`; -1 where the head is none of it
    notes: tuple[str, ...]  # what was chosen by itself and why, for the user


def solve(
    embeddings: NDArray[np.float32],
    class_ids: NDArray[np.int64],
    n_classes: int,
    groups: NDArray[np.int64],
    *,
    balance: Balance = "auto",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Solution:
    """The head for these pictures: logistic regression, or nearest class means where these are better for few.

    Args:
        embeddings: (N, V, D), finite; V views of each picture, view 0 as `predict` sees it.
        class_ids: (N,), each class at least once.
        groups: (N,) numbers; pictures of one group are never trained on to judge another of it.
        balance: see `logistic.Balancing`.
        seed: of the split into folds.
        progress: called with the number of heads solved and of all; the latter is an estimate until the end.

    Raises:
        DataError: a class has no picture.
    """
    sizes = np.bincount(class_ids, minlength=n_classes)
    empty = np.flatnonzero(sizes == 0)
    if len(empty):
        raise DataError(f"{len(empty):,} of {n_classes:,} classes have no picture to train on, e.g. class {empty[0]}")
    balancing = Balancing.of(balance, sizes)
    # The threads of BLAS wait by spinning: on a busy machine that took fifteen times as long. `logistic` has its own.
    with threadpool_limits(1, user_api="blas"):
        space = Space.of(embeddings.reshape(-1, embeddings.shape[2]))
        data = TrainingSet(space.project(embeddings), class_ids, balancing)
        held_out = HeldOut.of(class_ids, groups, balancing, seed)
        expected, done = held_out.count * (len(STRENGTHS) + 4) + 1, 0

        def tick(is_last: bool = False) -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, done if is_last else max(expected, done + 1))

        if len(held_out.judged):
            choice = select.best_logistic(data, held_out, tick)
            if sizes.min() <= _FEW_SHOT:
                choice = min(choice, select.best_nearest_mean(data, held_out), key=lambda each: each.nll)
            temperature = held_out.temperature(choice.logits)
        else:
            choice, temperature = select.unjudged(data), 1.0
        final = space.unfold(choice.final())
    tick(is_last=True)
    return Solution(
        head=Head(final.weight.astype(np.float32), final.bias.astype(np.float32), temperature),
        kind=choice.kind,
        balance=balancing.name if choice.kind == "logistic" else "none",
        all_views=choice.all_views,
        path=choice.path,
        chosen=choice.chosen,
        notes=tuple(_notes(choice, balance, balancing, held_out)),
    )


def _notes(choice: Choice, balance: str, balancing: Balancing, held_out: HeldOut) -> Iterator[str]:
    smallest, largest = balancing.sizes.min(), balancing.sizes.max()
    is_logistic = choice.kind == "logistic"
    if balance == "auto" and balancing.name != "none" and is_logistic:
        yield (
            f"the largest class has {largest:,} pictures to train on and the smallest {smallest:,}: logits are adjusted"
            " so that no class is favored for its size (--balance none turns it off)"
        )
    if balance not in ("auto", "none") and not is_logistic:
        yield f"--balance {balance} does not change how a {choice.kind} head is made: it favors no class for its size"
    if not len(held_out.judged):
        yield (
            f"too few pictures to hold some out: the {choice.kind} head is unproven and its probabilities are not"
            " calibrated; more pictures of each class change that"
        )
        return
    unjudged = np.setdiff1d(held_out.class_ids, held_out.class_ids[held_out.judged])
    if len(unjudged):
        yield (
            f"{len(unjudged):,} of {len(balancing.sizes):,} classes have too few pictures to hold some out: how well"
            " they are recognized played no part in the choices"
        )
    if smallest <= _FEW_SHOT:
        other = "nearest-mean" if is_logistic else "logistic"
        yield f"the smallest class has {plural(smallest, 'picture')}: the {choice.kind} head is best (not {other})"
    if not choice.all_views:
        yield "only the plain view is used: held-out pictures are recognized better without the others"
