"""The lines that `models show --snippet` prints give the answers of visiontool."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import COLOR_SPEC, ROOT
from PIL import Image

from visiontool import Classifier
from visiontool.cli.models.snippet import snippet


def printed(model, spec, picture):
    ran = subprocess.run(
        [sys.executable, "-c", snippet(spec, model), str(picture)], capture_output=True, text=True, check=True
    )
    return [(label, float(number)) for number, _, label in (line.partition("  ") for line in ran.stdout.splitlines())]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"crop_pct": 0.5, "interpolation": "bicubic", "temperature": 0.25},
        {"crop_mode": "squash", "crop_pct": 0.8, "interpolation": "bilinear"},
        {"crop_mode": "border", "interpolation": "lanczos"},
        {"crop_mode": "border", "crop_pct": 0.7},
    ],
    ids=["center", "crop", "squash", "border", "border and crop"],
)
@pytest.mark.parametrize("size", [(37, 20), (9, 30)], ids=["wide", "tall"])
def test_it_answers_as_predict_does(make_color_model, tmp_path, changes, size):
    model = make_color_model("model.onnx", **changes)
    colors = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(colors).save(tmp_path / "noise.png")
    (result,) = Classifier.load(model).predict([tmp_path / "noise.png"])
    expected = [(item.label, round(item.probability, 4)) for item in result.predictions]
    assert printed(model, replace(COLOR_SPEC, **changes), tmp_path / "noise.png") == expected


def test_a_built_in_model_answers_too():
    model = ROOT / "weights" / "lenet5" / "model.onnx"
    classifier = Classifier.load(model)
    best = printed(model, classifier.spec, ROOT / "samples" / "digits" / "7.png")[0]
    assert best[0] == "7"
