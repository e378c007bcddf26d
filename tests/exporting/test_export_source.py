"""What can be exported: runs, names, weights, files of other tools, and files whose tensors lie beside them."""

import os
import shutil
from pathlib import Path
from unittest.mock import Mock, call

import numpy as np
import onnx
import pytest
from conftest import COLOR_SPEC, ROOT, color_graph, save_model
from kinds_of_model import parsed
from onnx import TensorProto, helper, numpy_helper

from visiontool import Classifier, ModelError, UsageError
from visiontool.errors import ConversionError
from visiontool.exporting.external_data import merged
from visiontool.exporting.source import find
from visiontool.hub.resolve import DEFAULT_MODEL
from visiontool.model import scan
from visiontool.model.foreign import Description
from visiontool.progress import silent

RED = np.full((1, 8, 8, 3), (255, 0, 0), np.uint8)


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    """An empty working folder."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    return home


def make_run(folder: Path, finished: int) -> Path:
    """The files of a run that an export reads, finished at that second."""
    folder.mkdir(parents=True)
    save_model(color_graph(), folder / "model.onnx", COLOR_SPEC.to_metadata())
    for name, time in (("settings.json", 10_000 - finished), ("metrics.json", finished)):
        (folder / name).write_text("{}")
        os.utime(folder / name, (time, time))
    return folder


# Which model is meant


def test_the_newest_finished_run_is_taken_where_none_is_named(caplog):
    caplog.set_level("INFO", "visiontool")
    make_run(Path("runs/older"), 1_000)
    make_run(Path("runs/newest"), 3_000)
    make_run(Path("runs/middle"), 2_000)
    make_run(Path("runs/going-on.partial-1/going-on"), 9_000)
    (make_run(Path("runs/no-model"), 9_000) / "model.onnx").unlink()
    (make_run(Path("runs/no-run"), 9_000) / "settings.json").unlink()
    os.utime("runs/older/model.onnx")  # an export into the run does not make it newer
    source = find(None)
    assert (source.path, source.run) == (Path("runs/newest/model.onnx"), Path("runs/newest"))
    assert caplog.messages == ["Exporting runs/newest, the newest finished run."]
    assert find("runs/older/model.onnx").run == find("local-dir:runs/older").run == Path("runs/older")


def test_without_a_run_it_is_the_default_model(default_model, monkeypatch, caplog):
    caplog.set_level("INFO", "visiontool")
    source = find(None)
    assert (source.path, source.run) == (default_model, None)
    assert caplog.messages == [f"Exporting {DEFAULT_MODEL}, the default model: there is no finished run in runs/."]
    monkeypatch.setenv("VISIONTOOL_MODEL", "lenet5")
    assert find(None).spec.name == "lenet5"


@pytest.mark.parametrize(
    ("model", "options", "kind", "words"),
    [
        ("w.safetensors", {}, UsageError, "w.safetensors: weights of torch.*\nAdd --architecture NAME"),
        ("lenet5", {"architecture": "vgg16"}, UsageError, "goes with a file of weights.*; lenet5 is none"),
        (None, {"architecture": "vgg16"}, UsageError, "goes with a file of weights: name that as MODEL"),
        ("resnet5O", {}, ModelError, "no model is called 'resnet5O'"),
        ("gone.onnx", {}, ModelError, "there is no such file"),
        ("lenet5", {"description": Description(mean=(0.0,))}, UsageError, "says this of itself; leave out --mean"),
    ],
)
def test_what_cannot_be_exported_is_refused(model, options, kind, words):
    shutil.copy(ROOT / "weights" / "lenet5" / "model.safetensors", "w.safetensors")
    with pytest.raises(kind, match=words):
        find(model, **options)


@pytest.mark.parametrize("offline", [True, False])
def test_what_is_not_here_is_pulled(monkeypatch, make_color_model, tmp_path, offline):
    path, progress = make_color_model("pulled.onnx"), Mock()
    pull = Mock(return_value=Mock(path=path))
    monkeypatch.setattr("visiontool.exporting.source.pull", pull)
    shutil.copy(ROOT / "weights" / "lenet5" / "model.safetensors", "w.safetensors")
    assert find("vgg16", offline=offline, progress=progress).path == path
    description = Description(class_names=Path("names.txt"))
    assert find("w.safetensors", architecture="vgg11", offline=offline, description=description).path == path
    files = {"weights": Path("w.safetensors"), "class_names": Path("names.txt")}
    assert pull.call_args_list == [
        call("vgg16.tv_in1k", offline=offline, progress=progress),
        call("vgg11", **files, offline=offline, progress=silent),
    ]
    with pytest.raises(UsageError, match="the file says this of itself; leave out --mean"):
        find("w.safetensors", architecture="vgg11", description=Description(mean=(0.5,)))


# Files of other tools


@pytest.mark.parametrize(
    ("dtype", "batch", "precision"),
    [(np.float32, 2, "fp32"), (np.float16, "batch", "fp16")],
)
def test_a_file_of_another_tool_gets_a_manifest_and_keeps_its_graph(tmp_path, caplog, dtype, batch, precision):
    Path("names.txt").write_text("red\ngreen\nblue\n")
    kind = "float16" if dtype == np.float16 else "float"
    graph = f"""outside ({kind}[{batch},3,8,8] x) => ({kind}[{batch},3] y) {{
        p = GlobalAveragePool (x)  f = Flatten (p)  y = MatMul (f, weight)
    }}"""
    file = save_model(parsed(graph, opset=12, weight=np.eye(3, dtype=dtype)), tmp_path / "outside.onnx")
    with pytest.raises(ModelError, match="Add --class-names FILE --mean R,G,B --std R,G,B"):
        find(str(file))
    caplog.set_level("INFO", "visiontool")
    description = Description(class_names=Path("names.txt"), mean=(0.5,), std=(0.5,))
    source = find(str(file), description=description, crop_mode="squash")
    assert caplog.messages == ["The file does not say, so assumed: RGB (else --spec), crop_pct 0.875 (--crop-pct), "
                       "bilinear (--interpolation)."]  # fmt: skip
    assert source.model == onnx.load(file)
    assert (source.spec.input.layout, source.spec.input.mean, source.spec.crop_mode) == ("NCHW", (0.5,), "squash")
    assert (source.spec.name, source.spec.precision) == ("outside", precision)
    result = save_model(source.model, tmp_path / "result.onnx", source.spec.to_metadata())
    assert Classifier.load(result).outputs(RED, "y").tolist() == [[1, -1, -1]]
    assert Classifier.load(result).assumed == ("RGB", "crop_pct 0.875", "bilinear")  # it is not taken for known now
    assert find(str(result)).spec.assumed == source.spec.assumed


def test_a_quantized_file_is_known_by_its_operators(tmp_path):
    graph = """outside (float[N,3,8,8] x) => (float[N,3] y) {
        q = QuantizeLinear (x, scale, zero)  back = DequantizeLinear (q, scale, zero)
        p = GlobalAveragePool (back)  y = Flatten (p)
    }"""
    model = parsed(graph, scale=0.01, zero=np.int8(0))
    file = save_model(model, tmp_path / "outside.onnx", {"names": "{0: 'a', 1: 'b', 2: 'c'}"})
    assert find(str(file), description=Description(mean=(0.0,), std=(1.0,))).spec.precision == "int8"


# Tensors in other files


@pytest.fixture
def scattered(tmp_path):
    """A model file whose two constants lie in other files of its folder, one behind 16 other bytes."""
    folder = tmp_path / "scattered"
    (folder / "data").mkdir(parents=True)
    (folder / "white.bin").write_bytes(b"x" * 16 + np.float32(255).tobytes())
    (folder / "data" / "axes.bin").write_bytes(np.array([1, 2], "<i8").tobytes())
    model = color_graph()
    move(model.graph.initializer[0], location="white.bin", offset="16", length="4")
    move(model.graph.initializer[1], location="data/axes.bin")
    return save_model(model, folder / "colors.onnx", COLOR_SPEC.to_metadata())


def move(tensor: TensorProto, **entries: str) -> None:
    """Has `tensor` lie in another file."""
    for name in ("raw_data", "float_data", "int64_data", "external_data"):
        tensor.ClearField(name)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)


def test_tensors_in_other_files_are_put_into_one(scattered, tmp_path):
    with pytest.raises(ModelError, match=f"Make one of it with: visiontool export {scattered} --onnx"):
        Classifier.load(scattered)
    with find(str(scattered)) as source:
        assert source.spec == COLOR_SPEC
        assert (source.path.name, source.path.parent == scattered.parent) == ("colors.onnx", False)
        assert Classifier.load(source.path).outputs(RED, "logits").tolist() == [[1, 0, 0]]
        single = save_model(source.model, tmp_path / "single.onnx", source.spec.to_metadata())
    assert not source.path.parent.exists()
    assert Classifier.load(single).outputs(RED, "logits").tolist() == [[1, 0, 0]]


WHITE = {"location": "white.bin"}


@pytest.mark.parametrize(
    ("tensor", "entries", "words"),
    [
        *(
            ({}, {"location": location}, "cannot be read")
            for location in ("../secret.bin", "link.bin", "up/secret.bin", "/proc/self/environ", "pipe.bin", "")
        ),
        *(({}, WHITE | {"offset": offset}, "cannot be read") for offset in ("17", "9" * 19, "-4")),
        *(({}, WHITE | {"length": length}, "its type and shape have 4 bytes") for length in ("3", "8")),
        *(({"dims": dims}, WHITE, "one file has at most") for dims in ([2**62, 2**62, 2**62], [2**40])),
        ({"dims": [2**20]}, WHITE, r"length \(4194304\) exceeds available data"),
        ({"dims": [-1]}, WHITE, "cannot be kept so"),
        ({"data_type": 999}, WHITE, "cannot be kept so"),
    ],
)
def test_nothing_but_the_tensors_bytes_in_files_of_the_folder_is_read(scattered, tmp_path, tensor, entries, words):
    (tmp_path / "secret.bin").write_bytes(np.float32(1).tobytes())
    (scattered.parent / "link.bin").symlink_to(tmp_path / "secret.bin")
    (scattered.parent / "up").symlink_to(tmp_path)
    os.mkfifo(scattered.parent / "pipe.bin")
    model = onnx.load(scattered, load_external_data=False)
    white = TensorProto(**{"name": "white", "data_type": TensorProto.FLOAT, **tensor})
    move(white, **entries)
    model.graph.initializer[0].CopyFrom(white)
    scattered.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=f"colors.onnx: the tensor 'white', kept in '.*', .*{words}"):
        merged(scattered)


def test_half_bytes_are_counted(tmp_path):
    (tmp_path / "w.bin").write_bytes(b"\x21\x03")
    model = color_graph()
    tensor = TensorProto(name="nibbles", data_type=TensorProto.UINT4, dims=[3])
    move(tensor, location="w.bin", length="2")
    model.graph.initializer.append(tensor)
    nibbles = onnx.load_from_string(merged(save_model(model, tmp_path / "model.onnx"))).graph.initializer[-1]
    assert numpy_helper.to_array(nibbles).astype(int).tolist() == [1, 2, 3]


def test_tensors_are_found_wherever_they_hide(tmp_path):
    (tmp_path / "w.bin").write_bytes(np.float32(7).tobytes())
    far = TensorProto(name="far", data_type=TensorProto.FLOAT, dims=[1])
    move(far, location="w.bin")
    model = color_graph()
    node = helper.make_node("Constant", [], ["c"], value=far)
    inner = onnx.GraphProto(name="inner", node=[node], initializer=[far])
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner))
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=far))
    model.functions.append(onnx.FunctionProto(name="f", node=[node]))
    model.training_info.append(onnx.TrainingInfoProto(algorithm=inner))
    file = save_model(model, tmp_path / "model.onnx")
    data = merged(file)
    assert scan.scan_bytes(data, file).external is None
    assert data.count(np.float32(7).tobytes()) == 8
    assert b"w.bin" not in data


def test_the_temporary_file_is_gone_after_an_error_which_does_not_name_it(scattered, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with pytest.raises(UsageError, match=f"{scattered}: .*leave out --mean"):
        find(str(scattered), description=Description(mean=(0.0,)))
    monkeypatch.setattr(Path, "write_bytes", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(ConversionError, match="cannot be written: No space left on device\nTMPDIR"):
        find(str(scattered))
    assert not list((tmp_path / "temporary").iterdir())
