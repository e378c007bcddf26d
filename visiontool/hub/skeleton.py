"""Skeletons: the graphs of the classics without numbers, and the model files that they become with weights.

No torch is needed: `visiontool.graph.fill` puts the numbers in. scripts/make_skeletons.py writes the skeletons,
scripts/check_conversions.py compares them, filled, with torch.
"""

import gzip
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontool._version import __version__
from visiontool.files import MODEL_FILE, cannot_write, sha256
from visiontool.hub import catalog, state_dict
from visiontool.hub.catalog import Entry
from visiontool.hub.timm_config import imagenet, named, spec_of
from visiontool.hub.weights import Tensor
from visiontool.model.class_names import ClassNames
from visiontool.model.spec import ModelSpec

if TYPE_CHECKING:
    import onnx

    from visiontool.graph.fill import Constant

SKELETONS = Path(__file__).with_name("skeletons")
CONFIG_KEY = "visiontool.config"  # of a skeleton's metadata: timm's config.json
NORMALIZATION = ("mean", "std")  # parameters of the graph, since the tags of a network differ in them
_CLASSES = 1000
_OF_TAG = ("tag", "interpolation", "crop_mode", "crop_pct", *NORMALIZATION)  # what they differ in
_STATISTICS = (".running_mean", ".running_var")  # are not counted as parameters

# What published files call otherwise than timm, by the beginning of the architecture. As timm's filters do.
_RENAMED = {
    "vgg": {
        r"^classifier\.0\.": "pre_logits.fc1.",
        r"^classifier\.3\.": "pre_logits.fc2.",
        r"^classifier\.6\.": "head.fc.",
    },
    "densenet": {r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)": r"\1\2"},
}
_LEFT_OUT = ("AuxLogits.", "aux1.", "aux2.")  # heads of Inception v3 and GoogLeNet that are used in training only


def exists(entry: Entry, img_size: int | None = None) -> bool:
    """Whether there is a skeleton for weights of `entry` at that side of the input in pixels; None for their own."""
    channels, *size = entry.input_size
    wanted = (channels, *(size if img_size is None else (img_size, img_size)))
    is_there = entry.classes == _CLASSES and _path(entry.architecture).is_file()
    return is_there and catalog.find(entry.architecture).input_size == wanted


class Filled(NamedTuple):
    """A skeleton with the numbers of a file of weights."""

    spec: ModelSpec
    config: Mapping[str, Any]  # timm's config.json
    values: Mapping[str, Callable[[], NDArray[Any]]]  # the state dict
    graph: "onnx.ModelProto"
    constants: "Mapping[str, Constant]"

    def write(self, folder: Path) -> None:
        """Writes model.onnx and, for timm, config.json and model.safetensors; ConversionError where it cannot."""
        from safetensors.numpy import save_file

        from visiontool.graph.fill import write

        try:
            with (folder / MODEL_FILE).open("wb") as file:
                write(self.graph, self.constants, file)
            tensors = {key: np.ascontiguousarray(value()) for key, value in self.values.items()}
            save_file(tensors, folder / "model.safetensors", {"format": "pt"})
            (folder / "config.json").write_text(json.dumps(self.config, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise cannot_write(error) from None

    def to_bytes(self) -> bytes:
        """The content of model.onnx."""
        from visiontool.graph.fill import write

        file = BytesIO()
        write(self.graph, self.constants, file)
        return file.getvalue()


def fill_from(
    entry: Entry, weights: Path, *, name: str, source: str, license: str, class_names: ClassNames | None = None
) -> Filled:
    """The model of a file of weights.

    Args:
        entry: whose network and preprocessing it is; `exists` is true of it.
        name: of the model.
        source: where the weights come from.
        license: theirs; "" where it is not known.
        class_names: of others than the published weights.

    Raises:
        ModelError: the weights cannot be read, or are not those of this network.
        UsageError: another number of names than of classes.
    """
    from visiontool.graph.fill import fill, parameters

    skeleton = load(entry.architecture)
    config = json.loads(next(field.value for field in skeleton.metadata_props if field.key == CONFIG_KEY))
    values = _values(entry, weights, skeleton, config["pretrained_cfg"]["classifier"])
    shapes = parameters(skeleton)
    classes = skeleton.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    facts = {"source": source, "sha256": sha256(weights), "license": license}
    config |= facts | (imagenet() if class_names is None else named(class_names, weights, classes))
    config["pretrained_cfg"] |= {key: getattr(entry, key) for key in _OF_TAG} | {"license": license}
    for part in (config, config["model_args"], config["pretrained_cfg"]):
        part["num_classes"] = classes
    spec = spec_of(name, config, {key: value for key, value in facts.items() if value})
    count = sum(math.prod(shapes[key]) for key in values if not key.endswith(_STATISTICS))
    spec = replace(
        spec,
        embedding="embedding",
        feature_map="feature_map" if any(output.name == "feature_map" for output in skeleton.graph.output) else None,
        tools={"visiontool": __version__, "torch": skeleton.producer_version},
        weights={**spec.weights, "params": count},
    )
    normalization = {key: partial(np.array, getattr(spec.input, key), np.float32) for key in NORMALIZATION}
    graph, constants = fill(skeleton, {**values, **normalization}, spec.to_metadata())
    return Filled(spec, config, values, graph, constants)


def load(architecture: str) -> "onnx.ModelProto":
    """The skeleton of an architecture."""
    import onnx

    return onnx.load_from_string(gzip.decompress(_path(architecture).read_bytes()))


def _path(architecture: str) -> Path:
    return SKELETONS / f"{architecture}.onnx.gz"


class _Reshaped(NamedTuple):
    """A tensor in another shape of as many numbers."""

    tensor: Tensor
    shape: tuple[int, ...]

    def array(self) -> NDArray[Any]:
        return np.reshape(self.tensor.array(), self.shape)


def renamed(
    architecture: str, shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor | _Reshaped]:
    """`tensors` under timm's names and in its shapes, without those that only training needs."""
    if architecture.startswith("tf_efficientnet_lite") and "_conv_stem.weight" in tensors:
        return dict(zip(shapes, map(tensors.__getitem__, state_dict.learned(tensors)), strict=False))  # in timm's order
    rules = next((rules for start, rules in _RENAMED.items() if architecture.startswith(start)), {})
    result: dict[str, Tensor | _Reshaped] = {}
    for name, tensor in tensors.items():
        if name not in shapes and name.startswith(_LEFT_OUT):
            continue
        for pattern, replacement in rules.items():
            name = re.sub(pattern, replacement, name)
        shape = shapes.get(name, tensor.shape)
        fits = shape != tensor.shape and math.prod(shape) == math.prod(tensor.shape)
        result[name] = _Reshaped(tensor, shape) if fits else tensor
    return result


def _values(
    entry: Entry, weights: Path, skeleton: "onnx.ModelProto", heads: str | list[str]
) -> dict[str, Callable[[], NDArray[Any]]]:
    """The numbers for the parameters of a skeleton, which gets as many classes as the weights have.

    Args:
        heads: the layers that give the logits, as timm's config.json names them.
    """
    from visiontool.graph import fill

    def fits() -> list[state_dict.Fit]:
        shapes = {name: shape for name, shape in fill.parameters(skeleton).items() if name not in NORMALIZATION}
        return state_dict.fits(found, shapes, partial(renamed, entry.architecture, shapes))

    layers = [heads] if isinstance(heads, str) else heads
    found = state_dict.read(weights, fill.parameters(skeleton))
    best = fits()
    head = best[0].tensors.get(f"{layers[0]}.weight")
    if head is not None and head.shape and head.shape[0] != _CLASSES:
        fill.set_classes(skeleton, layers, head.shape[0])
        best = fits()
    tensors = state_dict.chosen(best, entry.architecture, weights)
    return {name: tensors[name].array for name in fill.parameters(skeleton) if name not in NORMALIZATION}
