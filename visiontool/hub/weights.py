"""Weights in files of safetensors and torch.save, read without torch. Names, types and shapes first, numbers on demand.

Sources: torch/serialization.py (both kinds of torch's files), the README of safetensors.
"""

import json
import math
import mmap
import re
import struct
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from visiontool.errors import ModelError
from visiontool.hub.resolve import WEIGHTS_SUFFIXES
from visiontool.hub.torch_pickle import DAMAGED, ITEM_BYTES, MAX_OPERATIONS, SAVE, Pickles, UnreadableError
from visiontool.text import on_one_line

if TYPE_CHECKING:
    import numpy as np

_SAFETENSORS = b"\0\0\0\0{"  # from byte 4: the end of a length in 8 bytes, then JSON
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_MAGIC = b"l\xfc\x9cF\xf9 j\xa8P\x19"  # the number in the first pickle of what torch.save wrote before 1.6
_MAX_HEADER_BYTES = 2**22  # of safetensors; 10,000 tensors take 1 MB
_MAX_DIMENSIONS = 32
_MAX_HEIGHT = 50
# Tensors share what is stored, and repeat it by strides of 0. All of them together may be so much larger than the file.
_MAX_TIMES, _MAX_MORE_BYTES = 8, 2**26

_NUMPY = {"float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "bool": "?"} | {
    f"{sign}int{8 * size}": f"<{sign or 'i'}{size}" for sign in ("", "u") for size in (1, 2, 4, 8)
}
_SAFETENSORS_TYPES = {"BOOL": "bool", "BF16": "bfloat16"} | {
    f"{sign}{bits}": f"{kind}{bits}"
    for sign, kind in (("F", "float"), ("I", "int"), ("U", "uint"))
    for bits in (8, 16, 32, 64)
}
# How files begin that are no weights, what they are, and what to do.
_FOREIGN_STARTS = (
    (rb"version https://git-lfs", "it is a pointer of Git LFS, not the file itself", "Fetch that: git lfs pull"),
    (rb"(\xef\xbb\xbf)?\s*<", "it is a web page (HTML or XML), not weights", "Save the file itself, in a browser."),
    (rb"\x89HDF\r\n\x1a\n", "it is HDF5, as Keras writes", "Give weights of torch."),
    (rb"\x1f\x8b|.{257}ustar", "it is an archive (gzip or tar)", "Unpack it first."),
    (rb"\x08.[\x12\x3a\x42]", "it is an ONNX model", "Call it something.onnx and give that as the model: -m FILE.onnx"),
)
# What is only in the ZIP archives of programs, what they are, and their weights in Python.
_PROGRAMS = (
    ("/constants.pkl", "it is a TorchScript archive, code with weights", 'torch.jit.load("{}").state_dict()'),
    ("/archive_format", "it is a program of torch.export", 'torch.export.load("{}").state_dict'),
)


class _Storage:
    """Numbers in the file, of one tensor or several."""

    def __init__(self, file: mmap.mmap, size: int, start: int = 0) -> None:
        self.file, self.size, self.start = file, size, start  # in bytes


class Tensor:
    """A tensor in a file: `dtype` as torch calls it ("float32", "bfloat16"), and `shape`."""

    __slots__ = ("_offset", "_storage", "_strides", "dtype", "shape")

    def __init__(
        self, dtype: str, shape: tuple[int, ...], strides: tuple[int, ...], offset: int, storage: _Storage
    ) -> None:
        self.dtype, self.shape = dtype, shape
        self._strides, self._offset, self._storage = strides, offset, storage  # in numbers, as torch counts

    def array(self) -> "np.ndarray[Any, Any]":
        """Its numbers: the mapped file itself where they are aligned in it, else a copy; bfloat16 as float32.

        Writing to them changes this process's memory, never the file.
        """
        import numpy as np

        kind, storage = np.dtype(_NUMPY[self.dtype]), self._storage
        if 0 in self.shape:
            array = np.empty(self.shape, kind)
        else:
            start = storage.start + self._offset * kind.itemsize
            strides = [stride * kind.itemsize for stride in self._strides]
            array = np.require(np.ndarray(self.shape, kind, storage.file, start, strides), requirements="A")
        if self.dtype != "bfloat16":
            return array
        wide = array.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)


def read_weights(path: Path) -> Mapping[str, Any]:
    """What torch.save or safetensors wrote, by content, not by name: nested mappings with `Tensor`s in them.

    The file must not change while its tensors are in use. No mapping, list or tuple is inside itself, and all of them
    together have at most 1,000,000 items, however they are counted.

    Raises:
        ModelError: the file cannot be read, is something else, damaged, or has what only code could make.
    """
    if path.suffix.lower() not in WEIGHTS_SUFFIXES:
        raise ModelError(f"{path}: expected weights in a file that ends in {', '.join(WEIGHTS_SUFFIXES)}")
    try:
        with path.open("rb") as opened:
            is_empty = not opened.read(1)  # which mmap refuses
            # Copied on write: arrays of it can be changed, as torch expects, and the file cannot.
            data = None if is_empty else mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        if data is None:
            raise UnreadableError("it is empty.\nDownload or copy it again.")
        content = _content(data, path.name)
        _count(content)
    except UnreadableError as error:
        raise ModelError(f"{path}: cannot be read as weights: {error}") from None
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, RecursionError, struct.error):
        raise ModelError(f"{path}: cannot be read as weights: {DAMAGED}") from None
    if not isinstance(content, Mapping):
        raise ModelError(f"{path}: holds a {type(content).__name__}, no weights with names.\nSave them {SAVE}")
    return content


def _content(data: mmap.mmap, name: str) -> Any:
    head = data[:300]
    if head[4:9] == _SAFETENSORS:
        return _read_safetensors(data)
    for start, kind, remedy in _FOREIGN_STARTS:
        if re.match(start, head, re.DOTALL):
            raise UnreadableError(f"{kind}.\n{remedy}")
    if head.startswith(_ZIP):
        return _read_zip(data, name)
    if head.startswith(_PICKLE):
        return _read_stream(data)
    if re.fullmatch(rb"[^\0-\x08\x0e-\x1f\x7f]+", head[:200]):
        text = head[:40].decode(errors="replace")
        raise UnreadableError(
            f"it is text, which begins with {text!r}.\nExpected what torch.save or safetensors writes."
        )
    raise UnreadableError(
        "it is of no kind that is known.\nExpected what safetensors or torch.save writes of a model's state_dict()."
    )


def _count(value: Any, seen: dict[int, int] | None = None, height: int = 0) -> int:
    """How many items are in `value`, counted wherever they are; raises where it is too deep, or inside itself."""
    seen = {} if seen is None else seen
    if type(value) not in (dict, list, tuple):
        return 1
    if id(value) not in seen:
        if height > _MAX_HEIGHT:
            raise UnreadableError(f"it is nested more than {_MAX_HEIGHT} deep, unlike any weights.\nSave them {SAVE}")
        items = value.values() if type(value) is dict else value
        seen[id(value)] = 1 + sum(_count(item, seen, height + 1) for item in items)
        if seen[id(value)] > MAX_OPERATIONS:
            raise UnreadableError(f"it has the same parts too often, unlike any weights.\nSave them {SAVE}")
    return seen[id(value)]


class _Tensors:
    """Makes the tensors of a file, each once it is sure that all its numbers are stored."""

    def __init__(self, data: mmap.mmap) -> None:
        self._bytes_left = _MAX_TIMES * len(data) + _MAX_MORE_BYTES

    def make(
        self, name: str, dtype: str, shape: tuple[int, ...], strides: tuple[int, ...], offset: int, storage: _Storage
    ) -> Tensor:
        if dtype not in _NUMPY:
            kind = on_one_line(dtype[:20])
            raise UnreadableError(f"{name} is a tensor of {kind}.\nSave it again as a dense tensor of float numbers.")
        if not len(shape) == len(strides) <= _MAX_DIMENSIONS:
            raise UnreadableError(DAMAGED)
        shape = tuple(shape)
        if any(type(number) is not int or number < 0 for number in (*shape, *strides, offset)):
            raise UnreadableError(DAMAGED)
        item_bytes, count = ITEM_BYTES[dtype], math.prod(shape)
        last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
        self._bytes_left -= count * item_bytes
        # numpy multiplies the sides that are not 0, also where the tensor is empty.
        is_too_large = max(math.prod(filter(None, shape)), *strides, 0) >= 2**59 or self._bytes_left < 0
        if is_too_large or (count and last >= storage.size // item_bytes):
            raise UnreadableError(f"{name} has more numbers than are stored.\nDownload or copy it again.")
        return Tensor(dtype, shape, strides, offset, storage)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(values := dict(pairs)) != len(pairs):
        raise ValueError("a name occurs twice")
    return values


def _read_safetensors(data: mmap.mmap) -> dict[str, Tensor]:
    length = struct.unpack_from("<Q", data)[0]
    begin = 8 + length
    if length > min(_MAX_HEADER_BYTES, len(data) - 8):
        raise UnreadableError(DAMAGED)
    header = json.loads(data[8:begin].decode(), object_pairs_hook=_unique)
    header.pop("__metadata__", None)
    tensors, end, make = {}, 0, _Tensors(data).make
    for name, facts in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = facts["data_offsets"]
        dtype, shape = _SAFETENSORS_TYPES.get(facts["dtype"], facts["dtype"]), tuple(facts["shape"])
        # No gaps, no overlaps.
        if type(start) is not int or type(stop) is not int or start != end or len(shape) > _MAX_DIMENSIONS:
            raise UnreadableError(DAMAGED)
        strides = tuple(math.prod(shape[place + 1 :]) for place in range(len(shape)))
        tensor = make(on_one_line(name[:100]), dtype, shape, strides, 0, _Storage(data, stop - start, begin + start))
        if math.prod(shape) * ITEM_BYTES[dtype] != stop - start:
            raise UnreadableError(DAMAGED)
        tensors[name], end = tensor, stop
    if begin + end != len(data):
        raise UnreadableError(DAMAGED)
    return {name: tensors[name] for name in header}


def _read_zip(data: mmap.mmap, file_name: str) -> Any:
    """What torch.save writes since 1.6: data.pkl, and each storage in a file of its own beside it."""
    try:
        listed = ZipFile(cast(Any, data)).infolist()
    except (BadZipFile, NotImplementedError, EOFError):
        raise UnreadableError(DAMAGED) from None
    entries = {entry.filename: entry for entry in listed}
    if len(entries) < len(listed):
        raise UnreadableError(DAMAGED)
    for ending, kind, weights in _PROGRAMS:
        if any(name.endswith(ending) for name in entries):
            remedy = f'Take the weights out: torch.save({weights.format(file_name)}, "weights.pth")'
            raise UnreadableError(f"{kind}.\n{remedy}")
    pickles = [name for name in entries if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        names = on_one_line(", ".join(islice(entries, 3))[:100])
        raise UnreadableError(f"it is a ZIP archive of other files ({names}).\nUnpack it, if weights are in it.")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in entries:
        start, end = _zip_place(data, entries[f"{folder}byteorder"])
        _refuse_big_endian(data[start : min(end, start + 6)] == b"little")

    def storage(key: str, dtype: str, size: int) -> _Storage:
        start, end = _zip_place(data, entries[f"{folder}data/{key}"])
        if end - start != size:
            raise UnreadableError(DAMAGED)
        return _Storage(data, size, start)

    return Pickles(data, *_zip_place(data, entries[pickles[0]]), storage, _Tensors(data).make).load()


def _zip_place(data: mmap.mmap, entry: ZipInfo) -> tuple[int, int]:
    """Where the content of an entry begins and ends, whose numbers nothing has to unpack."""
    if entry.compress_type != ZIP_STORED or entry.flag_bits & 1 or entry.compress_size != entry.file_size:
        raise UnreadableError(f"it is compressed or encrypted, which torch.save does not do.\nSave the weights {SAVE}")
    mark, name_bytes, extra_bytes = struct.unpack_from("<4s22xHH", data, entry.header_offset)
    start = entry.header_offset + 30 + name_bytes + extra_bytes
    if mark != _ZIP or start + entry.file_size > len(data):
        raise UnreadableError(DAMAGED)
    return start, start + entry.file_size


def _read_stream(data: mmap.mmap) -> Any:
    """What torch.save wrote before 1.6: pickles, then each storage with its length in numbers."""
    if _MAGIC not in data[:32]:
        raise UnreadableError(f"it is a pickle that torch.save did not write.\nSave the weights {SAVE}")
    storages: dict[str, tuple[_Storage, int]] = {}  # with the size of a number in bytes

    def storage(key: str, dtype: str, size: int) -> _Storage:
        found, _ = storages.setdefault(key, (_Storage(data, size), ITEM_BYTES[dtype]))
        if found.size != size:
            raise UnreadableError(DAMAGED)
        return found

    pickles = Pickles(data, 0, len(data), storage, _Tensors(data).make)
    _, _, system, content, keys = (pickles.load() for _ in range(5))
    _refuse_big_endian(system["little_endian"])
    position = pickles.position
    if type(keys) is not list or len(keys) != len(storages):
        raise UnreadableError(DAMAGED)
    for key in keys:
        found, item_bytes = storages.pop(key)
        (count,) = struct.unpack_from("<q", data, position)
        found.start, position = position + 8, position + 8 + found.size
        if count * item_bytes != found.size or position > len(data):
            raise UnreadableError(DAMAGED)
    return content


def _refuse_big_endian(is_little: bool) -> None:
    if not is_little:
        raise UnreadableError(f"its numbers are big-endian.\nSave the weights on another machine: {SAVE}")
