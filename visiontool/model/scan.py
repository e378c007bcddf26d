"""A scan of the protobuf of an .onnx file, before anything that could act on it.

It needs neither the `onnx` package nor a session, and reads no tensor, so a file of any size takes milliseconds.
onnxruntime would follow a tensor's reference to another file, and takes all memory or ends the process where a Split
miscounts its outputs; such files are refused here. Where a field occurs twice, both count: a tensor that is external by
any of its fields is external, a node with any operator of Split is a Split.

Source: onnx/onnx.proto3 (field numbers), the protobuf encoding guide (wire types).
"""

import mmap
import os
from pathlib import Path
from typing import NamedTuple

from visiontool.errors import ModelError
from visiontool.files import on_disk
from visiontool.text import short_repr

MAX_FILE_BYTES = 2**31 - 1  # protobuf's own limit
MAX_FIELDS = 2_000_000  # a second or two, and some 100 MB; large networks have some 100,000

_VARINT, _BYTES = 0, 2
_BEGIN_WITH_NUMBER = (_VARINT, _BYTES)
_FIXED_BYTES = {1: 8, 5: 4}

# Where tensors and nodes can hide: message -> field number -> message inside.
_INSIDE: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
}
_MODEL_GRAPH, _MODEL_METADATA = 7, 14
_GRAPH_NODE, _GRAPH_OUTPUT = 1, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INTEGER, _ATTRIBUTE_REFERENCE = 1, 3, 21
_TENSOR_NAME, _TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 8, 13, 14
_PASS_ON = {  # probabilities stay probabilities, if of fewer classes
    *("Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Expand", "Transpose", "Cast", "CastLike", "Dropout"),
    *("QuantizeLinear", "DequantizeLinear", "Relu", "Clip", "Slice", "Gather", "Split"),
}
_MAX_OUTPUTS = 10  # whose operators are looked for


class Scan(NamedTuple):
    """The result of a scan."""

    metadata: dict[str, str]
    final_operators: dict[str, str]  # for each output of the graph the operator behind it, "" where it is unknown
    external: str | None = None  # the name of a tensor that lies in another file


def scan(path: Path, *, external: bool = False) -> Scan:
    """Scans the .onnx file at `path`; raises ModelError where it cannot be read or must not be opened.

    Args:
        external: allows tensors in other files. For `export.external_data` alone, which checks where they are.
    """
    try:
        with open(on_disk(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:  # which mmap refuses
                raise ModelError(f"{path}: the file is empty")
            if size > MAX_FILE_BYTES:
                raise ModelError(f"{path}: {size:,} bytes; a model file has at most {MAX_FILE_BYTES:,}")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return scan_bytes(data, path, external=external)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None


def scan_bytes(data: mmap.mmap | bytes, path: Path, *, external: bool = False) -> Scan:
    """Scans the content of an .onnx file, as `scan` does; `path` is for messages."""
    if data[:19] == b"version https://git":
        raise ModelError(f"{path}: only a pointer of Git LFS to the model file; fetch it with: git lfs pull")
    if data[:100].lstrip()[:1] == b"<":
        raise ModelError(f"{path}: a web page, not a model file; download the file itself")
    if data[:100].lstrip()[:1] == b"{":
        raise ModelError(f"{path}: no model file. predict, evaluate and export take an ensemble's, nothing else does")
    if data[4:8] == b"ORTM" or path.suffix.lower() == ".ort":
        raise ModelError(f"{path}: onnxruntime's own format; give the .onnx file that it was made from")
    try:
        result = _read_model(_Protobuf(data), len(data))
    except _MalformedError as error:
        raise ModelError(f"{path}: not an ONNX file, or a damaged one ({error})") from None
    if result.external is not None and not external:
        raise ModelError(
            f"{path}: the tensor {short_repr(result.external)} is kept in another file (external data); "
            f"one file is expected.\nMake one of it with: visiontool export {path} --onnx -o single.onnx"
        )
    return result


class _MalformedError(Exception):
    """The bytes are no protobuf of this kind."""


_Place = tuple[int, int]  # start and end of the bytes of a text, a message or anything else
_Message = dict[int, list[int | _Place]]  # by field number


class _Protobuf:
    """The messages in the bytes of a file, up to a number of fields that bounds time and memory."""

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self._data = data
        self._fields_left = MAX_FIELDS

    def message(self, start: int, end: int) -> _Message:
        data, position, left = self._data, start, self._fields_left
        fields: _Message = {}
        while position < end:
            left -= 1
            if left < 0:
                raise _MalformedError(f"more than {MAX_FIELDS:,} fields, unlike any picture classifier")
            # Most keys and numbers have one byte; to call `_varint` for these took half of the time of a scan.
            key = data[position]
            position += 1
            if key > 0x7F:
                key, position = self._varint(position - 1, end)
            number, wire = key >> 3, key & 7
            value: int | _Place
            if wire in _BEGIN_WITH_NUMBER:
                value = data[position] if position < end else 0x80
                position += 1
                if value > 0x7F:
                    value, position = self._varint(position - 1, end)
                if wire == _BYTES:
                    value = (position, position := position + value)
            elif wire in _FIXED_BYTES:
                value = (position, position := position + _FIXED_BYTES[wire])
            else:
                raise _MalformedError(f"wire type {wire}")
            if not 0 < number < 2**29:  # protobuf's parser drops bits above, and so would see another field
                raise _MalformedError(f"field number {number}")
            if position > end:
                raise _MalformedError("a field runs over its end")
            if number in fields:
                fields[number].append(value)
            else:
                fields[number] = [value]
        self._fields_left = left
        return fields

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        """A number, and the position behind it."""
        value = shift = 0
        while position < end and shift < 64:
            byte = self._data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
            shift += 7
        raise _MalformedError("a number runs over its end")

    def texts(self, message: _Message, number: int) -> list[str]:
        places = [value for value in message.get(number, ()) if isinstance(value, tuple)]
        return [self._data[start:end].decode("utf-8", "replace") for start, end in places]

    def text(self, message: _Message, number: int) -> str:
        return (self.texts(message, number) or [""])[-1]

    def messages(self, message: _Message, number: int) -> list[_Message]:
        return [self.message(*value) for value in message.get(number, ()) if isinstance(value, tuple)]


def _read_model(data: _Protobuf, size: int) -> Scan:
    model = data.message(0, size)
    graphs = data.messages(model, _MODEL_GRAPH)
    if len(graphs) != 1:  # protobuf would merge two
        raise _MalformedError("it has two graphs" if graphs else "it has no graph")
    metadata = {data.text(entry, 1): data.text(entry, 2) for entry in data.messages(model, _MODEL_METADATA)}
    external = _external_tensor(data, size)
    nodes = [value for value in graphs[0].get(_GRAPH_NODE, ()) if isinstance(value, tuple)]
    outputs = [data.text(output, 1) for output in data.messages(graphs[0], _GRAPH_OUTPUT)]
    return Scan(
        metadata, {output: _operator_behind(data, nodes, output) for output in outputs[:_MAX_OUTPUTS]}, external
    )


def _external_tensor(data: _Protobuf, size: int) -> str | None:
    """The name of a tensor that lies in another file, or None; raises for a Split that miscounts its outputs."""
    external = None
    waiting = [("Model", 0, size)]
    while waiting:
        kind, start, end = waiting.pop()
        fields = data.message(start, end)
        if kind == "Tensor":
            if _TENSOR_EXTERNAL_DATA in fields or any(fields.get(_TENSOR_DATA_LOCATION, ())):
                external = data.text(fields, _TENSOR_NAME)
            continue
        if kind == "Node" and "Split" in data.texts(fields, _NODE_OPERATOR):
            _check_split(data, fields)
        for number, inner in _INSIDE[kind].items():
            for value in fields.get(number, ()):
                if isinstance(value, tuple):
                    waiting.append((inner, *value))
    return external


def _check_split(data: _Protobuf, node: _Message) -> None:
    """Raises _MalformedError for a Split node whose `num_outputs` is not the number of its outputs."""
    outputs = len(data.texts(node, _NODE_OUTPUT))
    for attribute in data.messages(node, _NODE_ATTRIBUTE):
        if "num_outputs" in data.texts(attribute, _ATTRIBUTE_NAME):
            if _ATTRIBUTE_REFERENCE in attribute:  # in a function: its caller gives the number
                raise _MalformedError("a Split whose number of outputs is not its own")
            for count in attribute.get(_ATTRIBUTE_INTEGER, ()):
                if isinstance(count, int) and count != outputs:
                    raise _MalformedError(f"a Split into {count:,} values that gives {outputs:,}")


def _operator_behind(data: _Protobuf, nodes: list[_Place], value: str) -> str:
    """The operator that makes `value`, seen through those that only pass it on; "" where it is unknown."""
    for place in reversed(nodes):
        node = data.message(*place)
        if value in data.texts(node, _NODE_OUTPUT):
            operator = data.text(node, _NODE_OPERATOR).removeprefix("QLinear")  # onnxruntime's: QLinearSoftmax
            if operator not in _PASS_ON:
                return operator
            value = next(iter(data.texts(node, _NODE_INPUT)), "")
    return ""
