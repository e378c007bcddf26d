"""finetune, export and models as functions: the options, results and errors of the commands."""

import inspect
import json
from dataclasses import fields

import pytest
from conftest import BLUE, RED, save_picture

import visiontool
from visiontool import Classifier, DataError, Description, ModelError, UsageError
from visiontool.cli.export import export as export_command
from visiontool.cli.finetune import finetune as finetune_command
from visiontool.commands import ExportOptions
from visiontool.training.settings import Options

SHOWN = {"as_json", "quiet", "verbose"}


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    """The working folder is a new one with mydata/ in it; runs have no figures, which take most of the time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("visiontool.training.report.write", lambda *_: None)
    for number in range(10):
        save_picture(tmp_path / "mydata" / "warm" / f"{number}.png", (255 - 9 * number, number, 0))
        save_picture(tmp_path / "mydata" / "cold" / f"{number}.png", (number, 0, 255 - 9 * number))
    return tmp_path


@pytest.mark.parametrize(
    ("function", "options", "command", "only_here", "only_there"),
    [
        (
            visiontool.finetune,
            Options,
            finetune_command,
            {"limits", "progress"},
            SHOWN | {"max_pixels", "max_bytes", "preview_augment", "dry_run", "find_lr"},
        ),
        (
            visiontool.export,
            ExportOptions,
            export_command,
            {"verify", "description"},
            (SHOWN - {"verbose"}) | {"no_verify", "same", "onnx", *(field.name for field in fields(Description))},
        ),
    ],
    ids=["finetune", "export"],
)
def test_the_functions_have_the_options_of_the_commands(function, options, command, only_here, only_there):
    here = {*inspect.signature(function).parameters, *options.__annotations__} - {"options"}
    there = {parameter.name for parameter in command.params}
    assert (here - there, there - here) == (only_here, only_there)


def test_a_folder_becomes_a_run_and_the_run_a_file(at_home, color_model):
    run = visiontool.finetune(
        "mydata", model=color_model, val_split=0.3, augment="none", rotate=10, seed=7, output="run", workers=1
    )
    assert repr(run) == f"<Run {at_home / 'run'}: accuracy 100.0% on 6 pictures>"
    mine = Classifier(run.folder)
    pictures = [save_picture(at_home / name, color) for name, color in (("red.png", RED), ("blue.png", BLUE))]
    assert [result.predictions[0].label for result in mine.predict(pictures)] == ["warm", "cold"]
    settings = json.loads((run.folder / "settings.json").read_text())
    assert (settings["val_share"], settings["views"], settings["augment"]["rotate"]) == (0.3, 4, 10)
    again = visiontool.finetune(from_run=run.folder, seed=8)
    assert again.folder == at_home / "runs" / "mydata"
    assert json.loads((again.folder / "settings.json").read_text()) == settings | {"seed": 8}

    file = visiontool.export(run.folder, output="mine.onnx", verify_on="mydata")
    assert repr(file) == "<Export mine.onnx: fp32, compared>"
    assert (Classifier("mine.onnx").logits(pictures) == mine.logits(pictures)).all()
    assert str(visiontool.export(again.folder, verify=False).path) == "mydata.onnx"


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: visiontool.finetune("mydata", epoch=5), UsageError, r"no option 'epoch'.*\nhelp\(visiontool.finet"),
        (lambda: visiontool.finetune("mydata", view=5), UsageError, "'view'. Closest: views"),
        (lambda: visiontool.finetune("mydata", augment="hard"), UsageError, "none, light, medium, heavy"),
        (lambda: visiontool.finetune("mydata", few=0), UsageError, "few is 0"),
        (lambda: visiontool.finetune(), UsageError, "name the folder of the data"),
        (lambda: visiontool.finetune("gone", model="lenet5"), DataError, "gone is not there"),
        (lambda: visiontool.finetune(from_run="gone"), DataError, "No such file"),
        (lambda: visiontool.finetune("mydata", model="alexnet", offline=True), ModelError, "alexnet-owt-7be5be79"),
        (lambda: visiontool.finetune("mydata", weights="x.pth"), UsageError, "name it"),
        (lambda: visiontool.export("lenet5", precison="fp16"), UsageError, "no option 'precison'"),
        (lambda: visiontool.export("lenet5", precision="fp8"), UsageError, "one of fp32, fp16, int8"),
        (lambda: visiontool.export("lenet5", static_batch=0), UsageError, "static_batch is 0"),
        (lambda: visiontool.export("lenet5", output="mydata"), UsageError, "mydata exists"),
        (lambda: visiontool.export("alexnet", offline=True), ModelError, "alexnet-owt-7be5be79"),
        (lambda: visiontool.models("vgg17"), ModelError, "no model fits 'vgg17'. Closest: vgg1"),
    ],
)
def test_what_is_refused_says_why(at_home, call, error, words):
    with pytest.raises(error, match=words):
        call()
    assert [path.name for path in at_home.iterdir()] == ["mydata"]


def test_the_models_are_the_rows_of_the_list(run):
    rows = visiontool.models("vgg", license="permissive", max_params=140e6)
    command = ("models", "vgg", "--license", "permissive", "--max-params", "140M")
    assert json.loads(json.dumps(rows)) == json.loads(run(*command, "--json").out)
    assert [line.split() for line in repr(rows).splitlines()] == [
        line.split() for line in run(*command).out.splitlines()
    ]
