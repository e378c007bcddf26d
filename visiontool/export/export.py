"""Export: one ONNX file that gives the same answer everywhere; the whole story, read from top to bottom.

A source gets the precision, resize and batch that were asked for, is written beside its final name, opened again by the
code that users run, and compared with the source on real pictures. Only what passes gets its name. Nothing here needs
torch; where the source came from torch weights, `torch_check` asks torch too.
"""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from visiontool import runtime
from visiontool._version import __version__
from visiontool.errors import ConversionError, GateError, ModelError, UsageError
from visiontool.evaluation.compare import BATCHES, Comparison, Pictures, check, compare
from visiontool.export import calibration_images, torch_check
from visiontool.export.precision import NEAR_ENOUGH, to_fp16, to_int8
from visiontool.export.resize import embed_resize
from visiontool.export.source import Source, find
from visiontool.files import replacing
from visiontool.graph import edit
from visiontool.graph.edit import fix_batch
from visiontool.hub import cache
from visiontool.hub.resolve import FOLDER
from visiontool.inference.classifier import Classifier
from visiontool.model.spec import ModelSpec, Precision
from visiontool.progress import Progress, silent
from visiontool.training.pictures import pictures_for

__all__ = ["Export", "Source", "Wanted", "default_target", "export", "find"]

# How near the logits of an int8 file must be on the pictures that it is calibrated on. Where its answers to those of
# the comparison change nevertheless, more of it is kept in float.
_NEAR_ENOUGH = (NEAR_ENOUGH, 0.02, 0.014)
_UNSAFE = re.compile(r"[^\w.+-]+")  # in the name of a file, on some system


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the file is to be.

    Raises:
        UsageError: values that cannot be meant together.
    """

    precision: Precision | None = None  # None for the source's own
    embed_resize: bool = False  # the graph takes pictures of any size
    static_batch: int | None = None  # pictures in a run, fixed; None for any number
    calibration: Path | None = None  # pictures for int8; None for those that the run was trained on
    verify_on: Path | None = None  # pictures for the comparison; None for the run's val, or else the samples
    verify: bool = True

    def __post_init__(self) -> None:
        if self.calibration is not None and self.precision != "int8":
            raise UsageError("--calibration is for --precision int8")
        if self.verify_on is not None and not self.verify:
            raise UsageError("--verify-on and --no-verify contradict each other; leave one out")


@dataclass(frozen=True, slots=True)
class Export:
    """A file that was written.

    Attributes:
        path: the file.
        spec: what it says of itself.
        comparison: with its source; None where it was not compared.
        notes: what was kept in float and why, and what else the user should know, a line each.
    """

    path: Path
    spec: ModelSpec
    comparison: Comparison | None
    notes: tuple[str, ...]


def export(
    source: Source,
    target: Path,
    wanted: Wanted,
    *,
    force: bool = False,
    device: str = "cpu",
    progress: Progress = silent,
) -> Export:
    """Writes `source` as one ONNX file.

    Args:
        target: the file.
        force: replaces `target`, which may be the source itself.
        device: where source and file are compared.
        progress: called with the stage ("calibrate", "compare" or "torch") and how much of it is done.

    Raises:
        GateError: the file does not answer as its source does. Nothing is left behind.
        ConversionError: the source cannot become what was asked for, or the file cannot be written.
        DataError: no picture to compare or to calibrate on.
        ModelError: the source is broken.
        UsageError: `target` exists, or what was asked for does not go with the source.
    """
    if os.path.lexists(target) and not force:
        raise UsageError(f"{target} exists; --force replaces it, -o names another file")
    if not target.absolute().parent.is_dir():
        raise UsageError(f"{target}: there is no folder {target.absolute().parent}; make it, or name another with -o")
    if wanted.static_batch is None and _fixed_batch(source.model) and wanted.embed_resize:
        raise UsageError(f"{source.path} takes a fixed number of pictures at once, and --embed-resize one at a time")
    pictures = pictures_for(source.spec, run=source.run, on=wanted.verify_on) if wanted.verify else None
    is_reduced = _is_reduced(source, wanted)
    notes = [] if pictures is None else torch_check.check(source, pictures, progress)

    def attempt(pixels: Sequence[NDArray[np.uint8]] = (), near_enough: float = 0.0) -> Export:
        said = list(notes)
        model, spec = _made(source, wanted, is_reduced, pixels, near_enough, said, progress)
        return _written(source, model, spec, target, pictures, device, said, progress)

    if not (is_reduced and wanted.precision == "int8"):
        return attempt()
    pixels = calibration_images.batches(source, wanted.calibration)
    for near_enough in _NEAR_ENOUGH[:-1]:
        with suppress(GateError):
            return attempt(pixels, near_enough)
    return attempt(pixels, _NEAR_ENOUGH[-1])


def default_target(source: Source, wanted: Wanted) -> Path:
    """The file in the working folder that an export is written to where none is named."""
    precision = wanted.precision or source.spec.precision
    suffix = "" if precision == "fp32" else f"-{precision}"
    name = source.run.name if source.run is not None else source.spec.name
    return Path(f"{_UNSAFE.sub('-', name)}{suffix}.onnx")


def _fixed_batch(model: onnx.ModelProto) -> int:
    """The number of pictures that the graph takes at once, 0 for any."""
    return int(model.graph.input[0].type.tensor_type.shape.dim[0].dim_value)


def _is_reduced(source: Source, wanted: Wanted) -> bool:
    """Whether the precision is to be another.

    Raises:
        UsageError: it cannot be.
    """
    had = source.spec.precision
    if wanted.precision in (None, had):
        if wanted.calibration is not None:
            raise UsageError(f"{source.path} is {had} already, so --calibration would do nothing; leave it out")
        return False
    if source.spec.resize == "graph":
        raise UsageError(f"{source.path} resizes pictures itself; give the file that it was made from")
    if had != "fp32":
        raise UsageError(f"{source.path} is {had} already, and what was lost cannot come back; give the fp32 file")
    return True


def _made(
    source: Source,
    wanted: Wanted,
    is_reduced: bool,
    pixels: Sequence[NDArray[np.uint8]],
    near_enough: float,
    notes: list[str],
    progress: Progress,
) -> tuple[onnx.ModelProto, ModelSpec]:
    """The graph as it was asked for, and what it says of itself so far.

    Args:
        pixels, near_enough: as `to_int8` takes them.
        notes: gets lines for the user.
    """
    model, spec = source.model, source.spec
    if is_reduced and wanted.precision is not None:
        if wanted.precision == "fp16":
            model = to_fp16(model, spec)
        else:
            quantized = to_int8(model, spec, pixels, near_enough=near_enough, progress=progress)
            model = quantized.model
            notes += quantized.kept
        spec = replace(spec, precision=wanted.precision)
    if wanted.embed_resize and spec.resize != "graph":
        spec = embed_resize(model, spec)
    if wanted.static_batch is not None:
        fix_batch(model, spec, wanted.static_batch)
    edit.clean(model)
    return model, spec


def _written(
    source: Source,
    model: onnx.ModelProto,
    spec: ModelSpec,
    target: Path,
    pictures: Pictures | None,
    device: str,
    notes: list[str],
    progress: Progress,
) -> Export:
    """Writes the file beside its name, and gives it that if it passes."""
    spec = _described(source, spec, pictures)
    edit.describe(model, spec)
    comparison = None
    try:
        with replacing(target) as unfinished:
            unfinished.write_bytes(model.SerializeToString(deterministic=True))
            _check_valid(unfinished, source)
            if pictures is not None:
                comparison = _compared(source, unfinished, target, pictures, device, progress)
    except OSError as error:
        full = "the disk is full" if error.errno in cache.FULL else "cannot be written"
        raise ConversionError(f"{target}: {full} ({error.strerror}). -o names another file.") from error
    return Export(target, spec, comparison, tuple(notes))


def _described(source: Source, spec: ModelSpec, pictures: Pictures | None) -> ModelSpec:
    """What the file says of where it comes from and how it was checked: no path of this machine in it."""
    weights = {
        key: f"{FOLDER}{Path(value).name}" if isinstance(value, str) and value.startswith(FOLDER) else value
        for key, value in spec.weights.items()
    }
    accuracy = tuple(
        entry if spec.precision == source.spec.precision else {**entry, "precision": source.spec.precision}
        for entry in spec.accuracy
    )
    tools = {**spec.tools, "visiontool": __version__}
    if spec.precision == "int8":
        tools["onnxruntime"] = onnxruntime.__version__  # whose quantizer it was
    against = f"{source.spec.name} ({source.spec.precision})"
    parity = {"reference": against, "pictures": 0, "verified": "no: --no-verify"}
    if pictures is not None:
        parity = {"reference": against, "pictures": len(pictures.paths), "batches": list(BATCHES), "verified": "yes"}
    if "reference" in spec.parity:
        parity["reference_checked_against"] = spec.parity["reference"]
    return replace(spec, weights=weights, accuracy=accuracy, tools=tools, parity=parity)


def _check_valid(file: Path, source: Source) -> None:
    """Raises ConversionError where what was written is no model file."""
    try:
        onnx.checker.check_model(file, full_check=True)
        Classifier.load(file, device="cpu")
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ModelError) as error:
        raise ConversionError(f"{source.path}: what was made of it is not a valid model: {error}") from error


def _compared(
    source: Source, file: Path, target: Path, pictures: Pictures, device: str, progress: Progress
) -> Comparison:
    """The file, which is to be called `target`, against its source.

    Raises:
        GateError: it does not answer as its source does.
    """
    before = Classifier(runtime.open_model(source.path, device=device), source.spec)
    after = Classifier.load(file, device=device)
    try:
        comparison = compare(before, after, pictures, progress=progress)
        check(before, after, comparison)
    except GateError as error:
        raise GateError(f"{str(error).replace(file.name, target.name)}\nSo it was not written.") from None
    return replace(comparison, b=replace(comparison.b, path=str(target)))
