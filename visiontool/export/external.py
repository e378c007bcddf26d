"""One model of a file and the files beside it in which its tensors lie (ONNX's external data).

What a model names is hostile: it may name any file of this machine, and so carry it off in what is written. So only
regular files in the model's own folder are read, after all links are resolved, and only as much as the tensors hold.

Source: onnx/onnx, docs/ExternalData.md.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from google.protobuf.message import Message  # type: ignore[import-untyped]
from onnx import TensorProto, helper

from visiontool import onnx_graph
from visiontool.errors import ModelError
from visiontool.find.folders import is_inside
from visiontool.json_fields import shown
from visiontool.onnx_scan import MAX_FILE_BYTES, scan_bytes

_PACKED = {  # numbers in a byte
    TensorProto.UINT4: 2,
    TensorProto.INT4: 2,
    TensorProto.FLOAT4E2M1: 2,
    TensorProto.UINT2: 4,
    TensorProto.INT2: 4,
}
_MAX_NUMBERS = 8 * MAX_FILE_BYTES
_MAX_DIGITS = 18


class _Piece(NamedTuple):
    """Where the numbers of a tensor lie."""

    tensor: TensorProto
    file: str  # a real path
    offset: int
    size: int  # in bytes


def merged(path: Path) -> bytes:
    """The .onnx file at `path` with the tensors in it that lie in other files of its folder: one file's bytes.

    Raises:
        ModelError: the scan refuses the file, or the result; a tensor lies outside of the folder, or not in full where
            the file says; or all together are too large for one file.
    """
    model, _ = onnx_graph.load(path, external=True)
    total = path.stat().st_size
    pieces = []
    for tensor in _tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            try:
                piece = _piece(tensor, path.parent)
            except _MisplacedError as error:
                raise ModelError(f"{path}: {error}") from None
            pieces.append(piece)
            total += piece.size
            if total > MAX_FILE_BYTES:
                raise ModelError(
                    f"{path}: with the tensor {shown(tensor.name)}, kept in {shown(piece.file)}, it has {total:,} "
                    f"bytes; one file has at most {MAX_FILE_BYTES:,}"
                )
    for piece in pieces:
        _take_in(piece, path)
    data: bytes = model.SerializeToString(deterministic=True)
    scan_bytes(data, path)
    return data


class _MisplacedError(Exception):
    """A tensor does not lie where it could be read."""


def _tensors(message: Message) -> Iterator[TensorProto]:
    """All tensors of a model, in whatever part of it: what the scan finds in bytes, this finds in messages."""
    if isinstance(message, TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in (value,) if isinstance(value, Message) else value:
                yield from _tensors(inner)


def _piece(tensor: TensorProto, folder: Path) -> _Piece:
    """Raises _MisplacedError where the tensor cannot be read."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    what = f"the tensor {shown(tensor.name)} is kept in {shown(location)}, "
    if tensor.data_location != TensorProto.EXTERNAL or len(entries) != len(tensor.external_data):
        raise _MisplacedError(f"{what}but says so in two ways that contradict each other")
    if not all(isinstance(value, str) for value in entries.values()):  # protobuf gives bytes for what is no UTF-8
        raise _MisplacedError(f"{what}in words that are not UTF-8")
    if not location or "\0" in location or os.path.isabs(location):
        raise _MisplacedError(f"{what}which is no file of the model's own folder")
    file = os.path.realpath(folder / location)
    if not is_inside(file, os.path.realpath(folder)):
        raise _MisplacedError(
            f"{what}which is {shown(file)}, outside of the model's own folder.\n"
            "If it belongs to the model, copy it there."
        )
    if not os.path.isfile(file):
        raise _MisplacedError(f"{what}which is not there")
    offset, size = _number(entries, "offset", what) or 0, _size_bytes(tensor, what)
    if _number(entries, "length", what) not in (None, size):
        raise _MisplacedError(f"{what}with a length of {entries['length']}; its type and shape have {size:,} bytes")
    there = os.path.getsize(file)
    if offset + size > there:
        raise _MisplacedError(f"{what}from byte {offset:,} to {offset + size:,} of a file that has {there:,}")
    return _Piece(tensor, file, offset, size)


def _number(entries: dict[str, str], key: str, what: str) -> int | None:
    text = entries.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise _MisplacedError(f"{what}with {shown(text)} as its {key}")
    return int(text)


def _size_bytes(tensor: TensorProto, what: str) -> int:
    numbers = 1
    for side in tensor.dims:
        numbers *= side
        if not 0 <= numbers <= _MAX_NUMBERS:
            raise _MisplacedError(f"{what}with a shape of {shown(list(tensor.dims))}, which is not possible")
    for type_, packed in _PACKED.items():
        if tensor.data_type == type_:
            return -(-numbers // packed)
    if tensor.data_type == TensorProto.STRING or tensor.data_type not in helper.get_all_tensor_dtypes():
        raise _MisplacedError(f"{what}but is of a type that cannot be kept so")
    return numbers * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _take_in(piece: _Piece, path: Path) -> None:
    """Reads the numbers into the tensor."""
    try:
        with open(piece.file, "rb") as file:
            file.seek(piece.offset)
            data = file.read(piece.size)
    except OSError as error:
        raise ModelError(
            f"{path}: the tensor {shown(piece.tensor.name)} is kept in {shown(piece.file)}, "
            f"which cannot be read: {error.strerror}"
        ) from None
    if len(data) != piece.size:
        raise ModelError(f"{path}: {shown(piece.file)} has become shorter while it was read")
    piece.tensor.raw_data = data
    piece.tensor.ClearField("external_data")
    piece.tensor.ClearField("data_location")
