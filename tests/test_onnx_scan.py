"""The scan of a model file: nothing that onnxruntime would fetch from elsewhere gets past it, and nothing breaks it."""

import time
from collections.abc import Callable
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
from PIL import Image

from visiontool import onnx_scan
from visiontool.errors import ModelError
from visiontool.onnx_scan import Scan, scan


def refusal(path: Path) -> str:
    """What the scan says against the file at `path`."""
    with pytest.raises(ModelError) as caught:
        scan(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message) < len(str(path)) + 400
    assert message.count("\n") <= 1
    return message


def outcome(path: Path) -> str:
    """What the scan says against the file at `path`, or "passed"."""
    try:
        scan(path)
    except ModelError as error:
        return str(error)
    return "passed"


def external(name: str = "far", *, location: bool = True, entries: bool = True) -> TensorProto:
    """A tensor that lies in another file, or says so by one of two ways only."""
    tensor = TensorProto(name=name, dims=[3], data_type=TensorProto.FLOAT)
    if location:
        tensor.data_location = TensorProto.EXTERNAL
    if entries:
        tensor.external_data.add(key="location", value="other.bin")
    return tensor


def graph_with(tensor: TensorProto) -> onnx.GraphProto:
    return onnx.GraphProto(name="inner", initializer=[tensor])


def node_with(tensor: TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["c"], value=tensor)


def as_initializer(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.initializer.append(tensor)


def as_sparse_values(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=tensor))


def as_sparse_indices(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(indices=tensor))


def as_attribute(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.node.append(node_with(tensor))


def as_attribute_list(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.node.append(helper.make_node("Any", [], ["c"], values=[tensor, tensor]))


def as_sparse_attribute(model: onnx.ModelProto, tensor: TensorProto) -> None:
    sparse = onnx.SparseTensorProto(values=tensor)
    model.graph.node.append(helper.make_node("Constant", [], ["c"], sparse_value=sparse))


def as_sparse_attribute_list(model: onnx.ModelProto, tensor: TensorProto) -> None:
    attribute = onnx.AttributeProto(name="a", type=onnx.AttributeProto.SPARSE_TENSORS)
    attribute.sparse_tensors.append(onnx.SparseTensorProto(indices=tensor))
    model.graph.node.add(op_type="Any").attribute.append(attribute)


def in_if(model: onnx.ModelProto, tensor: TensorProto) -> None:
    branches = {"then_branch": onnx.GraphProto(), "else_branch": graph_with(tensor)}
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], **branches))


def in_loop_in_if(model: onnx.ModelProto, tensor: TensorProto) -> None:
    body = onnx.GraphProto(node=[node_with(tensor)])
    loop = onnx.GraphProto(node=[helper.make_node("Loop", ["n"], ["y"], body=body)])
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=loop, else_branch=loop))


def in_graph_list(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.node.append(helper.make_node("Any", [], ["y"], graphs=[graph_with(tensor)]))


def in_function(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.functions.append(onnx.FunctionProto(name="f", node=[node_with(tensor)]))


def in_function_default(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.functions.append(onnx.FunctionProto(name="f", attribute_proto=[helper.make_attribute("a", tensor)]))


def in_training_initialization(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.training_info.append(onnx.TrainingInfoProto(initialization=graph_with(tensor)))


def in_training_algorithm(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.training_info.append(onnx.TrainingInfoProto(algorithm=graph_with(tensor)))


PLACES = [
    *(as_initializer, as_sparse_values, as_sparse_indices, as_attribute, as_attribute_list, as_sparse_attribute),
    *(as_sparse_attribute_list, in_if, in_loop_in_if, in_graph_list, in_function, in_function_default),
    *(in_training_initialization, in_training_algorithm),
]
SIGNS = {
    "both": {},
    "location": {"entries": False},
    "entries": {"location": False},
}


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("hide", PLACES, ids=lambda place: place.__name__)
def test_external_data_is_refused_wherever_it_hides(
    hide: Callable[[onnx.ModelProto, TensorProto], None], sign: str, tmp_path: Path
) -> None:
    model = color_graph()
    hide(model, external(**SIGNS[sign]))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    message = refusal(path)
    assert "the tensor 'far' is kept in another file (external data)" in message
    assert f"visiontool export {path} --onnx -o single.onnx" in message
    assert scan(path, external=True).external == "far"


def test_a_tensor_without_a_name_is_refused_too(tmp_path: Path) -> None:
    model = color_graph()
    as_initializer(model, external(name=""))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert "the tensor '' is kept in another file" in refusal(path)


def test_the_scan_looks_into_every_message_that_can_hold_a_tensor() -> None:
    """The table of the scan against the definition of ONNX, so that a new version of it shows itself here."""

    def holds_tensors(message: Descriptor, seen: frozenset[str] = frozenset()) -> bool:
        if message.name == "TensorProto":
            return True
        inner = [field.message_type for field in message.fields if field.message_type is not None]
        return message.name not in seen and any(holds_tensors(each, seen | {message.name}) for each in inner)

    found: dict[str, dict[int, str]] = {}
    waiting = [onnx.ModelProto.DESCRIPTOR]
    while waiting:
        message = waiting.pop()
        if message.name == "TensorProto" or message.name in found:
            continue
        inner = [field for field in message.fields if field.message_type and holds_tensors(field.message_type)]
        found[message.name] = {field.number: field.message_type.name for field in inner}
        waiting += [field.message_type for field in inner]

    short = {"TrainingInfoProto": "Training"}
    expected = {
        short.get(message, message.removesuffix("Proto")): {
            number: short.get(inner, inner.removesuffix("Proto")) for number, inner in fields.items()
        }
        for message, fields in found.items()
    }
    assert expected == onnx_scan._INSIDE


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


WEIGHT = varint(1 << 3) + varint(1) + varint(2 << 3) + varint(TensorProto.FLOAT) + field(8, b"white")
INLINE = WEIGHT + field(9, np.float32(255).tobytes())
ENTRY = field(1, b"location") + field(2, b"other.bin")
LOCATION = varint(14 << 3) + varint(1)
FAR = WEIGHT + field(13, ENTRY) + LOCATION
NODE = helper.make_node("Div", ["image", "white"], ["logits"]).SerializeToString()
INPUT, OUTPUT = (
    helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]).SerializeToString() for name in ("image", "logits")
)
HEADER = varint(1 << 3) + varint(10) + field(8, helper.make_opsetid("", 20).SerializeToString())
PORTS = field(11, INPUT) + field(12, OUTPUT)


def file_of(tensor: bytes, *, graph_end: bytes = b"", model_end: bytes = b"") -> bytes:
    return HEADER + field(7, field(1, NODE) + field(5, tensor) + PORTS + graph_end) + model_end


BIT_32 = 1 << 32  # protobuf keeps 32 bits of a key, so it sees the field as if the bit were not there
TRICKS = {
    "plain": file_of(FAR),
    "initializer with a key of more than 32 bits": HEADER + field(7, field(1, NODE) + field(5, FAR, BIT_32) + PORTS),
    "graph with a key of more than 32 bits": HEADER + field(7, field(1, NODE) + field(5, FAR) + PORTS, BIT_32),
    "external data with keys of more than 32 bits": file_of(
        WEIGHT + field(13, ENTRY, BIT_32) + varint(14 << 3 | BIT_32) + varint(1)
    ),
    "keys drawn out": file_of(
        WEIGHT + varint(13 << 3 | 2, 5) + varint(len(ENTRY)) + ENTRY + varint(14 << 3, 5) + varint(1)
    ),
    "length drawn out": file_of(WEIGHT + varint(13 << 3 | 2) + varint(len(ENTRY), 5) + ENTRY + LOCATION),
    "location drawn out": file_of(WEIGHT + field(13, ENTRY) + varint(14 << 3) + varint(1, 10)),
    "location with bits above 32": file_of(WEIGHT + field(13, ENTRY) + varint(14 << 3) + varint(1 | BIT_32)),
    "graph in two parts": HEADER + field(7, field(1, NODE)) + field(7, field(5, FAR) + PORTS),
    "location first": file_of(LOCATION + field(13, ENTRY) + WEIGHT),
    "external after inline": file_of(INLINE + field(13, ENTRY) + LOCATION),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_no_encoding_that_onnxruntime_follows_to_another_file_gets_past(
    trick: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.onnx"
    path.write_bytes(TRICKS[trick])
    (tmp_path / "other.bin").write_bytes(np.float32(51).tobytes())
    refusal(path)
    try:  # that this is no idle refusal: onnxruntime does open it, and takes the number from the other file
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:
        pytest.fail(f"onnxruntime refuses it by itself, so the case shows nothing: {error}")
    (quotient,) = session.run(None, {"image": np.full((1, 3), 51, np.float32)})
    assert quotient.tolist() == [[1, 1, 1]]


@pytest.mark.parametrize(
    "tensor",
    [
        WEIGHT + field(13, ENTRY),
        WEIGHT + field(13, ENTRY) + LOCATION + varint(14 << 3) + varint(0),
        WEIGHT + field(13, ENTRY) + varint(14 << 3) + varint(2),
        INLINE + field(14, b""),
        INLINE + varint(13 << 3) + varint(0),
    ],
    ids=["entries only", "location taken back", "unknown location", "packed location", "entries as a number"],
)
def test_a_tensor_with_any_sign_of_external_data_is_refused(tensor: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(file_of(tensor))
    assert "kept in another file" in refusal(path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (file_of(INLINE, model_end=varint(100 << 3 | 3) + varint(100 << 3 | 4)), "wire type 3"),
        (file_of(INLINE, model_end=varint(1 << 3 | 4)), "wire type 4"),
        (file_of(INLINE, model_end=varint(1 << 3 | 6)), "wire type 6"),
        (file_of(INLINE, model_end=b"\0\0"), "field number 0"),
        (file_of(INLINE, model_end=varint(2**29 << 3) + b"\0"), f"field number {2**29}"),
        (file_of(INLINE, model_end=varint(99 << 3) + b"\x80" * 10 + b"\1"), "a number runs over its end"),
        (file_of(INLINE, model_end=varint(99 << 3 | 1) + b"\0" * 7), "a field runs over its end"),
        (file_of(INLINE, model_end=varint(99 << 3 | 5) + b"\0" * 3), "a field runs over its end"),
        (file_of(INLINE, model_end=varint(99 << 3 | 2) + varint(2**40)), "a field runs over its end"),
        (file_of(INLINE, model_end=field(7, b"")), "it has two graphs"),
        (HEADER, "it has no graph"),
        (b"\xff", "a number runs over its end"),
        (b"\0" * 1000, "field number 0"),
        (b"PK\x03\x04" + b"\0" * 100, "wire type 3"),
        (b"{}", "wire type 3"),
    ],
)
def test_bytes_that_are_no_onnx_file_are_refused(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    assert refusal(path) == f"{path}: not an ONNX file, or a damaged one ({words})"


def test_a_plain_file_passes_and_tells_its_metadata(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(file_of(INLINE))
    assert scan(path) == Scan({}, {"logits": "Div"})


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.touch()
    assert "the file is empty" in refusal(path)


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    assert "cannot be read: Is a directory" in refusal(tmp_path)
    assert "cannot be read: No such file or directory" in refusal(tmp_path / "no.onnx")


def test_a_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(path)
    assert "not an ONNX file" in refusal(path)


def test_a_pointer_of_git_lfs_names_the_command_that_fetches_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 99\n")
    assert "git lfs pull" in refusal(path)


def test_the_format_of_onnxruntime_itself_is_refused(tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    onnxruntime.InferenceSession(color_graph().SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert "give the .onnx file" in refusal(tmp_path / "model.ort")
    renamed = (tmp_path / "model.ort").rename(tmp_path / "model.onnx")
    assert "give the .onnx file" in refusal(renamed)
    named_so = save_model(color_graph(), tmp_path / "other.ort")
    assert "give the .onnx file" in refusal(named_so)


def test_a_file_that_ends_too_soon_is_refused_wherever_it_ends(color_model: Path, tmp_path: Path) -> None:
    whole = color_model.read_bytes()
    path = tmp_path / "short.onnx"
    passed = []
    for length in range(1, len(whole), 7):
        path.write_bytes(whole[:length])
        if (said := outcome(path)) == "passed":
            passed.append(length)
        else:
            assert said.startswith(f"{path}: not an ONNX file")
    for length in passed:  # a cut between two fields of the model gives a smaller model, without the manifest
        onnx.ModelProto.FromString(whole[:length])


def test_a_file_of_more_than_two_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    with open(path, "wb") as file:
        file.truncate(2**31)
    assert "2,147,483,648 bytes; a model file has at most" in refusal(path)


@pytest.mark.parametrize("tiny", [b"\x08\x01", varint(7 << 3) + b"\x80" * 9 + b"\1", field(99, b"")])
def test_a_file_of_millions_of_tiny_fields_is_given_up_soon(
    tiny: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_scan, "MAX_FIELDS", 50_000)
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny * 3_000_000 + file_of(INLINE))
    start = time.monotonic()
    assert "more than 50,000 fields" in refusal(path)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("end", ["graph_end", "model_end"])
def test_fields_inside_the_graph_and_behind_it_count(end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_scan, "MAX_FIELDS", 1_000)
    path = tmp_path / "model.onnx"
    path.write_bytes(file_of(INLINE, **{end: field(2, b"x") * 2_000}))
    assert "more than 1,000 fields" in refusal(path)


def test_a_file_as_large_as_real_networks_is_far_below_the_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"], name=f"n{i}", kernel_shape=[3, 3]) for i in range(5_000)]
    path = save_model(helper.make_model(helper.make_graph(nodes, "g", [], [])), tmp_path / "model.onnx")
    monkeypatch.setattr(onnx_scan, "MAX_FIELDS", onnx_scan.MAX_FIELDS // 10)
    assert scan(path).metadata == {}


# A Split that miscounts its outputs: onnxruntime would make room for too many, and end the process on too few.

MANY = 2**31 - 1


def split(count: int, outputs: int = 1) -> onnx.NodeProto:
    return helper.make_node("Split", ["image"], [f"part{i}" for i in range(outputs)], axis=1, num_outputs=count)


def split_in_graph(count: int) -> onnx.ModelProto:
    model = color_graph()
    model.graph.node.append(split(count))
    return model


def split_in_if(count: int) -> onnx.ModelProto:
    model = color_graph()
    branches = {"then_branch": onnx.GraphProto(), "else_branch": onnx.GraphProto(node=[split(count)])}
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], **branches))
    return model


def split_in_function(count: int) -> onnx.ModelProto:
    model = color_graph()
    model.functions.append(onnx.FunctionProto(name="f", node=[split(count)]))
    return model


@pytest.mark.parametrize("build", [split_in_graph, split_in_if, split_in_function])
def test_a_split_that_miscounts_its_outputs_is_refused(build: Callable[[int], onnx.ModelProto], tmp_path: Path) -> None:
    for count, said in ((MANY, "2,147,483,647"), (2, "2"), (0, "0"), (-1, f"{2**64 - 1:,}")):
        message = refusal(save_model(build(count), tmp_path / "model.onnx"))
        assert message.endswith(f"not an ONNX file, or a damaged one (a Split into {said} values that gives 1)")
    assert outcome(save_model(build(1), tmp_path / "model.onnx")) == "passed"


def test_a_split_into_fewer_values_than_it_gives_is_refused(tmp_path: Path) -> None:
    model = color_graph()
    model.graph.node.append(split(2, outputs=3))
    assert "a Split into 2 values that gives 3" in refusal(save_model(model, tmp_path / "model.onnx"))


def test_a_split_whose_outputs_its_caller_counts_is_refused(tmp_path: Path) -> None:
    """onnxruntime puts the caller's number, or the function's default, in its place."""
    inner = helper.make_node("Split", ["a"], ["b"], axis=1)
    inner.attribute.add(name="num_outputs", ref_attr_name="count", type=onnx.AttributeProto.INT)
    model = color_graph()
    model.functions.append(onnx.FunctionProto(name="f", node=[inner], attribute=["count"]))
    model.graph.node.append(helper.make_node("f", ["image"], ["y"], count=MANY))
    assert "a Split whose number of outputs is not its own" in refusal(save_model(model, tmp_path / "model.onnx"))


def test_only_num_outputs_of_a_split_counts(tmp_path: Path) -> None:
    model = color_graph()
    model.graph.node.append(split(3, outputs=3))
    model.graph.node.append(helper.make_node("Split", ["image"], ["part"], axis=MANY))
    model.graph.node.append(helper.make_node("Other", ["image"], ["other"], num_outputs=MANY))
    assert outcome(save_model(model, tmp_path / "model.onnx")) == "passed"


COUNT = varint(3 << 3) + varint(MANY)
SMALL_COUNT = varint(3 << 3) + varint(1)
NAMED = field(1, b"num_outputs")
SPLIT_TRICKS = {
    "attribute first": field(5, NAMED + COUNT) + field(4, b"Split"),
    "number ahead of its name": field(4, b"Split") + field(5, COUNT + NAMED),
    "operator twice": field(4, b"Relu") + field(4, b"Split") + field(5, NAMED + COUNT),
    "name twice": field(4, b"Split") + field(5, field(1, b"axis") + NAMED + COUNT),
    "number twice": field(4, b"Split") + field(5, NAMED + SMALL_COUNT + COUNT),
    "attribute twice": field(4, b"Split") + field(5, NAMED + SMALL_COUNT) + field(5, NAMED + COUNT),
    "keys drawn out": varint(4 << 3 | 2, 5) + field(4, b"Split")[1:] + field(5, NAMED + varint(3 << 3, 5) + COUNT[1:]),
}


@pytest.mark.parametrize("trick", SPLIT_TRICKS)
def test_no_encoding_hides_a_split_into_many_values(trick: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    node = field(1, b"image") + field(2, b"part") + SPLIT_TRICKS[trick]
    path.write_bytes(HEADER + field(7, field(1, node) + PORTS))
    assert "a Split into 2,147,483,647 values that gives 1" in refusal(path)
    (read,) = onnx.ModelProto.FromString(path.read_bytes()).graph.node  # the reference parser sees it too
    assert read.op_type == "Split"
    assert ("num_outputs", MANY) in [(attribute.name, attribute.i) for attribute in read.attribute]


@pytest.mark.parametrize("depth", [31, 32, 33, 34, 40])
def test_external_data_is_found_as_deep_as_onnxruntime_reads(depth: int, tmp_path: Path) -> None:
    graph = field(5, FAR)
    for _ in range(depth):
        graph = field(1, field(4, b"If") + field(5, field(1, b"then_branch") + field(6, graph)))
    path = tmp_path / "model.onnx"
    path.write_bytes(HEADER + field(7, graph))
    message = refusal(path)
    with pytest.raises(Exception, match="ONNXRuntimeError") as caught:
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    is_parsed = "Protobuf parsing failed" not in str(caught.value)
    assert is_parsed == (depth < 33)
    assert ("kept in another file" in message) == (depth < 32), "one level of grace"
    assert ("nested more than 96 deep" in message) == (depth >= 32)


def test_the_metadata_is_that_which_onnxruntime_reads(tmp_path: Path) -> None:
    metadata = {**COLOR_SPEC.to_metadata(), "": "no key", "empty": "", "für": "日本\n\x1b😀", "twice": "2"}
    path = save_model(color_graph(), tmp_path / "model.onnx", metadata)
    first, second = (onnx.StringStringEntryProto(key="twice", value=value) for value in "12")
    path.write_bytes(
        field(14, first.SerializeToString())
        + path.read_bytes()
        + field(14, second.SerializeToString())
        + field(14, field(1, b"a") + field(1, b"key twice") + field(2, b"old") + field(2, b"new"))
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = scan(path).metadata
    assert found == session.get_modelmeta().custom_metadata_map
    assert found == {**metadata, "key twice": "new"}


def test_metadata_that_is_not_utf8_is_read_with_replacement_characters(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(file_of(INLINE, model_end=field(14, field(1, b"k\xff") + field(2, b"\xfe"))))
    assert scan(path).metadata == {"k\N{REPLACEMENT CHARACTER}": "\N{REPLACEMENT CHARACTER}"}


def test_too_much_metadata_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    part = field(14, field(1, b"k") + field(2, b"x" * 2**20))
    path.write_bytes(file_of(INLINE, model_end=part * 33))
    assert "more than 33,554,432 bytes of metadata" in refusal(path)


def test_a_name_of_absurd_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(HEADER + field(7, field(1, field(2, b"x" * 200_000)) + PORTS))
    assert "a name of 200,000 bytes" in refusal(path)


def test_a_name_that_would_break_the_message_is_shown_short_and_escaped(tmp_path: Path) -> None:
    model = color_graph()
    as_initializer(model, external(name="a\nb\x1b[2J" + "x" * 9_000))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert r"a\nb\x1b[2Jxx" in refusal(path)


def chain(*operators: str) -> onnx.ModelProto:
    """A graph whose operators follow each other up to its first output; the second comes from the first operator."""
    nodes = [helper.make_node(operator, [f"t{i}", "extra"], [f"t{i + 1}"]) for i, operator in enumerate(operators)]
    names = (f"t{len(operators)}", "t1")
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    return helper.make_model(helper.make_graph(nodes[::-1], "chain", [], outputs))


@pytest.mark.parametrize(
    ("operators", "final"),
    [
        (["Gemm"], "Gemm"),
        (["Gemm", "Softmax"], "Softmax"),
        (["Softmax", "Identity"], "Softmax"),
        (["Gemm", "Softmax", "Reshape", "Identity", "Cast", "Flatten", "Squeeze", "Dropout"], "Softmax"),
        (
            ["Softmax", "Mul", "Add", "Max", "Clip", "Slice", "Transpose", "QuantizeLinear", "DequantizeLinear"],
            "Softmax",
        ),
        (["Softmax", "QLinearMul", "Div"], "Softmax"),
        (["QLinearSoftmax", "DequantizeLinear"], "Softmax"),
        (["Softmax", "Sub"], "Sub"),
        (["Exp", "Div"], "Exp"),
        (["Softmax", "Gemm", "Identity"], "Gemm"),
        (["Identity"], ""),
        ([], ""),
    ],
)
def test_the_final_operator_is_the_one_that_makes_the_values(operators: list[str], final: str, tmp_path: Path) -> None:
    assert scan(save_model(chain(*operators), tmp_path / "model.onnx")).final_operators[f"t{len(operators)}"] == final


@pytest.mark.parametrize("operator", ["Div", "Mul", "Identity", "Softmax"])
def test_operators_without_inputs_do_no_harm(operator: str, tmp_path: Path) -> None:
    model = chain(operator)
    del model.graph.node[0].input[:]
    assert scan(save_model(model, tmp_path / "model.onnx")).final_operators["t1"] in (operator, "")


def test_a_circle_of_operators_ends(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", [a], [b]) for a, b in (("x", "y"), ("y", "x"))]
    outputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "circle", [], outputs)
    assert scan(save_model(helper.make_model(graph), tmp_path / "model.onnx")).final_operators == {"x": ""}


def test_functions_that_call_each_other_without_end_do_not_hold_the_scan_up(tmp_path: Path) -> None:
    model = chain("f", "Identity")
    for name, calls in (("f", "g"), ("g", "f")):
        nodes = [helper.make_node(calls, ["x"], [f"y{i}"]) for i in range(1000)]
        model.functions.append(onnx.FunctionProto(name=name, domain="local", input=["x"], output=["y9"], node=nodes))
        for node in (*nodes, *model.functions[-1].node, *model.graph.node):
            node.domain = "local" if node.op_type in "fg" else ""
    path = save_model(model, tmp_path / "model.onnx")
    start = time.perf_counter()
    assert scan(path).final_operators["t2"] in ("f", "g")
    assert time.perf_counter() - start < 2


FUZZ = settings(max_examples=300, deadline=5_000, suppress_health_check=[HealthCheck.function_scoped_fixture])


def only_a_model_error_comes_out(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    assert len(outcome(path)) < len(str(path)) + 400


@FUZZ
@given(data=st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_a_model_error(data: bytes, tmp_path: Path) -> None:
    only_a_model_error_comes_out(tmp_path / "fuzz.onnx", data)


@FUZZ
@given(data=st.data())
def test_a_damaged_file_raises_nothing_but_a_model_error(data: st.DataObject, tmp_path: Path) -> None:
    model = color_graph()
    in_loop_in_if(model, external())
    in_function(model, external())
    as_sparse_attribute(model, external())
    helper.set_model_props(model, {"names": "{0: 'a'}"})
    damaged = bytearray(model.SerializeToString())
    for _ in range(data.draw(st.integers(1, 8))):
        start = data.draw(st.integers(0, len(damaged) - 1))
        end = min(start + data.draw(st.integers(0, 4)), len(damaged))
        damaged[start:end] = data.draw(st.binary(max_size=4))
    only_a_model_error_comes_out(tmp_path / "fuzz.onnx", bytes(damaged))


@FUZZ
@given(data=st.data())
def test_a_damaged_file_never_hides_external_data_from_the_scan(data: st.DataObject, tmp_path: Path) -> None:
    """Where the scan lets a damaged file pass, the reference parser finds no external tensor in it either."""
    damaged = bytearray(file_of(FAR, model_end=field(14, field(1, b"k") + field(2, b"v"))))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "fuzz.onnx"
    path.write_bytes(damaged)
    if outcome(path) != "passed":
        return
    try:
        model = onnx.ModelProto.FromString(bytes(damaged))
    except Exception:
        return
    tensors = [*model.graph.initializer, *(a.t for node in model.graph.node for a in node.attribute)]
    assert not [tensor for tensor in tensors if tensor.data_location or tensor.external_data]
