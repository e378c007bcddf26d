"""Which layer is the first whose output differs between two networks.

Exports keep the names of the values of the graph that they were made from, whatever they put between them (casts,
quantization), so what has the same name must be the same but for rounding.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from visiontool import runtime
from visiontool.data.loader import batches, fitted
from visiontool.data.prepare import Recipe
from visiontool.errors import ModelError, first_line
from visiontool.evaluation.compare.gates import gate_for, preprocessing_differences
from visiontool.files import on_disk
from visiontool.graph import edit
from visiontool.images import transforms
from visiontool.images.decode import DEFAULT_LIMITS
from visiontool.inference.classifier import Classifier
from visiontool.model.difference import relative_l2

_AT_ONCE = 64  # layers whose outputs are fetched together; they take memory
_MIN_MATCHED = 0.5  # share of A's values; where fewer have a name in common, it is by chance
_JUMP = 3.0  # a layer is to blame whose output differs by more than so many times as much as its inputs do


class _LayerDifference(NamedTuple):
    """A layer of A, and by what share of its size its output, and its inputs at most, differ in B."""

    layer: Any  # onnx.NodeProto
    output: float
    inputs: float
    shapes: tuple[tuple[int, ...], tuple[int, ...]]

    def __str__(self) -> str:
        layer = f"{self.layer.name or self.layer.output[0]} ({self.layer.op_type})"
        if self.shapes[0][1:] != self.shapes[1][1:]:
            return f"{layer}, which gives {list(self.shapes[0])} in A and {list(self.shapes[1])} in B"
        return f"{layer}: its output by {self.output:.2%} of its size, its inputs by {self.inputs:.2%}"


def first_difference(a: Classifier, b: Classifier, picture: str) -> str | None:
    """The first layer, in A's order, that makes something else of a picture in B than in A, in words.

    Where the picture reaches the two in different ways, the words are about that. Both are run on the CPU. None where
    the values between the layers of the two have other names, or A is an ensemble.
    """
    if len(a.members) > 1:
        return None
    if differences := preprocessing_differences(a.spec, b.spec):
        return f"the two are given different pixels: {'; '.join(differences)}"
    bound = gate_for(a, b).layer
    farthest: _LayerDifference | None = None
    graph_a, graph_b = (_InspectedGraph(model, picture) for model in (a, b))
    common = graph_a.values & graph_b.values
    if len(common) < _MIN_MATCHED * len(graph_a.values):
        return None
    for difference in _differences(graph_a, graph_b, common):
        if difference.output > bound and difference.output > _JUMP * difference.inputs:
            return f"the first layer that differs is {difference}"
        if farthest is None or difference.output - difference.inputs > farthest.output - farthest.inputs:
            farthest = difference
    if farthest is None or farthest.output <= bound:
        return f"on the CPU, no layer makes of it something that differs by more than {bound:.2%} of its size"
    return f"they part little by little, and the layer that adds most is {farthest}"


class _InspectedGraph:
    """A model file whose values between the layers can be fetched for one picture."""

    def __init__(self, model: Classifier, picture: str) -> None:
        self._path = on_disk(model.path)
        pixels = fitted([picture], Recipe.of(model.spec, DEFAULT_LIMITS), 1)
        self._tensor = transforms.to_tensor(pixels.repeat(model.fixed_batch or 1, axis=0), model.spec.input)
        self.layers = list(edit.load(self._path)[0].graph.node)
        self.values = {name for layer in self.layers for name in layer.output if name}

    def fetch(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        opened = runtime.open_model(self._path, device="cpu", content=edit.giving(self._path, *names))
        try:
            values = opened.session.run(list(names), {opened.inputs[0].name: self._tensor})
        except Exception as error:  # onnxruntime's exceptions share no root but Exception
            raise ModelError(f"{self._path}: onnxruntime cannot run it: {first_line(error)}") from None
        return dict(zip(names, values, strict=True))


def _differences(a: _InspectedGraph, b: _InspectedGraph, common: set[str]) -> Iterator[_LayerDifference]:
    differing: dict[str, float] = {}
    for layers in batches(a.layers, _AT_ONCE):
        names = [name for layer in layers for name in layer.output if name in common]
        values_a, values_b = (graph.fetch(names) for graph in (a, b)) if names else ({}, {})
        for layer in layers:
            inputs = max((differing.get(name, 0.0) for name in layer.input), default=0.0)
            for name in layer.output:
                differing[name] = inputs  # where it cannot be compared
                if name in values_a and values_a[name].dtype.kind == "f" and values_b[name].dtype.kind == "f":
                    one, other = values_a[name], values_b[name]
                    # The first axis is the batch: the same picture repeated where a graph has a fixed number.
                    is_same_shape = one.shape[1:] == other.shape[1:]
                    differing[name] = relative_l2(one[:1], other[:1]) if is_same_shape else math.inf
                    yield _LayerDifference(layer, differing[name], inputs, (one.shape, other.shape))
