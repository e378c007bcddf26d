"""Model files from other tools: with their metadata and the user's options, the right answer; without, no guess.

Each graph gives the mean of each channel of what it is fed, so the answer for a picture of one color is the softmax
of `(color / 255 - mean) / std`.
"""

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.parser
import pytest
from conftest import COLOR_SPEC, Ran, save_model, save_picture

from visiontool import Classifier
from visiontool.errors import UsageError
from visiontool.model.foreign import Description

COLOR = (200, 100, 50)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def graph_of(inputs: str, outputs: str, body: str, axes: str = "2, 3") -> onnx.ModelProto:
    """A graph in the language of onnx.parser, with two constants."""
    return onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 20]> foreign ({inputs}) => ({outputs})
        <int64[2] axes = {{{axes}}}, int64[2] three = {{1, 3}}> {{ {body} }}"""
    )


def foreign_graph(
    shape: Sequence[int | str],
    *,
    dtype: str = "float",
    name: str = "input",
    operator: str = "Identity",
    outputs: Sequence[str] = ("output",),
    output_shape: str = "N, 3",
) -> onnx.ModelProto:
    """A graph that gives the mean of each channel, sent through the operator."""
    mean = f"floats = Cast <to = 1> ({name}) mean = ReduceMean <keepdims = 0> (floats, axes) "
    return graph_of(
        f"{dtype}[{','.join(map(str, shape))}] {name}",
        ", ".join(f"float[{output_shape}] {each}" for each in outputs),
        mean + " ".join(f"{each} = {operator} (mean)" for each in outputs),
        "1, 2" if shape[3] in (1, 3) else "2, 3",
    )


def softmax_of(color: Sequence[float], mean: Sequence[float], std: Sequence[float]) -> list[float]:
    powers = np.exp((np.array(color) / 255 - mean) / std)
    return (powers / powers.sum()).tolist()


class Bench(NamedTuple):
    """A picture of one color, class names, and the command line."""

    folder: Path
    run_: Callable[..., Ran]

    @property
    def names(self) -> Path:
        path = self.folder / "names.txt"
        path.write_text("red\ngreen\nblue\n")
        return path

    def model(self, graph: onnx.ModelProto, metadata: dict[str, str] | None = None) -> Path:
        return save_model(graph, self.folder / "model.onnx", metadata)

    def run(self, model: Path, *options: object) -> Ran:
        picture = save_picture(self.folder / "picture.png", COLOR)
        return self.run_("predict", picture, "-m", model, "--json", *options)

    def answer(self, model: Path, *options: object) -> tuple[dict[str, float], str]:
        """The probabilities by label, and stderr."""
        ran = self.run(model, *options)
        assert ran.code == 0, ran.err
        return {item["label"]: item["probability"] for item in json.loads(ran.out)["predictions"]}, ran.err

    def refusal(self, model: Path, *options: object, code: int = 4) -> str:
        ran = self.run(model, *options)
        assert (ran.code, ran.out) == (code, ""), ran
        assert ran.err.startswith("Error: ")
        assert 1 <= ran.err.count("\n") <= 3
        return ran.err


@pytest.fixture
def bench(tmp_path: Path, run: Callable[..., Ran]) -> Bench:
    return Bench(tmp_path, run)


def close(answer: dict[str, float], labels: Sequence[str], probabilities: Sequence[float]) -> bool:
    assert list(answer) == sorted(labels, key=lambda label: -probabilities[labels.index(label)])
    return [answer[label] for label in labels] == pytest.approx(probabilities, abs=2e-6)


RGB = ("red", "green", "blue")
NCHW = ("N", 3, 8, 8)
IMAGENET = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")

ULTRALYTICS = {  # as ultralytics/engine/exporter.py writes it: str() of each Python object
    "description": "Ultralytics YOLO11n-cls model trained on colors",
    "author": "Ultralytics",
    "task": "classify",
    "imgsz": "[8, 8]",
    "names": str({0: "red", 1: "green's", 2: 'the "blue"'}),
}


def ultralytics_graph(shape: Sequence[int | str] = (1, 3, 8, 8)) -> onnx.ModelProto:
    return foreign_graph(shape, name="images", outputs=["output0"], operator="Softmax", output_shape=f"{shape[0]}, 3")


def test_an_ultralytics_classifier_answers_with_its_metadata(bench):
    labels = ("red", "green's", 'the "blue"')
    for shape, imgsz in (((1, 3, 8, 8), "[8, 8]"), (("batch", 3, "height", "width"), "8")):
        answer, notes = bench.answer(bench.model(ultralytics_graph(shape), {**ULTRALYTICS, "imgsz": imgsz}))
        assert close(answer, labels, softmax_of(COLOR, (0, 0, 0), (1, 1, 1)))
        assert "mean 0 and std 1, crop_pct 1, bilinear (Ultralytics' rule for classifiers)" in notes
        assert notes.count("\n") == 2


def test_options_come_before_the_metadata_of_ultralytics(bench):
    model = bench.model(ultralytics_graph(), {**ULTRALYTICS, "names": "{0: 'crane', 1: 'cat', 2: 'crane'}"})
    answer, notes = bench.answer(model, *IMAGENET)
    assert close(answer, ("crane [0]", "cat", "crane [2]"), softmax_of(COLOR, IMAGENET_MEAN, IMAGENET_STD))
    assert "mean 0" not in notes
    assert list(bench.answer(model, "--class-names", bench.names)[0]) == list(RGB)


def test_a_file_of_the_model_zoo_answers_with_options(color_model, bench):
    graph = foreign_graph((1, 3, 8, 8), name="data", outputs=["resnetv15_dense0_fwd"], output_shape="1, 3")
    answer, notes = bench.answer(bench.model(graph), "--class-names", bench.names, *IMAGENET)
    assert close(answer, RGB, softmax_of(COLOR, IMAGENET_MEAN, IMAGENET_STD))
    assumed = "RGB (else --spec), center (--crop-mode), crop_pct 0.875 (--crop-pct), bilinear (--interpolation)"
    assert f"neither it nor you said, so assumed: {assumed}.\n" in notes
    error = bench.refusal(color_model, "--mean", "0", "--class-names", bench.names, code=2)
    assert "the file says this of itself; leave out --class-names, --mean" in error


def test_options_replace_conventions(bench):
    model = bench.model(foreign_graph(NCHW, operator="Softmax", outputs=["output", "features"]))
    description = Description(
        class_names=bench.names, mean=(0.5,), std=(0.5,), crop_pct=0.9, interpolation="bicubic", img_size=(8, 8)
    )
    classifier = Classifier.load(model, description=description, crop_mode="squash")
    spec = classifier.spec
    assert (spec.name, spec.crop_mode, spec.interpolation, spec.crop_pct) == ("model", "squash", "bicubic", 0.9)
    assert (spec.input.mean, spec.activation) == ((0.5,), "softmax")
    first = "'output', the first of 2 outputs (else --spec)"
    assert classifier.assumed == ("RGB (else --spec)", first)
    options = ("--crop-mode", "squash", "--crop-pct", "0.9", "--interpolation", "bicubic")
    notes = bench.answer(model, "--class-names", bench.names, *IMAGENET, *options)[1]
    assert f"so assumed: RGB (else --spec), {first}.\n" in notes


GRAY = graph_of(
    "float[1, 1, 8, 8] input",
    "float[1, 3] output",
    "mean = ReduceMean <keepdims = 0> (input, axes) output = Expand (mean, three)",
)


def test_a_gray_network_gets_luma(bench):
    description = Description(class_names=bench.names, mean=(0.25,), std=(0.5,))
    classifier = Classifier.load(bench.model(GRAY), description=description)
    gray = 0.299 * COLOR[0] + 0.587 * COLOR[1] + 0.114 * COLOR[2]
    picture = np.full((8, 8, 3), COLOR, np.uint8)
    assert classifier.logits([picture]).tolist() == [[pytest.approx((gray / 255 - 0.25) / 0.5, abs=1e-4)] * 3]


def test_a_uint8_network_gets_the_pixels_as_they_are_and_a_float16_one_half_precision(bench):
    model = bench.model(foreign_graph(("N", 8, 8, 3), dtype="uint8"))
    logits = Classifier.load(model, description=Description(class_names=bench.names)).logits(
        [np.full((8, 8, 3), COLOR, np.uint8)]
    )
    assert logits.tolist() == [list(COLOR)]
    error = bench.refusal(model, "--class-names", bench.names, *IMAGENET, code=2)
    assert "the graph takes uint8 pixels as they are; --mean and --std have no effect" in error
    model = bench.model(foreign_graph(NCHW, dtype="float16"))
    answer, _ = bench.answer(model, "--class-names", bench.names, "--mean", "0", "--std", "1")
    assert [answer[label] for label in RGB] == pytest.approx(softmax_of(COLOR, (0, 0, 0), (1, 1, 1)), abs=1e-3)


def test_a_network_of_any_size_takes_the_size_of_the_user(bench):
    model = bench.model(foreign_graph(("N", "H", "W", 3)))
    answer, _ = bench.answer(model, "--class-names", bench.names, *IMAGENET, "--img-size", "6x10")
    assert close(answer, RGB, softmax_of(COLOR, IMAGENET_MEAN, IMAGENET_STD))
    description = Description(class_names=bench.names, mean=(0,), std=(1,), img_size=(6, 10))
    assert Classifier.load(model, description=description).spec.input.size == (6, 10)


@pytest.mark.parametrize(
    "options", [{"mean": 123.7}, {"mean": ()}, {"std": (1.0, 1.0)}, {"img_size": (8, 5000)}, {"crop_pct": 1.01}]
)
def test_a_description_from_python_is_checked_too(options, bench):
    model = bench.model(foreign_graph(("N", 3, "H", "W")))
    with pytest.raises(UsageError, match=r"^--(mean|std|img-size|crop-pct)[: ]"):
        Classifier.load(model, description=Description(**options))


def test_what_was_assumed_for_an_export_is_said_again(make_color_model, bench):
    model = make_color_model("exported.onnx", assumed=("RGB", "center"))
    assert "nobody said when it was exported, so assumed: RGB, center.\n" in bench.answer(model)[1]
    assert "so assumed: RGB.\n" in bench.answer(model, "--crop-mode", "squash")[1]


def taking(*inputs: str) -> onnx.ModelProto:
    """A graph that gives its first input as it is."""
    return graph_of(", ".join(inputs), "float y", f"y = Cast <to = 1> ({inputs[0].split()[-1]})")


def giving(outputs: str) -> onnx.ModelProto:
    """A graph whose first output is text."""
    return graph_of("float[N, 3, 8, 8] input", outputs, "output = Cast <to = 8> (input) loss = Identity (input)")


MAP = graph_of("float[N, 3, 8, 8] x", "float[N, 3, 8, 8] y", "y = Identity (x)")
PLAIN, ANY_SIZE = foreign_graph(NCHW), foreign_graph(("N", 3, "H", "W"))
NAMED = ["--class-names", "names.txt"]
ALL = [*NAMED, *IMAGENET]


@pytest.mark.parametrize(
    ("graph", "options", "code", "words"),
    [
        (foreign_graph(("N", 3, 8, 3)), ALL, 4, "cannot tell which axis of ['N', 3, 8, 3] is color; say it with"),
        (foreign_graph(("N", 3, 8, 100_000)), ALL, 4, "takes pictures of 8x100000 pixels; at most 4096 a side"),
        (taking("double[N, 3, 8, 8] x"), ALL, 4, "an input of float32, float16 or uint8"),
        (taking("float[N, 3, 8, 8] x", "int64[1] z"), ALL, 4, "tensor(float) ['N', 3, 8, 8]; 'z'"),
        (MAP, ALL, 4, "its first output is 'y' tensor(float) ['N', 3, 8, 8]; a classifier gives"),
        (giving("string[N, 3] output"), [], 4, "Export it again with an output of float32 numbers, one a class"),
        (giving("string[N, 3] output, float[N, 3, 8, 8] loss"), [], 4, "as 'logits' one of: 'loss' tensor(float)"),
        (foreign_graph((1, 1, 8, 8), output_shape="1, 1"), [], 4, "gives one number a picture, a yes or no"),
        (GRAY, ALL, 2, "--mean: 3 numbers for a graph that takes 1 channels"),
        (ANY_SIZE, [], 4, "Add --class-names FILE --img-size N --mean R,G,B --std R,G,B as it was trained"),
        (ANY_SIZE, [*NAMED, "--mean", "0"], 4, "Add --img-size N --std R,G,B as it was trained"),
        (ANY_SIZE, [], 4, "predict, verify and export take these options; the file that export writes needs none"),
        (PLAIN, [*ALL, "--img-size", "9"], 2, "the graph takes 8x8 pixels (height x width), which --img-size contrad"),
        (PLAIN, [*ALL, "--mean", "123,116,103"], 2, "--mean 123,116,103: expected 0 to 1, on the scale 0 to 1"),
        (PLAIN, ["--spec", "spec.json", "--mean", "0"], 2, "--spec says everything of a model; leave out --mean"),
        (PLAIN, [*IMAGENET, "--class-names", "two.txt"], 2, "--class-names two.txt: 2 names; "),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_what_cannot_be_answered_is_refused(graph, options, code, words, bench, monkeypatch):
    monkeypatch.chdir(bench.names.parent)
    Path("two.txt").write_text("red\ngreen\n")
    assert words in bench.refusal(bench.model(graph), *options, code=code)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        *(("imgsz", size, "Add --img-size N as it was trained") for size in ("", "[8, 1e9]")),
        ("names", "", "its 'names' cannot be read as class names; give --class-names FILE"),
        ("names", "{0: 'red', 1: 'green'}", "its metadata names 2 classes, its graph has 3; say --class-names FILE"),
        ("task", "detect", "says task='detect'; visiontool runs"),
    ],
    ids=lambda value: value[:20],
)
def test_metadata_of_ultralytics_that_says_nothing_of_use(key, value, words, bench):
    graph = ultralytics_graph(("batch", 3, "height", "width"))
    assert words in bench.refusal(bench.model(graph, {**ULTRALYTICS, key: value}))


def spec_file(folder: Path, **changes: Any) -> Path:
    """The colour model's manifest for a float NCHW graph, with other values."""
    values = json.loads(COLOR_SPEC.to_json()) | {"outputs": {"logits": "output"}}
    values["input"] |= {"name": "input", "layout": "NCHW", "dtype": "float32", "color": "BGR"}
    path = folder / "spec.json"
    path.write_text(json.dumps(values | changes))
    return path


def test_a_manifest_of_its_own_says_it_all(bench):
    answer, notes = bench.answer(bench.model(foreign_graph(NCHW)), "--spec", spec_file(bench.folder))
    assert close(answer, RGB, softmax_of(COLOR[::-1], (0, 0, 0), (1, 1, 1)))
    assert "Neither" not in notes


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"labels": ["red"]}, "the manifest has 1 labels, the graph gives 3 logits"),
        ({"outputs": {"logits": "scores"}}, "logits output 'scores' is not in the graph: ['output']"),
        (None, "No such file or directory"),
        (b"", "not valid JSON"),
    ],
)
def test_a_manifest_of_its_own_that_is_wrong_is_refused_by_name(content, words, bench):
    path = spec_file(bench.folder, **content) if isinstance(content, dict) else bench.folder / "spec.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    error = bench.refusal(bench.model(foreign_graph(NCHW)), "--spec", path)
    assert error.startswith(f"Error: --spec {path}: ")
    assert words in error


@pytest.mark.slow
def test_a_file_by_timm_gives_the_numbers_of_torch(bench):
    """timm.utils.onnx.onnx_export, with random weights."""
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    from timm.utils.onnx import onnx_export

    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=3, exportable=True).eval()
    path = bench.folder / "test_resnet.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx_export(network, str(path), batch_size=2, input_size=(3, 64, 64))
    description = Description(class_names=bench.names, mean=IMAGENET_MEAN, std=IMAGENET_STD, crop_pct=1.0)
    classifier = Classifier.load(path, description=description)
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    normalized = (picture / 255 - IMAGENET_MEAN) / IMAGENET_STD
    with torch.inference_mode():
        expected = network(torch.tensor(normalized.transpose(2, 0, 1)[None], dtype=torch.float32)).numpy()
    assert np.abs(classifier.logits([picture]) - expected).max() < 1e-4
    assert np.ptp(expected) > 0.01
    assert not any("logits" in assumed for assumed in classifier.assumed)
