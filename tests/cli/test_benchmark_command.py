"""`visiontool benchmark`: the table, the JSON, the plot, and the exit codes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import COLOR_SPEC, ROOT, color_graph, save_color_pictures, save_model
from PIL import Image
from rounds import PLAIN

from visiontool.cli.benchmark import remarks, table
from visiontool.errors import ModelError
from visiontool.evaluation import benchmark
from visiontool.evaluation.benchmark import Accuracy, Measurement, ModelFile, process
from visiontool.inference.classifier import Classifier


@pytest.fixture
def measured(monkeypatch):
    """Has `answer(job)` take the place of the processes."""

    def replace_by(answer):
        monkeypatch.setattr(process, "measure_in_process", answer)

    return replace_by


@pytest.fixture
def jobs(measured):
    """Each job gives PLAIN. The jobs, in order."""
    jobs = []
    measured(lambda job: jobs.append(job) or PLAIN)
    return jobs


def measurement(name, rounds, batch_size=1, accuracy=None):
    spec = replace(COLOR_SPEC, name=name)
    return Measurement(ModelFile(name, Path("model.onnx"), spec, 10**6, accuracy), batch_size, rounds)


def test_the_command_measures_for_real(run, color_model, tmp_path, monkeypatch):
    pictures = save_color_pictures(tmp_path / "pictures", 3)
    monkeypatch.setattr(benchmark, "ROUNDS", 1)
    ran = run("benchmark", color_model, "--batch-sizes", "4", "--on", pictures, "--seconds", 0.02, "--json")
    assert ran.code == 0, ran.err
    document = json.loads(ran.out)
    assert (document["schema"], document["pictures"]) == (1, 3)
    assert document["machine"]["cores"] >= 1
    assert {"processor", "onnxruntime", "python"} <= set(document["machine"])
    (row,) = document["rows"]
    assert (row["model"], row["batch_size"], row["status"]) == ("colors", 4, "ok")
    assert 0 < row["latency_p50_ms"] <= row["latency_p95_ms"]
    assert row["network_images_per_s"] > row["end_to_end_images_per_s"] > 0  # 8x8 pixels: the files are the work
    assert row["decode_ms_per_image"] > 0
    assert row["opening_images_per_s"] > 0
    assert row["peak_memory_bytes"] > 20e6
    assert (row["rounds"], row["noise"], row["accuracy"]) == (1, None, None)


def test_the_table(run, color_model, tmp_path, jobs):
    facts = ({"dataset": "squares", "pictures": 3, "top1": 0.875},)
    spec = replace(COLOR_SPEC, name="a\x1b[31mb", accuracy=facts)
    other = save_model(color_graph(), tmp_path / "other.onnx", spec.to_metadata())
    ran = run("benchmark", color_model, "-m", other, "--batch-sizes", "8,1", "--plot", tmp_path / "plot.png")
    assert ran.code == 0
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.format == "PNG"
    lines = ran.out.splitlines()
    assert "onnxruntime" in lines[0]
    assert "colors: 8x8 pixels, opening alone 300 pictures/s" in lines
    assert r"a\x1b[31mb: 8x8 pixels, top-1 87.5% (squares), opening alone 300 pictures/s" in lines
    figures = [line.split() for line in lines if line.startswith("fp32")]
    assert figures == [
        ["fp32", batch, "2.00", "4.00", "500", "200", "1.25", "0.500", "2.00", "123", "0%"] for batch in "8181"
    ]
    assert [job.batch_size for job in jobs] == 3 * [8, 1, 8, 1]
    assert {len(job.pictures) for job in jobs} == {len(list((ROOT / "samples").glob("*.jpg")))}
    assert {job.seconds for job in jobs} == {2.0 / 3}
    assert "Medians of 3 rounds, each in a process of its own; latencies of 12 runs a line." in ran.err
    assert "With fewer than 20 runs p95 is the slowest of them" in ran.err
    ran = run("benchmark", color_model, "-q")
    assert (ran.code, ran.err, ran.out != "") == (0, "", True)


def test_the_table_has_80_columns_whatever_is_in_it():
    slow = PLAIN._replace(
        latencies_ms=(12345.6, 23456.7),
        network_images_per_s=123456.7,
        end_to_end_images_per_s=98765.4,
        decode_ms_per_image=1234.5,
        preprocess_ms_per_image=123.4,
        run_ms_per_image=12345.6,
        peak_memory_bytes=123_456_000_000,
    )
    accuracy = Accuracy(0.5, "a data set with a long name that goes on and on, and on, and then it ends")
    rounds = [slow, slow._replace(latencies_ms=(99999.0,))]
    lines = table([measurement("m" * 50, rounds, 4096, accuracy)]).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1].split()[:3] == ["fp32", "4096", "23457"]
    assert len(lines[-1].split()) == 11


def test_remarks_about_noise_pictures_and_memory():
    noisy = [PLAIN, PLAIN._replace(latencies_ms=(5.0,), unreadable=0.5, gpu_memory_bytes=2_000_000_000)]
    text = "\n".join(remarks([measurement("colors", noisy)], pictures="here"))
    assert "differ by up to 67%" in text
    assert "25% of the pictures cannot be read" in text
    assert "2,000 MB" in text


def test_ctrl_c_prints_what_is_done(run, color_model, measured):
    rounds = [PLAIN]

    def interrupted(job):
        if not rounds:
            raise KeyboardInterrupt
        return rounds.pop()

    measured(interrupted)
    ran = run("benchmark", color_model, "--batch-sizes", "1,8", "--json")
    assert ran.code == 130
    first, second = json.loads(ran.out)["rows"]
    assert (first["status"], first["latency_p50_ms"], first["rounds"]) == ("ok", 2.0, 1)
    assert (second["status"], second["error"]) == ("error", "interrupted")
    assert "Interrupted" in ran.err
    ran = run("benchmark", color_model)  # where nothing is done, nothing is printed
    assert (ran.code, ran.out) == (130, "")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nope"], 4, "no model is called 'nope'"),
        (["lenet5", "--batch-sizes", "1,x"], 2, "'1,x': expected numbers from 1 to 4096"),
        (["lenet5", "--batch-sizes", "5000"], 2, "expected numbers"),
        (["lenet5", "--precision", "fp32,fp8"], 2, "expected some of fp32, fp16, int8"),
        (["lenet5", "--device", "gpu"], 2, "device 'gpu' is not known"),
        (["lenet5", "--device", "cuda:99"], 1, "cuda:99"),
        (["lenet5", "LeNet-5"], 2, "two of the models are the same file"),
        (["lenet5", "--on", "empty"], 3, "no picture was found in empty"),
        (["lenet5", "--plot", "plot.pdf"], 2, "expected a file that ends in .png"),
        (["lenet5", "--plot", "gone/plot.png"], 2, "there is no folder"),
        (["colors.onnx", "--plot", "plot.png"], 2, "nobody has said how accurate colors (fp32) is"),
    ],
)
def test_refusals(run, color_model, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    ran = run("benchmark", *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.err
    assert not (tmp_path / "plot.png").exists()


def test_other_precisions_are_made_and_have_no_accuracy(run, measured):
    files = {}

    def load(job):
        files[Classifier.load(job.model, device="cpu").spec.precision] = Path(job.model)
        return PLAIN

    measured(load)
    ran = run("benchmark", "lenet5", "--precision", "int8,fp32,fp16", "--batch-sizes", 1, "--json")
    assert ran.code == 0, ran.err
    rows = json.loads(ran.out)["rows"]
    assert [(row["precision"], row["made_here"]) for row in rows] == [("int8", True), ("fp32", False), ("fp16", True)]
    assert [row["accuracy"] is None for row in rows] == [True, False, True]
    assert rows[0]["file_bytes"] < rows[2]["file_bytes"] < rows[1]["file_bytes"]
    assert set(files) == {"int8", "fp32", "fp16"}
    assert not files["int8"].exists()
    assert "calibrated on the samples of visiontool: good for their speed alone" in ran.err


def test_there_is_no_plot_where_nothing_could_be_measured(run, tmp_path, measured):
    def crash(job):
        raise ModelError("crashed")

    measured(crash)
    ran = run("benchmark", "lenet5", "--batch-sizes", 1, "--plot", tmp_path / "plot.png")
    assert ran.code == 7
    assert ran.out.splitlines()[-1] == "fp32     1  not measured: crashed"
    assert "There is no plot" in ran.err
    assert not (tmp_path / "plot.png").exists()
