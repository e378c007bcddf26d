"""Skeletons: the graphs of the classics without numbers, and the model files that they become with weights.

No torch is needed: `visiontool.graph.fill` puts the numbers in. scripts/make_skeletons.py writes the skeletons,
scripts/check_conversions.py compares them, filled, with torch.
"""

import gzip
import json
import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontool._version import __version__
from visiontool.errors import ModelError
from visiontool.files import MODEL_FILE, cannot_write, sha256
from visiontool.hub import catalog, state_dict
from visiontool.hub.catalog import Entry
from visiontool.hub.timm_config import imagenet, named, named_classes, spec_of
from visiontool.hub.weights import Tensor
from visiontool.model.class_names import ClassNames, are_imagenets
from visiontool.model.spec import ModelSpec

if TYPE_CHECKING:
    from visiontool.graph.fill import Constant, Skeleton

SKELETONS = Path(__file__).with_name("skeletons")
# Keys of a skeleton's metadata: timm's config.json, and whether it serves for "any" size or only for its own.
CONFIG_KEY, SIZES_KEY = "visiontool.config", "visiontool.sizes"
NORMALIZATION = ("mean", "std")  # parameters of the graph, since the tags of a network differ in them
_CLASSES = 1000
_OF_TAG = ("tag", "interpolation", "crop_mode", "crop_pct", *NORMALIZATION)  # what they differ in
_NO_CHANGES = {"num_classes", "drop_rate", "drop_path_rate"}  # `model_args` that change nothing in the graph
_STATISTICS = (".running_mean", ".running_var")  # are not counted as parameters


class _Layout(NamedTuple):
    """Names other than timm's in files of weights, as the filters beside timm's networks change them."""

    start: str  # of the architecture
    mark: str  # a name that only such files have
    renames: Mapping[str, str | Callable[[re.Match[str]], str]]  # of patterns, in order; none where only names differ


_LAYOUTS = (
    _Layout("tf_efficientnet_lite", "_conv_stem.weight", {}),
    _Layout(
        "vgg",
        "classifier.0.weight",
        {r"^classifier\.0": "pre_logits.fc1", r"^classifier\.3": "pre_logits.fc2", r"^classifier\.6": "head.fc"},
    ),
    _Layout(
        "densenet",
        "features.denseblock1.denselayer1.norm.1.weight",
        {r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)": r"\1\2"},
    ),
    _Layout(
        "regnet",
        "stem.0.weight",
        {
            r"^stem\.0": "stem.conv",
            r"^stem\.1": "stem.bn",
            r"^trunk_output\.block(\d)\.block\d+-(\d+)": lambda match: f"s{match[1]}.b{int(match[2]) + 1}",
            **{rf"\.f\.{part}\.0": f".conv{number}.conv" for number, part in enumerate("abc", 1)},
            **{rf"\.f\.{part}\.1": f".conv{number}.bn" for number, part in enumerate("abc", 1)},
            r"\.f\.c\.": ".conv3.conv.",
            r"\.f\.se\.excitation\.0": ".se.fc1",
            r"\.f\.se\.excitation\.2": ".se.fc2",
            r"\.f\.se\.": ".se.",
            r"\.proj\.0": ".downsample.conv",
            r"\.proj\.1": ".downsample.bn",
            r"^fc\.": "head.fc.",
        },
    ),
    _Layout(
        "swin",
        "layers.0.downsample.reduction.weight",
        {
            **{rf"^layers\.{stage}\.downsample": f"layers.{stage + 1}.downsample" for stage in (2, 1, 0)},
            r"^head\.": "head.fc.",
        },
    ),
    _Layout(
        "convnext",
        "downsample_layers.0.0.weight",
        {
            r"^downsample_layers\.0\.": "stem.",
            r"^stages\.(\d+)\.(\d+)": r"stages.\1.blocks.\2",
            r"^downsample_layers\.(\d+)\.(\d+)": r"stages.\1.downsample.\2",
            "dwconv": "conv_dw",
            "pwconv": "mlp.fc",
            r"^head\.": "head.fc.",
            r"^norm\.": "head.norm.",
        },
    ),
)
# Heads of Inception v3 and GoogLeNet that only training uses; tables that are worked out from the size of windows.
_LEFT_OUT = re.compile(r"^(AuxLogits|aux1|aux2)\.|\.(relative_position_index|attn_mask)$")


def exists(entry: Entry, img_size: int | None = None) -> bool:
    """Whether there is a skeleton for weights of `entry` at that side of the input in pixels; None for their own."""
    if entry.classes != _CLASSES or not path(entry.architecture).is_file():
        return False
    own = catalog.find(entry.architecture).input_size
    return own == _input_size(entry, img_size) or _metadata(load(entry.architecture))[SIZES_KEY] == "any"


class Described(NamedTuple):
    """What timm's config.json says of weights that a skeleton serves for; the arguments of `fill_from`."""

    entry: Entry
    source: str
    license: str
    class_names: ClassNames | None
    accuracy: Sequence[Mapping[str, Any]]


def described_by(config: Path) -> Described | None:
    """What a config.json says; None where it is no such file, or of a network that no skeleton serves for."""
    try:
        given = json.loads(config.read_bytes())
        cfg, names = given["pretrained_cfg"], given.get("label_names")
        entry = catalog.find(given["architecture"])
        own = json.loads(_metadata(load(entry.architecture))[CONFIG_KEY])
        classes, tag = given.get("num_classes", cfg.get("num_classes")), cfg.get("tag") or ""
        class_names = None if names is None else named_classes(names, given.get("label_descriptions"))
        is_named = are_imagenets(classes, tag) if class_names is None else len(class_names[0]) == classes
        same = entry.architecture == given["architecture"] and given.get("global_pool") in (None, own["global_pool"])
        arguments = {key: value for key, value in (given.get("model_args") or {}).items() if key not in _NO_CHANGES}
        if not (is_named and same and own["model_args"] | arguments == own["model_args"]):
            return None
        entry = entry._replace(
            tag=tag,
            classes=_CLASSES,
            input_size=tuple(cfg["input_size"]),
            crop_mode=cfg.get("crop_mode") or "center",
            crop_pct=cfg["crop_pct"],
            **{"interpolation": cfg["interpolation"], **{key: tuple(cfg[key]) for key in NORMALIZATION}},
        )
        facts = given.get("source") or "", cfg.get("license") or "", class_names, given.get("accuracy", ())
        return Described(entry, *facts) if exists(entry) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ModelError):
        return None


class Filled(NamedTuple):
    """A skeleton with the numbers of a file of weights."""

    spec: ModelSpec
    config: Mapping[str, Any]  # timm's config.json
    values: Mapping[str, Callable[[], NDArray[Any]]]  # the state dict
    graph: "Skeleton"
    constants: "Mapping[str, Constant]"

    def write(self, folder: Path) -> None:
        """Writes model.onnx and, for timm, config.json and model.safetensors; ConversionError where it cannot."""
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        from visiontool.graph.fill import write

        try:
            with (folder / MODEL_FILE).open("wb") as file:
                write(self.graph, self.constants, file)
            tensors = {key: np.ascontiguousarray(value()) for key, value in self.values.items()}
            save_file(tensors, folder / "model.safetensors", {"format": "pt"})
            shutil.copymode(folder / MODEL_FILE, folder / "model.safetensors")  # which nobody else may read otherwise
            (folder / "config.json").write_text(json.dumps(self.config, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise cannot_write(error) from None
        except SafetensorError as error:  # what `save_file` makes of one
            raise cannot_write(OSError(str(error))) from None

    def to_bytes(self) -> bytes:
        """The content of model.onnx."""
        from visiontool.graph.fill import write

        file = BytesIO()
        write(self.graph, self.constants, file)
        return file.getvalue()


def fill_from(
    entry: Entry,
    weights: Path,
    *,
    name: str,
    source: str,
    license: str,
    img_size: int | None = None,
    class_names: ClassNames | None = None,
    accuracy: Sequence[Mapping[str, Any]] = (),
) -> Filled:
    """The model of a file of weights.

    Args:
        entry: whose network and preprocessing it is.
        name: of the model.
        source: where the weights come from.
        license: theirs; "" where it is not known.
        img_size: the side of the input in pixels, of which `exists` is true; None for that of `entry`.
        class_names: of others than the published weights.
        accuracy: for the manifest.

    Raises:
        ModelError: the weights cannot be read, or are not those of this network.
        UsageError: another number of names than of classes.
    """
    from visiontool.graph.fill import fill, parameters, set_size

    skeleton = load(entry.architecture)
    config = json.loads(_metadata(skeleton)[CONFIG_KEY])
    values = _values(entry, weights, skeleton, config["pretrained_cfg"]["classifier"])
    shapes = parameters(skeleton)
    classes = skeleton.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    facts = {"source": source, "sha256": sha256(weights), "license": license}
    config |= facts | (imagenet() if class_names is None else named(class_names, weights, classes))
    config |= {"accuracy": accuracy} if accuracy else {}
    config["pretrained_cfg"] |= {key: getattr(entry, key) for key in _OF_TAG} | {"license": license}
    input_size = _input_size(entry, img_size)
    if input_size != tuple(config["pretrained_cfg"]["input_size"]):
        set_size(skeleton, input_size[1:])
        config["pretrained_cfg"]["input_size"] = input_size
        for key in ("test_input_size", "test_crop_pct", "pool_size"):
            config["pretrained_cfg"].pop(key, None)
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
    normalization = {key: np.reshape(np.float32(getattr(spec.input, key)), shapes[key]) for key in NORMALIZATION}
    numbers = values | {key: partial(np.asarray, array) for key, array in normalization.items()}
    graph, constants = fill(skeleton, numbers, spec.to_metadata())
    return Filled(spec, config, values, graph, constants)


def load(architecture: str) -> "Skeleton":
    """The skeleton of an architecture."""
    from visiontool.graph import fill

    return fill.read(gzip.decompress(path(architecture).read_bytes()))


def _metadata(skeleton: "Skeleton") -> dict[str, str]:
    return {field.key: field.value for field in skeleton.metadata_props}


def _input_size(entry: Entry, img_size: int | None) -> tuple[int, int, int]:
    return entry.input_size if img_size is None else (entry.input_size[0], img_size, img_size)


def path(architecture: str) -> Path:
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
    layouts = (each for each in _LAYOUTS if architecture.startswith(each.start) and each.mark in tensors)
    layout = next(layouts, _Layout("", "", {}))
    names = list(tensors)
    if layout.mark and not layout.renames:
        tensors = {name: tensors[name] for name in state_dict.learned(tensors)}
        names = [*shapes, *list(tensors)[len(shapes) :]][: len(tensors)]
    for pattern, replacement in layout.renames.items():
        names = [re.sub(pattern, replacement, name) for name in names]
    result: dict[str, Tensor | _Reshaped] = {}
    for name, tensor in zip(names, tensors.values(), strict=True):
        shape = shapes.get(name, tensor.shape)
        fits = shape != tensor.shape and math.prod(shape) == math.prod(tensor.shape)
        if name in shapes or not _LEFT_OUT.search(name):
            result[name] = _Reshaped(tensor, shape) if fits else tensor
    return result


def _values(
    entry: Entry, weights: Path, skeleton: "Skeleton", heads: str | list[str]
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
    return {name: partial(_float32, tensors[name]) for name in fill.parameters(skeleton) if name not in NORMALIZATION}


def _float32(tensor: Tensor | _Reshaped) -> NDArray[np.float32]:
    return np.asarray(tensor.array(), np.float32)
