"""Pictures with several labels: from a table to a model, and everything that then knows of them."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import save_picture
from sklearn.metrics import average_precision_score, f1_score

from visiontool import Classifier
from visiontool.data.splits import folds_of_sets
from visiontool.model.spec import ModelSpec
from visiontool.training.head import HeadOptions
from visiontool.training.head.multilabel import solve

LABELS = ("red", "green", "blue")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """60 pictures of one color, each with the labels of its bright channels, of which 12 are for test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "cache"))
    random, rows = np.random.default_rng(0), []
    for number in range(60):
        has = random.random(3) < 0.45
        color = np.where(has, random.integers(170, 256, 3), random.integers(0, 90, 3))
        save_picture(tmp_path / "data" / f"{number}.png", tuple(color.tolist()))
        rows.append([f"{number}.png", "test" if number < 12 else "", *has.astype(int)])
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([["path", "split", *LABELS], *rows])
    return {row[0]: np.array(row[2:], bool) for row in rows}


def test_a_table_of_several_labels_becomes_a_model(data, run, color_model, tmp_path):
    ran = run("finetune", "data", "--labels", "labels.csv", "-m", color_model, "-o", "run")
    assert ran.code == 0, ran.err
    assert "mAP               100.0%" in ran.err
    measured = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (measured["val"]["exact"], measured["val"]["micro"]["f1"], measured["pictures"]["test"]) == (1.0, 1.0, 12)
    with open("run/splits.csv", newline="") as file:
        written = {row["path"]: {*filter(None, row["label"].split("|"))} for row in csv.DictReader(file)}
    assert written == {
        name: {label for label, one in zip(LABELS, has, strict=True) if one} for name, has in data.items()
    }

    model = Classifier.load("run")
    assert model.spec == ModelSpec.from_json(model.spec.to_json())
    order = [model.spec.labels.index(label) for label in LABELS]
    paths = [f"data/{number}.png" for number in range(12)]
    for path, result in zip(paths, model.predict(paths), strict=True):
        assert {LABELS.index(label) for label in result.labels} == {*np.flatnonzero(data[path[5:]])}
        row = result.to_dict()
        assert row["labels"] == [each["label"] for each in row["predictions"]][: len(result.labels)]
        assert not result.unknown
    assert model.predict(paths[0], min_probability=1.0).labels == ()
    logits = model.logits(paths[:1])[0]
    assert model.probabilities(logits)[order] == pytest.approx(1 / (1 + np.exp(-logits[order].astype(float))))

    table = run("predict", "-m", "run", *paths, "--format", "csv").out
    several = next(result for result in model.predict(paths) if len(result.labels) > 1)
    rows = {row["path"]: row["labels"] for row in csv.DictReader(table.splitlines())}
    assert rows[several.path] == "|".join(several.labels)
    assert "no label" in run("predict", "-m", "run", *paths, "--format", "table").out
    assert run("export", "run", "--onnx", "--precision", "fp16", "-o", "half.onnx").code == 0
    assert run("verify", "run", "half.onnx", "--on", "data").code == 0
    assert Classifier.load("half.onnx").spec.task == "multilabel"
    program = run("models", "show", "half.onnx", "--snippet").out
    shown = subprocess.run(
        [sys.executable, "-c", program, several.path], capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[1] for line in shown.splitlines()} == {*several.labels}
    assert "data or run has several" in run("evaluate", "run", "data", "--labels", "labels.csv").err
    assert "--sort-into needs one" in run("predict", "-m", "run", paths[0], "--sort-into", "sorted").err
    assert "--sets needs one" in run("predict", "-m", "run", paths[0], "--sets").err
    ran = run("finetune", "data", "--from", "run", "-m", "run", "-o", "again")
    assert ran.code == 0, ran.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--head", "logistic"), "--head logistic or means is for one label a picture"),
        (("--folds", "3"), "--folds is for one label"),
        (("--few", "2", "--splits", "splits.csv"), "--few is for one label"),
        (("--augment", "medium"), "--views or --augment is for one label"),
        (("--unfreeze", "all"), "--unfreeze or --from-scratch is for one label"),
    ],
)
def test_what_is_for_one_label_a_picture_is_refused(data, run, color_model, options, message):
    with open("splits.csv", "w", newline="") as file:
        csv.writer(file).writerows([["path", "split"], *([name, "train"] for name in data)])
    ran = run("finetune", "data", "--labels", "labels.csv", "-m", color_model, *options)
    assert ran.code == 2, ran.err
    assert message in ran.err


def test_labels_that_share_directions_are_told_apart(tmp_path):
    """Each label is a direction in the outputs, and comes more often with another; a fifth one has three pictures."""
    random = np.random.default_rng(0)
    targets = random.random((600, 5)) < [0.3, 0.1, 0.5, 0.2, 0]
    targets[:, 1] |= targets[:, 0] & (random.random(600) < 0.5)
    targets[[1, 200, 400], 4] = True
    outputs = (targets @ random.normal(size=(5, 20)) + 0.5 * random.normal(size=(600, 20))).astype(np.float32)
    train, test = slice(0, 400), slice(400, None)
    sets = [tuple(np.flatnonzero(row)) or (-1,) for row in targets[train]]
    fold_of = folds_of_sets(sets, np.arange(400), 5, 0)
    shares = np.stack([targets[train][fold_of == fold][:, :4].mean(axis=0) for fold in range(5)])
    assert np.ptp(shares, axis=0).max() < 0.03
    solution, thresholds = solve(
        outputs[train], targets[train], fold_of, (20,), HeadOptions(), lambda done, total: None
    )
    logits = solution.head.logits(outputs[test])
    precisions = average_precision_score(targets[test], logits, average=None)
    assert precisions[:4].min() > 0.9
    given = 1 / (1 + np.exp(-logits)) >= thresholds
    assert f1_score(targets[test], given, average="micro") > 0.85
    error = np.mean((1 / (1 + np.exp(-logits)) - targets[test]) ** 2)
    assert solution.candidates[0].brier == pytest.approx(error, abs=0.01)
