"""A head for classes of a few pictures: the nearest class mean."""

import numpy as np
from numpy.typing import NDArray

from visiontool.head.logistic import Linear

# Cosines lie between -1 and 1. Times this, softmax is neither bold nor shy where a class has one picture (measured on
# five sets); where pictures can be held out, they say it.
_COSINE_SCALE = 5.0


def nearest_mean(
    features: NDArray[np.floating], class_ids: NDArray[np.int64], weights: NDArray[np.float64], n_classes: int
) -> Linear:
    """Scores features (N, R) by the cosine between a class's mean and them, but for their own length.

    Features are centered. Dividing by a picture's own length would not be linear; it changes how sure the head is,
    never what it says.

    Source: Wang et al. 2019, "SimpleShot", arXiv:1911.04623, section 3, centering and L2 normalization.
    """
    of_class = (class_ids == class_id for class_id in range(n_classes))
    means = np.stack([np.average(features[rows], axis=0, weights=weights[rows]) for rows in of_class])
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    return Linear(_COSINE_SCALE * means / np.where(lengths > 0, lengths, 1.0), np.zeros(n_classes))
