"""What linear discriminant analysis makes of each picture when it has not seen it."""

from concurrent.futures import ThreadPoolExecutor
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from visiontool.data.loader import cores
from visiontool.data.splits import folds
from visiontool.training.head.gaussian import Statistics

_FOLDS = 5


def held_out_logits(
    features: NDArray[np.float32],
    class_ids: NDArray[np.int64],
    groups: NDArray[np.integer],
    shrinkage: float,
    seed: int,
) -> NDArray[np.float64]:
    """(N, C) of features (N, D) by the heads of five folds; nan for a class that is one group, which is in none."""
    fold_of, n_classes = folds(class_ids, groups, _FOLDS, seed), int(class_ids.max()) + 1
    rows = {fold: np.flatnonzero(fold_of == fold) for fold in np.unique(fold_of).tolist()}

    def known(of: NDArray[np.intp]) -> Statistics:
        return Statistics.of(features[of], class_ids[of], np.ones(len(of)), n_classes)

    def judged(fold: int) -> NDArray[np.float64]:
        others = reduce(Statistics.merged, (statistics[other] for other in rows if other != fold))
        (head,) = others.heads((shrinkage,), features.shape[1], is_balanced=False)
        return head.logits(features[rows[fold]])

    logits = np.full((len(features), n_classes), np.nan)
    in_folds = [fold for fold in rows if fold >= 0]
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(cores()) as pool:
        statistics = dict(zip(rows, pool.map(known, rows.values()), strict=True))
        for fold, found in zip(in_folds, pool.map(judged, in_folds), strict=True):
            logits[rows[fold]] = found
    return logits
