"""Finetuning as a user meets it: a folder of pictures becomes a run, and nothing gets lost."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import COLOR_SPEC, ROOT, color_graph, save_model, save_picture
from onnx import numpy_helper
from PIL import Image
from test_imports import BLOCKER, TORCH

from visiontool import Classifier
from visiontool.evaluation.decisions import write
from visiontool.images.augment import Augment
from visiontool.images.fingerprint import fingerprint_of
from visiontool.model.spec import UNDECIDED, Decisions
from visiontool.training.finetune import Settings, finetune
from visiontool.training.seen import FINGERPRINTS_FILE, Copy, copies

RUN_FILES = {"model.onnx", "settings.json", "splits.csv", "metrics.json", "report.html", "fingerprints.npz"}


def fill(folder: Path, label: str, count: int, seed: int = 0) -> None:
    """`count` pictures of noise around reddish, greenish or bluish colors, so that no two are the same."""
    random = np.random.default_rng([seed, *label.encode()])
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        color = random.integers(0, 140, 3)
        color[("warm", "fresh", "cold").index(label)] = random.integers(190, 256)
        pixels = color + random.integers(-30, 31, (12, 12, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")


@pytest.fixture(scope="session")
def moods(tmp_path_factory):
    """Three classes of 12 pictures each."""
    folder = tmp_path_factory.mktemp("data") / "moods"
    for label in ("warm", "fresh", "cold"):
        fill(folder / label, label, 12)
    return folder


@pytest.fixture
def data(tmp_path, moods):
    """A copy of `moods` to change."""
    return shutil.copytree(moods, tmp_path / "moods")


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    """The working folder and the cache are new ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(scope="session")
def made_once(moods, tmp_path_factory):
    """A run on `moods` with settings of its own, and its model, made once."""
    folder = tmp_path_factory.mktemp("once")
    model = save_model(color_graph(), folder / "colors.onnx", COLOR_SPEC.to_metadata())
    settings = {"views": 4, "augment": Augment(rotate=20), "balance": "weights", "seed": 7, "val_share": 0.5}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISIONTOOL_CACHE", str(folder / "cache"))
        patch.setattr("visiontool.training.report.write", lambda *_: None)
        finetune(Settings(data=moods, model=str(model), **settings), output=folder / "run")
    return folder / "run"


@pytest.fixture
def mine(made_once, at_home):
    """A copy of the run in the working folder."""
    return shutil.copytree(made_once, at_home / "mine")


def splits_of(run_folder):
    with open(run_folder / "splits.csv", newline="") as file:
        return {row["path"]: row["split"] for row in csv.DictReader(file)}


def tree(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def initializers(file):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(file).graph.initializer}


def test_a_folder_becomes_a_model(run, data, at_home, color_model):
    before = tree(data)
    write(Classifier.load(color_model), color_model, Decisions(coverage=0.9, quantiles=(0.5,)))  # of its own classes
    ran = run("finetune", data, "-m", color_model)
    assert ran.code == 0, ran.err
    folder = at_home / "runs" / "moods"
    assert ran.out == f"{folder}\n"
    assert {path.name for path in folder.iterdir()} >= RUN_FILES
    assert "shrinkage of the covariance" in (folder / "report.html").read_text()
    assert not [path for path in folder.parent.iterdir() if path != folder]
    assert tree(data) == before

    text = (folder / "metrics.json").read_text()
    assert "\n   [2, 0, 0],\n" in text  # a row of the confusion is a line
    measured = json.loads(text)
    assert measured["pictures"] == {"train": 30, "val": 6}  # a fifth of each class
    assert measured["val"]["accuracy"] == 1.0
    assert measured["backbone_passes"] == 36 + 30  # all once, and the mirrors of those for training
    for word in ("100.0%", "6 pictures of val", "30 for training", "visiontool predict -m runs/moods"):
        assert word in ran.err

    fresh = save_picture(at_home / "new.png", (40, 230, 60), (20, 20))
    rows = json.loads(run("predict", fresh, "-m", folder).out)
    assert rows["predictions"][0]["label"] == "fresh"
    assert sum(item["probability"] for item in rows["predictions"]) == pytest.approx(1, abs=1e-4)
    spec = Classifier.load(folder).spec
    assert (spec.name, spec.labels, spec.decisions) == ("moods", ("cold", "fresh", "warm"), UNDECIDED)
    assert spec.accuracy == ({"dataset": "moods, val", "pictures": 6, "top1": 1.0},)

    kept, given = initializers(folder / "model.onnx"), initializers(color_model)
    assert all(np.array_equal(kept[name], given[name]) for name in given)  # frozen is frozen
    assert kept["head.weight"].shape == (3, 3)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["logistic", "lda", "means"])
def test_a_head_on_transformed_stages_is_exported_in_every_precision(run, moods, at_home, head):
    options = ("--head", head, "--transform", "power", "--stages", "3", "-o", "run")
    ran = run("finetune", moods, "--views", "1", "--augment", "none", *options)
    assert ran.code == 0, ran.err
    measured = json.loads((at_home / "run" / "metrics.json").read_text())
    assert (measured["head"]["kind"], measured["head"]["transform"], measured["head"]["stages"]) == (head, "power", 3)
    assert measured["candidates"][0]["kind"] == head
    assert "its head sees more than the embedding (--transform none --stages 1)" in ran.err
    for precision, more in (("fp16", ()), ("int8", ("--calibration", moods))):
        file = f"{precision}.onnx"
        exported = run("export", "run", "-o", file, "--precision", precision, *more)
        assert exported.code == 0, exported.err  # the gate has compared it
        assert run("finetune", moods, "-m", file, "-o", f"on-{precision}", "-q", "--stages", "2").code == 0


def test_more_stages_than_there_are(run, data, at_home, color_model):
    ran = run("finetune", data, "-m", color_model, "--stages", "2")
    assert (ran.code, "of colors a head can see 1 at most" in ran.err) == (2, True)
    scratch = run("finetune", data, "--from-scratch", "-m", "lenet5", "--head", "lda")
    assert (scratch.code, "are for a frozen backbone" in scratch.err) == (2, True)


@pytest.mark.slow
def test_nothing_of_torch_is_needed(data, at_home):
    settings = ["-m", "lenet5", "--augment", "heavy", "--folds", "2", "--transform", "none", "--stages", "1"]
    command = [sys.executable, "-c", BLOCKER.format(blocked=TORCH), "finetune", str(data), *settings]
    for options in (["-o", "run"], ["--dry-run"]):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        ran = subprocess.run([*command, *options], capture_output=True, text=True, env=environment)
        assert ran.returncode == 0, ran.stderr
    assert (at_home / "run" / "model.safetensors").is_file()


def test_a_run_is_made_again_from_its_settings(run, mine, at_home):
    ran = run("finetune", "--from", mine, "-o", "again")
    assert ran.code == 0, ran.err
    for name in ("splits.csv", "settings.json"):
        assert (at_home / "again" / name).read_bytes() == (mine / name).read_bytes()
    kept, given = initializers(at_home / "again" / "model.onnx"), initializers(mine / "model.onnx")
    assert all(np.array_equal(kept[name], given[name]) for name in given)
    assert run("finetune", "--from", mine, "-o", "changed", "--seed", 8).code == 0
    assert splits_of(at_home / "changed") != splits_of(mine)
    (mine / "settings.json").write_text('{"schema": 1}')
    assert "settings.json: these are not the settings of a run" in run("finetune", "--from", mine).err


def test_pictures_of_test_are_never_opened(run, at_home, color_model):
    for split, count in (("train", 8), ("valid", 4), ("test", 3)):
        for label in ("warm", "cold"):
            fill(at_home / "d" / split / label, label, count, seed=count)
    (at_home / "d" / "test" / "warm" / "0.png").write_bytes(b"no picture")
    measured = json.loads(run("finetune", "d", "-m", color_model, "--json").out)
    assert measured["pictures"] == {"train": 16, "val": 8, "test": 6}
    assert measured["backbone_passes"] == 2 * 16 + 8


def test_same_pictures_stay_on_one_side(run, at_home, color_model):
    for label in ("warm", "cold"):
        folder = at_home / "d" / label
        fill(folder, label, 6)
        for number in range(6):
            with Image.open(folder / f"{number}.png") as image:
                image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / f"copy{number}.png")
    ran = run("finetune", "d", "-m", color_model, "-q")
    assert ran.err == ""
    splits = splits_of(Path(ran.out.strip()))
    assert sorted(set(splits.values())) == ["train", "val"]
    for label in ("warm", "cold"):
        assert all(splits[f"{label}/{n}.png"] == splits[f"{label}/copy{n}.png"] for n in range(6))
    shutil.copy("d/warm/0.png", "d/cold/same.png")
    ran = run("finetune", "d", "-m", color_model)
    assert "1 picture has several labels, e.g. cold/same.png = warm/0.png; keep each in one class" in ran.err
    assert "Serious in the data: 1 picture with contradicting labels. To see them: visiontool check d -m " in ran.err


def test_what_check_finds_serious_is_one_line_and_nothing_where_data_are_clean(run, at_home, color_model):
    for split, count in (("train", 80), ("val", 10)):
        for seed, label in enumerate(("warm", "cold")):
            fill(at_home / "d d" / split / label, label, count, seed=seed + count)
    assert "Serious" not in run("finetune", "d d", "-m", color_model).err
    shutil.copy("d d/train/warm/0.png", "d d/val/warm/again.png")
    for number in range(5):
        for label, other in (("warm", "cold"), ("cold", "warm")):
            os.rename(f"d d/train/{label}/{number}.png", f"d d/train/{other}/wrong{number}.png")
    err = run("finetune", "d d", "-m", color_model).err
    assert err.count("Serious") == 1
    assert re.search(r"val in train, \d+ likely label errors\. To see them: visiontool check 'd d' -m ", err)
    assert 8 <= int(re.search(r"(\d+) likely", err)[1]) <= 12


def test_all_faults_are_one_error(run, at_home, color_model):
    for split in ("train", "val"):
        fill(at_home / "d" / split / "warm", "warm", 4)
        (at_home / "d" / split / "warm" / "bad.jpg").write_bytes(b"no picture")
    fill(at_home / "d" / "train" / "cold", "cold", 4)
    (at_home / "d" / "train" / "fresh").mkdir()
    fill(at_home / "d" / "val" / "strange", "cold", 2)
    ran = run("finetune", "d", "-m", color_model)
    assert ran.code == 3
    for word in ("train/warm/bad.jpg", "val/warm/bad.jpg", "fresh", "strange", "--on-bad skip"):
        assert word in ran.err
    assert ran.out == ""
    assert not [*(at_home / "runs").iterdir()]


def test_a_class_without_a_picture_in_val_is_named_and_not_refused(run, data, at_home, color_model):
    typed = ("finetune", data, "-m", color_model)
    for number in range(1, 12):
        (data / "cold" / f"{number}.png").unlink()
    planned, ran = run(*typed, "--dry-run"), run(*typed, "--json")
    assert ran.code == 0, ran.err
    for err in (planned.err, ran.err):
        assert err.count("1 class has no picture in val, with too few pictures or groups to draw from") == 1
    measured = json.loads(ran.out)["val"]
    assert (measured["classes"], measured["per_class"][0]["recall"]) == (2, None)
    assert "No picture        of 1 class: cold" in ran.err
    shutil.rmtree(data / "fresh")
    for number in range(1, 12):
        (data / "warm" / f"{number}.png").unlink()
    ran = run(*typed)
    assert (ran.code, "no class has a picture in val" in ran.err) == (3, True)


def test_unreadable_pictures_can_be_left_out(run, data, at_home, color_model):
    (data / "warm" / "bad.jpg").write_bytes(b"no picture")
    ran = run("finetune", data, "-m", color_model, "--on-bad", "skip")
    assert ran.code == 0
    assert "Left out, since they cannot be read: 1. warm/bad.jpg" in ran.err
    assert splits_of(at_home / "runs" / "moods")["warm/bad.jpg"] == ""
    ran = run("finetune", data, "-m", color_model, "--splits", "runs/moods/splits.csv")
    assert ran.code == 0, ran.err  # what was left out is not opened


def test_labels_from_a_csv(run, data, at_home, color_model):
    rows = [
        ("path", "label", "split"),
        *((f"{n}.png", "b" if n % 2 else "a", "train" if n < 8 else "val") for n in range(12)),
        ("gone.png", "a", "val"),
    ]
    (data / "cold" / "labels.csv").write_text("\n".join(map(",".join, rows)))
    typed = ("finetune", data / "cold", "--labels", data / "cold" / "labels.csv", "-m", color_model)
    assert "1 path is not there (--on-bad skip leaves it out): gone.png" in run(*typed).err
    ran = run(*typed, "--on-bad", "skip")
    assert ran.code == 0, ran.err
    assert "Left out of labels.csv: 1 path is not there: gone.png" in ran.err
    assert Classifier.load(at_home / "runs" / "cold").spec.labels == ("a", "b")


def test_few_and_folds(run, data, at_home, color_model):
    typed = ("finetune", data, "-m", color_model, "--json")
    few = json.loads(run(*typed, "--few", 3).out)
    assert (few["pictures"], few["val"]["pictures"]) == ({"train": 9, "val": 6}, 6)
    given = json.loads(run(*typed, "--splits", "runs/moods/splits.csv", "--balance", "weights").out)
    assert (given["pictures"], given["backbone_passes"]) == ({"train": 9, "val": 6}, 0)  # nothing else is opened
    ran = run(*typed, "--few", 4, "--folds", 2)
    folds = json.loads(ran.out)
    assert (folds["pictures"], folds["judged_by"]) == ({"train": 12}, "2 folds")
    assert folds["val"]["pictures"] == 12  # each is judged once
    assert "2 folds" in ran.err
    for number in range(1, 12):
        shutil.copy(data / "cold" / "0.png", data / "cold" / f"{number}.png")
    ran = run(*typed, "--folds", 2)
    assert "1 class is in no fold, with too few pictures or groups (copies count once): cold" in ran.err
    assert (json.loads(ran.out)["val"]["pictures"], json.loads(ran.out)["val"]["classes"]) == (24, 2)


def test_settings_have_a_model_as_a_path_where_it_is_one(at_home, color_model):
    (at_home / "resnet50").mkdir()  # a folder of that name is no model
    (at_home / "run").mkdir()
    shutil.copy(color_model, "run/model.onnx")
    for model, expected in (
        ("colors.onnx", str(at_home / "colors.onnx")),
        ("run", str(at_home / "run")),
        ("resnet50", "resnet50"),
        ("local-dir:run", f"local-dir:{at_home / 'run'}"),
    ):
        assert Settings(data=Path("d"), model=model).with_absolute_paths().model == expected


def test_a_dry_run_writes_nothing(run, data, at_home, color_model):
    typed = ("finetune", data, "-m", color_model, "--dry-run")
    before = sorted(tree(at_home))
    ran = run(*typed, "--views", 2)
    assert ran.code == 0
    for word in ("36 pictures", "3 classes", "30 train, 6 val", "66 pictures through the backbone", "colors"):
        assert word in ran.out
    assert json.loads(run(*typed, "--json").out)["memory_bytes"] == 4 * 36 * 2 * 3
    assert json.loads(run(*typed, "--few", 3, "--folds", 3, "--json").out)["backbone_passes"] == 9 * 2
    assert sorted(tree(at_home)) == before


def test_a_sheet_of_views(run, data, at_home, color_model):
    typed = ("finetune", data, "-m", color_model, "--augment", "heavy", "--preview-augment")
    assert run(*typed, "sheet.png").code == 0
    with Image.open(at_home / "sheet.png") as image:
        assert image.width > image.height / 3
    assert not (at_home / "runs").exists()
    assert run(*typed, "sheet.txt").code == 2
    (data / "cold" / "0.png").write_bytes(b"no picture")
    assert "cold/0.png: " in run(*typed, "sheet.png").err
    assert run(*typed, "sheet.png", "--on-bad", "skip").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("", 2, "name the folder"),
        ("nowhere", 3, "nowhere"),
        ("moods/warm", 3, "12 pictures lie in DATA itself, with no label: 0.png"),
        ("moods/warm/0.png", 3, "0.png is no folder\nExpected a folder"),
        ("moods --rotate 10 --views 2", 2, "3 or more"),
        ("moods --group (", 2, "regular expression"),
        ("moods --folds 5 --splits x.csv", 2, "folds"),
        ("moods --folds 5 --few 1", 2, "few is 1"),
        ("moods --from nowhere", 3, "settings.json"),
        ("moods --val-split 2", 2, "val_split"),
        ("moods -m no.onnx", 4, "no.onnx"),
        ("moods -m flat.onnx", 4, "no embedding"),
        ("moods -o moods/first", 2, "is inside the data"),
        ("moods -o other --force", 2, "other exists and is not a run"),
    ],
)
def test_refusals(run, data, at_home, color_model, make_color_model, arguments, code, words):
    make_color_model("flat.onnx", embedding=None)
    save_picture(at_home / "other" / "a.png", (0, 0, 0))
    before = tree(at_home)
    ran = run("finetune", *arguments.split(), *([] if "-m" in arguments else ["-m", color_model]))
    assert ran.code == code
    assert words in ran.err
    assert len(ran.err.splitlines()) <= 6
    assert tree(data).items() <= before.items()
    assert not [*at_home.glob("runs/*")]


def test_a_run_is_replaced_once_the_new_one_is_complete_and_a_link_to_it_stays(run, data, mine, at_home, color_model):
    typed = ("finetune", data, "-m", color_model, "-o", "latest")
    (at_home / "latest").symlink_to("mine")
    before = tree(at_home / "mine")
    assert "--force" in run(*typed).err
    (data / "warm" / "bad.jpg").write_bytes(b"no picture")
    assert run(*typed, "--force").code == 3
    assert tree(at_home / "mine") == before
    (at_home / "mine" / "older.png").write_bytes(b"of the last run")
    assert run(*typed, "--force", "--seed", 3, "--on-bad", "skip").code == 0
    assert (at_home / "latest").is_symlink()
    assert json.loads((at_home / "mine" / "settings.json").read_text())["seed"] == 3
    assert not (at_home / "mine" / "older.png").exists()
    assert {path.name for path in at_home.iterdir()} == {"moods", "colors.onnx", "cache", "mine", "latest"}


@pytest.mark.parametrize(
    ("error", "code"), [(OSError(28, "No space left on device", "x"), 5), (KeyboardInterrupt(), 130)]
)
def test_what_breaks_off_leaves_the_last_good_run_and_nothing_else(
    run, data, mine, at_home, color_model, monkeypatch, error, code
):
    before = tree(mine)

    def breaks_off(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("visiontool.training.report.write", breaks_off)
    ran = run("finetune", data, "-m", color_model, "-o", "mine", "--force", "--seed", "2")
    assert ran.code == code
    assert ("the disk is full" if code == 5 else "The same command goes on") in ran.err
    assert tree(mine) == before
    assert {path.name for path in at_home.iterdir()} == {"moods", "colors.onnx", "cache", "mine"}


@pytest.mark.slow
def test_a_crop_that_cuts_much_is_told(run, at_home, color_model):
    for label in ("warm", "cold"):
        folder = at_home / "d" / label
        fill(folder, label, 8)
        for path in folder.iterdir():
            with Image.open(path) as image:
                image.resize((48, 12)).save(path)
    ran = run("finetune", "d", "-m", color_model)
    assert "--crop-mode border" in ran.err
    assert "75%" in ran.err
    ran = run("finetune", "d", "-m", color_model, "--crop-mode", "border")
    assert "--crop-mode border" not in ran.err
    assert Classifier.load(at_home / "runs" / "d-2").spec.crop_mode == "border"


@pytest.mark.real
def test_ants_and_bees_with_a_real_imagenet_network(run, at_home, shared):
    shutil.unpack_archive(shared / "data" / "ants_and_bees.tar", at_home)
    weights = shared / "weights" / "squeezenet1_1" / "model.safetensors"
    ran = run("finetune", "ants_and_bees", "-m", "squeezenet1_1", "--weights", weights, "--json")
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert result["val"]["accuracy"] >= 0.90
    assert result["val"]["pictures"] == 153
    assert result["backbone_passes"] == 2 * 245 + 153

    again = json.loads(run("finetune", "--from", result["folder"], "--json", "-q").out)  # from the cache, by its name
    assert again["backbone_passes"] == 0
    assert again["val"] == result["val"]

    pictures = sorted((at_home / "ants_and_bees" / "val").glob("*/*.jpg"))
    rows = Classifier.load(result["folder"]).predict(pictures)
    right = [row.predictions[0].label == path.parent.name for path, row in zip(pictures, rows, strict=True)]
    assert np.mean(right) == pytest.approx(result["val"]["accuracy"])  # the file answers as it was judged


def test_the_fingerprints_of_a_run_that_lack_sharpness_are_read(tmp_path):
    one = fingerprint_of(Image.new("RGB", (9, 9)))
    columns = [("width", "i4"), ("height", "i4"), ("pixels", "U32"), ("thumbnail", "V256"), ("color", "V3")]
    np.savez(tmp_path / FINGERPRINTS_FILE, print=np.array([one[:5]], columns), name=["a.png"], split=["val"])
    assert copies(tmp_path, [one]) == [Copy(0, "a.png", "val")]
