"""ONNX graphs in memory: read from a file that was scanned, and changed."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
from onnx import inliner, shape_inference

from visiontool.errors import ConversionError, ModelError, UsageError, first_line
from visiontool.files import replacing
from visiontool.model.scan import Scan, scan
from visiontool.model.spec import MAX_FIXED_BATCH, ModelSpec


def load(path: Path, *, external: bool = False) -> tuple[onnx.ModelProto, Scan]:
    """Reads the .onnx file at `path`, weights included, but not those that `external` lets lie in other files.

    Raises:
        ModelError: the scan refuses the file, or it cannot be read.
    """
    scanned = scan(path, external=external)
    try:
        # onnx.load would take a file for JSON or text by its name.
        return onnx.load(path, format="protobuf", load_external_data=False), scanned
    except (DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not an ONNX file, or a damaged one ({error})") from None


def write(model: onnx.ModelProto, target: Path, metadata: dict[str, str]) -> None:
    """Writes a model file with this metadata alone; raises ConversionError where it cannot be written."""
    onnx.helper.set_model_props(model, metadata)
    try:
        with replacing(target) as unfinished:
            unfinished.write_bytes(model.SerializeToString(deterministic=True))
    except OSError as error:
        raise ConversionError(f"{target}: cannot be written: {error.strerror}") from None


def with_types(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """A copy of `model`, called `name` in errors, without local functions and with the types of all values.

    Raises:
        ConversionError: they cannot be inferred.
    """
    try:
        return shape_inference.infer_shapes(inliner.inline_local_functions(model) if model.functions else model)
    except (shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise ConversionError(f"{name}: the types in the graph cannot be worked out: {first_line(error)}") from None


def unique_names(graph: onnx.GraphProto) -> Callable[[str], str]:
    """A function that makes names of nodes and values unique in `graph`: it adds a number to those in use."""
    used = {name for node in graph.node for name in (node.name, *node.output, *values_used(node))}
    used |= {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    used |= {tensor.values.name for tensor in graph.sparse_initializer}

    def unique(name: str) -> str:
        number, result = 1, name
        while result in used:
            number += 1
            result = f"{name}_{number}"
        used.add(result)
        return result

    return unique


def leading_to(nodes: Iterable[onnx.NodeProto], values: Iterable[str]) -> list[onnx.NodeProto]:
    """Those of `nodes` that `values` are computed from; both in the order of execution."""
    needed = set(values)
    result = []
    for node in reversed(list(nodes)):
        if not needed.isdisjoint(node.output):
            result.append(node)
            needed.update(values_used(node))
    return result[::-1]


def values_used(node: onnx.NodeProto) -> Iterator[str]:
    """The values that a node takes: its inputs, and all that graphs inside it name, which may be from outside."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from values_used(inner)
            yield from (output.name for output in graph.output)


def prune(graph: onnx.GraphProto, outputs: Collection[str]) -> None:
    """Reduces `graph`, in place, to these of its outputs and what they depend on."""
    nodes = leading_to(graph.node, outputs)
    used = set(outputs).union(*(values_used(node) for node in nodes))
    values = used.union(*(node.output for node in nodes))
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {tensor.values.name for tensor in graph.sparse_initializer}
    remaining: dict[str, Sequence[object]] = {
        "node": nodes,
        "input": [value for value in graph.input if value.name not in constants],
        "output": [value for value in graph.output if value.name in outputs],
        "initializer": [tensor for tensor in graph.initializer if tensor.name in used],
        "sparse_initializer": [tensor for tensor in graph.sparse_initializer if tensor.values.name in used],
        "value_info": [value for value in graph.value_info if value.name in values],
    }
    for field, entries in remaining.items():
        graph.ClearField(field)
        getattr(graph, field).extend(entries)


def giving(path: Path, *names: str) -> bytes:
    """The content of the model file at `path`, reduced to what gives the values `names`, its only outputs."""
    model, _ = load(path)
    del model.graph.output[:]
    for name in names:
        model.graph.output.add().name = name  # onnxruntime works out the type
    prune(model.graph, names)
    return bytes(model.SerializeToString())


def fix_batch(model: onnx.ModelProto, spec: ModelSpec, batch: int) -> None:
    """Fixes, in place, how many pictures the graph of `model` takes: `batch` of them, no other number.

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


def clean(model: onnx.ModelProto) -> None:
    """Removes comments and the exporter's notes, which may name files of the machine that wrote the model."""
    for part in parts(model):
        if "doc_string" in part.DESCRIPTOR.fields_by_name:
            part.doc_string = ""
        if "metadata_props" in part.DESCRIPTOR.fields_by_name and part is not model:
            part.ClearField("metadata_props")


def parts(message: Message) -> Iterator[Message]:
    """The message and all messages inside it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in (value,) if isinstance(value, Message) else value:
                yield from parts(inner)
