"""visiontool explain: files, rows and errors."""

import json
import sys

import numpy as np
import pytest
from conftest import GREEN, RED, ROOT, save_picture
from PIL import Image

DIGITS = ROOT / "samples" / "digits"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_picture_gives_a_png_beside_which_stdout_has_its_name(run, color_model, tmp_path):
    save_picture(tmp_path / "red.png", RED)
    ran = run("explain", "red.png", "-m", color_model)
    assert (ran.code, ran.out) == (0, "red-explain.png\n")
    assert ran.err == "Model colors, method cam: 1 run of the network for a picture.\n"
    colors = {color for _, color in Image.open("red-explain.png").convert("RGB").getcolors(10**6)}
    assert RED in colors
    assert any(red > blue + 100 and green > blue for red, green, blue in colors - {RED})  # orange
    ran = run("explain", "red.png", "-m", color_model, "--label", "green", "-o", "named.png", "-q")
    assert (ran.code, ran.out, ran.err) == (0, "named.png\n", "")


def test_json_has_the_numbers_of_the_map(run, color_model, tmp_path):
    save_picture(tmp_path / "red.png", RED)
    ran = run("explain", "red.png", "-m", color_model, "--json")
    row = json.loads(ran.out)
    assert np.array_equal(row.pop("map"), np.ones((8, 8)))
    assert row.pop("probability") == pytest.approx(np.e / (np.e + 2))
    assert row == {
        "schema": 1,
        "path": "red.png",
        "status": "ok",
        "model": "colors",
        "file": "red-explain.png",
        "label": "red",
        "index": 0,
        "method": "cam",
        "logit": 1.0,
        "bias": 0.0,
    }
    row = json.loads(run("explain", DIGITS / "3.png", "-m", "lenet5", "--features", "c3", "--json").out)
    facts = {"layer": "c3", "kind": "conv 5x5", "shape": [16, 10, 10], "box": [10, 10, 23, 23]}
    assert {key: row[key] for key in facts} == facts


def test_a_folder_gives_a_file_for_each_and_the_unreadable_an_error(run, color_model, tmp_path):
    for name in ("in/a/1.png", "in/b/1.png"):
        save_picture(tmp_path / name, GREEN)
    (tmp_path / "in" / "c.png").write_text("no picture")
    ran = run("explain", "in", "-m", color_model, "-o", "out/maps")
    assert ran.code == 7
    assert ran.out == "out/maps/1-explain.png\nout/maps/1-explain-2.png\n"
    assert "in/c.png: " in ran.err
    rows = json.loads(run("explain", "in", "-m", color_model, "--method", "occlusion", "--json").out)
    assert [row["status"] for row in rows] == ["error", "ok", "ok"]
    assert run("explain", "in/c.png", "-m", color_model, "--json").code == 7


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["red.png", "--label", "gren"], 2, "colors has no class 'gren'. Closest: green."),
        (["red.png", "--features", "first", "--label", "red"], 2, "--features shows what a layer gives"),
        (["red.png", "--features", "nothing"], 2, "colors has no layer 'nothing' that gives a map"),
        (["red.png", "-o", "red.png"], 2, "-o red.png: each of 1 picture needs a file of its own"),
        (["red.png", "red.jpg", "-o", "both.png"], 2, "-o both.png: each of 2 pictures needs a file of its own"),
        (["red.png", "-o", "no/where.png"], 2, "there is no folder"),
        (["empty"], 3, "no picture was found in empty"),
        (["red.png", "--method", "gradcam"], 4, "Without: --method occlusion."),
    ],
)
def test_errors(run, color_model, tmp_path, arguments, code, words):
    (tmp_path / "empty").mkdir()
    for name in ("red.png", "red.jpg"):
        save_picture(tmp_path / name, RED)
    ran = run("explain", *arguments, "-m", color_model)
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.err


def test_what_is_not_installed_is_said_with_the_command(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    monkeypatch.delitem(sys.modules, "visiontool.pytorch.grad_cam", raising=False)
    ran = run("explain", DIGITS / "3.png", "-m", "lenet5", "--method", "gradcam")
    assert ran.code == 4
    assert 'install "visiontool[train,explain]"' in ran.err
