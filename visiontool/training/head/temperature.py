"""The temperature that makes probabilities honest, found on pictures that the head never saw."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

BOUNDS = (0.05, 20.0)


def fit_temperature(
    logits: NDArray[np.floating],
    class_ids: NDArray[np.int64],
    weights: NDArray[np.float64],
    bounds: tuple[float, float] = BOUNDS,
) -> float:
    """The T for which softmax(logits / T) says least wrong of held-out pictures.

    It is what minimizes the cross-entropy, with 1 / (n + 2) of each target spread over all classes: where every
    held-out picture is right, the cross-entropy alone would be the smaller the lower T is, and n pictures do not
    show that fewer than about one in n is wrong.

    Args:
        logits: (N, C) of held-out pictures.
        weights: (N,) of the pictures.

    Source: Guo et al. 2017, "On calibration of modern neural networks", arXiv:1706.04599, section 4.2; for the targets,
    Platt 1999, "Probabilistic outputs for support vector machines".
    """
    share, spread = weights / weights.sum(), 1 / (len(logits) + 2)
    rows = np.arange(len(logits))

    def loss(log_temperature: float) -> float:
        log_p = log_softmax(logits / np.exp(log_temperature), axis=1)
        return -float(share @ ((1 - spread) * log_p[rows, class_ids] + spread * log_p.mean(axis=1)))

    found = minimize_scalar(loss, bounds=np.log(bounds), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))
