"""Model files from other tools: what they say of themselves, completed by what the user says, never guessed in silence.

Ultralytics' classifiers carry `names`, `task` and `imgsz`; optimum's have files beside them (`beside`); timm's export
and the ONNX model zoo carry nothing. Whether a graph gives logits or probabilities, what comes out of it says.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import cast, get_args

from visiontool.errors import ModelError, UsageError
from visiontool.inference.activation import activation_of, what_comes_out
from visiontool.model import class_names as labels
from visiontool.model import config_files
from visiontool.model.config_files import Beside
from visiontool.model.fields import is_number, shown
from visiontool.model.spec import (
    CROP_PCT_RANGE,
    MAX_MANIFEST_CHARS,
    MAX_SIDE,
    MEAN_RANGE,
    STD_RANGE,
    Activation,
    CropMode,
    DType,
    InputSpec,
    Interpolation,
    Layout,
    ModelSpec,
    Port,
    without_trailing_ones,
)
from visiontool.runtime import OpenModel

_DTYPES: dict[str, DType] = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16"}
_FLOATS = ("tensor(float)", "tensor(float16)")
_NOT_CLASSIFIERS = ("detect", "segment", "pose", "obb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a user says of a model file from elsewhere; None where nothing was said.

    `mean` and `std` are on the scale 0 to 1, one number or one a channel. `spec` is a manifest in a JSON file of its
    own, which says everything, so nothing else goes with it.
    """

    class_names: Path | None = None
    mean: tuple[float, ...] | None = None  # or one number
    std: tuple[float, ...] | None = None
    img_size: tuple[int, int] | None = None  # (H, W) in pixels, or one side of a square
    crop_pct: float | None = None
    interpolation: Interpolation | None = None
    activation: Activation | None = None  # "softmax" where the graph gives probabilities
    spec: Path | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = getattr(self, name)
            if value is not None:
                numbers = value if isinstance(value, Iterable) else (value,)
                object.__setattr__(self, name, tuple(float(number) for number in numbers))
        if isinstance(self.img_size, int):
            object.__setattr__(self, "img_size", (self.img_size, self.img_size))

    def said(self) -> list[str]:
        """The options that were given, as they are typed."""
        return ["--" + field.name.replace("_", "-") for field in fields(self) if getattr(self, field.name) is not None]


def describe(
    opened: OpenModel, said: Description | None, crop_mode: CropMode | None = None
) -> tuple[ModelSpec, tuple[str, ...]]:
    """Makes the spec of a model file that carries no manifest.

    Args:
        said: what the user says of it.
        crop_mode: what the user says too; None where nothing was said.

    Returns:
        The spec, and what of it nobody said: conventions that the user should be told of.

    Raises:
        ModelError: the graph is no picture classifier, or something that must be known is not; the message lists all
            that is missing and the options that give it.
        UsageError: options that are out of range, or that contradict the file or each other.
    """
    path, inputs, outputs = opened.path, opened.inputs, opened.outputs
    said = said or Description()
    if said.spec is not None:
        if others := [option for option in said.said() if option != "--spec"]:
            raise UsageError(f"--spec says everything of a model; leave out {', '.join(others)}")
        return _read_spec(said.spec, opened), ()
    metadata = opened.scan.metadata
    if metadata.get("task") in _NOT_CLASSIFIERS:
        raise ModelError(
            f"{path}: its metadata says task={metadata['task']!r}; visiontool runs classifiers (task='classify')"
        )
    found = Beside() if "names" in metadata else config_files.read(path)
    layout, channels, dtype, graph_size = _input_of(path, inputs, found.channels)
    classes = _classes_of(path, outputs)
    _check_said(said, channels)
    ultralytics = metadata.get("author") == "Ultralytics" or metadata.get("description", "").startswith("Ultralytics ")
    color = "L" if channels == 1 else found.color
    names, ids = _names(path, metadata, said, found)
    size = _size(path, metadata, graph_size, said, found)
    mean, std = said.mean or found.mean, said.std or found.std
    if dtype == "uint8":
        if said.mean is not None or said.std is not None:
            raise UsageError(f"{path}: the graph takes uint8 pixels as they are; --mean and --std have no effect")
        mean, std = (0.0,), (1.0,)
    if not {len(mean or ()), len(std or ())} <= {0, 1, channels}:
        raise ModelError(
            f"{path}: has {channels} channels, but the files beside it have mean and std of another number"
        )
    if ultralytics:
        mean, std = mean or (0.0,), std or (1.0,)
    if names is None or size is None or mean is None or std is None:
        needed = {"--class-names FILE": names, "--img-size N": size, "--mean R,G,B": mean, "--std R,G,B": std}
        missing = [option for option, value in needed.items() if value is None]
        raise ModelError(
            f"{path}: comes from another tool and does not say everything that an answer depends on.\n"
            f"Add {' '.join(missing)} as it was trained (mean and std on the scale 0 to 1), or --spec manifest.json."
        )
    if classes not in (None, len(names)):
        if said.class_names is not None:
            raise UsageError(f"--class-names {said.class_names}: {len(names)} names; {path} has {classes} classes")
        where = "its metadata" if found.labels is None else "the config.json beside it"
        raise ModelError(f"{path}: {where} names {len(names)} classes, its graph has {classes}; say --class-names FILE")
    crop_mode = crop_mode or found.crop_mode
    crop_pct = said.crop_pct or found.crop_pct
    interpolation = said.interpolation or found.interpolation
    spec = ModelSpec(
        name=path.stem,
        labels=names,
        label_ids=ids,
        input=InputSpec(
            name=inputs[0].name, layout=layout, dtype=dtype, color=color or "RGB", size=size, mean=mean, std=std
        ),
        crop_mode=crop_mode or "center",
        crop_pct=crop_pct or (1.0 if ultralytics else 0.875),
        interpolation=interpolation or "bilinear",
        logits=outputs[0].name,
    )
    spec = replace(spec, activation=activation_of(opened, spec, said.activation))
    if ultralytics:  # whose files follow one rule: RGB, x/255, short side resized, center cut out
        scale = "" if dtype == "uint8" else said.mean and said.std
        conventions = {"mean 0 and std 1": scale, "crop_pct 1": said.crop_pct, "bilinear": said.interpolation}
    else:
        conventions = {
            "RGB (else --spec)": color,
            "center (--crop-mode)": crop_mode,
            "crop_pct 0.875 (--crop-pct)": crop_pct,
            "bilinear (--interpolation)": interpolation,
        }
    assumed = [convention for convention, value in conventions.items() if value is None]
    if ultralytics and assumed:
        assumed = [f"{', '.join(assumed)} (Ultralytics' rule for classifiers)"]
    if len(outputs) > 1:
        assumed.append(f"{shown(outputs[0].name)}, the first of {len(outputs)} outputs (else --spec)")
    return spec, tuple(assumed)


def _check_said(said: Description, channels: int) -> None:
    """Checks the range of what the user says; a command line has done a part of it."""
    for option, values, (low, high) in (("--mean", said.mean, MEAN_RANGE), ("--std", said.std, STD_RANGE)):
        if values is None:
            continue
        if len(values) not in (1, channels):
            raise UsageError(f"{option}: {len(values)} numbers for a graph that takes {channels} channels")
        if not all(is_number(value, low, high) for value in values):
            raise UsageError(
                f"{option} {','.join(f'{value:g}' for value in values)}: expected {low:g} to {high:g}, "
                "on the scale 0 to 1; numbers on the scale 0 to 255 must be divided by 255"
            )
    if said.img_size is not None and not all(1 <= side <= MAX_SIDE for side in said.img_size):
        raise UsageError(f"--img-size {said.img_size}: expected 1 to {MAX_SIDE} pixels")
    if said.crop_pct is not None and not is_number(said.crop_pct, *CROP_PCT_RANGE):
        raise UsageError(f"--crop-pct {said.crop_pct}: expected {CROP_PCT_RANGE[0]:g} to {CROP_PCT_RANGE[1]:g}")
    for option, value, allowed in (
        ("--interpolation", said.interpolation, get_args(Interpolation)),
        ("--activation", said.activation, get_args(Activation)),
    ):
        if value is not None and value not in allowed:
            raise UsageError(f"{option} {value}: expected one of {', '.join(allowed)}")


def _read_spec(path: Path, opened: OpenModel) -> ModelSpec:
    text = labels.read_said("--spec", path, MAX_MANIFEST_CHARS)
    try:
        spec = ModelSpec.from_json(text)
        spec.check_graph(opened.inputs, opened.outputs, opened.scan.final_operators)
    except ModelError as error:
        raise ModelError(f"--spec {path}: {error}") from None
    given, seen = what_comes_out(opened, spec)
    if given not in (None, spec.activation):
        raise ModelError(
            f"--spec {path}: 'activation' is {spec.activation!r}, but the graph gives {seen}: say {given!r}"
        )
    return spec


def _input_of(
    path: Path, inputs: Sequence[Port], told: int | None
) -> tuple[Layout, int, DType, tuple[int | None, int | None]]:
    """Layout, channels and type of the one input, and its (H, W), each None where the file leaves it open.

    Args:
        told: channels, as a file beside it says; a graph of any shape is NCHW then.
    """
    ports = "; ".join(f"{shown(port.name)} {port.type[:60]} {shown(list(port.shape))}" for port in inputs[:3])
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise ModelError(f"{path}: takes {ports or 'nothing'}; a classifier takes one 4-axis batch of pictures")
    if inputs[0].type not in _DTYPES:
        raise ModelError(
            f"{path}: takes {ports}, so {_type_name(inputs[0].type)} numbers; expected float32, float16 or uint8.\n"
            "Export it again with an input of float32."
        )
    shape = inputs[0].shape
    if not isinstance(shape[1], int) and not isinstance(shape[3], int) and told is not None:
        shape = (shape[0], told, *shape[2:])
    nchw, nhwc = shape[1] in (1, 3), shape[3] in (1, 3)
    if nchw == nhwc:
        raise ModelError(
            f"{path}: cannot tell which axis of {shown(list(shape))} is color; say it with --spec manifest.json"
        )
    channels, height, width = (shape[1], shape[2], shape[3]) if nchw else (shape[3], shape[1], shape[2])
    for side in (height, width):
        if isinstance(side, int) and not 1 <= side <= MAX_SIDE:
            raise ModelError(
                f"{path}: takes pictures of {height}x{width} pixels; at most {MAX_SIDE} a side are possible"
            )
    size = (height if isinstance(height, int) else None, width if isinstance(width, int) else None)
    return "NCHW" if nchw else "NHWC", cast(int, channels), _DTYPES[inputs[0].type], size


def _type_name(onnxruntimes: str) -> str:
    """A type as people write it: "float64" for "tensor(double)"."""
    if not onnxruntimes.startswith("tensor("):
        return "a sequence" if onnxruntimes.startswith("seq(") else onnxruntimes[:60]
    name = onnxruntimes.removeprefix("tensor(").removesuffix(")")
    return {"double": "float64", "string": "text"}.get(name, name[:60])


def _classes_of(path: Path, outputs: Sequence[Port]) -> int | None:
    if not outputs:
        raise ModelError(f"{path}: gives nothing; a classifier gives (N, classes)")
    first = outputs[0]
    if first.type not in _FLOATS:
        others = [
            f"{shown(port.name)} {port.type} {shown(list(port.shape))}" for port in outputs if port.type in _FLOATS
        ]
        remedy = "Export it again with an output of float32 numbers, one a class (skl2onnx: zipmap=False)."
        if others:
            remedy = f"Say it with --spec manifest.json, as 'logits' one of: {'; '.join(others[:3])}."
        raise ModelError(
            f"{path}: its first output, {shown(first.name)}, is {_type_name(first.type)} ({first.type[:60]}); expected "
            f"float32 or float16 (N, classes).\n{remedy}"
        )
    shape = without_trailing_ones(first.shape)
    if shape and len(shape) != 2:
        raise ModelError(
            f"{path}: its first output has shape {shown(list(shape))}; a classifier gives (N, classes).\n"
            "If another output is meant, name it with --spec manifest.json."
        )
    classes = shape[1] if shape and isinstance(shape[1], int) else None
    if classes == 1:
        raise ModelError(
            f"{path}: gives one number a picture, a yes or no; visiontool expects one for each of 2 or more classes.\n"
            "Export it again with two: the logits 0 and x, for no and yes, give the probability sigmoid(x)."
        )
    return classes


def _names(
    path: Path, metadata: Mapping[str, str], said: Description, found: Beside
) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    if said.class_names is not None:
        return labels.read_class_names(said.class_names)
    if "names" not in metadata:
        return found.labels, found.label_ids
    names = labels.parse_names(metadata["names"])
    if names is None:
        raise ModelError(f"{path}: its 'names' cannot be read as class names; give --class-names FILE")
    return labels.numbered(names), None


def _size(
    path: Path, metadata: Mapping[str, str], graph_size: tuple[int | None, int | None], said: Description, found: Beside
) -> tuple[int, int] | None:
    """(H, W) as the graph fixes it, else as the user says, else as the metadata or a file beside it says."""
    height, width = graph_size
    if height is not None and width is not None and said.img_size is None and found.size is None:
        return height, width
    size = said.img_size or _imgsz(metadata) or found.size
    if size is not None and not (height in (None, size[0]) and width in (None, size[1])):
        option = "--img-size" if said.img_size else "its metadata's imgsz" if found.size is None else "a file beside it"
        fixed = "x".join("any" if side is None else str(side) for side in graph_size)
        kind = UsageError if said.img_size else ModelError
        raise kind(f"{path}: the graph takes {fixed} pixels (height x width), which {option} contradicts")
    return size


def _imgsz(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """Ultralytics' size: "[H, W]" or "N"."""
    try:
        sides = json.loads(metadata.get("imgsz", ""))
    except (ValueError, RecursionError):
        return None
    sides = [sides, sides] if isinstance(sides, int) else sides
    if (
        isinstance(sides, list)
        and len(sides) == 2
        and all(type(side) is int and 0 < side <= MAX_SIDE for side in sides)
    ):
        return cast(tuple[int, int], tuple(sides))
    return None
