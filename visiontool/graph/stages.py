"""Where the stages of a network end, found in its graph, and their pooled outputs beside the embedding.

A stage ends at the last value that all later ones are computed from, before height and width halve: in a ResNet the
output of a group of blocks, in VGG the map that goes into a pool.

Source: Evci et al. 2022, "Head2Toe: Utilizing intermediate representations for better transfer learning",
    arXiv:2201.03529, for the pooled outputs of layers as features.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import onnx
from onnx import TensorProto, helper

from visiontool.errors import ModelError
from visiontool.graph import edit
from visiontool.graph.cost.shaped_graph import ShapedGraph
from visiontool.model.spec import MANIFEST_KEY, ModelSpec

MOST = 4  # what a head may see: the embedding and the outputs of three stages
_HALVED = 0.6  # of height or width, or less: 73 becomes 35 in an Inception, but 73 and 71 are of one stage
_LEAST_CHANNELS = 4  # fewer are those of a picture


class Stage(NamedTuple):
    """The end of a stage."""

    value: str  # (N, C, H, W)
    channels: int


def stages_of(model: onnx.ModelProto, spec: ModelSpec) -> list[Stage]:
    """The stages that end ahead of the embedding, the last first; none where the graph has no maps, or odd ones.

    The one whose mean is the embedding is left out.
    """
    assert spec.embedding is not None
    try:
        graph = ShapedGraph(model, replace(spec, logits=spec.embedding).to_json(), spec.input.size)
    except ModelError:
        return []
    maps = [(name, shape) for name in _bottlenecks(graph) if _is_map(shape := graph.shape(name) or (), spec.input.size)]
    sides = [shape[2] for _, shape in maps[1:]] + [0] * bool(maps)  # of the maps that come next
    found = [
        Stage(name, shape[1]) for (name, shape), side in zip(maps, sides, strict=True) if side <= _HALVED * shape[2]
    ]
    if found and found[-1].channels == (graph.shape(spec.embedding) or (0,))[-1]:
        del found[-1]
    return found[:-MOST:-1]


def _bottlenecks(graph: ShapedGraph) -> Iterator[str]:
    """The values that all later ones are computed from, in the order of execution."""
    last_use = {name: number for number, node in enumerate(graph.nodes) for name in graph.varying_inputs(node)}
    live = {graph.picture}
    for number, node in enumerate(graph.nodes):
        live.update(output for output in node.output if output in last_use and output in graph.varying)
        live -= {name for name in live if last_use[name] <= number}
        if len(live) == 1:
            yield from live


def _is_map(shape: Sequence[int], size: tuple[int, int]) -> bool:
    """Whether a value is (N, C, H, W) of several places, and of the proportions of a picture of that size."""
    if len(shape) != 4 or shape[1] < _LEAST_CHANNELS or min(shape[2:]) < 2:
        return False
    return abs(shape[2] * size[1] - shape[3] * size[0]) <= max(size)  # so Swin's (N, H, W, C) are none


def add_parts(graph: onnx.GraphProto, embedding: str, stages: Sequence[Stage]) -> list[str]:
    """Adds the mean over places of each stage to a graph, in place; gives the outputs for a head, (N, D)."""
    unique, parts = edit.unique_names(graph), [embedding]
    for number, stage in enumerate(stages, 2):
        mean, flat, part = map(unique, (f"stage{number}.mean", f"stage{number}.flat", f"stage{number}"))
        graph.node.append(helper.make_node("GlobalAveragePool", [stage.value], [mean], mean))
        graph.node.append(helper.make_node("Flatten", [mean], [flat], flat, axis=1))
        graph.node.append(helper.make_node("Cast", [flat], [part], part, to=TensorProto.FLOAT))
        parts.append(part)
    return parts


def joined(source: Path, target: Path) -> list[int]:
    """Writes a copy of a model file whose embedding is followed by the outputs of its last stages; gives their widths.

    An empty list, and nothing is written, where the network has no such stages.
    """
    model, scanned = edit.load(source)
    spec = ModelSpec.from_json(scanned.metadata[MANIFEST_KEY])
    stages = stages_of(model, spec)
    if not stages or spec.embedding is None:
        return []
    edit.prune(model.graph, [spec.logits, spec.embedding])
    parts = add_parts(model.graph, spec.embedding, stages)
    name = edit.unique_names(model.graph)("joined")
    model.graph.node.append(helper.make_node("Concat", parts, [name], name, axis=1))
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    edit.write(model, target, replace(spec, embedding=name, feature_map=None).to_metadata())
    return [stage.channels for stage in stages]
