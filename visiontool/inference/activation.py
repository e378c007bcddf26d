"""Whether a graph of another tool gives logits or probabilities: by its operators and by its outputs."""

from dataclasses import replace

import numpy as np

from visiontool.errors import ModelError, UsageError
from visiontool.inference.network import Network
from visiontool.model.foreign import Description
from visiontool.model.spec import Activation, ModelSpec
from visiontool.runtime import OpenModel

# As last operators these give logits, even where none is below 0 on any test picture: linear layers, means of a map.
_LINEAR = {"Gemm", "QGemm", "MatMul", "Conv", "GlobalAveragePool", "AveragePool", "ReduceMean"}
_MAX_OFF_ONE = 0.05  # of the sum of probabilities, which may have been rounded to 8 bits


def with_activation(opened: OpenModel, spec: ModelSpec, description: Description | None) -> ModelSpec:
    """`spec`, of a file without a manifest, with the activation that the user gives, or its operators or outputs tell.

    Raises:
        ModelError: none of them tells, it is a yes or no for each class, or the manifest of --spec contradicts the
            outputs.
        UsageError: --activation contradicts the operators.
    """
    path, last = opened.path, opened.scan.final_operators.get(spec.logits, "")
    if description is not None and description.spec is not None:
        activation, outputs = _test(opened, spec)
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
    activation, outputs = ("softmax", "") if last == "Softmax" else _test(opened, spec)
    if activation is None and last not in _LINEAR:
        raise ModelError(
            f"{path}: gives {outputs}, which tells neither logits nor probabilities.\n"
            "Say --activation none for logits, --activation softmax for probabilities on any scale."
        )
    return replace(spec, activation=activation or "none")


def _test(opened: OpenModel, spec: ModelSpec) -> tuple[Activation | None, str]:
    """The activation by the outputs for a few pictures, None where they do not tell; and a description of them."""
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
