"""A new head on the built-in models (test_model_files.py has one on every kind of network, beside torch)."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT

from visiontool import Classifier
from visiontool.data.discover import find_images
from visiontool.graph.head import with_head
from visiontool.hub import resolve

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
    with_head(resolve.resolve(name), tmp_path / "new.onnx", weight, bias, spec)
    classifier = Classifier.load(tmp_path / "new.onnx")
    embedding = source.embed(SAMPLES)
    np.testing.assert_array_equal(classifier.embed(SAMPLES), embedding)
    expected = embedding @ weight.T + bias
    np.testing.assert_allclose(classifier.logits(SAMPLES), expected, atol=1e-5)
    best = [result.predictions[0].label for result in classifier.predict(SAMPLES)]
    assert best == ["abcdefg"[index] for index in expected.argmax(1)]
