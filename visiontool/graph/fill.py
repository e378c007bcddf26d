"""A skeleton and its numbers make a model file: batch normalizations and constants are folded on the way.

A skeleton is the graph of a network whose parameters are inputs beside the picture, so it holds no numbers of them.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from visiontool.errors import ConversionError
from visiontool.graph import edit
from visiontool.model.scan import MAX_FILE_BYTES

# Tags and lengths of the protobuf encoding: the number of a field of bytes, times 8, plus 2.
_GRAPH, _INITIALIZER, _RAW_DATA = (bytes([number << 3 | 2]) for number in (7, 5, 9))


Skeleton = onnx.ModelProto


class Constant(NamedTuple):
    """A tensor that is computed when it is written, so that one is in memory at a time."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    array: Callable[[], NDArray[Any]]


def read(data: bytes) -> Skeleton:
    """The skeleton in the content of an ONNX file."""
    return onnx.load_from_string(data)


def parameters(skeleton: Skeleton) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters that a skeleton lacks, in the order of the network's state dict."""
    _, *inputs = skeleton.graph.input
    return {value.name: _shape(value) for value in inputs}


def set_classes(skeleton: Skeleton, layers: Collection[str], classes: int) -> None:
    """Gives a skeleton, in place, another number of classes; `layers` are those that give the logits."""
    names = {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    for value in skeleton.graph.input:
        if value.name in names:
            value.type.tensor_type.shape.dim[0].dim_value = classes
    logits = skeleton.graph.output[0]
    logits.type.tensor_type.shape.dim[1].dim_value = classes
    last = next(node for node in skeleton.graph.node if logits.name in node.output)
    for tensor in skeleton.graph.initializer:
        if last.op_type == "Reshape" and tensor.name == last.input[1]:  # behind a convolution that gives the logits
            tensor.CopyFrom(numpy_helper.from_array(np.array([-1, classes]), tensor.name))


def set_size(skeleton: Skeleton, size: tuple[int, int]) -> None:
    """Gives a skeleton, in place, another size (H, W) of the pictures in pixels."""
    image, *_ = skeleton.graph.input
    for axis, pixels in zip(image.type.tensor_type.shape.dim[1:3], size, strict=True):
        axis.dim_value = pixels
    for output in skeleton.graph.output:
        for axis in output.type.tensor_type.shape.dim[2:]:  # of the feature map
            axis.Clear()
    changed = {image.name}
    for node in skeleton.graph.node:
        if not changed.isdisjoint(node.input):
            changed.update(node.output)
    _keep_shapes(skeleton.graph, {value.name for value in skeleton.graph.value_info} - changed)


def fill(
    skeleton: Skeleton, values: Mapping[str, Callable[[], NDArray[Any]]], metadata: Mapping[str, str]
) -> tuple[onnx.ModelProto, dict[str, Constant]]:
    """The graph of a skeleton, with the metadata of a model file, and the constants that `write` puts into it.

    A batch normalization behind a convolution becomes a part of that, computed in float64.

    Args:
        skeleton: it is changed.
        values: float32 for each of `parameters`, called when it is written.
    """
    graph = skeleton.graph
    constants = {
        name: Constant(shape, np.dtype(np.float32), values[name]) for name, shape in parameters(skeleton).items()
    }
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        constants[tensor.name] = Constant(array.shape, array.dtype, partial(np.asarray, array))
    del graph.input[1:], graph.initializer[:]
    _fold_batch_norms(graph, constants)
    _fold_constants(graph, constants)
    # The shapes of values spare onnxruntime a fifth of the time to open a transformer.
    _keep_shapes(graph, {name for node in graph.node for name in node.output})
    used = {name for node in graph.node for name in edit.values_used(node)}
    helper.set_model_props(skeleton, dict(metadata))
    return skeleton, {name: constant for name, constant in constants.items() if name in used}


def write(model: onnx.ModelProto, constants: Mapping[str, Constant], file: BinaryIO) -> None:
    """Writes `model` with `constants` as its initializers, one after the other."""
    graph = model.graph.SerializeToString(deterministic=True)
    heads = []
    for name, constant in constants.items():
        kind = helper.np_dtype_to_tensor_dtype(constant.dtype)
        tensor = onnx.TensorProto(name=name, dims=constant.shape, data_type=kind).SerializeToString()
        size = math.prod(constant.shape) * constant.dtype.itemsize
        tensor += _RAW_DATA + _varint(size)
        heads.append((_INITIALIZER + _varint(len(tensor) + size) + tensor, size))
    length = len(graph) + sum(len(head) + size for head, size in heads)
    if length > MAX_FILE_BYTES:
        raise ConversionError(f"{length / 2**30:.1f} GiB of weights; an .onnx file holds less than 2.")
    around = onnx.ModelProto()
    around.CopyFrom(model)
    around.ClearField("graph")
    file.write(around.SerializeToString(deterministic=True) + _GRAPH + _varint(length) + graph)
    for (head, _), constant in zip(heads, constants.values(), strict=True):
        file.write(head)
        array = np.asarray(constant.array(), constant.dtype.newbyteorder("<"), order="C")
        assert array.shape == constant.shape
        file.write(array.data)


class _Norm(NamedTuple):
    """A batch normalization and the convolution before it; computed in float64 and rounded once."""

    weight: Constant
    bias: Constant | None
    scale: Constant
    shift: Constant
    mean: Constant
    variance: Constant
    epsilon: float

    def folded_weight(self) -> NDArray[np.float32]:
        factor = self._factor().reshape(-1, *[1] * (len(self.weight.shape) - 1))
        return np.asarray(self.weight.array() * factor, np.float32)

    def folded_bias(self) -> NDArray[np.float32]:
        before = 0.0 if self.bias is None else self.bias.array()
        return np.asarray((before - self.mean.array()) * self._factor() + self.shift.array(), np.float32)

    def _factor(self) -> NDArray[np.float64]:
        return self.scale.array().astype(np.float64) / np.sqrt(self.variance.array() + np.float64(self.epsilon))


def _fold_batch_norms(graph: onnx.GraphProto, constants: dict[str, Constant]) -> None:
    """Makes each batch normalization a part of the convolution that it alone follows."""
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(output.name for output in graph.output)
    made_by = {node.output[0]: node for node in graph.node}
    for node in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        before = made_by.get(node.input[0])
        if before is None or before.op_type != "Conv" or uses[node.input[0]] > 1 or uses[before.input[1]] > 1:
            continue
        weight, *bias = before.input[1:]
        epsilon = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
        scale, shift, mean, variance = (constants[name] for name in node.input[1:])
        before_bias = constants[bias[0]] if bias else None
        norm = _Norm(constants[weight], before_bias, scale, shift, mean, variance, epsilon)
        constants[weight] = norm.weight._replace(array=norm.folded_weight)
        constants[node.input[2]] = norm.shift._replace(array=norm.folded_bias)
        before.input[1:] = [weight, node.input[2]]
        before.output[0] = node.output[0]
        graph.node.remove(node)


def _fold_constants(graph: onnx.GraphProto, constants: dict[str, Constant]) -> None:
    """Takes out the nodes that depend on constants only; what they give is computed once, when it is written."""
    types = {value.name: value for value in graph.value_info}
    remaining = []
    for node in graph.node:
        if all(name in constants for name in node.input):
            inputs = {name: constants[name] for name in node.input}
            (name,) = node.output
            dtype = helper.tensor_dtype_to_np_dtype(types[name].type.tensor_type.elem_type)
            constants[name] = Constant(_shape(types[name]), dtype, partial(_run, node, inputs))
        else:
            remaining.append(node)
    graph.ClearField("node")
    graph.node.extend(remaining)


def _run(node: onnx.NodeProto, inputs: Mapping[str, Constant]) -> NDArray[Any]:
    from onnx.reference import ReferenceEvaluator

    (array,) = ReferenceEvaluator(node).run(None, {name: constant.array() for name, constant in inputs.items()})
    return np.asarray(array)


def _keep_shapes(graph: onnx.GraphProto, names: Collection[str]) -> None:
    kept = [value for value in graph.value_info if value.name in names]
    graph.ClearField("value_info")
    graph.value_info.extend(kept)


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)


def _varint(number: int) -> bytes:
    """The protobuf encoding of a number: 7 bits a byte, the lowest first."""
    rest, result = number, bytearray()
    while rest > 127:
        result.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*result, rest])
