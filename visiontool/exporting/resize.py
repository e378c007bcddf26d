"""A graph that resizes pictures itself: it takes upright ones of any size, and does what `transforms.fit_to_spec` does.

Sizes and offsets are the same. Pixels seldom differ, by a level: onnxruntime's antialiased Resize follows Pillow's
where `exclude_outside` is set, which it is not by default. With bilinear, a number of a million differs by two: a tie
that is rounded the other way twice.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

from visiontool.errors import ConversionError, UsageError, first_line
from visiontool.graph import edit
from visiontool.images.transforms import fill_color, scaled_size
from visiontool.model.spec import ModelSpec

_MODES = {"bilinear": "linear", "bicubic": "cubic"}
_OPSET = 18  # the first whose Resize has antialias


def embed_resize(model: onnx.ModelProto, spec: ModelSpec) -> ModelSpec:
    """Puts resize and crop into the graph of `model`, in place, as `spec` has them.

    The graph then takes uint8 RGB of shape (N, height, width, 3), upright, of any height and width, and is of opset 18
    or later. Returns its spec.

    Raises:
        UsageError: the graph takes something else than uint8 RGB (N, H, W, 3), or the interpolation is one that
            Resize does not have as Pillow has it.
        ConversionError: the graph is of an older opset, and cannot be raised to 18.
    """
    if spec.resize == "graph":
        raise UsageError(f"{spec.name}: the file resizes pictures itself already")
    takes = spec.input
    if (takes.layout, takes.dtype, takes.color) != ("NHWC", "uint8", "RGB"):
        raise UsageError(
            f"{spec.name}: takes {takes.color} as {takes.dtype} in {takes.layout}; "
            "only a graph that takes uint8 RGB in NHWC can be given the resize"
        )
    if spec.interpolation not in _MODES:
        raise UsageError(
            f"{spec.name}: resized by {spec.interpolation}, for which ONNX has no operator that does it as Pillow; "
            f"only {' and '.join(_MODES)} can be a part of the graph"
        )
    opset = max((opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")), default=1)
    if opset < _OPSET:
        try:
            model.CopyFrom(version_converter.convert_version(model, _OPSET))
        except Exception as error:  # what onnx raises shares no root but Exception
            raise ConversionError(
                f"{spec.name}: the graph is of opset {opset}, whose Resize has no antialias, and cannot be raised to "
                f"{_OPSET}: {first_line(error)}"
            ) from error
        model.ir_version = max(model.ir_version, 8)  # which opset 18 came with
    graph = model.graph
    image = next(value for value in graph.input if value.name == spec.input.name)
    added = _Nodes(graph)
    pixels = added.unique("resize.pixels")
    for node in graph.node:
        node.input[:] = [pixels if name == image.name else name for name in node.input]
    _fit(added, image.name, pixels, spec)
    nodes = [*added.nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(added.constants)
    for axis, name in zip(image.type.tensor_type.shape.dim[1:3], ("height", "width"), strict=True):
        axis.dim_param = name
    return replace(spec, resize="graph")


class _Nodes:
    """Nodes and constants to put in front of a graph, under names that are unique there."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.unique = edit.unique_names(graph)

    def add(self, operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Adds a node; gives the name of its output."""
        output = self.unique(f"resize.{name}")
        self.nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output

    def constant(self, name: str, values: Sequence[float] | int, dtype: type[np.generic] = np.int64) -> str:
        name = self.unique(f"resize.{name}")
        self.constants.append(numpy_helper.from_array(np.array(values, dtype), name))
        return name


def _fit(added: _Nodes, image: str, pixels: str, spec: ModelSpec) -> None:
    """Adds `fit_to_spec`: from `image`, of any size, to `pixels`, of the size that `spec` has."""
    sides = added.add("Shape", [image], "sides", start=1, end=3)
    resized = _resized(added, sides, spec)
    batch_and_channels = added.add(
        "Concat", [added.add("Shape", [image], "batch", end=1), added.constant("channels", (3,))], "around", axis=0
    )
    planes = added.add("Transpose", [image], "planes", perm=[0, 3, 1, 2])  # cubic takes no other layout
    for size in (_first_pass(added, sides, resized), resized):
        # All four, though with `axes` two would do, as with Pad below: where onnxruntime moves a transpose past an
        # operator that has `axes`, it takes them for all four all the same.
        sizes = added.add("Concat", [batch_and_channels, size], "sizes", axis=0)
        planes = added.add(
            "Resize",
            [planes, "", "", sizes],
            "resized",
            mode=_MODES[spec.interpolation],
            antialias=1,
            exclude_outside=1,
            cubic_coeff_a=-0.5,
        )
    planes = _cropped(added, planes, resized, spec)
    rows = added.add("Transpose", [planes], "rows", perm=[0, 2, 3, 1])
    # Its shape is that already; but now whoever reads the graph knows it too.
    added.nodes.append(
        helper.make_node("Reshape", [rows, added.constant("shape", (0, *spec.input.size, 3))], [pixels], pixels)
    )


def _first_pass(added: _Nodes, sides: str, resized: str) -> str:
    """Adds what Pillow decides; gives the name of the (height, width) after the first of its two passes.

    Between them are whole levels, so it matters which comes first. Until 12 it was the horizontal one; since 13.0 it is
    the vertical one where the height loses more than twice as many pixels as the width.

    Source: python-pillow/Pillow#9549; the rule itself was found by resizing to 400 random sizes.
    """
    lost = added.add("Max", [added.add("Sub", [sides, resized], "less"), added.constant("nothing", (0,))], "lost")
    weighed = added.add("Mul", [lost, added.constant("weights", (1, -2))], "weighed")
    balance = added.add("ReduceSum", [weighed], "balance")
    vertical_first = added.add("Greater", [balance, added.constant("even", (0,))], "vertical_first")
    changes = added.add("Equal", [vertical_first, added.constant("yes_no", (True, False), np.bool_)], "changes")
    return added.add("Where", [changes, resized, sides], "first_size")


def _resized(added: _Nodes, sides: str, spec: ModelSpec) -> str:
    """Adds the size before the crop; gives the name of (height, width)."""
    scaled = scaled_size(spec.input.size, spec.crop_pct)
    if spec.crop_mode == "squash":
        return added.constant("scaled", scaled)
    if spec.crop_mode == "center" and scaled[0] == scaled[1]:
        short = added.add("ReduceMin", [sides], "short")
        return added.add("Div", [added.add("Mul", [sides, added.constant("scaled", scaled)], "long"), short], "size")
    exact = added.add("Cast", [sides], "exact_sides", to=TensorProto.DOUBLE)
    ratios = added.add("Div", [exact, added.constant("scaled", scaled, np.float64)], "ratios")
    ratio = added.add("ReduceMin" if spec.crop_mode == "center" else "ReduceMax", [ratios], "ratio")
    rounded = added.add("Round", [added.add("Div", [exact, ratio], "exact_size")], "rounded")  # half to even, as Python
    size = added.add("Cast", [rounded], "size", to=TensorProto.INT64)
    return added.add("Max", [size, added.constant("least", (1,))], "size_or_1")


def _cropped(added: _Nodes, planes: str, resized: str, spec: ModelSpec) -> str:
    """Adds the cut to the size that `spec` has or, for border, what is filled in; gives the name of the planes."""
    target, axes = added.constant("wanted", spec.input.size), added.constant("axes", (2, 3))
    numbers = {"zero": 0, "two": 2, "three": 3, "four": 4}
    zero, two, three, four = (added.constant(name, (number,)) for name, number in numbers.items())
    excess = added.add("Max", [added.add("Sub", [resized, target], "difference"), zero], "excess")
    # round(excess / 2) of Python, half to even: one more where excess % 4 is 3.
    odd = added.add("Div", [added.add("Mod", [excess, four], "remainder"), three], "odd")
    start = added.add("Div", [added.add("Add", [excess, odd], "twice_start"), two], "start")
    end = added.add("Add", [start, target], "end")
    planes = added.add("Slice", [planes, start, end, axes], "cropped")
    if spec.crop_mode != "border":
        return planes
    lack = added.add("Max", [added.add("Sub", [target, resized], "lack_or_less"), zero], "lack")
    before = added.add("Div", [lack, two], "before")
    after, none = added.add("Sub", [lack, before], "after"), added.constant("none", (0, 0))
    pads = added.add("Concat", [none, before, none, after], "pads", axis=0)
    outputs = [added.unique(f"resize.{color}") for color in ("red", "green", "blue")]
    added.nodes.append(
        helper.make_node("Split", [planes], outputs, added.unique("resize.split"), axis=1, num_outputs=3)
    )
    padded = []
    for plane, value in zip(outputs, fill_color(spec), strict=True):
        fill = added.constant("fill", value, np.uint8)
        padded.append(added.add("Pad", [plane, pads, fill], "padded"))
    return added.add("Concat", padded, "bordered", axis=1)
