"""Series: pictures of one object or scene that a random split would tear apart, told by names, by time or by look."""

import re
from collections.abc import Iterator
from dataclasses import replace
from shlex import quote
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontool.checking.finding import Finding, Looked, Severity, Suspect
from visiontool.data.folders import natural_key
from visiontool.data.splits import PAIRS, groups_of
from visiontool.images.fingerprint import joined
from visiontool.inference.embeddings import nearest
from visiontool.text import plural
from visiontool.training.label_errors import held_out_logits

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
# benchmarks/check_copies.py 0.77 and more for series, at most 0.077 for public data (MNIST's test, by its hundreds).
_LEAST_SURPLUS = 0.15
_LEAST_ERRORS = 5.0  # standard errors above chance
_LARGE_DROP = 0.05  # of the accuracy
_SHRINKAGE = 0.3
_TABLE = "finetune --labels TABLE.csv with a column group (check --list has the series of each picture as its cluster)"


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
    near, cosines, by_look = _neighbors(looked)
    has_other, told = near != np.arange(len(ids)), list[Ints]()
    named = [_named(looked, near, pattern) for pattern in _PATTERNS]
    for kind in (max(named, key=lambda kind: kind.surplus(has_other)), _timed(looked, near), by_look):
        members = np.bincount(kind.series)[kind.series] > 1
        torn = (np.bincount(np.unique([kind.series, each], axis=1)[0])[kind.series] > 1 for each in told)
        if kind.surplus(has_other) < _LEAST_SURPLUS or any(2 * each.sum() < members.sum() for each in torn):
            continue
        names = (str(number) if member else None for number, member in zip(kind.series, members, strict=True))
        samples = tuple(one._replace(group=name) for one, name in zip(data.samples, names, strict=True))
        told.append(groups_of(replace(data, samples=samples), looked.same))
        means, severity = _accuracies(looked, told[-1], seed)
        title = f"{kind.tellers} tell {len(np.unique(kind.series[members])):,} series of like pictures"
        advice, shown = "Keep each series on one side of every split", members & (kind.remedy == _TABLE)
        splits = np.array([one.split or "" for one in data.samples])
        if kind.surplus(splits != splits[near]) >= _LEAST_SURPLUS:
            of = [((splits == x) & np.isin(kind.series, kind.series[splits == y]), x, y) for x, y in PAIRS]
            torn_by = (f"{plural(int(rows.sum()), 'picture')} of {x} in {y}" for rows, x, y in of if rows.any())
            title += f", and splits tear them apart ({', '.join(torn_by)})"
            shown, severity = np.any([rows for rows, *_ in of], axis=0), "serious"
            advice = "Put each series into one split; where finetune draws val"
        elif "val" in splits:
            severity = "note"
        rows = np.flatnonzero(shown)
        suspects = (
            Suspect(data.samples[row].name, max(0.0, float(cosines[row])), "of a series", int(kind.series[row]))
            for row in rows[np.argsort(kind.series[rows], kind="stable")].tolist()
        )
        title += f": the accuracy is {means}"
        yield Finding("series", severity, title, f"{advice}: {kind.remedy}", (*suspects,))


def _accuracies(looked: Looked, groups: Ints, seed: int) -> tuple[str, Severity]:
    """By folds that tear series apart and by folds that do not, and how serious the difference is."""
    _, ids = np.unique(looked.class_ids, return_inverse=True)
    # Copies stay together in both, so that the series alone make the difference.
    ways = (looked.groups, groups)
    one, other = (held_out_logits(looked.embeddings, ids, each, _SHRINKAGE, seed) for each in ways)
    judged = ~np.isnan(one[:, 0] + other[:, 0])
    one, other = ((each[judged].argmax(axis=1) == ids[judged]).astype(float) for each in (one, other))
    drops = np.bincount(groups[judged], one - other) / max(1, judged.sum())
    is_large = drops.sum() > max(_LARGE_DROP, np.sqrt(np.sum(drops**2)))
    means = f"{one.mean():.3f} by random folds and {other.mean():.3f} by folds that keep series whole"
    return means, "serious" if is_large else "warning"


def _neighbors(looked: Looked) -> tuple[Ints, Floats, _Kind]:
    """The nearest picture of the class (N,), itself where there is no other; the cosine (N,); and series by look.

    Those are of pictures near to each other in the order of names, and liker than one of them and any far from it.
    """
    ids, names = looked.class_ids, [natural_key(one.name.rpartition("/")[2]) for one in looked.data.samples]
    order = np.array(sorted(range(len(ids)), key=names.__getitem__), np.intp)
    firsts, links = order[np.array(looked.same)[order] == order], [np.zeros((0, 2), np.intp)]
    near, is_next, (cosines, chance) = np.arange(len(ids)), np.zeros(len(ids), np.bool_), np.ones((2, len(ids)))
    for class_id in np.unique(ids).tolist():
        rows = firsts[ids[firsts] == class_id]
        if len(rows) < 2:
            continue
        (which, found), places = nearest(looked.embeddings[rows], 2 * _WINDOW + 1), np.arange(len(rows))
        apart = np.abs(which - places[:, None])
        inside, is_first = apart <= _WINDOW, np.logical_and.accumulate(apart <= 2 * _WINDOW, axis=1)
        near[rows], cosines[rows], is_next[rows] = rows[which[:, 0]], found[:, 0], inside[:, 0]
        chance[rows] = (np.minimum(places, _WINDOW) + np.minimum(places[::-1], _WINDOW)) / (len(rows) - 1)
        one, place = np.nonzero(inside & is_first)
        links.append(rows[np.stack([one, which[one, place]], axis=1)])
    return near, cosines, _Kind("looks", joined(np.concatenate(links), len(ids)), is_next, chance)


def _named(looked: Looked, near: Ints, pattern: str) -> _Kind:
    numbers: dict[str, int] = {}
    matches = (re.search(pattern, sample.name) for sample in looked.data.samples)
    keys = [(match and match[1]) or None for match in matches]
    series = [numbers.setdefault(key or f"/{index}", len(numbers)) for index, key in enumerate(keys)]
    return _kind("names", looked, near, np.array(series, np.intp), f"finetune --group {quote(pattern)}")


def _timed(looked: Looked, near: Ints) -> _Kind:
    taken = np.array([np.nan if one.taken is None else one.taken for one in looked.headers])
    order = np.lexsort((taken, looked.class_ids))
    same_class, gaps = np.diff(looked.class_ids[order]) == 0, np.diff(taken[order])
    series = np.zeros(len(order), np.intp)
    series[order[1:]] = np.cumsum(~(same_class & (gaps <= _BURST_S)))  # nan is no gap
    return _kind("times", looked, near, series, _TABLE)


def _kind(tellers: str, looked: Looked, near: Ints, series: Ints, remedy: str) -> _Kind:
    ids, some = looked.class_ids, near != np.arange(len(series))
    _, cell, sizes = np.unique(np.stack([ids, series])[:, some], axis=1, return_inverse=True, return_counts=True)
    chance = np.ones(len(ids))
    chance[some] = (sizes[cell.ravel()] - 1) / (np.bincount(ids[some])[ids[some]] - 1)
    return _Kind(tellers, series, series == series[near], chance, remedy)
