"""What models answer for pictures whose classes are known, and how good that is."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontool.data.loader import LoadOptions
from visiontool.data.samples import Dataset, Sample
from visiontool.data.splits import folds
from visiontool.errors import DataError, UsageError, closest
from visiontool.evaluation.metrics import Difference, Metrics, difference, losses_of, measure
from visiontool.images.fingerprint import Fingerprint
from visiontool.images.transforms import Tta
from visiontool.inference.classifier import Classifier
from visiontool.model.spec import ModelSpec
from visiontool.progress import Progress
from visiontool.text import listed, on_one_line, plural, short_repr

ALL = "all"
_PREFERRED = ("test", "val")  # the split that judges where nobody says
_MOST_UNKNOWN = 5


@dataclass(frozen=True, slots=True, repr=False)
class Evaluation:
    """What one model answers for pictures whose classes are known."""

    spec: ModelSpec
    path: Path  # of the model file
    origin: str  # of the pictures: "test of mydata"
    samples: tuple[Sample, ...]  # those that were judged, in order
    class_ids: NDArray[np.int64]  # (N,), the true classes as the model counts them
    probabilities: NDArray[np.float32]  # (N, C)
    metrics: Metrics
    unreadable: Mapping[str, str]  # why, by the path of each picture that is left out
    fingerprints: tuple[Fingerprint, ...] = ()  # of the samples, where they were asked for
    size_bytes: int = 0  # of the model's files
    latency_ms: float | None = None  # of the network for one picture, on one thread


class Mistake(NamedTuple):
    """A picture whose best answer is wrong."""

    picture: int  # its place among the samples
    true: int  # class id, as the next two
    answer: int
    runner_up: int
    loss: float  # -log of the true class's probability


def _judges(data: Dataset, split: str | None) -> tuple[list[Sample], str]:
    """The pictures of a split, and what they are, for people: "test of mydata"."""
    if data.misread:
        raise DataError("\n".join([f"{data.root} cannot be read as classes:", *(f"  - {one}" for one in data.misread)]))
    used = [sample for sample in data.samples if sample.split != ""]
    named = sorted({sample.split for sample in used if sample.split})
    chosen = split or next((name for name in _PREFERRED if name in named), ALL)
    samples = [sample for sample in used if chosen in (ALL, sample.split)]
    if not samples:
        there = f"its splits are {', '.join(named)}; --split NAME takes one of them"
        there = there if named else "it has no splits; --split all takes all pictures"
        raise DataError(f"{data.root} has no pictures of {chosen}: {there}")
    origin = data.root.name or str(data.root)
    return samples, origin if chosen == ALL else f"{chosen} of {origin}"


def read_map(file: Path) -> dict[str, str]:
    """The class of the model for each label of the data, "" for one to leave out: two columns without a header."""
    result: dict[str, str] = {}
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            for row in filter(any, lines := csv.reader(stream)):
                place, (label, *names) = f"--map {file}: line {lines.line_num}", map(str.strip, row)
                if not label or len(names) != 1:
                    raise DataError(f"{place}: expected a label of the data, a comma, and a class of the model")
                if label in result:
                    raise DataError(f"{place}: a second class of {short_repr(label)}; leave one of the two out")
                (result[label],) = names
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"--map {file}: {getattr(error, 'strerror', None) or error}") from None
    return result


def _class_ids_of(labels: Iterable[str], spec: ModelSpec, mapping: Mapping[str, str]) -> dict[str, int]:
    """The model's class id of each label, by id or name; without those that `mapping` leaves out.

    The mapping may be for another model: a label that is a class of this one needs none.
    """
    known = {label: index for index, label in enumerate(spec.labels)}
    known |= {label_id: index for index, label_id in enumerate(spec.label_ids or ())}
    wanted = {label: mapping.get(label, label) for label in labels}
    wanted = {label: label if name and name not in known and label in known else name for label, name in wanted.items()}
    if unknown := {label: name for label, name in wanted.items() if name and name not in known}:
        lines = [listed([*unknown], f"label is no class of {spec.name}", f"labels are no classes of {spec.name}")]
        for label, name in [*unknown.items()][:_MOST_UNKNOWN]:
            if near := closest(name, spec.labels):
                lines.append(f"  {on_one_line(label)}:{near}")
        lines.append(
            "Name their classes in a file with a line LABEL,CLASS for each, or LABEL, to leave one out: --map FILE"
        )
        raise DataError("\n".join(lines))
    return {label: known[name] for label, name in wanted.items() if name}


def evaluate(
    classifier: Classifier,
    data: Dataset,
    split: str | None,
    *,
    mapping: Mapping[str, str],
    options: LoadOptions,
    tta: Tta | None,
    fingerprints: bool,
    progress: Progress,
) -> Evaluation:
    """Has a model answer for pictures, and measures the answers.

    Args:
        split: its name, or "all"; None for test, else val, else all where there are no splits.
        mapping: the model's class for labels that have another name there; "" leaves the label's pictures out.
        tta: as `Classifier.answers`.
        fingerprints: whether they are wanted, to find copies.
        progress: called with "evaluate" and how many pictures of all are done.

    Raises:
        DataError: the data have faults, the split has no pictures, a label is no class of the model, or no picture can
            be read.
        UsageError: a picture may have several labels.
    """
    if data.is_multilabel or classifier.spec.task == "multilabel":
        raise UsageError(
            f"evaluate judges by one label a picture, and {data.root} or {classifier.spec.name} has several.\n"
            "The metrics.json of a run has the figures of its labels."
        )
    samples, origin = _judges(data, split)
    ids = _class_ids_of(dict.fromkeys(data.labels[sample.class_id] for sample in samples), classifier.spec, mapping)
    samples = [sample for sample in samples if data.labels[sample.class_id] in ids]
    if not samples:
        raise DataError(f"{origin}: --map leaves all pictures out")
    probabilities = np.zeros((len(samples), len(classifier.spec.labels)), np.float32)
    judged: list[int] = []
    prints: list[Fingerprint] = []
    unreadable: dict[str, str] = {}
    paths = [sample.path for sample in samples]
    with closing(classifier.answers(paths, options, tta=tta, fingerprints=fingerprints)) as answers:
        for index, answer in enumerate(answers):
            if answer.probabilities is None:
                unreadable[paths[index]] = answer.error or ""
            else:
                probabilities[index] = answer.probabilities
                judged.append(index)
                prints += [answer.fingerprint] if answer.fingerprint else []
            progress("evaluate", index + 1, len(samples))
    if not judged:
        first = next(iter(unreadable.items()))
        raise DataError(f"{origin}: none of {plural(len(samples), 'picture')} can be read\n{': '.join(first)}")
    samples = [samples[index] for index in judged]
    class_ids = np.array([ids[data.labels[sample.class_id]] for sample in samples], np.int64)
    probabilities = probabilities if len(judged) == len(probabilities) else probabilities[judged]
    metrics = measure(probabilities, class_ids, classifier.spec.labels, groups_of(samples))
    return Evaluation(
        classifier.spec,
        classifier.path,
        origin,
        tuple(samples),
        class_ids,
        probabilities,
        metrics,
        unreadable,
        tuple(prints),
        sum(member.path.stat().st_size for member in classifier.members if member.path.is_file()),
    )


def groups_of(samples: Sequence[Sample]) -> NDArray[np.intp]:
    """The number of each sample's group (N,); one without a group is one of its own."""
    groups = [index if sample.group is None else sample.group for index, sample in enumerate(samples)]
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    return np.array([numbers[group] for group in groups], np.intp)


def part(evaluation: Evaluation, rows: NDArray[np.intp]) -> Evaluation:
    """The evaluation of some of its pictures, by their places."""
    samples = tuple(evaluation.samples[row] for row in rows.tolist())
    class_ids, probabilities = evaluation.class_ids[rows], evaluation.probabilities[rows]
    metrics = measure(probabilities, class_ids, evaluation.spec.labels, groups_of(samples))
    return replace(
        evaluation, samples=samples, class_ids=class_ids, probabilities=probabilities, metrics=metrics, fingerprints=()
    )


def halves(evaluation: Evaluation) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The places of the pictures that set what is to be decided, and of those that judge it; groups stay together."""
    groups = groups_of(evaluation.samples)
    half = folds(evaluation.class_ids, groups, 2, seed=0)
    alone = np.unique(groups[half < 0])  # classes of one group
    half[half < 0] = np.searchsorted(alone, groups[half < 0]) % 2
    if len(np.unique(half)) < 2:
        raise DataError(
            f"{evaluation.origin}: too few pictures or groups for one half to set and another to judge.\n"
            "Take more pictures; those of one group stay together, so of two groups at least."
        )
    return np.flatnonzero(half == 0), np.flatnonzero(half == 1)


def mistakes(evaluation: Evaluation) -> list[Mistake]:
    """The misclassified pictures, the largest loss first."""
    probabilities, class_ids = evaluation.probabilities, evaluation.class_ids
    losses = losses_of(probabilities, class_ids)["nll"]
    (wrong,) = (probabilities.argmax(axis=1) != class_ids).nonzero()
    wrong = wrong[np.argsort(-losses[wrong], kind="stable")]
    best = np.argsort(-probabilities[wrong], axis=1, kind="stable")[:, :2]
    columns = (wrong, class_ids[wrong], *best.T, losses[wrong])
    return [Mistake(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def differences(evaluations: Sequence[Evaluation]) -> list[Difference]:
    """Whether the best model is better than each of the others, on the pictures that both could read."""
    best = max(evaluations, key=lambda one: one.metrics.accuracy)
    ours, found = _right(best), []
    for other in (one for one in evaluations if one is not best):
        theirs, names = _right(other), (best.spec.name, other.spec.name)
        shared = [sample for sample in best.samples if sample.path in theirs]
        if not shared:
            raise UsageError(f"{' and '.join(names)} were judged by different pictures")
        a, b = (np.array([right[sample.path] for sample in shared]) for right in (ours, theirs))
        found.append(difference(*names, a, b, groups_of(shared)))
    return found


def _right(evaluation: Evaluation) -> dict[str, bool]:
    """Whether the answer is right, by the path of each picture."""
    right = (evaluation.probabilities.argmax(axis=1) == evaluation.class_ids).tolist()
    return {sample.path: each for sample, each in zip(evaluation.samples, right, strict=True)}
