"""Costs from the graph: textbook tables, graphs worked out by hand, published figures, and files that mean harm."""

import time
from dataclasses import astuple
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import COLOR_SPEC, ROOT, color_graph, save_model
from kinds_of_model import parsed
from onnx import TensorProto
from safetensors.numpy import load_file

from visiontool import ModelError
from visiontool.graph.cost import Cost
from visiontool.graph.cost.layers import measure

LENET = ROOT / "weights" / "lenet5"


def table(cost: Cost) -> list[tuple[object, ...]]:
    """Name, kind, output shape, parameters, MACs, activations, receptive field of each layer."""
    return [astuple(layer) for layer in cost.layers]


def test_lenet5_is_the_textbooks_table():
    """LeCun et al. 1998, with the usual full connections of C3; a textbook's sums."""
    cost = measure(LENET / "model.onnx")
    assert [row[1:] for row in table(cost)] == [
        ("conv 5x5", (6, 28, 28), 156, 117_600, 4704, 5),
        ("average pool 2x2", (6, 14, 14), 0, 0, 0, 6),
        ("conv 5x5", (16, 10, 10), 2416, 240_000, 1600, 14),
        ("average pool 2x2", (16, 5, 5), 0, 0, 0, 16),
        ("conv 5x5", (120, 1, 1), 48_120, 48_000, 120, 32),
        ("linear", (84,), 10_164, 10_080, 84, None),
        ("linear", (10,), 850, 840, 10, None),
    ]
    assert [layer.name for layer in cost.layers if layer.params] == ["c1", "c3", "c5", "f6", "fc"]
    assert (cost.params, cost.macs, cost.activations) == (61_706, 416_520, 6518)
    assert cost.receptive_field == 16  # of S4, the last that has more than one position
    assert cost.peak_activation_bytes == 4 * (6 * 28 * 28 + 6 * 14 * 14)  # C1 and S2
    assert cost.size_bytes == (LENET / "model.onnx").stat().st_size


def test_efficientnet_lite0(default_model):
    cost = measure(default_model)
    weights = load_file(default_model.with_name("model.safetensors"))
    trained = sum(values.size for name, values in weights.items() if "running" not in name and values.ndim)
    channels = sum(values.size for name, values in weights.items() if name.endswith("running_mean"))
    assert cost.params == trained - channels  # scale and shift of each channel became one bias
    # Of the stem and seven stages: a kernel of k adds k-1 times the stride before it.
    stages = (2 * 2, 2 * 2 + 2 * 4, 4 * 4 + 4 * 8, 2 * 8 + 2 * 2 * 16, 3 * 4 * 16, 4 * 16 + 3 * 4 * 32, 2 * 32)
    assert cost.receptive_field == 3 + sum(stages) == 851
    assert cost.peak_activation_bytes == 4 * (96 * 112 * 112 + 96 * 56 * 56)  # the first expansion, and behind it
    first, second, *_, last = table(cost)
    assert first == ("conv_stem", "conv 3x3 stride 2", (32, 112, 112), 896, 10_838_016, 401_408, 3)
    assert second == ("blocks.0.0.conv_dw", "depthwise conv 3x3", (32, 112, 112), 320, 3_612_672, 401_408, 7)
    assert last == ("classifier", "linear", (1000,), 1_281_000, 1_280_000, 1000, None)
    assert cost.layers[-2].kind == "global average pool"


def save(folder, body, *, x="1,3,8,8", y="y", opset=20, **constants):
    """A float graph of one input `x` of that shape, in ONNX's text format. A constant given as a shape is all ones."""
    arrays = {name: np.ones(value) if isinstance(value, tuple) else value for name, value in constants.items()}
    return save_model(parsed(f"net (float[{x}] x) => ({y}) {{ {body} }}", opset=opset, **arrays), folder / "built.onnx")


# Every kind of layer, with a batch normalization that is not folded and a linear layer in two nodes.
SMALL_BODY = """
    a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, "stem.weight", "stem.bias")
    b = Relu (a)
    c = Conv <pads = [1, 1, 1, 1], group = 4> (b, "onnx::Conv_7")
    d = BatchNormalization (c, scale, shift, measured_mean, measured_variance)
    e = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (d)
    f = Conv (e, "side.weight")
    g = Concat <axis = 1> (e, f)
    h = GlobalAveragePool (g)
    i = Flatten (h)
    j = MatMul (i, val_3)
    k = Add (j, "model.fc.bias")
"""
SMALL_CONSTANTS = {
    **dict.fromkeys(("scale", "shift", "measured_mean", "measured_variance", "stem.bias"), (4,)),
    "stem.weight": (4, 3, 3, 3),
    "onnx::Conv_7": (4, 1, 3, 3),
    "side.weight": (2, 4, 1, 1),
    "val_3": (6, 5),
    "model.fc.bias": (5,),
}
SMALL_TABLE = [
    ("stem", "conv 3x3 stride 2", (4, 4, 4), 4 * 27 + 4, 64 * 27, 64, 3),
    ("c", "depthwise conv 3x3", (4, 4, 4), 4 * 9 + 8, 64 * 9, 64, 7),
    ("pool1", "max pool 2x2", (4, 2, 2), 0, 0, 0, 9),
    ("side", "conv 1x1", (2, 2, 2), 8, 8 * 4, 8, 9),
    ("h", "global average pool", (6, 1, 1), 0, 0, 0, None),
    ("fc", "linear", (5,), 35, 30, 5, None),
]


@pytest.mark.parametrize("shape", ["N,3,8,8", "1,3,8,8", "4,3,8,8", "N,3,H,W"])
def test_a_network_worked_out_by_hand(shape, tmp_path):
    path = save(tmp_path, SMALL_BODY, x=shape, y="k", **SMALL_CONSTANTS)
    cost = measure(path, size=(8, 8) if "H" in shape else None)
    assert table(cost) == SMALL_TABLE
    assert (cost.params, cost.macs, cost.activations) == (199, 2366, 141)
    assert cost.receptive_field == 9
    assert cost.peak_activation_bytes == 4 * (3 * 64 + 64)


def test_a_graph_of_unknown_size_has_parameters_only(tmp_path):
    cost = measure(save(tmp_path, SMALL_BODY, x="N,3,H,W", y="k", **SMALL_CONSTANTS))
    assert cost.params == 199
    assert [layer.params for layer in cost.layers] == [row[3] for row in SMALL_TABLE]
    assert (cost.macs, cost.activations, cost.peak_activation_bytes, cost.receptive_field) == (None,) * 4


@pytest.mark.parametrize(("first", "numbers"), [("a", 2 * 64), ("b", 64 + 16)])
def test_memory_counts_what_lives_at_once(first, numbers, tmp_path):
    """b cannot lie on a where the sum takes both."""
    body = f"a = Conv (x, w)  b = Relu (a)  c = Add ({first}, b)  d = Flatten (c)  y = Sigmoid (d)"
    assert measure(save(tmp_path, body, x="1,1,4,4", w=(4, 1, 1, 1))).peak_activation_bytes == 4 * numbers


CONV = "a = Conv (x, w)"
HALF = "a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w)"
KERNEL = {"w": (1, 1, 3, 3)}
CIFAR = {"w": (4, 1, 3, 3), "v": (1, 4, 3, 3), "pads": [0, 1, 0, 0, 0, 2, 0, 0]}
SLICES = {"from": [0, 0], "to": [99, 99], "axes": [2, 3], "steps": [2, 2]}
SAME = """a = Conv <strides = [2, 2], auto_pad = "{}"> (x, w)  b = Conv <strides = [2, 2], pads = [0, 0, 1, 1]> (x, w)
    y = Add (a, b)"""


@pytest.mark.parametrize(
    ("body", "constants", "fields", "last"),
    [
        # Branches that look to different sides see more together.
        (
            "a = Conv <pads = [2, 2, 0, 0]> (x, w) b = Conv <pads = [0, 0, 2, 2]> (x, w) y = Add (a, b)",
            KERNEL,
            [3, 3],
            5,
        ),
        # A shortcut by slices and padded channels, as in the ResNets for CIFAR-10.
        (
            f"{HALF}  b = Slice (x, from, to, axes, steps)  c = Pad (b, pads)  d = Add (a, c)  y = Conv (d, v)",
            {**CIFAR, **SLICES},
            [3, 7],
            3 + 2 * 2,
        ),
        # 8 pixels at stride 2 lack one: put at the end, both branches see pixels 0 to 2, at the start -1 to 1.
        (SAME.format("SAME_UPPER"), KERNEL, [3, 3], 3),
        (SAME.format("SAME_LOWER"), KERNEL, [3, 3], 4),
        # Behind squeeze and excitation, each position sees the whole picture.
        (f"{CONV}  b = GlobalAveragePool (a)  c = Mul (a, b)  y = Conv (c, w)", KERNEL, [3, None, None], None),
        # A kernel that depends on the picture, and a transpose that leaves axes out, have no field.
        ("y = Conv (map, x)", {"map": (1, 1, 16, 16)}, [None], None),
        (f"{CONV}  y = Transpose <perm = [0, 1, 2, 2]> (a)", KERNEL, [3], 3),
    ],
)
def test_receptive_fields(body, constants, fields, last, tmp_path):
    cost = measure(save(tmp_path, body, x="1,1,8,8", **constants))
    assert [layer.receptive_field for layer in cost.layers] == fields
    assert cost.receptive_field == last


def test_attention_counts_its_products(tmp_path):
    """Tokens (1, 16, 6) out of a 4x4 map: two products of 16 x 16 x 6, and no field behind them."""
    body = """
        a = Conv (x, w)  b = Reshape (a, shape)  c = Transpose <perm = [0, 2, 1]> (b)  d = Add (c, position)
        scores = MatMul (d, b)  e = Softmax (scores)  y = MatMul (e, d)
    """
    path = save(tmp_path, body, x="1,6,4,4", w=(6, 6, 1, 1), shape=[1, 6, 16], position=(1, 16, 6))
    cost = measure(path)
    assert [(row[1], *row[3:]) for row in table(cost)] == [
        ("conv 1x1", 36 + 96, 16 * 36, 96, 1),
        ("matmul", 0, 16 * 16 * 6, 256, None),
        ("matmul", 0, 16 * 16 * 6, 96, None),
    ]
    assert cost.receptive_field is None


@pytest.mark.parametrize("operator", ["ReduceMean", "ReduceMax"])
@pytest.mark.parametrize("opset", [13, 20])
def test_a_pool_over_sides_of_unknown_length_has_no_field(operator, opset, tmp_path):
    """A shape is known behind it, but not before; newer opsets give the axes as an input."""
    pool = f"{operator} <axes = [2, 3], keepdims = 0> (x)" if opset < 18 else f"{operator} <keepdims = 0> (x, sides)"
    path = save(tmp_path, f"a = {pool}  y = MatMul (a, fc)", x="N,3,H,W", opset=opset, sides=[2, 3], fc=(3, 5))
    cost = measure(path)
    assert (cost.params, cost.macs, cost.receptive_field, cost.peak_activation_bytes) == (15, 15, None, None)
    assert [(layer.output_shape, layer.receptive_field) for layer in cost.layers][-1] == ((5,), None)


def test_weights_are_found_behind_what_only_depends_on_them(tmp_path):
    """Quantized, transposed, made by a Constant node, and used twice."""
    body = """
        w = DequantizeLinear <axis = 0> ("conv.weight_quantized", scale, zero)
        bias = Constant <value = float[2] {1, 1}> ()
        a = Conv (x, w, bias)  b = Flatten (a)  t = Transpose ("fc.weight")
        c = MatMul (b, t)  d = Add (c, c)  e = MatMul (b, t)  y = Sum (d, e)
    """
    constants = {"conv.weight_quantized": np.ones((2, 3, 3, 3), np.int8), "zero": np.ones(2, np.int8), "scale": (2,)}
    rows = table(measure(save(tmp_path, body, x="N,3,4,4", **constants, **{"fc.weight": (5, 8)})))
    assert [(row[0], row[3]) for row in rows] == [("conv", 54 + 2), ("fc", 40), ("fc", 0)]


@pytest.mark.parametrize("opset", [9, 20])
def test_shapes_that_the_graph_works_out_itself(opset, tmp_path):
    """As exporters flatten where the batch is open: shape, gather, put together, reshape."""
    unsqueeze = "Unsqueeze <axes = [0]> (n)" if opset < 13 else "Unsqueeze (n, axes)"
    body = f"""
        first = Constant <value = int64 {{0}}> ()
        s = Shape (x)  n = Gather (s, first)  n1 = {unsqueeze}
        shape = Concat <axis = 0> (n1, rest)  flat = Reshape (x, shape)  y = MatMul (flat, w)
    """
    cost = measure(save(tmp_path, body, x="N,3,4,4", opset=opset, w=(48, 7), rest=[-1], axes=[0]))
    assert (cost.macs, cost.layers[0].output_shape) == (48 * 7, (7,))


@pytest.mark.parametrize("operator", ['Einsum <equation = "ij,jk->ik">', "vendor.example.Conv", "DoesNotExist"])
def test_what_cannot_be_counted_is_unknown(operator, tmp_path):
    body = f"{SMALL_BODY} z = {operator} (i, u)  y = MatMul (z, val_3)"
    cost = measure(save(tmp_path, body, x="N,3,8,8", u=(6, 6), **SMALL_CONSTANTS))
    assert cost.macs is None
    assert cost.params >= 112 + 44 + 8 + 30


# --- files that are broken or mean harm ---


def chain(node, count, first="x"):
    """`node` again and again, each time on the value before, from `first` on; the last value is `y`."""
    names = [first, *(f"v{number}" for number in range(count - 1)), "y"]
    return "  ".join(node.format(before, after) for before, after in pairwise(names))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("a = Add (x, y)  y = Add (a, x)", "'y' is used before anything makes it"),
        ("y = Relu (a)  a = Relu (x)", "'a' is used before anything makes it"),
        ("y = Relu (x)  y = Tanh (x)", "'y' is made twice"),
        ("a = Relu (x)", "'y' does not depend on the picture"),
        ("y = Relu (c)", "'y' does not depend on the picture"),
        (chain("{1} = Relu ({0})", 9), "9 nodes; a picture classifier has at most 8"),
    ],
    ids=["cycle", "out of order", "made twice", "unmade", "of constants", "too many nodes"],
)
def test_broken_graphs_are_refused(body, message, tmp_path, monkeypatch):
    monkeypatch.setattr("visiontool.graph.cost.shaped_graph.MAX_NODES", 8)
    with pytest.raises(ModelError, match=rf"built\.onnx: .*{message}"):
        measure(save(tmp_path, body, c=(3,)))


def test_what_is_no_picture_classifier_is_refused(tmp_path):
    with pytest.raises(ModelError, match="does not take one batch of pictures"):
        measure(save(tmp_path, "y = Relu (x)", x="N,48"))
    wrong = COLOR_SPEC.to_json().replace('"logits": "logits"', '"logits": "scores"')
    path = save_model(color_graph(), tmp_path / "colors.onnx", {"visiontool.manifest": wrong})
    with pytest.raises(ModelError, match="logits output 'scores' is not in the graph"):
        measure(path)


def negative_sides():
    """onnx ends the whole process on a slice of them, which come of a window larger than its map, or from the file."""
    body = """
        a = MaxPool <kernel_shape = [9, 9]> (x)  b = Slice (a, start, end, rows)
        d = Slice (c, start, end, rows)  y = Add (b, d)
    """
    model = parsed(f"net (float[1,3,4,4] x) => (y) {{ {body} }}", start=[0], end=[4], rows=[2])
    model.graph.initializer.append(TensorProto(name="c", dims=[1, 3, -5, 4], data_type=TensorProto.FLOAT))
    return model


HUGE = 2**62
HARMFUL = {
    # 2**60 numbers, were they worked out
    "doubling shapes": (
        f"s = Shape (x)  {chain('{1} = Concat <axis = 0> ({0}, {0})', 60, 's')}  z = Reshape (x, y)",
        {},
    ),
    "growing ranks": (chain("{1} = Unsqueeze ({0}, axes)", 1001), {"axes": list(range(16))}),
    "strides of strides": (chain(f"{{1}} = Conv <strides = [{HUGE}, {HUGE}]> ({{0}}, w)", 501), {"w": (3, 3, 1, 1)}),
    "huge numbers": ("b = Expand (v, shape)  y = MatMul (x, b)", {"shape": [HUGE] * 3, "v": (2, 3)}),
    "unpaired attributes": (
        f"a = Conv <strides = [0, -1], pads = [{HUGE}, {HUGE}, {HUGE}, {HUGE}], dilations = [1]> (x, w)"
        "  b = Transpose <perm = [0, 0, 9]> (a)  y = Conv (b)",
        {"w": (3, 3, 3, 3)},
    ),
    "constants of constants": (
        f"{chain('{1} = Add ({0}, {0})', 500, 'c')}  a = Conv (x, w)  z = Mul (a, y)",
        {"c": (8,), "w": (4, 3, 1, 1)},
    ),
}


@pytest.mark.parametrize("name", [*HARMFUL, "negative sides"])
def test_graphs_that_ask_for_too_much_end_soon(name, tmp_path):
    if name == "negative sides":
        path = save_model(negative_sides(), tmp_path / "built.onnx")
    else:
        body, constants = HARMFUL[name]
        path = save(tmp_path, body, x="N,3,4,4", y="z" if "z =" in body else "y", **constants)
    start = time.process_time()
    assert measure(path).receptive_field is None or name == "constants of constants"
    assert time.process_time() - start < 5


# --- published figures ---


# A network of torchvision, its receptive field worked out by hand, GMACs and million activations.
# Source: timm, results/benchmark-infer-amp-nchw-pt240-cu124-rtx4090.csv
PUBLISHED = [
    # 11, pool 19, 51, pool 67, then 3x3 at stride 16: 99, 131, 163, pool 195
    ("alexnet", 195, None, None),
    # 3x3 twice at stride 1 and 2, three times at 4, 8 and 16, a pool of 2x2 behind each
    ("vgg16", 1 + 4 + 1 + 8 + 2 + 24 + 4 + 48 + 8 + 96 + 16, None, None),
    # 3, pool 7, at stride 4 two fires and a pool, at 8 as many, at 16 four fires
    ("squeezenet1_1", 7 + 2 * 8 + 8 + 2 * 16 + 16 + 4 * 32, None, None),
    # as ResNet-18 (435) with 3, 4, 6 and 3 convolutions of 3x3, the first of each at the stride before
    ("resnet50", 11 + 3 * 8 + (8 + 3 * 16) + (16 + 5 * 32) + (32 + 2 * 64), 4.11, 11.11),
    ("densenet121", None, 2.87, 6.90),
    ("mobilenet_v2", None, None, None),
    # stem 31 at stride 8; A: 3 x two 3x3; B; C: 4 x two 7x1 and 1x7; D; E: 2 x two 3x3
    ("inception_v3", 31 + 3 * 32 + 32 + 4 * 192 + (96 + 32) + 2 * 128, 5.73, 8.97),
    ("convnext_tiny", None, 4.47, 13.44),
    ("vit_b_16", None, None, None),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("name", "receptive_field", "gmacs", "mactivations"), PUBLISHED)
def test_published_networks(name, receptive_field, gmacs, mactivations, tmp_path):
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("torchvision").models
    path = tmp_path / "model.onnx"
    arguments = {"init_weights": False} if name == "inception_v3" else {}
    model = models.get_model(name, weights=None, **arguments).eval()
    if name == "inception_v3":
        model.AuxLogits = None
    for parameter in model.parameters():  # the exporter makes one of tensors that are equal
        torch.nn.init.normal_(parameter, std=0.02)
    side = 299 if name == "inception_v3" else 224
    example = torch.zeros(2, 3, side, side)
    torch.onnx.export(model, (example,), path, dynamic_shapes=({0: "N"},), external_data=False, verbose=False)
    cost = measure(path)

    meta = next(iter(models.get_model_weights(name))).meta
    assert cost.macs / 1e9 == pytest.approx(meta["_ops"], rel=0.01)
    if gmacs:
        assert cost.macs / 1e9 == pytest.approx(gmacs, rel=0.03)
        assert cost.activations / 1e6 == pytest.approx(mactivations, rel=0.03)
    if receptive_field:
        assert cost.receptive_field == receptive_field
    assert cost.params == sum(parameter.numel() for parameter in model.parameters()) - folded(torch, model, path)


def folded(torch, model, path: Path) -> int:
    """The channels whose batch normalization went into the convolution before it."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    left = [node.input[1] for node in onnx.load(path).graph.node if node.op_type == "BatchNormalization"]
    shapes = {tensor.name: tensor.dims for tensor in onnx.load(path).graph.initializer}
    return sum(norm.num_features for norm in norms) - sum(shapes[name][0] for name in left)
