"""The manifest of a model file (docs/model-file.md): JSON under one metadata key of the file.

Reading treats it as hostile: sizes are limited, only `json.loads` parses it, every type is checked here, and every
length against the graph (`check_graph`).
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar, cast, get_args

from visiontool.errors import ModelError
from visiontool.text import MAX_TEXT_CHARS, is_number, is_text, short_repr

MANIFEST_KEY = "visiontool.manifest"
SCHEMA = 1

MAX_MANIFEST_CHARS = 8 * 2**20
MAX_CLASSES = 100_000
MAX_SIDE = 4096  # pixels
MAX_FIXED_BATCH = 4096
MEAN_RANGE = (0.0, 1.0)
CROP_PCT_RANGE = (0.1, 1.0)
STD_RANGE = (1e-6, 10.0)  # 10 refuses numbers on the scale 0 to 255
_MAX_FACTS = 100
_REQUIRED: Any = object()

CropMode = Literal["center", "border", "squash"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Layout = Literal["NHWC", "NCHW"]
DType = Literal["uint8", "float32", "float16"]
Color = Literal["RGB", "BGR", "L"]
Activation = Literal["none", "softmax"]
Task = Literal["classify", "multilabel"]
Precision = Literal["fp32", "fp16", "int8"]
Resize = Literal["host", "graph"]
FLOATS = ("tensor(float)", "tensor(float16)")  # onnxruntime's types that are read as float32
T = TypeVar("T")


class Port(NamedTuple):
    """An input or output of a graph."""

    name: str
    type: str  # as onnxruntime writes it: "tensor(uint8)"
    shape: Sequence[int | str | None]  # a name or None for an axis of any length

    def __str__(self) -> str:
        """As messages show it: short, on one line."""
        return f"{short_repr(self.name)} {self.type[:60]} {short_repr(list(self.shape))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """The tensor that a graph takes.

    A uint8 graph gets the pixels as they are; `mean` and `std` then record what happens inside. A float graph gets
    `(pixels / 255 - mean) / std`.
    """

    name: str = "image"
    layout: Layout = "NHWC"
    dtype: DType = "uint8"
    color: Color = "RGB"
    size: tuple[int, int]  # (H, W) in pixels
    mean: tuple[float, ...]  # one number a channel, on the scale 0 to 1
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        """The length of the channel axis of the tensor: 1 for gray, else 3."""
        return 1 if self.color == "L" else 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """What `predict` decides by, found on pictures of known classes; None or empty where nobody asked for it."""

    precision: float | None = None  # of the answers of each class from its threshold on
    # One for each label: an answer below it is "unknown", above 1 every one is. Of several labels those are given that
    # reach theirs.
    thresholds: tuple[float, ...] = ()
    coverage: float | None = None  # share of the prediction sets that hold the true class
    quantiles: tuple[float, ...] = ()  # one for each label, or for all: a set has those with 1 - probability <= it

    @classmethod
    def read(cls, fields: "JsonFields", classes: int) -> "Decisions":
        """Those of a manifest or the file of an ensemble, if it has any."""
        if "decisions" not in fields:
            return UNDECIDED
        fields = fields.fields("decisions")
        shares = {key: fields.number(key, 0, 1) for key in ("precision", "coverage") if key in fields}
        thresholds = fields.numbers("thresholds", 0, 2, (classes,)) if "thresholds" in fields else ()
        quantiles = fields.numbers("quantiles", 0, 1, (1, classes)) if "quantiles" in fields else ()
        return cls(**shares, thresholds=thresholds, quantiles=quantiles)

    def to_json(self) -> dict[str, Any]:
        return _without_empty(asdict(self))


UNDECIDED = Decisions()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The manifest of a model file; `labels` are in the order of the logits and unique."""

    name: str
    labels: tuple[str, ...]
    input: InputSpec
    task: Task = "classify"  # "multilabel" where a picture may have several labels: a sigmoid for each, no softmax
    label_ids: tuple[str, ...] | None = None  # WordNet ids where they exist
    architecture: str = ""  # timm's name
    crop_mode: CropMode = "center"
    crop_pct: float = 1.0
    interpolation: Interpolation = "bicubic"
    logits: str = "logits"  # names of the graph's outputs
    embedding: str | None = None
    feature_map: str | None = None
    activation: Activation = "none"  # "softmax" where the graph gives probabilities already
    precision: Precision = "fp32"  # of weights and arithmetic; the outputs are float32 in any
    resize: Resize = "host"  # "graph": it takes upright pictures of any size, and resizes and crops them itself
    temperature: float = 1.0
    weights: Mapping[str, Any] = field(default_factory=dict)  # source, sha256, license
    accuracy: tuple[Mapping[str, Any], ...] = ()  # dataset, pictures, top1, top5
    tools: Mapping[str, Any] = field(default_factory=dict)  # versions that wrote the graph
    parity: Mapping[str, Any] = field(default_factory=dict)  # the gate that the graph passed when it was written
    assumed: tuple[str, ...] = ()  # of a file from another tool: conventions that were assumed when it was exported
    decisions: Decisions = UNDECIDED

    def to_json(self) -> str:
        """The manifest as JSON: the same spec gives the same text. NaN and infinities raise ValueError."""
        values = asdict(self)
        preprocessing = {key: values.pop(key) for key in ("crop_mode", "crop_pct", "interpolation", "resize")}
        outputs = {key: values.pop(key) for key in ("logits", "embedding", "feature_map")}
        if self.resize == "host":
            del preprocessing["resize"]
        if self.precision == "fp32":
            del values["precision"]
        values["decisions"] = self.decisions.to_json()
        manifest = {
            "schema": SCHEMA,
            "task": values.pop("task"),
            **values,
            "preprocessing": {"exif": "upright", "alpha": "white", **preprocessing},
            "outputs": _without_empty(outputs),
        }
        return json.dumps(_without_empty(manifest), ensure_ascii=False, allow_nan=False)

    def to_metadata(self) -> dict[str, str]:
        """The metadata of the file: the manifest, and `names`, `task`, `imgsz` as Ultralytics' exporter writes them."""
        return {
            MANIFEST_KEY: self.to_json(),
            "names": repr(dict(enumerate(self.labels))),
            "task": "classify",
            "imgsz": repr(list(self.input.size)),
        }

    @classmethod
    def from_json(cls, text: str) -> "ModelSpec":
        """Reads a manifest; raises ModelError, which names the field."""
        if len(text) > MAX_MANIFEST_CHARS:
            raise ModelError(f"the manifest has {len(text):,} characters; at most {MAX_MANIFEST_CHARS:,} are read")
        top = JsonFields.parse(text)
        preprocessing, outputs = top.fields("preprocessing"), top.fields("outputs")
        preprocessing.choice("exif", ("upright",), "upright")
        preprocessing.choice("alpha", ("white",), "white")
        labels = top.texts("labels")
        spec = cls(
            task=top.choice("task", get_args(Task)),
            name=top.text("name"),
            architecture=top.text("architecture", ""),
            labels=labels,
            label_ids=top.texts("label_ids") if "label_ids" in top else None,
            input=_read_input(top.fields("input")),
            crop_mode=preprocessing.choice("crop_mode", get_args(CropMode)),
            crop_pct=preprocessing.number("crop_pct", *CROP_PCT_RANGE),
            interpolation=preprocessing.choice("interpolation", get_args(Interpolation)),
            resize=preprocessing.choice("resize", get_args(Resize), "host"),
            logits=outputs.text("logits"),
            embedding=outputs.text("embedding") if "embedding" in outputs else None,
            feature_map=outputs.text("feature_map") if "feature_map" in outputs else None,
            activation=top.choice("activation", get_args(Activation), "none"),
            precision=top.choice("precision", get_args(Precision), "fp32"),
            temperature=top.number("temperature", 1e-3, 1e3, 1.0),
            weights=top.facts("weights"),
            accuracy=tuple(top.list_of_facts("accuracy")),
            tools=top.facts("tools"),
            parity=top.facts("parity"),
            assumed=top.texts("assumed") if "assumed" in top else (),
            decisions=Decisions.read(top, len(labels)),
        )
        if len(set(spec.labels)) != len(spec.labels):
            twice = next(label for label, count in Counter(spec.labels).items() if count > 1)
            raise ModelError(f"manifest: 'labels' holds {short_repr(twice)} more than once; labels must be unique")
        if spec.label_ids is not None and len(spec.label_ids) != len(spec.labels):
            raise ModelError(f"manifest: 'label_ids' holds {len(spec.label_ids)} ids for {len(spec.labels)} labels")
        return spec

    def check_graph(self, inputs: Sequence[Port], outputs: Sequence[Port], final_operators: Mapping[str, str]) -> None:
        """Raises ModelError where its graph differs; `runtime.open_model` gives the ports, `scan` the operators."""
        self._check_input(inputs)
        by_name = {output.name: output for output in outputs}
        for role, axes in (("logits", 2), ("embedding", 2), ("feature_map", 4)):
            if getattr(self, role) is not None:
                _check_output(by_name, role, getattr(self, role), axes)
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
        takes = (spec.layout, spec.dtype, spec.color)
        if self.resize == "graph" and takes != ("NHWC", "uint8", "RGB"):
            raise ModelError(f"a graph that resizes pictures itself takes NHWC uint8 RGB, not {' '.join(takes)}")
        sides = spec.size if self.resize == "host" else ("any", "any")
        picture = (*sides, spec.channels) if spec.layout == "NHWC" else (spec.channels, *sides)
        tensor = {"uint8": "tensor(uint8)", "float32": "tensor(float)", "float16": "tensor(float16)"}[spec.dtype]
        fits = len(port.shape) == 4 and not any(map(_differ, port.shape[1:], picture))
        if (port.name, port.type) != (spec.name, tensor) or not fits:
            raise ModelError(
                f"the manifest's input is {short_repr(spec.name)} {tensor} [N, {', '.join(map(str, picture))}], "
                f"the graph's is {port}"
            )
        if isinstance(batch := port.shape[0], int) and not 1 <= batch <= MAX_FIXED_BATCH:
            raise ModelError(
                f"the graph takes {batch} pictures at once; expected any number, or 1 to {MAX_FIXED_BATCH}"
            )


class JsonFields:
    """A JSON object of a document, read field by field. An error names the field, what was expected and the value."""

    def __init__(self, value: object, document: str = "manifest", prefix: str = "") -> None:
        if not isinstance(value, dict):
            raise ModelError(f"{document}: must be a JSON object, not {short_repr(value)}")
        self._values = value
        self._document = document
        self._prefix = prefix  # of the names of fields, in messages

    @classmethod
    def parse(cls, text: str, document: str = "manifest") -> "JsonFields":
        """Those of a text in a schema that this version reads."""
        try:
            fields = cls(json.loads(text), document)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{document}: not valid JSON: {error}") from None
        if (schema := fields.integer("schema", 1, 2**31)) > SCHEMA:
            raise ModelError(f"{document}: has schema {schema}; this version reads up to {SCHEMA}: update visiontool")
        return fields

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def _get(self, key: str, expected: str, is_valid: Callable[[Any], bool], default: object = _REQUIRED) -> Any:
        value = self._values.get(key, default)
        if value is _REQUIRED:
            raise ModelError(f"{self._document}: {self._prefix + key!r} is missing")
        if not is_valid(value):
            raise ModelError(f"{self._document}: {self._prefix + key!r} must be {expected}, not {short_repr(value)}")
        return value

    def fields(self, key: str) -> "JsonFields":
        values = self._get(key, "a JSON object", lambda value: isinstance(value, dict))
        return JsonFields(values, self._document, f"{self._prefix}{key}.")

    def text(self, key: str, default: str = _REQUIRED) -> str:
        return cast(str, self._get(key, f"text of at most {MAX_TEXT_CHARS:,} characters", is_text, default))

    def texts(self, key: str) -> tuple[str, ...]:
        expected = f"a list of 1 to {MAX_CLASSES:,} texts of 1 to {MAX_TEXT_CHARS:,} characters"
        return tuple(self._get(key, expected, _are_texts))

    def choice(self, key: str, allowed: Sequence[T], default: T = _REQUIRED) -> T:
        expected = f"one of {', '.join(map(str, allowed))}"
        return cast(T, self._get(key, expected, lambda value: value in allowed, default))

    def flag(self, key: str, default: bool) -> bool:
        return cast(bool, self._get(key, "true or false", lambda value: isinstance(value, bool), default))

    def integer(self, key: str, low: int, high: int) -> int:
        expected = f"a whole number from {low} to {high}"
        return cast(int, self._get(key, expected, lambda value: type(value) is int and low <= value <= high))

    def number(self, key: str, low: float, high: float, default: float = _REQUIRED) -> float:
        expected = f"a number from {low:g} to {high:g}"
        return float(self._get(key, expected, lambda value: is_number(value, low, high), default))

    def numbers(self, key: str, low: float, high: float, lengths: Sequence[int]) -> tuple[float, ...]:
        def is_valid(values: object) -> bool:
            is_list = isinstance(values, list) and len(values) in lengths
            return is_list and all(is_number(value, low, high) for value in cast(list[Any], values))

        expected = f"a list of {' or '.join(map(str, lengths))} numbers from {low:g} to {high:g}"
        return tuple(map(float, self._get(key, expected, is_valid)))

    def facts(self, key: str) -> dict[str, Any]:
        """An object whose values are texts, numbers or lists of numbers: recorded facts that nothing depends on."""
        expected = f"an object of at most {_MAX_FACTS} texts and numbers"
        return cast(dict[str, Any], self._get(key, expected, _are_facts, {}))

    def list_of_facts(self, key: str) -> list[dict[str, Any]]:
        def is_valid(values: object) -> bool:
            return isinstance(values, list) and len(values) <= _MAX_FACTS and all(map(_are_facts, values))

        expected = f"a list of at most {_MAX_FACTS} objects of texts and numbers"
        return cast(list[dict[str, Any]], self._get(key, expected, is_valid, []))


def without_trailing_ones(shape: Sequence[int | str | None]) -> Sequence[int | str | None]:
    """The shape (N, C) of an output that has it or (N, C, 1, 1), as classifiers have that end in a convolution."""
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _without_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in (None, "", (), {})}


def _read_input(fields: JsonFields) -> InputSpec:
    color = fields.choice("color", get_args(Color), "RGB")
    lengths = (1,) if color == "L" else (1, 3)
    height, width = fields.numbers("size", 1, MAX_SIDE, (2,))
    if not (height.is_integer() and width.is_integer()):
        raise ModelError(f"manifest: 'input.size' must be [height, width] in whole pixels, not {[height, width]}")
    return InputSpec(
        name=fields.text("name", "image"),
        layout=fields.choice("layout", get_args(Layout), "NHWC"),
        dtype=fields.choice("dtype", get_args(DType), "uint8"),
        color=color,
        size=(int(height), int(width)),
        mean=fields.numbers("mean", *MEAN_RANGE, lengths),
        std=fields.numbers("std", *STD_RANGE, lengths),
    )


def _check_output(by_name: Mapping[str, Port], role: str, name: str, axes: int) -> None:
    if (output := by_name.get(name)) is None:
        known = short_repr([*by_name])
        raise ModelError(f"the manifest's {role} output {short_repr(name)} is not in the graph: {known}")
    shape = without_trailing_ones(output.shape) if axes == 2 else output.shape
    if output.type not in FLOATS or (shape and len(shape) != axes):
        raise ModelError(f"the {role} output is {output}; expected float numbers with {axes} axes")


def _differ(length: int | str | None, expected: int | str) -> bool:
    """Whether an axis surely has another length; a named or unknown axis may have any."""
    return isinstance(length, int) and length != expected


def _are_texts(values: object) -> bool:
    return isinstance(values, list) and 1 <= len(values) <= MAX_CLASSES and all(is_text(value, 1) for value in values)


def _are_facts(values: object) -> bool:
    return (
        isinstance(values, dict)
        and len(values) <= _MAX_FACTS
        and all(is_text(name) and _is_fact(value) for name, value in values.items())
    )


def _is_fact(value: object) -> bool:
    if isinstance(value, list):
        return len(value) <= _MAX_FACTS and all(is_number(item, -1e12, 1e12) for item in value)
    return is_text(value) or is_number(value, -1e12, 1e12)
