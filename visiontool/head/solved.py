"""What a solved head is, and what is known of how it was chosen."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Head:
    """A linear head: logits = embedding @ weight.T + bias, probabilities = softmax(logits / temperature)."""

    weight: NDArray[np.float32]  # (C, D)
    bias: NDArray[np.float32]  # (C,)
    temperature: float


class Step(NamedTuple):
    """One point of the path of regularization, judged on held-out pictures.

    Where classes are balanced, nll and accuracy are those of equally frequent classes.
    """

    strength: float  # of the L2 penalty, as `logistic.fit` takes it: scikit-learn's 1 / C on features of mean length 1
    nll: float  # mean over the pictures, natural logarithm
    nll_error: float  # its standard error
    accuracy: float


@dataclass(frozen=True)
class Solved:
    """A head and how it was chosen."""

    head: Head
    kind: str  # "logistic" or "nearest-mean"
    balance: str  # what was done: "none", "weights" or "logit-adjust"
    all_views: bool  # False: held-out pictures said that the plain view alone is better
    path: tuple[Step, ...]  # of logistic regression, from strong to weak; empty where none was judged
    chosen: int  # index of the chosen one in `path`; -1 where the head is none of it
    held_out: NDArray[np.float32]  # (N, C) logits, before temperature, of heads that never saw the picture: its
    # view 0. Rows of NaN: pictures that every head was trained on (all but a fifth of large datasets, and a class's
    # only picture)
    notes: tuple[str, ...]  # what was chosen by itself and why, for the user
