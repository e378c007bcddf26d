"""The files beside a model of another tool: config.json and preprocessor_config.json of Hugging Face (optimum writes
them), or timm's config.json.

Source: the image processors of transformers (`src/transformers/models/*/image_processing_*.py`), timm's
`models/_hub.py`.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, get_args

from visiontool.errors import ModelError
from visiontool.model import class_names
from visiontool.model.spec import (
    CROP_PCT_RANGE,
    MAX_SIDE,
    MEAN_RANGE,
    STD_RANGE,
    Color,
    CropMode,
    Interpolation,
    JsonFields,
)
from visiontool.text import is_number, short_repr

_PROCESSOR = "preprocessor_config.json"
_RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's numbers
# The processors that take a size of one number as that of the short side; the others take it as that of both.
_BY_SHORT_SIDE = ("ConvNext", "PoolFormer", "Levit", "CLIP", "ChineseCLIP", "Bit", "MobileNet", "MobileViT")


class ModelConfig(NamedTuple):
    """The content of these files; None where it is not in them."""

    labels: tuple[str, ...] | None = None
    label_ids: tuple[str, ...] | None = None
    channels: int | None = None
    color: Color | None = None
    size: tuple[int, int] | None = None  # (H, W) in pixels
    mean: tuple[float, ...] | None = None  # on the scale 0 to 1
    std: tuple[float, ...] | None = None
    crop_mode: CropMode | None = None
    crop_pct: float | None = None
    interpolation: Interpolation | None = None


def files(model: Path) -> list[Path]:
    """Those that are there: beside the model, or above its folder "onnx" (transformers.js)."""
    folder = model.absolute().parent
    for each in (folder, folder.parent) if folder.name == "onnx" else (folder,):
        if there := [each / name for name in ("config.json", _PROCESSOR) if (each / name).is_file()]:
            return there
    return []


def read(model: Path) -> ModelConfig:
    """Reads the files beside `model`.

    Raises:
        ModelError: one cannot be read, has a value of the wrong type or range, or asks for what visiontool cannot do.
    """
    values: dict[str, Any] = {}
    for file in files(model):
        try:
            content = _without_nulls(json.loads(class_names.read_text(file, class_names.MAX_NAMES_BYTES)))
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{file}: not valid JSON: {str(error)[:100]}") from None
        fields = JsonFields(content, str(file))
        if "pretrained_cfg" in fields:
            values |= _of_timm(fields) | _named(file, content, "label_names")
        elif file.name == _PROCESSOR:
            values |= _of_processor(file, content)
        else:
            if "problem_type" in fields and (kind := fields.text("problem_type")) != "single_label_classification":
                raise ModelError(f"{file}: 'problem_type' is {short_repr(kind)}; expected one class a picture")
            if "num_channels" in fields:
                values["channels"] = fields.integer("num_channels", 1, 3)
            values |= _named(file, content, "id2label")
    return ModelConfig(**values)


def _without_nulls(value: Any) -> Any:
    """`value` without nulls, which transformers writes for what is not set."""
    if not isinstance(value, dict):
        return value
    return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}


def _cannot(file: Path, what: str) -> NoReturn:
    raise ModelError(f"{file}: {what}, which visiontool cannot do.\nSay all of the model with --spec manifest.json.")


def _named(file: Path, content: dict[str, Any], key: str) -> dict[str, Any]:
    if key not in content:
        return {}
    names = class_names.names_of(content)
    if names is None:
        raise ModelError(f"{file}: {key!r} must name each class by its number, not {short_repr(content[key])}")
    return dict(zip(("labels", "label_ids"), class_names.with_ids(names), strict=True))


def _of_timm(config: JsonFields) -> dict[str, Any]:
    cfg = config.fields("pretrained_cfg")
    channels, height, width = map(int, cfg.numbers("input_size", 1, MAX_SIDE, (3,)))
    return {
        "channels": channels,
        "color": "RGB",
        "size": (height, width),
        "mean": cfg.numbers("mean", *MEAN_RANGE, (1, 3)),
        "std": cfg.numbers("std", *STD_RANGE, (1, 3)),
        "crop_mode": cfg.choice("crop_mode", get_args(CropMode), "center"),
        "crop_pct": cfg.number("crop_pct", *CROP_PCT_RANGE),
        "interpolation": cfg.choice("interpolation", get_args(Interpolation)),
    }


def _of_processor(file: Path, content: dict[str, Any]) -> dict[str, Any]:
    kind = str(content.get("image_processor_type") or content.get("feature_extractor_type") or "")
    is_short = not content.get("default_to_square", not kind.startswith(_BY_SHORT_SIDE))
    for key, is_by_short in (("size", is_short), ("crop_size", False)):
        if type(side := content.get(key)) is int:
            content[key] = {"shortest_edge": side} if is_by_short else {"height": side, "width": side}
    processor = JsonFields(content, str(file))
    if not processor.flag("do_resize", True) or processor.flag("do_pad", False):
        _cannot(file, "does not resize pictures ('do_resize') or pads them ('do_pad')")
    values = _scaling(file, processor) | _geometry(file, processor, kind)
    if "resample" in processor:
        values["interpolation"] = _RESAMPLE[processor.integer("resample", 0, len(_RESAMPLE) - 1)]
    return {**values, "color": "BGR" if processor.flag("do_flip_channel_order", False) else "RGB"}


def _scaling(file: Path, processor: JsonFields) -> dict[str, Any]:
    """Mean and std on the scale 0 to 1, of pixels that are multiplied by a factor and then normalized."""
    factor, offset = 1.0, 0.0
    if processor.flag("do_rescale", True):
        factor = processor.number("rescale_factor", 1e-6, 1e3, 1 / 255)
        if processor.flag("rescale_offset", False):
            offset = 1.0
            if not math.isclose(127.5 * factor, 1, rel_tol=1e-6):  # versions of transformers disagree on others
                _cannot(file, f"'rescale_offset' goes with the 'rescale_factor' {factor:g} instead of 1/127.5")
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    if processor.flag("do_normalize", "image_mean" in processor):
        mean = processor.numbers("image_mean", -1e3, 1e3, (1, 3))
        std = processor.numbers("image_std", 1e-6, 1e3, (1, 3))
        if processor.flag("include_top", False):  # EfficientNet's, which divides by it twice
            std = tuple(number**2 for number in std)
    scale = 255 * factor  # of x * factor - offset, then - mean, / std, for x on the scale 0 to 1
    mean, std = tuple((number + offset) / scale for number in mean), tuple(number / scale for number in std)
    if not all(is_number(each, *MEAN_RANGE) for each in mean) or not all(is_number(each, *STD_RANGE) for each in std):
        means, stds = (", ".join(f"{number:g}" for number in numbers) for numbers in (mean, std))
        _cannot(
            file, f"'rescale_factor', 'image_mean', 'image_std' come to mean {means}, std {stds} on the scale 0 to 1"
        )
    return {"mean": mean, "std": std}


def _geometry(file: Path, processor: JsonFields, kind: str) -> dict[str, Any]:
    """To which size pictures are resized, by their short side or both, and which size is cut out of them."""
    size = processor.fields("size")
    by_short_side = "shortest_edge" in size
    if by_short_side and "longest_edge" in size:
        _cannot(file, "'size' has both 'shortest_edge' and 'longest_edge'")
    keys = ("shortest_edge", "shortest_edge") if by_short_side else ("height", "width")
    height, width = (size.integer(key, 1, MAX_SIDE) for key in keys)
    crop: tuple[int, int] | None = None
    if processor.flag("do_center_crop", False):
        fields = processor.fields("crop_size") if "crop_size" in processor else size
        crop = (fields.integer("height", 1, MAX_SIDE), fields.integer("width", 1, MAX_SIDE))
    if kind.startswith("ConvNext") and height >= 384:
        by_short_side = False
    elif kind.startswith("ConvNext") or "crop_pct" in processor:
        crop = crop or (height, width)
        by_short_side = by_short_side or height == width
        pct = processor.number("crop_pct", *CROP_PCT_RANGE, 224 / 256)
        height, width = int(height / pct), int(width / pct)
    elif kind.startswith("Levit") and by_short_side:
        height = width = int(256 / 224 * height)
    if crop is None and by_short_side:
        _cannot(file, "pictures keep their proportions and are not cropped ('size', 'do_center_crop')")
    crop = crop or (height, width)
    crop_pct = crop[0] / height
    if math.floor(crop[0] / crop_pct) < height:
        crop_pct = crop[0] / (height + 1e-6)  # the quotient was rounded down
    resized = (math.floor(crop[0] / crop_pct), math.floor(crop[1] / crop_pct))
    if resized != (height, width) or not is_number(crop_pct, *CROP_PCT_RANGE):
        _cannot(file, f"{crop[0]}x{crop[1]} pixels ('crop_size') are cut out of {height}x{width} ('size')")
    return {"size": crop, "crop_mode": "center" if by_short_side else "squash", "crop_pct": crop_pct}
