"""Labels that are likely wrong, by confident learning on probabilities of pictures that the head has not seen."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from visiontool.checking.finding import Finding, Looked, Suspect
from visiontool.checking.held_out import held_out_logits
from visiontool.data.splits import groups_of
from visiontool.images.fingerprint import same
from visiontool.training.head import HeadOptions, solve
from visiontool.training.head.select import fit_temperature

# With this and the pruning, on labels flipped in five sets, F1 is that of cleanlab or more; docs/check.md has it.
_SURE = 0.3
# Of all pictures. Of clean sets 0.6 % are suspects at most; of those with 5 % of labels flipped, 3.5 % or more.
_SERIOUS, _FEW = 0.02, 5
_PRIOR = 30.0  # pictures of each class, of which as many are mislabeled as of all
_ROUNDS, _STEPS = 4, 5
# Of the pictures of each of two classes, how many look more like the other: half where both are the same, 0.25 at most
# in clean sets.
_ALIKE, _MOST_NAMED, _LEAST = 0.35, 3, 20


def check_labels(looked: Looked, seed: int) -> list[Finding]:
    """Pictures whose label is likely wrong, and classes that look the same; nothing where pictures have several labels.

    `seed` draws the folds; the members of a group and same pictures are in one.
    """
    data = looked.data
    present, class_ids = np.unique(looked.class_ids, return_inverse=True)
    if data.is_multilabel or len(present) < 2:
        return []
    groups = groups_of(data, same(looked.fingerprints))
    options = HeadOptions("lda", stages=1, balance="none")
    best = solve(looked.embeddings[:, None], class_ids, len(present), groups, options=options, seed=seed)
    if not best.path:  # nothing could be held out
        return []
    features = best.head.features.of(looked.embeddings)
    logits = held_out_logits(features, class_ids, groups, best.path[best.chosen].strength, seed)
    rows = np.flatnonzero(~np.isnan(logits[:, 0]))
    labels = [data.labels[class_id] for class_id in present.tolist()]
    names = [data.samples[row].name for row in rows.tolist()]
    return [*_mislabeled(names, labels, logits[rows], class_ids[rows]), *_alike(labels, logits[rows], class_ids[rows])]


def _mislabeled(
    names: list[str], labels: list[str], logits: NDArray[np.float64], class_ids: NDArray[np.int64]
) -> Iterator[Finding]:
    which, scores, likely = label_errors(logits, class_ids)
    if not len(which):
        return
    suspects = []
    for row, score in zip(which.tolist(), scores[which].tolist(), strict=True):
        label, other = labels[class_ids[row]], labels[likely[row].argmax()]
        reason = f"labelled {label}, looks like {other} ({likely[row].max():.0%})"
        suspects.append(Suspect(names[row], score, reason, suggested=other))
    share = len(which) / len(names)
    yield Finding(
        "label",
        "serious" if share >= _SERIOUS and len(which) >= _FEW else "warning",
        f"{len(which):,} of {len(names):,} labels are likely wrong" if len(which) > 1 else "1 label is likely wrong",
        "Look at them, the first ones first: put right or leave out those that are wrong.",
        tuple(suspects),
    )


def _alike(labels: list[str], logits: NDArray[np.float64], class_ids: NDArray[np.int64]) -> Iterator[Finding]:
    """Pairs of classes that are told apart no better than by chance, perhaps two names for one thing."""
    taken = np.zeros((len(labels),) * 2)  # (C, C) the share of a class that looks more like another
    for class_id in np.flatnonzero(np.bincount(class_ids, minlength=len(labels)) >= _LEAST).tolist():
        of_class = logits[class_ids == class_id]
        taken[class_id] = (of_class > of_class[:, [class_id]]).mean(axis=0)
    pairs = np.argwhere(np.triu(np.minimum(taken, taken.T) >= _ALIKE))
    if len(pairs):
        some = ", ".join(f"{labels[one]} and {labels[other]}" for one, other in pairs[:_MOST_NAMED].tolist())
        more = f" and {len(pairs) - _MOST_NAMED:,} more pairs" if len(pairs) > _MOST_NAMED else ""
        advice = "If they are two names for one thing, make them one class."
        yield Finding("same class", "warning", f"classes that look the same: {some}{more}", advice)


def label_errors(
    logits: NDArray[np.float64], class_ids: NDArray[np.int64]
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """Which labels (N,) are likely wrong, the likeliest first; and for all: a score and likely classes (N, C).

    Args:
        logits: (N, C) of a head that has not seen the picture.
    """
    from scipy.special import softmax

    own = np.arange(len(class_ids)), class_ids
    scale = fit_temperature(logits, class_ids, np.ones(len(logits)), (1e-6, 1e6))
    probabilities = softmax(logits / scale, axis=1)
    likely = _true_classes(logits / scale, class_ids)
    wrong = 1 - likely[own]
    margin = probabilities.max(axis=1) - probabilities[own]
    scores = wrong * (1 + margin) / 2
    which = np.flatnonzero(pruned(probabilities, class_ids) & (wrong > _SURE) & (likely.argmax(axis=1) != class_ids))
    return which[np.argsort(-scores[which], kind="stable")], scores, likely


def pruned(probabilities: NDArray[np.float64], class_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(N,) which labels confident learning takes for wrong, pruned by class and by noise rate.

    Source: Northcutt, Jiang and Chuang 2021, "Confident learning", arXiv:1911.00068, equations 1 to 3, section 3.2.
    """
    count, n_classes = probabilities.shape
    sizes = np.bincount(class_ids, minlength=n_classes)
    own = probabilities[np.arange(count), class_ids]
    thresholds = np.bincount(class_ids, own, n_classes) / np.maximum(sizes, 1)
    confident = np.where((probabilities >= thresholds) & (sizes > 0), probabilities, 0.0)
    joint, counted = np.zeros((n_classes, n_classes)), confident.any(axis=1)
    np.add.at(joint, (class_ids[counted], confident[counted].argmax(axis=1)), 1)
    joint *= (sizes / np.maximum(joint.sum(axis=1), 1))[:, None]  # so that each class has its number of pictures
    np.fill_diagonal(joint, 0)
    by_class, by_rate = np.zeros((2, count), np.bool_)
    for class_id in np.flatnonzero(joint.any(axis=1)).tolist():
        rows = np.flatnonzero(class_ids == class_id)
        by_class[rows[np.argsort(own[rows], kind="stable")][: round(joint[class_id].sum())]] = True
        for other in np.flatnonzero(joint[class_id]).tolist():
            margins = own[rows] - probabilities[rows, other]
            by_rate[rows[np.argsort(margins, kind="stable")][: round(joint[class_id, other])]] = True
    return np.asarray(by_class & by_rate & (probabilities.argmax(axis=1) != class_ids))


def _true_classes(logits: NDArray[np.float64], class_ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N, C) how likely each class is the true one, given the label too: one of each class may be taken for another.

    A picture that the head takes for another class counts as mislabeled the less, the more often it errs so: the
    temperature is fitted together with how often a true class gets each label.

    Source: Bekker and Goldberger 2016, "Training deep neural-networks based on unreliable labels", equations 5 and 6.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import softmax

    count, n_classes = logits.shape
    labels = np.eye(n_classes)[class_ids]
    labelled = 0.98 * np.eye(n_classes) + 0.02 / n_classes  # of a true class (rows), how often it is labelled so
    temperature = 0.7  # times that without noise, which it is never above by much

    def loss(log_temperature: float) -> float:
        likely = softmax(logits / np.exp(log_temperature), axis=1) * labelled[:, class_ids].T
        return -float(np.log(likely.sum(axis=1)).mean())

    for _ in range(_ROUNDS):
        probabilities = softmax(logits / temperature, axis=1)
        for _ in range(_STEPS):
            true = probabilities * labelled[:, class_ids].T
            true /= true.sum(axis=1, keepdims=True)
            pairs = true.T @ labels
            noise = 1 - np.trace(pairs) / count
            pairs += _PRIOR * ((1 - noise) * np.eye(n_classes) + noise / n_classes)
            labelled = pairs / pairs.sum(axis=1, keepdims=True)
        bounds = (np.log(0.05), np.log(1.2))
        temperature = float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 0.01}).x))
    true = softmax(logits / temperature, axis=1) * labelled[:, class_ids].T
    return np.asarray(true / true.sum(axis=1, keepdims=True))
