"""The scan of a model file: nothing that onnxruntime would fetch from elsewhere gets past it, and nothing breaks it."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import COLOR_SPEC, color_graph, save_model
from google.protobuf.descriptor import Descriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from visiontool.errors import ModelError
from visiontool.model import scan as scan_module
from visiontool.model.scan import Scan, scan


def refusal(path: Path) -> str:
    """The error of the scan for the file at `path`; "" where it passes."""
    try:
        scan(path)
    except ModelError as error:
        message = str(error)
        assert message.startswith(f"{path}: ")
        return message
    return ""


def tensor(**signs: object) -> TensorProto:
    return TensorProto(name="far", dims=[3], data_type=TensorProto.FLOAT, **signs)


ENTRY = onnx.StringStringEntryProto(key="location", value="other.bin")
FAR = tensor(data_location=TensorProto.EXTERNAL, external_data=[ENTRY])
SIGNS = (FAR, tensor(data_location=TensorProto.EXTERNAL), tensor(external_data=[ENTRY]))


@pytest.mark.parametrize("where", ["initializer", "sparse", "loop in if", "function"])
@pytest.mark.parametrize("far", SIGNS, ids=["both", "location", "entries"])
def test_external_data_is_refused_wherever_it_hides(where, far, tmp_path):
    constant = helper.make_node("Constant", [], ["c"], value=far)
    loop = onnx.GraphProto(node=[helper.make_node("Loop", ["n"], ["y"], body=onnx.GraphProto(node=[constant]))])
    model = color_graph()
    if where == "initializer":
        model.graph.initializer.append(far)
    elif where == "sparse":
        model.graph.sparse_initializer.add(indices=far)
    elif where == "loop in if":
        model.graph.node.append(helper.make_node("If", [], [], then_branch=loop))
    else:
        model.functions.append(onnx.FunctionProto(node=[constant]))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    message = refusal(path)
    assert "the tensor 'far' is kept in another file (external data)" in message
    assert f"visiontool export {path} --onnx -o single.onnx" in message
    assert scan(path, external=True).external == "far"


def test_the_scan_reads_every_message_that_can_hold_a_tensor():
    """The table of the scan against the definition of ONNX, so that a new version of it shows itself here."""

    def holds_tensors(message: Descriptor, outer: frozenset[str] = frozenset()) -> bool:
        inner = [field.message_type for field in message.fields if field.message_type is not None]
        return message.name == "TensorProto" or (
            message.name not in outer and any(holds_tensors(each, outer | {message.name}) for each in inner)
        )

    def short(message: Descriptor) -> str:
        return message.name.removesuffix("Proto").removesuffix("Info")

    table: dict[str, dict[int, str]] = {"Tensor": {}}
    waiting = [onnx.ModelProto.DESCRIPTOR]
    while waiting:
        message = waiting.pop()
        if short(message) not in table:
            inner = [field for field in message.fields if field.message_type and holds_tensors(field.message_type)]
            table[short(message)] = {field.number: short(field.message_type) for field in inner}
            waiting += [field.message_type for field in inner]
    assert table == {"Tensor": {}, **scan_module._INSIDE}


# Encodings by hand: what a library would not write, but onnxruntime may read.


def varint(value: int, length: int = 0) -> bytes:
    """A protobuf number, drawn out to `length` bytes."""
    out = bytearray()
    while value > 0x7F or len(out) + 1 < length:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes, extra_bits: int = 0) -> bytes:
    return varint(number << 3 | 2 | extra_bits) + varint(len(content)) + content


BIT_32 = 1 << 32  # protobuf keeps 32 bits of a key, so it sees the field as if the bit were not there
WEIGHT = varint(1 << 3) + varint(1) + varint(2 << 3) + varint(TensorProto.FLOAT) + field(8, b"white")
INLINE = WEIGHT + field(9, np.float32(255).tobytes())
ENTRIES, LOCATION = field(13, ENTRY.SerializeToString()), varint(14 << 3) + varint(1)
NODE = helper.make_node("Div", ["image", "white"], ["logits"]).SerializeToString()
INPUT, OUTPUT = (
    helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]).SerializeToString() for name in ("image", "logits")
)
HEADER = varint(1 << 3) + varint(10) + field(8, helper.make_opsetid("", 20).SerializeToString())
PORTS = field(11, INPUT) + field(12, OUTPUT)


def file_of(tensor: bytes, end: bytes = b"") -> bytes:
    return HEADER + field(7, field(1, NODE) + field(5, tensor) + PORTS) + end


TRICKS = {
    "plain": file_of(WEIGHT + ENTRIES + LOCATION),
    "key of more than 32 bits": HEADER
    + field(7, field(1, NODE) + field(5, WEIGHT + ENTRIES + LOCATION, BIT_32) + PORTS),
    "keys drawn out": file_of(WEIGHT + varint(13 << 3 | 2, 5) + ENTRIES[1:] + varint(14 << 3, 5) + varint(1, 10)),
    "location of more than 32 bits": file_of(WEIGHT + ENTRIES + varint(14 << 3) + varint(1 | BIT_32)),
    "graph in two parts": HEADER + field(7, field(1, NODE)) + field(7, field(5, WEIGHT + ENTRIES + LOCATION) + PORTS),
    "external after inline": file_of(INLINE + ENTRIES + LOCATION),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_no_encoding_that_onnxruntime_follows_to_another_file_gets_past(trick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.onnx"
    path.write_bytes(TRICKS[trick])
    (tmp_path / "other.bin").write_bytes(np.float32(51).tobytes())
    assert refusal(path)
    # This is no idle refusal: onnxruntime does open it, and takes the number from the other file.
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (quotient,) = session.run(None, {"image": np.full((1, 3), 51, np.float32)})
    assert quotient.tolist() == [[1, 1, 1]]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the file is empty"),
        (file_of(INLINE, varint(100 << 3 | 3)), "not an ONNX file, or a damaged one (wire type 3)"),
        (file_of(INLINE, b"\0\0"), "(field number 0)"),
        (file_of(INLINE, varint(2**29 << 3) + b"\0"), f"(field number {2**29})"),
        (file_of(INLINE, varint(99 << 3) + b"\x80" * 10 + b"\1"), "(a number runs over its end)"),
        (file_of(INLINE, varint(99 << 3 | 2) + varint(2**40)), "(a field runs over its end)"),
        (file_of(INLINE, field(7, b"")), "(it has two graphs)"),
        (HEADER, "(it has no graph)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 99\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "a web page, not a model file"),
        (b"\x20\0\0\0ORTM" + b"\0" * 100, "give the .onnx file"),
        (b"\x08\x01" * 1_001 + file_of(INLINE), "more than 1,000 fields"),
    ],
)
def test_bytes_that_are_no_onnx_file_are_refused(data, words, tmp_path, monkeypatch):
    monkeypatch.setattr(scan_module, "MAX_FIELDS", 1_000)
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    assert words in refusal(path)


def test_a_file_that_cannot_be_read_or_is_too_large_is_refused(tmp_path):
    assert "cannot be read: Is a directory" in refusal(tmp_path)
    assert "cannot be read: No such file or directory" in refusal(tmp_path / "no.onnx")
    with open(tmp_path / "large.onnx", "wb") as file:
        file.truncate(2**31)
    assert "2,147,483,648 bytes; a model file has at most" in refusal(tmp_path / "large.onnx")


# A Split that miscounts its outputs: onnxruntime would make room for too many, and end the process on too few.

MANY = 2**31 - 1


def split(count: int, outputs: int = 1) -> onnx.NodeProto:
    return helper.make_node("Split", ["image"], [f"part{i}" for i in range(outputs)], axis=1, num_outputs=count)


@pytest.mark.parametrize("where", ["graph", "function"])
@pytest.mark.parametrize(
    ("node", "words"),
    [
        (split(MANY), "(a Split into 2,147,483,647 values that gives 1)"),
        (
            onnx.NodeProto(op_type="Split", attribute=[onnx.AttributeProto(name="num_outputs", ref_attr_name="n")]),
            "(a Split whose number of outputs is not its own)",
        ),
        (split(3, outputs=3), ""),
        (helper.make_node("Split", ["image"], ["part"], axis=MANY), ""),
        (helper.make_node("Other", ["image"], ["other"], num_outputs=MANY), ""),
    ],
)
def test_a_split_that_miscounts_its_outputs_is_refused(node, words, where, tmp_path):
    model = color_graph()
    if where == "function":
        model.functions.append(onnx.FunctionProto(name="f", node=[node]))
    else:
        model.graph.node.append(node)
    message = refusal(save_model(model, tmp_path / "model.onnx"))
    assert message.endswith(words) if words else not message


def test_the_metadata_is_that_which_onnxruntime_reads(tmp_path):
    metadata = {**COLOR_SPEC.to_metadata(), "": "no key", "empty": "", "für": "日本\n\x1b😀"}
    path = save_model(color_graph(), tmp_path / "model.onnx", metadata)
    path.write_bytes(
        path.read_bytes() + field(14, field(1, b"a") + field(1, b"twice") + field(2, b"old") + field(2, b"new"))
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert scan(path).metadata == session.get_modelmeta().custom_metadata_map == {**metadata, "twice": "new"}
    path.write_bytes(file_of(INLINE, field(14, field(1, b"k\xff") + field(2, b"\xfe"))))
    assert scan(path) == Scan({"k\N{REPLACEMENT CHARACTER}": "\N{REPLACEMENT CHARACTER}"}, {"logits": "Div"})


def chain(*operators: str) -> onnx.ModelProto:
    """A graph whose operators follow each other up to its output."""
    nodes = [helper.make_node(operator, [f"t{i}", "extra"], [f"t{i + 1}"]) for i, operator in enumerate(operators)]
    output = helper.make_tensor_value_info(f"t{len(operators)}", TensorProto.FLOAT, None)
    return helper.make_model(helper.make_graph(nodes, "chain", [], [output]))


@pytest.mark.parametrize(
    ("operators", "final"),
    [
        ("Gemm Softmax Reshape Identity Cast Flatten Squeeze Dropout", "Softmax"),
        ("Softmax Clip Slice Transpose QuantizeLinear DequantizeLinear", "Softmax"),
        ("QLinearSoftmax DequantizeLinear", "Softmax"),
        ("Exp Div", "Div"),
        ("Identity", ""),
    ],
)
def test_the_final_operator_is_the_one_that_makes_the_values(operators, final, tmp_path):
    model = chain(*operators.split())
    path = save_model(model, tmp_path / "model.onnx")
    assert scan(path).final_operators[model.graph.output[0].name] == final


@settings(max_examples=60, deadline=5_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_never_hides_external_data_from_the_scan(data, tmp_path):
    """It raises nothing but a ModelError, and where it passes, the reference parser finds no external tensor either."""
    damaged = bytearray(file_of(WEIGHT + ENTRIES + LOCATION, field(14, field(1, b"k") + field(2, b"v"))))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "fuzz.onnx"
    path.write_bytes(damaged)
    if refusal(path):
        return
    try:
        model = onnx.ModelProto.FromString(bytes(damaged))
    except Exception:
        return
    tensors = [*model.graph.initializer, *(a.t for node in model.graph.node for a in node.attribute)]
    assert not [each for each in tensors if each.data_location or each.external_data]
