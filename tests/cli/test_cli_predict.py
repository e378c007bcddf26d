"""`visiontool predict`: rows, formats, exit codes. stdout and stderr are looked at apart."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from conftest import save_picture
from PIL import Image

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
# softmax of (1, 0, 0): e / (e + 2)
CERTAIN = 0.576117


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    for name, color in (("2.png", GREEN), ("10.png", BLUE), ("1.png", RED)):
        save_picture(folder / name, color)
    return folder


def rows_of(text):
    return [json.loads(line) for line in text.splitlines()]


def test_one_picture_gives_one_json_object(run, color_model, pictures):
    ran = run("predict", pictures / "1.png", "-m", color_model)
    assert ran.code == 0
    row = json.loads(ran.out)
    best, *others = row.pop("predictions")
    assert row == {"schema": 1, "path": str(pictures / "1.png"), "status": "ok", "model": "colors"}
    assert best == {"label": "red", "index": 0, "probability": CERTAIN}
    assert [item["label"] for item in others] == ["green", "blue"]


def test_a_folder_gives_a_line_a_picture_in_natural_order(run, color_model, pictures):
    ran = run("predict", pictures, "-m", color_model, "-k", 1)
    assert ran.code == 0
    rows = rows_of(ran.out)
    assert [Path(row["path"]).name for row in rows] == ["1.png", "2.png", "10.png"]
    assert [row["predictions"][0]["label"] for row in rows] == ["red", "green", "blue"]
    assert all(len(row["predictions"]) == 1 for row in rows)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_broken_picture_gets_its_own_row_and_never_its_neighbors_answer(run, color_model, pictures, batch_size):
    (pictures / "1b.png").write_bytes(b"junk")
    (pictures / "3.png").write_bytes((pictures / "2.png").read_bytes()[:45])
    ran = run("predict", pictures, pictures / "gone.png", "-m", color_model, "-b", batch_size)
    assert ran.code == 7
    rows = {Path(row["path"]).name: row for row in rows_of(ran.out)}
    assert list(rows) == ["1.png", "1b.png", "2.png", "3.png", "10.png", "gone.png"]
    assert rows["2.png"]["predictions"][0]["label"] == "green"
    assert rows["10.png"]["predictions"][0]["label"] == "blue"
    for name, word in (("1b.png", "not a picture"), ("3.png", "truncated"), ("gone.png", "no such file")):
        assert rows[name]["status"] == "error"
        assert word in rows[name]["error"]
        assert "predictions" not in rows[name]
    assert "3 of 6 inputs failed" in ran.err


def test_a_jpeg_that_is_cut_off_is_classified_where_that_is_asked_for(run, color_model, tmp_path):
    whole = Path(save_picture(tmp_path / "a.jpg", RED, (160, 160))).read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) - 20])
    command = ["predict", tmp_path / "a.jpg", "-m", color_model]
    ran = run(*command)
    assert (ran.code, "--on-truncated fill" in json.loads(ran.out)["error"]) == (7, True)
    ran = run(*command, "--on-truncated", "fill")
    row = json.loads(ran.out)
    assert (ran.code, row["predictions"][0]["label"]) == (0, "red")
    assert row["notes"][0].startswith("truncated: ")


def test_the_shape_of_json_follows_what_was_typed_not_what_is_there(run, color_model, pictures, tmp_path):
    for typed, kind in (("1.png", dict), ("gone.png", dict), ("", list), ("1.*", list)):
        document = json.loads(run("predict", pictures / typed, "-m", color_model, "--json").out)
        assert type(document) is kind
    save_picture(tmp_path / "one" / "a.png", RED)
    assert len(json.loads(run("predict", tmp_path / "one", "-m", color_model, "--json").out)) == 1


def test_temperature_and_minimum(run, make_color_model, pictures):
    model = make_color_model("soft.onnx", temperature=2.0)
    for minimum, unknown in ((0.45, None), (0.46, True)):
        row = json.loads(run("predict", pictures / "1.png", "-m", model, "--min-probability", minimum).out)
        assert row["predictions"][0] == {"label": "red", "index": 0, "probability": 0.451863}  # e^0.5 / (e^0.5 + 2)
        assert row.get("unknown") is unknown


def test_csv_has_one_line_a_picture_and_a_header(run, color_model, pictures):
    (pictures / "4.png").write_bytes(b"")
    ran = run("predict", pictures, "-m", color_model, "--format", "csv", "-k", 2, "--min-probability", 0.6)
    assert ran.code == 7
    lines = list(csv.DictReader(io.StringIO(ran.out)))
    assert [Path(line["path"]).name for line in lines] == ["1.png", "2.png", "4.png", "10.png"]
    assert lines[0]["label_1"] == "red"
    assert float(lines[0]["probability_1"]) == CERTAIN
    assert lines[0]["unknown"] == "true"
    assert "label_3" not in lines[0]
    assert (lines[2]["status"], lines[2]["label_1"]) == ("error", "")
    assert "empty" in lines[2]["error"]
    assert None not in lines[2]  # as many cells as the header has


@pytest.mark.parametrize("columns", ["80", "1"])
def test_table_shows_the_answer_in_80_columns(run, color_model, pictures, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    long = save_picture(pictures / ("x" * 100 + "the_end.png"), BLUE)
    ran = run("predict", pictures, "-m", color_model, "--format", "table")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert len(lines) == 4
    assert all(len(line) <= 80 for line in lines)
    assert "red" in lines[0]
    assert "57.6%" in lines[0]
    assert lines[3].startswith("…")
    assert "the_end.png" in lines[3]
    assert long.name not in lines[3]


def test_a_narrow_terminal_shows_no_bars_but_all_numbers_and_colors(monkeypatch):
    from visiontool.cli.output.table import TableRows
    from visiontool.inference.result import Prediction, Result

    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    result = Result("a/picture.png", "colors", (Prediction("red", 0, 0.5761),), unknown=True)
    text = TableRows(detailed=False, on_terminal=True).encode(result).decode()
    assert "\x1b[33m" in text  # unknown, in yellow
    line = re.sub(r"\x1b\[[0-9;]*m", "", text).rstrip("\n")
    assert len(line) <= 30
    assert "57.6%" in line


def test_the_first_frame_and_errors_are_in_the_table(run, color_model, tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, BLUE)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    ran = run("predict", tmp_path / "moving.gif", tmp_path / "gone.png", "-m", color_model, "--format", "table")
    assert ran.code == 7
    assert "red" in ran.out
    assert "only the first frame is used" in ran.out
    assert "error: no such file" in ran.out


@pytest.mark.parametrize("format_", ["table", "json", "jsonl", "csv"])
def test_hostile_file_names_come_out_escaped(run, color_model, tmp_path, format_):
    name = "a\x1b[31m\n\u202e\x9bb.png"
    save_picture(tmp_path / "in" / name, RED)
    ran = run("predict", tmp_path / "in", "-m", color_model, "--format", format_)
    assert ran.code == 0
    for unsafe in ("\x1b", "\u202e", "\x9b"):
        assert unsafe not in ran.out
    if format_ == "jsonl":
        assert json.loads(ran.out)["path"] == str(tmp_path / "in" / name)


def test_output_file_takes_the_format_of_its_name(run, color_model, pictures, tmp_path):
    for name in ("rows.csv", "rows.jsonl", "rows.json"):
        ran = run("predict", pictures, "-m", color_model, "-o", tmp_path / name)
        assert (ran.code, ran.out) == (0, "")
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 4
    assert len(rows_of((tmp_path / "rows.jsonl").read_text())) == 3
    assert len(json.loads((tmp_path / "rows.json").read_text())) == 3
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["1.png", "--json", "--format", "csv"], 2, "contradict"),
        (["1.png", "-k", "0"], 2, "-k"),
        (["1.png", "--device", "gpu"], 2, "expected auto, cpu, cuda"),
        (["1.png", "--mean", "0.5"], 2, "--mean"),
        (["1.png", "--img-size", "8"], 2, "--img-size"),
        (["1.png", "--img-size", "8x"], 2, "not a size"),
        (["1.png", "--mean", "a,b"], 2, "not one number, or three"),
        (["1.png", "--resume"], 2, "--resume goes on with a file that has a row a line"),
        (["1.png", "--resume", "--force", "-o", "rows.csv"], 2, "leave one out"),
        (["1.png", "--format", "parquet"], 2, "give -o FILE.parquet"),
        (["1.png", "--shard", "5/4"], 2, "I from 1 to N"),
        (["1.png", "--max-pixels", "many"], 2, "not an amount"),
        (["1.png", "--mode", "copy"], 2, "about --sort-into DIR"),
        (["1.png", "--sort-into", "sorted", "--mode", "move"], 2, "say --yes"),
        (["1.png", "--undo", "--sort-into", "sorted"], 2, "--sort-into DIR and nothing else"),
        (["1.png", "-o", "no/rows.csv"], 2, "-o no/rows.csv: the folder is not there"),
        (["1.png", "-o", "rows.xlsx"], 2, "say --format as well"),
        (["empty"], 3, "no picture was found in empty"),
        (["empty.txt", "--shard", "1/2"], 3, "no picture was found in empty.txt"),
        (["1.png", "@gone"], 3, "gone"),
        (["--sort-into", "empty", "--undo"], 3, "nothing to undo"),
        (["1.png", "-m", "lenett5"], 4, "lenet5"),
        (["1.png", "-m", "model.pt"], 4, "docs/model-file.md"),
    ],
)
def test_what_is_refused_gives_no_row_and_says_why(run, color_model, pictures, monkeypatch, arguments, code, words):
    monkeypatch.chdir(pictures)
    Path("empty").mkdir()
    Path("empty.txt").touch()
    Path("model.pt").write_bytes(b"PK")
    ran = run("predict", *(() if "--undo" in arguments else ("-m", color_model)), *arguments)
    assert ran.code == code
    assert ran.out == ""
    assert words in ran.err
    assert "Traceback" not in ran.err
    assert not Path("rows.xlsx").exists()


def test_an_empty_folder_among_others_and_a_forgotten_command_are_told(run, color_model, pictures, tmp_path):
    (tmp_path / "empty").mkdir()
    ran = run("predict", pictures, tmp_path / "empty", "-m", color_model)
    assert ran.code == 0
    assert f"No picture was found in {tmp_path / 'empty'}" in ran.err
    ran = run(pictures / "1.png")
    assert ran.code == 2
    assert f"visiontool predict {pictures / '1.png'}" in ran.err


def test_what_other_tools_call_the_options_works(run, color_model, pictures):
    ran = run("predict", pictures / "1.png", "-m", color_model, "--topk", 1, "--conf", 0.9)
    row = json.loads(ran.out)
    assert len(row["predictions"]) == 1
    assert row["unknown"] is True
    assert "--topk" not in run("predict", "--help").out


def test_the_crop_mode_changes_the_answer(run, color_model, tmp_path):
    picture = Image.new("RGB", (32, 8), BLUE)
    picture.paste(RED, (12, 0, 20, 8))
    picture.save(tmp_path / "wide.png")
    for mode, label in (("center", "red"), ("squash", "blue")):  # the middle 8x8; three quarters
        ran = run("predict", tmp_path / "wide.png", "-m", color_model, "--crop-mode", mode)
        assert json.loads(ran.out)["predictions"][0]["label"] == label


def test_what_no_recursive_and_quiet_leave_out(run, color_model, pictures):
    save_picture(pictures / "inside" / "5.png", RED)
    ran = run("predict", pictures, "-m", color_model)
    assert (len(rows_of(ran.out)), "colors: 3 classes" in ran.err) == (4, True)
    ran = run("predict", pictures, "-m", color_model, "--no-recursive", "-q")
    assert (len(rows_of(ran.out)), ran.err) == (3, "")
    assert run("predict", pictures / "gone.png", "-m", color_model, "-q").err != ""  # errors stay


def test_the_model_of_the_environment_is_named_as_such(run, color_model, pictures, monkeypatch):
    monkeypatch.setenv("VISIONTOOL_MODEL", str(color_model))
    ran = run("predict", pictures)
    assert ran.err.splitlines()[0] == "Model colors: 3 classes, on cpu. VISIONTOOL_MODEL names it."
