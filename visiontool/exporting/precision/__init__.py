"""A graph in reduced precision: half floats, or 8-bit integers. Nothing here needs torch."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from visiontool.data.loader import fitted
from visiontool.data.prepare import Recipe
from visiontool.errors import ConversionError
from visiontool.exporting.precision.fp16 import to_fp16
from visiontool.exporting.precision.int8 import TOLERANCE, Quantized, to_int8
from visiontool.graph import edit
from visiontool.images.decode import DEFAULT_LIMITS
from visiontool.model.spec import ModelSpec, Precision

__all__ = ["TOLERANCE", "Quantized", "reduced_file", "to_fp16", "to_int8"]

_MAX_CALIBRATION_PICTURES = 100


def reduced_file(path: Path, spec: ModelSpec, precision: Precision, pictures: Sequence[str], target: Path) -> ModelSpec:
    """Writes a float32 model file in another precision, unchecked, to measure its speed; gives its spec.

    int8 is calibrated on a hundred of the `pictures`.
    """
    if spec.resize == "graph":
        raise ConversionError(f"the file resizes pictures itself; name the model that {precision} can be made of")
    model, _ = edit.load(path)
    if precision == "fp16":
        model = to_fp16(model, spec)
    else:
        pixels = fitted(pictures, Recipe.of(spec, DEFAULT_LIMITS), _MAX_CALIBRATION_PICTURES)
        model = to_int8(model, spec, [pixels]).model
    spec = replace(spec, precision=precision, accuracy=())
    edit.write(model, target, spec.to_metadata())
    return spec
