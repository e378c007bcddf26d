"""What is measured of a model, one process each, and what the rounds of a measurement come to."""

import ctypes
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
from rounds import PLAIN

from visiontool import runtime
from visiontool.errors import ConversionError, DataError, DeviceError, ModelError
from visiontool.evaluation import benchmark
from visiontool.evaluation.benchmark import Accuracy, Measurement, ModelFile, machine, plot, process
from visiontool.evaluation.benchmark.process import Job, measure
from visiontool.exporting.precision import reduced_file
from visiontool.runtime import installation


@pytest.fixture
def pictures(tmp_path):
    return save_color_pictures(tmp_path / "pictures", 3)


def job(model, pictures, batch_size=2, seconds=0.1, device="cpu"):
    return Job(str(model), device, None, batch_size, tuple(map(str, sorted(pictures.iterdir()))), seconds)


def model_file(name="colors", *, accuracy=None, path=None, megabytes=1.0, **changes):
    spec = replace(COLOR_SPEC, name=name, **changes)
    return ModelFile(name, path or Path(f"{name}.onnx"), spec, int(1e6 * megabytes), accuracy)


def test_figures_of_a_network_whose_time_is_known(color_model, pictures, monkeypatch):
    """A batch takes 20 ms, and the first of each session a quarter of a second, which must show nowhere."""
    begun = set()

    def outputs(session, output, feeds):
        time.sleep(0.02 if id(session) in begun else 0.25)
        begun.add(id(session))
        return np.zeros((len(feeds["image"]), 3), np.float32)

    monkeypatch.setattr(runtime, "outputs", outputs)
    load, loaded = process._load, []  # kept, so that no id comes again

    def keep(job, threads):
        loaded.append(load(job, threads))
        return loaded[-1]

    monkeypatch.setattr(process, "_load", keep)
    result = measure(job(color_model, pictures, batch_size=4, seconds=0.3))
    at_once = loaded[1].runs_at_once
    assert [classifier.threads for classifier in loaded] == [0, 1]  # as predict does few pictures, and many
    assert 20 <= min(result.latencies_ms) <= max(result.latencies_ms) < 200
    assert 2 <= len(result.latencies_ms) <= 5  # in a fifth of the time
    assert 0.3 < result.network_images_per_s / (at_once * 4 / 0.02) <= 1
    assert 0.3 < result.end_to_end_images_per_s / (at_once * 4 / 0.02) < 1.5
    assert 20 / 4 <= result.run_ms_per_image < 40 / 4
    assert 0 < result.decode_ms_per_image < 100
    assert 0 < result.preprocess_ms_per_image < 100
    assert result.unreadable == 0
    assert (result.device, result.gpu_memory_bytes) == ("cpu", None)


def test_unreadable_pictures(color_model, pictures):
    (pictures / "2.png").write_bytes(b"no picture")
    result = measure(job(color_model, pictures, batch_size=3, seconds=0.05))
    assert result.unreadable == pytest.approx(1 / 3, abs=0.05)
    for path in pictures.iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"of 2 pictures none can be read; the first: .*0.png: file is empty"):
        measure(job(color_model, pictures))


def test_a_batch_that_the_file_does_not_take(tmp_path, pictures):
    graph = color_graph()
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    model = save_model(graph, tmp_path / "four.onnx", COLOR_SPEC.to_metadata())
    with pytest.raises(ModelError, match="takes 4 pictures at once, and 6 is no multiple"):
        measure(job(model, pictures, batch_size=6))
    assert measure(job(model, pictures, batch_size=8, seconds=0.01)).latencies_ms


def test_the_peak_of_memory_is_of_this_process_only():
    script = (
        "from visiontool.evaluation.benchmark.machine import peak_bytes as p; a = p(); b'x' * 10**8; print(p() - a, a)"
    )
    mine = np.ones(4 * 10**7)  # 320 MB, which do not count for the child
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    more, before = map(int, ran.stdout.split())
    assert mine.nbytes > before
    assert 0.9e8 < more < 1.2e8


def test_memory_taken_on_a_gpu(monkeypatch):
    free = [None, 8_000]
    monkeypatch.setattr(installation, "gpus", lambda: [installation.Gpu("", "", 9, free_bytes) for free_bytes in free])
    before = machine.free_on_gpus()
    free[1] = 5_000
    taken = [machine.taken_on_gpu(device, before) for device in ("cpu", "cuda:0", "cuda:1")]
    assert taken == [None, None, 3_000]


def test_errors_come_out_of_the_process_as_they_are(color_model, tmp_path, pictures):
    with pytest.raises(DeviceError, match="cuda:99"):
        process.measure_in_process(job(color_model, pictures, device="cuda:99"))
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"bad.onnx"):
        process.measure_in_process(job(tmp_path / "bad.onnx", pictures))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")
def test_a_process_that_crashes(monkeypatch):
    monkeypatch.setattr(process, "_measure_or_error", ctypes.string_at)
    with pytest.raises(ModelError, match=r"its process crashed \(SIGSEGV\)"):
        process.measure_in_process(0)


def test_figures_are_over_all_rounds():
    measurement = Measurement(model_file(), 8)
    measurement.rounds = [
        PLAIN._replace(latencies_ms=tuple(range(1, 11)), network_images_per_s=100, peak_memory_bytes=5),
        PLAIN._replace(latencies_ms=tuple(range(11, 21)), network_images_per_s=300, peak_memory_bytes=9),
        PLAIN._replace(latencies_ms=(8.0,), network_images_per_s=110, peak_memory_bytes=None),
    ]
    assert measurement.latency_ms(0.5) == 10  # of 1 to 20 and another 8
    assert measurement.latency_ms(0.95) == 19
    assert measurement.noise == pytest.approx((15.5 - 5.5) / 8)
    row = measurement.to_json()
    assert (row["network_images_per_s"], row["peak_memory_bytes"], row["runs"], row["status"]) == (110, 9, 21, "ok")
    few = Measurement(model_file(), 8, [PLAIN])
    assert (few.latency_ms(0.5), few.latency_ms(0.95), few.noise) == (2.0, 4.0, None)


def test_the_page_names_every_figure():
    page = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
    figures = Measurement(model_file(), 8, [PLAIN]).to_json()
    known = {"model", "architecture", "precision", "batch_size", "device", "provider", "made_here"}
    assert not [name for name in figures if name not in known and f"`{name}`" not in page]


def test_rounds_alternate_and_a_failure_is_not_repeated(monkeypatch):
    order = []

    def measure_in_process(job):
        order.append(job.batch_size)
        if job.batch_size == 8:
            raise ModelError("too large\nsecond line")
        return PLAIN._replace(seconds=12.0 if job.batch_size == 64 else 0.1)

    monkeypatch.setattr(process, "measure_in_process", measure_in_process)
    steps = []
    measurements = [Measurement(model_file(), batch_size) for batch_size in (1, 8, 64)]
    benchmark.measure(measurements, ["a.jpg"], seconds=2.0, progress=lambda *step: steps.append(step))
    assert order == [1, 8, 64, 1, 64, 1]  # 64 took 24 s in two rounds
    assert [len(measurement.rounds) for measurement in measurements] == [3, 0, 2]
    assert measurements[1].to_json()["error"] == "too large\nsecond line"
    assert steps[-1] == ("measure", 9, 9)


def test_accuracy_of_the_file_or_its_publisher_and_never_of_other_weights(tmp_path):
    facts = ({"dataset": "ours", "pictures": 5, "top1": 0.5}, {"dataset": "other", "top1": 0.25})
    names = {"a.onnx": "resnet50.tv_in1k", "b.onnx": "resnet50.tv_in1k@256", "c.onnx": "resnet50.tv_in1k+0123456789ab"}
    specs = {file: replace(COLOR_SPEC, name=name) for file, name in names.items()}
    specs["d.onnx"] = replace(COLOR_SPEC, name="vgg16.tv_in1k", accuracy=facts)
    models = [save_model(color_graph(), tmp_path / file, spec.to_metadata()) for file, spec in specs.items()]
    published, *others = [file.accuracy for file in benchmark.model_files(models)]
    assert published == (pytest.approx(0.761, abs=0.001), "ImageNet-1k, as published")
    assert others == [None, None, Accuracy(0.5, "ours")]


def test_files_of_one_name_are_told_apart(make_color_model):
    first, second = make_color_model("a.onnx"), make_color_model("b.onnx")
    names = [file.name for file in benchmark.model_files([first, second])]
    assert names == [f"colors ({first})", f"colors ({second})"]


def test_a_precision_that_cannot_be_made_costs_its_row_only(make_color_model, tmp_path):
    path = make_color_model("own.onnx", resize="graph")
    files = [model_file(path=path, resize="graph"), model_file("small", precision="int8")]
    rows = benchmark.measurements(files, ("fp32", "int8"), (1,), ["a.jpg"], tmp_path, reduce=reduced_file)
    assert [(row.file.name, row.file.spec.precision, row.file.is_made_here) for row in rows] == [
        ("colors", "fp32", False),
        ("colors", "int8", True),
        ("small", "int8", False),
    ]
    assert "resizes pictures itself" in rows[1].error
    with pytest.raises(ConversionError, match="cannot be written"):
        reduced_file(make_color_model("c.onnx"), COLOR_SPEC, "fp16", [], tmp_path / "gone" / "c.onnx")


@pytest.fixture
def drawn(monkeypatch):
    figures = []
    savefig = Figure.savefig

    def keep(figure, *arguments, **options):
        savefig(figure, *arguments, **options)
        figures.append(figure)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def measurement_of(name, accuracy, speed, megabytes=10.0, batch_size=8, **changes):
    file = model_file(name, accuracy=accuracy, megabytes=megabytes, **changes)
    return Measurement(file, batch_size, [PLAIN._replace(network_images_per_s=speed)])


def test_the_plot_has_a_point_for_each_model_with_an_accuracy(tmp_path, drawn):
    shoes = Accuracy(0.9, "shoes")
    measurements = [
        measurement_of("first", shoes, 100.0, batch_size=1),
        measurement_of("first", shoes, 400.0),
        measurement_of("second", Accuracy(0.5, "hats"), 50.0, 90.0),
        measurement_of("third\u732b", None, 75.0, precision="int8"),
        Measurement(model_file("broken", accuracy=shoes), 1, error="crashed"),
    ]
    plot.draw(tmp_path / "plot.png", measurements)
    points = {collection.get_label(): collection.get_offsets().tolist() for collection in drawn[0].axes[0].collections}
    assert points == {"accuracy: shoes": [[400.0, 0.9]], "accuracy: hats": [[50.0, 0.5]]}
    small, large = (collection.get_sizes()[0] for collection in drawn[0].axes[0].collections)
    assert small < large
    texts = [text.get_text() for text in drawn[0].findobj(Text) if text.get_visible()]
    assert {"first (10.0 MB)", "second (90.0 MB)"} <= set(texts)
    assert "accuracy not known: third\u732b int8 (10.0 MB), 75.0 pictures/s" in texts
    assert not [text for text in texts if "broken" in text]


def test_names_in_the_plot_are_whole(tmp_path, drawn):
    names = ["network number one of the family", "$x^2$\x1b\u00e9" * 20]
    plot.draw(tmp_path / "plot.png", [measurement_of(name, Accuracy(0.7, "x"), 30.0) for name in names])
    page = drawn[0].get_tightbbox()  # of all that is drawn, in inches
    assert min(page.min) >= 0
    assert all(page.max <= (8, 6))
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.size == (800, 600)
