"""Model files that lie, are broken or mean harm, through the command line: a clear error, exit 4, and nothing else."""

import csv
import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import COLOR_SPEC, Ran, color_graph, save_model, save_picture
from onnx import TensorProto, helper

from visiontool.model.spec import MANIFEST_KEY

Build = Callable[[Path], Path]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return save_picture(tmp_path / "red.png", (255, 0, 0))


def file_with(manifest: str, harm: Callable[[onnx.ModelProto], None] | None = None) -> Build:
    def build(folder: Path) -> Path:
        model = color_graph()
        if harm is not None:
            harm(model)
        helper.set_model_props(model, {MANIFEST_KEY: manifest})
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        return folder / "model.onnx"

    return build


def with_spec(**changes: Any) -> Build:
    return file_with(replace(COLOR_SPEC, **changes).to_json())


def with_bytes(data: bytes) -> Build:
    def build(folder: Path) -> Path:
        path = folder / "model.onnx"
        path.write_bytes(data)
        return path

    return build


def external(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    model.graph.initializer[0].external_data.add(key="location", value="weights.bin")


def foreign_operator(model: onnx.ModelProto) -> None:
    model.graph.node[-1].domain = "evil.example\n\x1b[2J"


def huge_batch(model: onnx.ModelProto) -> None:
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.shape.dim[0].dim_value = 2**40


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, [1]))


def strange_names(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = model.graph.node[-1].output[0] = "a\n\x1b[2J" + "b" * 5000


def huge_split(model: onnx.ModelProto) -> None:
    """onnxruntime, when it opens the file, would make room for too many outputs and crash on too few."""
    node = helper.make_node("Split", ["embedding"], ["logits"], axis=1, num_outputs=2**31 - 1)
    model.graph.node[-1].CopyFrom(node)


GOOD = COLOR_SPEC.to_json()
HOSTILE: dict[str, tuple[Build, str]] = {
    "noise": (with_bytes(np.random.default_rng(0).bytes(4096)), "not an ONNX file, or a damaged one"),
    "text": (with_bytes(b"<!DOCTYPE html><html>404 Not Found</html>"), "not an ONNX file, or a damaged one"),
    "no manifest": (with_bytes(color_graph().SerializeToString()), "comes from another tool"),
    "manifest nested deep": (file_with("[" * 50_000), "nested too deep"),
    "manifest of the future": (file_with(GOOD.replace('"schema": 1', '"schema": 2')), "update visiontool"),
    "label with half a character": (file_with(GOOD.replace('"red"', r'"\udcff"')), "'labels' must be a list of"),
    "label twice": (with_spec(labels=("\x1b[2J\n", "\x1b[2J\n", "c")), r"holds '\x1b[2J\n' more than once"),
    "size of a bomb": (with_spec(input=replace(COLOR_SPEC.input, size=(10**6, 10**6))), "'input.size' must be"),
    "embedding not there": (with_spec(embedding="\x1b[2J"), r"embedding output '\x1b[2J' is not in the graph"),
    "external data": (file_with(GOOD, external), "is kept in another file (external data)"),
    "foreign operator": (file_with(GOOD, foreign_operator), "onnxruntime cannot open it: "),
    "strange names": (file_with(GOOD, strange_names), r"is not in the graph: ['a\n\x1b[2Jbb"),
    "two inputs": (file_with(GOOD, second_input), "the graph takes 2 inputs"),
    "split of a bomb": (file_with(GOOD, huge_split), "a Split into 2,147,483,647 values"),
    "batch of a bomb": (file_with(GOOD, huge_batch), "the graph takes 1099511627776 pictures at once"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_gives_one_clear_error(
    case: str, picture: Path, tmp_path: Path, run: Callable[..., Ran]
) -> None:
    build, words = HOSTILE[case]
    model = build(tmp_path)
    ran = run("predict", picture, "-m", model, "--json")
    assert (ran.code, ran.out) == (4, ""), ran
    assert words in ran.err
    assert ran.err.startswith(f"Error: {model}: ")
    assert 1 <= ran.err.count("\n") <= 3
    assert ran.err.replace("\n", "").isprintable()
    assert len(ran.err) < len(str(model)) + 500


def test_a_model_that_is_no_regular_file_is_not_waited_for(
    picture: Path, tmp_path: Path, run: Callable[..., Ran]
) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    for model in (tmp_path / "pipe.onnx", "/dev/zero"):
        assert run("predict", picture, "-m", model).code == 4


@pytest.mark.parametrize(
    ("channels", "axis", "words"),
    [
        ([0, 1, 7], 1, "onnxruntime"),  # there is no seventh channel
        ([0], 0, "shape ("),  # one row for any number of pictures
        ([0, 1], 1, "labels"),  # a class is lost
    ],
)
def test_a_graph_that_cannot_be_run_or_gives_other_answers_never_answers(
    channels: list[int], axis: int, words: str, picture: Path, tmp_path: Path, run: Callable[..., Ran]
) -> None:
    def gather(model: onnx.ModelProto) -> None:
        """Takes some of the channels, or of the pictures, as logits."""
        model.graph.initializer.append(helper.make_tensor("some", TensorProto.INT64, [len(channels)], channels))
        model.graph.node[-1].CopyFrom(helper.make_node("Gather", ["embedding", "some"], ["logits"], axis=axis))
        model.graph.output[0].type.tensor_type.ClearField("shape")

    second = save_picture(tmp_path / "blue.png", (0, 0, 255))
    ran = run("predict", picture, second, "-m", file_with(GOOD, gather)(tmp_path), "--format", "jsonl", "-q")
    assert (ran.code, ran.out) == (4, "")
    assert ran.err.startswith("Error: ")
    assert words in ran.err


def test_an_answer_that_is_no_number_is_a_failed_row(picture: Path, tmp_path: Path, run: Callable[..., Ran]) -> None:
    model = color_graph()
    model.graph.initializer[0].float_data[0] = 0.0  # red / 0 = inf, 0 / 0 = nan
    path = save_model(model, tmp_path / "m.onnx", COLOR_SPEC.to_metadata())
    ran = run("predict", picture, "-m", path, "--json", "-q")
    assert (ran.code, json.loads(ran.out)["status"]) == (7, "error")
    assert "not a number" in json.loads(ran.out)["error"]


@pytest.mark.parametrize("old", [b"\x06logits", b"\x05image"])
def test_a_name_in_the_graph_that_is_not_utf8_gives_one_clear_error(
    old: bytes, picture: Path, tmp_path: Path, run: Callable[..., Ran]
) -> None:
    path = file_with(GOOD)(tmp_path)
    graph, manifest = color_graph().SerializeToString(), path.read_bytes()
    assert manifest.startswith(graph)
    path.write_bytes(graph.replace(old, old[:1] + b"\xff" + old[2:]) + manifest[len(graph) :])
    ran = run("predict", picture, "-m", path, "--json")
    assert (ran.code, ran.out) == (4, "")
    assert "not UTF-8" in ran.err


# Text that is harmless as a manifest and harmful on a terminal or in a spreadsheet.

CONTROLS = "\x1b]0;owned\x07\x1b[2J\r\n\x9b31m\u202egnp\u2028\x00\ufeff"


@pytest.mark.parametrize("format_", ["table", "json", "jsonl", "csv"])
def test_names_with_terminal_controls_come_out_escaped(
    format_: str, picture: Path, tmp_path: Path, run: Callable[..., Ran]
) -> None:
    labels = (CONTROLS, "green", "blue")
    model = with_spec(name=CONTROLS, labels=labels, label_ids=labels)(tmp_path)
    ran = run("predict", picture, "-m", model, "--format", format_, "-k", "1")
    assert ran.code == 0, ran
    for character in CONTROLS:
        if not character.isprintable() and character != "\n":
            assert character not in ran.out + ran.err, f"U+{ord(character):04X}"
    if format_ in ("json", "jsonl"):
        row = json.loads(ran.out)
        assert row["model"] == row["predictions"][0]["label"] == row["predictions"][0]["label_id"] == CONTROLS
    if format_ in ("jsonl", "csv"):
        assert ran.out.count("\n") == (1 if format_ == "jsonl" else 2)
    if format_ != "table":
        assert r"\x1b]0;owned" in ran.out or r"\u001b]0;owned" in ran.out


@pytest.mark.parametrize(
    "label", ["=cmd|' /C calc'!A0", "+1+1", "-1", "@SUM(A1)", "\t=1+1", "\r=1+1", 'a,"b";[bold red]c[/]<d>&e']
)
def test_a_label_is_one_cell_of_csv_and_no_formula(
    label: str, picture: Path, tmp_path: Path, run: Callable[..., Ran]
) -> None:
    model = with_spec(labels=(label, "green", "blue"))(tmp_path)
    header, row = csv.reader(io.StringIO(run("predict", picture, "-m", model, "--format", "csv").out))
    assert len(row) == len(header)
    assert all(not cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in row)
    assert label.strip() in row[header.index("label_1")]
    assert "bold" not in label or "[bold red]c[/]" in run("predict", picture, "-m", model, "--format", "table").out
