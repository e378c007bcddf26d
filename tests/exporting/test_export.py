"""Export: one file that answers as its source does, or none."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from conftest import BLUE, GREEN, RED, ROOT, save_picture
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

from visiontool import Classifier
from visiontool.exporting.export import ExportOptions, export
from visiontool.exporting.source import find

DIGITS = ROOT / "samples" / "digits"


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    """The working folder is a new one, and torch, which takes seconds to come, is not asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("visiontool.exporting.source.find_spec", lambda name: None)
    return tmp_path


def test_a_built_in_model_becomes_a_file_of_its_own(run, at_home):
    ran = run("export", "lenet5", "--onnx")
    assert (ran.code, ran.out) == (0, "lenet5.onnx\n"), ran.err
    assert "Top-1" in ran.err
    assert "onnxruntime.InferenceSession('lenet5.onnx')" in ran.err
    pictures = sorted(DIGITS.glob("*.png"))
    given, got = Classifier.load("lenet5"), Classifier.load(at_home / "lenet5.onnx")
    assert np.array_equal(given.logits(pictures), got.logits(pictures))
    assert sorted(path.name for path in at_home.iterdir()) == ["lenet5.onnx"]
    first = (at_home / "lenet5.onnx").read_bytes()
    assert run("export", "-m", "lenet5", "--force", "-q").err == ""
    assert (at_home / "lenet5.onnx").read_bytes() == first
    assert Classifier.load(at_home / "lenet5.onnx").spec.parity["verified"] == "yes"


@pytest.mark.parametrize(("precision", "share"), [("fp16", 0.6), ("int8", 0.4)])
def test_a_reduced_precision_is_smaller_and_answers_alike(run, at_home, precision, share):
    calibrated = ("--calibration", DIGITS) if precision == "int8" else ()
    ran = run("export", "lenet5", "--precision", precision, "--verify-on", DIGITS, *calibrated)
    file = at_home / f"lenet5-{precision}.onnx"
    assert (ran.code, ran.out) == (0, f"{file.name}\n"), ran.err
    assert file.stat().st_size < share * Classifier.load("lenet5").path.stat().st_size
    spec = Classifier.load(file).spec
    assert spec.precision == precision
    assert all(entry["precision"] == "fp32" for entry in spec.accuracy)  # it was not measured with this file
    ran = run("export", file, "--precision", "int8" if precision == "fp16" else "fp16", "--calibration", DIGITS)
    assert ran.code == 2


def other_weights(model, spec):
    tensor = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    tensor.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(tensor), 1, axis=0), tensor.name))
    return spec


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda model, spec: replace(spec, labels=spec.labels[::-1]), "label"),
        (lambda model, spec: replace(spec, crop_pct=0.6), "crop_pct"),
        (other_weights, "The first layer that differs is node_"),
    ],
)
def test_what_answers_otherwise_is_never_written(run, at_home, monkeypatch, spoil, words):
    described = "visiontool.exporting.export._described"
    monkeypatch.setattr(described, lambda source, spec, pictures: spoil(source.model, spec))
    ran = run("export", "lenet5", "--verify-on", DIGITS)
    assert (ran.code, ran.out) == (6, ""), ran.err
    assert words in ran.err
    assert list(at_home.iterdir()) == []


def test_the_newest_run_is_exported_where_none_is_named(run, at_home, color_model, monkeypatch):
    monkeypatch.setenv("VISIONTOOL_CACHE", str(at_home / "cache"))
    for number, (label, color) in enumerate({"warm": RED, "fresh": GREEN, "cold": BLUE}.items()):
        for shade in range(6):
            picture = tuple(max(0, channel - 12 * shade - number) for channel in color)
            save_picture(at_home / "moods" / label / f"{shade}.png", picture)
    assert run("finetune", "moods", "-m", color_model).code == 0
    ran = run("export", "--onnx")
    assert (ran.code, ran.out) == (0, "moods.onnx\n"), ran.err
    assert "runs/moods" in ran.err.replace(os.sep, "/")
    pictures = sorted((at_home / "moods").rglob("*.png"))
    given, got = (Classifier.load(model).predict(pictures) for model in ("runs/moods", "moods.onnx"))
    assert [row.predictions for row in given] == [row.predictions for row in got]
    assert str(at_home).encode() not in (at_home / "moods.onnx").read_bytes()
    ran = run("export", "--precision", "int8")
    assert (ran.code, ran.out) == (0, "moods-int8.onnx\n"), ran.err
    assert "Calibrated on 15 pictures only" in ran.err


def test_a_full_disk_is_an_error(run, at_home):
    (at_home / "lenet5.onnx.partial").symlink_to("/dev/full")
    ran = run("export", "lenet5")
    assert (ran.code, "the disk is full" in ran.err) == (5, True)
    assert list(at_home.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["lenet5", "--tflite"], 2, "No such option"),
        (["lenet5", "-m", "lenet5"], 2, "leave one out"),
        (["lenet5", "--calibration", "x"], 2, "int8"),
        (["lenet5", "--precision", "int8"], 2, "--calibration FOLDER"),
        (["lenet5", "--no-verify", "--verify-on", "x"], 2, "contradict"),
        (["lenet5", "--verify-on", "nowhere"], 3, "nowhere"),
        (["lenet5", "--static-batch", "0"], 2, "static-batch"),
        (["lenet5", "-o", "mine.onnx"], 2, "mine.onnx exists; --force replaces it"),
    ],
)
def test_what_cannot_be_exported_is_refused(run, at_home, arguments, code, words):
    (at_home / "mine.onnx").write_text("mine")
    ran = run("export", *arguments)
    assert ran.code == code, ran.err
    assert words in ran.err
    assert [path.name for path in at_home.iterdir()] == ["mine.onnx"]
    assert (at_home / "mine.onnx").read_text() == "mine"


def test_what_was_not_compared_says_so(run, at_home):
    ran = run("export", "lenet5", "--no-verify", "--json")
    assert (ran.code, json.loads(ran.out)["comparison"]) == (0, None)
    assert Classifier.load(at_home / "lenet5.onnx").spec.parity["verified"] == "no: --no-verify"


def test_notes_of_the_exporter_are_not_in_the_file(at_home):
    source = find("lenet5")
    source.model.graph.node[0].doc_string = "/home/me/secret.py"
    source.model.graph.node[0].metadata_props.add(key="trace", value="/home/me/trace.py")
    export(source, at_home / "out.onnx", ExportOptions())
    assert b"/home/me" not in (at_home / "out.onnx").read_bytes()


def test_a_static_batch_is_one(run, at_home):
    assert run("export", "lenet5", "--static-batch", "4", "--verify-on", DIGITS, "-q").code == 0
    file = at_home / "lenet5.onnx"
    assert onnx.load(file).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4
    pictures = sorted(DIGITS.glob("*.png"))[:6]
    given, got = (Classifier.load(model).logits(pictures) for model in ("lenet5", file))
    np.testing.assert_allclose(got, given, atol=1e-4)


@pytest.mark.slow
def test_torch_is_asked_where_its_weights_lie_beside_the_source(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "weights" / "lenet5", "copy")
    ran = run("export", "copy", "-o", "good.onnx")
    assert ran.code == 0
    assert "Torch gives the same logits on 12 of the pictures" in ran.err
    weights = load_file("copy/model.safetensors")
    weights["fc.weight"] = np.roll(weights["fc.weight"], 1, axis=0)
    save_file(weights, "copy/model.safetensors")
    ran = run("export", "copy", "-o", "bad.onnx")
    assert ran.code == 6
    assert "does not answer as its network does in torch" in ran.err
    assert not (tmp_path / "bad.onnx").exists()


@pytest.mark.slow
def test_another_process_without_torch_writes_the_same_bytes(run, at_home):
    """onnxruntime's quantizer keeps names in sets, whose order differs from process to process."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'torchvision', 'timm')))\n"
        "from visiontool.__main__ import main; main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for precision in ("fp32", "fp16", "int8"):
        arguments = [
            "export",
            "lenet5",
            "--precision",
            precision,
            "--verify-on",
            str(DIGITS),
            "-o",
            "a.onnx",
            "--force",
        ]
        arguments += ["--calibration", str(DIGITS)] if precision == "int8" else []
        ran = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment)
        assert (ran.returncode, ran.stdout) == (0, "a.onnx\n"), ran.stderr
        first = (at_home / "a.onnx").read_bytes()
        assert run(*arguments).code == 0
        assert (at_home / "a.onnx").read_bytes() == first
