"""A network in half precision: its weights and all that is computed behind the first of them.

Written here, and not by `onnxruntime.transformers.float16`, which 1.31.1 has: where nodes are to stay in float32, as
the normalization has to, it passes values from one to the next through fp16, writes casts behind the nodes that need
them, which is no valid ONNX, and turns epsilons below 6e-8 into 6e-8.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from visiontool.errors import ConversionError
from visiontool.graph import edit
from visiontool.model.spec import ModelSpec

_SINGLE, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16
_SMALLEST = 2.0**-14  # below it fp16 loses digits, and below 6e-8 everything
_LARGEST = 65504.0

# What has weights computes in fp16, and from there on whatever takes a value in fp16. So all that leads from the pixels
# to the first weights stays in float32.
_FIRST = ("Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul")

# Sums of many values or of squares may pass 65504 on the way to a result that does not: whether a runtime adds up in
# float32 is its own choice. The scales of Resize are float32 in any precision.
_FLOAT = (
    *("GroupNormalization", "InstanceNormalization", "LpNormalization", "LRN"),
    *("AveragePool", "GlobalAveragePool", "GlobalLpPool", "LpPool", "CumSum", "Exp", "Pow", "Resize", "Upsample"),
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum"),
    *("ReduceSumSquare",),
)


def to_fp16(model: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    """The network in fp16: weights and values are half as large.

    Inputs stay as they are, outputs are float32 under the same names. Normalization, sums and whatever has a constant
    that fp16 cannot hold (an epsilon, a mask of -3e38) are computed in float32. `model` is not changed.

    Raises:
        ConversionError: the graph has branches or loops, or its types cannot be worked out.
    """
    result = edit.with_types(model, spec.name)
    conversion = _Conversion(result.graph)
    for node in result.graph.node:
        if any(attribute.g.node or attribute.graphs for attribute in node.attribute):
            raise ConversionError(f"{spec.name}: a graph with {node.op_type} in it cannot be converted to fp16")
        conversion.add(node)
    used = conversion.outputs.union(*(node.input for node in conversion.nodes))
    constants = [tensor for tensor in result.graph.initializer if tensor.name in used]
    del result.graph.node[:], result.graph.value_info[:], result.graph.initializer[:]
    result.graph.node.extend(conversion.nodes)
    result.graph.initializer.extend(constants)
    return result


class _Conversion:
    """The nodes of a graph, converted one by one."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        values = (*graph.input, *graph.value_info, *graph.output)
        self.constants = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == _SINGLE}
        self.floats = {value.name for value in values if value.type.tensor_type.elem_type == _SINGLE}
        self.floats |= self.constants.keys()
        self.outputs = {output.name for output in graph.output}
        self.unique = edit.unique_names(graph)
        self.half: set[str] = set()  # values that are computed in fp16
        self.names: dict[tuple[str, int], str] = {}  # of values in a type
        for name in (*self.constants, *(value.name for value in graph.input)):
            self.names[name, _SINGLE] = name

    def add(self, node: onnx.NodeProto) -> None:
        converted = onnx.NodeProto()
        converted.CopyFrom(node)
        to = _HALF if self._is_half(node) else _SINGLE
        converted.input[:] = [self._in_type(name, to) if name in self.floats else name for name in node.input]
        results = [name for name in node.output if name in self.floats]
        for name in results:
            self.names[name, to] = self.unique(f"{name}_fp16") if to == _HALF and name in self.outputs else name
        converted.output[:] = [self.names.get((name, to), name) for name in node.output]
        self.nodes.append(converted)
        if to == _SINGLE:
            return
        self.half.update(results)
        for attribute in converted.attribute:
            if attribute.t.data_type == _SINGLE:
                attribute.t.CopyFrom(_halved(attribute.t, attribute.t.name))
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == _SINGLE:
                attribute.i = _HALF
        for name in results:
            if name in self.outputs:
                self._cast(name, _SINGLE, name)

    def _is_half(self, node: onnx.NodeProto) -> bool:
        if node.domain not in ("", "ai.onnx") or node.op_type in _FLOAT:
            return False
        if not all(_fits(node.op_type, self.constants[name]) for name in node.input if name in self.constants):
            return False
        return node.op_type in _FIRST or not self.half.isdisjoint(node.input)

    def _in_type(self, name: str, to: int) -> str:
        """The name of the value in type `to`; its first use adds it to the graph."""
        if (name, to) not in self.names:
            new = self.unique(f"{name}_{'fp16' if to == _HALF else 'fp32'}")
            if name in self.constants:
                self.graph.initializer.append(_halved(self.constants[name], new))
                self.names[name, to] = new
            else:
                self._cast(name, to, new)
        return self.names[name, to]

    def _cast(self, name: str, to: int, new: str) -> None:
        source = self.names[name, _HALF if to == _SINGLE else _SINGLE]
        self.nodes.append(helper.make_node("Cast", [source], [new], name=f"cast_{new}", to=to))
        self.names[name, to] = new


def _fits(kind: str, constant: onnx.TensorProto) -> bool:
    """Whether a node computes the same with its constant in fp16, up to rounding."""
    sizes = np.abs(numpy_helper.to_array(constant))
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    if not sizes.size:
        return True
    # What multiplies counts by itself; what is added up counts beside the largest.
    least = sizes.min() if kind in ("Div", "Mul", "Reciprocal") else sizes.max()
    return bool(least >= _SMALLEST and sizes.max() <= _LARGEST)


def _halved(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), name)
