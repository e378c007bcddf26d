"""What a comparison of two models came to, and what it misses of its gate."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from visiontool.evaluation.compare.gates import FEW_CHANGED, MANY, Gate
from visiontool.evaluation.compare.tally import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two models.

    Attributes:
        images_per_s: through the network alone.
        accuracy: None where nobody says what is on the pictures.
        worst_answer: what it says of the worst picture.
    """

    name: str
    path: str
    device: str
    precision: str
    size_bytes: int
    images_per_s: float
    accuracy: float | None
    worst_answer: Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How B answers, measured by A.

    Attributes:
        origin: where the pictures are from.
        pictures: that both answered.
        unreadable: that were left out.
        no_numbers: that one of the two gave no finite numbers for.
        agreement: share of the pictures with the same answer.
        changed, sure_changed: how many have another one, and of how many of these A was sure (`Gate.sure`).
        max_probability_difference: of any class on any picture.
        worst: the path of the picture whose answers differ most.
        relative_l2: length of the difference of all logits, as a share of the length of A's.
        max_absolute: largest difference of a logit; `largest_logit` is A's.
        embedding_cosine: the smallest, of an embedding and that of A; None where one of the two has none.
        batch_difference: largest relative L2 of B's logits between `batches`, as far as memory allows, and one picture.
        gate: what was allowed.
        said: what the two files say differently of themselves and must not.
    """

    a: Side
    b: Side
    origin: str
    pictures: int
    unreadable: int
    no_numbers: int
    agreement: float
    changed: int
    sure_changed: int
    max_probability_difference: float
    worst: str
    relative_l2: float
    max_absolute: float
    largest_logit: float
    embedding_cosine: float | None
    batch_difference: float
    batches: tuple[int, ...]
    gate: Gate
    said: tuple[str, ...]

    @property
    def faults(self) -> tuple[str, ...]:
        """What B misses of the gate, a line each; empty where it passed."""
        return (*self.said, *self._of_answers(), *self._of_numbers())

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
        """All of it, for JSON."""
        values = asdict(self)
        for side in ("a", "b"):
            values[side]["worst_answer"] = values[side]["worst_answer"]._asdict()
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
        }
        return {"schema": 1, "passed": not self.faults, "faults": list(self.faults), **finite}

    def _of_answers(self) -> Iterator[str]:
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
        if before is not None and after is not None and gate.accuracy_drop is not None and self.pictures >= MANY:
            drop = before - after
            if drop > gate.accuracy_drop + 1e-9:  # 2 of 200 are one point, whatever a subtraction of floats makes of it
                yield f"accuracy fell by {100 * drop:.1f} points, where {100 * gate.accuracy_drop:.1f} is allowed"

    def _of_numbers(self) -> Iterator[str]:
        gate = self.gate
        bounds = (
            ("the logits differ by {} of their size", self.relative_l2, gate.relative_l2),
            ("a logit differs by {}", self.max_absolute, self.max_absolute_allowed),
            ("a probability differs by {}", self.max_probability_difference, gate.probability),
            ("the logits of B depend on the batch, by {} of their size", self.batch_difference, gate.batch),
        )
        for what, value, allowed in bounds:
            if allowed is not None and not value <= allowed:
                yield f"{what.format(f'{value:.2g}')}, where at most {allowed:.2g} is allowed"
        cosine = self.embedding_cosine
        if cosine is not None and gate.cosine is not None and not cosine >= gate.cosine:
            yield f"an embedding has a cosine of {cosine:.4g} with that of A, where at least {gate.cosine:g} is asked"
