"""Finetuning on the joined embeddings of two backbones, as a user meets it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import COLOR_SPEC, save_model
from kinds_of_model import parsed
from onnx import load, numpy_helper
from test_finetune import fill

import visiontool
from visiontool import Classifier

BOTH = ("-m", "one.onnx", "-m", "other.onnx")


def save_small(name, width, **changes):
    """A backbone with random weights."""
    graph = """small (uint8[N,8,8,3] image) => (float[N,3] logits, float[N,D] deep) {
        pixels = Cast <to = 1> (image)  flat = Flatten (pixels)
        deep = MatMul (flat, weights)  logits = MatMul (deep, last)
    }"""
    random = np.random.default_rng(width)
    model = parsed(graph, weights=random.normal(0, 0.01, (192, width)), last=random.normal(0, 1, (width, 3)))
    save_model(model, name, replace(COLOR_SPEC, name=name[:-5], embedding="deep", **changes).to_metadata())


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    """The working folder, with two backbones that differ in how they resize, and data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    save_small("one.onnx", 5, weights={"license": "MIT"})
    save_small("other.onnx", 3, interpolation="bilinear", weights={"license": "BSD"})
    for label in ("warm", "cold"):
        fill(tmp_path / "moods" / label, label, 8)
    return tmp_path


def test_the_head_is_on_embeddings_of_length_one(run, at_home):
    ran = run("finetune", "moods", *BOTH, "--transform", "none", "-o", "both")
    assert ran.code == 0, ran.err
    assert "Pictures are prepared as for one; other differs: interpolation nearest and bilinear." in ran.err
    save_small("other.onnx", 3)  # which now resizes as the run does
    pictures, model = [*(at_home / "moods").rglob("*.png")], Classifier("both")
    alone = [Classifier(name).embed(pictures) for name in BOTH[1::2]]
    joined = np.concatenate([each / np.linalg.norm(each, axis=1, keepdims=True) for each in alone], axis=1)
    assert model.embed(pictures) == pytest.approx(joined, abs=1e-5)
    head = {tensor.name: numpy_helper.to_array(tensor) for tensor in load("both/model.onnx").graph.initializer}
    assert model.logits(pictures) == pytest.approx(joined @ head["head.weight"].T + head["head.bias"], abs=1e-4)
    assert (model.spec.weights["license"], model.spec.architecture) == ("BSD; MIT", "")
    assert run("export", "both", "--precision", "fp16", "-o", "half.onnx").code == 0  # the gate has compared it


def test_a_run_is_repeated_without_a_pass_of_the_backbones(run, at_home):
    first = visiontool.finetune("moods", model=["one.onnx", "other.onnx"], output="first")
    again = visiontool.finetune(from_run="first", output="again")
    assert (first.passes, again.passes) == (28, 0)
    assert (at_home / "first" / "model.onnx").stat().st_size == (at_home / "again" / "model.onnx").stat().st_size
    assert json.loads((at_home / "again" / "settings.json").read_text())["joined"] == [str(at_home / "other.onnx")]
    planned = run("finetune", "--from", "first", "--dry-run")
    assert "one and other, 8x8 pixels" in planned.out
    one = json.loads(run("finetune", "--from", "first", "-m", "one.onnx", "--json").out)
    assert one["backbone_passes"] == 28
    assert not [*(at_home / "temporary").iterdir()]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("-m far.onnx", 4, "one and far cannot become one file: crop_pct 1.0 and 0.5.\nFinetune each"),
        ("-m ./one.onnx", 2, "one model is named twice"),
        ("-m other.onnx --unfreeze all", 2, "train one network"),
        ("-m other.onnx --weights one.onnx", 2, "--weights are for one network"),
        ("-m other.onnx --stages 2", 2, "of one and other a head can see 1 at most"),
    ],
)
def test_what_cannot_be_joined(run, at_home, arguments, code, words):
    save_small("far.onnx", 4, crop_pct=0.5)
    ran = run("finetune", "moods", "-m", "one.onnx", *arguments.split())
    assert (ran.code, words in ran.err) == (code, True), ran.err
