"""What an answer of a model file costs, worked out from its graph alone: nothing is executed.

Its layers are those that a textbook lists: convolutions, pools and linear layers, in the order of execution. Activation
functions have no line of their own; a normalization, a bias or a scale counts with the layer before it.
"""

from collections.abc import Iterable
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from visiontool.errors import UsageError, closest
from visiontool.graph.cost import Cost, Layer
from visiontool.graph.cost.receptive_field import ReceptiveFields
from visiontool.graph.cost.shaped_graph import STANDARD, Shape, ShapedGraph, integer, integers
from visiontool.model.spec import ModelSpec

_POOLS = {"MaxPool": "max pool", "AveragePool": "average pool", "LpPool": "pool"}
_GLOBAL_POOLS = {"GlobalAveragePool": "global average pool", "GlobalMaxPool": "global max pool"}
_REDUCTIONS = {"ReduceMean": "global average pool", "ReduceMax": "global max pool"}
# Operators that multiply and add in ways that are not counted here.
# fmt: off
_UNCOUNTED = frozenset((
    "Attention", "ConvInteger", "ConvTranspose", "DeformConv", "Einsum", "GRU", "If", "LSTM", "Loop", "MatMulInteger",
    "QLinearConv", "QLinearMatMul", "RNN", "Scan",
))
# fmt: on
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_NOT_TRAINED = {
    "BatchNormalization": (3, 4),  # mean and variance are measured
    "DequantizeLinear": (1, 2),
    "QuantizeLinear": (1, 2),
    "Pad": (1, 2, 3),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
}
_MOST_STEPS = 8  # from a layer's weight to the tensor that it is made from


class MapLayer(NamedTuple):
    """A layer whose output has places."""

    layer: Layer
    value: str  # its output in the graph, before its activation function
    axes: tuple[int, int]  # where height and width are in its shape
    box: tuple[int, int, int, int] | None  # what its center unit sees: top, left, bottom, right in pixels, inclusive
    filters: NDArray[np.float32] | None  # (C, k, k, 1 or 3), of the first convolution


def find_map(path: Path, spec: ModelSpec, name: str) -> MapLayer:
    """The layer called `name`, in line `name` of the table from 1 on, or for "first" the first convolution.

    Raises UsageError where there is no such layer, or it gives no map.
    """
    graph = ShapedGraph.read(path, spec.input.size)
    fields = ReceptiveFields(graph)
    found: dict[str, MapLayer] = {}
    for number, (layer, node) in enumerate(_layers(graph, fields), 1):
        value, is_conv = node.output[0], node.op_type == "Conv"
        shape, field = graph.shape(value) or (), fields.field(value)
        axes = field.axes if field else (2, 3) if is_conv else (1, 2)
        if len(shape) != 4 or min(shape[axis] for axis in axes) < 2:
            continue
        box = field and field.box(shape[axes[0]] // 2, shape[axes[1]] // 2)
        filters = None
        if is_conv and "first" not in found and (weight := graph.constants.get(node.input[1])) is not None:
            filters = numpy_helper.to_array(weight).astype(np.float32).transpose(0, 2, 3, 1)
        for key in (*["first"] * is_conv, layer.name, str(number)):
            found.setdefault(key, MapLayer(layer, value, axes, box, filters))
    if name not in found:
        near = closest(name, [place.layer.name for place in found.values()])
        raise UsageError(
            f"{spec.name} has no layer {name!r} that gives a map.{near}\n"
            f"The first column of this table names the layers: visiontool models show {spec.name} --layers"
        )
    return found[name]


def measure(path: Path, *, size: tuple[int, int] | None = None) -> Cost:
    """Measures the .onnx file at `path`, whatever tool wrote it.

    `params` is what the graph holds: where a batch normalization was folded into the convolution before it, 2 for each
    channel became 1. What normalizes the picture ahead of the first layer is not counted; buffers that are added behind
    it, such as the masks of Swin's shifted windows, are, since a graph does not tell them from parameters.

    `activations` are what timm calls so, a good predictor of speed; they are not what takes the memory.

    `peak_activation_bytes` follows the values in the order of execution: each lives from the node that makes it to the
    last one that takes it; a reshape takes nothing; an elementwise operation writes over an input that nobody needs
    any more. The weights, `size_bytes`, come on top, and what a runtime takes for itself.

    A graph that leaves height and width free has `params` only, unless `size` (H, W) gives them.

    Raises:
        ModelError: the file is broken, unsafe or no picture classifier.

    Source:
        MACs and activations: fvcore's flop and activation counts, which timm's tables give as GMACs and MActs. The
        receptive field: Araujo, Norris, Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks".
    """
    graph = ShapedGraph.read(path, size)
    fields = ReceptiveFields(graph)
    layers, peak = [layer for layer, _ in _layers(graph, fields)], graph.peak_bytes()
    return Cost(
        params=sum(layer.params for layer in layers),
        macs=_sum(layer.macs for layer in layers),
        activations=_sum(layer.activations for layer in layers),
        peak_activation_bytes=None if peak is None else peak // graph.batch,
        size_bytes=path.stat().st_size,
        receptive_field=fields.of_last_map(),
        layers=tuple(layers),
    )


def _sum(numbers: Iterable[int | None]) -> int | None:
    """Their sum, or None where one is not known."""
    known = list(numbers)
    return None if None in known else sum(filter(None, known))


def _layers(graph: ShapedGraph, fields: ReceptiveFields) -> list[tuple[Layer, onnx.NodeProto]]:
    """The layers on the way from the picture to the logits, each with the node that it is named after."""
    parameters = _Parameters(graph)
    layers: list[Layer] = []
    nodes: list[onnx.NodeProto] = []
    pools = 0
    behind: dict[str, int] = {}  # value -> the number of the layer that it comes from
    unnamed: dict[str, int] = {}  # the same for values straight from a layer whose weight does not tell its module
    for node in graph.nodes:
        inputs = graph.varying_inputs(node)
        if not inputs:
            continue
        module = parameters.module_of(node)
        number = next((behind[name] for name in inputs if name in behind), None)
        kind = kind_of(graph, node)
        if kind is not None:
            number = len(layers)
            nodes.append(node)
            if node.op_type in _POOLS and not kind.startswith("global"):
                pools += 1
                module = module or f"pool{pools}"  # as papers number them
            output = node.output[0]
            shape = graph.shape(output)
            if shape and shape[0] == graph.batch:
                shape = shape[1:]
            macs, activations = _work(graph, node)
            layers.append(
                Layer(
                    name=module or node.name.removeprefix("node_").strip("/") or output,
                    kind=kind,
                    output_shape=shape,
                    params=0,
                    macs=macs,
                    activations=activations,
                    receptive_field=fields.of(output),
                )
            )
            if module is None:
                unnamed[node.output[0]] = number
        elif number is not None and node.op_type == "Add" and module and inputs[0] in unnamed:
            layers[number] = replace(layers[number], name=module)
        if number is not None:  # constants ahead of the first layer only normalize the picture
            layers[number] = replace(layers[number], params=layers[number].params + parameters.count(node))
            behind.update(dict.fromkeys(node.output, number))
    return list(zip(layers, nodes, strict=True))


class _Parameters:
    """Counts each parameter once, with the first layer that takes it."""

    def __init__(self, graph: ShapedGraph) -> None:
        self._graph = graph
        self._makers = {name: node for node in graph.nodes for name in node.output if name not in graph.varying}
        self._counted: set[str] = set()

    def count(self, node: onnx.NodeProto) -> int:
        """How many parameters `node` takes, straight or through nodes that only depend on constants.

        A single number is a setting, such as the scale of attention, unless it is the weight or bias of a layer.
        """
        total = 0
        pending = [(name, False) for name in self._trained(node)]
        while pending:
            name, is_quantized = pending.pop()
            if name in self._counted or name in self._graph.varying:
                continue
            self._counted.add(name)
            tensor = self._graph.constants.get(name)
            if tensor is not None:
                numbers = self._graph.numbers(name) or 0
                is_setting = numbers == 1 and (node.op_type not in ("Conv", "Gemm") or not tensor.dims)
                if (is_quantized or tensor.data_type in _FLOATS) and not is_setting:
                    total += numbers
            elif name in self._makers:
                maker = self._makers[name]
                pending += [(name, maker.op_type == "DequantizeLinear") for name in self._trained(maker)]
        return total

    def module_of(self, node: onnx.NodeProto) -> str | None:
        """The torch module that a node's first constant belongs to by its name; None where that does not tell."""
        name = next((name for name in node.input if name and name not in self._graph.varying), "")
        for _ in range(_MOST_STEPS):
            if name not in self._makers or not self._makers[name].input:
                break
            name = self._makers[name].input[0]
        module, _, role = name.rpartition(".")
        return module.removeprefix("model.") if "weight" in role or "bias" in role else None

    def _trained(self, node: onnx.NodeProto) -> list[str]:
        skipped = _NOT_TRAINED.get(node.op_type, ())
        return [name for position, name in enumerate(node.input) if name and position not in skipped]


def kind_of(graph: ShapedGraph, node: onnx.NodeProto) -> str | None:
    """What the table calls a node; None for one that has no line of its own."""
    operator = node.op_type
    if node.domain not in STANDARD or operator in _UNCOUNTED:
        return operator
    if operator == "Conv":
        return _kind_of_convolution(graph, node)
    if operator in ("Gemm", "MatMul"):
        return "matmul" if len(graph.varying_inputs(node)) > 1 else "linear"
    if operator in _POOLS:
        return _kind_of_pool(graph, node)
    if operator in _GLOBAL_POOLS:
        return _GLOBAL_POOLS[operator]
    if operator in _REDUCTIONS:
        # Over all positions of a map (N, C, H, W) or (N, H, W, C), or all tokens (N, L, D).
        rank = len(graph.input_shape(node, 0) or ())
        axes = {axis % rank for axis in graph.integers(node, 1, "axes") or ()} if rank else set()
        if (rank, axes) in ((4, {2, 3}), (4, {1, 2}), (3, {1})):
            return _REDUCTIONS[operator]
    return None


def _kind_of_convolution(graph: ShapedGraph, node: onnx.NodeProto) -> str:
    weight = graph.input_shape(node, 1) or ()
    groups = integer(node, "group", 1)
    depthwise = groups > 1 and weight[1:2] == (1,)
    words = ["depthwise"] * depthwise + ["conv", _by(integers(node, "kernel_shape") or weight[2:])]
    words += _unless_one("stride", integers(node, "strides"))
    words += _unless_one("dilation", integers(node, "dilations"))
    if groups > 1 and not depthwise:
        words += ["groups", str(groups)]
    return " ".join(words)


def _kind_of_pool(graph: ShapedGraph, node: onnx.NodeProto) -> str | None:
    kernel = integers(node, "kernel_shape") or ()
    strides = integers(node, "strides") or (1,) * len(kernel)
    if set(kernel) | set(strides) == {1}:  # an adaptive pool that had nothing to do
        return None
    before, after = graph.input_shape(node, 0), graph.shape(node.output[0])
    if before and after and prod(before[2:]) > 1 and prod(after[2:]) == 1:
        return f"global {_POOLS[node.op_type]}"
    return " ".join([_POOLS[node.op_type], _by(kernel), *(_unless_one("stride", strides) if strides != kernel else ())])


def _by(sides: Shape) -> str:
    return "x".join(map(str, sides))


def _unless_one(word: str, sides: Shape | None) -> list[str]:
    """The word and a number, or a number for each side where they differ; nothing where all are 1."""
    if not sides or set(sides) == {1}:
        return []
    return [word, str(sides[0]) if len(set(sides)) == 1 else _by(sides)]


def _work(graph: ShapedGraph, node: onnx.NodeProto) -> tuple[int | None, int | None]:
    """Multiply-accumulate operations and activations for one picture."""
    if node.op_type in (*_POOLS, *_GLOBAL_POOLS, *_REDUCTIONS):
        return 0, 0
    outputs = graph.numbers(node.output[0])
    left, weight = graph.input_shape(node, 0), graph.input_shape(node, 1)
    operations = None  # for each number of the output
    if node.domain in STANDARD and node.op_type == "Conv" and weight is not None:
        operations = prod(weight[1:])
    elif node.domain in STANDARD and node.op_type in ("Gemm", "MatMul") and left:
        operations = left[0 if integer(node, "transA", 0) else -1]
    if outputs is None or operations is None:
        return None, None
    return outputs * operations // graph.batch, outputs // graph.batch
