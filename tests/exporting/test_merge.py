"""An ensemble as one file: it answers as the ensemble does, or there is none."""

import json
from pathlib import Path

import numpy as np
import pytest
from kinds_of_model import save_noise, save_picky

from visiontool import Classifier, Ensemble
from visiontool.inference.ensemble import KINDS, Combination
from visiontool.model.spec import Decisions


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("visiontool.exporting.source.find_spec", lambda name: None)
    return tmp_path


def save_ensemble(path, kind, *others, temperature=0.5):
    """One of models that take the same pixels, and have other orders of classes, temperatures and outputs."""
    paths = [
        save_picky(path.with_name("a.onnx"), "center", temperature=temperature),
        save_picky(path.with_name("b.onnx"), "center", 2, (3, 1, 0, 5, 4, 2), activation="softmax"),
        *others,
    ]
    random, count = np.random.default_rng(0), len(paths)
    stacker = (random.normal(0, 1, (6, 6 * count)), random.normal(0, 1, 6)) if kind == "stacking" else None
    weights = (0.3, 0.7) if kind in ("weighted", "greedy") else (1 / count,) * count
    ensemble = Ensemble([Classifier(one) for one in paths], Combination(kind, weights, stacker), "both")
    ensemble.save(path, Decisions(coverage=0.9, quantiles=(0.3,)))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_the_merged_file_answers_as_the_ensemble(run, at_home, kind):
    file = save_ensemble(at_home / "both.json", kind, temperature=0.01 if kind == "average" else 0.5)
    ran = run("export", file, "--onnx", "-q")
    assert (ran.code, ran.out) == (0, "both.onnx\n"), ran.err
    merged, ensemble = Classifier("both.onnx"), Ensemble.load(file)
    assert merged.spec.parity["verified"] == "yes"
    assert merged.spec.decisions == ensemble.spec.decisions
    assert merged.spec.weights["source"] == f"{kind} of colors, colors"
    pictures = save_noise(at_home)
    for one, other in zip(merged.answers(pictures), ensemble.answers(pictures), strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_what_differs_is_not_written(run, at_home, monkeypatch):
    file = save_ensemble(at_home / "both.json", "average")
    monkeypatch.setattr("visiontool.exporting.merge.LEAST", 0.05)
    ran = run("export", file)
    assert (ran.code, Path("both.onnx").exists()) == (6, False), ran.err


def test_other_pixels_and_other_uses_are_refused(run, at_home):
    file = save_ensemble(at_home / "three.json", "average", save_picky(at_home / "c.onnx", "oblong"))
    ran = run("export", file)
    assert (ran.code, ran.out) == (5, "")
    assert "cannot become one file: size (8, 8) and (9, 6); crop_pct 1.0 and 0.8" in ran.err
    for command in (("verify", file, file), ("benchmark", file), ("models", "show", file)):
        assert run(*command).code == 4
    assert json.loads(run("predict", save_noise(at_home)[0], "-m", file).out)["status"] == "ok"
