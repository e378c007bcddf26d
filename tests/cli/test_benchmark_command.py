"""`visiontool benchmark`: the table, the JSON, remarks, and the exit codes."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import COLOR_SPEC, ROOT, color_graph, save_color_pictures, save_model
from PIL import Image

from visiontool.cli.benchmark import remarks, table
from visiontool.errors import ModelError
from visiontool.evaluation import benchmark
from visiontool.evaluation.benchmark import process
from visiontool.evaluation.benchmark.measuring import Round
from visiontool.evaluation.benchmark.rows import Accuracy, Row, Subject
from visiontool.inference.classifier import Classifier

PLAIN = Round(
    device="cpu",
    provider="cpu",
    latencies_ms=(2.0, 1.0, 4.0, 3.0),
    network_images_per_s=500.0,
    opening_images_per_s=300.0,
    end_to_end_images_per_s=200.0,
    decode_ms=1.25,
    preprocess_ms=0.5,
    run_ms=2.0,
    unreadable=0.0,
    peak_memory_bytes=123_000_000,
    gpu_memory_bytes=None,
    seconds=0.5,
)


@pytest.fixture
def tasks(monkeypatch):
    """No process is started: each task gives PLAIN. The tasks, in order."""
    asked = []

    def measured(task):
        asked.append(task)
        return PLAIN

    monkeypatch.setattr(process, "measured", measured)
    return asked


@pytest.fixture
def pictures(tmp_path):
    return save_color_pictures(tmp_path / "pictures", 3)


def subject(name="colors", *, accuracy=None, path=None, megabytes=1.0, **changes):
    spec = replace(COLOR_SPEC, name=name, **changes)
    return Subject(name, path or Path(f"{name}.onnx"), spec, int(1e6 * megabytes), accuracy)


def model_file(path, **changes):
    return save_model(color_graph(), path, replace(COLOR_SPEC, **changes).to_metadata())


def test_the_command_measures_for_real(run, color_model, pictures, monkeypatch):
    monkeypatch.setattr(benchmark, "ROUNDS", 1)
    ran = run("benchmark", color_model, "--batch-sizes", "1,4", "--on", pictures, "--seconds", 0.02, "--json")
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    assert told["schema"] == 1
    assert told["pictures"] == 3
    assert told["machine"]["cores"] >= 1
    assert {"processor", "onnxruntime", "python"} <= set(told["machine"])
    for row, batch_size in zip(told["rows"], (1, 4), strict=True):
        assert (row["model"], row["batch_size"], row["status"]) == ("colors", batch_size, "ok")
        assert 0 < row["latency_p50_ms"] <= row["latency_p95_ms"]
        assert row["network_images_per_s"] > row["end_to_end_images_per_s"] > 0  # 8x8 pixels: the files are the work
        assert row["decode_ms_per_image"] > 0
        assert row["opening_images_per_s"] > 0
        assert row["peak_memory_bytes"] > 20e6
        assert (row["rounds"], row["noise"], row["accuracy"]) == (1, None, None)


def test_the_table(run, color_model, tmp_path, tasks):
    facts = ({"dataset": "squares", "pictures": 3, "top1": 0.875},)
    other = model_file(tmp_path / "other.onnx", name="ot\x1b[31mher", accuracy=facts)
    ran = run("benchmark", color_model, "-m", other, "--batch-sizes", "8,1")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert "onnxruntime" in lines[0]
    assert "colors: 8x8 pixels, opening alone 300 pictures/s" in lines
    assert r"ot\x1b[31mher: 8x8 pixels, top-1 87.5% (squares), opening alone 300 pictures/s" in lines
    figures = [line.split() for line in lines if line.startswith("fp32")]
    assert figures == [
        ["fp32", batch, "2.00", "4.00", "500", "200", "1.25", "0.500", "2.00", "123", "0%"] for batch in "8181"
    ]
    assert [one.batch_size for one in tasks] == 3 * [8, 1, 8, 1]
    assert {len(one.pictures) for one in tasks} == {len(list((ROOT / "samples").glob("*.jpg")))}
    assert {one.seconds for one in tasks} == {2.0 / 3}
    assert "Medians of 3 rounds, each in a process of its own; latencies of 12 runs a line." in ran.err
    assert "With fewer than 20 runs p95 is the slowest of them" in ran.err
    assert run("benchmark", color_model, "-q").err == ""


def test_the_table_has_80_columns_whatever_is_in_it():
    slow = PLAIN._replace(
        latencies_ms=(12345.6, 23456.7),
        network_images_per_s=123456.7,
        end_to_end_images_per_s=98765.4,
        decode_ms=1234.5,
        preprocess_ms=123.4,
        run_ms=12345.6,
        peak_memory_bytes=123_456_000_000,
    )
    facts = Accuracy(0.5, "a data set with a long name that goes on and on, and on, and then it ends")
    rows = [Row(subject("m" * 50, accuracy=facts), 4096, [slow, slow._replace(latencies_ms=(99999.0,))])]
    lines = table(rows).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1].split()[:3] == ["fp32", "4096", "23457"]
    assert all(len(line.split()) == 11 for line in lines[-1:])


@pytest.mark.parametrize("done", [0, 1])
def test_ctrl_c_prints_what_is_done(run, color_model, monkeypatch, done):
    answers = [PLAIN] * done

    def measured(task):
        if not answers:
            raise KeyboardInterrupt
        return answers.pop()

    monkeypatch.setattr(process, "measured", measured)
    ran = run("benchmark", color_model, "--batch-sizes", "1,8", "--json")
    assert ran.code == 130
    assert "Interrupted" in ran.err
    assert bool(ran.out) == bool(done)
    if done:
        first, second = json.loads(ran.out)["rows"]
        assert (first["status"], first["latency_p50_ms"], first["rounds"]) == ("ok", 2.0, 1)
        assert (second["status"], second["error"]) == ("error", "interrupted")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nope"], 4, "no model is called 'nope'"),
        (["lenet5", "--batch-sizes", "1,x"], 2, "'1,x': expected numbers from 1 to 4096"),
        (["lenet5", "--batch-sizes", "²"], 2, "expected numbers"),
        (["lenet5", "--precision", "fp32,fp8"], 2, "expected some of fp32, fp16, int8"),
        (["lenet5", "--device", "cuda:99"], 1, "cuda:99"),
        (["lenet5", "LeNet-5"], 2, "two of the models are the same file"),
        (["lenet5", "--on", "empty"], 3, "no picture was found in empty"),
        (["lenet5", "--plot", "plot.pdf"], 2, "expected the name of a PNG file"),
        (["lenet5", "--plot", "gone/plot.png"], 2, "there is no folder"),
        (["colors.onnx", "--plot", "plot.png"], 2, "nobody has said how accurate colors (fp32) is"),
    ],
)
def test_what_cannot_be_meant(run, color_model, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    ran = run("benchmark", *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.err
    assert not (tmp_path / "plot.png").exists()


def test_remarks_tell_what_was_odd():
    noisy = [PLAIN, PLAIN._replace(latencies_ms=(5.0,), unreadable=0.5, gpu_memory_bytes=2_000_000_000)]
    text = "\n".join(remarks([Row(subject(), 1, noisy)], pictures="here"))
    assert "differ by up to 67%" in text
    assert "25% of the pictures cannot be read" in text
    assert "2,000 MB" in text


def test_other_precisions_are_made_and_have_no_accuracy(run, tmp_path, monkeypatch):
    made = {}

    def measured(task):
        made[Classifier.load(task.model, device="cpu").spec.precision] = Path(task.model)
        return PLAIN

    monkeypatch.setattr(process, "measured", measured)
    ran = run("benchmark", "lenet5", "--precision", "int8,fp32,fp16", "--batch-sizes", 1, "--json")
    assert ran.code == 0, ran.err
    rows = json.loads(ran.out)["rows"]
    assert [(row["precision"], row["made_here"]) for row in rows] == [("int8", True), ("fp32", False), ("fp16", True)]
    assert [row["accuracy"] is None for row in rows] == [True, False, True]
    assert rows[0]["file_bytes"] < rows[2]["file_bytes"] < rows[1]["file_bytes"]
    assert set(made) == {"int8", "fp32", "fp16"}
    assert not made["int8"].exists()
    assert "calibrated on the samples of visiontool: good for their speed alone" in ran.err


def test_there_is_no_plot_where_nothing_could_be_measured(run, tmp_path, monkeypatch):
    def measured(task):
        raise ModelError("crashed")

    monkeypatch.setattr(process, "measured", measured)
    ran = run("benchmark", "lenet5", "--batch-sizes", 1, "--plot", tmp_path / "plot.png")
    assert ran.code == 7
    assert ran.out.splitlines()[-1] == "fp32     1  not measured: crashed"
    assert "There is no plot" in ran.err
    assert not (tmp_path / "plot.png").exists()


def test_the_commands_of_its_page_run_as_written(run, tasks, monkeypatch, tmp_path):
    shutil.copytree(ROOT / "samples", tmp_path / "samples")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    commands = [shlex.split(line.partition(" > ")[0], comments=True) for block in blocks for line in block.splitlines()]
    assert len(commands) >= 6
    for program, *arguments in commands:
        assert program == "visiontool"
        assert run(*arguments).code == 0, arguments
    with Image.open(tmp_path / "speed.png") as picture:
        assert picture.format == "PNG"
