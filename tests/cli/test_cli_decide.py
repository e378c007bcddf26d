"""predict with classes that compete, prediction sets, thresholds, and ensembles."""

import csv
import io
import json

import pytest
from conftest import BLUE, GREEN, RED, save_picture
from test_imports import TORCH, run_blocked

from visiontool import Classifier, Ensemble
from visiontool.evaluation.decisions import NEVER, write
from visiontool.inference.ensemble import Combination
from visiontool.model.spec import Decisions


@pytest.fixture
def pictures(tmp_path):
    for name, color in (("b.png", BLUE), ("g.png", GREEN), ("r.png", RED)):
        save_picture(tmp_path / "in" / name, color)
    return tmp_path / "in"


@pytest.fixture
def decided(color_model, tmp_path):
    """The color model with thresholds and quantiles."""
    found = Decisions(precision=0.98, thresholds=(0.5, 0.6, NEVER), coverage=0.9, quantiles=(0.8, 0.5, 0.5))
    write(Classifier(color_model), tmp_path / "decided.onnx", found)
    return tmp_path / "decided.onnx"


def test_only_the_named_classes_compete(run, color_model, pictures, tmp_path):
    (tmp_path / "names.txt").write_text("red\n\n blue \n", encoding="utf-8")
    for among in ("red,blue", tmp_path / "names.txt"):
        ran = run("predict", pictures, "-m", color_model, "--among", among)
        rows = [json.loads(line)["predictions"] for line in ran.out.splitlines()]
        assert [[item["label"] for item in row] for row in rows] == [["blue", "red"], ["red", "blue"], ["red", "blue"]]
        assert rows[1][0]["probability"] == 0.5
        assert "3 classes, on cpu. 2 of them compete." in ran.err
    ran = run("predict", pictures, "-m", color_model, "--among", "red,blau")
    assert (ran.code, ran.out) == (2, "")
    assert "1 name is no class of colors: blau\n'blau': Closest: blue." in ran.err


def test_thresholds_and_sets_are_in_every_format(run, decided, pictures, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    command = ("predict", pictures, "-m", decided, "--sets")
    ran = run(*command)
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert [row.get("unknown") for row in rows] == [True, True, None]
    assert [row["set"] for row in rows] == [["blue", "red"], ["green", "red"], ["red"]]  # 0.576, and 0.212 of red
    assert "for a precision of 0.98, it says unknown" in ran.err
    lines = list(csv.DictReader(io.StringIO(run(*command, "--format", "csv").out)))
    assert [line["set"] for line in lines] == ["blue; red", "green; red", "red"]
    assert "  set: blue, red\n" in run(*command, "--format", "table").out
    row = Classifier(decided).predict(str(pictures / "g.png"), sets=True).to_row()
    assert (row["set"], row["unknown"]) == ("green; red", True)


def test_rows_of_other_classes_or_sets_are_not_gone_on_with(run, decided, color_model, pictures, tmp_path):
    rows = tmp_path / "rows.csv"
    assert run("predict", pictures, "-m", decided, "--sets", "-o", rows).code == 0
    assert run("predict", pictures, "-m", decided, "--sets", "-o", rows, "--resume").code == 0
    assert run("predict", pictures, "-m", decided, "-o", rows, "--resume").code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sets"], "colors.onnx DATA --conformal 0.95 -o FILE"),
        (["--decided", "--among", "red,blue"], "its thresholds hold where all classes compete"),
        (["--among", "red"], "name two or more"),
        (["--quantiles", "--sets", "--among", "red,blue"], "--sets is for all classes"),
        (["--among", ""], "name two or more"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(run, color_model, decided, pictures, arguments, words):
    model = decided if "--decided" in arguments else color_model
    if "--quantiles" in arguments:
        write(Classifier(color_model), model, Decisions(coverage=0.9, quantiles=(0.8,)))
    ran = run(
        "predict", pictures, "-m", model, *(word for word in arguments if word not in ("--decided", "--quantiles"))
    )
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err


def test_an_ensemble_is_a_model_and_needs_neither_torch_nor_onnx(
    run, color_model, make_color_model, pictures, tmp_path
):
    members = [Classifier(path) for path in (color_model, make_color_model("soft.onnx", temperature=2.0))]
    Ensemble(members, Combination("average", (0.5, 0.5)), "both").save(tmp_path / "both.json")
    ran = run_blocked((*TORCH, "onnx", "sklearn", "scipy"), "predict", pictures, "-m", tmp_path / "both.json", "-v")
    assert ran.returncode == 0, ran.stderr
    row = json.loads(ran.stdout.splitlines()[0])
    assert (row["model"], row["predictions"][0]["label"]) == ("both", "blue")
    assert row["predictions"][0]["probability"] == pytest.approx((0.576117 + 0.451863) / 2, abs=1e-6)
    assert ran.stderr.count("Runs on cpu") == 2
    rows = tmp_path / "rows.jsonl"
    assert run("predict", pictures, "-m", tmp_path / "both.json", "-o", rows).code == 0
    assert run("predict", pictures, "-m", color_model, "-o", rows, "--resume").code == 2
