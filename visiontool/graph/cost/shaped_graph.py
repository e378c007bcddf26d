"""The part of a graph that leads to the logits, with the shape of every value, worked out node by node.

onnx infers the shapes of a whole graph at once too, but there a small hostile file can ask for any amount of memory.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from visiontool.errors import ModelError
from visiontool.graph import edit
from visiontool.model.spec import MANIFEST_KEY, ModelSpec
from visiontool.text import short_repr

Shape = tuple[int, ...]

MAX_NODES = 50_000  # a few seconds; large classifiers have some 5,000
_MAX_RANK = 16
_MAX_NUMBERS = 4096  # in a tensor that may be a shape, or the indices of a pooled vector
_CHANNELS = (1, 3)
STANDARD = ("", "ai.onnx")  # domains
_INPUTS_THAT_COUNT = {"Shape": 0, "Size": 0, "CastLike": 1}  # of the others only shape and type do
VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_WITHOUT_MEMORY = (*VIEWS, "Identity", "Dropout")
# fmt: off
# Each number of what these give depends on one number of each input.
ELEMENTWISE = frozenset((
    "Abs", "Add", "BatchNormalization", "Celu", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish",
    "LeakyRelu", "Log", "Max", "Mean", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "Reciprocal", "Relu", "Selu",
    "Sigmoid", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tanh", "ThresholdedRelu", "Where",
))
# What graphs work out shapes with.
_ARITHMETIC = frozenset((
    "Add", "Cast", "Ceil", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand", "Floor", "Gather",
    "Greater", "Identity", "Max", "Min", "Mod", "Mul", "Range", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum",
    "Reshape", "Round", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where",
))
# fmt: on


class ShapedGraph:
    """The nodes that lead to the logits, in the order of execution.

    `manifest` is that of the model's file, if it has one; `size` (H, W) is for a graph that leaves them free.

    Attributes:
        batch: pictures that go through at once: 1 unless the graph is made for another number.
        spatial_axes: where height and width are in the input, `picture`.
        varying: the values that depend on the pixels; all others are constants.
        constants: the tensors in the file that the nodes may take.

    Raises:
        ModelError: the graph is broken or no picture classifier.
    """

    def __init__(self, model: onnx.ModelProto, manifest: str | None, size: tuple[int, int] | None) -> None:
        graph = model.graph
        outputs: list[str] = [output.name for output in graph.output]
        if not outputs:
            raise ModelError("the graph has no output")
        self.logits = outputs[0] if manifest is None else ModelSpec.from_json(manifest).logits
        if self.logits not in outputs:
            raise ModelError(
                f"the manifest's logits output {short_repr(self.logits)} is not in the graph: {short_repr(outputs)}"
            )
        self.nodes = edit.leading_to(graph.node, [self.logits])
        if len(self.nodes) > MAX_NODES:
            raise ModelError(f"{len(self.nodes):,} nodes; a picture classifier has at most {MAX_NODES:,}")
        self.constants: dict[str, onnx.TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in self.constants]
        if len(inputs) != 1 or len(inputs[0].type.tensor_type.shape.dim) != 4:
            raise ModelError("the graph does not take one batch of pictures (four axes), so it is no classifier")
        self.picture: str = inputs[0].name
        self.varying = {self.picture}
        opsets = {opset.domain: opset.version for opset in model.opset_import}
        self._opset = min(max(opsets.get("", opsets.get("ai.onnx", 1)), 1), onnx.defs.onnx_opset_version())
        self._types: dict[str, onnx.TypeProto] = {}
        self._small: dict[str, NDArray[Any]] = {}  # the numbers of constants that are small enough to be a shape
        self._add_picture(inputs[0].type.tensor_type, size)
        for name, tensor in self.constants.items():
            self._add_constant(tensor, name)
        for node in self.nodes:
            self._add_node(node)
        if self.logits not in self.varying:
            raise ModelError(f"the graph is broken: {short_repr(self.logits)} does not depend on the picture")

    @classmethod
    def read(cls, path: Path, size: tuple[int, int] | None = None) -> Self:
        """That of the .onnx file at `path`."""
        model, scanned = edit.load(path)
        try:
            return cls(model, scanned.metadata.get(MANIFEST_KEY), size)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from None

    def varying_inputs(self, node: onnx.NodeProto) -> list[str]:
        """What a node takes that depends on the pixels."""
        return [name for name in _numbers_taken(node) if name in self.varying]

    def integers(self, node: onnx.NodeProto, position: int, attribute: str) -> Shape | None:
        """What newer versions of an operator take as an input and older ones as an attribute; None where unknown."""
        if len(node.input) > position and node.input[position]:
            values = self._small.get(node.input[position])
            return tuple(map(int, values.flat)) if values is not None and values.dtype.kind in "iu" else None
        return integers(node, attribute)

    def shape(self, name: str) -> Shape | None:
        """The shape of a value, or None where it is not known."""
        tensor = self._types.get(name, onnx.TypeProto()).tensor_type
        if not tensor.HasField("shape") or not all(axis.HasField("dim_value") for axis in tensor.shape.dim):
            return None
        return tuple(axis.dim_value for axis in tensor.shape.dim)

    def input_shape(self, node: onnx.NodeProto, position: int) -> Shape | None:
        """The shape of a node's input, or None where it is not known or there is no such input."""
        return self.shape(node.input[position]) if len(node.input) > position else None

    def numbers(self, name: str) -> int | None:
        """How many numbers a value has, or None where that is not known."""
        shape = self.shape(name)
        return None if shape is None else math.prod(shape)

    def _size_bytes(self, name: str) -> int | None:
        numbers, dtype = self.numbers(name), self._types[name].tensor_type.elem_type
        if numbers is None or dtype not in helper.get_all_tensor_dtypes():
            return None
        return numbers * helper.tensor_dtype_to_np_dtype(dtype).itemsize

    def peak_bytes(self) -> int | None:
        """The most memory that the values between the layers take at once; None where a shape is not known."""
        last_use = {name: number for number, node in enumerate(self.nodes) for name in self.varying_inputs(node)}
        last_use[self.logits] = len(self.nodes)
        buffer_of = {self.picture: 0}
        sizes = [self._size_bytes(self.picture)]
        first_node, last_node = [0], [last_use.get(self.picture, 0)]  # for each buffer, that use it
        for number, node in enumerate(self.nodes):
            inputs = self.varying_inputs(node)
            for output in node.output:
                if output not in self.varying:
                    continue
                size = self._size_bytes(output)
                reused = None
                if node.op_type in _WITHOUT_MEMORY:
                    reused = buffer_of[inputs[0]]
                elif node.op_type in ELEMENTWISE:
                    free = (buffer_of[name] for name in inputs if last_node[buffer_of[name]] == number)
                    reused = next((buffer for buffer in free if sizes[buffer] == size), None)
                last = last_use.get(output, number)
                if reused is None:
                    buffer_of[output] = len(sizes)
                    sizes.append(size)
                    first_node.append(number)
                    last_node.append(last)
                else:
                    buffer_of[output] = reused
                    last_node[reused] = max(last_node[reused], last)
        changes = defaultdict[int, int](int)
        for size, first, last in zip(sizes, first_node, last_node, strict=True):
            if size is None:
                return None
            changes[first] += size
            changes[last + 1] -= size
        return max(accumulate(changes[number] for number in range(len(self.nodes))), default=0)

    def _add_picture(self, tensor: onnx.TypeProto.Tensor, size: tuple[int, int] | None) -> None:
        sides = [axis.dim_value if axis.dim_value > 0 else None for axis in tensor.shape.dim]
        last_are_channels = sides[3] in _CHANNELS and sides[1] not in _CHANNELS
        self.spatial_axes = (1, 2) if last_are_channels else (2, 3)
        self.batch = sides[0] = sides[0] or 1
        for axis, side in zip(self.spatial_axes, size or (None, None), strict=True):
            sides[axis] = sides[axis] or side
        self._types[self.picture] = helper.make_tensor_type_proto(tensor.elem_type, sides)

    def _add_constant(self, tensor: onnx.TensorProto, name: str) -> None:
        self._types[name] = onnx.TypeProto()
        if _is_possible(tensor.dims):
            self._types[name] = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
            if tensor.data_type != TensorProto.STRING and self._is_small(name):
                with suppress(Exception):  # anything may be wrong with it; then it is no shape either
                    self._small[name] = numpy_helper.to_array(tensor)

    def _add_node(self, node: onnx.NodeProto) -> None:
        outputs = list(filter(None, node.output))
        for name in filter(None, node.input):
            if name not in self._types:
                raise ModelError(f"the graph is broken: {short_repr(name)} is used before anything makes it")
        for name in outputs:
            if name in self._types:
                raise ModelError(f"the graph is broken: {short_repr(name)} is made twice")
        tensor = next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
        if node.op_type == "Constant" and tensor is not None:
            self.constants[outputs[0]] = tensor
            self._add_constant(tensor, outputs[0])
            return
        types = self._infer_types(node)
        for name in outputs:
            kind = types.get(name, onnx.TypeProto())
            sides = [axis.dim_value for axis in kind.tensor_type.shape.dim]
            self._types[name] = kind if _is_possible(sides) else onnx.TypeProto()
        self._compute_shape(node)
        if not self.varying.isdisjoint(_numbers_taken(node)):
            self.varying.update(outputs)

    def _infer_types(self, node: onnx.NodeProto) -> Mapping[str, onnx.TypeProto]:
        inputs = set(filter(None, node.input))
        try:
            return shape_inference.infer_node_outputs(
                onnx.defs.get_schema(node.op_type, self._opset, node.domain),
                node,
                {name: self._types[name] for name in inputs},
                {name: numpy_helper.from_array(self._small[name], name) for name in inputs & self._small.keys()},
                opset_imports=[helper.make_opsetid("", self._opset)],
            )
        except Exception:  # an unknown operator or a wrong one; onnx's exceptions share no root but Exception
            return {}

    def _compute_shape(self, node: onnx.NodeProto) -> None:
        """Computes the node's output where it is arithmetic on shapes."""
        if node.domain not in STANDARD or len(node.output) != 1:
            return
        (output,) = node.output
        inputs = set(filter(None, node.input))
        if node.op_type == "Shape" and len(inputs) == 1:
            shape = self.shape(*inputs)
            if shape is not None:
                start, end = integer(node, "start", 0), integer(node, "end", len(shape))
                self._small[output] = np.array(shape[start:end], np.int64)
            return
        if node.op_type not in _ARITHMETIC or not inputs <= self._small.keys() or not self._is_small(output):
            return
        values = [onnx.ValueInfoProto(name=name, type=self._types[name]) for name in (*sorted(inputs), output)]
        graph = helper.make_graph([node], "node", values[:-1], values[-1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self._opset)])
        with suppress(Exception), np.errstate(all="ignore"):  # as in _infer_types
            (numbers,) = ReferenceEvaluator(model).run(None, {name: self._small[name] for name in inputs})
            self._small[output] = np.asarray(numbers)

    def _is_small(self, name: str) -> bool:
        numbers = self.numbers(name)
        return numbers is not None and numbers <= _MAX_NUMBERS


def _numbers_taken(node: onnx.NodeProto) -> Iterable[str]:
    """The values whose numbers decide what a node gives."""
    if node.op_type in _INPUTS_THAT_COUNT:
        return list(node.input[: _INPUTS_THAT_COUNT[node.op_type]])
    return edit.values_used(node)


def _is_possible(sides: Sequence[int]) -> bool:
    # Sides below zero, as onnx infers itself for a pool larger than its map, can end the whole process there.
    return len(sides) <= _MAX_RANK and min(sides, default=0) >= 0


def integers(node: onnx.NodeProto, name: str) -> Shape | None:
    """An attribute that is a list of integers, or None where there is none of that name."""
    matches = (item for item in node.attribute if item.name == name and item.type == AttributeProto.INTS)
    return next((tuple(item.ints) for item in matches), None)


def integer(node: onnx.NodeProto, name: str, default: int) -> int:
    """An attribute that is an integer."""
    matches = (item for item in node.attribute if item.name == name and item.type == AttributeProto.INT)
    return next((int(item.i) for item in matches), default)
