"""Export: one ONNX file that gives the same answer everywhere; the whole story, read from top to bottom.

A source gets the precision, resize and batch of the options, is written beside its final name, opened again by the code
that users run, and compared with the source on real pictures. Only what passes gets its name. Nothing here needs torch;
where the source came from torch weights, `compare_with_torch` asks torch too.
"""

import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from visiontool._version import __version__
from visiontool.data.loader import fitted
from visiontool.data.prepare import Recipe
from visiontool.errors import ConversionError, GateError, ModelError, UsageError
from visiontool.evaluation.compare import BATCHES, Comparison, Pictures, check, compare
from visiontool.exporting.precision import TOLERANCE, to_fp16, to_int8
from visiontool.exporting.resize import embed_resize
from visiontool.exporting.source import Source, compare_with_torch
from visiontool.files import FULL, replacing
from visiontool.graph import edit
from visiontool.hub.resolve import FOLDER
from visiontool.images.decode import DEFAULT_LIMITS
from visiontool.inference.classifier import Classifier
from visiontool.model.spec import ModelSpec, Precision
from visiontool.progress import Progress, silent
from visiontool.training.pictures import of_run, pictures_for

_log = logging.getLogger(__name__)

# How far the logits of an int8 file may move on the pictures that it is calibrated on. Where its answers to those of
# the comparison change nevertheless, more of it stays in float.
_TOLERANCES = (TOLERANCE, 0.02, 0.014)
_UNSAFE = re.compile(r"[^\w.+-]+")  # in the name of a file, on some system

_CALIBRATION_PICTURES = 256  # more change the ranges hardly
_FEW_PICTURES = 32
_CALIBRATION_BATCH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What the file is to be; values that contradict each other are a UsageError."""

    precision: Precision | None = None  # None for the source's own
    embed_resize: bool = False  # the graph takes pictures of any size
    static_batch: int | None = None  # pictures in a batch, fixed; None for any number
    calibration: Path | None = None  # pictures for int8; None for those that the run was trained on
    verify_on: Path | None = None  # pictures for the comparison; None for the run's val, or else the samples
    verify: bool = True

    def __post_init__(self) -> None:
        if self.precision not in (None, *get_args(Precision)):
            raise UsageError(f"precision is {self.precision!r}; expected one of {', '.join(get_args(Precision))}")
        if self.static_batch is not None and self.static_batch < 1:
            raise UsageError(f"static_batch is {self.static_batch}; expected 1 or more")
        if self.calibration is not None and self.precision != "int8":
            raise UsageError("--calibration is for --precision int8")
        if self.verify_on is not None and not self.verify:
            raise UsageError("--verify-on and --no-verify contradict each other; leave one out")


@dataclass(frozen=True, slots=True, repr=False)
class Export:
    """A file that was written."""

    path: Path
    spec: ModelSpec
    comparison: Comparison | None  # with its source; None where it was not compared
    notes: tuple[str, ...]  # what stays in float and why, and what else the user should know, a line each

    def __repr__(self) -> str:
        return f"<Export {self.path}: {self.spec.precision}, {'not ' if self.comparison is None else ''}compared>"


def export(
    source: Source,
    target: Path,
    options: ExportOptions,
    *,
    force: bool = False,
    device: str = "cpu",
    progress: Progress = silent,
) -> Export:
    """Writes `source` as one ONNX file: `commands.export`, with the same errors, once the source is found.

    `target` may be the source itself. `progress` gets the stages "calibrate", "compare" and "torch".
    """
    if os.path.lexists(target) and not force:
        raise UsageError(f"{target} exists; --force replaces it, -o names another file")
    if not target.absolute().parent.is_dir():
        raise UsageError(f"{target}: there is no folder {target.absolute().parent}; make it, or name another with -o")
    fixed_batch = source.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    if options.static_batch is None and fixed_batch and options.embed_resize:
        raise UsageError(f"{source.path} takes a fixed number of pictures at once, and --embed-resize one at a time")
    pictures = pictures_for(source.spec, run=source.run, on=options.verify_on) if options.verify else None
    precision = _new_precision(source, options)
    torch_notes = [] if pictures is None else compare_with_torch(source, pictures, progress)

    def attempt(pixels: Sequence[NDArray[np.uint8]] = (), tolerance: float = TOLERANCE) -> Export:
        model, spec, notes = source.model, source.spec, tuple(torch_notes)
        if precision == "fp16":
            model = to_fp16(model, spec)
        elif precision == "int8":
            quantized = to_int8(model, spec, pixels, tolerance=tolerance, progress=progress)
            model, notes = quantized.model, notes + quantized.notes
        spec = replace(spec, precision=precision or spec.precision)
        if options.embed_resize and spec.resize != "graph":
            spec = embed_resize(model, spec)
        if options.static_batch is not None:
            edit.fix_batch(model, spec, options.static_batch)
        edit.clean(model)
        spec = _described(source, spec, pictures)
        onnx.helper.set_model_props(model, spec.to_metadata())
        comparison = _write(model, target, source, pictures, device, progress)
        return Export(target, spec, comparison, notes)

    if precision != "int8":
        return attempt()
    pixels = _calibration_batches(source, options.calibration)
    for tolerance in _TOLERANCES[:-1]:
        with suppress(GateError):
            return attempt(pixels, tolerance)
    return attempt(pixels, _TOLERANCES[-1])


def default_target(source: Source, options: ExportOptions) -> Path:
    """The file in the working folder that an export is written to where none is named."""
    precision = options.precision or source.spec.precision
    suffix = "" if precision == "fp32" else f"-{precision}"
    name = source.run.name if source.run is not None else source.spec.name
    return Path(f"{_UNSAFE.sub('-', name)}{suffix}.onnx")


def _new_precision(source: Source, options: ExportOptions) -> Precision | None:
    """The precision to convert to; None where it stays as it is."""
    before = source.spec.precision
    if options.precision in (None, before):
        if options.calibration is not None:
            raise UsageError(f"{source.path} is {before} already, so --calibration would do nothing; leave it out")
        return None
    if source.spec.resize == "graph":
        raise UsageError(f"{source.path} resizes pictures itself; give the file that it was made from")
    if before != "fp32":
        raise UsageError(f"{source.path} is {before} already, and what was lost cannot come back; give the fp32 file")
    return options.precision


def _calibration_batches(source: Source, data: Path | None) -> list[NDArray[np.uint8]]:
    """Batches (n, H, W, 3) of up to 256 pictures, taken evenly from those in `data`, or else of the run's train."""
    if data is not None:
        pictures = pictures_for(source.spec, on=data)
    elif source.run is not None:
        pictures = of_run(source.spec, source.run, "train")
    else:
        raise UsageError(
            "--precision int8 takes the ranges of its numbers from pictures of the kind that it will see.\n"
            "Name a folder of some hundred: --calibration FOLDER"
        )
    pixels = fitted(pictures.paths, Recipe.of(source.spec, DEFAULT_LIMITS), _CALIBRATION_PICTURES)
    if len(pixels) < _FEW_PICTURES:
        _log.info(f"Calibrated on {len(pixels)} pictures only; some hundred of the kind it will see are better.")
    return [pixels[start : start + _CALIBRATION_BATCH] for start in range(0, len(pixels), _CALIBRATION_BATCH)]


def _described(source: Source, spec: ModelSpec, pictures: Pictures | None) -> ModelSpec:
    """The spec with where the file comes from and how it was checked: no path of this machine in it."""
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
    reference = f"{source.spec.name} ({source.spec.precision})"
    parity = {"reference": reference, "pictures": 0, "verified": "no: --no-verify"}
    if pictures is not None:
        parity = {"reference": reference, "pictures": len(pictures.paths), "batches": list(BATCHES), "verified": "yes"}
    if "reference" in spec.parity:
        parity["reference_checked_against"] = spec.parity["reference"]
    return replace(spec, weights=weights, accuracy=accuracy, tools=tools, parity=parity)


def _write(
    model: onnx.ModelProto, target: Path, source: Source, pictures: Pictures | None, device: str, progress: Progress
) -> Comparison | None:
    """Writes the file beside its name, opens it as users do, compares it, and gives it the name if it passes."""
    comparison = None
    try:
        with replacing(target) as unfinished:
            unfinished.write_bytes(model.SerializeToString(deterministic=True))
            try:
                onnx.checker.check_model(unfinished, full_check=True)
                after = Classifier.load(unfinished, device="cpu" if pictures is None else device)
            except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ModelError) as error:
                raise ConversionError(f"{source.path}: what was made of it is not a valid model: {error}") from error
            if pictures is not None:
                before = source.open(device)
                comparison = compare(before, after, pictures, progress=progress)
                check(before, after, comparison)
                comparison = replace(comparison, b=replace(comparison.b, path=str(target)))
    except GateError as error:
        text = str(error).replace(f"{target.name}.partial", target.name)
        raise GateError(f"{text}\nSo it was not written.") from None
    except OSError as error:
        reason = "the disk is full" if error.errno in FULL else "cannot be written"
        raise ConversionError(f"{target}: {reason} ({error.strerror}). -o names another file.") from error
    return comparison
