"""How fast models are on this machine and what memory they take, used as `predict` uses them.

Each model at each precision and batch size is a measurement. All are taken in turns, round after round, so that a
machine whose speed drifts slows all alike; and each time in a process of its own.
"""

import contextlib
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from visiontool.errors import ConversionError, ModelError, UsageError
from visiontool.evaluation.benchmark import process
from visiontool.evaluation.benchmark.process import Job, Round
from visiontool.files import on_disk
from visiontool.hub import catalog, resolve
from visiontool.inference.classifier import Classifier
from visiontool.model.spec import ModelSpec, Precision
from visiontool.progress import Progress, silent

ROUNDS = 3
_MIN_ROUNDS = 2
_MEDIANS = (
    "network_images_per_s",
    "end_to_end_images_per_s",
    "opening_images_per_s",
    "decode_ms_per_image",
    "preprocess_ms_per_image",
    "run_ms_per_image",
)
_LONG_S = 20.0  # a measurement that took longer in its first rounds gets no other, unless it was meant to be long

Reduce = Callable[[Path, ModelSpec, Precision, Sequence[str], Path], ModelSpec]
"""Writes a float32 file in another precision: `export.precision.reduced_file`."""


class Accuracy(NamedTuple):
    top1: float  # share of best answers that are right
    dataset: str


class ModelFile(NamedTuple):
    name: str  # no other has it at this precision
    path: Path
    spec: ModelSpec
    file_bytes: int
    accuracy: Accuracy | None  # of this very file; None where it is not known
    is_made_here: bool = False  # from a float32 file, only to be measured


@dataclass
class Measurement:
    file: ModelFile
    batch_size: int
    rounds: list[Round] = field(default_factory=list)
    error: str | None = None  # why it could not be measured

    @property
    def latencies_ms(self) -> list[float]:
        return sorted(latency for round_ in self.rounds for latency in round_.latencies_ms)

    def latency_ms(self, share: float) -> float:
        """The latency that `share` of them do not exceed (nearest rank)."""
        latencies = self.latencies_ms
        return latencies[math.ceil(share * len(latencies)) - 1]

    def median(self, figure: str) -> float:
        """The median over the rounds of one of their figures, by its name."""
        return float(statistics.median(getattr(round_, figure) for round_ in self.rounds))

    def peak(self, figure: str) -> int | None:
        """The largest over the rounds of one of their figures; None where it is not known."""
        values = (getattr(round_, figure) for round_ in self.rounds)
        return max((value for value in values if value is not None), default=None)

    @property
    def noise(self) -> float | None:
        """How far the rounds' median latencies are apart, as a share of their median; None for a single round."""
        medians = [statistics.median(round_.latencies_ms) for round_ in self.rounds]
        return (max(medians) - min(medians)) / statistics.median(medians) if len(medians) > 1 else None

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {
            "model": self.file.name,
            "architecture": self.file.spec.architecture,
            "precision": self.file.spec.precision,
            "made_here": self.file.is_made_here,
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
            "runs": len(self.latencies_ms),
            "latency_p50_ms": self.latency_ms(0.5),
            "latency_p95_ms": self.latency_ms(0.95),
            "noise": self.noise,
            **{figure: self.median(figure) for figure in _MEDIANS},
            "peak_memory_bytes": self.peak("peak_memory_bytes"),
            "gpu_memory_bytes": self.peak("gpu_memory_bytes"),
            "file_bytes": self.file.file_bytes,
            "accuracy": None if self.file.accuracy is None else self.file.accuracy._asdict(),
        }


def model_files(models: Sequence[str | Path | None]) -> list[ModelFile]:
    """The files of `models`, as `Classifier.load` takes them; UsageError for the same file twice."""
    files: list[ModelFile] = []
    for model in models:
        path = on_disk(resolve.resolve(model))
        if any(path.samefile(other.path) for other in files):
            raise UsageError(f"two of the models are the same file, {path}; leave one out")
        spec = Classifier.load(path, device="cpu").spec
        files.append(ModelFile(spec.name, path, spec, path.stat().st_size, _accuracy(spec)))
    names = [file.name for file in files]
    return [file if names.count(file.name) == 1 else file._replace(name=f"{file.name} ({file.path})") for file in files]


def _accuracy(spec: ModelSpec) -> Accuracy | None:
    """The accuracy in the file, else the published one of the same weights."""
    for fact in spec.accuracy:
        match fact:
            case {"top1": int() | float() as top1, "dataset": str(dataset)} if 0 <= top1 <= 1:
                return Accuracy(top1, dataset)
    with contextlib.suppress(ModelError):
        entry = catalog.find(spec.name)
        if entry.name == spec.name and entry.top1 is not None:
            return Accuracy(entry.top1 / 100, "ImageNet-1k, as published")
    return None


def measurements(
    files: Sequence[ModelFile],
    precisions: Sequence[Precision],
    batch_sizes: Sequence[int],
    pictures: Sequence[str],
    folder: Path,
    *,
    reduce: Reduce,
    progress: Progress = silent,
) -> list[Measurement]:
    """What to measure: float32 files at every precision, others at their own.

    Args:
        pictures: paths; int8 is calibrated on them.
        folder: for the files that `reduce` writes.
    """
    variants = [
        (file, precision)
        for file in files
        for precision in (precisions if file.spec.precision == "fp32" else (file.spec.precision,))
    ]
    result: list[Measurement] = []
    for number, (file, precision) in enumerate(variants):
        error = None
        if precision != file.spec.precision:
            progress("convert", number, len(variants))
            target = folder / f"{number}.onnx"
            try:
                spec = reduce(file.path, file.spec, precision, pictures, target)
                file = ModelFile(file.name, target, spec, target.stat().st_size, None, is_made_here=True)
            except (ConversionError, ModelError) as failure:
                file = file._replace(spec=replace(file.spec, precision=precision), is_made_here=True)
                error = str(failure)
        result += [Measurement(file, batch_size, error=error) for batch_size in batch_sizes]
    return result


def measure(
    measurements: Sequence[Measurement],
    pictures: Sequence[str],
    *,
    seconds: float,
    device: str = "auto",
    provider: str | None = None,
    progress: Progress = silent,
) -> None:
    """Takes the measurements, which have all rounds that are done whenever this ends.

    Args:
        seconds: for each measurement, all rounds together; every round runs the model a few times in any case.
        progress: called with "measure" and how many rounds are done, of how many, over all measurements.
    """
    total = ROUNDS * len(measurements)
    for round_number in range(ROUNDS):
        for number, measurement in enumerate(measurements):
            progress("measure", round_number * len(measurements) + number, total)
            spent = sum(round_.seconds for round_ in measurement.rounds)
            is_long = round_number >= _MIN_ROUNDS and spent > max(_LONG_S, 3 * seconds)
            if measurement.error is not None or is_long:
                continue
            path = str(measurement.file.path)
            job = Job(path, device, provider, measurement.batch_size, tuple(pictures), seconds / ROUNDS)
            try:
                measurement.rounds.append(process.measure_in_process(job))
            except ModelError as error:
                measurement.error = str(error)
                measurement.rounds.clear()
    progress("measure", total, total)
