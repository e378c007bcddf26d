"""`visiontool benchmark`: figures that mean what they say, one process each, and what the command makes of them."""

import ctypes
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOR_SPEC, ROOT, color_graph, save_color_pictures, save_model
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from visiontool import runtime
from visiontool.cli import benchmark as benchmarking
from visiontool.errors import DataError, DeviceError, ModelError
from visiontool.evaluation import benchmark
from visiontool.evaluation.benchmark import measuring, memory, plot, process
from visiontool.evaluation.benchmark.measuring import Round, Task, measure
from visiontool.evaluation.benchmark.rows import Accuracy, Row, Subject
from visiontool.inference.classifier import Classifier
from visiontool.runtime import nvidia

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


def task(model, pictures, batch_size=2, seconds=0.1, device="cpu"):
    return Task(str(model), device, None, batch_size, tuple(map(str, sorted(pictures.iterdir()))), seconds)


def subject(name="colors", *, accuracy=None, path=None, megabytes=1.0, **changes):
    spec = replace(COLOR_SPEC, name=name, **changes)
    return Subject(name, path or Path(f"{name}.onnx"), spec, int(1e6 * megabytes), accuracy)


def model_file(path, **changes):
    return save_model(color_graph(), path, replace(COLOR_SPEC, **changes).to_metadata())


def fixed_batch_model(path, batch):
    graph = color_graph()
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    return save_model(graph, path, COLOR_SPEC.to_metadata())


# What is measured


def test_latency_rates_and_stages_are_those_of_a_network_whose_time_is_known(color_model, pictures, monkeypatch):
    """Each run takes 20 ms, and the first of each session half a second more, which must be seen nowhere."""
    begun = set()

    def run(session, output, feeds):
        time.sleep(0.02 if id(session) in begun else 0.5)
        begun.add(id(session))
        return np.zeros((len(feeds["image"]), 3), np.float32)

    monkeypatch.setattr(runtime, "run", run)
    load, kept = measuring._load, []  # kept, so that no id comes again

    def keep(task, threads):
        kept.append(load(task, threads))
        return kept[-1]

    monkeypatch.setattr(measuring, "_load", keep)
    found = measure(task(color_model, pictures, batch_size=4, seconds=0.5))
    at_once = kept[1].runs_at_once
    assert [one.threads for one in kept] == [0, 1]  # as predict does few pictures, and many
    assert 20 <= min(found.latencies_ms) <= max(found.latencies_ms) < 200
    assert 2 <= len(found.latencies_ms) <= 5  # in a fifth of the time
    assert 0.3 < found.network_images_per_s / (at_once * 4 / 0.02) <= 1
    assert 0.3 < found.end_to_end_images_per_s / (at_once * 4 / 0.02) < 1.5
    assert 20 / 4 <= found.run_ms < 40 / 4
    assert 0 < found.decode_ms < 100
    assert 0 < found.preprocess_ms < 100
    assert found.unreadable == 0
    assert (found.device, found.gpu_memory_bytes) == ("cpu", None)


def test_pictures_that_cannot_be_read_are_counted_and_none_at_all_is_an_error(color_model, pictures):
    (pictures / "2.png").write_bytes(b"no picture")
    result = measure(task(color_model, pictures, batch_size=3, seconds=0.05))
    assert result.unreadable == pytest.approx(1 / 3, abs=0.05)
    for path in pictures.iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the pictures can be read; the first: .*0.png: file is empty"):
        measure(task(color_model, pictures))


def test_a_batch_that_the_file_does_not_take_is_an_error(tmp_path, pictures):
    model = fixed_batch_model(tmp_path / "four.onnx", 4)
    with pytest.raises(ModelError, match="takes 4 pictures at once, and 6 is no multiple"):
        measure(task(model, pictures, batch_size=6))
    assert measure(task(model, pictures, batch_size=8, seconds=0.01)).latencies_ms


def test_the_peak_of_memory_is_that_of_the_process_and_no_other():
    script = (
        "from visiontool.evaluation.benchmark.memory import peak_bytes as p; a = p(); b'x' * 10**8; print(p() - a, a)"
    )
    mine = np.ones(4 * 10**7)  # 320 MB, which a child must not be charged with
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    more, before = map(int, ran.stdout.split())
    assert mine.nbytes > before
    assert 0.9e8 < more < 1.2e8


def test_memory_of_a_gpu_is_what_is_free_no_more(monkeypatch):
    free = iter((8_000, 5_000))
    monkeypatch.setattr(
        nvidia, "gpus", lambda: [nvidia.Gpu("", "", 9, free_bytes) for free_bytes in (None, next(free))]
    )
    before = memory.free_on_gpus()
    assert before == [None, 8_000]
    assert memory.taken_on_gpu("cpu", before) is None
    assert memory.taken_on_gpu("cuda:1", before) == 3_000
    free = iter((5_000,))
    assert memory.taken_on_gpu("cuda:0", before) is None


# A process each


def test_errors_come_out_of_the_process_as_they_are(color_model, tmp_path, pictures):
    with pytest.raises(DeviceError, match="cuda:99"):
        process.measured(task(color_model, pictures, device="cuda:99"))
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"bad.onnx"):
        process.measured(task(tmp_path / "bad.onnx", pictures))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")
def test_a_process_that_dies_is_an_error_that_says_how(color_model, pictures, monkeypatch):
    monkeypatch.setattr(process, "_answer", ctypes.string_at)
    with pytest.raises(ModelError, match=r"its process crashed \(SIGSEGV\)"):
        process.measured(0)


# Rows


def test_figures_of_a_row_are_over_all_its_rounds():
    row = Row(subject(), 8)
    row.rounds = [
        PLAIN._replace(latencies_ms=tuple(range(1, 11)), network_images_per_s=100, peak_memory_bytes=5),
        PLAIN._replace(latencies_ms=tuple(range(11, 21)), network_images_per_s=300, peak_memory_bytes=9),
        PLAIN._replace(latencies_ms=(8.0,), network_images_per_s=110, peak_memory_bytes=None),
    ]
    assert row.runs == 21
    assert row.latency_ms(0.5) == 10  # of 1 to 20 and another 8
    assert row.latency_ms(0.95) == 19
    assert row.noise == pytest.approx((15.5 - 5.5) / 8)
    told = row.to_json()
    assert told["network_images_per_s"] == 110
    assert told["peak_memory_bytes"] == 9
    assert told["status"] == "ok"
    few = Row(subject(), 8, [PLAIN])
    assert (few.latency_ms(0.5), few.latency_ms(0.95), few.noise) == (2.0, 4.0, None)


def test_rounds_alternate_and_what_failed_is_not_tried_again(monkeypatch):
    order = []

    def measured(task):
        order.append(task.batch_size)
        if task.batch_size == 8:
            raise ModelError("too large\nsecond line")
        return PLAIN._replace(seconds=12.0 if task.batch_size == 64 else 0.1)

    monkeypatch.setattr(process, "measured", measured)
    steps = []
    rows = [Row(subject(), batch_size) for batch_size in (1, 8, 64)]
    benchmark.measure(rows, ["a.jpg"], seconds=2.0, progress=lambda *of: steps.append(of))
    assert order == [1, 8, 64, 1, 64, 1]  # 64 took 24 s in two rounds
    assert [len(row.rounds) for row in rows] == [3, 0, 2]
    assert rows[1].to_json()["error"] == "too large\nsecond line"
    assert steps[-1] == ("measure", 9, 9)


def test_accuracy_is_the_files_else_the_publishers_and_never_of_other_weights(tmp_path):
    facts = ({"dataset": "ours", "pictures": 5, "top1": 0.5}, {"dataset": "other", "top1": 0.25})
    names = {"a.onnx": "resnet50.tv_in1k", "b.onnx": "resnet50.tv_in1k@256", "c.onnx": "resnet50.tv_in1k+0123456789ab"}
    known = [model_file(tmp_path / file, name=name) for file, name in names.items()]
    known.append(model_file(tmp_path / "d.onnx", name="vgg16.tv_in1k", accuracy=facts))
    found = [one.accuracy for one in benchmark.subjects(known)]
    assert found[0].dataset == "ImageNet-1k, as published"
    assert found[0].top1 == pytest.approx(0.761, abs=0.001)
    assert found[1:] == [None, None, Accuracy(0.5, "ours")]


def test_files_that_say_the_same_of_themselves_are_told_apart(make_color_model):
    first, second = make_color_model("a.onnx"), make_color_model("b.onnx")
    assert [one.name for one in benchmark.subjects([first, second])] == [f"colors ({first})", f"colors ({second})"]


# The command


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
    lines = benchmarking.table(rows).splitlines()
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
    text = "\n".join(benchmarking.remarks([Row(subject(), 1, noisy)], pictures="here"))
    assert "differ by up to 67%" in text
    assert "25% of the pictures cannot be read" in text
    assert "2,000 MB" in text


# Precisions


def test_what_has_a_precision_is_measured_as_it_is(run, make_color_model, tasks):
    model = make_color_model("small.onnx", precision="int8")
    ran = run("benchmark", model, "--precision", "fp32,fp16", "--batch-sizes", 1, "--json")
    (row,) = json.loads(ran.out)["rows"]
    assert (row["precision"], row["made_here"]) == ("int8", False)
    assert {one.model for one in tasks} == {str(model)}


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


def test_a_precision_that_cannot_be_made_costs_its_row_only(tmp_path, tasks):
    own = subject(path=model_file(tmp_path / "own.onnx", resize="graph"), resize="graph")
    rows = benchmark.rows([own], ("fp32", "int8"), (1,), ["a.jpg"], tmp_path)
    benchmark.measure(rows, ["a.jpg"], seconds=1.0)
    assert [row.to_json()["status"] for row in rows] == ["ok", "error"]
    assert rows[1].subject.spec.precision == "int8"
    assert "resizes pictures itself" in rows[1].error


# The plot


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were written, in order."""
    figures = []
    savefig = Figure.savefig

    def keep(figure, *arguments, **options):
        savefig(figure, *arguments, **options)
        figures.append(figure)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def texts(figure):
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


def row_of(name, accuracy, speed, megabytes=10.0, batch_size=8, **changes):
    one = subject(name, accuracy=accuracy, megabytes=megabytes, **changes)
    return Row(one, batch_size, [PLAIN._replace(network_images_per_s=speed)])


def test_the_plot_has_a_point_a_network_and_invents_no_accuracy(tmp_path, drawn):
    shoes = Accuracy(0.9, "shoes")
    rows = [
        row_of("first", shoes, 100.0, batch_size=1),
        row_of("first", shoes, 400.0),
        row_of("second", Accuracy(0.5, "hats"), 50.0, 90.0),
        row_of("third", None, 75.0, precision="int8"),
        Row(subject("broken", accuracy=shoes), 1, error="crashed"),
    ]
    plot.draw(tmp_path / "plot.png", rows)
    points = {collection.get_label(): collection.get_offsets().tolist() for collection in drawn[0].axes[0].collections}
    assert points == {"accuracy: shoes": [[400.0, 0.9]], "accuracy: hats": [[50.0, 0.5]]}
    small, large = (collection.get_sizes()[0] for collection in drawn[0].axes[0].collections)
    assert small < large
    shown = [text.get_text() for text in texts(drawn[0])]
    assert {"first (10.0 MB)", "second (90.0 MB)"} <= set(shown)
    assert "accuracy not known: third int8 (10.0 MB), 75.0 pictures/s" in shown
    assert not [text for text in shown if "broken" in text]


def test_names_in_the_plot_are_whole(tmp_path, drawn):
    names = ["network number one of the family", "$x^2$\x1b\u732b" * 20]
    plot.draw(tmp_path / "plot.png", [row_of(name, Accuracy(0.7, "x"), 30.0) for name in names])
    page = drawn[0].get_tightbbox()  # of all that is drawn, in inches
    assert min(page.min) >= 0
    assert all(page.max <= (8, 6))
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.size == (800, 600)


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


def test_the_page_names_every_figure_of_a_row():
    page = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
    figures = Row(subject(), 8, [PLAIN]).to_json()
    known = {"model", "architecture", "precision", "batch_size", "device", "provider", "made_here"}
    assert not [name for name in figures if name not in known and f"`{name}`" not in page]
