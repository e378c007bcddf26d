"""The shape of every value of a graph, node by node.

onnx infers the shapes of a whole graph at once too, but there a small hostile file can ask for any amount of memory.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

Shape = tuple[int, ...]

_MAX_RANK = 16
_MAX_NUMBERS = 1024  # in a tensor that may be a shape
# What graphs work out shapes with.
# fmt: off
_ARITHMETIC = frozenset((
    "Add", "Cast", "Ceil", "Concat", "ConstantOfShape", "Div", "Equal", "Expand", "Floor", "Gather", "Greater",
    "Identity", "Max", "Min", "Mod", "Mul", "Range", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape",
    "Round", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where",
))
# fmt: on


class Shapes:
    """What is known of the values of a graph, first its inputs and constants, then node by node.

    Attributes:
        small: the numbers of constants that are small enough to be a shape.
    """

    def __init__(self, opsets: Mapping[str, int]) -> None:
        newest = onnx.defs.onnx_opset_version()
        self._opset = min(max(opsets.get("", opsets.get("ai.onnx", 1)), 1), newest)
        self._types: dict[str, onnx.TypeProto] = {}
        self.small: dict[str, NDArray[Any]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._types

    def of(self, name: str) -> Shape | None:
        """The shape of a value, or None where it is not known."""
        tensor = self._types.get(name, onnx.TypeProto()).tensor_type
        if not tensor.HasField("shape"):
            return None
        sides = tuple(axis.dim_value for axis in tensor.shape.dim)
        return sides if all(axis.HasField("dim_value") for axis in tensor.shape.dim) else None

    def numbers(self, name: str) -> int | None:
        """How many numbers a value has, or None where that is not known."""
        shape = self.of(name)
        return None if shape is None else math.prod(shape)

    def size_bytes(self, name: str) -> int | None:
        """The memory that a value takes, or None where that is not known."""
        numbers = self.numbers(name)
        if numbers is None:
            return None
        item = self._types[name].tensor_type.elem_type
        if item not in helper.get_all_tensor_dtypes():
            return None
        return numbers * helper.tensor_dtype_to_np_dtype(item).itemsize

    def add_input(self, value: onnx.ValueInfoProto, shape: Sequence[int | None]) -> None:
        """Adds an input of the graph; None is a side of unknown length."""
        self._types[value.name] = helper.make_tensor_type_proto(value.type.tensor_type.elem_type, shape)

    def add_constant(self, tensor: onnx.TensorProto, name: str) -> None:
        """Adds a constant of the graph under `name`."""
        if not _is_possible(tensor.dims):
            self._types[name] = onnx.TypeProto()
            return
        self._types[name] = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
        if tensor.data_type != TensorProto.STRING and self._is_small(name):
            with suppress(Exception):  # anything may be wrong with it; then it is no shape either
                self.small[name] = numpy_helper.to_array(tensor)

    def add_outputs(self, node: onnx.NodeProto) -> None:
        """Adds what `node` gives; all that it takes must have been added."""
        constant = constant_of(node)
        if constant is not None:
            self.add_constant(constant, node.output[0])
            return
        types = self._infer(node)
        for name in filter(None, node.output):
            kept = types.get(name, onnx.TypeProto())
            sides = [axis.dim_value for axis in kept.tensor_type.shape.dim]
            self._types[name] = kept if _is_possible(sides) else onnx.TypeProto()
        self._work_out(node)

    def _infer(self, node: onnx.NodeProto) -> Mapping[str, onnx.TypeProto]:
        inputs = set(filter(None, node.input))
        try:
            data = {name: numpy_helper.from_array(self.small[name], name) for name in inputs & self.small.keys()}
            return shape_inference.infer_node_outputs(
                onnx.defs.get_schema(node.op_type, self._opset, node.domain),
                node,
                {name: self._types[name] for name in inputs},
                data,
                opset_imports=[helper.make_opsetid("", self._opset)],
            )
        except Exception:  # an unknown operator or a wrong one; onnx's exceptions share no root but Exception
            return {}

    def _work_out(self, node: onnx.NodeProto) -> None:
        """Computes the node's output where it is arithmetic on shapes."""
        if node.domain not in ("", "ai.onnx") or len(node.output) != 1:
            return
        (output,) = node.output
        inputs = set(filter(None, node.input))
        if node.op_type == "Shape" and len(inputs) == 1:
            shape = self.of(*inputs)
            if shape is not None:
                chosen = {attribute.name: attribute.i for attribute in node.attribute}
                self.small[output] = np.array(shape[chosen.get("start", 0) : chosen.get("end")], np.int64)
            return
        if node.op_type not in _ARITHMETIC or not inputs <= self.small.keys() or not self._is_small(output):
            return
        graph = helper.make_graph(
            [node],
            "node",
            [onnx.ValueInfoProto(name=name, type=self._types[name]) for name in sorted(inputs)],
            [onnx.ValueInfoProto(name=output, type=self._types[output])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self._opset)])
        with suppress(Exception), np.errstate(all="ignore"):  # as in _infer
            (values,) = ReferenceEvaluator(model).run(None, {name: self.small[name] for name in inputs})
            self.small[output] = np.asarray(values)

    def _is_small(self, name: str) -> bool:
        numbers = self.numbers(name)
        return numbers is not None and numbers <= _MAX_NUMBERS


def _is_possible(sides: Sequence[int]) -> bool:
    """Whether onnx may be asked what follows from a shape.

    Sides below zero, such as it gives for a pool larger than its map, can end the whole process there.
    """
    return len(sides) <= _MAX_RANK and min(sides, default=0) >= 0


def constant_of(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor that a Constant node gives, or None for any other node, or one that gives no numbers."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or len(node.output) != 1:
        return None
    tensor: onnx.TensorProto
    for attribute in node.attribute:
        match attribute.name:
            case "value":
                tensor = attribute.t
                return tensor
            case "value_int":
                return helper.make_tensor("", TensorProto.INT64, [], [attribute.i])
            case "value_float":
                return helper.make_tensor("", TensorProto.FLOAT, [], [attribute.f])
            case "value_ints":
                return helper.make_tensor("", TensorProto.INT64, [len(attribute.ints)], attribute.ints)
            case "value_floats":
                return helper.make_tensor("", TensorProto.FLOAT, [len(attribute.floats)], attribute.floats)
    return None
