"""A small model file for every kind of spec, and pictures that tell whether a reader follows it to the letter."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from conftest import COLOR_SPEC, save_model
from onnx import numpy_helper, parser
from PIL import Image

from visiontool.exporting.resize import embed_resize
from visiontool.model.spec import InputSpec, ModelSpec

LABELS = ("red", "green", "blue", 'it\'s "gray"', "black", "öre")
IDS = tuple(f"n0000000{number}" for number in range(6))
_COLORS = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}
_CHANGES = {
    "center": {},
    "crop": {"crop_pct": 0.5, "interpolation": "bicubic", "temperature": 0.25},
    "squash": {"crop_mode": "squash", "crop_pct": 0.8, "interpolation": "bilinear"},
    "border": {"crop_mode": "border", "interpolation": "lanczos"},
    "border and crop": {"crop_mode": "border", "crop_pct": 0.6, "interpolation": "hamming"},
    "oblong": {"size": (9, 6), "crop_pct": 0.8},
    "oblong border": {"size": (5, 12), "crop_mode": "border", "interpolation": "box", **_COLORS},
    "NCHW": {"layout": "NCHW"},
    "float": {"layout": "NCHW", "dtype": "float32", "name": "data", **_COLORS},
    "half": {"dtype": "float16", "color": "BGR", "mean": (0.5,), "std": (0.5,)},
    "BGR": {"color": "BGR"},
    "gray": {"color": "L", "mean": (0.5,), "std": (0.5,)},
    "gray float": {"layout": "NCHW", "dtype": "float32", "color": "L", "mean": (0.1307,), "std": (0.3081,)},
    "softmax": {"activation": "softmax", "temperature": 2.5, "logits": "probs"},
    "sharp softmax": {"activation": "softmax", "temperature": 0.01},
}


class Kind(NamedTuple):
    """One model file."""

    name: str
    spec: ModelSpec
    path: Path


def parsed(graph: str, *, opset: int = 20, **constants: object) -> onnx.ModelProto:
    """The model of a graph in ONNX's text format, and of constants: int64 or float32."""
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}]> {graph}')
    for name, values in constants.items():
        array = np.asarray(values)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def spec_of(name: str) -> ModelSpec:
    """The spec of one kind."""
    of_input = {field: value for field, value in _CHANGES[name].items() if hasattr(InputSpec, field)}
    rest = {field: value for field, value in _CHANGES[name].items() if field not in of_input}
    spec = replace(COLOR_SPEC, embedding=None, labels=LABELS)
    return replace(spec, input=replace(spec.input, **of_input), **rest)


def picky_graph(spec: ModelSpec, batch: int | str = "N") -> onnx.ModelProto:
    """A graph to which every pixel matters: its logits are random sums of all of them."""
    height, width = spec.input.size
    channels, classes = spec.input.channels, len(spec.labels)
    kind = spec.input.dtype.replace("float32", "float")
    shape = f"{height},{width},{channels}" if spec.input.layout == "NHWC" else f"{channels},{height},{width}"
    size = height * width * channels
    scale = 3 / size**0.5 / (100 if spec.input.dtype == "uint8" else 1)
    last = "Softmax" if spec.activation == "softmax" else "Identity"
    graph = f"""picky ({kind}[{batch},{shape}] {spec.input.name}) => (float[{batch},{classes}] {spec.logits}) {{
        numbers = Cast <to = 1> ({spec.input.name})  flat = Flatten (numbers)
        sums = MatMul (flat, weights)  {spec.logits} = {last} (sums)
    }}"""
    return parsed(graph, weights=np.random.default_rng(1).normal(0, scale, (size, classes)))


def save_picky(path, kind, seed=1, order=range(6), **changes):
    """A model of that kind whose weights are of that seed, and whose classes are in another order."""
    spec, order = replace(spec_of(kind), label_ids=IDS, **changes), [*order]
    graph = picky_graph(spec)
    weights = np.random.default_rng(seed).permutation(numpy_helper.to_array(graph.graph.initializer[0]))
    graph.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights[:, order], "weights"))
    ids, labels = tuple(IDS[place] for place in order), changes.get("labels") or [LABELS[place] for place in order]
    return save_model(graph, path, replace(spec, labels=tuple(labels), label_ids=ids).to_metadata())


def save_kinds(folder: Path) -> list[Kind]:
    """A model file of each kind, of those with a fixed batch and with the resize inside too."""
    specs = {name: spec_of(name) for name in _CHANGES}
    graphs = {name: picky_graph(spec) for name, spec in specs.items()}
    specs["fixed batch"], graphs["fixed batch"] = specs["center"], picky_graph(specs["center"], batch=4)
    graphs["resize inside"] = picky_graph(specs["crop"])
    specs["resize inside"] = embed_resize(graphs["resize inside"], specs["crop"])
    return [
        Kind(name, spec, save_model(graphs[name], folder / f"{name}.onnx", spec.to_metadata()))
        for name, spec in specs.items()
    ]


def save_noise(folder: Path) -> list[Path]:
    """Pictures of noise, of such sizes that each way to round a size or a place gives another answer.

    The JPEG lies on its side, and is big enough to be decoded at a part of its size.
    """
    random = np.random.default_rng(0)
    noise = {
        "wide.png": random.integers(0, 256, (20, 37, 3), np.uint8),
        "tall.png": random.integers(0, 256, (90, 27, 3), np.uint8),
        "gray.png": random.integers(0, 256, (20, 28), np.uint8),
    }
    for name, pixels in noise.items():
        Image.fromarray(pixels).save(folder / name)
    exif = Image.Exif()
    exif[0x0112] = 6
    big = Image.fromarray(random.integers(0, 256, (20, 27, 3), np.uint8)).resize((280, 200))
    big.save(folder / "big.jpg", exif=exif)
    return [folder / name for name in (*noise, "big.jpg")]
