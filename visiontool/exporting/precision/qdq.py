"""Which nodes of a graph are computed in 8-bit integers, and the graph in which they are.

A value in 8 bits stands between a QuantizeLinear and a DequantizeLinear node; a runtime that sees such pairs around an
operator computes it with integers. `onnxruntime.quantization` writes them.
"""

import logging
import math
from collections import Counter
from collections.abc import Collection

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData

from visiontool.errors import ConversionError
from visiontool.graph import edit
from visiontool.model.spec import ModelSpec

_WEIGHTED = ("Conv", "Gemm", "MatMul")
# These compute with integers as well, and a float among them would cost a pass over memory to and fro. They are
# quantized where all that they take is in 8 bits already.
_BETWEEN = (
    *("Add", "AveragePool", "Clip", "Concat", "Flatten", "MaxPool", "Pad", "Relu", "Reshape", "Slice", "Split"),
    *("Squeeze", "Transpose", "Unsqueeze"),
)
_LEAST_OPSET = 13  # the first whose DequantizeLinear knows a scale for each channel

Ranges = dict[str, tuple[np.float32, np.float32]]
"""The smallest and the largest number in each value."""


class TypedGraph:
    """A graph ready to be quantized: nodes have names, values have types, and constants are initializers.

    `kinds` has the operator of each node, `candidates` the weighted nodes that can be quantized, and their sizes.
    """

    def __init__(self, model: onnx.ModelProto, spec: ModelSpec) -> None:
        if any(opset.version < _LEAST_OPSET for opset in model.opset_import if opset.domain in ("", "ai.onnx")):
            raise ConversionError(
                f"{spec.name}: int8 needs operator set {_LEAST_OPSET} or later, and the graph is in one before it.\n"
                "Export it anew with a newer one, or take --precision fp16."
            )
        self.model = edit.with_types(model, spec.name)
        del self.model.metadata_props[:]
        graph = self.model.graph
        counts = Counter(node.name for node in graph.node)
        for index, node in enumerate(list(graph.node)):
            if not node.name or counts[node.name] > 1:
                node.name = f"{node.op_type}_{index}"
            tensor = next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
            if node.op_type == "Constant" and tensor is not None:
                graph.initializer.add().CopyFrom(tensor)
                graph.initializer[-1].name = node.output[0]
                graph.node.remove(node)
        values = (*graph.input, *graph.value_info, *graph.output)
        self._floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self.kinds = {node.name: node.op_type for node in graph.node}
        self._rounded: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}  # by name of the weights
        self._raw = {name for name in (spec.logits, spec.embedding) if name is not None}
        self._most = set(self.quantizable())
        self.candidates = {
            node.name: math.prod(self._constants[node.input[1]].dims)
            for node in graph.node
            if node.name in self._most and node.op_type in _WEIGHTED
        }

    def quantizable(self, in_float: Collection[str] = ()) -> list[str]:
        """Names of the nodes to quantize, where those in `in_float` stay in float."""
        inside: set[str] = set()  # values in 8 bits
        chosen = []
        for node in self.model.graph.node:
            if node.name in in_float or node.domain not in ("", "ai.onnx"):
                continue
            inputs = [name for name in node.input if name in self._floats and name not in self._constants]
            if node.op_type in _WEIGHTED:
                weight = self._constants.get(node.input[1], TensorProto())
                is_quantizable = weight.data_type == TensorProto.FLOAT and inputs == [node.input[0]]
            else:
                is_quantizable = node.op_type in _BETWEEN and bool(inputs) and inside.issuperset(inputs)
                is_quantizable = is_quantizable and self._raw.isdisjoint(node.output)
            if is_quantizable:
                chosen.append(node.name)
                if node.op_type not in ("Gemm", "MatMul"):  # their results stay in float
                    inside.update(node.output)
        return chosen

    def with_activation(self, name: str) -> list[str]:
        """The node, and the Relu or Clip behind it, with which it is computed as one."""
        nodes = [node for node in self.model.graph.node if node.name in self._most]
        output = next(node.output[0] for node in nodes if node.name == name)
        behind = [node.name for node in nodes if output in node.input]
        return [name, *behind] if [self.kinds[other] for other in behind] in (["Relu"], ["Clip"]) else [name]

    def values(self) -> list[str]:
        """The values whose range has to be known."""
        nodes = [node for node in self.model.graph.node if node.name in self._most]
        names = dict.fromkeys(name for node in nodes for name in (*node.input, *node.output))
        return [name for name in names if name in self._floats and name not in self._constants]

    def quantized(self, ranges: Ranges, chosen: list[str]) -> onnx.ModelProto:
        """A graph in which the nodes `chosen` compute with integers; logits and embedding are not rounded to 8 bits."""
        copy = onnx.ModelProto()
        copy.CopyFrom(self.model)
        copy.metadata_props.add(key="onnx.infer", value="onnxruntime.quant")  # else it writes files to infer types
        disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)  # what the library logs on the root logger, nobody here can change
        try:
            quantizer = QDQQuantizer(
                copy,
                True,  # a scale for each channel of the weights
                False,
                QuantType.QInt8,
                QuantType.QUInt8,
                TensorsData(CalibrationMethod.MinMax, dict(ranges)),
                chosen,
                [],
                [*_WEIGHTED, *_BETWEEN],
                {
                    "MatMulConstBOnly": True,
                    "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],
                    "QDQKeepRemovableActivations": True,  # else the value behind a Relu is not what its name says
                    "TensorQuantOverrides": self._round_weights(copy.graph, chosen),
                },
            )
            quantizer.quantize_model()
        finally:
            logging.disable(disabled)
        quantizer.model.topological_sort()
        result: onnx.ModelProto = quantizer.model.model
        _round_once(result.graph)
        _make_raw(result.graph, sorted(self._raw))
        _keep_floats(result.graph)
        edit.prune(result.graph, [output.name for output in result.graph.output])
        del result.graph.value_info[:], result.metadata_props[:]
        result.producer_name, result.producer_version = self.model.producer_name, self.model.producer_version
        return result

    def _round_weights(self, graph: onnx.GraphProto, chosen: Collection[str]) -> dict[str, list[dict[str, object]]]:
        """Rounds the weights of the nodes `chosen` in `graph`; returns the steps of their channels for the library."""
        overrides: dict[str, list[dict[str, object]]] = {}
        for node in self.model.graph.node:
            if node.name in chosen and node.op_type in _WEIGHTED:
                name, axis = node.input[1], _channel_axis(node)
                if name not in self._rounded:
                    self._rounded[name] = round_weights(numpy_helper.to_array(self._constants[name]), axis)
                overrides[name] = [{"axis": axis, "scale": step, "zero_point": 0} for step in self._rounded[name][1]]
        for tensor in graph.initializer:
            if tensor.name in overrides:
                tensor.CopyFrom(numpy_helper.from_array(self._rounded[tensor.name][0], tensor.name))
        return overrides


def round_weights(weights: NDArray[np.float32], axis: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights rounded to whole steps of their channel, so few that no processor cuts off a sum; and the (C,) steps.

    x86 processors without VNNI add two products of an 8-bit activation and an 8-bit weight in 16 bits, which hold
    32,767. Here any two weights of a channel add up to at most 128 steps, and their products to 255 * 128 = 32,640,
    whichever two a kernel adds: the step is 1/127 of the sum of the two largest, and rounding adds a half to each.

    Some weights are rounded the other way, so that the errors of each kernel and of each channel add up to nearly
    nothing, since neighboring activations are alike. That wins back what the coarser steps cost.

    Source: Guo et al. 2022, "SQuant: On-the-Fly Data-Free Quantization via Diagonal Hessian Approximation",
    arXiv:2202.07471 (kernel-wise and channel-wise flipping).

    Args:
        axis: of the channels.
    """
    turned = np.moveaxis(weights, axis, 0)
    exact = turned.reshape(len(turned), -1).astype(np.float64)
    largest = np.sort(np.abs(exact), axis=1)[:, -2:]
    steps = (largest.sum(1) / 127).astype(np.float32)
    steps[steps < np.finfo(np.float32).tiny] = 1
    exact /= steps[:, None]
    rounded = np.rint(exact)
    limits = np.rint(largest[:, :1] / steps[:, None])
    kernels = (-1, math.prod(turned.shape[2:]))
    rounded = _even_out(exact.reshape(kernels), rounded.reshape(kernels), limits.repeat(turned.shape[1], 0))
    rounded = _even_out(exact, rounded.reshape(exact.shape), limits)
    whole = (rounded * steps[:, None]).astype(np.float32).reshape(turned.shape)
    return np.ascontiguousarray(np.moveaxis(whole, 0, axis)), steps


def _even_out(
    exact: NDArray[np.float64], rounded: NDArray[np.float64], limits: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(R, n) whole numbers: each row adds up to what `exact` does, within a half, and none grows beyond `limits`."""
    errors = exact - rounded
    totals = errors.sum(1, keepdims=True)
    way = np.sign(totals)
    gains = np.where(np.abs(rounded + way) <= limits, errors * way, -np.inf)
    ranks = (-gains).argsort(1, kind="stable").argsort(1)
    flipped = (ranks < np.rint(np.abs(totals))) & (gains > -np.inf)
    return rounded + way * flipped  # type: ignore[no-any-return]


def _channel_axis(node: onnx.NodeProto) -> int:
    """The axis of the weights that has an entry for each channel of what comes out."""
    if node.op_type == "Gemm":
        return 0 if any(attribute.name == "transB" and attribute.i for attribute in node.attribute) else 1
    return 0 if node.op_type == "Conv" else 1


def _round_once(graph: onnx.GraphProto) -> None:
    """Takes out the 8 bits before a Relu or Clip that has them behind it: the two nodes are computed as one."""
    producers = {name: node for node in graph.node for name in node.output}
    users = Counter(name for node in graph.node for name in node.input)
    rounded = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    for node in graph.node:
        before = producers.get(node.input[0]) if node.op_type in ("Relu", "Clip") else None
        if before is None or before.op_type != "DequantizeLinear" or node.output[0] not in rounded:
            continue
        if users[before.output[0]] == 1 and before.input[0] in producers:
            node.input[0] = producers[before.input[0]].input[0]


def _make_raw(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Puts the 8 bits behind these outputs of the graph, where they stand before them."""
    producers = {name: node for node in graph.node for name in node.output}
    for name in names:
        dequantize = producers[name]
        if dequantize.op_type != "DequantizeLinear":
            continue
        quantize = producers[dequantize.input[0]]
        rounded, source = f"{name}_DequantizeLinear_Output", producers[quantize.input[0]]
        source.output[:] = [name if value == quantize.input[0] else value for value in source.output]
        quantize.input[0], dequantize.output[0] = name, rounded
        for node in graph.node:
            if node is not quantize:
                node.input[:] = [rounded if value == name else value for value in node.input]


def _keep_floats(graph: onnx.GraphProto) -> None:
    """Has onnxruntime leave the weights alone that are float, by computing their bias from 32-bit integers.

    Else it quantizes those of a Conv or Gemm behind a DequantizeLinear by itself, with one scale for all channels
    (1.21 and later: WeightBiasQuantization).
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    rounded = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    added: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm") or node.input[0] not in rounded or node.input[1] not in constants:
            continue
        weights = constants[node.input[1]]
        bias = np.zeros(weights.dims[_channel_axis(node)], np.float32)
        if len(node.input) > 2 and node.input[2]:
            if node.input[2] not in constants:
                continue
            bias = numpy_helper.to_array(constants[node.input[2]])
        name = f"{node.output[0]}_float_bias"
        scale = np.float32((np.abs(bias).max() or 1.0) / 2**30)
        inputs = [f"{name}_quantized", f"{name}_scale"]
        for tensor, values in zip(inputs, (np.round(bias / np.float64(scale)).astype(np.int32), scale), strict=True):
            graph.initializer.append(numpy_helper.from_array(np.asarray(values), tensor))
        added.append(helper.make_node("DequantizeLinear", inputs, [name], name=f"{name}_DequantizeLinear"))
        node.input[:] = [*node.input[:2], name]
    nodes = [*added, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
