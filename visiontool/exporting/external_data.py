"""One model of a file and the files beside it in which its tensors lie (ONNX's external data).

onnx itself reads nothing but regular files in the model's own folder, but of a tensor that gives no length the whole
rest of a file.
"""

from math import prod
from pathlib import Path

from onnx import TensorProto, external_data_helper, helper

from visiontool.errors import ModelError, first_line
from visiontool.graph import edit
from visiontool.model.scan import MAX_FILE_BYTES, scan_bytes
from visiontool.text import short_repr

_BITS: dict[int, int] = {  # of the types that share bytes
    **dict.fromkeys((TensorProto.UINT4, TensorProto.INT4, TensorProto.FLOAT4E2M1), 4),
    **dict.fromkeys((TensorProto.UINT2, TensorProto.INT2), 2),
}


def merged(path: Path) -> bytes:
    """The .onnx file at `path` with the tensors in it that lie in other files of its folder: one file's bytes.

    Raises:
        ModelError: the scan refuses the file, or the result; a tensor lies outside of the folder, or not in full where
            the file says; or all together are too large for one file.
    """
    model, _ = edit.load(path, external=True)
    total = path.stat().st_size
    for tensor in [part for part in edit.parts(model) if isinstance(part, TensorProto)]:
        if tensor.data_location != TensorProto.EXTERNAL and not tensor.external_data:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        what = f"{path}: the tensor {short_repr(tensor.name)}, kept in {short_repr(entries.get('location'))},"
        if tensor.data_type not in helper.get_all_tensor_dtypes() or min(tensor.dims, default=0) < 0:
            raise ModelError(f"{what} is of a type or shape that cannot be kept so")
        bits = _BITS.get(tensor.data_type, 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
        size = -(-prod(tensor.dims) * bits // 8)
        if entries.get("length", str(size)) != str(size):
            length = short_repr(entries["length"])
            raise ModelError(f"{what} has a length of {length}; its type and shape have {size:,} bytes")
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
