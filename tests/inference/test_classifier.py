"""The Python API on the colour model, whose answers can be worked out by hand."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOR_SPEC, ROOT, color_graph, save_model, save_picture
from onnx import TensorProto, helper
from PIL import Image

from visiontool import Classifier, Description, Limits, ModelError, PictureError, UsageError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture
def classifier(color_model):
    return Classifier.load(color_model)


def test_paths_pictures_and_arrays_give_the_same_answer(classifier, tmp_path):
    path = save_picture(tmp_path / "a.png", (200, 100, 0), (20, 30))
    data, image = path.read_bytes(), Image.open(path)
    images = [path, str(path), image, np.asarray(image), data, BytesIO(data)]
    results = classifier.predict(images)
    assert [result.path for result in results] == [str(path), str(path), None, None, None, None]
    assert len({result.predictions for result in results}) == 1
    assert results[0].predictions[0].label == "red"
    for method in (classifier.logits, classifier.embed):
        assert len(np.unique(method(images), axis=0)) == 1


def test_logits_and_embedding_are_the_means_of_the_channels(classifier):
    array = np.full((8, 8, 3), (255, 51, 0), np.uint8)
    np.testing.assert_allclose(classifier.logits([array]), [[1.0, 0.2, 0.0]], atol=1e-6)
    np.testing.assert_allclose(classifier.embed([array, array]), [[1.0, 0.2, 0.0]] * 2, atol=1e-6)


def test_probabilities_are_the_softmax_at_the_models_temperature(make_color_model):
    classifier = Classifier.load(make_color_model("cold.onnx", temperature=0.5))
    expected = np.exp([2.0, 0.4, 0.0]) / np.exp([2.0, 0.4, 0.0]).sum()
    np.testing.assert_allclose(classifier.probabilities(np.array([1.0, 0.2, 0.0], np.float32)), expected, rtol=1e-6)
    assert classifier.probabilities(np.array([1e4, 0.0, 0.0], np.float32)).tolist() == [1.0, 0.0, 0.0]


def test_a_pickled_or_copied_classifier_answers_the_same(color_model, tmp_path, monkeypatch):
    graph = color_graph()
    del graph.graph.output[1]
    monkeypatch.chdir(tmp_path)
    outside = save_model(graph, Path("outside.onnx"), {"names": "{0: 'r', 1: 'g', 2: 'b'}"})
    picture = np.zeros((8, 24, 3), np.uint8)
    picture[:, :8] = RED
    for classifier in (
        Classifier.load(color_model, crop_mode="squash", threads=1, limits=Limits(max_pixels=5000)),
        Classifier.load(outside, description=Description(crop_pct=0.5), crop_mode="border"),
    ):
        pickled = pickle.dumps(classifier)
        with monkeypatch.context() as elsewhere:
            elsewhere.chdir("/")
            for again in (pickle.loads(pickled), copy.copy(classifier), copy.deepcopy(classifier)):
                for name in ("spec", "threads", "assumed", "_recipe"):
                    assert getattr(again, name) == getattr(classifier, name)
                assert again.predict([picture]) == classifier.predict([picture])


def test_nothing_in_gives_nothing_out(classifier):
    assert classifier.predict([]) == []
    assert classifier.logits([]).shape == classifier.embed([]).shape == (0, 3)


def test_top_k_is_capped_at_the_number_of_classes(classifier):
    (result,) = classifier.predict([np.zeros((8, 8, 3), np.uint8)], top_k=50)
    assert [item.label for item in result.predictions] == ["red", "green", "blue"]  # equal: in the order of the classes


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"workers": 0}, "must be at least 1"),
        ({"min_probability": 1.1}, "min_probability must be from 0 to 1, not 1.1"),
        ({"timeout": 0}, "timeout must be above 0 seconds, not 0"),
    ],
)
def test_numbers_out_of_range_are_usage_errors(classifier, options, fragment):
    with pytest.raises(UsageError, match=fragment):
        classifier.predict_stream([], **options)


def test_one_picture_gives_one_result_and_several_give_a_list(classifier, tmp_path):
    path = save_picture(tmp_path / "a.png", RED)
    array = np.asarray(Image.open(path))
    for one in (path, str(path), path.read_bytes(), BytesIO(path.read_bytes()), Image.open(path), array):
        assert classifier.predict(one) == classifier.predict([one])[0]
        assert classifier.predict(one, top_k=1, min_probability=1).unknown
    assert [result.predictions[0].label for result in classifier.predict(np.stack([array, array]))] == ["red"] * 2
    assert [result.status for result in classifier.predict(iter([path, tmp_path]))] == ["ok", "error"]
    assert classifier.predict(tmp_path).error == "is a folder, not a picture"


def test_a_model_is_opened_by_its_class_or_by_load_and_says_what_it_is(color_model):
    for classifier in (Classifier(color_model, threads=1), Classifier.load(color_model, threads=1)):
        assert repr(classifier) == "<Classifier colors: 3 classes, 8x8 pixels, on cpu>"
        assert classifier.threads == 1


@pytest.mark.parametrize(
    "one", ["a.png", Path("a.png"), BytesIO(), np.zeros((8, 8, 3), np.uint8), Image.new("RGB", (8, 8))]
)
def test_one_picture_in_place_of_a_list_is_told_where_a_list_comes_out(classifier, one):
    for method in (classifier.predict_stream, classifier.logits):
        with pytest.raises(UsageError, match="into a list"):
            method(one)


def test_a_picture_that_cannot_be_read_is_a_result_for_predict_and_an_error_for_logits(classifier, tmp_path):
    (result,) = classifier.predict([tmp_path / "gone.png"])
    assert result.status == "error"
    assert result.predictions == ()
    with pytest.raises(PictureError, match=r"gone\.png: no such file"):
        classifier.logits([tmp_path / "gone.png"])


def test_an_answer_that_is_not_a_number_is_an_error_row(tmp_path):
    graph = color_graph()
    graph.graph.node[3].op_type = "Log"  # of black
    classifier = Classifier.load(save_model(graph, tmp_path / "nan.onnx", COLOR_SPEC.to_metadata()))
    black, white = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    bad, good = classifier.predict([black, white])
    assert "not a number" in bad.error
    assert good.status == "ok"


def test_a_graph_with_a_fixed_batch_takes_any_number_of_pictures(tmp_path):
    graph = color_graph()
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    classifier = Classifier.load(save_model(graph, tmp_path / "fixed.onnx", COLOR_SPEC.to_metadata()))
    pixels = [np.full((8, 8, 3), color, np.uint8) for color in (RED, GREEN, BLUE, RED, GREEN)]
    labels = [result.predictions[0].label for result in classifier.predict(pixels)]
    assert labels == ["red", "green", "blue", "red", "green"]


def test_a_graph_that_gives_fewer_logits_than_labels_is_refused_when_run(tmp_path):
    graph = color_graph()
    graph.graph.initializer.append(helper.make_tensor("kept", TensorProto.BOOL, [3], [True, True, False]))
    graph.graph.node[3].CopyFrom(helper.make_node("Compress", ["embedding", "kept"], ["logits"], axis=1))
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "C"
    classifier = Classifier.load(save_model(graph, tmp_path / "few.onnx", COLOR_SPEC.to_metadata()))
    with pytest.raises(ModelError, match="3 labels"):
        classifier.logits([np.zeros((8, 8, 3), np.uint8)])


def test_the_picture_of_a_wide_photo_is_cut_or_squeezed(color_model):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = RED
    assert Classifier.load(color_model).logits([wide])[0].tolist() == [1.0, 0.0, 0.0]
    squeezed = Classifier.load(color_model, crop_mode="squash").logits([wide])[0]
    assert 0.2 < squeezed[0] < 0.5


def test_cuda_that_falls_back_in_silence_is_an_error(monkeypatch, color_model):
    """As on a machine with a driver and a GPU that cannot be used: onnxruntime takes the CPU and says nothing."""
    from visiontool import DeviceError, runtime
    from visiontool.runtime import providers

    monkeypatch.setattr(runtime, "gpu_in_sight", lambda: True)
    monkeypatch.setattr(providers, "why_not", lambda provider, number: None)
    with pytest.raises(DeviceError, match="cuda:1"):
        Classifier.load(color_model, device="cuda:1")
    assert Classifier.load(color_model, device="auto").device == "cpu"


def test_a_buffer_that_the_caller_fills_again_gives_each_picture_its_own_answer(classifier):
    """As a camera or a film gives its frames."""
    buffer = np.zeros((8, 8, 3), np.uint8)

    def frames():
        for color in (RED, GREEN, BLUE) * 10:
            buffer[...] = color
            yield buffer

    results = classifier.predict_stream(frames(), batch_size=4, workers=3)
    assert [result.predictions[0].label for result in results] == ["red", "green", "blue"] * 10


def test_one_classifier_serves_several_threads(classifier):
    def ask(color):
        results = classifier.predict([np.full((8, 8, 3), color, np.uint8)] * 50)
        return [result.predictions[0].index for result in results]

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(ask, (RED, GREEN, BLUE))) == [[number] * 50 for number in range(3)]


@pytest.mark.parametrize("pixels", [np.full((1, 8, 8, 3), 0.4), np.zeros((1, 9, 8, 3), np.uint8)])
def test_outputs_takes_nothing_but_uint8_of_the_graphs_size(classifier, pixels):
    with pytest.raises(UsageError, match=r"expected uint8 \(N, 8, 8, 3\)"):
        classifier.outputs(pixels, "logits")


def test_logits_with_two_axes_of_one_more_are_logits(tmp_path):
    graph = color_graph()
    graph.graph.initializer.append(helper.make_tensor("four", TensorProto.INT64, [4], [-1, 3, 1, 1]))
    graph.graph.node[3].CopyFrom(helper.make_node("Reshape", ["embedding", "four"], ["logits"]))
    del graph.graph.output[0].type.tensor_type.shape.dim[:]
    for length in ("N", 3, 1, 1):
        dim = graph.graph.output[0].type.tensor_type.shape.dim.add()
        dim.dim_param, dim.dim_value = ("N", 0) if length == "N" else ("", length)
    classifier = Classifier.load(save_model(graph, tmp_path / "conv.onnx", COLOR_SPEC.to_metadata()))
    red = np.full((8, 8, 3), RED, np.uint8)
    assert classifier.logits([red, red]).tolist() == [[1.0, 0.0, 0.0]] * 2


def test_a_word_that_is_none_of_an_options_is_told_at_once(color_model):
    with pytest.raises(UsageError, match="'middle' is none of center, border, squash"):
        Classifier.load(color_model, crop_mode="middle")
    with pytest.raises(UsageError, match="on_truncated 'Fill' is none of fail, fill"):
        Classifier.load(color_model, limits=Limits(on_truncated="Fill"))


def test_answers_do_not_depend_on_batches_or_threads():
    """Else a run that goes on would not end with the file of an unbroken one."""
    paths = sorted((ROOT / "samples").glob("*.jpg"))
    expected = [Classifier.load("lenet5").predict([path])[0] for path in paths]
    many = Classifier.load("lenet5", threads=1)
    for batch_size in (1, 3, 8):
        assert list(many.predict_stream(reversed(paths), batch_size=batch_size))[::-1] == expected
