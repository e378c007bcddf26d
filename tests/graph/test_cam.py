"""Class activation maps: decided from the graph whether they are exact, for hand-made tails and for every classic."""

import re
from functools import partial

import numpy as np
import onnx
import pytest
from conftest import ROOT
from kinds_of_model import parsed
from onnx import helper
from onnx.reference import ReferenceEvaluator

from visiontool.graph import fill
from visiontool.graph.cam import exact_head
from visiontool.graph.cost.shaped_graph import ShapedGraph
from visiontool.hub import catalog, skeleton
from visiontool.model.spec import InputSpec, ModelSpec

WEIGHT = np.arange(10, dtype=np.float64).reshape(2, 5) / 7
BIAS = np.array([1.0, -2.0])
AXES = np.array([2, 3])


def spec_of(classes: int = 2, **changes: object) -> ModelSpec:
    labels = tuple(map(str, range(classes)))
    return ModelSpec(name="m", labels=labels, input=InputSpec(size=(4, 6), mean=(0.5,), std=(0.5,)), **changes)


def head_and_logits(tail: str, activation: str = "none", batch: object = "N", shape: str = "5,4,6", **constants):
    """The head of a graph whose map is its input, that input, and its logits."""
    used = {name: value for name, value in constants.items() if re.search(rf"\b{name}\b", tail)}
    model = parsed(f"g (float[{batch},{shape}] x) => (float[{batch},2] y) {{ {tail} }}", **used)
    x = np.random.default_rng(0).normal(size=(1 if batch == "N" else batch, *map(int, shape.split(",")))) + 1
    (logits,) = ReferenceEvaluator(model).run(None, {"x": x.astype(np.float32)})
    return exact_head(ShapedGraph(model, None, (4, 6)), spec_of(activation=activation)), x, logits


@pytest.mark.parametrize(
    "tail",
    [
        "m = GlobalAveragePool(x) e = Flatten(m) y = Gemm <transB=1> (e, W, b)",
        "m = GlobalAveragePool(x) e = Flatten(m) y = Gemm(e, T, b)",
        "m = ReduceMean(x, axes) s = Squeeze(m, axes) z = MatMul(s, T) y = Add(z, b)",
        "m = AveragePool <kernel_shape=[4, 6]> (x) c = Conv(m, K, b) i = Identity(c) y = Flatten(i)",
        "m = ReduceMean <keepdims=0> (x, axes) n = LayerNormalization(m, g, h) y = Gemm <transB=1> (n, W, b)",
        "c = Conv(x, K, b) r = Relu(c) m = GlobalAveragePool(r) y = Flatten(m)",
        "t = Transpose <perm=[0, 2, 3, 1]> (x) m = ReduceMean <keepdims=0> (t, last) y = Gemm <transB=1> (m, W, b)",
    ],
)
def test_the_mean_of_the_maps_and_the_bias_are_the_logits(tail):
    constants = {"W": WEIGHT, "T": WEIGHT.T, "b": BIAS, "axes": AXES, "last": AXES - 1}
    constants |= {"K": WEIGHT[..., None, None], "g": np.linspace(1.0, 2, 5), "h": np.linspace(-1.0, 1, 5)}
    head, x, logits = head_and_logits(tail, **constants)
    if head.source == "t":
        x = x.transpose(0, 2, 3, 1)
    elif head.source == "r":
        x = np.maximum(np.einsum("ck,nkhw->nchw", WEIGHT, x) + BIAS[:, None, None], 0)
    maps = head.linear(head.features(x))
    assert maps.shape == (4, 6, 2)
    np.testing.assert_allclose(maps.mean(axis=(0, 1)) + head.bias, logits[0], rtol=1e-5)


@pytest.mark.parametrize(
    "tail",
    [
        "m = GlobalMaxPool(x) e = Flatten(m) y = Gemm <transB=1> (e, W, b)",
        "m = GlobalAveragePool(x) r = Relu(m) e = Flatten(r) y = Gemm <transB=1> (e, W, b)",
        "m = AveragePool <kernel_shape=[3, 4], strides=[3, 4]> (x) e = Flatten(m) y = Gemm <transB=1> (e, W, b)",
        "a = GlobalAveragePool(x) n = GlobalMaxPool(x) m = Add(a, n) e = Flatten(m) y = Gemm <transB=1> (e, W, b)",
        "m = GlobalAveragePool(x) e = Flatten(m) z = Gemm <transB=1> (e, W, b) y = Softmax(z)",
        "k = GlobalMaxPool(x) m = GlobalAveragePool(k) e = Flatten(m) y = Gemm <transB=1> (e, W, b)",
        "m = GlobalAveragePool(x) e = Flatten(m) z = Gather <axis=1> (e, turned) y = Gemm <transB=1> (z, W, b)",
    ],
)
def test_whatever_else_follows_the_last_map_is_not_exact(tail):
    assert head_and_logits(tail, W=WEIGHT, b=BIAS, turned=np.array([4, 3, 2, 1, 0]))[0] is None


def test_probabilities_are_explained_by_the_logits_before_them_and_a_fixed_batch_is_no_hindrance():
    tail = "m = GlobalAveragePool(x) e = Flatten(m) z = Gemm <transB=1> (e, W, b) y = Softmax(z)"
    head, x, probabilities = head_and_logits(tail, "softmax", batch=3, W=WEIGHT, b=BIAS)
    powers = np.exp(head.linear(head.features(x[:1])).mean(axis=(0, 1)) + head.bias)
    np.testing.assert_allclose(powers / powers.sum(), probabilities[0], rtol=1e-5)


def classic_head(name):
    """The head of a classic, from its skeleton: only what may be behind the last map gets numbers."""
    graph, entry = skeleton.load(name), catalog.find(name)
    values = {key: partial(np.ones, shape, np.float32) for key, shape in fill.parameters(graph).items()}
    spec = ModelSpec(
        name=name, labels=("",) * 1000, input=InputSpec(size=entry.input_size[1:], mean=entry.mean, std=entry.std)
    )
    filled, constants = fill.fill(graph, values, spec.to_metadata())
    behind = {name for node in list(filled.graph.node)[-16:] for name in node.input}
    for key, constant in constants.items():
        dtype = helper.np_dtype_to_tensor_dtype(constant.dtype)
        tensor = onnx.TensorProto(name=key, dims=constant.shape, data_type=dtype)
        if key in behind or np.prod(constant.shape) <= 4096:
            tensor.raw_data = np.asarray(constant.array(), constant.dtype).tobytes()
        filled.graph.initializer.append(tensor)
    return exact_head(ShapedGraph(filled, None, None), spec)


@pytest.mark.slow
def test_the_table_of_the_page_says_which_classics_have_exact_maps():
    one = {entry.classic.family: entry.architecture for entry in reversed(list(catalog.classics())) if entry.source}
    one = {family: name for family, name in one.items() if skeleton.path(name).is_file()}
    one |= {"MobileNet v3": "mobilenetv3_small_100"}
    rows = re.findall(r"^\| (exact|not exact) \| (.*) \|", (ROOT / "docs" / "explain.md").read_text("utf-8"), re.M)
    said = {family: kind == "exact" for kind, families in rows for family in families.split(", ")}
    assert said == {family: classic_head(name) is not None for family, name in one.items()}
