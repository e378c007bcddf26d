"""What two models answered, added up picture by picture: however many there are, no logits are kept."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontool.inference.classifier import Classifier

Floats = NDArray[np.float32]


class Answer(NamedTuple):
    """What a model says is on a picture; None where its numbers are none."""

    label: str | None
    probability: float | None

    def told(self) -> str:
        """For people: "teapot (91.2%)"."""
        return "no number" if self.label is None else f"{self.label} ({self.probability or 0.0:.1%})"


class Worst(NamedTuple):
    """The picture whose answers differ most."""

    path: str
    a: Answer
    b: Answer


class Tally:
    """Sums, extremes and counts over all pictures so far.

    Answers are compared by their labels, since that is what a user sees.

    Args:
        sure: two probabilities that are further apart than this make an answer a sure one.

    Attributes:
        pictures: that both answered.
        no_numbers: pictures that one of them gave no finite numbers for; nothing else counts them.
        unreadable: pictures that were left out; `first_unreadable` says which was the first, and why.
        changed: how many have another answer.
        sure_changed: how many of these A was sure of.
        max_probability, max_absolute: the largest difference of a probability and of a logit.
        largest_logit: of A.
        cosine: the smallest of an embedding of A and that of B; None where there are none, or of other lengths.
        worst: where an answer is no number, else where A was surest of an answer that changed, else where a probability
            differs most.
    """

    def __init__(self, a: Classifier, b: Classifier, sure: float) -> None:
        self.pictures = self.no_numbers = self.changed = self.sure_changed = 0
        self.unreadable = 0
        self.first_unreadable = ""
        self.cosine: float | None = None
        self.max_probability = self.max_absolute = self.largest_logit = 0.0
        self.worst: Worst | None = None
        self._a, self._b = a, b
        self._sure = sure
        self._worst_so_far = (-1, 0.0)
        self._hits = [0, 0]
        self._squares = [0.0, 0.0]  # of the difference, and of A
        class_ids = {label: class_id for class_id, label in enumerate(a.spec.labels)}
        self._class_in_a = np.array([class_ids.get(label, -1) for label in b.spec.labels])

    @property
    def relative_l2(self) -> float:
        """The length of the difference of all logits, as a share of the length of A's."""
        difference, length = self._squares
        return float(np.sqrt(difference) / max(np.sqrt(length), 1e-12))

    @property
    def agreement(self) -> float:
        """The share of the pictures with the same answer."""
        return 1 - self.changed / self.pictures if self.pictures else 0.0

    @property
    def accuracies(self) -> tuple[float, float]:
        """The shares of the pictures that A and B were right on."""
        total = max(1, self.pictures)
        return self._hits[0] / total, self._hits[1] / total

    def leave_out(self, path: str, error: str) -> None:
        """Counts a picture that cannot be read."""
        self.unreadable += 1
        self.first_unreadable = self.first_unreadable or f"{path}: {error}"

    def add_embeddings(self, a: Floats, b: Floats) -> None:
        """Adds the embeddings (n, D) of both for some pictures."""
        if a.shape != b.shape:
            return
        products = np.einsum("nd,nd->n", a.astype(np.float64), b.astype(np.float64))
        lengths = np.linalg.norm(a.astype(np.float64), axis=1) * np.linalg.norm(b.astype(np.float64), axis=1)
        # Rounding must not part what is equal, and what has no length has no direction.
        cosines = np.where((a == b).all(1), 1.0, products / np.maximum(lengths, 1e-30))
        smallest = float(np.nan_to_num(cosines, nan=-1.0).min())
        self.cosine = smallest if self.cosine is None else min(self.cosine, smallest)

    def add(self, paths: Sequence[str], a: Floats, b: Floats, targets: Sequence[int] | None) -> None:
        """Adds the logits (n, C) of both for these pictures, and the class ids of what is on them."""
        numbers = np.isfinite(a).all(1) & np.isfinite(b).all(1)
        for index in np.flatnonzero(~numbers).tolist():
            self.no_numbers += 1
            self._compete((2, 0.0), paths[index], a[index], b[index])
        kept = np.flatnonzero(numbers)
        if not len(kept):
            return
        self.pictures += len(kept)
        a, b = a[kept], b[kept]
        difference = b.astype(np.float64) - a
        self._squares[0] += float((difference**2).sum())
        self._squares[1] += float((a.astype(np.float64) ** 2).sum())
        self.max_absolute = max(self.max_absolute, float(np.abs(difference).max()))
        self.largest_logit = max(self.largest_logit, float(np.abs(a).max()))
        self._add_answers([paths[index] for index in kept.tolist()], a, b)
        if targets is not None:
            wanted = np.array(targets)[kept]
            self._hits[0] += int((a.argmax(1) == wanted).sum())
            self._hits[1] += int((self._class_in_a[b.argmax(1)] == wanted).sum())

    def _add_answers(self, paths: Sequence[str], a: Floats, b: Floats) -> None:
        of_a, of_b = self._a.probabilities(a), self._b.probabilities(b)
        margins = _margins(of_a)
        changed = self._class_in_a[of_b.argmax(1)] != of_a.argmax(1)
        differences = np.abs(of_b - of_a).max(1)
        self.changed += int(changed.sum())
        self.sure_changed += int((changed & (margins > self._sure)).sum())
        self.max_probability = max(self.max_probability, float(differences.max()))
        for index, path in enumerate(paths):
            how_bad = (1, float(margins[index])) if changed[index] else (0, float(differences[index]))
            self._compete(how_bad, path, a[index], b[index])

    def _compete(self, how_bad: tuple[int, float], path: str, a: Floats, b: Floats) -> None:
        """Makes a picture the worst one if it is worse than the worst so far."""
        if how_bad > self._worst_so_far:
            self._worst_so_far = how_bad
            self.worst = Worst(path, _answer(self._a, a), _answer(self._b, b))


def _margins(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much the largest is above the next, (n,); 1 where there is one class only."""
    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities))
    ordered = np.partition(probabilities, -2, axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2])


def _answer(model: Classifier, logits: Floats) -> Answer:
    if not np.isfinite(logits).all():
        return Answer(None, None)
    probabilities = model.probabilities(logits)
    best = int(probabilities.argmax())
    return Answer(model.spec.labels[best], float(probabilities[best]))
