"""Explanations: the sum rule, what occlusion and Grad-CAM give, and whether the maps find what the network looks at."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from conftest import BLUE, COLOR_SPEC, GREEN, RED, ROOT, save_picture
from onnx import numpy_helper
from PIL import Image

from visiontool import Classifier, ModelError, UsageError
from visiontool.errors import PictureError
from visiontool.graph import fill
from visiontool.hub import catalog, skeleton
from visiontool.inference.explain import Explainer, explain, features, maps, pixels_of

DAISY = ROOT / "samples" / "daisy.jpg"
EXACT = ("squeezenet1_1", "resnetv2_50", "shufflenet_v2_x0_5", "mobilenetv2_050", "convnext_tiny", "densenet121")


def random_model(name, folder):
    """A classic as visiontool writes it, at a small size where it can be, with random numbers."""
    random, graph, entry = np.random.default_rng(0), skeleton.load(name), catalog.find(name)
    size = 64 if skeleton.exists(entry, 64) else entry.input_size[1]

    def values(key, shape):
        if key.endswith(("running_var", "weight")) and len(shape) < 2:
            return random.uniform(0.5, 1.5, shape).astype(np.float32)
        return random.normal(0, (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1, shape).astype(np.float32)

    fill.set_size(graph, (size, size))
    numbers = {key: values(key, shape) for key, shape in fill.parameters(graph).items()}
    numbers |= {key: np.full_like(numbers[key], 0.5) for key in skeleton.NORMALIZATION}
    spec = replace(
        COLOR_SPEC,
        labels=tuple(map(str, range(1000))),
        input=replace(COLOR_SPEC.input, size=(size, size), mean=entry.mean, std=entry.std),
        feature_map="feature_map",
    )
    filled, constants = fill.fill(
        graph, {key: lambda array=array: array for key, array in numbers.items()}, spec.to_metadata()
    )
    with (folder / "model.onnx").open("wb") as file:
        fill.write(filled, constants, file)
    return Classifier(folder / "model.onnx", device="cpu")


@pytest.mark.parametrize("name", EXACT)
def test_the_mean_of_the_map_and_the_bias_are_the_logit(name, tmp_path):
    classifier = random_model(name, tmp_path)
    (logits,) = classifier.logits([DAISY])
    for class_id in (None, 3):
        found = explain(classifier, DAISY, class_id)
        assert found.method == "cam"
        scale = np.abs(logits).max()
        assert abs(found.map.mean() + found.bias - logits[found.class_id]) < 1e-5 * scale
        assert abs(found.logit - logits[found.class_id]) < 1e-5 * scale
    assert found.class_id == 3


@pytest.fixture
def halves(tmp_path):
    """A picture whose left half is red and whose right half is green."""
    pixels = np.array([[RED] * 4 + [GREEN] * 4] * 8, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "halves.png")
    return tmp_path / "halves.png"


def test_the_colour_models_map_is_the_channel_itself(color_model, halves):
    found = explain(Classifier(color_model), halves, 1)
    assert (found.label, found.class_id, found.method, found.bias) == ("green", 1, "cam", 0.0)
    assert (found.map == [[0.0] * 4 + [1.0] * 4] * 8).all()
    assert found.logit == 0.5
    assert found.probability == pytest.approx(1 / (2 + np.exp(-0.5)), abs=1e-6)


def test_occlusion_takes_from_the_log_odds_what_is_covered(color_model, halves):
    found = explain(Classifier(color_model), halves, 0, "occlusion")
    assert found.map.shape == (8, 8)
    assert (found.map[:, :3] > 0).all()  # red is covered by brown
    assert (found.map[:, 5:] < 0).all()
    part, brown = 9 / 64, 128 / 255  # of a patch of 3 x 3
    logits = np.array([[0.5, 0.5, 0], [0.5 - part * (1 - brown), 0.5 + part * brown, 0]])
    before, after = logits[:, 0] - np.log(np.exp(logits[:, 1:]).sum(axis=1))
    assert found.map[4, 1] == pytest.approx(before - after, abs=1e-6)
    assert Explainer(Classifier(color_model), "occlusion").passes == 65


def test_many_pictures_have_their_maps_in_order_and_the_broken_none(color_model, tmp_path):
    (tmp_path / "broken.png").write_text("no picture")
    paths = [save_picture(tmp_path / f"{i}.png", color) for i, color in enumerate((RED, GREEN, BLUE))]
    paths.insert(1, tmp_path / "broken.png")
    found = list(maps(Classifier(color_model), paths, [None, 0, 0, 2]))
    assert [item and (item.label, item.logit) for item in found] == [
        ("red", 1.0),
        None,
        ("red", 0.0),
        ("blue", 1.0),
    ]


def test_what_cannot_be_explained_says_why(color_model, make_color_model, halves, tmp_path):
    classifier = Classifier(color_model)
    with pytest.raises(PictureError, match="nothing.png"):
        explain(classifier, tmp_path / "nothing.png")
    with pytest.raises(ModelError, match=r"config\.json and model\.safetensors"):
        explain(classifier, halves, method="gradcam")
    lenet = Classifier("lenet5")
    with pytest.raises(UsageError, match="lenet5 has no exact class activation map"):
        next(maps(lenet, [], []))
    with pytest.raises(UsageError, match=r"no layer 'f6' that gives a map.*\n.*models show lenet5 --layers"):
        features(lenet, halves, "f6")
    resizing = Classifier.of(classifier._opened, replace(classifier.spec, resize="graph"))
    with pytest.raises(UsageError, match="resizes pictures itself"):
        explain(resizing, halves)


def test_the_maps_of_a_layer_are_its_filters_at_each_place():
    """LeNet-5: by hand, with numpy."""
    lenet = Classifier("lenet5")
    found = features(lenet, ROOT / "samples" / "digits" / "3.png", "first")
    assert (found.maps.shape, found.layer.filters.shape) == ((6, 28, 28), (6, 5, 5, 1))
    assert found.layer.box == (14, 14, 18, 18)
    gray = found.image[14:19, 14:19] @ np.array((0.299, 0.587, 0.114)) / 255
    window = (gray - lenet.spec.input.mean[0]) / lenet.spec.input.std[0]
    graph = onnx.load(lenet.path).graph
    bias = next(numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name.endswith("c1.bias"))
    by_hand = (found.layer.filters[..., 0] * window).sum(axis=(1, 2)) + bias
    np.testing.assert_allclose(found.maps[:, 14, 14], by_hand, atol=1e-4)
    second = features(lenet, ROOT / "samples" / "digits" / "3.png", "c3")
    assert (second.maps.shape, second.layer.filters, second.layer.box) == ((16, 10, 10), None, (10, 10, 23, 23))
    assert features(lenet, ROOT / "samples" / "digits" / "3.png", "3").layer.layer == second.layer.layer


def areas(classifier, pixels, class_id, map_):
    """The mean probability while a picture is blurred from the map's largest on (deletion), and cleared (insertion)."""
    side = len(pixels) // 14
    blurred = np.asarray(Image.fromarray(pixels).resize((7, 7), Image.Resampling.BOX).resize(pixels.shape[1::-1]))
    order = np.argsort(-np.asarray(Image.fromarray(map_).resize((14, 14))), axis=None, kind="stable")
    pictures = []
    for start, end in ((pixels, blurred), (blurred, pixels)):
        picture = start.copy()
        for number, cell in enumerate(order):
            rows, columns = (slice(at * side, (at + 1) * side) for at in divmod(cell, 14))
            picture[rows, columns] = end[rows, columns]
            if number % 14 == 13:
                pictures.append(picture.copy())
    probabilities = classifier.probabilities(classifier.outputs(np.stack(pictures), "logits"))[:, class_id]
    return probabilities[:14].mean(), probabilities[14:].mean()


@pytest.mark.real
@pytest.mark.parametrize("method", ["cam", "occlusion"])
def test_what_the_maps_point_at_is_what_the_answer_hangs_on(method, default_model, shared):
    """Deletion and insertion (Petsiuk et al. 2018, RISE), against random maps that are as smooth."""
    classifier, random, better = Classifier(default_model), np.random.default_rng(0), []
    for path in sorted((shared / "data" / "photos").glob("*/*.JPEG"))[::20]:
        found = explain(classifier, path, method=method)
        by_chance, by_map = (
            areas(classifier, found.image, found.class_id, map_)
            for map_ in (random.normal(size=(7, 7)).astype(np.float32), found.map)
        )
        better.append((by_chance[0] - by_map[0], by_map[1] - by_chance[1]))
    assert len(better) == 5
    assert (np.mean(better, axis=0) > 0.05).all(), better


def test_with_random_weights_the_map_is_another(default_model, tmp_path):
    """Adebayo et al. 2018, "Sanity Checks for Saliency Maps": it shows the network, not the edges of the picture."""
    model, random = onnx.load(default_model), np.random.default_rng(0)
    for tensor in model.graph.initializer:
        if tensor.name.startswith(("conv_head", "classifier", "blocks.6")) and len(tensor.dims) > 1:
            values = random.permutation(numpy_helper.to_array(tensor).ravel()).reshape(tensor.dims)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "model.onnx")
    likeness = []
    for name in ("daisy", "ladybug", "orange", "school_bus"):
        pair = [
            explain(Classifier(path), ROOT / "samples" / f"{name}.jpg", 985).map.ravel()
            for path in (default_model, tmp_path / "model.onnx")
        ]
        likeness.append(np.corrcoef(*pair)[0, 1])
    assert np.abs(np.mean(likeness)) < 0.4, likeness


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_grad_cam_is_the_exact_map_where_there_is_one(default_model):
    pytest.importorskip("pytorch_grad_cam")
    classifier = Classifier(default_model)
    exact, by_gradient = (explain(classifier, DAISY, 985, method) for method in ("cam", "gradcam"))
    assert (exact.method, by_gradient.method, by_gradient.bias) == ("cam", "gradcam", None)
    np.testing.assert_allclose(by_gradient.map, exact.map, atol=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("vgg11", 7),
        ("mobilenetv3_small_100", 7),
        ("swin_tiny_patch4_window7_224", 7),
        ("deit_tiny_distilled_patch16_224", 14),
    ],
)
def test_grad_cam_finds_the_last_map_of_each_kind_of_network(name, side, tmp_path):
    pytest.importorskip("pytorch_grad_cam")
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    from visiontool.pytorch.grad_cam import grad_cam
    from visiontool.pytorch.weights import create

    torch.manual_seed(0)
    timm.models.save_for_hf(create(name), str(tmp_path), safe_serialization=True)
    classifier = Classifier("lenet5")
    pixels = pixels_of(
        Classifier.of(classifier._opened, replace(classifier.spec, input=replace(COLOR_SPEC.input, size=(224, 224)))),
        DAISY,
    )
    map_ = grad_cam(tmp_path, replace(COLOR_SPEC.input, size=(224, 224)))(pixels, 3)
    assert map_.shape == (side, side)
    assert np.isfinite(map_).all()
    assert map_.std() > 0
