"""What an answer of a model file costs, and the costs of the classics, which are shown without torch or weights."""

import json
from dataclasses import dataclass, fields
from pathlib import Path

STORED = Path(__file__).parent / "classics"  # scripts/check_conversions.py writes it


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One line of the table; None where the graph does not tell."""

    name: str  # the module's in torch where the graph still has it: "layer1.0.conv1"
    kind: str  # "conv 5x5", "depthwise conv 3x3 stride 2", "max pool 3x3 stride 2", "linear", "matmul" ...
    output_shape: tuple[int, ...] | None  # of one picture, as the graph has it: (C, H, W), (tokens, D), (D,)
    params: int
    macs: int | None
    activations: int | None  # the numbers that it gives; 0 for a pool
    receptive_field: int | None  # pixels, the longer side; None where each number depends on the whole picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one picture costs on the way to the logits, as the graph has it; None where the graph does not tell."""

    params: int  # trained numbers in the file, see `layers.measure`
    macs: int | None  # multiply-accumulate operations of convolutions, linear layers and matrix products
    activations: int | None  # numbers that convolutions, linear layers and matrix products give
    peak_activation_bytes: int | None  # the most that the values between the layers take at once
    size_bytes: int  # of the file
    receptive_field: int | None  # pixels; of the last feature map; None where each of its positions sees all
    layers: tuple[Layer, ...]


def stored(architecture: str) -> Cost | None:
    """The cost of a classic at its usual input size; None for other architectures."""
    path = STORED / f"{architecture}.json"
    if not path.is_file():
        return None
    cost = json.loads(path.read_bytes())
    names = [field.name for field in fields(Layer)]
    layers = [dict(zip(names, values, strict=True)) for values in cost.pop("layers")]
    for layer in layers:
        layer["output_shape"] = layer["output_shape"] and tuple(layer["output_shape"])
    return Cost(**cost, layers=tuple(Layer(**layer) for layer in layers))
