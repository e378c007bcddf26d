"""Where two networks part: the values between their layers, side by side.

Exports keep the names of the values of the graph that they were made from, whatever they put between them (casts,
quantization), so what has the same name must be the same but for rounding.
"""

import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from numpy.typing import NDArray

from visiontool import runtime
from visiontool.data.loader import batches, fitted
from visiontool.data.prepare import Recipe
from visiontool.errors import ModelError, first_line
from visiontool.evaluation.compare.gates import gate_for
from visiontool.evaluation.compare.manifests import preprocessing_differences
from visiontool.graph import edit
from visiontool.images import transforms
from visiontool.images.decode import DEFAULT_LIMITS
from visiontool.inference.classifier import Classifier
from visiontool.runtime.alike import relative_l2

_AT_ONCE = 64  # layers that are looked at in one run; what they give takes memory
_LEAST_MATCHED = 0.5  # share of A's values; where fewer have a name in common, it is by chance
_JUMP = 3.0  # a layer whose output differs by more than so many times as much as its inputs do is to blame


class _Step(NamedTuple):
    """A layer of A, by what share of its size its output differs in B, and what its inputs do at most."""

    layer: onnx.NodeProto
    output: float
    inputs: float
    shapes: tuple[tuple[int, ...], tuple[int, ...]]


def first_difference(a: Classifier, b: Classifier, picture: str) -> str | None:
    """The first layer, in A's order, that makes something else of a picture in B than in A, in words.

    Where the picture reaches the two in different ways, they say that instead. Both are run on the CPU.

    Returns:
        None where the values between the layers of the two have other names.

    Raises:
        DataError: the picture cannot be read.
        ModelError: a file is damaged, or onnxruntime cannot run it.
    """
    if said := preprocessing_differences(a.spec, b.spec):
        return f"the two are given different pixels: {'; '.join(said)}"
    bound = gate_for(a, b).layer
    farthest: _Step | None = None
    with tempfile.TemporaryDirectory(prefix="visiontool-") as folder:
        of_a, of_b = (_Network(model, picture, Path(folder)) for model in (a, b))
        common = of_a.values & of_b.values
        if len(common) < _LEAST_MATCHED * len(of_a.values):
            return None
        for step in _steps(of_a, of_b, common):
            if step.output > bound and step.output > _JUMP * step.inputs:
                return f"the first layer that differs is {_told(step)}"
            if farthest is None or step.output - step.inputs > farthest.output - farthest.inputs:
                farthest = step
    if farthest is None or farthest.output <= bound:
        return f"on the CPU, no layer makes of it something that differs by more than {bound:.2%} of its size"
    return f"they part little by little, and the layer that adds most is {_told(farthest)}"


class _Network:
    """A model file whose values can be looked at."""

    def __init__(self, model: Classifier, picture: str, folder: Path) -> None:
        self._path = model.path
        self._model, _ = edit.load(model.path)
        self._tensor = _tensor(model, picture)
        self._file = folder / "looked_at.onnx"
        self.layers = list(self._model.graph.node)
        self.values = {name for layer in self.layers for name in layer.output if name}

    def look(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """These values."""
        graph = self._model.graph
        del graph.output[:]
        for name in names:
            graph.output.add().name = name  # onnxruntime works out the type
        self._file.write_bytes(self._model.SerializeToString())
        opened = runtime.open_model(self._file, device="cpu")
        try:
            values = opened.session.run(list(names), {opened.inputs[0].name: self._tensor})
        except Exception as error:  # onnxruntime's exceptions share no root but Exception
            raise ModelError(f"{self._path}: onnxruntime cannot run it: {first_line(error)}") from None
        return dict(zip(names, values, strict=True))


def _steps(a: _Network, b: _Network, common: set[str]) -> Iterator[_Step]:
    """What each layer of A adds to the difference, in order."""
    differing: dict[str, float] = {}
    for layers in batches(a.layers, _AT_ONCE):
        names = [name for layer in layers for name in layer.output if name in common]
        of_a, of_b = (network.look(names) for network in (a, b)) if names else ({}, {})
        for layer in layers:
            inputs = max((differing.get(name, 0.0) for name in layer.input), default=0.0)
            for name in layer.output:
                differing[name] = inputs  # as far as anybody knows
                if name in of_a and of_a[name].dtype.kind == "f" and of_b[name].dtype.kind == "f":
                    one, other = of_a[name], of_b[name]
                    shapes = (one.shape, other.shape)
                    # The first axis is the picture's, which comes again where a graph takes a fixed number of them.
                    same = one.shape[1:] == other.shape[1:]
                    differing[name] = relative_l2(one[:1], other[:1]) if same else math.inf
                    yield _Step(layer, differing[name], inputs, shapes)


def _tensor(model: Classifier, picture: str) -> NDArray[Any]:
    """What the graph is given for a picture, as often as it takes pictures at once."""
    pixels = fitted([picture], Recipe.of(model.spec, DEFAULT_LIMITS), 1)
    return transforms.to_tensor(pixels.repeat(model.fixed_batch or 1, axis=0), model.spec.input)


def _told(step: _Step) -> str:
    layer = f"{step.layer.name or step.layer.output[0]} ({step.layer.op_type})"
    if step.shapes[0][1:] != step.shapes[1][1:]:
        return f"{layer}, which gives {list(step.shapes[0])} in A and {list(step.shapes[1])} in B"
    return f"{layer}: its output by {step.output:.2%} of its size, its inputs by {step.inputs:.2%}"
