"""A look at an .onnx file from outside, before anything that could act on it: a scan of its protobuf.

It needs neither the `onnx` package nor a session. Tensors are skipped, not read, so a file of any size takes
milliseconds. onnxruntime would follow a tensor's reference to another file, and takes all memory or ends the process
where a Split miscounts its outputs; such files are refused here.

The scan must never see less than onnxruntime's parser does. So it refuses whatever two parsers could read in two
ways (numbers of more bits than protobuf keeps, groups, a second graph), and no field overrules an earlier one: a
tensor that is external by any of its fields is external, a node with any operator of Split is a Split.

Source: onnx/onnx.proto3 (field numbers), the protobuf encoding guide (wire types).
"""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from visiontool.errors import ModelError
from visiontool.json_fields import shown

MAX_FILE_BYTES = 2**31 - 1  # protobuf's own limit
MAX_METADATA_BYTES = 32 * 2**20
MAX_FIELDS = 2_000_000  # a second or two; large networks have some 100,000
MAX_NAME_BYTES = 100_000
_MAX_OUTPUTS = 1000
_MAX_DEPTH = 96  # messages within messages; onnxruntime's parser takes 100

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Where tensors can hide: message -> field number -> message inside.
_INSIDE: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
}
_TENSOR_NAME, _TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 8, 13, 14
_MODEL_GRAPH, _MODEL_METADATA, _MODEL_FUNCTION = 7, 14, 25
_GRAPH_NODE, _GRAPH_OUTPUT = 1, 12
_FUNCTION_NAME, _FUNCTION_INPUT, _FUNCTION_OUTPUT, _FUNCTION_NODE, _FUNCTION_DOMAIN = 1, 4, 5, 7, 10
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_NODE_NAMES = {_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR}
_ATTRIBUTE_NAME, _ATTRIBUTE_INTEGER, _ATTRIBUTE_REFERENCE = 1, 3, 21
# What keeps probabilities what they are, if of fewer classes or on another scale; the second with constants only.
_PASSES_ON = {
    *("Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Expand", "Transpose", "Cast", "CastLike", "Dropout"),
    *("QuantizeLinear", "DequantizeLinear", "Relu", "Clip", "Slice", "Gather", "Split"),
}
_PASSES_ON_WITH_CONSTANTS = {"Add", "Mul", "Div", "Max", "Min"}
_MAX_CALLS = 100  # of functions that are looked into


class Scan(NamedTuple):
    """What the scan found."""

    metadata: dict[str, str]
    final_operators: dict[str, str]  # for each output of the graph the operator that makes it, "" where it is unknown
    external: str | None = None  # the name of a tensor that lies in another file


def scan(path: Path, *, external: bool = False) -> Scan:
    """Scans the .onnx file at `path`.

    Args:
        external: lets tensors lie in other files. For `export.external` alone, which looks where these are: onnxruntime
            would follow them, so such a file must not be opened as it is.

    Raises:
        ModelError: the file cannot be read, is no ONNX file, is too large, keeps tensors in other files, or has a
            Split that miscounts its outputs.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise ModelError(f"{path}: the file is empty")
            if size > MAX_FILE_BYTES:
                raise ModelError(f"{path}: {size:,} bytes; a model file has at most {MAX_FILE_BYTES:,}")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _scan(data, path, external=external)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None


def scan_bytes(data: bytes, path: Path) -> Scan:
    """Scans what is to be written to an .onnx file, as `scan` does; `path` is for messages.

    Raises:
        ModelError: as `scan`.
    """
    return _scan(data, path, external=False)


def _scan(data: mmap.mmap | bytes, path: Path, *, external: bool) -> Scan:
    if data[:19] == b"version https://git":
        raise ModelError(f"{path}: only a pointer of Git LFS to the model file; fetch it with: git lfs pull")
    if data[4:8] == b"ORTM" or path.suffix.lower() == ".ort":
        raise ModelError(f"{path}: onnxruntime's own format; give the .onnx file that it was made from")
    try:
        found = _read_model(_Protobuf(data), len(data), path)
    except _MalformedError as error:
        raise ModelError(f"{path}: not an ONNX file, or a damaged one ({error})") from None
    if found.external is not None and not external:
        raise ModelError(
            f"{path}: the tensor {shown(found.external)} is kept in another file (external data); "
            f"one file is expected.\nMake one of it with: visiontool export {path} --onnx -o single.onnx"
        )
    return found


def _read_model(data: "_Protobuf", size: int, path: Path) -> Scan:
    metadata: dict[str, str] = {}
    graph: tuple[int, int] | None = None
    functions: list[tuple[int, int]] = []
    metadata_bytes = 0
    for number, wire, start, end in data.fields(0, size):
        if number == _MODEL_GRAPH and wire == _BYTES:
            if graph is not None:  # protobuf would merge the two
                raise _MalformedError("it has two graphs")
            graph = (start, end)
        elif number == _MODEL_METADATA and wire == _BYTES:
            metadata_bytes += end - start
            if metadata_bytes > MAX_METADATA_BYTES:
                raise ModelError(f"{path}: more than {MAX_METADATA_BYTES:,} bytes of metadata")
            texts = data.texts(start, end, MAX_METADATA_BYTES)
            metadata[texts.get(1, "")] = texts.get(2, "")
        elif number == _MODEL_FUNCTION and wire == _BYTES:
            functions.append((start, end))
    if graph is None:
        raise _MalformedError("it has no graph")
    external = _external_tensor(data, "Model", 0, size, 0)
    return Scan(metadata, _final_operators(data, *graph, functions), external)


class _MalformedError(Exception):
    """The bytes are no protobuf of this kind."""


class _Protobuf:
    """The bytes of a file, read field by field, up to a number of fields that bounds the time."""

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self._data = data
        self._fields_left = MAX_FIELDS

    def varint(self, position: int, end: int) -> tuple[int, int]:
        """A number, and the position behind it."""
        value = shift = 0
        while True:
            if position >= end or shift > 63:
                raise _MalformedError("a number runs over its end")
            byte = self._data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
            shift += 7

    def fields(self, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Yields (field number, wire type, start, end) of each field between `position` and `end`."""
        data = self._data
        while position < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise _MalformedError(f"more than {MAX_FIELDS:,} fields, unlike any picture classifier")
            # Most keys and lengths have one byte; to call `varint` for these took half of the time of a scan.
            key = data[position]
            if key < 0x80:
                position += 1
            else:
                key, position = self.varint(position, end)
            number, wire = key >> 3, key & 7
            start = position
            if wire == _BYTES:
                if position < end and data[position] < 0x80:
                    start = position + 1
                    position = start + data[position]
                else:
                    length, start = self.varint(position, end)
                    position = start + length
            elif wire == _VARINT:
                _, position = self.varint(position, end)
            elif wire == _FIXED64:
                position += 8
            elif wire == _FIXED32:
                position += 4
            else:
                raise _MalformedError(f"wire type {wire}")
            # protobuf's parser drops the bits of a key above 32, and so would see another field number.
            if not 0 < number < 2**29:
                raise _MalformedError(f"field number {number}")
            if position > end:
                raise _MalformedError("a field runs over its end")
            yield number, wire, start, position

    def text(self, start: int, end: int, max_bytes: int = MAX_NAME_BYTES) -> str:
        _check_length(start, end, max_bytes)
        return self._data[start:end].decode("utf-8", "replace")

    def texts(self, start: int, end: int, max_bytes: int = MAX_NAME_BYTES) -> dict[int, str]:
        """The length-delimited fields of a message as text, the last of each number."""
        return {
            number: self.text(first, last, max_bytes)
            for number, wire, first, last in self.fields(start, end)
            if wire == _BYTES
        }

    def all_texts(self, start: int, end: int, *numbers: int) -> list[list[str]]:
        """All texts in a message that have each of these field numbers."""
        found: dict[int, list[str]] = {number: [] for number in numbers}
        for number, wire, first, last in self.fields(start, end):
            if number in found and wire == _BYTES:
                found[number].append(self.text(first, last))
        return [*found.values()]


def _check_length(start: int, end: int, max_bytes: int) -> None:
    if end - start > max_bytes:
        raise _MalformedError(f"a name of {end - start:,} bytes")


def _external_tensor(data: _Protobuf, message: str, start: int, end: int, depth: int) -> str | None:
    """The name of the first tensor below this message that lies in another file, or None. All of it is walked through.

    Raises:
        _MalformedError: also for a Split that miscounts its outputs.
    """
    if depth > _MAX_DEPTH:
        raise _MalformedError(f"messages nested more than {_MAX_DEPTH} deep")
    if message == "Tensor":
        return _name_if_external(data, start, end)
    inside = _INSIDE[message]
    is_node, is_split = message == "Node", False
    external: str | None = None
    for number, wire, first, last in data.fields(start, end):
        if wire != _BYTES:
            continue
        if number in inside:
            tensor = _external_tensor(data, inside[number], first, last, depth + 1)
            external = tensor if external is None else external
        elif is_node and number in _NODE_NAMES:
            _check_length(first, last, MAX_NAME_BYTES)  # they are read later, if at all
            is_split |= number == _NODE_OPERATOR and data.text(first, last) == "Split"
    if is_split:
        _check_split(data, start, end)
    return external


def _check_split(data: _Protobuf, start: int, end: int) -> None:
    """Raises _MalformedError for a Split node whose `num_outputs` is not the number of its outputs."""
    outputs = 0
    attributes = []
    for number, wire, first, last in data.fields(start, end):
        if wire == _BYTES:
            outputs += number == _NODE_OUTPUT
            if number == _NODE_ATTRIBUTE:
                attributes.append((first, last))
    for attribute in attributes:
        is_number_of_outputs = is_reference = False
        values = []
        for number, wire, first, last in data.fields(*attribute):
            if number == _ATTRIBUTE_NAME and wire == _BYTES:
                is_number_of_outputs |= data.text(first, last) == "num_outputs"
            elif number == _ATTRIBUTE_INTEGER and wire == _VARINT:
                values.append(data.varint(first, last)[0])
            elif number == _ATTRIBUTE_REFERENCE:
                is_reference = True
        if is_number_of_outputs and is_reference:  # in a function: whoever calls it says how many
            raise _MalformedError("a Split whose number of outputs is not its own")
        for value in values:
            if is_number_of_outputs and value != outputs:
                raise _MalformedError(f"a Split into {value:,} values that gives {outputs:,}")


def _name_if_external(data: _Protobuf, start: int, end: int) -> str | None:
    name, external = "", False
    for number, wire, first, last in data.fields(start, end):
        if number == _TENSOR_EXTERNAL_DATA:
            external = True
        elif number == _TENSOR_DATA_LOCATION:
            external |= wire != _VARINT or data.varint(first, last)[0] != 0
        elif number == _TENSOR_NAME and wire == _BYTES:
            name = data.text(first, last)
    return name if external else None


def _final_operators(data: _Protobuf, start: int, end: int, functions: list[tuple[int, int]]) -> dict[str, str]:
    """The operator behind each output of the graph, seen through those that only pass values on."""
    nodes: list[tuple[int, int]] = []
    wanted: list[str] = []
    for number, wire, first, last in data.fields(start, end):
        if number == _GRAPH_NODE and wire == _BYTES:
            nodes.append((first, last))
        elif number == _GRAPH_OUTPUT and wire == _BYTES:
            wanted.append(data.texts(first, last).get(1, ""))
    makers = _Makers(data, nodes, functions)
    return {output: makers.operator_behind(output) for output in wanted[:_MAX_OUTPUTS]}


class _Makers:
    """The nodes that make the values of a graph, read from the last one on, and only as far as they are asked for."""

    def __init__(self, data: _Protobuf, nodes: list[tuple[int, int]], functions: list[tuple[int, int]]) -> None:
        self._data = data
        self._unread = [(*node, "") for node in nodes]  # (start, end) of each, and what its values' names begin with
        self._functions = {str(data.all_texts(*place, _FUNCTION_NAME, _FUNCTION_DOMAIN)): place for place in functions}
        self._calls = 0
        self._makers: dict[str, tuple[str, list[str]]] = {}  # value -> (operator, its inputs)

    def operator_behind(self, value: str) -> str:
        """The operator that makes `value`, seen through those that only pass it on; "" where it is unknown."""
        seen = set()
        while value not in seen:
            seen.add(value)
            operator, inputs = self._maker(value)
            if operator in _PASSES_ON_WITH_CONSTANTS:
                varying = [each for each in inputs if not self._is_constant(each)]
                if operator == "Div" and len(varying) == 2 and self._are_powers_and_sum(*varying):
                    return "Softmax"
                if len(varying) != 1 or (operator == "Div" and varying != inputs[:1]):
                    return operator
                inputs = varying
            elif operator not in _PASSES_ON:
                return operator
            value = inputs[0] if inputs else ""
        return ""

    def _is_constant(self, value: str) -> bool:
        operator, inputs = self._maker(value)
        if operator in _PASSES_ON and inputs:  # it may be quantized
            operator, _ = self._maker(inputs[0])
        return operator in ("", "Constant")

    def _are_powers_and_sum(self, powers: str, total: str) -> bool:
        """Whether the quotient of these two is a softmax that is spelled out."""
        operator, inputs = self._maker(total)
        return self._maker(powers)[0] == "Exp" and operator == "ReduceSum" and inputs[:1] == [powers]

    def _maker(self, value: str) -> tuple[str, list[str]]:
        while value not in self._makers and self._unread:
            self._read(*self._unread.pop())
        return self._makers.get(value, ("", []))

    def _read(self, start: int, end: int, prefix: str) -> None:
        inputs, outputs, operators, domains = self._data.all_texts(
            start, end, _NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_DOMAIN
        )
        inputs, outputs = _named(prefix, inputs), _named(prefix, outputs)
        function = self._functions.get(str([operators, domains]))
        if function is None or self._calls == _MAX_CALLS:
            operator = operators[-1].removeprefix("QLinear") if operators else ""  # onnxruntime's own: QLinearSoftmax
            self._makers |= {output: (operator, inputs) for output in outputs if output not in self._makers}
            return
        self._calls += 1
        inside = f"{self._calls}:{prefix}"
        taken, given = self._data.all_texts(*function, _FUNCTION_INPUT, _FUNCTION_OUTPUT)
        pairs = [*zip(_named(inside, taken), inputs, strict=False), *zip(outputs, _named(inside, given), strict=False)]
        self._makers |= {to: ("Identity", [value]) for to, value in pairs if to not in self._makers}
        for number, wire, first, last in self._data.fields(*function):
            if number == _FUNCTION_NODE and wire == _BYTES:
                self._unread.append((first, last, inside))


def _named(prefix: str, names: list[str]) -> list[str]:
    return [f"{prefix}{name}" if name else "" for name in names]
