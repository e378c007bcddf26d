"""The layers of a network as a textbook lists them: convolutions, pools and linear layers, in the order of execution.

Activation functions have no line of their own; a normalization, a bias or a scale counts with the layer before it.
"""

from dataclasses import replace
from math import prod

import onnx
from onnx import TensorProto

from visiontool.graph.cost import Layer
from visiontool.graph.cost.network import Network, integer, integers
from visiontool.graph.cost.receptive_field import Fields
from visiontool.graph.cost.shapes import Shape

_POOLS = {"MaxPool": "max pool", "AveragePool": "average pool", "LpPool": "pool"}
_GLOBAL_POOLS = {
    "GlobalAveragePool": "global average pool",
    "GlobalMaxPool": "global max pool",
    "ReduceMean": "global average pool",
    "ReduceMax": "global max pool",
}
# Operators that multiply and add in ways that are not counted here.
# fmt: off
_UNCOUNTED = frozenset((
    "Attention", "ConvInteger", "ConvTranspose", "DeformConv", "Einsum", "GRU", "If", "LSTM", "Loop", "MatMulInteger",
    "QLinearConv", "QLinearMatMul", "RNN", "Scan",
))
# fmt: on
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_LAYERS = ("Conv", "Gemm")
_NOT_TRAINED = {
    "BatchNormalization": (3, 4),  # mean and variance are measured
    "DequantizeLinear": (1, 2),
    "QuantizeLinear": (1, 2),
    "Pad": (1, 2, 3),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
}
_MOST_STEPS = 8  # from a layer's weight to the tensor that it is made from


def find_layers(network: Network, fields: Fields) -> tuple[Layer, ...]:
    """The layers on the way from the picture to the logits."""
    parameters = _Parameters(network)
    layers: list[Layer] = []
    pools = 0
    behind: dict[str, int] = {}  # value -> the number of the layer that it comes from
    unnamed: dict[str, int] = {}  # the same for values straight from a layer whose weight does not tell its module
    for node in network.nodes:
        inputs = network.varying_inputs(node)
        if not inputs:
            continue
        module = parameters.module_of(node)
        number = next((behind[name] for name in inputs if name in behind), None)
        kind = _kind(network, node)
        if kind is not None:
            number = len(layers)
            if node.op_type in _POOLS and not kind.startswith("global"):
                pools += 1
                module = module or f"pool{pools}"  # as papers number them
            layers.append(_layer(network, node, kind, module, fields))
            if module is None:
                unnamed[node.output[0]] = number
        elif number is not None and node.op_type == "Add" and module and inputs[0] in unnamed:
            layers[number] = replace(layers[number], name=module)
        if number is not None:  # constants ahead of the first layer only normalize the picture
            layers[number] = replace(layers[number], params=layers[number].params + parameters.taken_by(node))
            behind.update(dict.fromkeys(node.output, number))
    return tuple(layers)


class _Parameters:
    """Counts each parameter once, with the first layer that takes it."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._makers = {name: node for node in network.nodes for name in node.output if name not in network.varying}
        self._seen: set[str] = set()

    def taken_by(self, node: onnx.NodeProto) -> int:
        """How many parameters `node` takes, straight or through nodes that only depend on constants.

        Parameters are tensors of real numbers, or what is dequantized to such. A single number is a setting, such as
        the scale of attention, unless it is the weight or bias of a layer.
        """
        total = 0
        pending = [(name, False) for name in self._trained(node)]
        while pending:
            name, is_quantized = pending.pop()
            if name in self._seen or name in self._network.varying:
                continue
            self._seen.add(name)
            tensor = self._network.constants.get(name)
            if tensor is not None:
                numbers = self._network.shapes.numbers(name) or 0
                is_setting = numbers == 1 and (node.op_type not in _LAYERS or not tensor.dims)
                if (is_quantized or tensor.data_type in _FLOATS) and not is_setting:
                    total += numbers
            elif name in self._makers:
                maker = self._makers[name]
                pending += [(taken, maker.op_type == "DequantizeLinear") for taken in self._trained(maker)]
        return total

    def module_of(self, node: onnx.NodeProto) -> str | None:
        """The torch module that a node's first constant belongs to by its name; None where that does not tell."""
        name = next((name for name in node.input if name and name not in self._network.varying), "")
        for _ in range(_MOST_STEPS):
            if name not in self._makers or not self._makers[name].input:
                break
            name = self._makers[name].input[0]
        module, _, role = name.rpartition(".")
        return module.removeprefix("model.") if "weight" in role or "bias" in role else None

    def _trained(self, node: onnx.NodeProto) -> list[str]:
        skipped = _NOT_TRAINED.get(node.op_type, ())
        return [name for position, name in enumerate(node.input) if name and position not in skipped]


def _layer(network: Network, node: onnx.NodeProto, kind: str, module: str | None, fields: Fields) -> Layer:
    output = node.output[0]
    shape = network.shapes.of(output)
    if shape and shape[0] == network.batch:
        shape = shape[1:]
    macs, activations = _work(network, node)
    return Layer(
        name=module or node.name.removeprefix("node_").strip("/") or output,
        kind=kind,
        output_shape=shape,
        params=0,
        macs=macs,
        activations=activations,
        receptive_field=fields.of(output),
    )


def _kind(network: Network, node: onnx.NodeProto) -> str | None:
    """What the table calls a node; None for one that has no line of its own."""
    operator = node.op_type
    if node.domain not in ("", "ai.onnx") or operator in _UNCOUNTED:
        return operator
    if operator == "Conv":
        return _kind_of_convolution(network, node)
    if operator in ("Gemm", "MatMul"):
        return "matmul" if len(network.varying_inputs(node)) > 1 else "linear"
    if operator in _POOLS:
        return _kind_of_pool(network, node)
    if operator in _GLOBAL_POOLS and _pools_all(network, node):
        return _GLOBAL_POOLS[operator]
    return None


def _kind_of_convolution(network: Network, node: onnx.NodeProto) -> str:
    weight = network.input_shape(node, 1) or ()
    groups = integer(node, "group", 1)
    depthwise = groups > 1 and weight[1:2] == (1,)
    words = ["depthwise"] * depthwise + ["conv", _by(integers(node, "kernel_shape") or weight[2:])]
    words += _unless_one("stride", integers(node, "strides"))
    words += _unless_one("dilation", integers(node, "dilations"))
    if groups > 1 and not depthwise:
        words += ["groups", str(groups)]
    return " ".join(words)


def _kind_of_pool(network: Network, node: onnx.NodeProto) -> str | None:
    kernel = integers(node, "kernel_shape") or ()
    strides = integers(node, "strides") or (1,) * len(kernel)
    if set(kernel) | set(strides) == {1}:  # an adaptive pool that had nothing to do
        return None
    before, after = network.input_shape(node, 0), network.shapes.of(node.output[0])
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


def _pools_all(network: Network, node: onnx.NodeProto) -> bool:
    """Whether a reduction goes over all positions of a map (N, C, H, W) or (N, H, W, C), or all tokens (N, L, D)."""
    if node.op_type.startswith("Global"):
        return True
    rank, axes = len(network.input_shape(node, 0) or ()), network.integers(node, 1, "axes")
    if not rank or not axes:
        return False
    return {axis % rank for axis in axes} in ([{2, 3}, {1, 2}] if rank == 4 else [{1}] if rank == 3 else [])


def _work(network: Network, node: onnx.NodeProto) -> tuple[int | None, int | None]:
    """Multiply-accumulate operations and activations for one picture."""
    if node.op_type in _POOLS or node.op_type in _GLOBAL_POOLS:
        return 0, 0
    given, each = network.shapes.numbers(node.output[0]), _macs_for_each(network, node)
    if given is None or each is None:
        return None, None
    return given * each // network.batch, given // network.batch


def _macs_for_each(network: Network, node: onnx.NodeProto) -> int | None:
    """Multiply-accumulate operations for each number that the layer gives."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Conv":
        weight = network.input_shape(node, 1)
        return None if weight is None else prod(weight[1:])
    if node.op_type in ("Gemm", "MatMul"):
        left = network.input_shape(node, 0)
        return None if not left else left[0 if integer(node, "transA", 0) else -1]
    return None
