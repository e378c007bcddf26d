"""The manifest of a model file: what an .onnx file says of itself (docs/model-file.md).

It travels as JSON under one metadata key of the file, so labels and preprocessing can never be lost or mixed
up. Reading treats it as hostile: sizes are limited, only `json.loads` parses it, every type is checked here and
every length against the graph (`check_graph`).
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast, get_args

from visiontool.errors import ModelError
from visiontool.model.fields import Fields, shown

MANIFEST_KEY = "visiontool.manifest"
SCHEMA = 1

MAX_MANIFEST_CHARS = 8 * 2**20
MAX_SIDE = 4096  # pixels
MAX_FIXED_BATCH = 4096
MEAN_RANGE = (0.0, 1.0)
CROP_PCT_RANGE = (0.1, 1.0)
STD_RANGE = (1e-6, 10.0)  # 10 refuses numbers on the scale 0 to 255

CropMode = Literal["center", "border", "squash"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Layout = Literal["NHWC", "NCHW"]
DType = Literal["uint8", "float32", "float16"]
Color = Literal["RGB", "BGR", "L"]
Activation = Literal["none", "softmax"]
Precision = Literal["fp32", "fp16", "int8"]
Resize = Literal["host", "graph"]


class Port(NamedTuple):
    """An input or output of a graph."""

    name: str
    type: str  # as onnxruntime writes it: "tensor(uint8)"
    shape: Sequence[int | str | None]  # a name or None for an axis of any length


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """The tensor that a graph takes.

    A uint8 graph gets the pixels as they are; `mean` and `std` then record what happens inside. A float graph gets
    `(pixels / 255 - mean) / std`.
    """

    size: tuple[int, int]  # (H, W) in pixels
    mean: tuple[float, ...]  # one number a channel, on the scale 0 to 1
    std: tuple[float, ...]
    name: str = "image"
    layout: Layout = "NHWC"
    dtype: DType = "uint8"
    color: Color = "RGB"

    @property
    def channels(self) -> int:
        """The length of the channel axis of the tensor: 1 for gray, else 3."""
        return 1 if self.color == "L" else 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What a model file says of itself; `labels` are in the order of the logits and unique."""

    name: str
    labels: tuple[str, ...]
    input: InputSpec
    label_ids: tuple[str, ...] | None = None  # WordNet ids where they exist
    architecture: str = ""  # timm's name
    crop_mode: CropMode = "center"
    crop_pct: float = 1.0
    interpolation: Interpolation = "bicubic"
    logits: str = "logits"  # names of the graph's outputs
    embedding: str | None = None
    feature_map: str | None = None
    activation: Activation = "none"  # "softmax" where the graph gives probabilities already
    precision: Precision = "fp32"  # of the weights and of what is computed; what comes out is float32 in any
    resize: Resize = "host"  # "graph": it takes upright pictures of any size, and resizes and crops them itself
    temperature: float = 1.0
    weights: Mapping[str, Any] = field(default_factory=dict)  # source, sha256, license
    accuracy: tuple[Mapping[str, Any], ...] = ()  # dataset, pictures, top1, top5
    tools: Mapping[str, Any] = field(default_factory=dict)  # versions that wrote the graph
    parity: Mapping[str, Any] = field(default_factory=dict)  # the gate that the graph passed when it was written
    assumed: tuple[str, ...] = ()  # what of the above nobody said of another tool's file, when it was exported

    def to_json(self) -> str:
        """The manifest as JSON: the same spec gives the same text. NaN and infinities raise ValueError."""
        preprocessing = {
            "exif": "upright",
            "alpha": "white",
            "crop_mode": self.crop_mode,
            "crop_pct": self.crop_pct,
            "interpolation": self.interpolation,
            **({} if self.resize == "host" else {"resize": self.resize}),
        }
        outputs = {"logits": self.logits, "embedding": self.embedding, "feature_map": self.feature_map}
        manifest = {
            "schema": SCHEMA,
            "task": "classify",
            "name": self.name,
            "architecture": self.architecture,
            "labels": self.labels,
            "label_ids": self.label_ids,
            "input": {
                "name": self.input.name,
                "layout": self.input.layout,
                "dtype": self.input.dtype,
                "color": self.input.color,
                "size": self.input.size,
                "mean": self.input.mean,
                "std": self.input.std,
            },
            "preprocessing": preprocessing,
            "outputs": {key: name for key, name in outputs.items() if name is not None},
            "activation": self.activation,
            "precision": None if self.precision == "fp32" else self.precision,
            "temperature": self.temperature,
            "weights": dict(self.weights),
            "accuracy": [dict(entry) for entry in self.accuracy],
            "tools": dict(self.tools),
            "parity": dict(self.parity),
            "assumed": list(self.assumed),
        }
        kept = {key: value for key, value in manifest.items() if value not in (None, "", {}, [])}
        return json.dumps(kept, ensure_ascii=False, allow_nan=False)

    def to_metadata(self) -> dict[str, str]:
        """The metadata of the file: the manifest, and the keys that other readers know.

        Source:
            `names`, `task`, `imgsz`: Ultralytics' exporter (Python literals).
        """
        return {
            MANIFEST_KEY: self.to_json(),
            "names": repr(dict(enumerate(self.labels))),
            "task": "classify",
            "imgsz": repr(list(self.input.size)),
        }

    @classmethod
    def from_json(cls, text: str) -> "ModelSpec":
        """Reads a manifest.

        Raises:
            ModelError: it is too large, no JSON, of a newer schema, or has a value of the wrong type or range; the
                message names the field.
        """
        if len(text) > MAX_MANIFEST_CHARS:
            raise ModelError(f"the manifest has {len(text):,} characters; at most {MAX_MANIFEST_CHARS:,} are read")
        try:
            value = json.loads(text, parse_constant=_no_constant)
        except RecursionError:
            raise ModelError("the manifest is not valid JSON: it is nested too deep") from None
        except ValueError as error:
            raise ModelError(f"the manifest is not valid JSON: {error}") from None
        top = Fields(value)
        schema = top.integer("schema", 1, 2**31)
        if schema > SCHEMA:
            raise ModelError(
                f"the manifest has schema {schema}; this visiontool reads up to {SCHEMA}: update visiontool"
            )
        top.choice("task", ("classify",))
        labels = top.texts("labels")
        spec = cls(
            name=top.text("name"),
            architecture=top.text("architecture", ""),
            labels=labels,
            label_ids=top.texts("label_ids") if "label_ids" in top else None,
            input=_read_input(top.fields("input")),
            activation=cast(Activation, top.choice("activation", get_args(Activation), "none")),
            precision=cast(Precision, top.choice("precision", get_args(Precision), "fp32")),
            temperature=top.number("temperature", 1e-3, 1e3, 1.0),
            weights=top.facts("weights"),
            accuracy=tuple(top.list_of_facts("accuracy")),
            tools=top.facts("tools"),
            parity=top.facts("parity"),
            assumed=top.texts("assumed") if "assumed" in top else (),
            **_read_preprocessing(top.fields("preprocessing")),
            **_read_outputs(top.fields("outputs")),
        )
        if len(set(labels)) != len(labels):
            twice = next(label for label, count in Counter(labels).items() if count > 1)
            raise ModelError(f"manifest: 'labels' holds {shown(twice)} more than once; labels must be unique")
        if spec.label_ids is not None and len(spec.label_ids) != len(labels):
            raise ModelError(f"manifest: 'label_ids' holds {len(spec.label_ids)} ids for {len(labels)} labels")
        return spec

    def check_graph(self, inputs: Sequence[Port], outputs: Sequence[Port], final_operators: Mapping[str, str]) -> None:
        """Checks the manifest against the graph it came with.

        Args:
            inputs, outputs: the graph's, as `runtime.open_model` gives them.
            final_operators: the operator behind each output, as `onnx_scan.scan` gives them.

        Raises:
            ModelError: a tensor is missing, or of another type or shape than the manifest says.
        """
        self._check_input(inputs)
        by_name = {output.name: output for output in outputs}
        _check_output(by_name, "logits", self.logits, 2)
        if self.embedding is not None:
            _check_output(by_name, "embedding", self.embedding, 2)
        if self.feature_map is not None:
            _check_output(by_name, "feature_map", self.feature_map, 4)
        shape = by_name[self.logits].shape
        if shape and _differ(shape[1], len(self.labels)):
            raise ModelError(f"the manifest has {len(self.labels)} labels, the graph gives {shape[1]} logits")
        if len(self.labels) < 2:
            raise ModelError("the manifest has one label; a classifier tells 2 or more classes apart")
        if self.activation == "none" and final_operators.get(self.logits) == "Softmax":
            raise ModelError("the manifest's 'activation' is 'none', but the graph ends in Softmax: say 'softmax'")

    def _check_input(self, inputs: Sequence[Port]) -> None:
        if len(inputs) != 1:
            raise ModelError(f"the graph takes {len(inputs)} inputs; a classifier takes one batch of pictures")
        port, spec = inputs[0], self.input
        if port.name != spec.name:
            raise ModelError(f"the manifest's input is {shown(spec.name)}, the graph's is {shown(port.name)}")
        expected_type = {"uint8": "tensor(uint8)", "float32": "tensor(float)", "float16": "tensor(float16)"}[spec.dtype]
        if port.type != expected_type:
            raise ModelError(f"input {shown(port.name)}: the manifest says {spec.dtype}, the graph takes {port.type}")
        takes = (spec.layout, spec.dtype, spec.color)
        if self.resize == "graph" and takes != ("NHWC", "uint8", "RGB"):
            raise ModelError(f"a graph that resizes pictures itself takes NHWC uint8 RGB, not {' '.join(takes)}")
        height, width = spec.size if self.resize == "host" else ("any", "any")
        picture = (height, width, spec.channels) if spec.layout == "NHWC" else (spec.channels, height, width)
        if len(port.shape) != 4 or any(_differ(got, want) for got, want in zip(port.shape[1:], picture, strict=True)):
            raise ModelError(
                f"input {shown(port.name)}: the manifest says [N, {', '.join(map(str, picture))}], "
                f"the graph takes {shown(list(port.shape))}"
            )
        batch = port.shape[0]
        if isinstance(batch, int) and not 1 <= batch <= MAX_FIXED_BATCH:
            raise ModelError(
                f"the graph takes {batch} pictures at once; expected any number, or 1 to {MAX_FIXED_BATCH}"
            )


def _check_output(by_name: Mapping[str, Port], role: str, name: str, rank: int) -> None:
    if name not in by_name:
        raise ModelError(f"the manifest's {role} output {shown(name)} is not in the graph: {shown([*by_name])}")
    output = by_name[name]
    if output.type not in ("tensor(float)", "tensor(float16)"):
        raise ModelError(f"output {shown(name)} is {shown(output.type)}; expected float numbers")
    shape = without_trailing_ones(output.shape) if rank == 2 else output.shape
    if shape and len(shape) != rank:
        raise ModelError(f"output {shown(name)} has shape {shown(list(output.shape))}; expected {rank} axes")


def without_trailing_ones(shape: Sequence[int | str | None]) -> Sequence[int | str | None]:
    """The shape (N, C) of an output that has it or (N, C, 1, 1), as classifiers have that end in a convolution."""
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _differ(got: int | str | None, want: int | str) -> bool:
    """Whether an axis surely has another length; a named or unknown axis may have any, and "any" wants such a one."""
    return isinstance(got, int) and got != want


def _read_input(fields: Fields) -> InputSpec:
    color = cast(Color, fields.choice("color", get_args(Color), "RGB"))
    lengths = (1,) if color == "L" else (1, 3)
    size = fields.numbers("size", 1, MAX_SIDE, (2,))
    if any(side != int(side) for side in size):
        raise ModelError(f"manifest: 'input.size' must be [height, width] in whole pixels, not {shown(list(size))}")
    return InputSpec(
        name=fields.text("name", "image"),
        layout=cast(Layout, fields.choice("layout", get_args(Layout), "NHWC")),
        dtype=cast(DType, fields.choice("dtype", get_args(DType), "uint8")),
        color=color,
        size=(int(size[0]), int(size[1])),
        mean=fields.numbers("mean", *MEAN_RANGE, lengths),
        std=fields.numbers("std", *STD_RANGE, lengths),
    )


def _read_preprocessing(fields: Fields) -> dict[str, Any]:
    fields.choice("exif", ("upright",), "upright")
    fields.choice("alpha", ("white",), "white")
    return {
        "crop_mode": fields.choice("crop_mode", get_args(CropMode)),
        "crop_pct": fields.number("crop_pct", *CROP_PCT_RANGE),
        "interpolation": fields.choice("interpolation", get_args(Interpolation)),
        "resize": fields.choice("resize", get_args(Resize), "host"),
    }


def _read_outputs(fields: Fields) -> dict[str, Any]:
    names = {role: fields.text(role) for role in ("embedding", "feature_map") if role in fields}
    return {"logits": fields.text("logits"), **names}


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not allowed")
