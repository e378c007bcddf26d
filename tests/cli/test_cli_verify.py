"""`visiontool verify` as a user meets it: a table or JSON on stdout, and the exit code says what to make of it."""

import itertools
import json
import re
import shlex
import shutil
from dataclasses import replace

import onnx
import pytest
from conftest import COLOR_SPEC, RED, ROOT, color_graph, save_color_pictures, save_model, save_picture
from onnx import TensorProto, helper
from test_imports import TORCH, run_blocked


@pytest.fixture
def doubled(tmp_path):
    """The color model with logits twice as large."""
    graph = color_graph()
    graph.graph.initializer[0].CopyFrom(helper.make_tensor("white", TensorProto.FLOAT, [], [127.5]))
    return save_model(graph, tmp_path / "doubled.onnx", COLOR_SPEC.to_metadata())


@pytest.fixture
def pictures(tmp_path):
    return save_color_pictures(tmp_path / "pictures", 3)


def test_a_model_passes_against_itself_without_torch():
    ran = run_blocked(TORCH, "verify", "lenet5", "lenet5")
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[-1] == "B answers as A does."
    rows = {line[:12].strip(): line[12:].split() for line in lines if line[:12].strip()}
    assert rows["Model"] == ["lenet5"] * 2
    assert rows["Runs as"] == ["fp32", "on", "cpu"] * 2
    assert rows["Logit"] == ["0", "0.001"]
    assert "Worst" not in rows


def test_what_differs_is_exit_6_with_the_table_on_stdout(run, color_model, doubled, pictures):
    ran = run("verify", color_model, doubled, "--on", pictures)
    assert ran.code == 6
    assert all(len(line) <= 80 for line in ran.out.splitlines())
    assert "B does not answer as A does; 3 faults:" in ran.out
    assert "- the logits differ by 1 of their size, where at most 1e-05 is allowed" in ran.out
    first, worst, layer = ran.err.splitlines()
    assert first == (
        "Error: doubled.onnx does not answer as colors.onnx does: "
        "the logits differ by 1 of their size, where at most 1e-05 is allowed (and 2 more)"
    )
    assert worst.startswith(f"The worst picture is {pictures}/")
    assert "(57.6%) became" in worst
    assert worst.endswith("(78.7%).")
    facts = json.loads(run("verify", color_model, doubled, "--on", pictures, "--json").out)
    assert (facts["passed"], len(facts["faults"]), facts["pictures"]) == (False, 3, 3)
    assert facts["b"]["path"] == str(doubled)
    assert layer.startswith("The first layer that differs is scaled (Div): its output by 100.00% of its size")


def test_accuracy_is_shown_where_folders_are_classes(run, color_model, tmp_path):
    save_picture(tmp_path / "data" / "red" / "0.png", RED)
    save_picture(tmp_path / "data" / "blue" / "0.png", RED)
    (tmp_path / "data" / "blue" / "1.png").write_bytes(b"")
    ran = run("verify", color_model, color_model, "--on", tmp_path / "data")
    assert ran.code == 0, ran.err
    assert [line.split() for line in ran.out.splitlines() if line.startswith("Accuracy")] == [
        ["Accuracy", "50.0%", "50.0%"]
    ]
    assert "1 that cannot be read left out" in " ".join(ran.out.split())


def test_a_run_is_compared_on_its_own_val(run, color_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for label, color in (("red", (250, 9, 9)), ("green", (9, 250, 9))):
        for number in range(5):
            save_picture(tmp_path / "data" / label / f"{number}.png", tuple(max(0, part - number) for part in color))
    assert run("finetune", "data", "-m", color_model, "-q").code == 0
    ran = run("verify", "runs/data", "runs/data/model.onnx")
    assert ran.code == 0, ran.err
    assert "2: val of runs/data" in ran.out
    assert "100.0%" in ran.out


@pytest.mark.parametrize(
    ("b", "options", "code", "words"),
    [
        ("colors.onnx", ["--on", "gone"], 3, "there is no such file or folder"),
        ("gone.onnx", [], 4, "there is no such file"),
        ("colors.onnx", ["--mean", "0.5"], 2, "the file says this of itself; leave out --mean"),
        ("colors.onnx", ["--device-a", "cpu", "--device-b", "cuda:7"], 1, "cuda:7"),
    ],
)
def test_wrong_usage_data_models_and_devices_have_their_own_codes(
    run, color_model, tmp_path, monkeypatch, b, options, code, words
):
    monkeypatch.chdir(tmp_path)
    ran = run("verify", color_model, b, *options)
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.err


def test_a_file_of_another_tool_is_described_by_options(run, tmp_path, pictures):
    """A wants pixels of 0 to 255 and scales them itself, B gets them scaled; what they answer is the same."""
    nodes = [helper.make_node("ReduceMean", ["data", "axes"], ["out"], keepdims=0)]
    graph = helper.make_graph(
        nodes,
        "theirs",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])],
    )
    theirs = tmp_path / "theirs.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), theirs)
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    spec = replace(COLOR_SPEC, interpolation="bicubic", crop_pct=0.875, embedding=None)
    model = color_graph()
    model.graph.output.pop()
    ours = save_model(model, tmp_path / "ours.onnx", spec.to_metadata())
    described = ("--class-names", tmp_path / "names.txt", "--std", "1", "--crop-pct", "0.875")
    ran = run("verify", ours, theirs, "--on", pictures, *described, "--mean", "0", "--interpolation", "bicubic")
    assert ran.code == 0, ran.out + ran.err
    ran = run("verify", ours, theirs, "--on", pictures, *described, "--mean", "0.5", "--interpolation", "bicubic")
    assert ran.code == 6
    assert "Their layers cannot be matched by name." in ran.err


PAGE = (ROOT / "docs" / "verify.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_commands_of_the_page_run(run, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "samples", tmp_path / "samples")
    for label, number in itertools.product(("cat", "dog"), range(10)):
        color = (200 - 9 * number, 30, 40) if label == "cat" else (20, 30 + 7 * number, 200 - 9 * number)
        save_picture(tmp_path / "mydata" / label / f"{number}.jpg", color, (64, 48))
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    assert len(block.splitlines()) == 5
    for command in block.splitlines():
        ran = run(*shlex.split(command, comments=True)[1:])
        assert ran.code == 0, f"{command}: {ran.out}{ran.err}"


def test_the_example_of_the_page_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "verify.md", "exec"), {})
    assert capsys.readouterr().out == "1.0 0.0 ()\n"
