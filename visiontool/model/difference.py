"""How far two forms of one network are apart: inputs and batch sizes to compare them on, and a measure."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BATCHES = (1, 2, 7, 32)
_MAX_PIXELS = 32 * 320 * 320  # in one run; the output of VGG's first layer takes 0.84 GB for them


def batches_for(size: tuple[int, int], batches: Sequence[int] = BATCHES) -> tuple[int, ...]:
    """Those of `batches` that a network for pictures of `size` (H, W) runs in a few GB of memory."""
    return tuple(batch for batch in batches if batch <= 2 or batch * size[0] * size[1] <= _MAX_PIXELS)


def padded(pixels: Sequence[NDArray[np.uint8]], count: int) -> NDArray[np.uint8]:
    """`count` different inputs, (count, H, W, 3): pictures of one size, padded with flips and shifts of them."""
    inputs, shift = list(pixels), 0
    step = max(1, pixels[0].shape[0] // 16)
    while len(inputs) < count:
        shift += 1
        inputs += [np.roll(picture[:, :: (-1) ** shift], shift * step, axis=0) for picture in pixels]
    return np.stack(inputs[:count])


def relative_l2(expected: NDArray[Any], actual: NDArray[Any]) -> float:
    """The length of the difference as a share of that of `expected`; infinite where only one is not finite."""
    if not (np.isfinite(expected).all() and np.isfinite(actual).all()):
        return 0.0 if np.array_equal(expected, actual, equal_nan=True) else math.inf
    expected, actual = expected.astype(np.float64), actual.astype(np.float64)
    return float(np.linalg.norm(actual - expected)) / max(float(np.linalg.norm(expected)), 1e-12)
