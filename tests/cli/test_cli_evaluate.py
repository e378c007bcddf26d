"""`visiontool evaluate` as a user meets it: figures on stdout, faults by name, and files of what went wrong."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import BLUE, COLOR_SPEC, GREEN, RED, color_graph, save_model, save_picture
from PIL import Image
from test_imports import TORCH, run_blocked


@pytest.fixture
def data(tmp_path):
    """Two red pictures, of which one is in the folder of green ones; two green ones and one of blue."""
    for name, color in (
        ("red/0.png", RED),
        ("green/0.png", GREEN),
        ("green/1.png", (9, 250, 9)),
        ("green/2.png", (250, 20, 9)),
        ("blue/0.png", BLUE),
    ):
        save_picture(tmp_path / "data" / name, color)
    return tmp_path / "data"


def test_the_table_of_one_model(run, color_model, data):
    ran = run("evaluate", color_model, data)
    assert (ran.code, ran.err) == (0, "")
    assert all(len(line) <= 80 for line in ran.out.splitlines())
    rows = {line[:18].strip(): line[18:] for line in ran.out.splitlines()}
    assert rows["Judged by"] == "5 pictures: data"
    assert rows["Accuracy"].startswith("80.0%, ")
    assert rows["Balanced accuracy"].startswith("88.9%, ")  # (1 + 2/3 + 1) / 3
    assert rows["Confused"] == "green taken for red: 1 picture"
    assert ran.out.splitlines()[-5:] == [  # labels of the model, in its order
        f"{label:<36} {pictures:>9} {precision:>10} {recall:>8} {f1:>8}"
        for label, pictures, precision, recall, f1 in (
            ("red", 1, "0.500", "1.000", "0.667"),
            ("green", 3, "1.000", "0.667", "0.800"),
            ("blue", 1, "1.000", "1.000", "1.000"),
            ("Macro average", 5, "0.833", "0.889", "0.822"),
            ("Weighted average", 5, "0.900", "0.800", "0.813"),
        )
    ]


def test_json_errors_and_probabilities(run, color_model, data, tmp_path):
    (data / "blue" / "broken.png").write_bytes(b"")
    shutil.rmtree(data / "red")
    files = tmp_path / "errors.csv", tmp_path / "all.csv"
    ran = run("evaluate", color_model, data, "--json", "--errors", files[0], "--probabilities", files[1])
    assert ran.code == 7
    assert "Left out, since they cannot be read: 1 picture. The first: " in ran.err
    (model,) = json.loads(ran.out)["models"]
    assert (model["pictures"], model["accuracy"], model["absent"]) == (4, 0.75, ["red"])
    assert [one["path"] for one in model["unreadable"]] == [str(data / "blue" / "broken.png")]
    with open(files[0], newline="") as stream:
        (error,) = csv.DictReader(stream)
    assert (error["path"], error["label"], error["answer"]) == (str(data / "green" / "2.png"), "green", "red")
    assert error["runner_up"] == "green"
    assert float(error["loss"]) == pytest.approx(-np.log(float(error["probability"])), abs=1e-4)
    with open(files[1], newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 4
    assert sum(float(rows[0][f"p({label})"]) for label in COLOR_SPEC.labels) == pytest.approx(1, abs=1e-5)
    parquet = tmp_path / "all.parquet"
    assert run("evaluate", color_model, data, "--probabilities", parquet).code == 7
    import pandas

    frame = pandas.read_parquet(parquet)
    assert frame["p(green)"].tolist() == pytest.approx([float(row["p(green)"]) for row in rows], abs=1e-6)


def test_labels_that_are_no_classes_are_listed_and_mapped(run, color_model, data, tmp_path):
    (data / "red").rename(data / "rot")
    save_picture(data / "violet" / "0.png", (200, 0, 200))
    ran = run("evaluate", color_model, data)
    assert (ran.code, ran.out) == (3, "")
    assert "2 labels are no classes of colors: rot, violet\n" in ran.err
    assert "--map FILE" in ran.err
    map_ = tmp_path / "map.csv"
    map_.write_text("rot,red\nviolet,\n")
    ran = run("evaluate", color_model, data, "--map", map_, "--json")
    assert json.loads(ran.out)["models"][0]["pictures"] == 5
    for text, words in (
        ("rot\n", "line 1: expected a label of the data, a comma"),
        ("rot,red\n\nrot,green\n", f"{map_}: line 3: a second class of 'rot'; leave one of the two out"),
    ):
        map_.write_text(text)
        ran = run("evaluate", color_model, data, "--map", map_)
        assert (ran.code, words in ran.err) == (3, True), ran.err


def test_classes_by_id_and_splits(run, tmp_path, data):
    spec = replace(COLOR_SPEC, label_ids=("n01", "n02", "n03")).to_metadata()
    model = save_model(color_graph(), tmp_path / "ids.onnx", spec)
    for split, label_id, color in (("test", "n01", RED), ("val", "n02", RED), ("train", "n03", RED)):
        save_picture(tmp_path / "split" / split / label_id / "0.png", color)
    for options, judged_by, accuracy in (
        ((), "test of split", 1.0),
        (("--split", "val"), "val of split", 0.0),
        (("--split", "all"), "split", 1 / 3),
    ):
        (model_json,) = json.loads(run("evaluate", model, tmp_path / "split", "--json", *options).out)["models"]
        assert (model_json["judged_by"], model_json["accuracy"]) == (judged_by, pytest.approx(accuracy))
    (tmp_path / "split").rename(tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "test")
    for folder, words in (
        (data, "it has no splits; --split all takes all pictures"),
        (tmp_path / "two", "its splits are train, val; --split NAME takes one of them"),
    ):
        ran = run("evaluate", model, folder, "--split", "test")
        assert (ran.code, f"has no pictures of test: {words}" in ran.err) == (3, True), ran.err


def test_models_side_by_side(run, color_model, data, tmp_path):
    labels = ("green", "red", "blue")
    swapped = save_model(
        color_graph(), tmp_path / "swapped.onnx", replace(COLOR_SPEC, name="swapped", labels=labels).to_metadata()
    )
    ran = run("evaluate", color_model, swapped, data)
    assert ran.code == 0, ran.err
    assert all(len(line) <= 80 for line in ran.out.splitlines())
    assert [line.split()[:2] for line in ran.out.splitlines()[1:3]] == [["colors", "80.0%"], ["swapped", "40.0%"]]
    text = " ".join(ran.out.split())
    assert "colors is better than swapped by 40.0 points" in text
    assert "these pictures show no difference" in text
    (pair,) = json.loads(run("evaluate", color_model, data, "-m", swapped, "--json").out)["differences"]
    assert (pair["only_a"], pair["only_b"], pair["is_real"]) == (3, 1, False)


def test_a_run_is_judged_by_what_it_has_not_seen(run, color_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for label, color in (("red", (250, 9, 9)), ("green", (9, 250, 9))):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(10):
            blocks = np.clip(np.array(color) + random.integers(-90, 90, (4, 4, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(blocks.repeat(10, 0).repeat(10, 1)).save(tmp_path / "data" / label / f"{number}.png")
    assert run("finetune", "data", "-m", color_model, "-q").code == 0
    assert "runs/data is a run, no data." in run("evaluate", "runs/data").err
    (model,) = json.loads((own := run("evaluate", "runs/data", "data", "--json")).out)["models"]
    assert (model["judged_by"], model["pictures"]) == ("val of data", 4)
    notes = json.loads(own.out)["notes"]
    assert notes[0] == "data was trained on train of data; val judged it then."
    assert "drawn at random" in notes[1]
    copies = tmp_path / "copies" / "green"  # under other names, as JPEGs, and one that is new
    copies.mkdir(parents=True)
    splits = csv.DictReader((tmp_path / "runs" / "data" / "splits.csv").read_text().splitlines())
    trained = [row["path"] for row in splits if row["split"] == "train" and row["label"] == "green"]
    for place, name in enumerate(trained[:3]):
        Image.open(tmp_path / "data" / name).save(copies / f"copy{place}.jpg", quality=95)
    Image.fromarray(random.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(copies / "new.png")
    ran = run("evaluate", "runs/data", "copies")
    assert ran.code == 0
    (line,) = [line for line in ran.err.splitlines() if line.startswith("Seen in training")]
    assert line.startswith(
        "Seen in training: 3 pictures are, or are copies of some, in its train, e.g. green/copy0.jpg ="
    )
    assert "Without them top-1 is" in line


def test_views_are_averaged(run, color_model, tmp_path):
    # Red in the corners only: the center crop of 8 of 10 pixels sees less of it than the five crops do.
    pixels = np.full((10, 10, 3), (100, 120, 0), np.uint8)
    pixels[[0, 0, -1, -1], [0, -1, 0, -1]] = RED
    (tmp_path / "data" / "red").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "data" / "red" / "0.png")
    cropping = save_model(color_graph(), tmp_path / "crop.onnx", replace(COLOR_SPEC, crop_pct=0.8).to_metadata())
    losses = {}
    for tta in (None, "flip", "crops"):
        ran = run("evaluate", cropping, tmp_path / "data", "--json", *(["--tta", tta] if tta else []))
        losses[tta] = json.loads(ran.out)["models"][0]["nll"]
    assert losses["flip"] == pytest.approx(losses[None])
    assert losses["crops"] < losses[None] - 1e-4


def test_what_cannot_be_meant(run, color_model, data, tmp_path):
    for options, words in (
        (["--errors", "errors.txt"], "expected a file that ends in .csv"),
        (["--probabilities", tmp_path / "no" / "p.csv"], "there is no folder"),
        (["--mean", "0.5"], "leave out --mean"),
        (["--precision", "0.9"], "name its file with -o"),
        (["-o", "model.onnx"], "is for the model of one of --precision"),
        (["--ensemble", "vote", "-o", "both.json"], "takes two models or more"),
        (["--precision", "0.9", "--conformal", "0.9", "-o", "model.onnx"], "are not for one file"),
        (["--precision", "0.9", "-o", color_model], "or --force to replace it"),
    ):
        ran = run("evaluate", color_model, data, *options)
        assert (ran.code, words in ran.err) == (2, True), ran.err
    assert run("evaluate", color_model, tmp_path / "nowhere").code == 3
    ran = run("evaluate", color_model, data, "--group", "png", "--conformal", "0.9", "-o", tmp_path / "sets.onnx")
    assert (ran.code, "and another to judge.\nTake more pictures; those of one group" in ran.err) == (3, True), ran.err


@pytest.mark.real
def test_imagenet_networks_on_photos_in_wordnet_folders(shared):
    """One command, no renaming, without torch; the accuracy of EfficientNet-Lite0 is that of `predict`."""
    ran = run_blocked(TORCH, "evaluate", "efficientnet_lite0", str(shared / "data" / "photos"), "--json")
    assert ran.returncode == 0, ran.stderr
    (model,) = json.loads(ran.stdout)["models"]
    assert model["pictures"] == 100
    assert model["accuracy"] >= 0.88
    assert model["top5"] >= 0.97


@pytest.fixture
def many(tmp_path):
    """Forty pictures of two classes: the redder, the surer; every fifth is in the wrong folder."""
    for number in range(40):
        label = ("red", "green")[(number % 2 == 0) ^ (number % 5 == 0)]
        color = (128 + 3 * number, 128 - 3 * number, 9) if number % 2 else (128 - 3 * number, 128 + 3 * number, 9)
        save_picture(tmp_path / "many" / label / f"{number}.png", color)
    return tmp_path / "many"


def test_half_of_the_pictures_set_thresholds_and_sets_and_the_others_judge(run, color_model, many, tmp_path):
    sure, sets = tmp_path / "sure.onnx", tmp_path / "sets.onnx"
    ran = run("evaluate", color_model, many, "--precision", 0.95, "-o", sure)
    assert ran.code == 0, ran.err
    assert "Set by 20 pictures, judged by 20 others:" in ran.out
    assert "(95.0% was asked for)" in ran.out
    assert " ".join(ran.out.split()).endswith(f"{sure}: predict says unknown below them.")
    rows = [json.loads(line) for line in run("predict", many, "-m", sure).out.splitlines()]
    assert 0 < sum(row.get("unknown", False) for row in rows) < 40
    decided = json.loads(run("evaluate", color_model, many, "--conformal", 0.8, "-o", sets, "--json").out)["decided"]
    assert (decided["coverage"], decided["set_by"], decided["judged_by"]) == (0.8, 20, 20)
    assert 0.5 <= decided["covered"] <= 1
    (first, *_) = run("predict", many, "-m", sets, "--sets").out.splitlines()
    assert {*json.loads(first)["set"]} <= {"red", "green", "blue"}


def test_an_ensemble_is_judged_beside_its_members_on_what_it_was_not_fitted_on(run, color_model, many, tmp_path):
    spec = replace(COLOR_SPEC, name="x", labels=("green", "red", "blue"))
    inverse = save_model(color_graph(), tmp_path / "inverse.onnx", spec.to_metadata())
    file = tmp_path / "both.json"
    ran = run("evaluate", color_model, inverse, many, "--ensemble", "greedy", "-o", file, "--json")
    assert ran.code == 0, ran.err
    models = json.loads(ran.out)["models"]
    assert [one["name"] for one in models] == ["colors", "x", "both"]
    assert [one["pictures"] for one in models] == [20] * 3
    assert models[2]["accuracy"] == models[0]["accuracy"] > models[1]["accuracy"]
    assert run("predict", many, "-m", file).code == 0
    assert json.loads(run("evaluate", many, "-m", file, "--json").out)["models"][0]["pictures"] == 40


def test_the_page_is_one_file(run, color_model, data, tmp_path):
    page = tmp_path / "page.html"
    assert run("evaluate", color_model, data, "--report", page).code == 0
    text = page.read_text()
    assert "colors on data" in text
    assert "green/2.png" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text


@pytest.mark.real
def test_an_average_is_no_worse_than_the_worse_of_two_networks(shared, tmp_path):
    """On pictures that fitted nothing, without torch; the file that it leaves answers without torch, too."""
    photos, file = str(shared / "data" / "photos"), str(tmp_path / "both.json")
    models = ("efficientnet_lite0", "efficientnet_lite1")
    ran = run_blocked(TORCH, "evaluate", *models, photos, "--ensemble", "average", "-o", file, "--json")
    assert ran.returncode == 0, ran.stderr
    one, other, both = (model["accuracy"] for model in json.loads(ran.stdout)["models"])
    assert both >= min(one, other) > 0.7
    ran = run_blocked(TORCH, "predict", photos, "-m", file)
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.splitlines()) == 100
