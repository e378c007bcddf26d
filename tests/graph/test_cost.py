"""Costs from the graph: textbook tables, graphs worked out by hand, published figures, and files that mean harm."""

import json
import struct
import time
from dataclasses import astuple, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import COLOR_SPEC, ROOT, color_graph, save_model
from onnx import TensorProto, helper, numpy_helper

from visiontool import ModelError
from visiontool.graph.cost import Cost
from visiontool.graph.cost.layers import measure

LENET = ROOT / "weights" / "lenet5"
RESNET = ROOT / "weights" / "resnet18_tiny200"


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


def test_the_built_in_resnet():
    cost = measure(RESNET / "model.onnx")
    with open(RESNET / "model.safetensors", "rb") as file:
        header = json.loads(file.read(*struct.unpack("<Q", file.read(8))))
    shapes = {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
    trained = sum(int(np.prod(shape)) for name, shape in shapes.items() if "running" not in name and shape)
    channels = sum(shape[0] for name, shape in shapes.items() if name.endswith("running_mean"))
    assert cost.params == trained - channels  # scale and shift of each channel became one bias
    # 7, 11 behind the pool, then 3x3 by 3x3: 4 at stride 4, and at 8, 16 and 32 one of the stride before and 3.
    assert cost.receptive_field == 11 + 4 * 8 + (8 + 3 * 16) + (16 + 3 * 32) + (32 + 3 * 64) == 435
    assert cost.peak_activation_bytes == 4 * (64 * 32 * 32 + 64 * 16 * 16)  # first convolution and its pool
    first, pool, *_, last = table(cost)
    assert first == ("conv1", "conv 7x7 stride 2", (64, 32, 32), 9472, 9_633_792, 65_536, 7)
    assert pool[1:] == ("max pool 3x3 stride 2", (64, 16, 16), 0, 0, 0, 11)
    assert last == ("fc", "linear", (200,), 51_400, 51_200, 200, None)
    assert cost.layers[-2].kind == "global average pool"
    assert cost.params == sum(layer.params for layer in cost.layers)


def test_the_color_model_has_a_pool_and_nothing_else(tmp_path):
    cost = measure(save_model(color_graph(), tmp_path / "colors.onnx", COLOR_SPEC.to_metadata()))
    assert [row[1:] for row in table(cost)] == [("global average pool", (3,), 0, 0, 0, None)]
    assert (cost.params, cost.macs, cost.receptive_field) == (0, 0, 1)
    assert cost.peak_activation_bytes == 8 * 8 * 3 + 4 * 8 * 8 * 3  # as bytes and as float32


class Build:
    """A float graph of one input `x`, node by node."""

    def __init__(self, *shape: int | str, opset: int = 20) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.shape, self.opset = shape, opset

    def constant(self, name: str, *shape: int, dtype: type = np.float32) -> str:
        self.tensors.append(numpy_helper.from_array(np.ones(shape, dtype), name))
        return name

    def numbers(self, name: str, *values: int) -> str:
        self.tensors.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def node(self, operator: str, inputs: str, output: str, **attributes: object) -> "Build":
        self.nodes.append(helper.make_node(operator, inputs.split(), [output], **attributes))
        return self

    def save(self, folder: Path, output: str) -> Path:
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)]
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes, "built", inputs, outputs, self.tensors)
        return save_model(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10),
            folder / "built.onnx",
        )


def small_network(*shape: int | str) -> Build:
    """Every kind of layer, with a batch normalization that is not folded and a linear layer in two nodes."""
    build = Build(*shape)
    for name in ("scale", "shift", "measured_mean", "measured_variance"):
        build.constant(name, 4)
    build.constant("stem.weight", 4, 3, 3, 3), build.constant("stem.bias", 4)
    build.constant("onnx::Conv_7", 4, 1, 3, 3), build.constant("side.weight", 2, 4, 1, 1)
    build.constant("val_3", 6, 5), build.constant("model.fc.bias", 5)
    return (
        build.node("Conv", "x stem.weight stem.bias", "a", strides=[2, 2], pads=[1] * 4)
        .node("Relu", "a", "b")
        .node("Conv", "b onnx::Conv_7", "c", pads=[1] * 4, group=4)
        .node("BatchNormalization", "c scale shift measured_mean measured_variance", "d")
        .node("MaxPool", "d", "e", kernel_shape=[2, 2], strides=[2, 2])
        .node("Conv", "e side.weight", "f")
        .node("Concat", "e f", "g", axis=1)
        .node("GlobalAveragePool", "g", "h")
        .node("Flatten", "h", "i")
        .node("MatMul", "i val_3", "j")
        .node("Add", "j model.fc.bias", "k")
    )


SMALL_NETWORK = [
    ("stem", "conv 3x3 stride 2", (4, 4, 4), 4 * 27 + 4, 64 * 27, 64, 3),
    ("c", "depthwise conv 3x3", (4, 4, 4), 4 * 9 + 8, 64 * 9, 64, 7),
    ("pool1", "max pool 2x2", (4, 2, 2), 0, 0, 0, 9),
    ("side", "conv 1x1", (2, 2, 2), 8, 8 * 4, 8, 9),
    ("h", "global average pool", (6, 1, 1), 0, 0, 0, None),
    ("fc", "linear", (5,), 35, 30, 5, None),
]


@pytest.mark.parametrize("shape", [("N", 3, 8, 8), (1, 3, 8, 8), (4, 3, 8, 8), ("N", 3, "H", "W")])
def test_a_network_worked_out_by_hand(shape, tmp_path):
    cost = measure(small_network(*shape).save(tmp_path, "k"), size=(8, 8) if "H" in shape else None)
    assert table(cost) == SMALL_NETWORK
    assert (cost.params, cost.macs, cost.activations) == (199, 2366, 141)
    assert cost.receptive_field == 9
    assert cost.peak_activation_bytes == 4 * (3 * 64 + 64)


def test_where_nobody_says_the_size_there_are_parameters_only(tmp_path):
    cost = measure(small_network("N", 3, "H", "W").save(tmp_path, "k"))
    assert cost.params == 199
    assert [layer.params for layer in cost.layers] == [row[3] for row in SMALL_NETWORK]
    assert (cost.macs, cost.activations, cost.peak_activation_bytes, cost.receptive_field) == (None,) * 4


def test_memory_counts_what_lives_at_once(tmp_path):
    build = Build(1, 1, 4, 4)
    build.constant("w", 4, 1, 1, 1)
    build.node("Conv", "x w", "a").node("Relu", "a", "b")  # b cannot lie on a, which the sum takes too
    build.node("Add", "a b", "c").node("Flatten", "c", "d").node("Sigmoid", "d", "e")
    assert measure(build.save(tmp_path, "e")).peak_activation_bytes == 2 * 4 * 64
    build.nodes[2].input[0] = "b"
    assert measure(build.save(tmp_path, "e")).peak_activation_bytes == 4 * (64 + 16)


def test_branches_that_look_to_different_sides_see_more_together(tmp_path):
    build = Build(1, 1, 8, 8)
    build.constant("u", 1, 1, 3, 3), build.constant("v", 1, 1, 3, 3)
    build.node("Conv", "x u", "a", pads=[2, 2, 0, 0]).node("Conv", "x v", "b", pads=[0, 0, 2, 2])
    cost = measure(build.node("Add", "a b", "c").save(tmp_path, "c"))
    assert [layer.receptive_field for layer in cost.layers] == [3, 3]
    assert cost.receptive_field == 5


def test_a_shortcut_by_slices_and_padded_channels_keeps_the_field(tmp_path):
    """As in the ResNets for CIFAR-10, whose shortcuts have no weights."""
    build = Build(1, 2, 8, 8)
    build.constant("w", 4, 2, 3, 3)
    for name, values in {"from": (0, 0), "to": (99, 99), "axes": (2, 3), "steps": (2, 2)}.items():
        build.numbers(name, *values)
    build.numbers("pads", 0, 1, 0, 0, 0, 1, 0, 0)
    build.node("Conv", "x w", "a", strides=[2, 2], pads=[1] * 4)
    build.node("Slice", "x from to axes steps", "b").node("Pad", "b pads", "c").node("Add", "a c", "d")
    build.constant("last", 1, 4, 3, 3)
    assert measure(build.node("Conv", "d last", "e").save(tmp_path, "e")).receptive_field == 3 + 2 * 2


def test_padding_to_the_same_size_is_where_the_mode_says(tmp_path):
    """8 pixels at stride 2 lack one: put at the end, both branches see pixels 0 to 2, at the start -1 to 1."""
    for mode, seen in (("SAME_UPPER", 3), ("SAME_LOWER", 4)):
        build = Build(1, 1, 8, 8)
        build.constant("w", 1, 1, 3, 3), build.constant("v", 1, 1, 3, 3)
        build.node("Conv", "x w", "a", strides=[2, 2], auto_pad=mode)
        build.node("Conv", "x v", "b", strides=[2, 2], pads=[0, 0, 1, 1])
        assert measure(build.node("Add", "a b", "c").save(tmp_path, "c")).receptive_field == seen


def test_after_the_whole_picture_was_looked_at_there_is_no_field(tmp_path):
    """Squeeze and excitation: the gate depends on everything, and so does what it gates."""
    build = Build(1, 4, 8, 8)
    build.constant("w", 4, 4, 3, 3), build.constant("v", 4, 4, 3, 3)
    build.node("Conv", "x w", "a").node("GlobalAveragePool", "a", "b").node("Mul", "a b", "c").node("Conv", "c v", "d")
    cost = measure(build.save(tmp_path, "d"))
    assert [layer.receptive_field for layer in cost.layers] == [3, None, None]
    assert cost.receptive_field is None


def test_attention_counts_its_products(tmp_path):
    """Tokens (1, 16, 6) out of a 4x4 map: two products of 16 x 16 x 6, and no field behind them."""
    build = Build(1, 6, 4, 4)
    build.constant("w", 6, 6, 1, 1), build.numbers("shape", 1, 6, 16), build.constant("position", 1, 16, 6)
    build.node("Conv", "x w", "a").node("Reshape", "a shape", "b").node("Transpose", "b", "c", perm=[0, 2, 1])
    build.node("Add", "c position", "d").node("MatMul", "d b", "scores").node("Softmax", "scores", "e")
    cost = measure(build.node("MatMul", "e d", "f").save(tmp_path, "f"))
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
    build = Build("N", 3, "H", "W", opset=opset)
    build.constant("fc", 3, 5)
    if opset < 18:
        build.node(operator, "x", "a", axes=[2, 3], keepdims=0)
    else:
        build.numbers("sides", 2, 3), build.node(operator, "x sides", "a", keepdims=0)
    cost = measure(build.node("MatMul", "a fc", "b").save(tmp_path, "b"))
    assert (cost.params, cost.macs, cost.receptive_field, cost.peak_activation_bytes) == (15, 15, None, None)
    assert [(layer.output_shape, layer.receptive_field) for layer in cost.layers][-1] == ((5,), None)


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 2], [3, 2, 1], [0, 1, 2, 2]])
def test_a_transpose_that_leaves_axes_out_has_no_field(order, tmp_path):
    build = Build("N", 3, 8, 8)
    build.constant("w", 4, 3, 3, 3)
    build.node("Conv", "x w", "a").node("Transpose", "a", "b", perm=order)
    cost = measure(build.save(tmp_path, "b"))
    assert [layer.receptive_field for layer in cost.layers] == [3]


def test_a_kernel_that_depends_on_the_picture_has_no_field(tmp_path):
    build = Build(1, 1, 8, 8)
    build.constant("map", 1, 1, 16, 16)
    assert measure(build.node("Conv", "map x", "a").save(tmp_path, "a")).receptive_field is None


def test_weights_are_found_behind_what_only_depends_on_them(tmp_path):
    """Quantized, transposed, made by a Constant node, and used twice."""
    build = Build("N", 3, 4, 4)
    build.constant("conv.weight_quantized", 2, 3, 3, 3, dtype=np.int8), build.constant("scale", 2)
    build.constant("zero", 2, dtype=np.int8), build.constant("fc.weight", 5, 8)
    build.node("DequantizeLinear", "conv.weight_quantized scale zero", "w", axis=0)
    bias = numpy_helper.from_array(np.ones(2, np.float32), "value")
    build.node("Constant", "", "bias", value=bias).node("Conv", "x w bias", "a")
    build.node("Flatten", "a", "b").node("Transpose", "fc.weight", "t").node("MatMul", "b t", "c")
    build.node("Add", "c c", "d").node("MatMul", "b t", "e").node("Sum", "d e", "f")
    rows = table(measure(build.save(tmp_path, "f")))
    assert [(row[0], row[3]) for row in rows] == [("conv", 54 + 2), ("fc", 40), ("fc", 0)]


@pytest.mark.parametrize("opset", [9, 12, 20])
def test_shapes_that_the_graph_works_out_itself(opset, tmp_path):
    """As exporters flatten where the batch is open: shape, gather, put together, reshape."""
    build = Build("N", 3, 4, 4, opset=opset)
    build.constant("w", 48, 7), build.numbers("rest", -1)
    build.tensors.append(numpy_helper.from_array(np.array(0, np.int64), "first"))
    if opset < 13:
        build.node("Unsqueeze", "n", "n1", axes=[0])
    else:
        build.numbers("axes", 0), build.node("Unsqueeze", "n axes", "n1")
    build.nodes[:0] = [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Gather", ["s", "first"], ["n"])]
    build.node("Concat", "n1 rest", "shape", axis=0).node("Reshape", "x shape", "flat")
    cost = measure(build.node("MatMul", "flat w", "y").save(tmp_path, "y"))
    assert (cost.macs, cost.layers[0].output_shape) == (48 * 7, (7,))


def test_what_cannot_be_counted_is_said_to_be_unknown(tmp_path):
    for operator, domain in (("Einsum", ""), ("Conv", "vendor.example"), ("DoesNotExist", "")):
        build = small_network("N", 3, 8, 8)
        build.constant("u", 6, 6)
        build.node(operator, "i u", "z", domain=domain).node("MatMul", "z val_3", "last")
        if operator == "Einsum":
            build.nodes[-2].attribute.append(helper.make_attribute("equation", "ij,jk->ik"))
        cost = measure(build.save(tmp_path, "last"))
        assert cost.macs is None, operator
        assert cost.params >= 112 + 44 + 8 + 30


# --- files that are broken or mean harm ---


def cycle(build: Build) -> str:
    build.node("Add", "x b", "a").node("Add", "a x", "b")
    return "b"


def out_of_order(build: Build) -> str:
    build.node("Relu", "a", "b").node("Relu", "x", "a")
    return "b"


def made_twice(build: Build) -> str:
    build.node("Relu", "x", "a").node("Tanh", "x", "a")
    return "a"


def unmade(build: Build) -> str:
    build.node("Relu", "x", "a")
    return "b"


def of_constants(build: Build) -> str:
    build.constant("c", 3)
    build.node("Relu", "c", "a")
    return "a"


def flat_input(build: Build) -> str:
    build.shape = ("N", 48)
    build.node("Relu", "x", "a")
    return "a"


def too_many_nodes(build: Build) -> str:
    names = ["x", *(f"v{number}" for number in range(50_001))]
    for before, after in pairwise(names):
        build.nodes.append(helper.make_node("Relu", [before], [after]))
    return names[-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cycle, "'b' is used before anything makes it"),
        (out_of_order, "'a' is used before anything makes it"),
        (made_twice, "'a' is made twice"),
        (unmade, "the output 'b' does not depend on the picture"),
        (of_constants, "the output 'a' does not depend on the picture"),
        (flat_input, "does not take one batch of pictures"),
        (too_many_nodes, "50,001 nodes; a picture classifier has at most 50,000"),
    ],
)
def test_broken_graphs_are_refused(change, message, tmp_path):
    build = Build("N", 3, 4, 4)
    with pytest.raises(ModelError, match=rf"built\.onnx: .*{message}"):
        measure(build.save(tmp_path, change(build)))


def test_a_manifest_that_names_no_output_is_refused(tmp_path):
    wrong = COLOR_SPEC.to_json().replace('"logits": "logits"', '"logits": "scores"')
    path = save_model(color_graph(), tmp_path / "colors.onnx", {"visiontool.manifest": wrong})
    with pytest.raises(ModelError, match="logits output 'scores' is not in the graph"):
        measure(path)


def doubling_shapes(build: Build) -> str:
    """2**60 numbers, were they worked out."""
    build.node("Shape", "x", "s0")
    for number in range(60):
        build.node("Concat", f"s{number} s{number}", f"s{number + 1}", axis=0)
    build.node("Reshape", "x s60", "y")
    return "y"


def growing_ranks(build: Build) -> str:
    build.numbers("axes", *range(16))
    build.node("Unsqueeze", "x axes", "v0")
    for number in range(3000):
        build.node("Unsqueeze", f"v{number} axes", f"v{number + 1}")
    return "v3000"


def negative_sides(build: Build) -> str:
    """onnx ends the whole process on a slice of them, which come of a window larger than its map, or from the file."""
    build.numbers("start", 0), build.numbers("end", 4), build.numbers("rows", 2)
    build.tensors.append(TensorProto(name="c", dims=[1, 3, -5, 4], data_type=TensorProto.FLOAT))
    build.node("MaxPool", "x", "a", kernel_shape=[9, 9]).node("Slice", "a start end rows", "b")
    build.node("Slice", "c start end rows", "d").node("Add", "b d", "y")
    return "y"


def strides_of_strides(build: Build) -> str:
    build.constant("w", 3, 3, 1, 1)
    names = ["x", *(f"v{number}" for number in range(5000))]
    for before, after in pairwise(names):
        build.node("Conv", f"{before} w", after, strides=[2**62, 2**62])
    return names[-1]


def constants_of_constants(build: Build) -> str:
    build.constant("c0", 8)
    for number in range(5000):
        build.node("Add", f"c{number} c{number}", f"c{number + 1}").node("Mul", f"x c{number}", f"m{number}")
    build.constant("w", 4, 3, 1, 1)
    build.node("Conv", "x w", "y").node("Mul", "y c5000", "z")
    return "z"


def huge_numbers(build: Build) -> str:
    build.numbers("shape", 2**62, 2**62, 2**62), build.constant("v", 2, 3)
    build.node("Expand", "v shape", "y").node("MatMul", "x y", "z")
    return "z"


def unpaired_attributes(build: Build) -> str:
    build.constant("w", 3, 3, 3, 3)
    build.node("Conv", "x w", "a", strides=[0, -1], pads=[2**62] * 4, dilations=[1])
    build.node("Transpose", "a", "b", perm=[0, 0, 9]).node("Conv", "b", "y")
    return "y"


@pytest.mark.parametrize(
    "change",
    [
        doubling_shapes,
        growing_ranks,
        negative_sides,
        strides_of_strides,
        constants_of_constants,
        huge_numbers,
        unpaired_attributes,
    ],
)
def test_graphs_that_ask_for_too_much_end_soon(change, tmp_path):
    build = Build("N", 3, 4, 4)
    path = build.save(tmp_path, change(build))
    start = time.perf_counter()
    assert measure(path).receptive_field is None or change is constants_of_constants
    assert time.perf_counter() - start < 5


# --- published figures ---


@dataclass(frozen=True)
class Published:
    """What is known of a network of torchvision besides what its weights' `meta` says.

    Source:
        gmacs, mactivations: timm, results/benchmark-infer-amp-nchw-pt240-cu124-rtx4090.csv.
        receptive_field: worked out by hand.
    """

    name: str
    receptive_field: int | None = None
    gmacs: float | None = None
    mactivations: float | None = None
    size: int = 224


NETWORKS = [
    # 11, pool 19, 51, pool 67, then 3x3 at stride 16: 99, 131, 163, pool 195
    Published("alexnet", 195),
    # 3x3 twice at stride 1 and 2, three times at 4, 8 and 16, a pool of 2x2 behind each
    Published("vgg16", 1 + 4 + 1 + 8 + 2 + 24 + 4 + 48 + 8 + 96 + 16),
    # 3, pool 7, at stride 4 two fires and a pool, at 8 as many, at 16 four fires
    Published("squeezenet1_1", 7 + 2 * 8 + 8 + 2 * 16 + 16 + 4 * 32),
    Published("resnet18", 435),
    # as ResNet-18 with 3, 4, 6 and 3 convolutions of 3x3, the first of each at the stride before
    Published("resnet50", 11 + 3 * 8 + (8 + 3 * 16) + (16 + 5 * 32) + (32 + 2 * 64), 4.11, 11.11),
    Published("densenet121", None, 2.87, 6.90),
    Published("mobilenet_v2"),
    Published("googlenet"),
    # stem 31 at stride 8; A: 3 x two 3x3; B; C: 4 x two 7x1 and 1x7; D; E: 2 x two 3x3
    Published("inception_v3", 31 + 3 * 32 + 32 + 4 * 192 + (96 + 32) + 2 * 128, 5.73, 8.97, 299),
    Published("convnext_tiny", None, 4.47, 13.44),
    Published("vit_b_16"),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("published", NETWORKS, ids=lambda published: published.name)
def test_published_networks(published, tmp_path):
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("torchvision").models
    path = tmp_path / "model.onnx"
    arguments = {"init_weights": False} if published.name in ("googlenet", "inception_v3") else {}
    model = models.get_model(published.name, weights=None, **arguments).eval()
    for head in ("aux1", "aux2", "AuxLogits"):
        if hasattr(model, head):
            setattr(model, head, None)
    for parameter in model.parameters():  # the exporter makes one of tensors that are equal
        torch.nn.init.normal_(parameter, std=0.02)
    example = torch.zeros(2, 3, published.size, published.size)
    torch.onnx.export(model, (example,), path, dynamic_shapes=({0: "N"},), external_data=False, verbose=False)
    cost = measure(path)

    meta = next(iter(models.get_model_weights(published.name))).meta
    assert cost.macs / 1e9 == pytest.approx(meta["_ops"], rel=0.01)
    if published.gmacs:
        assert cost.macs / 1e9 == pytest.approx(published.gmacs, rel=0.03)
        assert cost.activations / 1e6 == pytest.approx(published.mactivations, rel=0.03)
    if published.receptive_field:
        assert cost.receptive_field == published.receptive_field
    assert cost.params == sum(layer.params for layer in cost.layers)
    assert cost.params == sum(parameter.numel() for parameter in model.parameters()) - folded(torch, model, path)
    if not folded(torch, model, path):
        assert cost.params == meta["num_params"]


def folded(torch, model, path: Path) -> int:
    """The channels whose batch normalization went into the convolution before it."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    left = [node.input[1] for node in onnx.load(path).graph.node if node.op_type == "BatchNormalization"]
    shapes = {tensor.name: tensor.dims for tensor in onnx.load(path).graph.initializer}
    return sum(norm.num_features for norm in norms) - sum(shapes[name][0] for name in left)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_graph_that_nobody_optimized_costs_the_same(tmp_path):
    """Batch normalization is still in it, so its parameters are those of torch."""
    torch = pytest.importorskip("torch")
    model = pytest.importorskip("torchvision").models.resnet18(weights=None).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    path = tmp_path / "model.onnx"
    dynamic = {0: "N", 2: "H", 3: "W"}
    example = torch.zeros(2, 3, 224, 224)
    torch.onnx.export(
        model, (example,), path, dynamic_shapes=(dynamic,), external_data=False, verbose=False, optimize=False
    )
    cost = measure(path, size=(224, 224))
    assert cost.params == 11_689_512
    assert cost.macs / 1e9 == pytest.approx(1.814, rel=0.001)
    assert cost.receptive_field == 435
    assert measure(path).macs is None
