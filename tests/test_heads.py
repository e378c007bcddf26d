"""A new head on every kind of network: onnxruntime and torch give the same logits."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT

from visiontool import Classifier, InputSpec, ModelSpec, store
from visiontool.find import find_images
from visiontool.graph import with_head

CLASSES = 7
SAMPLES = list(find_images([str(ROOT / "samples")]))


def new_head(width: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(7)
    weight = random.standard_normal((CLASSES, width)) / width**0.5
    return weight.astype(np.float32), random.standard_normal(CLASSES).astype(np.float32)


@pytest.mark.parametrize(("name", "width"), [("lenet5", 84), ("resnet18_tiny200", 256)])
def test_a_built_in_model_with_a_new_head(name, width, tmp_path):
    weight, bias = new_head(width)
    source = Classifier.load(name)
    spec = replace(source.spec, name="new", labels=tuple("abcdefg"), label_ids=None)
    with_head(store.resolve(name), tmp_path / "new.onnx", weight, bias, spec)
    classifier = Classifier.load(tmp_path / "new.onnx")
    embedding = source.embed(SAMPLES)
    np.testing.assert_array_equal(classifier.embed(SAMPLES), embedding)
    expected = embedding @ weight.T + bias
    np.testing.assert_allclose(classifier.logits(SAMPLES), expected, atol=1e-5)
    best = [result.predictions[0].label for result in classifier.predict(SAMPLES)]
    assert best == ["abcdefg"[index] for index in expected.argmax(1)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("architecture", "size", "layers"),
    [
        ("resnet18", 33, ["fc"]),  # linear
        ("vgg11", 32, ["head.fc"]),  # the last of three layers; the other two lead to the embedding
        ("squeezenet1_1", 47, ["classifier.2"]),  # was a convolution ahead of the pool
        ("deit_tiny_distilled_patch16_224", 32, ["head", "head_dist"]),  # the mean of two classifiers
        ("convnext_atto", 32, ["head.fc"]),  # a norm between pool and classifier
    ],
)
def test_torch_gives_the_same_logits_with_the_same_head(architecture, size, layers, tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("timm")
    from random_weights import random_weights

    from visiontool.training import backbone, parity
    from visiontool.training.contract import InContract
    from visiontool.training.convert import convert

    spec = ModelSpec(
        name=architecture,
        labels=tuple(map(str, range(1000))),
        input=InputSpec(size=(size, size), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
    )
    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)
    model = random_weights(backbone.create(architecture, img_size=size), parity.normalized(pixels, spec.input))
    spec = convert(model, spec, tmp_path / "source.onnx", SAMPLES, batches=(1, 2))
    weight, bias = new_head(model.head_hidden_size)
    spec = replace(spec, labels=tuple("abcdefg"))
    with_head(tmp_path / "source.onnx", tmp_path / "new.onnx", weight, bias, spec)

    model.reset_classifier(CLASSES)
    for name in layers:
        layer = model.get_submodule(name)
        assert isinstance(layer, torch.nn.Linear)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(bias))
    with torch.inference_mode():
        expected = InContract(model.eval(), spec.input)(torch.from_numpy(pixels))[0].numpy()
    assert np.ptp(expected, axis=0).min() > 1e-3  # the pictures are told apart
    logits = Classifier.load(tmp_path / "new.onnx").run(pixels, "logits")
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
