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

from visiontool.spec import MANIFEST_KEY

Build = Callable[[Path], Path]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return save_picture(tmp_path / "red.png", (255, 0, 0))


def file_with(manifest: str, graph: Callable[[], onnx.ModelProto] = color_graph) -> Build:
    return lambda folder: save_model(graph(), folder / "model.onnx", {MANIFEST_KEY: manifest})


def with_spec(**changes: Any) -> Build:
    return file_with(replace(COLOR_SPEC, **changes).to_json())


def with_bytes(data: bytes) -> Build:
    def build(folder: Path) -> Path:
        path = folder / "model.onnx"
        path.write_bytes(data)
        return path

    return build


def with_external_data(folder: Path) -> Path:
    path = folder / "model.onnx"
    model = color_graph()
    model.graph.initializer[0].raw_data = np.float32(255).tobytes()
    del model.graph.initializer[0].float_data[:]
    helper.set_model_props(model, COLOR_SPEC.to_metadata())
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (folder / "weights.bin").is_file()
    return path


def with_operator_of_another_library() -> onnx.ModelProto:
    model = color_graph()
    model.graph.node[-1].domain = "evil.example\n\x1b[2J"
    return model


def with_fixed_batch(size: int) -> Callable[[], onnx.ModelProto]:
    def graph() -> onnx.ModelProto:
        model = color_graph()
        for port in (*model.graph.input, *model.graph.output):
            port.type.tensor_type.shape.dim[0].dim_value = size
        return model

    return graph


def with_two_inputs() -> onnx.ModelProto:
    model = color_graph()
    model.graph.input.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, [1]))
    return model


def with_strange_names() -> onnx.ModelProto:
    model = color_graph()
    model.graph.output[0].name = model.graph.node[-1].output[0] = "a\n\x1b[2J" + "b" * 5000
    return model


def with_split(count: int, outputs: list[str]) -> Callable[[], onnx.ModelProto]:
    """onnxruntime, when it opens the file, would make room for too many outputs and crash on too few."""

    def graph() -> onnx.ModelProto:
        model = color_graph()
        model.graph.node[-1].CopyFrom(helper.make_node("Split", ["embedding"], outputs, axis=1, num_outputs=count))
        return model

    return graph


GOOD = COLOR_SPEC.to_json()
HOSTILE: dict[str, tuple[Build, str]] = {
    "external data": (with_external_data, "is kept in another file (external data)"),
    "empty": (with_bytes(b""), "the file is empty"),
    "noise": (with_bytes(np.random.default_rng(0).bytes(4096)), "not an ONNX file, or a damaged one"),
    "text": (with_bytes(b"<!DOCTYPE html><html>404 Not Found</html>"), "not an ONNX file, or a damaged one"),
    "no manifest": (with_bytes(color_graph().SerializeToString()), "comes from another tool"),
    "manifest nested deep": (file_with("[" * 50_000), "nested too deep"),
    "manifest of the future": (file_with(GOOD.replace('"schema": 1', '"schema": 2')), "update visiontool"),
    "label twice": (with_spec(labels=("a", "a", "b")), "'labels' holds 'a' more than once"),
    "label with half a character": (file_with(GOOD.replace('"red"', r'"\udcff"')), "'labels[0]' must be text"),
    "label with escapes twice": (
        with_spec(labels=("\x1b[2J\n", "\x1b[2J\n", "c")),
        r"holds '\x1b[2J\n' more than once",
    ),
    "size of a bomb": (with_spec(input=replace(COLOR_SPEC.input, size=(10**6, 10**6))), "'input.size' must be"),
    "embedding not there": (with_spec(embedding="\x1b[2J"), r"embedding output '\x1b[2J' is not in the graph"),
    "foreign operator": (file_with(GOOD, with_operator_of_another_library), "onnxruntime cannot open it: "),
    "strange names": (file_with(GOOD, with_strange_names), r"is not in the graph: ['a\n\x1b[2Jbb"),
    "two inputs": (file_with(GOOD, with_two_inputs), "the graph takes 2 inputs"),
    "split of a bomb": (file_with(GOOD, with_split(2**31 - 1, ["logits"])), "a Split into 2,147,483,647 values"),
    "batch of a bomb": (file_with(GOOD, with_fixed_batch(2**40)), "the graph takes 1099511627776 pictures at once"),
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


# Graphs that are well as long as nobody runs them.


def out_of_bounds() -> onnx.ModelProto:
    """Opens, but cannot be run: there is no seventh channel."""
    model = color_graph()
    model.graph.initializer.append(helper.make_tensor("channels", TensorProto.INT64, [3], [0, 1, 7]))
    model.graph.node[-1].CopyFrom(helper.make_node("Gather", ["embedding", "channels"], ["logits"], axis=1))
    return model


def losing_a_picture() -> onnx.ModelProto:
    """Gives one row of logits for any number of pictures."""
    model = color_graph()
    model.graph.initializer.append(helper.make_tensor("first", TensorProto.INT64, [1], [0]))
    model.graph.node[-1].CopyFrom(helper.make_node("Gather", ["embedding", "first"], ["logits"], axis=0))
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "M"
    return model


def losing_a_class() -> onnx.ModelProto:
    model = color_graph()
    model.graph.initializer.append(helper.make_tensor("first", TensorProto.INT64, [2], [0, 1]))
    model.graph.node[-1].CopyFrom(helper.make_node("Gather", ["embedding", "first"], ["logits"], axis=1))
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def test_a_graph_that_cannot_be_run_gives_one_clear_error(
    picture: Path, tmp_path: Path, run: Callable[..., Ran]
) -> None:
    ran = run("predict", picture, "-m", file_with(GOOD, out_of_bounds)(tmp_path), "--json", "-q")
    assert (ran.code, ran.out) == (4, "")
    assert "onnxruntime" in ran.err
    assert 1 <= ran.err.count("\n") <= 3


@pytest.mark.parametrize("graph", [losing_a_picture, losing_a_class])
def test_a_graph_that_gives_another_number_of_answers_never_answers(
    graph: Callable[[], onnx.ModelProto], picture: Path, tmp_path: Path, run: Callable[..., Ran]
) -> None:
    second = save_picture(tmp_path / "blue.png", (0, 0, 255))
    ran = run("predict", picture, second, "-m", file_with(GOOD, graph)(tmp_path), "--format", "jsonl", "-q")
    assert ran.code == 4, ran
    assert ran.out == ""
    assert ran.err.startswith("Error: ")
    assert "shape (" in ran.err or "labels" in ran.err


def test_an_answer_that_is_no_number_is_a_failed_row(picture: Path, tmp_path: Path, run: Callable[..., Ran]) -> None:
    model = color_graph()
    model.graph.initializer[0].float_data[0] = 0.0  # red / 0 = inf, 0 / 0 = nan
    ran = run(
        "predict", picture, "-m", save_model(model, tmp_path / "m.onnx", COLOR_SPEC.to_metadata()), "--json", "-q"
    )
    assert ran.code == 7
    assert json.loads(ran.out)["status"] == "error"
    assert "not a number" in json.loads(ran.out)["error"]


@pytest.mark.parametrize("old", [b"logits", b"image"])
def test_a_name_in_the_graph_that_is_not_utf8_gives_one_clear_error(
    old: bytes, picture: Path, tmp_path: Path, run: Callable[..., Ran]
) -> None:
    bad = b"\xff" + old[1:]
    data = (
        color_graph()
        .SerializeToString()
        .replace(b"\x05image" if old == b"image" else b"\x06logits", bytes([len(old)]) + bad)
    )
    path = with_bytes(data)(tmp_path)
    metadata = onnx.StringStringEntryProto(key=MANIFEST_KEY, value=GOOD).SerializeToString()
    length = len(metadata)
    assert 128 <= length < 2**14
    with open(path, "ab") as file:
        file.write(bytes([14 << 3 | 2, length & 0x7F | 0x80, length >> 7]) + metadata)
    ran = run("predict", picture, "-m", path, "--json")
    assert (ran.code, ran.out) == (4, "")
    assert "not UTF-8" in ran.err


# Text that is harmless as a manifest and harmful on a terminal or in a spreadsheet.

CONTROLS = "\x1b]0;owned\x07\x1b[2J\r\n\x9b31m\u202egnp\u2028\x00\ufeff"
FORMULAS = ("=cmd|' /C calc'!A0", "+1+1", "-1", "@SUM(A1)")


def shown_in(format_: str, label: str, folder: Path, picture: Path, run: Callable[..., Ran]) -> Ran:
    spec = replace(COLOR_SPEC, labels=(label, "green", "blue"), label_ids=(label, "g", "b"))
    model = save_model(color_graph(), folder / "model.onnx", spec.to_metadata())
    ran = run("predict", picture, "-m", model, "--format", format_, "-k", "1")
    assert ran.code == 0, ran
    return ran


@pytest.mark.parametrize("format_", ["table", "json", "jsonl", "csv"])
def test_a_label_with_terminal_controls_comes_out_escaped(
    format_: str, picture: Path, tmp_path: Path, run: Callable[..., Ran]
) -> None:
    ran = shown_in(format_, CONTROLS, tmp_path, picture, run)
    for character in CONTROLS:
        if not character.isprintable() and character != "\n":
            assert character not in ran.out, f"U+{ord(character):04X}"
            assert character not in ran.err
    if format_ in ("json", "jsonl"):
        assert json.loads(ran.out)["predictions"][0]["label"] == CONTROLS
        assert json.loads(ran.out)["predictions"][0]["label_id"] == CONTROLS
    if format_ == "jsonl":
        assert ran.out.count("\n") == 1
    if format_ == "csv":
        assert ran.out.count("\n") == 2
    if format_ != "table":
        assert r"\x1b]0;owned" in ran.out or r"\u001b]0;owned" in ran.out


@pytest.mark.parametrize("label", [*FORMULAS, "\t=1+1", "\r=1+1", " =1+1"])
def test_no_label_starts_a_formula_in_csv(label: str, picture: Path, tmp_path: Path, run: Callable[..., Ran]) -> None:
    header, row = csv.reader(io.StringIO(shown_in("csv", label, tmp_path, picture, run).out))
    assert all(not cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in row)
    assert label.strip() in row[header.index("label_1")]


def test_a_label_with_quotes_commas_and_markup_stays_one_cell_and_plain_text(
    picture: Path, tmp_path: Path, run: Callable[..., Ran]
) -> None:
    label = 'a,"b";[bold red]c[/]<d>&e'
    header, row = csv.reader(io.StringIO(shown_in("csv", label, tmp_path, picture, run).out))
    assert row[header.index("label_1")] == label
    assert len(row) == len(header)
    assert "[bold red]c[/]" in shown_in("table", label, tmp_path, picture, run).out


@pytest.mark.parametrize("format_", ["table", "json", "jsonl", "csv"])
def test_a_model_name_with_terminal_controls_comes_out_escaped(
    format_: str, picture: Path, tmp_path: Path, run: Callable[..., Ran]
) -> None:
    model = with_spec(name=CONTROLS)(tmp_path)
    ran = run("predict", picture, "-m", model, "--format", format_)
    assert ran.code == 0
    for character in "\x1b\x07\x9b\u202e\x00":
        assert character not in ran.out
        assert character not in ran.err
    if format_ in ("json", "jsonl"):
        assert json.loads(ran.out)["model"] == CONTROLS
