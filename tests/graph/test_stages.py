"""Where stages end in the graphs of the classics, and heads that see them."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from conftest import COLOR_SPEC, ROOT
from kinds_of_model import parsed
from onnx import TensorProto

from visiontool import Classifier
from visiontool.graph import edit
from visiontool.graph.head import with_head
from visiontool.graph.stages import joined, stages_of
from visiontool.hub import skeleton
from visiontool.training.head import Features

PICTURES = [ROOT / "samples" / "orange.jpg", ROOT / "samples" / "alp.jpg"]


def without_numbers(name):
    """The graph of a classic, whose weights have a shape and no numbers; and a spec for it."""
    model = skeleton.load(name)
    weights = [value for value in model.graph.input if value.name != "image"]
    for value in weights:
        dims = [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        model.graph.initializer.append(TensorProto(name=value.name, data_type=TensorProto.FLOAT, dims=dims))
        model.graph.input.remove(value)
    return model, replace(COLOR_SPEC, input=replace(COLOR_SPEC.input, size=(224, 224)))


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("alexnet", [256, 256, 192]),  # two maps of 6 and 13: the one that is made a vector, and ahead of the last pool
        ("vgg16", [512, 512, 512]),
        ("googlenet", [832, 480, 192]),
        ("inception_v3", [768, 288, 192]),
        ("resnet50", [1024, 512, 256]),
        ("densenet121", [512, 256, 128]),  # halved between the dense blocks
        ("squeezenet1_1", [256, 128, 64]),
        ("mobilenetv2_100", [576, 192, 144]),  # widened ahead of the stride
        ("tf_efficientnet_lite0", [672, 240, 144]),
        ("vit_tiny_patch16_224", []),  # its tokens are no map, and the map of the patches is of the embedding's width
        ("swin_tiny_patch4_window7_224", [96]),  # of the patches; behind them it has (N, H, W, C)
    ],
)
def test_the_stages_of_the_classics(name, widths):
    model, spec = without_numbers(name)
    if name == "inception_v3":
        spec = replace(spec, input=replace(spec.input, size=(299, 299)))
    assert [stage.channels for stage in stages_of(model, spec)] == widths


def test_a_value_that_others_pass_by_is_no_end():
    body = """skip = Conv <strides = [2, 2]> (first, w)  inner = Conv <pads = [1, 1, 1, 1]> (first, w3)
              main = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (inner)  sum = Add (skip, main)"""
    graph = f"""net (uint8[N,8,8,3] image) => (float[N,4] logits, float[N,4] embedding) {{
        pixels = Cast <to = 1> (image)  planes = Transpose <perm = [0, 3, 1, 2]> (pixels)
        first = Conv (planes, w1)  {body}  mean = ReduceMean <keepdims = 0> (sum, axes)
        embedding = Identity (mean)  logits = Identity (embedding) }}"""
    weights = {"w1": np.ones((5, 3, 1, 1)), "w": np.ones((4, 5, 1, 1)), "w3": np.ones((4, 5, 3, 3)), "axes": [2, 3]}
    assert stages_of(parsed(graph, **weights), COLOR_SPEC) == [("first", 5)]  # not inner, beside which skip is open
    late = "again = Cast <to = 1> (image)  late = ReduceMean <keepdims = 0> (again, places)"
    graph = graph.replace("embedding = Identity (mean)", f"{late}  embedding = Concat <axis = 1> (mean, late)")
    assert stages_of(parsed(graph, **weights, places=[1, 2]), COLOR_SPEC) == []  # the picture itself is still open


@pytest.mark.parametrize(("stages", "transform"), [(1, "power"), (3, "none"), (4, "power")])
def test_a_head_on_stages_gives_what_numpy_gives(default_model, tmp_path, stages, transform):
    before = Classifier.load(default_model, device="cpu")
    widths = (1280, *joined(default_model, tmp_path / "joined.onnx"))
    assert widths == (1280, 672, 240, 144)
    outputs = Classifier.load(tmp_path / "joined.onnx", device="cpu").embed(PICTURES)
    features = Features(widths[:stages], transform)
    random = np.random.default_rng(0)
    weight, bias = random.normal(size=(3, sum(widths[:stages]))).astype(np.float32), np.ones(3, np.float32)
    spec = replace(before.spec, labels=("a", "b", "c"), label_ids=None)
    with_head(default_model, tmp_path / "out.onnx", weight, bias, spec, stages=stages, transform=transform)
    made = Classifier.load(tmp_path / "out.onnx", device="cpu")
    np.testing.assert_allclose(made.logits(PICTURES), features.of(outputs) @ weight.T + bias, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(outputs[:, :1280], before.embed(PICTURES), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(made.embed(PICTURES), before.embed(PICTURES), rtol=1e-5, atol=1e-5)
    # Another head takes the place of this one, with all that led to it.
    with_head(tmp_path / "out.onnx", tmp_path / "out.onnx", weight[:, :1280], bias, spec)
    names = {node.name for node in onnx.load(tmp_path / "out.onnx").graph.node}
    assert not [name for name in names if name.startswith(("stage", "features"))]


def test_a_network_without_stages_stays_as_it_is(color_model, tmp_path):
    assert joined(color_model, tmp_path / "joined.onnx") == []
    assert not (tmp_path / "joined.onnx").exists()
    assert stages_of(edit.load(color_model)[0], COLOR_SPEC) == []
