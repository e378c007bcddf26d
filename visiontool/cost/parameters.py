"""Which numbers of a file are a network's parameters, and whose."""

import onnx
from onnx import TensorProto

from visiontool.cost.network import Network

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


class Parameters:
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
