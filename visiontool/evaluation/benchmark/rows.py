"""What is measured, a row for each network, precision and batch size, and what its rounds come to."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from visiontool.evaluation.benchmark.measuring import Round
from visiontool.model.spec import ModelSpec


class Accuracy(NamedTuple):
    """How often a network's best answer is right."""

    top1: float  # 0 to 1
    dataset: str


class Subject(NamedTuple):
    """A model file that is measured."""

    name: str  # no other has it at this precision
    path: Path
    spec: ModelSpec
    file_bytes: int
    accuracy: Accuracy | None  # of this very file; None where nobody has measured it
    is_made_here: bool = False  # of a network of another precision, to be measured and thrown away


@dataclass
class Row:
    """One subject at one batch size.

    Attributes:
        error: why it could not be measured.
    """

    subject: Subject
    batch_size: int
    rounds: list[Round] = field(default_factory=list)
    error: str | None = None

    @property
    def runs(self) -> int:
        """How many runs the latencies come from."""
        return sum(len(round_.latencies_ms) for round_ in self.rounds)

    def latency_ms(self, share: float) -> float:
        """The latency that `share` of the runs of all rounds do not exceed (nearest rank)."""
        latencies = sorted(latency for round_ in self.rounds for latency in round_.latencies_ms)
        return latencies[math.ceil(share * len(latencies)) - 1]

    def median(self, figure: Callable[[Round], float]) -> float:
        """The median of a figure of each round."""
        return statistics.median(map(figure, self.rounds))

    def peak(self, figure: Callable[[Round], int | None]) -> int | None:
        """The largest of a figure of each round; None where nobody knows it."""
        return max((value for value in map(figure, self.rounds) if value is not None), default=None)

    @property
    def noise(self) -> float | None:
        """How far the rounds' median latencies are apart, as a share of their median; None for a single round."""
        medians = [statistics.median(round_.latencies_ms) for round_ in self.rounds]
        return (max(medians) - min(medians)) / statistics.median(medians) if len(medians) > 1 else None

    def to_json(self) -> dict[str, Any]:
        """The row as JSON has it, units in the names."""
        subject = self.subject
        row: dict[str, Any] = {
            "model": subject.name,
            "architecture": subject.spec.architecture,
            "precision": subject.spec.precision,
            "made_here": subject.is_made_here,
            "batch_size": self.batch_size,
            "status": "ok" if self.rounds else "error",
        }
        if not self.rounds:
            return {**row, "error": self.error or "interrupted"}
        return {
            **row,
            "device": self.rounds[0].device,
            "provider": self.rounds[0].provider,
            "rounds": len(self.rounds),
            "runs": self.runs,
            "latency_p50_ms": self.latency_ms(0.5),
            "latency_p95_ms": self.latency_ms(0.95),
            "noise": self.noise,
            "network_images_per_s": self.median(lambda round_: round_.network_images_per_s),
            "end_to_end_images_per_s": self.median(lambda round_: round_.end_to_end_images_per_s),
            "opening_images_per_s": self.median(lambda round_: round_.opening_images_per_s),
            "decode_ms_per_image": self.median(lambda round_: round_.decode_ms),
            "preprocess_ms_per_image": self.median(lambda round_: round_.preprocess_ms),
            "run_ms_per_image": self.median(lambda round_: round_.run_ms),
            "peak_memory_bytes": self.peak(lambda round_: round_.peak_memory_bytes),
            "gpu_memory_bytes": self.peak(lambda round_: round_.gpu_memory_bytes),
            "file_bytes": subject.file_bytes,
            "accuracy": None if subject.accuracy is None else subject.accuracy._asdict(),
        }
