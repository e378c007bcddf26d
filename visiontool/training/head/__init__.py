"""The linear head behind a frozen backbone: solved on embeddings, chosen and calibrated on held-out pictures."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from visiontool.errors import DataError, UsageError
from visiontool.training.head import balance as balances
from visiontool.training.head import select
from visiontool.training.head.balance import Balance, Balancing
from visiontool.training.head.logistic import Space
from visiontool.training.head.select import KINDS, STRENGTHS, Choice, HeldOut, Kind, PathPoint, TrainingSet

__all__ = ["KINDS", "Balance", "Head", "Kind", "PathPoint", "Solution", "solve"]

_FEW_SHOT = 5  # pictures of the smallest class, up to which "auto" tries all kinds


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
    held_out: NDArray[np.float32]  # (N, C) logits, before temperature, of heads that never saw the picture: its
    # view 0. Rows of NaN: pictures that every head was trained on (all but a fifth of large datasets, and a class's
    # only picture)
    notes: tuple[str, ...]  # what was chosen by itself and why, for the user


def solve(
    embeddings: NDArray[np.float32],
    class_ids: NDArray[np.int64],
    n_classes: int,
    groups: NDArray[np.int64],
    *,
    balance: Balance = "auto",
    kind: Kind | Literal["auto"] = "auto",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Solution:
    """The head for these pictures.

    Args:
        embeddings: (N, V, D), V views of each picture, view 0 as `predict` sees it.
        class_ids: (N,), each class at least once.
        groups: (N,) numbers; pictures of one group are never trained on to judge another of it.
        balance: see `balance.Balancing`; "auto" adjusts where classes are very uneven.
        kind: "auto": logistic regression, and where a class has 5 pictures or fewer the best of `KINDS`.
        seed: of the split into folds.
        progress: called with the number of heads solved and of all; the latter is an estimate until the end.

    Raises:
        DataError: an embedding is not finite, or a class has no picture.
        UsageError: no such `balance` or `kind`.
    """
    if kind not in ("auto", *KINDS):
        raise UsageError(f"kind {kind!r} is none of auto, {', '.join(KINDS)}")
    broken = np.flatnonzero(~np.isfinite(embeddings).all(axis=(1, 2)))
    if len(broken):
        raise DataError(
            f"the model's embedding of {len(broken):,} of {len(embeddings):,} pictures is not finite, e.g. of picture"
            f" {broken[0]}; use another model, or one that is not reduced in precision"
        )
    sizes = np.bincount(class_ids, minlength=n_classes)
    empty = np.flatnonzero(sizes == 0)
    if len(empty):
        raise DataError(f"{len(empty):,} of {n_classes:,} classes have no picture to train on, e.g. class {empty[0]}")
    balancing = balances.choose(balance, sizes)
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
            kinds = (kind,) if kind != "auto" else KINDS if balancing.sizes.min() <= _FEW_SHOT else ("logistic",)
            best = {
                "logistic": lambda: select.best_logistic(data, held_out, tick),
                "nearest-mean": lambda: select.best_nearest_mean(data, held_out),
            }
            choice = min((best[each]() for each in kinds), key=lambda each: each.nll)
            temperature = held_out.temperature(choice.logits)
        else:
            choice, temperature = select.unjudged("nearest-mean" if kind == "auto" else kind, data), 1.0
        final = space.unfold(choice.final())
    logits = np.full((len(class_ids), n_classes), np.nan, np.float32)
    logits[held_out.judged] = choice.logits
    tick(is_last=True)
    return Solution(
        head=Head(final.weight.astype(np.float32), final.bias.astype(np.float32), temperature),
        kind=choice.kind,
        balance=balancing.name if choice.kind == "logistic" else "none",
        all_views=choice.all_views,
        path=choice.path,
        chosen=choice.chosen,
        held_out=logits,
        notes=tuple(_notes(choice, balance, kind, balancing, held_out)),
    )


def _notes(choice: Choice, balance: str, kind: str, balancing: Balancing, held_out: HeldOut) -> Iterator[str]:
    """What the user should know: what "auto" chose, and what an option did not change."""
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
    if kind == "auto" and smallest <= _FEW_SHOT:
        others = ", ".join(each for each in KINDS if each != choice.kind)
        yield f"the smallest class has {smallest} of the pictures: the {choice.kind} head is best (not {others})"
    if not choice.all_views:
        yield "only the plain view is used: held-out pictures are recognized better without the others"
