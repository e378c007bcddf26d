"""Folds for cross-validation."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from visiontool.dataset.faults import Unusable
from visiontool.dataset.grouping import Classes
from visiontool.dataset.samples import Dataset
from visiontool.dataset.wording import told
from visiontool.errors import UsageError


def folds(
    class_ids: Sequence[int] | NDArray[np.integer],
    groups: Sequence[int] | NDArray[np.integer],
    count: int,
    seed: int,
) -> NDArray[np.intp]:
    """The fold of each picture, 0 to `count` - 1: groups are whole, and each fold has its share of each class.

    A class with fewer groups than there are folds is not in all of them; one with two groups of its own is never in one
    fold alone, so that something is left to learn from. scikit-learn's StratifiedGroupKFold takes 30 times as long for
    12,000 groups, warns of rare classes and refuses more folds than a class has pictures.

    Raises:
        UsageError: `count` is less than 2.
    """
    if count < 2:
        raise UsageError(f"{count} folds: expected at least 2")
    group_list = np.asarray(groups).tolist()
    classes = Classes(np.asarray(class_ids).tolist(), group_list, seed)
    fold_of: dict[int, int] = {}
    shares = {class_id: [0.0] * count for class_id in classes.totals}  # of the class in each fold
    pictures = [0] * count
    for _, its_groups in classes.rare_first:
        for group in sorted(its_groups, key=lambda group: -sum(classes.of_group[group].values())):
            if group in fold_of:
                continue
            held = classes.of_group[group]
            fold = min(range(count), key=lambda fold: (sum(shares[held_id][fold] for held_id in held), pictures[fold]))
            fold_of[group] = fold
            for class_id, number in held.items():
                shares[class_id][fold] += number / classes.totals[class_id]
                pictures[fold] += number
    return np.array([fold_of[group] for group in group_list], np.intp)


def check_folds(dataset: Dataset, indices: NDArray[np.intp], groups: NDArray[np.integer]) -> None:
    """Passes samples of which every class can be learned without any one fold.

    Args:
        indices: Of the samples that are to be in folds.
        groups: (N,), of all samples of the dataset.

    Raises:
        Unusable: a class has one group of pictures only.
    """
    groups_of: dict[int, set[int]] = {}
    for index in indices.tolist():
        groups_of.setdefault(dataset.samples[index].class_id, set()).add(int(groups[index]))
    alone = [dataset.labels[class_id] for class_id, held in sorted(groups_of.items()) if len(held) == 1]
    if alone:
        fault = told(
            alone,
            "class cannot be in two folds, its pictures being one, one group or the same picture",
            "classes cannot be in two folds, the pictures of each being one, one group or the same picture",
        )
        raise Unusable(dataset.root, [fault], "Add other pictures, or leave out --folds.")
