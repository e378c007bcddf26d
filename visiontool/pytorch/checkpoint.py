"""What a file of weights holds: sets of weights, or in words what it is instead. Nothing in it is executed."""

import argparse
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from visiontool.errors import ConversionError
from visiontool.hub.resolve import WEIGHTS_SUFFIXES

# Where timm looks, in its order: averaged weights first.
_USUAL = ("state_dict_ema", "model_ema", "state_dict", "model")
_MOST_NESTED = 4
_TORCH_BEFORE_1_6 = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # before the pickle of torch.save, which was no zip
_TENSORFLOW_END = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"
_LONGEST_HEAD = 1 << 20
_SAVE = 'where it was made: torch.save(model.state_dict(), "weights.pth")'

# How files begin that are taken for weights: what they are, and what to do.
_KINDS = (
    (
        rb"version https://git-lfs",
        "it is a pointer of Git LFS, not the file itself",
        "Fetch that in its repository: git lfs pull",
    ),
    (
        rb"(\xef\xbb\xbf)?\s*<",
        "it is a web page (HTML or XML), not weights",
        "Open the address that it came from in a browser, and save the file itself.",
    ),
    (rb"\x89HDF\r\n\x1a\n", "it is HDF5, as Keras writes", "Give weights of torch."),
    (rb"\x1f\x8b|.{257}ustar", "it is an archive (gzip or tar)", "Unpack it first."),
    (rb"\x93NUMPY", "it is an array of NumPy", "Give weights of torch."),
    (rb"\x08.[\x12\x3a\x42]", "it is an ONNX model", "Call it something.onnx and give that as the model: -m FILE.onnx"),
)
# What is only in the ZIP archives of programs, what they are, and their weights in Python.
_PROGRAMS = (
    ("/constants.pkl", "it is a TorchScript archive, code with weights", 'torch.jit.load("{}").state_dict()'),
    ("/archive_format", "it is a program of torch.export", 'torch.export.load("{}").state_dict'),
)


class Weights(NamedTuple):
    """Tensors that may be a network's."""

    place: str  # of them in the file, "" for all of it
    rank: int  # less is better: timm's choice comes first
    tensors: Mapping[str, torch.Tensor]


def read(file: Path) -> Mapping[str, Any]:
    """What torch.save or safetensors wrote, by content, not by name.

    Raises:
        ConversionError: the file is not there, is something else, is cut short, or holds more than data.
    """
    if file.suffix.lower() not in WEIGHTS_SUFFIXES:
        raise ConversionError(f"{file}: expected weights in a file that ends in {', '.join(WEIGHTS_SUFFIXES)}")
    try:
        with file.open("rb") as opened:
            head = opened.read(_LONGEST_HEAD)
    except FileNotFoundError:
        raise ConversionError(f"{file}: there is no such file") from None
    except OSError as error:
        raise ConversionError(f"{file}: cannot be read: {error.strerror}") from None
    try:
        fault = _fault(file, head)
        if fault is None:
            found = load_file(file) if _is_safetensors(head) else _load(file)
    except Exception as error:  # each format's reader raises others, down to plain Exception
        raise ConversionError(f"{file}: cannot be read as weights: {_why(file, head, error)}") from error
    if fault is not None:
        raise ConversionError(f"{file}: cannot be read as weights: {fault}")
    if not isinstance(found, Mapping):
        raise ConversionError(f"{file}: holds a {type(found).__name__}, no weights with names.\nSave them {_SAVE}")
    return found


def candidates(found: Mapping[str, Any], least: int) -> list[Weights]:
    """The sets of at least `least` tensors in `found`, however they are nested, with and without common prefixes.

    Where there are none, what timm would take: all that is under "state_dict" or "model", else all.
    """
    sets = []
    for path, tensors in _nested(found):
        rank = _USUAL.index(path[0]) if path and path[0] in _USUAL else len(_USUAL)
        prefixes = Counter(key[: dot + 1] for key in tensors for dot, sign in enumerate(key) if sign == ".")
        for prefix in ["", *(prefix for prefix, count in prefixes.items() if count >= least)]:
            chosen = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            if len(chosen) >= least:
                sets.append(Weights(".".join(filter(None, (*path, prefix.rstrip(".")))), rank, chosen))
    if sets:
        return sets
    usual = next((found[key] for key in _USUAL if isinstance(found.get(key), Mapping)), found)
    return [Weights("", 0, next(_nested(usual))[1])]


def _nested(value: Mapping[Any, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """The tensors of each mapping in `value`, itself included. An optimizer's are numbered, and so left out."""
    named = {key: item for key, item in value.items() if isinstance(key, str)}
    yield path, {key: item for key, item in named.items() if isinstance(item, torch.Tensor)}
    for key, item in named.items():
        if isinstance(item, Mapping) and len(path) < _MOST_NESTED:
            yield from _nested(item, (*path, key))


def _load(file: Path) -> Any:
    # timm's own checkpoints have a Namespace in them. Opened here, because torch would go by the file's name.
    with torch.serialization.safe_globals([argparse.Namespace]), file.open("rb") as opened:
        return torch.load(opened, map_location="cpu", weights_only=True)


def _is_safetensors(head: bytes) -> bool:
    return head[4:9] == b"\0\0\0\0{"  # a length in 8 bytes, then JSON


def _fault(file: Path, head: bytes) -> str | None:
    """What the file is if it cannot be weights, and what to do; None where it may be."""
    if not head:
        return "it is empty.\nDownload or copy it again."
    if _is_safetensors(head):
        return _cut_safetensors(file)
    for begins, kind, remedy in _KINDS:
        if re.match(begins, head, re.DOTALL):
            return f"{kind}.\n{remedy}"
    if head.startswith(b"PK\x03\x04"):
        return _other_zip(file)
    if re.fullmatch(rb"[^\0-\x08\x0e-\x1f\x7f]+", head[:200]):
        text = head[:40].decode(errors="replace")
        return f"it is text, which begins with {text!r}.\nExpected what torch.save or safetensors writes."
    with file.open("rb") as opened:
        opened.seek(-min(len(head), len(_TENSORFLOW_END)), 2)
        if opened.read() == _TENSORFLOW_END:
            return "it is a checkpoint of TensorFlow.\nGive weights of torch."
    return None


def _cut_safetensors(file: Path) -> str | None:
    size = file.stat().st_size
    with file.open("rb") as opened:
        needed = 8 + int.from_bytes(opened.read(8), "little")
        if needed <= size:
            header = json.loads(opened.read(needed - 8))
            needed += max((item["data_offsets"][1] for key, item in header.items() if key != "__metadata__"), default=0)
    return (
        f"it is cut short: {size:,} of at least {needed:,} bytes.\nDownload or copy it again."
        if size < needed
        else None
    )


def _other_zip(file: Path) -> str | None:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return "it is cut short or damaged: the end of the ZIP archive that torch.save writes is missing.\n" + (
            "Download or copy it again."
        )
    for ending, kind, weights in _PROGRAMS:
        if any(name.endswith(ending) for name in names):
            return f'{kind}.\nTake the weights out: torch.save({weights.format(file.name)}, "weights.pth")'
    if any(name.endswith("/data.pkl") for name in names):
        return None
    if "model.weights.h5" in names:
        return "it is a model of Keras.\nGive weights of torch."
    return f"it is a ZIP archive of other files ({', '.join(names[:3])[:100]}).\nUnpack it, if weights are in it."


def _why(file: Path, head: bytes, error: Exception) -> str:
    """What a file is that looked like weights and could not be read, and what to do."""
    is_zip = head.startswith(b"PK\x03\x04")
    blocked = re.search(r"GLOBAL (\S+) was not an allowed", str(error.__cause__ or error) + str(error))
    if blocked is not None:
        if is_zip:
            with zipfile.ZipFile(file) as archive:
                head = archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))
        if b"torch.nn.modules" in head:
            return f"it is a whole network ({blocked[1]}) with its code, not its weights alone.\nSave these {_SAVE}"
        return f"{blocked[1]} is in it, whose code would have to be run.\nSave the weights alone {_SAVE}"
    if head.startswith(b"\x80") and not is_zip and not head.startswith(_TORCH_BEFORE_1_6):
        return f"it is a pickle that torch.save did not write.\nSave the weights {_SAVE}"
    if head.startswith(_TORCH_BEFORE_1_6):
        return "it is damaged or cut short.\nDownload or copy it again."
    return f"{type(error).__name__}.\nExpected what safetensors or torch.save writes of a model's state_dict()."
