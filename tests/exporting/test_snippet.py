"""The ten lines that `export` and `models show --snippet` print give the answers of visiontool, without it."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import ROOT, save_model
from kinds_of_model import Kind, picky_graph, save_kinds, save_noise, spec_of

from visiontool import Classifier
from visiontool.exporting.snippet import snippet

# Each as (code, picture) in stdin's JSON; what it prints goes out as a list of strings.
_RUNNER = """
import contextlib, io, json, sys
for name in ("visiontool", "onnx", "torch", "scipy", "click"):
    sys.modules[name] = None  # importing it fails
printed = []
for code, picture in json.load(sys.stdin):
    sys.argv = ["snippet", picture]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, {})
    printed.append(out.getvalue())
print(json.dumps(printed))
"""


def ask(programs):
    """What each (program, picture) prints, as a list of (label, probability), in a process without visiontool."""
    text = json.dumps([(code, str(picture)) for code, picture in programs])
    ran = subprocess.run([sys.executable, "-c", _RUNNER], input=text, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    rows = [[line.partition("  ") for line in text.splitlines()] for text in json.loads(ran.stdout)]
    return [[(label, float(number)) for number, _, label in lines] for lines in rows]


def check(models, pictures):
    """The snippets of these models answer all `pictures` as the classifier does."""
    programs = [(snippet(spec, path), picture) for _, spec, path in models for picture in pictures]
    assert max(len(code.splitlines()) for code, _ in programs) <= 10
    answers = iter(ask(programs))
    for name, _, path in models:
        for result in Classifier.load(path, device="cpu").predict(pictures):
            assert result.error is None
            answer, expected = next(answers), [(item.label, item.probability) for item in result.predictions]
            assert [label for label, _ in answer] == [label for label, _ in expected], (name, result.path)
            numbers = [number for _, number in answer]
            assert numbers == pytest.approx([number for _, number in expected], abs=1.01e-4), (name, result.path)


def kind(path):
    return Kind(path.name, Classifier.load(path, device="cpu").spec, path)


def test_ten_lines_answer_as_predict_does(tmp_path):
    models, spec = save_kinds(tmp_path), replace(spec_of("float"), labels=("a", "it's", "c", "d"))
    names_of_other_tools = {
        "Ultralytics.onnx": "{0: 'a', 1: \"it's\", 2: 'c', 3: 'd'}",
        "list.onnx": '["a", "it\'s", "c", "d"]',
        "object.onnx": '{"3": "d", "0": "a", "1": "it\'s", "2": "c"}',
    }
    for file, names in names_of_other_tools.items():
        metadata = {"names": names, "imgsz": "[8, 8]", "author": "Ultralytics"}
        models.append(kind(save_model(picky_graph(spec), tmp_path / file, metadata)))
    check(models, save_noise(tmp_path))


def test_real_models_answer_too(default_model):
    samples = [ROOT / "samples" / "digits" / "7.png", ROOT / "samples" / "orange.jpg"]
    check([kind(ROOT / "weights" / "lenet5" / "model.onnx"), kind(default_model)], samples)
