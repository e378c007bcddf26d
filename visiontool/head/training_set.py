"""What heads are trained on."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontool.head.balance import Balancing
from visiontool.head.logistic import Linear, fit


class Rows(NamedTuple):
    """Views of pictures, one a row."""

    features: NDArray[np.float32]  # (M, R)
    class_ids: NDArray[np.int64]  # (M,)
    weights: NDArray[np.float64]  # (M,)


@dataclass(frozen=True)
class TrainingSet:
    """The features of all views of all pictures, and their classes."""

    features: NDArray[np.float32]  # (V, N, R)
    class_ids: NDArray[np.int64]  # (N,)
    balance: Balancing

    @property
    def n_classes(self) -> int:
        """How many classes there are."""
        return len(self.balance.sizes)

    def rows(self, all_views: bool, pictures: NDArray[np.int64] | None = None) -> Rows:
        """All views, or view 0 alone, of `pictures` (None for all). The views of a picture weigh as much as one."""
        features = self.features if all_views else self.features[:1]
        class_ids, weights = self.class_ids, self.balance.training_weights(self.class_ids)
        if pictures is not None:
            features, class_ids, weights = features[:, pictures], class_ids[pictures], weights[pictures]
        views, count, width = features.shape
        return Rows(features.reshape(views * count, width), np.tile(class_ids, views), np.tile(weights / views, views))

    def logistic(
        self,
        strength: float,
        all_views: bool,
        pictures: NDArray[np.int64] | None = None,
        *,
        start: Linear | None = None,
        tolerance: float,
    ) -> Linear:
        """The logistic head of `rows`."""
        features, class_ids, weights = self.rows(all_views, pictures)
        return fit(
            features,
            class_ids,
            weights,
            strength,
            self.n_classes,
            log_prior=self.balance.log_prior,
            start=start,
            tolerance=tolerance,
        )
