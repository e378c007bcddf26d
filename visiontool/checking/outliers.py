"""Pictures unlike all others, and splits unlike each other."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from visiontool.checking.finding import Finding, Looked, Suspect
from visiontool.text import plural
from visiontool.training.head.features import Features
from visiontool.training.label_errors import held_out_logits

# Robust standard deviations beyond the median distance from the nearest class mean. At most 1 % of clean sets is
# further. The 5 or 10 nearest pictures say less: several of another set are near each other. So does Mahalanobis.
_FAR = 5.0
_LEAST = 20  # pictures, in all or of a split
_TOLD, _ERRORS, _SHRINKAGE = 0.65, 4.0, 0.9  # of pairs: no random split of four sets, of 12, had more than 0.54
_DIFFERS = 0.15  # from one half of pairs


def check_outliers(looked: Looked) -> Iterator[Finding]:
    """Pictures that are far from the mean of every class."""
    if len(looked.embeddings) < _LEAST:
        return
    features, class_ids = Features((looked.embeddings.shape[1],), "power").of(looked.embeddings), looked.class_ids
    means = np.stack([features[class_ids == each].mean(axis=0) for each in np.unique(class_ids)])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    distances = 1 - (features @ means.T).max(axis=1)
    far = distances - np.median(distances)
    far /= max(1.4826 * float(np.median(np.abs(far))), 1e-6)  # of a normal distribution, the standard deviation
    which = [row for row in np.argsort(-far, kind="stable").tolist() if far[row] > _FAR]
    if which:
        reason, names = "unlike every class", [sample.name for sample in looked.data.samples]
        suspects = (Suspect(names[row], float(1 - _FAR / 2 / far[row]), reason) for row in which)
        title = f"{plural(len(which), 'picture is', 'pictures are')} unlike all others"
        yield Finding("outlier", "warning", title, "Look at them; leave out what does not belong here.", (*suspects,))


def check_drift(looked: Looked, seed: int) -> Iterator[Finding]:
    """Whether a classifier tells val or test from train, inside each class; `seed` draws its folds."""
    splits = np.array(["train" if sample.split is None else sample.split for sample in looked.data.samples])
    for split in ("val", "test"):
        rows = np.flatnonzero((splits == "train") | (splits == split))
        is_other = (splits[rows] == split).astype(np.int64)
        if np.bincount(is_other, minlength=2).min() < _LEAST:
            continue
        features, (_, classes) = looked.embeddings[rows], np.unique(looked.class_ids[rows], return_inverse=True)
        means = np.stack([features[classes == each].mean(axis=0) for each in range(classes.max() + 1)])
        logits = held_out_logits(features - means[classes], is_other, looked.groups[rows], _SHRINKAGE, seed)
        told, error = _more(logits[:, 1] - logits[:, 0], is_other, classes)
        if not told > max(_TOLD, 0.5 + _ERRORS * error):  # nan where a split is a single group
            continue
        prints, differs = [looked.fingerprints[row] for row in rows.tolist()], []
        for values, more, less in (
            ([sum(each.color) for each in prints], "brighter", "darker"),
            (
                [np.frombuffer(each.thumbnail, np.uint8).std() for each in prints],
                "of more contrast",
                "of less contrast",
            ),
            ([(each.color[0] + 1) / (each.color[2] + 1) for each in prints], "redder", "bluer"),
            ([each.width * each.height for each in prints], "larger", "smaller"),
        ):
            share, error = _more(np.array(values), is_other, classes)
            if abs(share - 0.5) > max(_DIFFERS, _ERRORS * error):
                differs.append(more if share > 0.5 else less)
        title = f"{split} looks unlike train: a classifier tells them apart in {told:.0%} of pairs (50% is chance)"
        what = f"Pictures of {split} are mostly {', '.join(differs)}. " if differs else ""
        yield Finding("drift", "warning", title, f"{what}Make sure that {split} is like what the model will see.")


def _more(values: NDArray[np.floating], is_other: NDArray[np.int64], classes: NDArray[np.intp]) -> tuple[float, float]:
    """In which share of pairs, of train and the other split in a class, the other has more; the error where neither."""
    from scipy.stats import rankdata

    wins, pairs, variance = 0.0, 0, 0.0
    for each in range(classes.max() + 1):
        other, ranks = is_other[classes == each] == 1, rankdata(values[classes == each])
        ones, zeros = int(other.sum()), int((~other).sum())
        wins += float(ranks[other].sum()) - ones * (ones + 1) / 2
        pairs += ones * zeros
        variance += ones * zeros * (len(other) + 1) / 12  # Mann and Whitney
    return (wins / pairs, float(variance**0.5 / pairs)) if pairs else (0.5, 0.0)
