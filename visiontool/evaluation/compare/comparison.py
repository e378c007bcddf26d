"""What a comparison of two models is about, adds up picture by picture, and comes to."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontool.evaluation.compare.gates import FEW_CHANGED, MANY, Gate
from visiontool.inference.classifier import Classifier

Floats = NDArray[np.float32]


class Pictures(NamedTuple):
    """Pictures to compare models on, and where they are from."""

    paths: tuple[str, ...]
    targets: tuple[int, ...] | None  # the class id of each in the model's labels; None where it is not known
    origin: str  # for people: "photos", "val of runs/mydata"


class TopPrediction(NamedTuple):
    """A model's best class for a picture; None where its logits are not finite."""

    label: str | None
    probability: float | None

    def __str__(self) -> str:
        return "no number" if self.label is None else f"{self.label} ({self.probability or 0.0:.1%})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedModel:
    name: str
    path: str
    device: str
    precision: str
    size_bytes: int
    images_per_s: float  # through the network alone
    accuracy: float | None  # None where the pictures have no targets
    worst_answer: TopPrediction  # for the picture whose answers differ most


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How B answers, measured by A."""

    a: ComparedModel
    b: ComparedModel
    origin: str  # of the pictures
    pictures: int  # that both gave finite numbers for
    unreadable: int  # left out
    no_numbers: int  # that one of the two gave no finite numbers for
    agreement: float  # share of the pictures with the same answer
    changed: int  # pictures with another answer
    sure_changed: int  # of these, those that A was sure of (`Gate.sure`)
    max_probability_difference: float  # of any class on any picture
    worst: str  # the path of the picture whose answers differ most
    relative_l2: float  # length of the difference of all logits, as a share of the length of A's
    max_absolute: float  # largest difference of a logit
    largest_logit: float  # of A
    embedding_cosine: float | None  # the smallest, of an embedding and that of A; None where one of the two has none
    batch_difference: float  # largest relative L2 between B's logits in `batches` and those of single pictures
    batches: tuple[int, ...]
    gate: Gate
    manifest_differences: tuple[str, ...]

    @property
    def faults(self) -> tuple[str, ...]:
        """What B misses of the gate, a line each; empty where it passed."""
        return (*self.manifest_differences, *self._answer_faults(), *self._number_faults())

    @property
    def differs(self) -> bool:
        """Whether any answer differs at all, so that one of them is the worst."""
        return bool(self.max_probability_difference or self.changed or self.no_numbers)

    @property
    def max_absolute_allowed(self) -> float | None:
        """Of a logit: the rounding of float32 grows with logits, which are of the order of 10 in most networks."""
        allowed = self.gate.max_absolute
        return None if allowed is None else allowed * max(1.0, self.largest_logit / 100)

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        for model in ("a", "b"):
            values[model]["worst_answer"] = values[model]["worst_answer"]._asdict()
        values["said"] = values.pop("manifest_differences")
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
        }
        return {"schema": 1, "passed": not self.faults, "faults": list(self.faults), **finite}

    def _answer_faults(self) -> Iterator[str]:
        gate, total = self.gate, self.pictures + self.no_numbers
        if self.no_numbers:
            yield f"{self.no_numbers:,} of {total:,} pictures: an answer is not a number"
        is_many = self.pictures >= MANY
        if gate.agreement is not None and is_many and self.agreement < gate.agreement:
            yield f"{self.agreement:.2%} of the answers are the same, where at least {gate.agreement:.1%} must be"
        if gate.agreement is not None and not is_many and self.changed > FEW_CHANGED:
            yield f"{self.changed:,} of {total:,} answers changed, where {FEW_CHANGED} of fewer than {MANY} is allowed"
        if (gate.agreement is None or not is_many) and self.sure_changed:
            yield (
                f"{self.sure_changed:,} of {total:,} answers changed although A was sure of them"
                f" (its two largest probabilities more than {gate.sure:g} apart)"
            )
        before, after = self.a.accuracy, self.b.accuracy
        if before is not None and after is not None and gate.accuracy_drop is not None and is_many:
            drop = before - after
            if drop > gate.accuracy_drop + 1e-9:  # 2 of 200 are one point, whatever a subtraction of floats makes of it
                yield f"accuracy fell by {100 * drop:.1f} points, where {100 * gate.accuracy_drop:.1f} is allowed"

    def _number_faults(self) -> Iterator[str]:
        gate = self.gate
        bounds = (
            ("the logits differ by {} of their size", self.relative_l2, gate.relative_l2),
            ("a logit differs by {}", self.max_absolute, self.max_absolute_allowed),
            ("a probability differs by {}", self.max_probability_difference, gate.probability),
            ("the logits of B depend on the batch, by {} of their size", self.batch_difference, gate.batch),
        )
        for text, value, allowed in bounds:
            if allowed is not None and not value <= allowed:
                yield f"{text.format(f'{value:.2g}')}, where at most {allowed:.2g} is allowed"
        cosine = self.embedding_cosine
        if cosine is not None and gate.cosine is not None and not cosine >= gate.cosine:
            yield f"an embedding has a cosine of {cosine:.4g} with that of A, where at least {gate.cosine:g} is asked"


class Accumulator:
    """Sums, extremes and counts over all pictures so far, so that no logits are kept.

    The attributes have the names of `Comparison`. Answers are compared by their labels, as a user does it. `sure` is
    that of `Gate`.
    """

    def __init__(self, a: Classifier, b: Classifier, sure: float) -> None:
        self.pictures = self.unreadable = self.no_numbers = self.changed = self.sure_changed = 0
        self.first_unreadable = ""
        self.embedding_cosine: float | None = None
        self.max_probability_difference = self.max_absolute = self.largest_logit = 0.0
        self.worst: tuple[str, TopPrediction, TopPrediction] | None = None
        self._models = a, b
        self._sure = sure
        self._worst_rank = (-1, 0.0)
        self._correct = [0, 0]
        self._squares = [0.0, 0.0]  # of the difference, and of A
        class_ids = {label: class_id for class_id, label in enumerate(a.spec.labels)}
        self._class_in_a = np.array([class_ids.get(label, -1) for label in b.spec.labels])

    @property
    def relative_l2(self) -> float:
        difference, length = self._squares
        return float(np.sqrt(difference) / max(np.sqrt(length), 1e-12))

    @property
    def agreement(self) -> float:
        return 1 - self.changed / self.pictures if self.pictures else 0.0

    @property
    def accuracies(self) -> tuple[float, float]:
        total = max(1, self.pictures)
        return self._correct[0] / total, self._correct[1] / total

    def figures(self) -> dict[str, Any]:
        """What `Comparison` takes of these, by its names."""
        names = [field.name for field in fields(Comparison) if hasattr(self, field.name)]
        return {name: getattr(self, name) for name in names if name != "worst"}

    def add_unreadable(self, path: str, error: str) -> None:
        self.unreadable += 1
        self.first_unreadable = self.first_unreadable or f"{path}: {error}"

    def add_embeddings(self, a: Floats, b: Floats) -> None:
        """Adds the embeddings (n, D) of both for some pictures; those of two lengths do not compare."""
        if a.shape != b.shape:
            return
        products = np.einsum("nd,nd->n", a.astype(np.float64), b.astype(np.float64))
        lengths = np.linalg.norm(a.astype(np.float64), axis=1) * np.linalg.norm(b.astype(np.float64), axis=1)
        # Equal ones have a cosine of 1, whatever rounding makes of it; zeros have no direction.
        cosines = np.where((a == b).all(1), 1.0, products / np.maximum(lengths, 1e-30))
        smallest = float(np.nan_to_num(cosines, nan=-1.0).min())
        self.embedding_cosine = smallest if self.embedding_cosine is None else min(self.embedding_cosine, smallest)

    def add(self, paths: Sequence[str], a: Floats, b: Floats, targets: Sequence[int] | None) -> None:
        """Adds the logits (n, C) of both for these pictures, and the true class ids."""
        is_finite = np.isfinite(a).all(1) & np.isfinite(b).all(1)
        for index in np.flatnonzero(~is_finite).tolist():
            self.no_numbers += 1
            self._update_worst((2, 0.0), paths[index], a[index], b[index])
        finite = np.flatnonzero(is_finite)
        if not len(finite):
            return
        self.pictures += len(finite)
        a, b = a[finite], b[finite]
        difference = b.astype(np.float64) - a
        self._squares[0] += float((difference**2).sum())
        self._squares[1] += float((a.astype(np.float64) ** 2).sum())
        self.max_absolute = max(self.max_absolute, float(np.abs(difference).max()))
        self.largest_logit = max(self.largest_logit, float(np.abs(a).max()))
        self._add_answers([paths[index] for index in finite.tolist()], a, b)
        if targets is not None:
            true = np.array(targets)[finite]
            self._correct[0] += int((a.argmax(1) == true).sum())
            self._correct[1] += int((self._class_in_a[b.argmax(1)] == true).sum())

    def _add_answers(self, paths: Sequence[str], a: Floats, b: Floats) -> None:
        of_a, of_b = (model.probabilities(logits) for model, logits in zip(self._models, (a, b), strict=True))
        top = np.sort(of_a, axis=1)[:, -2:]
        margins = top[:, 1] - top[:, 0] if of_a.shape[1] > 1 else np.ones(len(of_a))
        changed = self._class_in_a[of_b.argmax(1)] != of_a.argmax(1)
        if self._models[0].spec.task == "multilabel":  # which of two labels that both hold comes first says nothing
            changed &= margins > self._sure
        differences = np.abs(of_b - of_a).max(1)
        self.changed += int(changed.sum())
        self.sure_changed += int((changed & (margins > self._sure)).sum())
        self.max_probability_difference = max(self.max_probability_difference, float(differences.max()))
        for index, path in enumerate(paths):
            rank = (1, float(margins[index])) if changed[index] else (0, float(differences[index]))
            self._update_worst(rank, path, a[index], b[index])

    def _update_worst(self, rank: tuple[int, float], path: str, a: Floats, b: Floats) -> None:
        """The worst picture has no finite logits, else another answer where A was surest, else differs most."""
        if rank > self._worst_rank:
            self._worst_rank = rank
            self.worst = path, _top_prediction(self._models[0], a), _top_prediction(self._models[1], b)


def _top_prediction(model: Classifier, logits: Floats) -> TopPrediction:
    if not np.isfinite(logits).all():
        return TopPrediction(None, None)
    probabilities = model.probabilities(logits)
    best = int(probabilities.argmax())
    return TopPrediction(model.spec.labels[best], float(probabilities[best]))
