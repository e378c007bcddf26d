"""Which pictures two models are compared on."""

import os
import shutil
from dataclasses import replace

import pytest
from conftest import BLUE, COLOR_SPEC, GREEN, RED, save_color_pictures, save_picture

from visiontool.errors import DataError
from visiontool.training.finetune import Settings
from visiontool.training.pictures import of_run, pictures_for


def test_any_folder_one_picture_or_the_samples(tmp_path):
    samples = pictures_for(COLOR_SPEC)
    assert len(samples.paths) >= 10
    assert (samples.targets, samples.origin) == (None, "the samples")
    folder = save_color_pictures(tmp_path / "plain", 3)
    save_picture(folder / "red" / "deeper.png", RED)
    assert len(pictures_for(COLOR_SPEC, on=folder).paths) == 4
    assert pictures_for(COLOR_SPEC, on=folder).targets is None
    assert pictures_for(COLOR_SPEC, on=folder / "1.png").paths == (str(folder / "1.png"),)
    (tmp_path / "empty").mkdir()
    for name, words in (("gone", "there is no such file or folder"), ("empty", "no picture was found in")):
        with pytest.raises(DataError, match=words):
            pictures_for(COLOR_SPEC, on=tmp_path / name)


def test_class_folders_are_matched_by_label_or_id(tmp_path):
    class_folders = tmp_path / "data"
    for label, color in (("red", RED), ("n2", GREEN), ("blue", BLUE)):
        save_picture(class_folders / label / "0.png", color)
    pictures = pictures_for(replace(COLOR_SPEC, label_ids=("n1", "n2", "n3")), on=class_folders)
    targets = {os.path.relpath(path, class_folders): target for path, target in zip(*pictures[:2], strict=True)}
    assert targets == {"red/0.png": 0, "n2/0.png": 1, "blue/0.png": 2}
    assert pictures.origin == str(class_folders)
    others = pictures_for(COLOR_SPEC, on=class_folders)
    assert (len(others.paths), others.targets) == (3, None)
    assert "'n2' is no class of colors" in others.origin


def test_val_is_taken_where_there_is_one(tmp_path):
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for number in range(count):
            save_picture(tmp_path / split / "red" / f"{number}.png", RED)
    pictures = pictures_for(COLOR_SPEC, on=tmp_path)
    assert [os.path.relpath(path, tmp_path) for path in pictures.paths] == ["val/red/0.png", "val/red/1.png"]
    assert pictures.targets == (0, 0)
    assert pictures.origin == f"{tmp_path}, val"
    shutil.rmtree(tmp_path / "val")
    assert len(pictures_for(COLOR_SPEC, on=tmp_path).paths) == 4


@pytest.fixture
def run_folder(tmp_path):
    """The files of a run that say which picture was where."""
    for label, color in (("red", RED), ("green", GREEN), ("blue", BLUE)):
        for number in range(3):
            save_picture(tmp_path / "data" / label / f"{number}.png", color)
    folder = tmp_path / "runs" / "data"
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(Settings(data=tmp_path / "data").to_json())
    rows = [
        f"{label}/{number}.png,{label},{split}\n"
        for label in ("blue", "green", "red")
        for number, split in enumerate(("train", "val", "test"))
    ]
    (folder / "splits.csv").write_text("path,label,split\n" + "".join(rows))
    return folder


def test_val_of_a_run_or_train_of_one_that_was_judged_by_folds(run_folder, tmp_path):
    pictures = pictures_for(COLOR_SPEC, run=run_folder)
    assert pictures.paths == tuple(str(tmp_path / "data" / name / "1.png") for name in ("blue", "green", "red"))
    assert (pictures.targets, pictures.origin) == ((2, 1, 0), f"val of {run_folder}")
    assert [os.path.basename(path) for path in of_run(COLOR_SPEC, run_folder, "train").paths] == ["0.png"] * 3
    assert pictures_for(replace(COLOR_SPEC, labels=("red", "green", "cyan")), run=run_folder).targets is None
    (run_folder / "settings.json").write_text(Settings(data=tmp_path / "data", folds=3).to_json())
    assert pictures_for(COLOR_SPEC, run=run_folder).origin == f"train of {run_folder}"


def test_samples_and_a_remark_where_the_data_of_a_run_has_moved(run_folder, tmp_path):
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    pictures = pictures_for(COLOR_SPEC, run=run_folder)
    assert pictures.targets is None
    assert pictures.origin.startswith("the samples, since the pictures of ")
    assert f"are not in {tmp_path / 'data'} any more" in pictures.origin
    with pytest.raises(DataError, match="any more"):
        of_run(COLOR_SPEC, run_folder, "val")
