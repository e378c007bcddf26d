"""One model of a file and the files beside it in which its tensors lie (ONNX's external data).

onnx reads nothing but regular files in the model's own folder. What it does not know is how much a tensor needs: one
that gives no length would bring the whole rest of a file.
"""

from collections.abc import Iterator
from math import prod
from pathlib import Path

from google.protobuf.message import Message  # type: ignore[import-untyped]
from onnx import TensorProto, external_data_helper, helper

from visiontool.errors import ModelError, first_line
from visiontool.graph import edit
from visiontool.model.scan import MAX_FILE_BYTES, scan_bytes
from visiontool.text import short_repr

_PACKED = {  # numbers in a byte
    TensorProto.UINT4: 2,
    TensorProto.INT4: 2,
    TensorProto.FLOAT4E2M1: 2,
    TensorProto.UINT2: 4,
    TensorProto.INT2: 4,
}


def merged(path: Path) -> bytes:
    """The .onnx file at `path` with the tensors in it that lie in other files of its folder: one file's bytes.

    Raises:
        ModelError: the scan refuses the file, or the result; a tensor lies outside of the folder, or not in full where
            the file says; or all together are too large for one file.
    """
    model, _ = edit.load(path, external=True)
    total = path.stat().st_size
    for tensor in _tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL and not tensor.external_data:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        what = f"{path}: the tensor {short_repr(tensor.name)}, kept in {short_repr(entries.get('location'))},"
        size = _size_bytes(tensor)
        if size is None or tensor.data_location != TensorProto.EXTERNAL:
            raise ModelError(f"{what} is of a type or shape that cannot be kept so, or says that it is in the file too")
        if entries.get("length", str(size)) != str(size):
            raise ModelError(
                f"{what} has a length of {short_repr(entries['length'])}; its type and shape have {size:,} bytes"
            )
        total += size
        if total > MAX_FILE_BYTES:
            raise ModelError(f"{what} makes {total:,} bytes; one file has at most {MAX_FILE_BYTES:,}")
        tensor.external_data.add(key="length", value=str(size))
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
        except Exception as error:  # what onnx raises shares no root but Exception
            raise ModelError(
                f"{what} cannot be read: {first_line(error)}\n"
                "Only files in the model's own folder are read, and no links."
            ) from None
        tensor.ClearField("external_data")  # onnx 1.21 leaves both
        tensor.ClearField("data_location")
    data: bytes = model.SerializeToString(deterministic=True)
    scan_bytes(data, path)
    return data


def _tensors(message: Message) -> Iterator[TensorProto]:
    """All tensors of a model, in whatever part of it: what the scan finds in bytes, this finds in messages."""
    if isinstance(message, TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in (value,) if isinstance(value, Message) else value:
                yield from _tensors(inner)


def _size_bytes(tensor: TensorProto) -> int | None:
    """The bytes of its numbers; None where its type and shape do not tell."""
    sides, type_ = [*tensor.dims], tensor.data_type
    if min(sides, default=0) < 0 or type_ == TensorProto.STRING or type_ not in helper.get_all_tensor_dtypes():
        return None
    packed = next((count for packed, count in _PACKED.items() if packed == type_), None)
    item = helper.tensor_dtype_to_np_dtype(type_).itemsize
    return int(-(-prod(sides) // packed) if packed else prod(sides) * item)
