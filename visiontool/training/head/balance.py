"""Classes of very different sizes: what is done about them in training, and how held-out pictures count then."""

from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from visiontool.errors import UsageError

Balance = Literal["auto", "none", "weights", "logit-adjust"]
_MOST_UNEVEN = 10  # largest class / smallest, above which "auto" adjusts


class Balancing(NamedTuple):
    """What is done about classes of different sizes.

    "none": pictures count the same, and probabilities are right where classes are as frequent as in training.
    "weights": classes count the same: a picture of class c weighs n / (C n_c).
    "logit-adjust": the logarithm of each class's share is added to its logit in training and left out afterwards, so
    that the logits are those of equally frequent classes.

    Source: for logit adjustment, Menon et al. 2021, "Long-tail learning via logit adjustment", arXiv:2007.07314,
    the logit adjusted softmax cross-entropy with tau = 1.
    """

    name: str
    sizes: NDArray[np.int64]  # (C,) pictures of each class

    @property
    def log_prior(self) -> NDArray[np.float64]:
        """(C,) to be added to the logits in training."""
        if self.name == "logit-adjust":
            return np.asarray(np.log(self.sizes / self.sizes.sum()))
        return np.zeros(len(self.sizes))

    def training_weights(self, class_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """(N,) weight of each picture in training, 1 on average."""
        return _equal(class_ids, self.sizes) if self.name == "weights" else np.ones(len(class_ids))

    def judging_weights(self, class_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """(N,) weight of each held-out picture: a balanced head is judged for equally frequent classes."""
        if self.name == "none":
            return np.ones(len(class_ids))
        return _equal(class_ids, np.bincount(class_ids, minlength=len(self.sizes)))


def choose(name: str, sizes: NDArray[np.int64]) -> Balancing:
    """The balance called `name`, where "auto" is decided by the `sizes` of the classes."""
    if name not in get_args(Balance):
        raise UsageError(f"balance {name!r} is none of {', '.join(get_args(Balance))}")
    if name == "auto":
        name = "logit-adjust" if sizes.max() > _MOST_UNEVEN * sizes.min() else "none"
    return Balancing(name, sizes)


def _equal(class_ids: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = 1 / sizes[class_ids]
    return weights * (len(class_ids) / weights.sum()) if len(class_ids) else weights
