"""A line of the table of layers."""

from dataclasses import dataclass


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
