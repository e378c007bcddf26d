"""Copies: the same picture twice, as it is, saved anew, mirrored or cropped; worst across splits and labels.

Whole pictures are told by `images.fingerprint.same`. A part has another thumbnail than its whole, but an embedding near
to it: of such neighbors the thumbnails are laid over each other, and where that fits, the pixels.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

from visiontool.checking.finding import Finding, Looked, Suspect
from visiontool.data.loader import cores, load
from visiontool.data.prepare import Recipe
from visiontool.data.splits import PAIRS, contradicting
from visiontool.images.fingerprint import joined
from visiontool.inference.embeddings import nearest
from visiontool.text import plural

Floats = NDArray[np.float32]
Ints = NDArray[np.intp]

# All by benchmarks/check_copies.py: of what is cropped to half its area, 93 to 100 % is among three neighbors,
_NEIGHBORS = 3
_ROWS = 16  # of a thumbnail
_LEAST_PART = 11  # rows or columns, whichever are more
# and its thumbnail correlates with the best place in the other by more than this in 98 %, as do 1 % (Tiny ImageNet) to
# 14 % (clothes on one floor) of the other neighbors. Those are opened, but no more than these.
_MAY_BE_PART = 0.9
_MOST_PAIRS, _MOST_PAIRS_SHARE = 1000, 0.1
# At this size the details of parts agree by 0.95 in the median, those of other photographs by at most 0.80 (trousers on
# one tiled floor). Digits of 28 pixels have too little of them: they agree by up to 0.91.
_SIDE = 64  # pixels
_IS_PART = 0.86
_LEAST_PIXELS = 40
_LEVELS = ((4.0, (2.0, 1.0)), (2.0, (1.0, 0.5)), (1.0, (0.5, 0.25)))  # width of details in pixels, steps of the edges
_HOPELESS = 0.75  # after a level; less costs a third more time for 1 % of the crops of clothes
_MOVES = np.array([(1, 0, 1, 0), (0, 1, 0, 1), (-1, 0, 1, 0), (0, -1, 0, 1)], np.float64)  # and back; of all edges
_FLAT = 1.0  # gray levels
_MANY = 0.01  # of the pictures: fewer copies inside classes are only noted
_AT_ONCE = 512  # pairs: what they need stays near the processor


def check_copies(looked: Looked) -> list[Finding]:
    """Copies across splits, with different labels, and all others. Of each cluster the largest picture comes first."""
    samples, (whole, numbers, scores) = looked.data.samples, _clusters(looked)
    members: dict[int, list[int]] = defaultdict(list)
    for index, number in enumerate(numbers.tolist()):
        members[number].append(index)
    found = [indices for indices in members.values() if len(indices) > 1]
    # The split whose copies the list proposes to leave out; "" for all but the largest of each cluster, None for none.
    told: list[tuple[Finding, list[list[int]], str | None]] = []
    for one, other in PAIRS:
        shared = [indices for indices in found if {one, other} <= {samples[index].split for index in indices}]
        count = sum(samples[index].split == one for indices in shared for index in indices)
        title = plural(count, f"picture of {one} has a copy", f"pictures of {one} have copies") + f" in {other}"
        advice = f"Delete those of {other}: a model that has learned a picture by heart is judged too well by it."
        told.append((Finding("leak", "serious", title, advice), shared, other))
    mixed = contradicting(looked.data, numbers.tolist())
    title = plural(len(mixed), "picture has copies", "pictures have copies") + " with other labels"
    advice = "Keep those with the right label: at least one of them is wrong."
    told.append((Finding("conflict", "serious", title, advice), mixed, None))
    serious = {indices[0] for _, clusters, _ in told for indices in clusters}
    rest = [indices for indices in found if indices[0] not in serious]
    count = sum(len(indices) - 1 for indices in rest)
    title = plural(count, "picture is a copy of another", "pictures are copies of others")
    advice = "Keep one of each. Those that are not cropped stay on one side of the splits that finetune draws."
    told.append((Finding("copies", "warning" if count >= _MANY * len(samples) else "note", title, advice), rest, ""))
    return [
        finding._replace(suspects=tuple(_suspects(looked, whole, scores, its, surplus)))
        for finding, its, surplus in told
        if its
    ]


def _suspects(
    looked: Looked, whole: Ints, scores: Floats, clusters: Sequence[list[int]], surplus: str | None
) -> Iterator[Suspect]:
    samples, prints = looked.data.samples, looked.fingerprints
    for indices in sorted(clusters, key=lambda indices: -scores[indices].max()):
        largest = max(indices, key=lambda index: prints[index].width * prints[index].height)
        for index in sorted(indices, key=lambda index: (index != largest, -scores[index])):
            how = "copy" if whole[index] == whole[largest] else "cropped copy"
            reason = f"{'same pixels as' if prints[index].pixels == prints[largest].pixels else f'{how} of'} "
            reason = f"{reason}{samples[largest].name}" if index != largest else f"the largest of {len(indices)} copies"
            exclude = index != largest if surplus == "" else surplus is not None and samples[index].split == surplus
            yield Suspect(samples[index].name, float(scores[index]), reason, indices[0], exclude=exclude)


def _clusters(looked: Looked) -> tuple[Ints, Ints, Floats]:
    """The numbers (N,) of same pictures, without and with parts, and how sure each is a copy (N,)."""
    whole = np.array(looked.same, np.intp)
    pairs, agreements = _parts(looked, whole)
    scores = (np.bincount(whole, minlength=len(whole))[whole] > 1).astype(np.float32)
    np.maximum.at(scores, pairs.ravel(), np.repeat(agreements, 2))
    links = np.concatenate([np.stack([whole, np.arange(len(whole))], axis=1), pairs])
    return whole, joined(links, len(whole)), scores


def _parts(looked: Looked, whole: Ints) -> tuple[Ints, Floats]:
    """Pairs (M, 2) of pictures of which one is a part of the other, and how well their details agree (M,)."""
    large = np.flatnonzero([min(one.width, one.height) >= _LEAST_PIXELS for one in looked.fingerprints])
    if len(large) < 2:
        return np.zeros((0, 2), np.intp), np.zeros(0, np.float32)
    near, _ = nearest(looked.embeddings[large], _NEIGHBORS)
    pairs = large[np.stack([np.repeat(np.arange(len(large)), near.shape[1]), near.ravel()], axis=1)]
    pairs = np.unique(np.sort(pairs[whole[pairs[:, 0]] != whole[pairs[:, 1]]], axis=1), axis=0)
    with ThreadPoolExecutor(cores()) as pool:
        parts = [pairs[start : start + _AT_ONCE] for start in range(0, max(1, len(pairs)), _AT_ONCE)]
        found = zip(*pool.map(lambda part: _laid_over(looked, part), parts), strict=True)
        pairs, scores, boxes, mirrored = (np.concatenate(each) for each in found)
    likely = np.argsort(-scores, kind="stable")[: _MOST_PAIRS + int(_MOST_PAIRS_SHARE * len(whole))]
    likely = likely[scores[likely] >= _MAY_BE_PART]
    opened = np.unique(pairs[likely]).tolist()
    recipe = Recipe({"size": (_SIDE, _SIDE), "crop_mode": "squash", "interpolation": "bilinear"}, _SIDE, looked.limits)
    pictures = load([looked.data.samples[index].path for index in opened], recipe)
    gray = {
        index: np.zeros((_SIDE, _SIDE), np.uint8)
        if picture.pixels is None
        else np.asarray(Image.fromarray(picture.pixels).convert("L"))
        for index, picture in zip(opened, pictures, strict=True)
    }
    agree = [_agreement(gray[pairs[i, 0]], gray[pairs[i, 1]], boxes[i], mirrored[i]) for i in likely.tolist()]
    agreements = np.array(agree, np.float32)
    return pairs[likely][agreements >= _IS_PART], agreements[agreements >= _IS_PART]


def _laid_over(looked: Looked, pairs: Ints) -> tuple[Ints, Floats, Floats, NDArray[np.bool_]]:
    """Pairs (M, 2), the whole first; how well the thumbnail of the part fits in; where, (M, 4); if mirrored (M,)."""
    both = np.concatenate([pairs, pairs[:, ::-1]])
    ones = [[looked.fingerprints[index] for index in side] for side in both.T.tolist()]
    levels = np.frombuffer(b"".join(one.thumbnail for side in ones for one in side), np.uint8).astype(np.float32)
    wholes, others = levels.reshape(2, -1, _ROWS, _ROWS)
    aspects = np.array([[one.width / one.height for one in side] for side in ones], np.float32)
    aspect = aspects[1] / aspects[0]
    scores, boxes = np.full(len(both), -1, np.float32), np.zeros((len(both), 4), np.float32)
    mirrored = np.zeros(len(both), np.bool_)
    eye = Image.fromarray(np.eye(_ROWS, dtype=np.float32))
    sums = np.pad(np.stack([wholes, wholes**2]).cumsum(axis=2).cumsum(axis=3), ((0, 0), (0, 0), (1, 0), (1, 0)))
    for side in range(_LEAST_PART, _ROWS + 1):
        sizes = np.rint(side * np.stack([np.minimum(1 / aspect, 1), np.minimum(aspect, 1)], axis=1)).astype(int)
        for height, width in np.unique(sizes[sizes.min(axis=1) >= _LEAST_PART - 1], axis=0).tolist():
            rows = np.flatnonzero((sizes == (height, width)).all(axis=1))
            down, across = (np.asarray(eye.resize((_ROWS, n), Image.Resampling.BILINEAR)) for n in (height, width))
            patch = _standard(down @ others[rows] @ across.T)
            ways = np.stack([patch, patch[:, :, ::-1]], axis=1).reshape(len(rows), 2, -1)
            under = sliding_window_view(wholes[rows], (height, width), axis=(1, 2))
            found = np.einsum("npi,nki->npk", under.reshape(len(rows), -1, height * width), ways)  # of mean 0
            down_to = sums[:, rows, height:] - sums[:, rows, :-height]
            mean, square = (down_to[..., width:] - down_to[..., :-width]) / (height * width)
            found /= height * width * np.sqrt(np.maximum(square - mean**2, _FLAT**2)).reshape(len(rows), -1, 1)
            found = found.reshape(len(rows), -1)
            best = found.argmax(axis=1)
            values = found[np.arange(len(rows)), best]
            (top, left), better = np.divmod(best // 2, _ROWS + 1 - width), values > scores[rows]
            where = np.stack([left, top, left + width, top + height], axis=1) / _ROWS
            rows = rows[better]
            scores[rows], boxes[rows], mirrored[rows] = values[better], where[better], best[better] % 2 == 1
    best = scores.reshape(2, -1).argmax(axis=0) * len(pairs) + np.arange(len(pairs))
    return both[best], scores[best], boxes[best], mirrored[best]


def _agreement(whole: NDArray[np.uint8], part: NDArray[np.uint8], box: Floats, is_mirrored: bool) -> float:
    """The correlation of the details of `part` with those of the best place for it in `whole`, near to `box`."""
    from scipy.ndimage import gaussian_filter

    edges = box.astype(np.float64) * _SIDE
    size = (round(edges[2] - edges[0]), round(edges[3] - edges[1]))
    small = Image.fromarray(part[:, ::-1] if is_mirrored else part).resize(size, Image.Resampling.BILINEAR)
    levels, best = [np.asarray(gray, np.float32) for gray in (small, whole)], 0.0
    for sigma, steps in _LEVELS:
        goal, ground = (gray - gaussian_filter(gray, sigma) for gray in levels)
        goal, detail = _standard(goal), Image.fromarray(ground)

        def correlation(edges: NDArray[Any], goal: Floats = goal, detail: Image.Image = detail) -> float:
            if edges.min() < 0 or edges.max() > _SIDE or (edges[2:] - edges[:2]).min() < _SIDE / 2:
                return -1.0
            under = np.asarray(detail.resize(size, Image.Resampling.BILINEAR, tuple(edges)))
            variance = np.vdot(under, under) / under.size - (under.sum() / under.size) ** 2  # the mean of `goal` is 0
            return float(np.vdot(goal, under) / under.size / max(variance**0.5, _FLAT))

        best = correlation(edges)
        for step in steps:
            before = -np.inf
            while best > before:
                before = best
                for move in (*_MOVES, *-_MOVES):
                    if (found := correlation(edges + step * move)) > best:
                        edges, best = edges + step * move, found
        if best < _HOPELESS:
            break
    return best


def _standard(gray: Any) -> Any:
    """(..., H, W) of mean 0 and standard deviation 1 each, or less where it is nearly flat."""
    gray = gray - gray.mean(axis=(-2, -1), keepdims=True)
    return gray / np.maximum(gray.std(axis=(-2, -1), keepdims=True), _FLAT)
