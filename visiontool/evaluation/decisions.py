"""What `predict` decides by: thresholds that reach a precision, and sets that hold the true class often enough."""

import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontool.evaluation.evaluate import Evaluation, halves
from visiontool.graph import edit
from visiontool.inference.classifier import Classifier
from visiontool.inference.ensemble import Ensemble
from visiontool.model.spec import Decisions

NEVER = 2.0  # a threshold that no probability reaches
_LEAST_A_CLASS = 50  # pictures of each class for a quantile of its own
_ROUNDING = 1e-9

Probabilities = NDArray[np.floating]
ClassIds = NDArray[np.int64]


def thresholds(probabilities: Probabilities, class_ids: ClassIds, precision: float) -> NDArray[np.float64]:
    """(C,): for each class the lowest threshold from which on its answers to these (N, C) reach the precision.

    It is 0 for a class whose answers all do together, and `NEVER` for one that cannot reach it or is no answer.
    Between two answers it is in their middle.
    """
    result = np.full(probabilities.shape[1], NEVER)
    answers, best = probabilities.argmax(axis=1), probabilities.max(axis=1).astype(np.float64)
    order = np.argsort(-best, kind="stable")
    for class_id in np.unique(answers).tolist():
        rows = order[answers[order] == class_id]
        higher, lower = best[rows], np.append(best[rows[1:]], -best[rows[-1]])  # so that after the last is 0
        reaches = (class_ids[rows] == class_id).cumsum() / np.arange(1, len(rows) + 1) >= precision - _ROUNDING
        for end in np.flatnonzero(reaches & (lower < higher))[-1:]:  # equal probabilities stay together
            result[class_id] = (higher[end] + lower[end]) / 2
    return result


def answered(probabilities: Probabilities, class_ids: ClassIds, least: NDArray[np.float64]) -> tuple[float, float]:
    """The share of right answers among those that reach their class's threshold, and the share that does; nan of none.

    For pictures other than those that set the thresholds.
    """
    answers, best = probabilities.argmax(axis=1), probabilities.max(axis=1)
    reaches = best >= least[answers]
    right = (answers == class_ids)[reaches]
    return float(right.mean()) if len(right) else math.nan, float(reaches.mean())


def conformal_quantile(probabilities: Probabilities, class_ids: ClassIds, coverage: float) -> NDArray[np.float64]:
    """(C,) for each class, or (1,) for all: sets of the classes with 1 - probability <= it hold the true one as often.

    That is so for new pictures that come from where these (N, C) do, if neither the network nor its temperature was
    fitted on them. Where all classes that occur have 50 pictures or more, it is so for each of them.

    Source: Sadinle, Lei and Wasserman 2019, "Least Ambiguous Set-Valued Classifiers With Bounded Error Levels";
        Vovk 2012, "Conditional validity of inductive conformal predictors", for classes.
    """
    scores = 1 - probabilities[np.arange(len(class_ids)), class_ids].astype(np.float64)
    counts = np.bincount(class_ids, minlength=probabilities.shape[1])

    def quantile(values: NDArray[np.float64]) -> float:
        rank = math.ceil((len(values) + 1) * coverage - _ROUNDING)
        return 1.0 if rank > len(values) else float(np.sort(values)[rank - 1])

    overall = quantile(scores)
    if (counts[counts > 0] < _LEAST_A_CLASS).any():
        return np.array([overall])
    return np.array([quantile(scores[class_ids == one]) if count else overall for one, count in enumerate(counts)])


def covered(probabilities: Probabilities, class_ids: ClassIds, quantiles: NDArray[np.float64]) -> tuple[float, float]:
    """The share of sets that hold the true class, and the mean number of classes in a set."""
    is_in = 1 - probabilities.astype(np.float64) <= quantiles
    return float(is_in[np.arange(len(class_ids)), class_ids].mean()), float(is_in.sum(axis=1).mean())


class Decided(NamedTuple):
    """Decisions that one half of the pictures set, and what they come to on the other half."""

    decisions: Decisions
    set_by: int  # pictures
    judged_by: int
    right: float | None = None  # share of the answers that reach their threshold; nan of none
    answered: float | None = None  # share of the pictures that have such an answer
    never: tuple[str, ...] = ()  # classes whose answers are all unknown, though they occur
    covered: float | None = None  # share of the sets that hold the true class
    set_size: float | None = None  # mean number of classes in a set


def decide(evaluation: Evaluation, *, precision: float | None = None, coverage: float | None = None) -> Decided:
    """Sets thresholds for a precision, or quantiles for a coverage, on half of the pictures; errors are of `halves`."""
    setting, judging = halves(evaluation)
    first, second = ((evaluation.probabilities[rows], evaluation.class_ids[rows]) for rows in (setting, judging))
    decisions, counts = evaluation.spec.decisions, (len(setting), len(judging))
    if precision is not None:
        least = thresholds(*first, precision)
        decisions = replace(decisions, precision=precision, thresholds=tuple(least.tolist()))
        answers = np.unique(evaluation.probabilities.argmax(axis=1))
        never = tuple(evaluation.spec.labels[each] for each in answers.tolist() if least[each] == NEVER)
        return Decided(decisions, *counts, *answered(*second, least), never)
    assert coverage is not None
    quantiles = conformal_quantile(*first, coverage)
    decisions = replace(decisions, coverage=coverage, quantiles=tuple(quantiles.tolist()))
    share, size = covered(*second, quantiles)
    return Decided(decisions, *counts, covered=share, set_size=size)


def write(predictor: Classifier, target: Path, decisions: Decisions) -> None:
    """Writes a copy of the predictor's file that decides so.

    Raises:
        ModelError: the model is in memory only, or a member of the ensemble was told what its file does not say.
        ConversionError: the copy cannot be written.
    """
    if isinstance(predictor, Ensemble):
        predictor.save(target, decisions)
    else:
        spec = replace(predictor.spec, assumed=predictor.assumed, decisions=decisions)
        model, scanned = edit.load(predictor.path)
        edit.write(model, target, {**scanned.metadata, **spec.to_metadata()})
