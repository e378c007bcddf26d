"""Whether the class activation maps of a network are exact, decided from its graph, and how they are computed.

They are where nothing but a mean over all positions and linear layers lies between the last map and the logits, for
then each logit is the mean of what the positions add to it, and a bias.

Source: Zhou et al. 2016, "Learning Deep Features for Discriminative Localization".
"""

from math import prod
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from visiontool.graph.cost.layers import kind_of
from visiontool.graph.cost.shaped_graph import STANDARD, VIEWS, ShapedGraph, integer, integers
from visiontool.model.spec import ModelSpec

_SAME_NUMBERS = {*VIEWS, "Cast", "Dropout", "Gather", "Identity", "Transpose"}
Array = NDArray[np.float32]


class Head(NamedTuple):
    """What follows the last map of a network whose class activation maps are exact.

    logits = mean over all positions of `features @ weight.T`, + `bias`. With `epsilon` the features are divided by the
    standard deviation of their mean, as a layer normalization does: one number for a picture.
    """

    source: str  # the value that the mean is taken of
    axes: tuple[int, int]  # where height and width are in its shape
    weight: Array | None  # (C, D); None where each channel of the map is a class
    bias: Array  # (C,)
    epsilon: float | None = None

    def features(self, values: NDArray[np.floating[Any]]) -> Array:
        """(h, w, D), from `source` for one picture, (1, ...)."""
        features: Array = np.moveaxis(values[0].astype(np.float32), [axis - 1 for axis in self.axes], (0, 1))
        if self.epsilon is None:
            return features
        return np.asarray(features / np.sqrt(features.mean(axis=(0, 1)).var() + np.float32(self.epsilon)))

    def linear(self, features: Array, classes: slice | int = slice(None)) -> Array:
        """(..., C) or, of one class, (...): what features (..., D) add to the logits."""
        return np.asarray(features[..., classes] if self.weight is None else features @ self.weight[classes].T)


def exact_head(graph: ShapedGraph, spec: ModelSpec) -> Head | None:
    """The head of a network; None where its class activation maps would not be exact."""
    makers = {output: node for node in graph.nodes for output in node.output}
    node: onnx.NodeProto | None = makers[graph.logits]
    if spec.activation == "softmax" and node is not None and node.op_type == "Softmax":
        node = makers.get(node.input[0])
    behind = []  # the nodes between the mean and the logits, the last first
    while node is not None and (axes := _pooled_axes(graph, node)) is None:
        behind.append(node)
        inputs = graph.varying_inputs(node)
        node = makers.get(inputs[0]) if len(inputs) == 1 else None
    if node is None or axes is None:
        return None
    (channels,) = {1, 2, 3} - set(axes)
    width = (graph.shape(node.input[0]) or ())[channels]
    head: Head | None = Head(node.input[0], axes, None, np.zeros(width, np.float32))
    for node in reversed(behind):
        head = head and _through(graph, node, head)
    return head if head is not None and len(head.bias) == len(spec.labels) else None


def _pooled_axes(graph: ShapedGraph, node: onnx.NodeProto) -> tuple[int, int] | None:
    """The axes of height and width where a node is the mean over all their places, of several, else None."""
    shape = graph.input_shape(node, 0) or ()
    if len(shape) != 4 or kind_of(graph, node) != "global average pool":
        return None
    first, second = sorted(axis % 4 for axis in graph.integers(node, 1, "axes") or ()) or (2, 3)
    is_all = node.op_type != "AveragePool" or integers(node, "kernel_shape") == shape[2:]
    return (first, second) if is_all and shape[first] * shape[second] > 1 else None


def _through(graph: ShapedGraph, node: onnx.NodeProto, head: Head) -> Head | None:
    """`head` with one more node behind it; None where that is not linear, or not known to be."""
    width, shape = len(head.bias), graph.input_shape(node, 0) or ()
    if node.domain not in STANDARD or prod(shape) != graph.batch * width:
        return None
    if node.op_type in _SAME_NUMBERS:  # in their order, too: torch's exporter writes a change of strides as a Gather
        is_same = graph.numbers(node.output[0]) == prod(shape) and (node.op_type != "Transpose" or max(shape) == width)
        order = tuple(range(prod(shape)))
        return head if is_same and (node.op_type != "Gather" or graph.integers(node, 1, "") == order) else None
    tensors = [graph.constants.get(name) for name in node.input[1:]]
    values = [numpy_helper.to_array(tensor).astype(np.float32) for tensor in tensors if tensor is not None]
    if not values or len(values) < len(tensors):
        return None
    first, *bias = values
    factors = {attribute.name: attribute.f for attribute in node.attribute}
    if node.op_type == "Add" and first.size in (1, width):
        return head._replace(bias=head.bias + first.ravel())
    if node.op_type == "Conv" and first.shape[1:] == (width, 1, 1):
        return _linear(head, first.reshape(-1, width), *bias)
    if node.op_type == "MatMul" and first.ndim == 2:
        return _linear(head, first.T)
    if node.op_type == "Gemm" and factors.get("alpha", 1) == factors.get("beta", 1) == 1:
        return _linear(head, first if integer(node, "transB", 0) else first.T, *bias)
    is_first = head.weight is None and not head.bias.any()
    if node.op_type == "LayerNormalization" and is_first and shape[integer(node, "axis", -1) :] == (width,):
        centered = np.eye(width, dtype=np.float32) - np.float32(1 / width)  # features less their mean
        return _linear(head, first.reshape(-1, 1) * centered, *bias)._replace(epsilon=factors.get("epsilon", 1e-5))
    return None


def _linear(head: Head, matrix: Array, bias: Array | None = None) -> Head:
    """`head` with `matrix @ x + bias` behind it."""
    total = matrix @ head.bias + (np.float32(0) if bias is None else bias.ravel())
    return head._replace(weight=matrix if head.weight is None else matrix @ head.weight, bias=total)
