"""A graph that resizes pictures itself shows the network what visiontool does, and such files run everywhere."""

import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import PIL
import pytest
from conftest import COLOR_SPEC, ROOT, color_graph, save_color_pictures, save_model
from kinds_of_model import parsed
from PIL import Image

from visiontool import Classifier, ConversionError, ModelError, UsageError
from visiontool.exporting.resize import embed_resize
from visiontool.graph.edit import fix_batch
from visiontool.hub.resolve import DEFAULT_MODEL, resolve
from visiontool.images import transforms
from visiontool.images.decode import Limits, open_image
from visiontool.model.spec import InputSpec, ModelSpec

SAMPLES = sorted((ROOT / "samples").glob("*.jpg"))
IMAGENET = InputSpec(size=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def pixels_of(spec: ModelSpec):
    """A function from a picture to the pixels that a graph with the resize inside gives to the network."""
    shape = "uint8[N,{},{},3]".format(*spec.input.size)
    model = parsed(f"pixels ({shape} image) => ({shape} pixels) {{ pixels = Identity (image) }}")
    embed_resize(model, spec)
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return lambda image: session.run(None, {"image": np.asarray(image)[None]})[0][0]


def differences(spec: ModelSpec, images) -> np.ndarray:
    """How many levels the pixels of the graph differ from those of `fit_to_spec`."""
    graph = pixels_of(spec)
    pairs = [(graph(image), transforms.fit_to_spec(image, spec)) for image in images]
    assert all(ours.shape == (*spec.input.size, 3) for ours, _ in pairs)
    return np.abs(np.stack([ours.astype(int) - expected for ours, expected in pairs]))


def check_differences(levels: np.ndarray, interpolation: str) -> None:
    """A level at most, and seldom. Bilinear weights make numbers that lie in the middle between two levels: more of
    these are rounded the other way, one of a million in both directions.
    """
    assert levels.max() <= (2 if interpolation == "bilinear" else 1)
    assert (levels > 1).mean() < 1e-6
    assert levels.mean() < (0.01 if interpolation == "bilinear" else 0.001)


def noise(height: int, width: int) -> Image.Image:
    rng = np.random.default_rng(height * 1000 + width)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def embedded(source, target, **changes):
    """The model file `source` with the resize in its graph, as `target`."""
    model = onnx.load(source)
    spec = embed_resize(model, replace(Classifier.load(source).spec, **changes))
    return save_model(model, target, spec.to_metadata())


@pytest.fixture
def any_size(make_color_model, tmp_path):
    """The color model with the resize in its graph."""
    return embedded(make_color_model("fixed.onnx", interpolation="bilinear"), tmp_path / "any.onnx")


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
def test_the_pixels_are_those_of_pillow(crop_pct, interpolation):
    spec = replace(COLOR_SPEC, input=IMAGENET, crop_pct=crop_pct, interpolation=interpolation)
    levels = differences(spec, [open_image(path).image for path in SAMPLES])
    check_differences(levels, interpolation)


# One pixel off at an edge, or in a size, would differ by 80 levels on average.
@pytest.mark.parametrize(
    ("crop_mode", "size", "crop_pct"),
    [
        ("center", (8, 8), 1.0),
        ("center", (16, 16), 0.9),
        ("center", (9, 14), 0.8),
        ("border", (8, 8), 1.0),
        ("border", (15, 10), 0.7),
        ("squash", (12, 9), 0.75),
    ],
)
def test_sizes_and_crops_are_rounded_as_the_host_does(crop_mode, size, crop_pct):
    spec = replace(COLOR_SPEC, input=replace(IMAGENET, size=size), interpolation="bilinear")
    spec = replace(spec, crop_mode=crop_mode, crop_pct=crop_pct)
    rng = np.random.default_rng(0)
    images = [noise(*rng.integers(1, 60, 2).tolist()) for _ in range(100)]
    images += [noise(1, 1), noise(1, 90), noise(90, 1), noise(*size), noise(500, 499)]
    levels = differences(spec, images)
    assert levels.max() <= 2  # in noise, ties are not so rare
    assert (levels > 1).mean() < 0.0005


@pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="Pillow took the horizontal pass first until 13.0")
def test_tall_pictures_are_resized_vertically_first():
    spec = replace(COLOR_SPEC, input=replace(IMAGENET, size=(64, 64)), crop_mode="squash", interpolation="bicubic")
    # The last two lose twice as many pixels in height as in width, and one more.
    tall = [noise(343, 74), noise(1000, 100), noise(500, 333), noise(64 + 80, 64 + 40), noise(64 + 81, 64 + 40)]
    levels = differences(spec, tall)
    assert levels.max() <= 1
    passes = tall[0].resize((64, 343), Image.Resampling.BICUBIC).resize((64, 64), Image.Resampling.BICUBIC)
    once = tall[0].resize((64, 64), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(passes).astype(int) - np.asarray(once)).max() > 1  # else this would prove nothing


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_hundred_real_photos_differ_by_a_level_at_most(shared, interpolation):
    spec = replace(COLOR_SPEC, input=IMAGENET, crop_pct=0.875, interpolation=interpolation)
    photos = sorted((shared / "data" / "photos").rglob("*.JPEG"))
    levels = differences(spec, [open_image(path).image for path in photos])
    assert len(levels) == 100
    check_differences(levels, interpolation)
    assert levels.max() <= 1


@pytest.mark.parametrize("name", ["lenet5", DEFAULT_MODEL])
def test_real_networks_answer_as_before(name, tmp_path):
    source = resolve(name)
    pictures = SAMPLES if name == DEFAULT_MODEL else sorted((ROOT / "samples" / "digits").glob("*.png"))
    before = Classifier.load(source)
    after = Classifier.load(embedded(source, tmp_path / "any.onnx"))
    assert after.spec == replace(before.spec, resize="graph")
    expected = before.probabilities(before.logits(pictures))
    answers = after.probabilities(after.logits(pictures))
    assert answers.argmax(axis=1).tolist() == expected.argmax(axis=1).tolist()
    assert np.abs(answers - expected).max() < 0.01
    np.testing.assert_allclose(after.embed(pictures), before.embed(pictures), atol=0.05)


def test_pictures_of_any_size_go_through_one_file(any_size, tmp_path):
    # Left half red, right half blue; in the square in the middle too.
    paths = []
    for place, (width, height) in enumerate([(8, 8), (40, 20), (7, 7), (40, 20), (3, 50), (1, 1), (301, 299)]):
        pixels = np.full((height, width, 3), (255, 0, 0), np.uint8)
        pixels[:, (width + 1) // 2 :] = (0, 0, 255)
        paths.append(str(tmp_path / f"{place}.png"))
        Image.fromarray(pixels).save(paths[-1])
    before, after = Classifier.load(tmp_path / "fixed.onnx"), Classifier.load(any_size)
    expected = before.logits(paths)
    np.testing.assert_allclose(after.logits(paths), expected, atol=1 / 255)
    assert expected[1].tolist() == [0.5, 0.0, 0.5]
    for options in ({}, {"batch_size": 3}, {"isolate": True, "workers": 1}):
        results = list(after.predict_stream([*paths, tmp_path / "gone.png"], **options))
        assert [result.path for result in results[:-1]] == paths
        assert results[-1].error == "no such file"
        answers = [{item.label: item.probability for item in result.predictions} for result in results[:-1]]
        for ours, theirs in zip(answers, before.predict(paths), strict=True):
            assert ours == pytest.approx({item.label: item.probability for item in theirs.predictions}, abs=0.01)
    assert after.logits([]).shape == (0, 3)
    axes = onnx.load(any_size).graph.input[0].type.tensor_type.shape.dim
    assert [axis.dim_param or axis.dim_value for axis in axes] == ["N", "height", "width", 3]


def test_a_picture_that_would_become_too_large_is_refused_before_the_graph_sees_it(any_size):
    limit = Limits(max_pixels=10**9)
    (result,) = Classifier.load(any_size, limits=limit).predict([np.zeros((1, 2_000_000, 3), np.uint8)])
    assert "too elongated" in result.error


def test_a_big_jpeg_is_decoded_at_a_part_of_its_size_as_for_its_source(any_size, tmp_path):
    noise(1200, 1600).save(tmp_path / "big.jpg", quality=90)
    small = open_image(tmp_path / "big.jpg", resize_to=8).image
    assert small.size == (200, 150)
    after = Classifier.load(any_size)
    assert after.logits([tmp_path / "big.jpg"]).tolist() == after.logits([small]).tolist()


def test_a_fixed_batch_is_filled_up(any_size, tmp_path):
    model, spec = onnx.load(any_size), Classifier.load(any_size).spec
    fix_batch(model, spec, 3)
    classifier = Classifier.load(save_model(model, tmp_path / "three.onnx", spec.to_metadata()))
    pictures = [Image.new("RGB", size, "lime") for size in [(9, 9), (30, 20), (9, 9), (9, 9), (9, 9)]]
    assert classifier.logits(pictures).tolist() == [[0, 1, 0]] * 5


def test_a_manifest_and_a_graph_that_contradict_each_other_are_refused(any_size, make_color_model):
    fixed = make_color_model("other.onnx", resize="graph")
    with pytest.raises(ModelError, match=r"\[N, any, any, 3\], the graph's is .* \['N', 8, 8, 3\]"):
        Classifier.load(fixed)
    bgr = replace(Classifier.load(any_size).spec, input=replace(COLOR_SPEC.input, color="BGR"))
    with pytest.raises(ModelError, match="takes NHWC uint8 RGB, not NHWC uint8 BGR"):
        Classifier.load(save_model(onnx.load(any_size), any_size, bgr.to_metadata()))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"interpolation": "lanczos"}, "resized by lanczos"),
        ({"resize": "graph"}, "resizes pictures itself already"),
        ({"input": replace(COLOR_SPEC.input, layout="NCHW", dtype="float32")}, "takes RGB as float32 in NCHW"),
    ],
)
def test_what_cannot_be_a_part_of_the_graph_is_refused(changes, words):
    model = color_graph()
    with pytest.raises(UsageError, match=words):
        embed_resize(model, replace(COLOR_SPEC, **changes))
    assert model == color_graph()


@pytest.mark.parametrize("opset", [11, 17])
def test_a_graph_of_an_older_opset_is_raised(opset, tmp_path):
    model = onnx.version_converter.convert_version(color_graph(), 17)
    model.opset_import[0].version, model.ir_version = opset, 4
    spec = replace(COLOR_SPEC, interpolation="bicubic")
    path = save_model(model, tmp_path / "any.onnx", embed_resize(model, spec).to_metadata())
    onnx.checker.check_model(path, full_check=True)
    assert Classifier.load(path).logits([Image.new("RGB", (30, 20), "blue")]).tolist() == [[0, 0, 1]]
    model.opset_import[0].version = opset
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ConversionError, match=f"colors: .* of opset {opset}, .* cannot be raised to 18: .*NoSuch"):
        embed_resize(model, spec)


def test_show_knows_what_it_costs(tmp_path, run):
    source = ROOT / "weights" / "lenet5" / "model.onnx"
    embedded(source, tmp_path / "any.onnx")
    before = json.loads(run("models", "show", source, "--json").out)["cost"]
    after = json.loads(run("models", "show", tmp_path / "any.onnx", "--json").out)["cost"]
    assert (after["params"], after["macs"]) == (before["params"], before["macs"])
    text = run("models", "show", tmp_path / "any.onnx").out
    assert "any size, gray, uint8, NHWC" in text
    assert "a part of the graph" in text


def test_what_a_file_that_resizes_cannot_do_is_an_error(any_size, run, tmp_path):
    for label in "ab":
        save_color_pictures(tmp_path / "data" / label, 3)
    ran = run("predict", tmp_path / "data", "-m", any_size, "--crop-mode", "border")
    assert ran.code == 2
    assert "resizes pictures itself, with crop mode center" in ran.err
    assert "-m colors --crop-mode border" in ran.err
    ran = run("finetune", tmp_path / "data", "-m", any_size, "-o", tmp_path / "run")
    assert ran.code == 4
    assert "resizes pictures itself (export --embed-resize), so it cannot be finetuned" in ran.err
    assert "visiontool finetune DATA -m colors" in ran.err
