"""From what `--model` says to a file: built-in names, paths, and what is said where there is neither."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran, save_picture

from visiontool import store
from visiontool.errors import ModelError
from visiontool.store import DEFAULT_MODEL, MODEL_VARIABLE, built_in_names, resolve


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def two_built_in(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of weights with two models and one folder that holds none."""
    folder = tmp_path_factory.mktemp("weights")
    for name in ("resnet18_tiny200", "lenet5", "unfinished"):
        (folder / name).mkdir()
    for name in ("resnet18_tiny200", "lenet5"):
        (folder / name / "model.onnx").touch()
    monkeypatch.setattr(store, "weights_folder", lambda: folder)
    return folder


def error_of(model: str | None) -> str:
    with pytest.raises(ModelError) as caught:
        resolve(model)
    return str(caught.value)


def test_the_default_model_is_one_of_the_built_in() -> None:
    assert DEFAULT_MODEL in built_in_names()
    assert resolve(None).is_file()


def test_built_in_names_are_the_folders_that_hold_a_model(two_built_in: Path) -> None:
    assert built_in_names() == ["lenet5", "resnet18_tiny200"]


def test_a_built_in_name_is_found_from_anywhere(two_built_in: Path, in_empty_folder: Path) -> None:
    assert resolve("lenet5") == two_built_in / "lenet5" / "model.onnx"


def test_a_file_comes_before_a_built_in_name(two_built_in: Path, in_empty_folder: Path) -> None:
    (in_empty_folder / "lenet5").touch()
    assert resolve("lenet5") == Path("lenet5")


def test_a_folder_with_a_model_comes_before_a_built_in_name(two_built_in: Path, in_empty_folder: Path) -> None:
    (in_empty_folder / "lenet5").mkdir()
    assert resolve("lenet5") == two_built_in / "lenet5" / "model.onnx"
    (in_empty_folder / "lenet5" / "model.onnx").touch()
    assert resolve("lenet5") == Path("lenet5/model.onnx")


def test_a_path_may_be_a_path_object_and_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.touch()
    assert resolve(path) == path
    assert resolve(str(path)) == path


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("resnet18_tiny20", "no model is called 'resnet18_tiny20'. Closest: resnet18_tiny200."),
        ("LeNet5", "no model is called 'LeNet5'. Closest: lenet5."),
        ("vit", "no model is called 'vit'.\nBuilt-in models: lenet5, resnet18_tiny200."),
        ("", "no model is called ''."),
        ("unfinished", "no model is called 'unfinished'."),
        ("vit", "Or give the path of an .onnx file."),
        ("missing.onnx", "missing.onnx: there is no such file"),
        ("runs/one", "runs/one: there is no such file"),
        (".", ".: the folder has no model.onnx in it"),
        ("a\nb", r"no model is called 'a\nb'"),
    ],
)
def test_what_is_no_model_is_refused_with_the_next_thing_to_type(
    typed: str, words: str, two_built_in: Path, in_empty_folder: Path
) -> None:
    assert words in error_of(typed)


def test_an_empty_name_never_means_the_folder_one_is_in(two_built_in: Path, in_empty_folder: Path) -> None:
    (in_empty_folder / "model.onnx").touch()
    assert "no model is called ''" in error_of("")


def test_the_user_chooses_the_default_model_by_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODEL_VARIABLE, "lenet5")
    assert resolve(None).parent.name == "lenet5"
    monkeypatch.setenv(MODEL_VARIABLE, "")
    assert resolve(None).parent.name == DEFAULT_MODEL


@pytest.mark.parametrize("value", ["lenet", "models/gone.onnx", "."])
def test_a_wrong_choice_in_the_variable_is_told_as_such(
    value: str, two_built_in: Path, in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "VISIONTOOL_MODEL" not in error_of(value)
    monkeypatch.setenv(MODEL_VARIABLE, value)
    assert "(VISIONTOOL_MODEL says so)" in error_of(None)


def test_the_variable_works_on_the_command_line_and_gives_way_to_an_option(
    color_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Ran]
) -> None:
    picture = save_picture(tmp_path / "red.png", (255, 0, 0))
    monkeypatch.setenv(MODEL_VARIABLE, str(color_model))
    assert '"label": "red"' in run("predict", picture, "--json").out
    monkeypatch.setenv(MODEL_VARIABLE, "nothing-of-that-name")
    ran = run("predict", picture, "--json")
    assert (ran.code, ran.out) == (4, "")
    assert "no model is called 'nothing-of-that-name' (VISIONTOOL_MODEL says so)" in ran.err
    assert run("predict", picture, "-m", color_model, "--json").code == 0
