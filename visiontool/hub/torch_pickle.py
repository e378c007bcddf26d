"""The pickles in torch's files, read by an interpreter of the operations that torch.save writes.

It knows the few names below and calls nothing. Python's `pickle.Unpickler` would not do, even with names restricted: it
takes memory for lengths and numbers of its memo before it looks at the bytes, and hashes keys however deep they are.

Source: Lib/pickletools.py of Python (operations), torch/_utils.py and torch/serialization.py (what they build).
"""

import mmap
import re
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from visiontool.text import on_one_line

MAX_OPERATIONS = 1_000_000  # some 45 for each tensor; a second for each 400,000
_MAX_BYTES = 2**24
_MAX_ARGUMENTS = 10
_MAX_NAME_BYTES = 200  # of a class or function
_MAX_NAME_CHARS = 100  # of a tensor, in an error

SAVE = 'where it was made: torch.save(model.state_dict(), "weights.pth")'
DAMAGED = "it is damaged or cut short.\nDownload or copy it again."

ITEM_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "bool": 1, "complex128": 16, "complex64": 8} | {
    f"{sign}int{8 * size}": size for sign in ("", "u") for size in (1, 2, 4, 8)
}
_UNTYPED = "bytes"  # of a storage that leaves the type to its tensors
ITEM_BYTES[_UNTYPED] = 1
_STORAGES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
    "torch.ComplexDoubleStorage": "complex128",
    "torch.ComplexFloatStorage": "complex64",
    "torch.UntypedStorage": _UNTYPED,
    "torch.storage.UntypedStorage": _UNTYPED,
}
_INERT = {"argparse.Namespace", "torch.device", "_codecs.encode"}  # nothing is read of what they would make
_KNOWN = {
    *(*_STORAGES, *_INERT, "collections.OrderedDict", "torch.Size", "builtins.set"),
    *("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3", "torch._utils._rebuild_parameter"),
}
_TYPE = re.compile(r"torch\.(bool|(q?u?int|b?float|complex|bits)\d\w{0,12})")

# Operations, by what follows them.
_VALUES = {b"N": None, b"\x88": True, b"\x89": False}
_NUMBERS = {b"K": "<B", b"M": "<H", b"J": "<i", b"G": ">d"}
_TEXTS = {b"X": "<I", b"\x8c": "<B", b"\x8d": "<Q", b"U": "<B", b"T": "<I"}  # how their length is written
_BYTES = {b"C": "<B", b"B": "<I", b"\x8e": "<Q"}
_EMPTY: dict[bytes, Callable[[], Any]] = {b"}": dict, b"]": list, b")": tuple, b"\x8f": list}  # the last a set
_TUPLES = {b"\x85": 1, b"\x86": 2, b"\x87": 3}
_PUT = {b"q": "<B", b"r": "<I"}
_GET = {b"h": "<B", b"j": "<I"}
_SKIPPED = {b"\x80": "<B", b"\x95": "<Q"}  # version, length of a frame


class UnreadableError(Exception):
    """Why a file cannot be read as weights, and what to do."""


class _Name(NamedTuple):
    """A class, function or type, by its name."""

    full: str


class _Typed(NamedTuple):
    dtype: str
    storage: Any


class Pickles:
    """Pickles one behind the other, from `position` on, up to `end`.

    Args:
        storage: called with the key, type and size in bytes of each storage.
        tensor: called with name, type, shape, strides, offset (both in numbers) and storage of each tensor.
    """

    def __init__(
        self, data: mmap.mmap, position: int, end: int, storage: Callable[..., Any], tensor: Callable[..., Any]
    ) -> None:
        self.position = self._start = position
        self._data, self._end, self._storage, self._tensor = data, min(end, position + _MAX_BYTES), storage, tensor
        self._operations_left = MAX_OPERATIONS

    def load(self) -> Any:
        """The next one. Damage raises UnreadableError, IndexError, KeyError, TypeError, ValueError or struct.error."""
        self._stack: list[Any] = []
        self._frames: list[list[Any]] = []  # what was on the stack before each mark
        memo: dict[int, Any] = {}
        while (operation := self._take(1)) != b".":
            self._operations_left -= 1
            if self._operations_left < 0:
                raise UnreadableError(f"it has too many parts, unlike any weights.\nSave them {SAVE}")
            if operation in _PUT:
                memo[self._number(_PUT[operation])] = self._stack[-1]
            elif operation == b"\x94":
                memo[len(memo)] = self._stack[-1]
            elif operation in _GET:
                self._stack.append(memo[self._number(_GET[operation])])
            else:
                self._run(operation)
        (value,) = self._stack
        if self._frames:
            raise ValueError("a mark is left")
        return value

    def _run(self, operation: bytes) -> None:
        """What each operation does with the stack, but those of the memo."""
        stack = self._stack
        if operation in _VALUES:
            stack.append(_VALUES[operation])
        elif operation in _NUMBERS:
            stack.append(self._number(_NUMBERS[operation]))
        elif operation == b"\x8a":
            stack.append(int.from_bytes(self._take(self._number("<B")), "little", signed=True))
        elif operation in _TEXTS:
            stack.append(self._take(self._number(_TEXTS[operation])).decode("utf-8", "surrogatepass"))
        elif operation in _BYTES:
            stack.append(self._take(self._number(_BYTES[operation])))
        elif operation in _EMPTY:
            stack.append(_EMPTY[operation]())
        elif operation in _TUPLES:
            count = _TUPLES[operation]
            stack[-count:] = [_exactly(count, stack[-count:])]
        elif operation == b"(":
            self._frames.append(stack)
            self._stack = []
        elif operation == b"t":
            items = self._since_mark()
            self._stack.append(tuple(items))
        elif operation in (b"e", b"\x90"):
            items = self._since_mark()
            _append(self._stack[-1], items)
        elif operation == b"a":
            item = stack.pop()
            _append(stack[-1], [item])
        elif operation == b"u":
            pairs = self._since_mark()
            _set(self._stack[-1], pairs)
        elif operation == b"s":
            value, key = stack.pop(), stack.pop()
            _set(stack[-1], [key, value])
        elif operation == b"c":
            module, name = self._line(), self._line()
            stack.append(self._named(module, name))
        elif operation == b"\x93":
            name, module = stack.pop(), stack.pop()
            if type(module) is not str or type(name) is not str:
                raise TypeError("no names")
            stack.append(self._named(module, name))
        elif operation in (b"R", b"\x81"):
            arguments, function = stack.pop(), stack.pop()
            stack.append(self._made(function, arguments))
        elif operation == b"b":  # of an OrderedDict its attributes, of a Namespace all that it has
            stack.pop()
            if type(stack[-1]) not in (dict, _Name):
                raise TypeError("no attributes")
        elif operation == b"Q":
            stack.append(self._stored(stack.pop()))
        elif operation in _SKIPPED:
            self._number(_SKIPPED[operation])
        else:
            raise ValueError("an operation that torch.save does not write")

    def _take(self, length: int) -> bytes:
        start, self.position = self.position, self.position + length
        if self.position > self._end:
            raise ValueError("cut short")
        return self._data[start : self.position]

    def _number(self, kind: str) -> Any:
        return struct.unpack(kind, self._take(struct.calcsize(kind)))[0]

    def _line(self) -> str:
        end = self._data.find(b"\n", self.position, self.position + _MAX_NAME_BYTES)
        if end < 0:
            raise ValueError("no end of a line")
        return self._take(end + 1 - self.position)[:-1].decode()

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._frames.pop()
        return items

    def _named(self, module: str, name: str) -> _Name:
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        if full in _KNOWN or _TYPE.fullmatch(full):
            return _Name(full)
        shown = on_one_line(full[:_MAX_NAME_BYTES])
        if full.startswith("torch._utils._rebuild_"):
            raise UnreadableError(f"{self._tensor_name()} is not a dense tensor ({shown}).\nSave it again as one.")
        if self._data.find(b"torch.nn.modules", self._start, self._end) >= 0:
            raise UnreadableError(
                f"it is a whole network ({shown}) with its code, not its weights alone.\nSave these {SAVE}"
            )
        raise UnreadableError(f"{shown} is in it, whose code would have to be run.\nSave the weights alone {SAVE}")

    def _made(self, function: _Name, arguments: tuple[Any, ...]) -> Any:
        name = _full(function)
        if type(arguments) is not tuple or len(arguments) > _MAX_ARGUMENTS:
            raise TypeError("no arguments")
        if name.startswith("torch._utils._rebuild_tensor_v"):
            typed, offset, shape, strides, *_ = arguments
            if type(typed) is not _Typed:
                raise TypeError("no storage")
            dtype, storage = typed
            if name.endswith("3"):
                dtype = _full(arguments[6]).removeprefix("torch.")
            return self._tensor(self._tensor_name(), dtype, shape, strides, offset, storage)
        if name == "torch._utils._rebuild_parameter":
            return arguments[0]
        if name == "torch.Size":
            return arguments[0]
        if name == "builtins.set":
            return []
        if name == "collections.OrderedDict":
            made: dict[Any, Any] = {}
            for pair in arguments[0] if arguments else ():  # as Python 2 wrote it
                self._operations_left -= 1
                _set(made, [*_exactly(2, pair)])
            return made
        if name in _INERT:
            return function
        raise ValueError("no function")

    def _stored(self, persistent: tuple[Any, ...]) -> _Typed:
        kind, name, key, _, count, *view = persistent[:_MAX_ARGUMENTS]
        if kind != "storage" or type(key) is not str or type(count) is not int or count < 0 or any(view):
            raise ValueError("no storage")
        dtype = _STORAGES[_full(name)]
        return _Typed(dtype, self._storage(key, dtype, count * ITEM_BYTES[dtype]))

    def _tensor_name(self) -> str:
        """The last text on the stack, which is the key of the mapping that the tensor is being put into."""
        last = [item for frame in (*self._frames[-3:], self._stack) for item in frame[-3:]]
        name = next((item for item in reversed(last) if type(item) is str), "a tensor")
        return on_one_line(name[:_MAX_NAME_CHARS])


def _full(name: Any) -> str:
    if type(name) is not _Name:
        raise TypeError("no class, function or type")
    return name.full


def _exactly(count: int, items: Any) -> tuple[Any, ...]:
    if type(items) not in (list, tuple) or len(items) != count:
        raise IndexError("too few items")
    return tuple(items)


def _append(items: Any, more: list[Any]) -> None:
    if type(items) is not list:
        raise TypeError("no list")
    items += more


def _set(mapping: Any, pairs: list[Any]) -> None:
    if type(mapping) is not dict or len(pairs) % 2:
        raise TypeError("no mapping, or a key without a value")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        # Nested tuples may take for ever to hash, and large integers can all have one hash.
        if type(key) not in (str, int, float, bool, bytes, type(None)) or (type(key) is int and abs(key) >= 2**60):
            raise TypeError("no plain key")
        mapping[key] = value
