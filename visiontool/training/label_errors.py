"""Which labels are likely wrong, by confident learning on logits of pictures that the head has not seen."""

from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from shlex import join

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from visiontool.data.loader import cores
from visiontool.data.splits import PAIRS, contradicting, folds
from visiontool.text import plural
from visiontool.training.embed_dataset import SplitDataset
from visiontool.training.head import Solution
from visiontool.training.head.gaussian import Statistics
from visiontool.training.head.select import fit_temperature
from visiontool.training.settings import Settings

_SURE = 0.1  # with this, F1 on flipped labels is at least cleanlab's in all of 30 rows of five sets
# Suspects were 3.0 % of clean sets at most, 4.4 % or more where 5 % of labels were flipped and the head is good.
_SERIOUS, _FEW = 0.04, 5
# Pictures of each class that are mislabeled as all are; more of them where pairs of classes are many for the pictures.
_PRIOR, _MANY_PAIRS = 30, 0.1


def serious(settings: Settings, dataset: SplitDataset, solution: Solution | None = None) -> list[str]:
    """What `visiontool check` would find serious, as far as it is known here, in one line; empty where nothing is."""
    splits, same = np.array(dataset.splits), dataset.same
    found = [(len(contradicting(dataset.data, same.tolist())), "picture", " with contradicting labels")]
    for one, other in PAIRS if settings.splits_file is None else ():  # which `check` does not read
        count = int(np.isin(same[splits == one], same[splits == other]).sum())
        found.append((count, "picture", f" of {one} in {other}"))
    if solution is not None and solution.held_out is not None:
        logits, class_ids = solution.held_out
        sizes = np.bincount(dataset.class_ids[splits == "train"], minlength=logits.shape[1])
        if solution.balance != "none":  # then logits are as if classes were equal
            logits = logits + np.log(sizes / sizes.sum())
        count = len(label_errors(logits, class_ids)[0])
        if are_serious(count, len(class_ids)):
            found.append((round(count * sizes.sum() / len(class_ids)), "likely label error", ""))
    parts = [plural(count, what) + more for count, what, more in found if count]
    model = None if settings.train is not None and settings.train.from_scratch else settings.model
    typed = {"-m": model, "--labels": settings.labels_file, "--group": settings.group}
    options = (str(text) for option, value in typed.items() if value for text in (option, value))
    command = join(["visiontool", "check", str(settings.data), *options])
    return [f"serious in the data: {', '.join(parts)}. To see them: {command}"] if parts else []


def are_serious(count: int, judged: int) -> bool:
    """Whether so many of the labels that were judged may be wrong that training suffers."""
    return count >= max(_FEW, _SERIOUS * judged)


def held_out_logits(
    features: NDArray[np.float32], class_ids: NDArray[np.int64], groups: NDArray[np.intp], shrinkage: float, seed: int
) -> NDArray[np.float64]:
    """(N, C) of features (N, D), by discriminant analysis in five folds; nan for a class that is a single group."""
    fold_of, n_classes = folds(class_ids, groups, 5, seed), int(class_ids.max()) + 1
    rows = {fold: np.flatnonzero(fold_of == fold) for fold in np.unique(fold_of).tolist()}
    logits = np.full((len(features), n_classes), np.nan)

    def judge(fold: int) -> None:
        others = reduce(Statistics.merged, (statistics[other] for other in rows if other != fold))
        (head,) = others.heads((shrinkage,), features.shape[1], is_balanced=False)
        logits[rows[fold]] = head.logits(features[rows[fold]])

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(cores()) as pool:
        parts = ((features[of], class_ids[of], np.ones(len(of)), n_classes) for of in rows.values())
        statistics = dict(zip(rows, pool.map(lambda part: Statistics.of(*part), parts), strict=True))
        list(pool.map(judge, [fold for fold in rows if fold >= 0]))
    return logits


def label_errors(
    logits: NDArray[np.float64], class_ids: NDArray[np.int64]
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """Which labels are likely wrong, the likeliest first, and for all, scores (N,) and calibrated probabilities (N, C).

    Of what confident learning finds, what noise of the labels explains better than a head that errs.
    """
    from scipy.special import softmax

    own = np.arange(len(class_ids)), class_ids
    scaled = logits / fit_temperature(logits, class_ids, np.ones(len(logits)), (1e-6, 1e6))
    probabilities, wrong = softmax(scaled, axis=1), 1 - _true_classes(scaled, class_ids)[own]
    rivals = np.where(np.arange(logits.shape[1]) == class_ids[:, None], 0.0, probabilities).max(axis=1)
    # Between the odds, which are best where confused classes are mixed up, and the probability of the label alone.
    scores = np.sqrt(rivals) / (np.sqrt(rivals) + probabilities[own])
    which = np.flatnonzero(pruned(probabilities, class_ids) & (wrong > _SURE))
    return which[np.argsort(-scores[which], kind="stable")], scores, probabilities


def pruned(probabilities: NDArray[np.float64], class_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(N,) which labels confident learning takes for wrong, pruned both by class and by noise rate.

    Source: Northcutt, Jiang and Chuang 2021, "Confident learning", arXiv:1911.00068, section 3.
    """
    count, n_classes = probabilities.shape
    own, sizes = probabilities[np.arange(count), class_ids], np.bincount(class_ids, minlength=n_classes)
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


def _true_classes(logits: NDArray[np.float64], class_ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """(N, C) how likely each class is the true one, given the label too.

    Source: Bekker and Goldberger 2016, "Training deep neural-networks based on unreliable labels", the EM of section 2,
        with a temperature in place of the network.
    """
    from scipy.optimize import minimize_scalar
    from scipy.sparse import csr_array

    count, n_classes = logits.shape
    less = (logits - logits.max(axis=1, keepdims=True)).astype(np.float32)
    one_of = np.eye(n_classes, dtype=np.float32)
    labels = csr_array((np.ones(count, np.float32), (class_ids, np.arange(count))), (n_classes, count))
    labelled, temperature = 0.98 * one_of + 0.02 / n_classes, 0.7  # how often so (rows) is labelled what truly is

    def jointly(temperature: float) -> NDArray[np.float32]:
        odds = np.exp(less / np.float32(temperature))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True) * labelled[class_ids])

    for _ in range(4):
        for _ in range(5):
            true = jointly(temperature)
            pairs = labels @ (true / true.sum(axis=1, keepdims=True))
            noise = 1 - np.trace(pairs) / count
            pairs += _PRIOR * max(1, n_classes**2 / count / _MANY_PAIRS) * ((1 - noise) * one_of + noise / n_classes)
            labelled = pairs / pairs.sum(axis=0)
        found = minimize_scalar(lambda t: -np.log(jointly(t).sum(axis=1)).mean(), bounds=(0.05, 1.2), method="bounded")
        temperature = float(found.x)
    true = jointly(temperature)
    return np.asarray(true / true.sum(axis=1, keepdims=True))
