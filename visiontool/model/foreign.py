"""Model files from other tools: their metadata and config files, completed by the user's options, never by a guess.

Ultralytics' classifiers carry `names`, `task` and `imgsz`; optimum's have files beside them (`config_files`); timm's
export and the ONNX model zoo carry nothing.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import cast

from visiontool.errors import ModelError, UsageError
from visiontool.model import config_files
from visiontool.model.class_names import ClassNames, numbered, parse_names, read_class_names, read_text
from visiontool.model.config_files import ModelConfig
from visiontool.model.scan import Scan
from visiontool.model.spec import (
    CROP_PCT_RANGE,
    FLOATS,
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
from visiontool.text import is_number, short_repr

_DTYPES: dict[str, DType] = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16"}
_IMGSZ = re.compile(r"\[?([0-9]{1,4})(?:, ?([0-9]{1,4}))?\]?")
_NOT_CLASSIFIERS = ("detect", "segment", "pose", "obb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A user's description of a model file from another tool; None where an option was not given.

    `spec` is a manifest in a JSON file, which describes all, so nothing else goes with it.
    """

    class_names: Path | None = None
    mean: tuple[float, ...] | None = None  # on the scale 0 to 1, one number a channel, or one for all, as `std`
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

    def options(self) -> list[str]:
        """The options that were given, as they are typed."""
        return ["--" + field.name.replace("_", "-") for field in fields(self) if getattr(self, field.name) is not None]


def describe(
    path: Path,
    scan: Scan,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    description: Description | None,
    crop_mode: CropMode | None = None,
) -> tuple[ModelSpec, tuple[str, ...]]:
    """Makes the spec of a model file without a manifest. Its `activation` is not checked, and "none" unless given.

    Returns:
        The spec, and the conventions that were assumed, for the user.

    Raises:
        ModelError: the graph is no picture classifier, or something that must be known is not.
        UsageError: options that are out of range, or that contradict the file or each other.
    """
    user, metadata = description or Description(), scan.metadata
    if user.spec is not None:
        return _read_spec(user, scan, inputs, outputs), ()
    if metadata.get("task") in _NOT_CLASSIFIERS:
        raise ModelError(
            f"{path}: its metadata says task={metadata['task']!r}; visiontool runs classifiers (task='classify')"
        )
    config = ModelConfig() if "names" in metadata else config_files.read(path)
    layout, channels, dtype, graph_size = _input_of(path, inputs, config.channels)
    classes = _classes_of(path, outputs)
    _check(user, channels)
    from_ultralytics = "Ultralytics" in (metadata.get("author"), metadata.get("description", "").partition(" ")[0])
    color = "L" if channels == 1 else config.color
    names = _class_names(path, metadata, user, config)
    size = _size(path, metadata, graph_size, user, config)
    mean, std = user.mean or config.mean, user.std or config.std
    if dtype == "uint8":
        if user.mean is not None or user.std is not None:
            raise UsageError(f"{path}: the graph takes uint8 pixels as they are; --mean and --std have no effect")
        mean, std = (0.0,), (1.0,)
    if not {len(mean or ()), len(std or ())} <= {0, 1, channels}:
        raise ModelError(
            f"{path}: has {channels} channels, but the files beside it have mean and std of another number"
        )
    if from_ultralytics:
        mean, std = mean or (0.0,), std or (1.0,)
    if names is None or size is None or mean is None or std is None:
        needed = {"--class-names FILE": names, "--img-size N": size, "--mean R,G,B": mean, "--std R,G,B": std}
        missing = [option for option, value in needed.items() if value is None]
        raise ModelError(
            f"{path}: comes from another tool and does not say everything that an answer depends on.\n"
            f"Add {' '.join(missing)} as it was trained (mean and std on the scale 0 to 1), or --spec manifest.json.\n"
            "predict, verify and export take these options; the file that export writes needs none."
        )
    labels, label_ids = names
    if classes not in (None, len(labels)):
        if user.class_names is not None:
            raise UsageError(f"--class-names {user.class_names}: {len(labels)} names; {path} has {classes} classes")
        where = "its metadata" if config.labels is None else "the config.json beside it"
        raise ModelError(
            f"{path}: {where} names {len(labels)} classes, its graph has {classes}; say --class-names FILE"
        )
    crop_mode = crop_mode or config.crop_mode
    crop_pct = user.crop_pct or config.crop_pct
    interpolation = user.interpolation or config.interpolation
    spec = ModelSpec(
        name=path.stem,
        labels=labels,
        label_ids=label_ids,
        input=InputSpec(
            name=inputs[0].name, layout=layout, dtype=dtype, color=color or "RGB", size=size, mean=mean, std=std
        ),
        crop_mode=crop_mode or "center",
        crop_pct=crop_pct or (1.0 if from_ultralytics else 0.875),
        interpolation=interpolation or "bilinear",
        logits=outputs[0].name,
        activation=user.activation or "none",
    )
    if from_ultralytics:  # whose files follow one rule: RGB, x/255, short side resized, center cut out
        scale = "" if dtype == "uint8" else user.mean and user.std
        conventions = {"mean 0 and std 1": scale, "crop_pct 1": user.crop_pct, "bilinear": user.interpolation}
    else:
        conventions = {
            "RGB (else --spec)": color,
            "center (--crop-mode)": crop_mode,
            "crop_pct 0.875 (--crop-pct)": crop_pct,
            "bilinear (--interpolation)": interpolation,
        }
    assumed = [convention for convention, value in conventions.items() if value is None]
    if from_ultralytics and assumed:
        assumed = [f"{', '.join(assumed)} (Ultralytics' rule for classifiers)"]
    if len(outputs) > 1:
        assumed.append(f"{short_repr(outputs[0].name)}, the first of {len(outputs)} outputs (else --spec)")
    return spec, tuple(assumed)


def _check(user: Description, channels: int) -> None:
    """Checks the range of the options; the command line has done a part of it."""
    for option, values, (low, high) in (("--mean", user.mean, MEAN_RANGE), ("--std", user.std, STD_RANGE)):
        if values is None:
            continue
        if len(values) not in (1, channels):
            raise UsageError(f"{option}: {len(values)} numbers for a graph that takes {channels} channels")
        if not all(is_number(value, low, high) for value in values):
            raise UsageError(
                f"{option} {','.join(f'{value:g}' for value in values)}: expected {low:g} to {high:g}, "
                "on the scale 0 to 1; numbers on the scale 0 to 255 must be divided by 255"
            )
    if user.img_size is not None and not all(1 <= side <= MAX_SIDE for side in user.img_size):
        raise UsageError(f"--img-size {user.img_size}: expected 1 to {MAX_SIDE} pixels")
    if user.crop_pct is not None and not is_number(user.crop_pct, *CROP_PCT_RANGE):
        raise UsageError(f"--crop-pct {user.crop_pct}: expected {CROP_PCT_RANGE[0]:g} to {CROP_PCT_RANGE[1]:g}")


def _read_spec(user: Description, scan: Scan, inputs: Sequence[Port], outputs: Sequence[Port]) -> ModelSpec:
    """The manifest of --spec, checked against the graph."""
    if others := [option for option in user.options() if option != "--spec"]:
        raise UsageError(f"--spec says everything of a model; leave out {', '.join(others)}")
    path = cast(Path, user.spec)
    text = read_text(path, MAX_MANIFEST_CHARS, "--spec")
    try:
        spec = ModelSpec.from_json(text)
        spec.check_graph(inputs, outputs, scan.final_operators)
        return spec
    except ModelError as error:
        raise ModelError(f"--spec {path}: {error}") from None


def _input_of(
    path: Path, inputs: Sequence[Port], config_channels: int | None
) -> tuple[Layout, int, DType, tuple[int | None, int | None]]:
    """Layout, channels and type of the one input, and its (H, W), each None where the file leaves it open.

    With `config_channels`, from a file beside it, a graph with no fixed channels is NCHW.
    """
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in _DTYPES:
        raise ModelError(
            f"{path}: takes {'; '.join(map(str, inputs[:3])) or 'nothing'}; a classifier takes one 4-axis batch of "
            "pictures.\nExport it again with an input of float32, float16 or uint8."
        )
    shape = inputs[0].shape
    if not isinstance(shape[1], int) and not isinstance(shape[3], int) and config_channels is not None:
        shape = (shape[0], config_channels, *shape[2:])
    nchw, nhwc = shape[1] in (1, 3), shape[3] in (1, 3)
    if nchw == nhwc:
        raise ModelError(
            f"{path}: cannot tell which axis of {short_repr(list(shape))} is color; say it with --spec manifest.json"
        )
    channels, *sides = (shape[1], shape[2], shape[3]) if nchw else (shape[3], shape[1], shape[2])
    height, width = (side if isinstance(side, int) else None for side in sides)
    if not all(side is None or 1 <= side <= MAX_SIDE for side in (height, width)):
        raise ModelError(f"{path}: takes pictures of {height}x{width} pixels; at most {MAX_SIDE} a side are possible")
    return "NCHW" if nchw else "NHWC", cast(int, channels), _DTYPES[inputs[0].type], (height, width)


def _classes_of(path: Path, outputs: Sequence[Port]) -> int | None:
    """The number of classes, None where the graph leaves it open."""
    shape = without_trailing_ones(outputs[0].shape) if outputs else ()
    if not outputs or outputs[0].type not in FLOATS or len(shape) not in (0, 2):
        remedy = "Export it again with an output of float32 numbers, one a class (skl2onnx: zipmap=False)."
        if others := [str(port) for port in outputs[1:4] if port.type in FLOATS]:
            remedy = f"Say it with --spec manifest.json, as 'logits' one of: {'; '.join(others)}."
        first = f"its first output is {outputs[0]}" if outputs else "gives nothing"
        raise ModelError(f"{path}: {first}; a classifier gives float32 or float16 (N, classes).\n{remedy}")
    classes = shape[1] if shape and isinstance(shape[1], int) else None
    if classes == 1:
        raise ModelError(
            f"{path}: gives one number a picture, a yes or no; visiontool expects one for each of 2 or more classes.\n"
            "Export it again with two: the logits 0 and x, for no and yes, give the probability sigmoid(x)."
        )
    return classes


def _class_names(path: Path, metadata: Mapping[str, str], user: Description, config: ModelConfig) -> ClassNames | None:
    if user.class_names is not None:
        return read_class_names(user.class_names)
    if "names" not in metadata:
        return None if config.labels is None else (config.labels, config.label_ids)
    names = parse_names(metadata["names"])
    if names is None:
        raise ModelError(f"{path}: its 'names' cannot be read as class names; give --class-names FILE")
    return numbered(names), None


def _size(
    path: Path,
    metadata: Mapping[str, str],
    graph_size: tuple[int | None, int | None],
    user: Description,
    config: ModelConfig,
) -> tuple[int, int] | None:
    """(H, W) as the graph fixes it, else the user's, else that of the metadata or of a file beside the model."""
    height, width = graph_size
    if height is not None and width is not None and user.img_size is None and config.size is None:
        return height, width
    size = user.img_size or config.size
    # Ultralytics writes "[H, W]" or "N".
    if size is None and (match := _IMGSZ.fullmatch(metadata.get("imgsz", ""))):
        sides = (int(match[1]), int(match[2] or match[1]))
        size = sides if all(0 < side <= MAX_SIDE for side in sides) else None
    if size is not None and not (height in (None, size[0]) and width in (None, size[1])):
        source = "its metadata's imgsz" if config.size is None else "a file beside it"
        option = "--img-size" if user.img_size else source
        fixed = "x".join("any" if side is None else str(side) for side in graph_size)
        kind = UsageError if user.img_size else ModelError
        raise kind(f"{path}: the graph takes {fixed} pixels (height x width), which {option} contradicts")
    return size
