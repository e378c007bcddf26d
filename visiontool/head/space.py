"""The coordinates in which heads are solved: centered, of mean length one, few and uncorrelated."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from visiontool.head.logistic import Linear

_SAME = 1e-7
_NOTHING = 1e-10  # of the squares, along a direction: more exact than the embeddings themselves
_ROWS = 8192  # at a time, so that float64 copies stay small
_MOST_SAMPLED = 1 << 14  # rows from which the directions are found: they need not be exact to be an exact rotation


@dataclass(frozen=True)
class Space:
    """An exact change of coordinates: z = (x - mean) / scale @ basis.

    One scale for all directions, not one for each feature: what varies little in a trained network's embedding
    says little, and stretching it costs likelihood on held-out pictures of four of five sets measured.
    """

    mean: NDArray[np.float64]  # (D,)
    scale: float  # root of the mean squared distance from the mean, so that `strength` means the same for any network
    basis: NDArray[np.float64]  # (D, R), orthonormal; it spans all rows, so an L2 solution in it is that in all of D

    @classmethod
    def of(cls, embeddings: NDArray[np.float32]) -> "Space":
        """The space of embeddings (N, D)."""
        count, width = embeddings.shape
        mean = embeddings.mean(axis=0, dtype=np.float64)
        squares = sum(float(np.sum((_block(embeddings, first) - mean) ** 2)) for first in range(0, count, _ROWS))
        scale = float(np.sqrt(squares / count))
        if scale <= _SAME * float(np.linalg.norm(mean)):  # nothing but rounding: all pictures have the same embedding
            scale = 1.0
        if count >= width:
            sampled = embeddings[:: -(-count // _MOST_SAMPLED)] - mean
            return cls(mean, scale, np.linalg.eigh(sampled.T @ sampled)[1])
        centered = embeddings - mean
        squares_along, combinations = np.linalg.eigh(centered @ centered.T)
        kept = squares_along > _NOTHING * count * scale**2
        return cls(mean, scale, centered.T @ (combinations[:, kept] / np.sqrt(squares_along[kept])))

    def features(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """(V, N, R) of embeddings (N, V, D): views first, so that one view and all views are both one block."""
        count, views, _ = embeddings.shape
        to = self.basis / self.scale
        features = np.empty((views, count, to.shape[1]), np.float32)
        for view in range(views):
            for first in range(0, count, _ROWS):
                features[view, first : first + _ROWS] = (_block(embeddings[:, view], first) - self.mean) @ to
        return features

    def unfold(self, head: Linear) -> Linear:
        """The head that gives of embeddings what `head` gives of features."""
        weight = head.weight @ self.basis.T / self.scale
        return Linear(weight, head.bias - weight @ self.mean)


def _block(embeddings: NDArray[np.float32], first: int) -> NDArray[np.float64]:
    return embeddings[first : first + _ROWS].astype(np.float64)
