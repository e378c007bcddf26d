"""How fast networks are and what memory they take, on this machine and in the way of `predict`.

Each network at each precision and batch size is a row. All rows are measured in turns, round after round, so that a
machine whose speed drifts slows all alike; and each time in a process of its own (`process`, `measuring`).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from visiontool.data.loader import fitted
from visiontool.data.prepare import Recipe
from visiontool.errors import ConversionError, ModelError, UsageError
from visiontool.evaluation.benchmark import process
from visiontool.evaluation.benchmark.measuring import Task
from visiontool.evaluation.benchmark.rows import Accuracy, Row, Subject
from visiontool.hub import catalog, resolve
from visiontool.images.decode import DEFAULT_LIMITS
from visiontool.inference.classifier import Classifier
from visiontool.model.spec import ModelSpec, Precision
from visiontool.progress import Progress, silent

ROUNDS = 3
_FEWEST_ROUNDS = 2
# A row whose first rounds took longer, since its runs are long, has no others; unless it was meant to take longer.
_LONG_S = 20.0
_MOST_FOR_CALIBRATION = 100


def subjects(models: Sequence[str | Path | None]) -> list[Subject]:
    """The files that models mean.

    Args:
        models: as `Classifier.load` takes them; None for the default model.

    Raises:
        ModelError: as `Classifier.load`.
        UsageError: the same file twice.
    """
    found: list[Subject] = []
    for model in models:
        path = resolve.resolve(model)
        if any(path.samefile(other.path) for other in found):
            raise UsageError(f"two of the models are the same file, {path}; leave one out")
        spec = Classifier.load(path, device="cpu").spec
        found.append(Subject(spec.name, path, spec, path.stat().st_size, _accuracy(spec)))
    names = [subject.name for subject in found]
    # Files that say the same of themselves are told apart by their paths.
    return [
        subject if names.count(subject.name) == 1 else subject._replace(name=f"{subject.name} ({subject.path})")
        for subject in found
    ]


def _accuracy(spec: ModelSpec) -> Accuracy | None:
    """What the file says, else what the publisher of the same weights says."""
    for fact in spec.accuracy:
        match fact:
            case {"top1": int() | float() as top1, "dataset": str(dataset)} if 0 <= top1 <= 1:
                return Accuracy(top1, dataset)
    try:
        entry = catalog.find(spec.name)
    except ModelError:
        return None
    same = entry.name == spec.name and entry.top1 is not None
    return Accuracy((entry.top1 or 0) / 100, "ImageNet-1k, as published") if same else None


def rows(
    files: Sequence[Subject],
    precisions: Sequence[Precision],
    batch_sizes: Sequence[int],
    pictures: Sequence[str],
    folder: Path,
    *,
    progress: Progress = silent,
) -> list[Row]:
    """What is to be measured. A float32 file is made into every other precision; what has another is taken as it is.

    Args:
        pictures: paths; int8 is calibrated on them.
        folder: for the files that are made.
        progress: is called with "convert" and how many are done, of how many.
    """
    wanted = [
        (file, precision)
        for file in files
        for precision in (precisions if file.spec.precision == "fp32" else (file.spec.precision,))
    ]
    made: list[Row] = []
    for number, (file, precision) in enumerate(wanted):
        error = None
        if precision != file.spec.precision:
            progress("convert", number, len(wanted))
            try:
                file = _reduced(file, precision, pictures, folder / f"{number}.onnx")
            except (ConversionError, ModelError) as failure:
                file = file._replace(spec=replace(file.spec, precision=precision), is_made_here=True)
                error = str(failure)
        made += [Row(file, batch_size, error=error) for batch_size in batch_sizes]
    return made


def _reduced(subject: Subject, precision: Precision, pictures: Sequence[str], target: Path) -> Subject:
    """The subject at another precision, written to `target`.

    Raises:
        ConversionError, ModelError: there can be no such file.
        DataError: none of the pictures can be read.
    """
    if subject.spec.resize == "graph":
        raise ConversionError(f"the file resizes pictures itself; name the model that {precision} can be made of")
    from visiontool.export.precision import fp16, int8
    from visiontool.graph import edit

    model, _ = edit.load(subject.path)
    if precision == "fp16":
        model = fp16.to_fp16(model, subject.spec)
    else:
        pixels = fitted(pictures, Recipe.of(subject.spec, DEFAULT_LIMITS), _MOST_FOR_CALIBRATION)
        model = int8.to_int8(model, subject.spec, [pixels]).model
    spec = replace(subject.spec, precision=precision, accuracy=())
    edit.describe(model, spec)
    try:
        target.write_bytes(model.SerializeToString())
    except OSError as error:
        raise ConversionError(f"{target}: cannot be written: {error.strerror}") from None
    return Subject(subject.name, target, spec, target.stat().st_size, None, is_made_here=True)


def measure(
    wanted: Sequence[Row],
    pictures: Sequence[str],
    *,
    seconds: float,
    device: str = "auto",
    provider: str | None = None,
    progress: Progress = silent,
) -> None:
    """Measures the rows, which have all that was measured so far whenever this ends.

    Args:
        seconds: of each row, all rounds together; a few runs are made of each in any case.
        device: as `Classifier.load` takes it, as is `provider`.
        progress: is called with "measure" and how many rows are done, of how many, over all rounds.

    Raises:
        DeviceError, UsageError: the device cannot be used, or there is no such.
        DataError: none of the pictures can be read.
        VisiontoolError: no process could be started.
    """
    total = ROUNDS * len(wanted)
    for round_ in range(ROUNDS):
        for number, row in enumerate(wanted):
            progress("measure", round_ * len(wanted) + number, total)
            took = sum(done.seconds for done in row.rounds)
            if row.error is not None or (round_ >= _FEWEST_ROUNDS and took > max(_LONG_S, 3 * seconds)):
                continue
            path = str(row.subject.path)
            task = Task(path, device, provider, row.batch_size, tuple(pictures), seconds / ROUNDS)
            try:
                row.rounds.append(process.measured(task))
            except ModelError as error:
                row.error = str(error)
                row.rounds.clear()
    progress("measure", total, total)
