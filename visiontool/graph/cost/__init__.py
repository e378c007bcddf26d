"""What an answer of a model file costs, worked out from its graph alone: no torch, no session, nothing is run."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Cost", "Layer", "measure"]


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
    """What one picture costs; None where the graph does not tell.

    Everything is counted on the way from the picture to the logits, as the graph has it.
    """

    params: int  # trained numbers in the file, see `measure`
    macs: int | None  # multiply-accumulate operations of convolutions, linear layers and matrix products
    activations: int | None  # numbers that convolutions, linear layers and matrix products give
    peak_activation_bytes: int | None  # the most that the values between the layers take at once
    size_bytes: int  # of the file
    receptive_field: int | None  # pixels; of the last feature map; None where each of its positions sees all
    layers: tuple[Layer, ...]


def measure(path: Path, *, size: tuple[int, int] | None = None) -> Cost:
    """Measures the .onnx file at `path`, whatever tool wrote it.

    `params` is what the graph holds. A converted network has fewer than its source where a batch normalization was
    folded into the convolution before it: 2 for each channel became 1. Networks without them agree exactly. What
    normalizes the picture ahead of the first layer is not counted; buffers that are added behind it, such as the masks
    of Swin's shifted windows, are, since a graph does not tell them from parameters.

    `activations` are not what takes the memory: they are what timm calls activations, a good predictor of speed.

    `peak_activation_bytes` follows the values in the order of execution: each lives from the node that makes it to the
    last one that takes it; a reshape takes nothing; an elementwise operation writes over an input that nobody needs
    any more. The weights, `size_bytes`, come on top, and what a runtime takes for itself.

    Args:
        size: (H, W) in pixels, for a graph that leaves them free; without it such a graph has `params` only.

    Raises:
        ModelError: the file is broken, unsafe or no picture classifier.

    Source:
        MACs and activations: fvcore's flop and activation counts, which timm's tables give as GMACs and MActs. The
        receptive field: Araujo, Norris, Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks".
    """
    # Here, because they bring onnx, and costs that were stored are shown without it.
    from visiontool.graph.cost.layers import find_layers
    from visiontool.graph.cost.network import peak_bytes, read
    from visiontool.graph.cost.receptive_field import Fields

    network = read(path, size)
    fields = Fields(network)
    layers = find_layers(network, fields)
    peak = peak_bytes(network)
    return Cost(
        params=sum(layer.params for layer in layers),
        macs=_total(layer.macs for layer in layers),
        activations=_total(layer.activations for layer in layers),
        peak_activation_bytes=None if peak is None else peak // network.batch,
        size_bytes=path.stat().st_size,
        receptive_field=fields.of_last_map(),
        layers=layers,
    )


def _total(numbers: Iterable[int | None]) -> int | None:
    """Their sum, or None where one is not known."""
    known = list(numbers)
    return None if None in known else sum(filter(None, known))
