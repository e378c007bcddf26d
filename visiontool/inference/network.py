"""Network: an opened model file that gives outputs for pixels; and whether these are logits or probabilities."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from visiontool import runtime
from visiontool.data.loader import cores
from visiontool.data.prepare import Prepared
from visiontool.errors import ModelError, UsageError
from visiontool.images import transforms
from visiontool.model.spec import Activation, ModelSpec, without_trailing_ones

if TYPE_CHECKING:
    from visiontool.model.foreign import Description

# As last operators these give logits, even where none is below 0 on any test picture: linear layers, means of a map.
_LINEAR = {"Gemm", "QGemm", "MatMul", "Conv", "GlobalAveragePool", "AveragePool", "ReduceMean"}
_MAX_OFF_ONE = 0.05  # of the sum of probabilities, which may have been rounded to 8 bits


class Network:
    """The graph of a model file, used as its manifest says."""

    def __init__(self, opened: runtime.OpenModel, spec: ModelSpec, threads: int) -> None:
        self.opened = opened
        self.spec = spec
        fixed = opened.inputs[0].shape[0]
        self.fixed_batch: int | None = fixed if isinstance(fixed, int) else None
        # On the CPU, one run uses `threads` cores, so this many fill the machine.
        self.runs_at_once = max(1, cores() // threads) if threads and opened.provider == "cpu" else 1

    def outputs(self, pixels: NDArray[np.uint8], output: str, *, pad_to: int | None = None) -> NDArray[np.float32]:
        """As `Classifier.outputs`; a GPU, which prepares for each batch size anew, takes at least `pad_to`."""
        height, width = self.spec.input.size
        if self.spec.resize == "graph" and pixels.ndim == 4 and pixels.size > 0:
            height, width = pixels.shape[1:3]
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (height, width, 3):
            raise UsageError(f"expected uint8 (N, {height}, {width}, 3), not {pixels.dtype} {pixels.shape}")
        tensor = transforms.to_tensor(pixels, self.spec.input)
        size = self.fixed_batch
        if size is None:
            return self._call(tensor, output, pad_to)
        padded = np.pad(tensor, [(0, -len(tensor) % size)] + [(0, 0)] * (tensor.ndim - 1))
        chunks = [self._call(chunk, output) for chunk in np.split(padded, len(padded) // size)]
        return np.concatenate(chunks)[: len(tensor)]

    def outputs_of(self, pictures: Sequence[Prepared], output: str, pad_to: int | None = None) -> NDArray[np.float32]:
        """One output for readable pictures, with an axis for views where they have several; those of one size are a
        batch.
        """
        places = defaultdict[tuple[int, ...], list[int]](list)
        pixels = [item.pixels for item in pictures if item.pixels is not None]
        for place, picture in enumerate(pixels):
            places[picture.shape].append(place)
        stacks = [np.stack([pixels[place] for place in same]) for same in places.values()]
        views = stacks[0].shape[1:-3]
        flat = [stack.reshape(-1, *stack.shape[-3:]) for stack in stacks]
        rows = np.concatenate([self.outputs(stack, output, pad_to=pad_to) for stack in flat])
        return rows.reshape(-1, *views, *rows.shape[1:])[np.argsort(np.concatenate([*places.values()]))]

    def _call(self, tensor: NDArray[Any], output: str, pad_to: int | None = None) -> NDArray[np.float32]:
        bound = self.opened.bound
        try:
            if bound is not None:
                values = bound.outputs(output, tensor, pad_to)
            else:
                values = runtime.outputs(self.opened.session, output, {self.spec.input.name: tensor})
        except ModelError as error:
            hint = "\nIt may want fewer pictures at once: --batch-size 1." if len(tensor) > 1 else ""
            raise ModelError(f"{self.opened.path}: {error}{hint}") from None
        if output == self.spec.logits:
            values = values.reshape(values.shape[: len(without_trailing_ones(values.shape))])
        if values.shape[:1] != tensor.shape[:1] or (
            output == self.spec.logits and values.shape[1:] != (len(self.spec.labels),)
        ):
            raise ModelError(
                f"{self.opened.path}: output {output!r} has shape {values.shape} "
                f"for {len(tensor)} pictures and {len(self.spec.labels)} labels"
            )
        return values.astype(np.float32, copy=False)


def softmax(logits: NDArray[np.floating[Any]], temperature: float) -> NDArray[np.float64]:
    """The probabilities of (..., C) logits.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2 (temperature scaling).
    """
    values = logits.astype(np.float64) / temperature
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)  # type: ignore[no-any-return]


def sigmoid(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The probabilities of (..., L) logits of labels that may come together."""
    return 0.5 * np.tanh(0.5 * logits.astype(np.float64)) + 0.5


def with_activation(opened: runtime.OpenModel, spec: ModelSpec, description: "Description | None") -> ModelSpec:
    """`spec`, of a file without a manifest, with the activation by the user, or else by its operators or outputs.

    Raises:
        ModelError: the activation cannot be known, is that of several labels, or contradicts --spec.
        UsageError: --activation contradicts the operators.
    """
    path, last = opened.path, opened.scan.final_operators.get(spec.logits, "")
    if description is not None and description.spec is not None:
        activation, outputs = _activation_by_outputs(opened, spec)
        if activation not in (None, spec.activation):
            raise ModelError(
                f"--spec {description.spec}: 'activation' is {spec.activation!r}, "
                f"but the graph gives {outputs}: say {activation!r}"
            )
        return spec
    if description is not None and description.activation is not None:
        if description.activation == "none" and last == "Softmax":
            raise UsageError(f"--activation none: {path} ends in Softmax, so it gives probabilities; leave it out")
        return spec
    if last == "Sigmoid":
        raise ModelError(
            f"{path}: its answers come from Sigmoid, a yes or no for each class; visiontool expects one class a "
            "picture.\nIf each picture has just one class nevertheless, say --activation softmax."
        )
    activation, outputs = ("softmax", "") if last == "Softmax" else _activation_by_outputs(opened, spec)
    if activation is None and last not in _LINEAR:
        raise ModelError(
            f"{path}: gives {outputs}, which tells neither logits nor probabilities.\n"
            "Say --activation none for logits, --activation softmax for probabilities on any scale."
        )
    return replace(spec, activation=activation or "none")


def _activation_by_outputs(opened: runtime.OpenModel, spec: ModelSpec) -> tuple[Activation | None, str]:
    """The activation by the outputs for a few pictures, None where it cannot be known; and a description of them."""
    network = Network(opened, spec, threads=0)
    shape = (*spec.input.size, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    ramp = np.broadcast_to(np.linspace(0, 255, shape[1]).astype(np.uint8)[:, None], shape)
    sums = []
    for pixels in (noise, ramp, np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)):
        (row,) = network.outputs(pixels[None], spec.logits).astype(np.float64)
        if row.min() < 0:
            return "none", "numbers below 0, which are logits"
        sums.append(row.sum())
    if np.abs(np.array(sums) - 1).max() <= _MAX_OFF_ONE:
        return "softmax", "numbers that are never below 0 and add up to 1, which are probabilities"
    return None, f"numbers that are never below 0 and add up to {min(sums):.3g} to {max(sums):.3g}"
