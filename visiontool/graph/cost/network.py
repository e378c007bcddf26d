"""The part of a graph that leads to the logits, with the shape of every value, and the memory that these take."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import AttributeProto

from visiontool.errors import ModelError
from visiontool.graph import edit
from visiontool.graph.cost.shapes import Shape, Shapes, constant_of
from visiontool.model.scan import Scan
from visiontool.model.spec import MANIFEST_KEY, ModelSpec
from visiontool.text import short_repr

MAX_NODES = 50_000  # a few seconds; large classifiers have some 5,000
_CHANNELS = (1, 3)
_INPUTS_THAT_COUNT = {"Shape": 0, "Size": 0, "CastLike": 1}  # of the others only shape and type do

_VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout")  # they take no memory

# Each number of what these give depends on one number of each input.
# fmt: off
ELEMENTWISE = frozenset((
    "Abs", "Add", "BatchNormalization", "Celu", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish",
    "LeakyRelu", "Log", "Max", "Mean", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "Reciprocal", "Relu", "Selu",
    "Sigmoid", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tanh", "ThresholdedRelu", "Where",
))
# fmt: on


@dataclass(frozen=True, slots=True)
class Network:
    """The nodes that lead to the logits, in the order of execution.

    Attributes:
        batch: pictures that go through at once: 1 unless the graph is made for another number.
        picture: the graph's input.
        spatial_axes: where height and width are in it.
        varying: the values that depend on the pixels; all others are constants.
        constants: the tensors in the file that the nodes may take.
    """

    nodes: Sequence[onnx.NodeProto]
    batch: int
    picture: str
    spatial_axes: tuple[int, int]
    logits: str
    varying: frozenset[str]
    constants: Mapping[str, onnx.TensorProto]
    shapes: Shapes

    def varying_inputs(self, node: onnx.NodeProto) -> list[str]:
        """What a node takes that depends on the pixels."""
        return [name for name in _numbers_taken(node) if name in self.varying]

    def input_shape(self, node: onnx.NodeProto, position: int) -> Shape | None:
        """The shape of a node's input, or None where it is not known or there is no such input."""
        name = node.input[position] if len(node.input) > position else ""
        return self.shapes.of(name) if name else None

    def integers(self, node: onnx.NodeProto, position: int, attribute: str) -> tuple[int, ...] | None:
        """What newer versions of an operator take as an input and older ones as an attribute; None where unknown."""
        if len(node.input) > position and node.input[position]:
            values = self.shapes.small.get(node.input[position])
            return tuple(map(int, values.flat)) if values is not None and values.dtype.kind in "iu" else None
        return integers(node, attribute)


def read(path: Path, size: tuple[int, int] | None) -> Network:
    """Reads the .onnx file at `path`; `size`, (H, W) in pixels, is for a graph that leaves it free.

    Raises:
        ModelError: the file is broken, unsafe or no picture classifier.
    """
    model, found = edit.load(path)
    graph = model.graph
    try:
        logits = _logits(graph, found)
        nodes = edit.leading_to(graph.node, [logits])
        if len(nodes) > MAX_NODES:
            raise ModelError(f"{len(nodes):,} nodes; a picture classifier has at most {MAX_NODES:,}")
        constants = {tensor.name: tensor for tensor in graph.initializer}
        picture = _picture(graph, constants)
        sides, spatial_axes = _sides(picture, size)
        shapes = Shapes({opset.domain: opset.version for opset in model.opset_import})
        shapes.add_input(picture, sides)
        for name, tensor in constants.items():
            shapes.add_constant(tensor, name)
        varying = _follow(nodes, picture.name, shapes)
        if logits not in varying:
            raise ModelError(f"the graph is broken: the output {short_repr(logits)} does not depend on the picture")
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    constants |= {node.output[0]: tensor for node in nodes if (tensor := constant_of(node)) is not None}
    return Network(nodes, sides[0] or 1, picture.name, spatial_axes, logits, varying, constants, shapes)


def peak_bytes(network: Network) -> int | None:
    """The most memory that the values between the layers take at once: the peak over all nodes of what is alive while
    a node runs; None where a shape is not known.
    """
    end = len(network.nodes)
    last_use = {name: number for number, node in enumerate(network.nodes) for name in network.varying_inputs(node)}
    last_use[network.logits] = end
    place = {network.picture: 0}  # value -> the buffer that it lies in
    sizes = [network.shapes.size_bytes(network.picture)]
    needed_until = [last_use.get(network.picture, 0)]  # for each buffer the last node that takes a value in it
    made = defaultdict(list, {0: [0]})  # number of a node -> buffers that it makes
    for number, node in enumerate(network.nodes):
        inputs = network.varying_inputs(node)
        for output in node.output:
            if output not in network.varying:
                continue
            size = network.shapes.size_bytes(output)
            until = last_use.get(output, number)
            reused = None
            if node.op_type in _VIEWS:
                reused = place[inputs[0]]
            elif node.op_type in ELEMENTWISE:
                dying = (place[name] for name in inputs if needed_until[place[name]] == number)
                reused = next((buffer for buffer in dying if sizes[buffer] == size), None)
            if reused is None:
                place[output] = len(sizes)
                made[number].append(len(sizes))
                sizes.append(size)
                needed_until.append(until)
            else:
                place[output] = reused
                needed_until[reused] = max(needed_until[reused], until)
    if None in sizes:
        return None
    freed = defaultdict(list)
    for buffer, number in enumerate(needed_until):
        freed[number].append(buffer)
    alive = peak = 0
    for number in range(end):
        alive += sum(sizes[buffer] or 0 for buffer in made[number])
        peak = max(peak, alive)
        alive -= sum(sizes[buffer] or 0 for buffer in freed[number])
    return peak


def _logits(graph: onnx.GraphProto, found: Scan) -> str:
    outputs: list[str] = [output.name for output in graph.output]
    if not outputs:
        raise ModelError("the graph has no output")
    if MANIFEST_KEY not in found.metadata:
        return outputs[0]
    logits = ModelSpec.from_json(found.metadata[MANIFEST_KEY]).logits
    if logits not in outputs:
        raise ModelError(
            f"the manifest's logits output {short_repr(logits)} is not in the graph: {short_repr(outputs)}"
        )
    return logits


def _picture(graph: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto]) -> onnx.ValueInfoProto:
    inputs: list[onnx.ValueInfoProto] = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or len(inputs[0].type.tensor_type.shape.dim) != 4:
        raise ModelError("the graph does not take one batch of pictures (four axes), so it is no picture classifier")
    return inputs[0]


def _sides(picture: onnx.ValueInfoProto, size: tuple[int, int] | None) -> tuple[list[int | None], tuple[int, int]]:
    """The shape of the input, None where it is free and nobody says, and where height and width are in it."""
    sides = [axis.dim_value if axis.dim_value > 0 else None for axis in picture.type.tensor_type.shape.dim]
    last_are_channels = sides[3] in _CHANNELS and sides[1] not in _CHANNELS
    height, width = axes = (1, 2) if last_are_channels else (2, 3)
    sides[0] = sides[0] or 1
    if size is not None:
        sides[height] = sides[height] or size[0]
        sides[width] = sides[width] or size[1]
    return sides, axes


def _follow(nodes: Sequence[onnx.NodeProto], picture: str, shapes: Shapes) -> frozenset[str]:
    """Adds what every node gives to `shapes`; returns the values that depend on the picture."""
    varying = {picture}
    for node in nodes:
        for name in filter(None, node.input):
            if name not in shapes:
                raise ModelError(f"the graph is broken: {short_repr(name)} is used before anything makes it")
        for name in filter(None, node.output):
            if name in shapes:
                raise ModelError(f"the graph is broken: {short_repr(name)} is made twice")
        shapes.add_outputs(node)
        if not varying.isdisjoint(_numbers_taken(node)):
            varying.update(filter(None, node.output))
    return frozenset(varying)


def _numbers_taken(node: onnx.NodeProto) -> Iterable[str]:
    """The values whose numbers decide what a node gives."""
    if node.op_type in _INPUTS_THAT_COUNT:
        return list(node.input[: _INPUTS_THAT_COUNT[node.op_type]])
    return edit.values_used(node)


def integers(node: onnx.NodeProto, name: str) -> tuple[int, ...] | None:
    """An attribute that is a list of integers, or None where there is none of that name."""
    for attribute in node.attribute:
        if attribute.name == name and attribute.type == AttributeProto.INTS:
            return tuple(attribute.ints)
    return None


def integer(node: onnx.NodeProto, name: str, default: int) -> int:
    """An attribute that is an integer."""
    for attribute in node.attribute:
        if attribute.name == name and attribute.type == AttributeProto.INT:
            return int(attribute.i)
    return default
