"""Series: pictures of one object or scene, told by their names, that a random split would tear apart."""

import re
from dataclasses import replace
from shlex import quote

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from visiontool.checking.finding import Finding, Looked
from visiontool.data.splits import folds, groups_of
from visiontool.inference.embeddings import nearest
from visiontool.training.head.gaussian import Statistics

Ints = NDArray[np.intp]

_FOLDER = "((?:[^/]+/)?"  # of the class: a series is of one class, and may be in several splits
_PATTERNS = (
    _FOLDER + r"[^/]*?)[ _-]?\(?\d+\)?\.\w+$",  # obj12_1.jpg, obj12_2.jpg
    _FOLDER + r"[^/]*)[_-][^/_-]*$",  # obj12_left.jpg, obj12_right.jpg
    _FOLDER + r"[^/_-]*)[_-][^/]*$",  # obj12_left_1.jpg
    _FOLDER + r"[^/]*\d)\d\.\w+$",  # IMG_0120.jpg to IMG_0129.jpg
    _FOLDER + r"[^/]*\d)\d\d\.\w+$",  # IMG_0100.jpg to IMG_0199.jpg
    r"([^/]*)/[^/]*$",  # folders, where a table gives the classes
)
# How much more often than by chance, of 1, the nearest picture of the class is of the same series: by
# benchmarks/check_copies.py 0.77 and more for series, at most 0.012 for public data (MNIST, by its hundreds).
_LEAST_SURPLUS = 0.15
_LEAST_ERRORS = 5.0  # standard errors above chance
_LARGE_DROP = 0.05  # of the accuracy
_FOLDS = 5
_SHRINKAGE = 0.3


def check_series(looked: Looked, seed: int) -> list[Finding]:
    """The series, if there are any, with the --group that keeps them together and what it does to the accuracy."""
    data, ids = looked.data, looked.class_ids
    if data.is_multilabel or any(sample.group for sample in data.samples) or len(np.unique(ids)) < 2:
        return []
    copies = np.array(looked.same, np.intp)
    near = np.arange(len(ids))
    for class_id in np.unique(ids).tolist():
        of_class = np.unique(copies[ids == class_id])  # one of each
        of_class = of_class[ids[of_class] == class_id]
        if len(of_class) > 1:
            near[of_class] = of_class[nearest(looked.embeddings[of_class], 1)[0][:, 0]]
    keys, surplus = {}, {}
    for pattern in _PATTERNS:
        matches = (re.search(pattern, sample.name) for sample in data.samples)
        keys[pattern] = [(match and match[1]) or None for match in matches]
        surplus[pattern] = _surplus(ids, keys[pattern], near)
    pattern = max(surplus, key=lambda pattern: surplus[pattern])
    samples = [sample._replace(group=key) for sample, key in zip(data.samples, keys[pattern], strict=True)]
    if surplus[pattern] < _LEAST_SURPLUS:
        return []
    groups = groups_of(replace(data, samples=tuple(samples)), copies.tolist())
    # Copies stay together in both, so that the series alone make the difference.
    with threadpool_limits(1, user_api="blas"):  # as in `training.head.solve`
        one, other = (_answers(looked.embeddings, ids, each, seed) for each in (copies, groups))
    judged = (one >= 0) & (other >= 0)
    drops = np.bincount(groups[judged], (one - other)[judged]) / max(1, judged.sum())
    is_large = drops.sum() > max(_LARGE_DROP, np.sqrt(np.sum(drops**2)))
    means = f"{one[judged].mean():.3f} by random folds and {other[judged].mean():.3f} by folds that keep series whole"
    title = f"names tell {len(set(keys[pattern])):,} series of like pictures: the accuracy is {means}"
    advice = f"Keep each series on one side of every split: finetune --group {quote(pattern)}"
    return [Finding("series", "serious" if is_large else "warning", title, advice)]


def _surplus(ids: NDArray[np.int64], keys: list[str | None], near: Ints) -> float:
    """How much more often than by chance, from 0 to 1, the nearest picture is of the same series; 0 in doubt."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    series = np.array([-1 - index if key is None else numbers[key] for index, key in enumerate(keys)])
    some = np.flatnonzero(near != np.arange(len(ids)))
    hits, ids, series = series[some] == series[near[some]], ids[some], series[some]
    _, cell, sizes = np.unique(np.stack([ids, series]), axis=1, return_inverse=True, return_counts=True)
    chance = (sizes[cell.ravel()] - 1) / (np.bincount(ids)[ids] - 1)
    surplus, error = np.sum(hits - chance), np.sqrt(np.sum(chance * (1 - chance)))
    return float(surplus / np.sum(1 - chance)) if surplus > _LEAST_ERRORS * error else 0.0


def _answers(embeddings: NDArray[np.float32], ids: NDArray[np.int64], groups: Ints, seed: int) -> NDArray[np.float64]:
    """1 for each picture (N,) that a discriminant of the other folds tells right, 0 for wrong, -1 for one in none."""
    classes, ids = np.unique(ids, return_inverse=True)
    fold_of = folds(ids, groups, _FOLDS, seed)
    right = np.full(len(ids), -1.0)
    for fold in range(_FOLDS):
        judged, rest = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
        if len(judged):
            known = Statistics.of(embeddings[rest], ids[rest], np.ones(len(rest)), len(classes))
            (head,) = known.heads((_SHRINKAGE,), embeddings.shape[1], is_balanced=True)
            right[judged] = head.logits(embeddings[judged]).argmax(axis=1) == ids[judged]
    return right
