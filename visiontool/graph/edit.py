"""ONNX graphs in memory: read from a file that was scanned, and cut down to what leads to given values."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import helper

from visiontool.errors import ModelError, UsageError
from visiontool.model.scan import Scan, scan
from visiontool.model.spec import MAX_FIXED_BATCH, ModelSpec


def load(path: Path, *, external: bool = False) -> tuple[onnx.ModelProto, Scan]:
    """Reads the .onnx file at `path`, weights included.

    Args:
        external: lets tensors lie in other files (`onnx_scan.scan`); these are not read.

    Raises:
        ModelError: the scan refuses the file, or it cannot be read.
    """
    found = scan(path, external=external)
    try:
        # onnx.load would take a file for JSON or text by its name.
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except (DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not an ONNX file, or a damaged one ({error})") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    # protobuf gives bytes for what is no UTF-8.
    if any(isinstance(name, bytes) for name in _names(model.graph)):
        raise ModelError(f"{path}: not an ONNX file, or a damaged one (a name in the graph is not UTF-8)")
    return model, found


def _names(graph: onnx.GraphProto) -> Iterator[str | bytes]:
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        yield value.name
    for tensor in graph.sparse_initializer:
        yield tensor.values.name
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            yield attribute.name
            for inner in (attribute.g, *attribute.graphs):
                yield from _names(inner)


class Names:
    """Names that are free in a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._taken = {name for node in graph.node for name in (node.name, *node.output, *values_used(node))}
        self._taken |= {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
        self._taken |= {tensor.values.name for tensor in graph.sparse_initializer}

    def free(self, name: str) -> str:
        """`name`, or that with a number where it is taken; it is taken then."""
        number, free = 1, name
        while free in self._taken:
            number += 1
            free = f"{name}_{number}"
        self._taken.add(free)
        return free


def leading_to(nodes: Iterable[onnx.NodeProto], values: Iterable[str]) -> list[onnx.NodeProto]:
    """Those of `nodes`, which are in the order of execution, that `values` are made from, in the same order."""
    needed = set(values)
    kept = []
    for node in reversed(list(nodes)):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed.update(values_used(node))
    return kept[::-1]


def values_used(node: onnx.NodeProto) -> Iterator[str]:
    """The values that a node takes: its inputs, and all that graphs inside it name, which may be from outside."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from values_used(inner)
            yield from (output.name for output in graph.output)


def fix_batch(model: onnx.ModelProto, spec: ModelSpec, batch: int) -> None:
    """Fixes, in place, how many pictures the graph of `model` takes: `batch` of them, no other number.

    Some runtimes want to know it ahead.

    Raises:
        UsageError: `batch` is out of range, or the graph takes another fixed number already.
    """
    if not 1 <= batch <= MAX_FIXED_BATCH:
        raise UsageError(f"a batch of {batch} pictures: expected 1 to {MAX_FIXED_BATCH}")
    graph = model.graph
    image = next(value for value in graph.input if value.name == spec.input.name)
    first = image.type.tensor_type.shape.dim[0]
    if first.dim_value not in (0, batch):
        raise UsageError(
            f"{spec.name}: the graph takes {first.dim_value} pictures at once, and cannot be made to take {batch}"
        )
    symbol = first.dim_param
    for value in (image, *graph.output):
        for axis in value.type.tensor_type.shape.dim[:1]:  # some tools leave the shape of an output out
            axis.dim_value = batch
    for value in graph.value_info:
        for axis in value.type.tensor_type.shape.dim:
            if symbol and axis.dim_param == symbol:
                axis.dim_value = batch


def describe(model: onnx.ModelProto, spec: ModelSpec) -> None:
    """Has the file say `spec` of itself, in place of whatever it said before."""
    helper.set_model_props(model, spec.to_metadata())


def clean(model: onnx.ModelProto) -> None:
    """Takes out, in place, what no run needs and what may name files of the machine that wrote the model: comments,
    and the exporter's notes on where in the source each node was made. The model's own metadata stays.
    """
    model.doc_string = ""
    for function in model.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        _clean_nodes(function.node)
    _clean_graph(model.graph)


def _clean_graph(graph: onnx.GraphProto) -> None:
    graph.doc_string = ""
    del graph.metadata_props[:]
    for part in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    _clean_nodes(graph.node)


def _clean_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            attribute.doc_string = ""
            for graph in (attribute.g, *attribute.graphs):
                if graph.node:
                    _clean_graph(graph)
