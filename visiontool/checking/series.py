"""Series: pictures of one object or scene that a random split would tear apart, told by names, by time or by look."""

import re
from collections.abc import Iterator
from dataclasses import replace
from shlex import quote
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from visiontool.checking.finding import Finding, Looked, Severity, Suspect
from visiontool.data.folders import natural_key
from visiontool.data.splits import PAIRS, folds, groups_of
from visiontool.images.fingerprint import joined
from visiontool.inference.embeddings import nearest
from visiontool.text import plural
from visiontool.training.head.gaussian import Statistics

Ints = NDArray[np.intp]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_FOLDER = "((?:[^/]+/)?"  # of the class: a series is of one class, and may be in several splits
_PATTERNS = (
    _FOLDER + r"[^/]*?)[ _-]?\(?\d+\)?\.\w+$",  # obj12_1.jpg, obj12_2.jpg
    _FOLDER + r"[^/]*)[_-][^/_-]*$",  # obj12_left.jpg, obj12_right.jpg
    _FOLDER + r"[^/_-]*)[_-][^/]*$",  # obj12_left_1.jpg
    _FOLDER + r"[^/]*\d)\d\.\w+$",  # IMG_0120.jpg to IMG_0129.jpg
    _FOLDER + r"[^/]*\d)\d\d\.\w+$",  # IMG_0100.jpg to IMG_0199.jpg
    r"([^/]*)/[^/]*$",  # folders, where a table gives the classes
)
_BURST_S = 5.0  # from one picture to the next
_WINDOW = 3  # places before and behind a picture, in the order of names
# How much more often than by chance, of 1, the nearest picture of the class is of the same series: by
# benchmarks/check_copies.py 0.77 and more for series, at most 0.012 for public data (MNIST, by its hundreds).
_LEAST_SURPLUS = 0.15
_LEAST_ERRORS = 5.0  # standard errors above chance
_LARGE_DROP = 0.05  # of the accuracy
_FOLDS = 5
_SHRINKAGE = 0.3
_TABLE = "finetune --labels TABLE.csv with a column group (check --list has the series of each picture as its cluster)"


class _Neighbors(NamedTuple):
    """What is near to each picture in its class, one picture of each group of same ones."""

    nearest: Ints  # (N,); the picture itself where there is no other
    cosines: Floats  # (N,) to it
    is_next: Mask  # (N,) whether it is in the window
    chance: Floats  # (N,) of that, where the order says nothing
    series: Ints  # (N,) of pictures in windows that are more alike than one of them and any beyond twice the window


class _Kind(NamedTuple):
    """A way to tell series."""

    tellers: str
    series: Ints  # (N,) the number of each picture's series
    hits: Mask  # (N,) whether the nearest picture is of the same series
    chance: Floats  # (N,) of that, where series say nothing
    remedy: str = _TABLE

    def surplus(self, rows: Mask) -> float:
        """How much more often than by chance, from 0 to 1, the nearest picture is of the same series; 0 in doubt."""
        hits, chance = self.hits[rows], self.chance[rows]
        surplus, error = np.sum(hits - chance), np.sqrt(np.sum(chance * (1 - chance)))
        return float(surplus / np.sum(1 - chance)) if surplus > _LEAST_ERRORS * error else 0.0


def check_series(looked: Looked, seed: int) -> Iterator[Finding]:
    """The series that are there, with what keeps them together and what that does to the accuracy."""
    data, ids = looked.data, looked.class_ids
    if data.is_multilabel or any(sample.group for sample in data.samples) or len(np.unique(ids)) < 2:
        return
    near = _neighbors(looked)
    splits, has_other = np.array([one.split or "" for one in data.samples]), near.nearest != np.arange(len(ids))
    kinds = [_named(looked, near, pattern) for pattern in _PATTERNS]
    kinds = [max(kinds, key=lambda kind: kind.surplus(has_other)), _timed(looked, near)]
    told: list[Ints] = []
    for kind in (*kinds, _Kind("looks", near.series, near.is_next, near.chance)):
        members = np.bincount(kind.series)[kind.series] > 1
        torn = (np.bincount(np.unique([kind.series, each], axis=1)[0])[kind.series] > 1 for each in told)
        if kind.surplus(has_other) < _LEAST_SURPLUS or any(2 * each.sum() < members.sum() for each in torn):
            continue
        names = (str(number) if member else None for number, member in zip(kind.series, members, strict=True))
        samples = tuple(one._replace(group=name) for one, name in zip(data.samples, names, strict=True))
        told.append(groups_of(replace(data, samples=samples), looked.same))
        yield _finding(looked, kind, near, splits, members, told[-1], seed)


def _finding(
    looked: Looked, kind: _Kind, near: _Neighbors, splits: NDArray[np.str_], members: Mask, groups: Ints, seed: int
) -> Finding:
    means, severity = _accuracies(looked, groups, seed)
    shown, title = members & (kind.remedy == _TABLE), f"{kind.tellers} tell "
    title += f"{len(np.unique(kind.series[members])):,} series of like pictures"
    advice, spread = "Keep each series on one side of every split", []
    if kind.surplus(splits != splits[near.nearest]) >= _LEAST_SURPLUS:
        of = [
            (one, other, (splits == one) & np.isin(kind.series, kind.series[splits == other])) for one, other in PAIRS
        ]
        spread = [f"{plural(int(rows.sum()), 'picture')} of {one} in {other}" for one, other, rows in of if rows.any()]
    if spread:
        shown, severity = np.any([rows for *_, rows in of], axis=0), "serious"
        title += f", and splits tear them apart ({', '.join(spread)})"
        advice = "Put each series into one split; where finetune draws val"
    elif "val" in splits:
        severity = "note"
    suspects = (
        Suspect(looked.data.samples[row].name, max(0.0, float(near.cosines[row])), "of a series", int(kind.series[row]))
        for row in sorted(np.flatnonzero(shown).tolist(), key=lambda row: int(kind.series[row]))
    )
    return Finding("series", severity, f"{title}: the accuracy is {means}", f"{advice}: {kind.remedy}", (*suspects,))


def _accuracies(looked: Looked, groups: Ints, seed: int) -> tuple[str, Severity]:
    """By folds that tear series apart and by folds that do not, and how serious the difference is."""
    # Copies stay together in both, so that the series alone make the difference.
    with threadpool_limits(1, user_api="blas"):  # as in `training.head.solve`
        answers = (_answers(looked.embeddings, looked.class_ids, each, seed) for each in (looked.groups, groups))
        one, other = answers
    judged = (one >= 0) & (other >= 0)
    drops = np.bincount(groups[judged], (one - other)[judged]) / max(1, judged.sum())
    is_large = drops.sum() > max(_LARGE_DROP, np.sqrt(np.sum(drops**2)))
    means = f"{one[judged].mean():.3f} by random folds and {other[judged].mean():.3f} by folds that keep series whole"
    return means, "serious" if is_large else "warning"


def _neighbors(looked: Looked) -> _Neighbors:
    ids, names = looked.class_ids, [natural_key(one.name.rpartition("/")[2]) for one in looked.data.samples]
    order = np.array(sorted(range(len(ids)), key=names.__getitem__), np.intp)
    firsts, links = order[np.array(looked.same)[order] == order], [np.zeros((0, 2), np.intp)]
    near, cosines, is_next, chance = (
        np.arange(len(ids)),
        np.ones(len(ids)),
        np.zeros(len(ids), np.bool_),
        np.ones(len(ids)),
    )
    for class_id in np.unique(ids).tolist():
        rows = firsts[ids[firsts] == class_id]
        if len(rows) < 2:
            continue
        (which, found), places = nearest(looked.embeddings[rows], 2 * _WINDOW + 1), np.arange(len(rows))
        apart = np.abs(which - places[:, None])
        inside, is_first = apart <= _WINDOW, np.logical_and.accumulate(apart <= 2 * _WINDOW, axis=1)
        near[rows], cosines[rows], is_next[rows] = rows[which[:, 0]], found[:, 0], inside[:, 0]
        window = np.minimum(places, _WINDOW) + np.minimum(places[::-1], _WINDOW)
        chance[rows] = window / (len(rows) - 1)
        one, place = np.nonzero(inside & is_first)
        links.append(rows[np.stack([one, which[one, place]], axis=1)])
    return _Neighbors(near, cosines, is_next, chance, joined(np.concatenate(links), len(ids)))


def _named(looked: Looked, near: _Neighbors, pattern: str) -> _Kind:
    numbers: dict[str, int] = {}
    matches = (re.search(pattern, sample.name) for sample in looked.data.samples)
    keys = [(match and match[1]) or None for match in matches]
    series = [numbers.setdefault(key or f"/{index}", len(numbers)) for index, key in enumerate(keys)]
    return _kind("names", looked, near, np.array(series, np.intp), f"finetune --group {quote(pattern)}")


def _timed(looked: Looked, near: _Neighbors) -> _Kind:
    taken = np.array([np.nan if one.taken is None else one.taken for one in looked.headers])
    order = np.lexsort((taken, looked.class_ids))
    same_class, gaps = np.diff(looked.class_ids[order]) == 0, np.diff(taken[order])
    series = np.zeros(len(order), np.intp)
    series[order[1:]] = np.cumsum(~(same_class & (gaps <= _BURST_S)))  # nan is no gap
    return _kind("times", looked, near, series, _TABLE)


def _kind(tellers: str, looked: Looked, near: _Neighbors, series: Ints, remedy: str) -> _Kind:
    ids, some = looked.class_ids, near.nearest != np.arange(len(series))
    _, cell, sizes = np.unique(np.stack([ids, series])[:, some], axis=1, return_inverse=True, return_counts=True)
    chance = np.ones(len(ids))
    chance[some] = (sizes[cell.ravel()] - 1) / (np.bincount(ids[some])[ids[some]] - 1)
    return _Kind(tellers, series, series == series[near.nearest], chance, remedy)


def _answers(embeddings: NDArray[np.float32], ids: NDArray[np.int64], groups: Ints, seed: int) -> Floats:
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
