"""Model files that lie, are broken or mean harm, through the command line: a clear error, exit 4, and nothing else."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from conftest import COLOR_SPEC, color_graph, save_model, save_picture
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


def external(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    model.graph.initializer[0].external_data.add(key="location", value="weights.bin")


def strange_names(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = model.graph.node[-1].output[0] = "a\n\x1b[2J" + "b" * 5000


def huge_split(model: onnx.ModelProto) -> None:
    """onnxruntime, when it opens the file, would make room for too many outputs and crash on too few."""
    node = helper.make_node("Split", ["embedding"], ["logits"], axis=1, num_outputs=2**31 - 1)
    model.graph.node[-1].CopyFrom(node)


GOOD = COLOR_SPEC.to_json()
HOSTILE: dict[str, tuple[Build, str]] = {
    "no manifest": (lambda folder: save_model(color_graph(), folder / "model.onnx"), "comes from another tool"),
    "manifest nested deep": (file_with("[" * 50_000), "manifest: not valid JSON"),
    "external data": (file_with(GOOD, external), "is kept in another file (external data)"),
    "strange names": (file_with(GOOD, strange_names), r"is not in the graph: ['a\n\x1b[2Jbb"),
    "split of a bomb": (file_with(GOOD, huge_split), "a Split into 2,147,483,647 values"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_gives_one_clear_error(case, picture, tmp_path, run):
    build, words = HOSTILE[case]
    model = build(tmp_path)
    ran = run("predict", picture, "-m", model, "--json")
    assert (ran.code, ran.out) == (4, ""), ran
    assert words in ran.err
    assert ran.err.startswith(f"Error: {model}: ")
    assert 1 <= ran.err.count("\n") <= 3
    assert ran.err.replace("\n", "").isprintable()
    assert len(ran.err) < len(str(model)) + 500


@pytest.mark.parametrize(
    ("channels", "axis", "words"),
    [
        ([0, 1, 7], 1, "onnxruntime"),  # there is no seventh channel
        ([0], 0, "shape ("),  # one row for any number of pictures
        ([0, 1], 1, "labels"),  # a class is lost
    ],
)
def test_a_graph_that_cannot_be_run_or_gives_other_answers_never_answers(channels, axis, words, picture, tmp_path, run):
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


def test_a_name_in_the_graph_that_is_not_utf8_gives_one_clear_error(picture, tmp_path, run):
    path = file_with(GOOD)(tmp_path)
    graph, whole = color_graph().SerializeToString(), path.read_bytes()
    path.write_bytes(graph.replace(b"\x06logits", b"\x06\xffogits") + whole[len(graph) :])
    ran = run("predict", picture, "-m", path, "--json")
    assert (ran.code, ran.out) == (4, "")
    assert "not UTF-8" in ran.err


# Text that is harmless as a manifest and harmful on a terminal or in a spreadsheet.

CONTROLS = "\x1b]0;owned\x07\x1b[2J\r\n\x9b31m\u202egnp\u2028\x00\ufeff"


@pytest.mark.parametrize("format_", ["table", "jsonl", "csv"])
def test_names_with_terminal_controls_come_out_escaped(format_, picture, tmp_path, run):
    labels = (CONTROLS, "green", "blue")
    model = with_spec(name=CONTROLS, labels=labels, label_ids=labels)(tmp_path)
    ran = run("predict", picture, "-m", model, "--format", format_, "-k", "1")
    assert ran.code == 0, ran
    for character in CONTROLS:
        if not character.isprintable() and character != "\n":
            assert character not in ran.out + ran.err, f"U+{ord(character):04X}"
    if format_ == "jsonl":
        row = json.loads(ran.out)
        assert row["model"] == row["predictions"][0]["label"] == row["predictions"][0]["label_id"] == CONTROLS
    if format_ in ("jsonl", "csv"):
        assert ran.out.count("\n") == (1 if format_ == "jsonl" else 2)
    if format_ != "table":
        assert r"\x1b]0;owned" in ran.out or r"\u001b]0;owned" in ran.out


@pytest.mark.parametrize("label", ["=cmd|' /C calc'!A0", "\t=1+1", 'a,"b";[bold red]c[/]<d>&e'])
def test_a_label_is_one_cell_of_csv_and_no_formula(label, picture, tmp_path, run):
    model = with_spec(labels=(label, "green", "blue"))(tmp_path)
    header, row = csv.reader(io.StringIO(run("predict", picture, "-m", model, "--format", "csv").out))
    assert len(row) == len(header)
    assert all(not cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in row)
    assert label.strip() in row[header.index("label_1")]
    assert "bold" not in label or "[bold red]c[/]" in run("predict", picture, "-m", model, "--format", "table").out
