"""Half precision and 8-bit integers: what is in the file, how it answers, and that it is the same file each time."""

import os
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import COLOR_SPEC, ROOT, color_graph
from onnx import TensorProto, checker, helper, numpy_helper

from visiontool import InputSpec, ModelSpec
from visiontool.data.discover import find_images
from visiontool.data.prepare import Recipe, prepare
from visiontool.errors import ConversionError, DataError
from visiontool.export.precision import int8, to_fp16, to_int8
from visiontool.export.precision.qdq import Typed, round_weights
from visiontool.graph import edit
from visiontool.hub.resolve import resolve
from visiontool.images.decode import DEFAULT_LIMITS
from visiontool.model.spec import MANIFEST_KEY

DIGITS = sorted((ROOT / "samples" / "digits").glob("*.png"))
PHOTOS = sorted((ROOT / "samples").glob("*.jpg"))
SINGLE, HALF, BYTE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8


def load(name):
    model, found = edit.load(resolve(name))
    return model, ModelSpec.from_json(found.metadata[MANIFEST_KEY])


def pixels_of(paths, spec):
    prepared = [prepare(path, Recipe.of(spec, DEFAULT_LIMITS)) for path in paths]
    return np.stack([picture.pixels for picture in prepared])


def run(model, pixels, *outputs):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values = session.run(list(outputs) or None, {session.get_inputs()[0].name: pixels})
    assert all(value.dtype == np.float32 for value in values)
    return dict(zip(outputs or [output.name for output in session.get_outputs()], values, strict=True))


def weights(model, least=2):
    """How many numbers of each type the tensors hold that have at least `least` axes, normalization left out."""
    counts = Counter()
    for tensor in model.graph.initializer:
        if len(tensor.dims) >= least and tensor.name not in ("mean", "std", "luma"):
            counts[tensor.data_type] += int(np.prod(tensor.dims))
    return counts


def size(model):
    return len(model.SerializeToString())


def net(nodes, constants, *, outputs=(("logits", ("N", 2)),), side=4):
    """A graph of `nodes` on float pictures (N, side, side, 3), made from uint8 by `pixels`, channels first."""
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["image"], ["turned"], perm=[0, 3, 1, 2]),
            helper.make_node("Cast", ["turned"], ["cast"], to=SINGLE),
            helper.make_node("Div", ["cast", "white"], ["pixels"]),
            *nodes,
        ],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", side, side, 3])],
        [helper.make_tensor_value_info(name, SINGLE, shape) for name, shape in outputs],
        [
            numpy_helper.from_array(np.asarray(value), name)
            for name, value in {"white": np.float32(255), **constants}.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    checker.check_model(model, full_check=True)
    return model


def spec_of(side=4, classes=2, **names):
    return ModelSpec(
        name="net",
        labels=tuple(map(str, range(classes))),
        input=InputSpec(size=(side, side), mean=(0.0,), std=(1.0,)),
        **names,
    )


def noise(count, side=4, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


# fp16


@pytest.mark.parametrize(("name", "paths"), [("lenet5", DIGITS), ("resnet18_tiny200", PHOTOS)])
def test_fp16_answers_alike_and_is_half_as_large(name, paths):
    model, spec = load(name)
    before = model.SerializeToString(deterministic=True)
    half = to_fp16(model, spec)
    checker.check_model(half, full_check=True)
    assert weights(half)[HALF] == weights(model)[SINGLE]
    assert weights(half)[SINGLE] == 0
    assert 0.48 < size(half) / size(model) < 0.55
    pixels = pixels_of(paths, spec)
    exact, got = run(model, pixels), run(half, pixels)
    assert exact.keys() == got.keys()
    assert (got["logits"].argmax(1) == exact["logits"].argmax(1)).all()
    for output, values in exact.items():
        assert 0 < np.linalg.norm(got[output] - values) < 2e-3 * np.linalg.norm(values), output
    assert [port.type for port in half.graph.input] == [port.type for port in model.graph.input]
    assert to_fp16(model, spec).SerializeToString() == half.SerializeToString()
    assert model.SerializeToString(deterministic=True) == before


def test_what_leads_to_the_first_weights_stays_in_float32():
    # 100000 / 3 has no fp16, and 1e-6 * 1e5 would be 0.095: only in float32 all of this is exact.
    nodes = [
        helper.make_node("Mul", ["pixels", "large"], ["scaled"]),
        helper.make_node("Mul", ["scaled", "small"], ["back"]),
        helper.make_node("Conv", ["back", "ones"], ["map"]),
        helper.make_node("GlobalAveragePool", ["map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    constants = {"large": np.float32(1e5), "small": np.float32(1e-6), "ones": np.ones((2, 3, 1, 1), np.float32)}
    half = to_fp16(net(nodes, constants), spec_of())
    logits = run(half, np.full((1, 4, 4, 3), 255, np.uint8))["logits"]
    np.testing.assert_allclose(logits, 0.3, rtol=1e-3)
    assert weights(half, 0)[HALF] == 6


def test_constants_beyond_fp16_are_computed_with_in_float32():
    """A norm written out with an epsilon of 1e-12, a mask of -3e38 and a factor of 1e-7: zero or infinite in fp16."""
    nodes = [
        helper.make_node("Conv", ["pixels", "ones"], ["map"]),  # 3 everywhere for white
        helper.make_node("Mul", ["map", "small"], ["tiny"]),
        helper.make_node("Pow", ["tiny", "two"], ["square"]),
        helper.make_node("ReduceMean", ["square", "axes"], ["variance"]),
        helper.make_node("Add", ["variance", "epsilon"], ["above"]),
        helper.make_node("Sqrt", ["above"], ["deviation"]),
        helper.make_node("Div", ["tiny", "deviation"], ["normed"]),
        helper.make_node("ReduceMean", ["normed", "axes"], ["mean"], keepdims=0),
        helper.make_node("Add", ["mean", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["soft"]),
        helper.make_node("Gemm", ["soft", "turned_round"], ["logits"]),
    ]
    constants = {
        "ones": np.ones((2, 3, 1, 1), np.float32),
        "small": np.full((2, 1, 1), 1e-7, np.float32),
        "two": np.float32(2),
        "axes": np.array([2, 3]),
        "epsilon": np.float32(1e-12),
        "mask": np.array([0, -3e38], np.float32),
        "turned_round": np.array([[0, 1], [1, 0]], np.float32),
    }
    model = net(nodes, constants)
    pixels = np.full((1, 4, 4, 3), 255, np.uint8)
    # 3e-7 / sqrt(9e-14 + 1e-12) is 0.287; the mask leaves the first class alone, and the last layer swaps the two.
    half = to_fp16(model, spec_of())
    np.testing.assert_allclose(run(model, pixels, "logits")["logits"], [[0, 1]], atol=1e-6)
    np.testing.assert_allclose(run(half, pixels)["logits"], [[0, 1]], atol=1e-3)
    shown = onnx.ModelProto()
    shown.CopyFrom(half)
    shown.graph.output.append(helper.make_empty_tensor_value_info("mean"))
    np.testing.assert_allclose(run(shown, pixels, "mean")["mean"], 0.2873, rtol=2e-3)
    kinds = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert {kinds[name] for name in ("small", "epsilon", "mask")} == {SINGLE}


def test_a_mean_whose_sum_is_beyond_fp16_is_none():
    # 64 * 64 values of 30 add up to 122,880. Casts on either side show that it is computed in float32.
    nodes = [
        helper.make_node("Conv", ["pixels", "tens"], ["map"]),
        helper.make_node("ReduceMean", ["map", "axes"], ["mean"], keepdims=0),
        helper.make_node("Gemm", ["mean", "head"], ["logits"]),
    ]
    constants = {
        "tens": np.full((2, 3, 1, 1), 10, np.float32),
        "axes": np.array([2, 3]),
        "head": np.eye(2, dtype=np.float32),
    }
    outputs = (("logits", ("N", 2)), ("mean", ("N", 2)), ("map", ("N", 2, 64, 64)))
    half = to_fp16(net(nodes, constants, side=64, outputs=outputs), spec_of(64))
    checker.check_model(half, full_check=True)
    got = run(half, np.full((1, 64, 64, 3), 255, np.uint8))
    for name in ("logits", "mean", "map"):
        np.testing.assert_allclose(got[name], 30, rtol=1e-3)
    (mean,) = (node for node in half.graph.node if node.op_type == "ReduceMean")
    assert mean.input[0] == "map"  # the output, which is float32
    assert mean.output[0] == "mean"


def test_weights_that_fp16_and_float32_share_are_there_in_both():
    nodes = [
        helper.make_node("Conv", ["pixels", "ones"], ["map"]),
        helper.make_node("Add", ["map", "bias"], ["added"]),
        helper.make_node("GlobalAveragePool", ["added"], ["pooled"]),
        helper.make_node("Add", ["pooled", "bias"], ["twice"]),
        helper.make_node("Flatten", ["twice"], ["logits"]),
    ]
    constants = {"ones": np.ones((2, 3, 1, 1), np.float32), "bias": np.array([[[1]], [[2]]], np.float32)}
    half = to_fp16(net(nodes, constants), spec_of())
    np.testing.assert_allclose(run(half, noise(1) * 0)["logits"], [[2, 4]])
    assert sorted(tensor.data_type for tensor in half.graph.initializer if "bias" in tensor.name) == [SINGLE, HALF]


def test_a_graph_without_weights_stays_as_it_is():
    half = to_fp16(color_graph(), COLOR_SPEC)
    assert half.graph.node == color_graph().graph.node


def test_branches_are_refused_in_fp16():
    then = helper.make_graph(
        [helper.make_node("Identity", ["pixels"], ["a"])], "then", [], [helper.make_empty_tensor_value_info("a")]
    )
    nodes = [
        helper.make_node("If", ["true"], ["chosen"], then_branch=then, else_branch=then),
        helper.make_node("Conv", ["chosen", "ones"], ["map"]),
        helper.make_node("GlobalAveragePool", ["map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    model = net(nodes, {"true": np.array(True), "ones": np.ones((2, 3, 1, 1), np.float32)})
    with pytest.raises(ConversionError, match=r"net: a graph with If in it cannot be converted to fp16"):
        to_fp16(model, spec_of())


# int8


@pytest.mark.parametrize(("name", "paths"), [("lenet5", DIGITS), ("resnet18_tiny200", PHOTOS)])
def test_int8_answers_alike_and_is_a_quarter_as_large(name, paths, capfd, tmp_path, monkeypatch):
    model, spec = load(name)
    before = model.SerializeToString(deterministic=True)
    pixels, told = pixels_of(paths, spec), []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    quantized, kept = to_int8(model, spec, [pixels[:3], pixels[3:]], progress=lambda *done: told.append(done))
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert kept == ()
    assert told[-1] == ("calibrate", len(paths), len(paths))
    checker.check_model(quantized, full_check=True)
    bytes_ = weights(quantized)[BYTE] + weights(quantized)[TensorProto.UINT8]
    assert bytes_ == weights(model)[SINGLE]
    assert size(quantized) < 0.31 * size(model)
    exact, got = run(model, pixels), run(quantized, pixels)
    assert exact.keys() == got.keys()
    assert (got["logits"].argmax(1) == exact["logits"].argmax(1)).all()
    for output in ("logits", "embedding"):
        assert 1e-4 < np.linalg.norm(got[output] - exact[output]) < 0.1 * np.linalg.norm(exact[output]), output
        assert len(np.unique(got[output])) > min(256, 0.9 * got[output].size), "it was rounded to 8 bits"
    assert to_int8(model, spec, [pixels]).model.SerializeToString() == quantized.SerializeToString()
    assert model.SerializeToString(deterministic=True) == before


def test_another_process_writes_the_same_bytes():
    """The library keeps names in sets, whose order differs from process to process."""
    code = (
        "import hashlib, numpy as np; from test_precision import *\n"
        "model, spec = load('lenet5')\n"
        "pixels = pixels_of(DIGITS, spec)\n"
        "files = to_int8(model, spec, [pixels]).model, to_fp16(model, spec)\n"
        "print([hashlib.sha256(file.SerializeToString(deterministic=True)).hexdigest() for file in files])"
    )
    folders = [str(folder) for folder in Path(__file__).parents[:2]]
    said = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(folders)}
        said.add(subprocess.check_output([sys.executable, "-c", code], env=environment, text=True))
    assert len(said) == 1


def test_onnxruntime_computes_convolutions_and_their_relu_with_integers(tmp_path):
    model, spec = load("resnet18_tiny200")
    quantized, _ = to_int8(model, spec, [pixels_of(PHOTOS, spec)])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # it warns that the file is for this processor
    onnxruntime.InferenceSession(quantized.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    assert kinds["QLinearConv"] == 21
    assert kinds["QLinearAdd"] == 8
    assert kinds["Conv"] == kinds["Relu"] == kinds["Add"] == 0


def one_that_hurts():
    """Three convolutions, then a mean. The second gives one channel of up to 1000 beside one of up to 1, and the third
    takes the large one off again, so that the answer is in what 8 bits of a common range cannot show.
    """
    nodes = [
        helper.make_node("Conv", ["pixels", "first"], ["one"], name="first_conv"),
        helper.make_node("Relu", ["one"], ["one_up"]),
        helper.make_node("Conv", ["one_up", "second"], ["two"], name="second_conv"),
        helper.make_node("Relu", ["two"], ["two_up"]),
        helper.make_node("Conv", ["two_up", "third"], ["three"], name="third_conv"),
        helper.make_node("Relu", ["three"], ["three_up"]),
        helper.make_node("Conv", ["three_up", "fourth"], ["four"], name="fourth_conv"),
        helper.make_node("ReduceMean", ["four", "axes"], ["logits"], keepdims=0),
    ]
    draw = np.random.default_rng(1)
    first = np.abs(draw.normal(size=(4, 3, 1, 1)))
    second = np.abs(draw.normal(size=(4, 4, 1, 1)))
    second[0] *= 1000
    third = draw.normal(size=(4, 4, 1, 1))
    third[:, 0] = 0
    constants = {
        "first": first.astype(np.float32),
        "second": second.astype(np.float32),
        "third": third.astype(np.float32),
        "fourth": draw.normal(size=(2, 4, 1, 1)).astype(np.float32),
        "axes": np.array([2, 3]),
    }
    return net(nodes, constants)


def test_what_hurts_is_kept_in_float_and_named(monkeypatch):
    model, pixels, told = one_that_hurts(), noise(32), []
    quantized, kept = to_int8(model, spec_of(), [pixels], progress=lambda *done: told.append(done))
    # The second gives the range and the third takes it, so either alone is wrong. The others are not at fault.
    assert len(kept) == 1
    assert "kept in float: 2 of 4 Conv (second_conv, third_conv), each of which alone would move the logits" in kept[0]
    assert told[-1] == ("calibrate", 4, 4)
    exact, got = run(model, pixels)["logits"], run(quantized, pixels)["logits"]
    assert np.linalg.norm(got - exact) < 0.03 * np.linalg.norm(exact)
    assert weights(quantized)[SINGLE] == 32
    monkeypatch.setattr(int8, "NEAR_ENOUGH", 1e9)
    careless, kept = to_int8(model, spec_of(), [pixels])
    assert kept == ()
    assert np.linalg.norm(run(careless, pixels)["logits"] - exact) > 0.2 * np.linalg.norm(exact)


def test_of_operators_that_hurt_alike_the_smallest_stays_in_float_first(monkeypatch):
    monkeypatch.setattr(int8._Search, "_error", lambda self, model, count: 0.1)
    search = int8._Search(Typed(one_that_hurts(), spec_of()), spec_of(), list(noise(8)), 0.03, lambda done, total: None)
    assert [name for name, _ in search._ranked()] == ["fourth_conv", "first_conv", "second_conv", "third_conv"]


def test_weights_kept_in_float_are_not_quantized_by_onnxruntime(tmp_path):
    quantized, _ = to_int8(one_that_hurts(), spec_of(), [noise(32)])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(quantized.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    assert kinds["QLinearConv"] == 2
    assert kinds["Conv"] + kinds["FusedConv"] == 2


def sums_in_16_bits(rows):
    """The sums of white pixels times `rows` on a processor that adds two products in 16 bits, as x86 without VNNI."""
    products = np.pad(255 * rows.astype(np.int64), ((0, 0), (0, rows.shape[1] % 2)))
    return np.clip(products[:, ::2] + products[:, 1::2], -(2**15), 2**15 - 1).sum(1)


@pytest.mark.parametrize("name", ["lenet5", "one that hurts"])
def test_no_processor_cuts_off_a_sum(name):
    model, spec = load(name) if name == "lenet5" else (one_that_hurts(), spec_of())
    pixels = pixels_of(DIGITS, spec) if name == "lenet5" else noise(32)
    graph = to_int8(model, spec, [pixels], near_enough=1e9).model.graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    rounded = [node for node in graph.node if tensors.get(node.input[0], np.zeros(0)).dtype == np.int8]
    assert len(rounded) >= 4
    for node in rounded:
        weights = np.moveaxis(tensors[node.input[0]], node.attribute[0].i, 0)
        rows = np.sort(weights.reshape(len(weights), -1), 1)  # the largest beside each other, in either order
        for layout in (rows, rows[:, ::-1]):
            np.testing.assert_array_equal(sums_in_16_bits(layout), 255 * layout.sum(1, dtype=np.int64))
    usual = np.rint(rows / np.abs(rows).max(1, keepdims=True) * 127)  # 8 bits, as onnxruntime has it
    assert (sums_in_16_bits(usual[:, ::-1]) != 255 * usual.sum(1)).any()


def test_rounding_errors_of_a_channel_add_up_to_nothing():
    weights = np.random.default_rng(0).normal(0.3, 1, (16, 8, 3, 3)).astype(np.float32)
    rounded, steps = round_weights(weights, 0)
    whole = rounded / steps[:, None, None, None]
    np.testing.assert_allclose(whole, np.rint(whole), atol=1e-4)
    errors = weights / steps[:, None, None, None] - whole
    assert np.abs(errors).max() < 1
    assert np.abs(errors.sum((1, 2, 3))).max() < 0.51
    np.testing.assert_array_equal(round_weights(np.moveaxis(weights, 0, 1), 1)[0], np.moveaxis(rounded, 0, 1))


def test_nodes_without_names_and_weights_in_constant_nodes_are_quantized_too():
    model = one_that_hurts()
    plain, _ = to_int8(model, spec_of(), [noise(32)])
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name in ("first", "third")]:
        node = helper.make_node("Constant", [], [tensor.name], value=tensor)
        model.graph.node.insert(0, node)
        model.graph.initializer.remove(tensor)
    for node in model.graph.node:
        node.ClearField("name")
    quantized, (kept,) = to_int8(model, spec_of(), [noise(32)])
    assert "2 of 4 Conv (Conv_" in kept
    assert weights(quantized) == weights(plain)
    np.testing.assert_array_equal(run(quantized, noise(4))["logits"], run(plain, noise(4))["logits"])


def test_a_graph_with_nothing_to_quantize_is_refused():
    with pytest.raises(ConversionError, match=r"colors: nothing in the graph .*\n.*--precision fp16"):
        to_int8(color_graph(), COLOR_SPEC, [noise(2, 8)])


def test_int8_wants_pictures():
    model, spec = load("lenet5")
    with pytest.raises(DataError, match="int8 needs pictures"):
        to_int8(model, spec, [])


def test_an_old_operator_set_is_refused_in_int8():
    model = one_that_hurts()
    model.opset_import[0].version = 12
    with pytest.raises(ConversionError, match="operator set 13"):
        to_int8(model, spec_of(), [noise(2)])


def test_a_graph_for_a_fixed_number_of_pictures_is_calibrated_on_any():
    model, spec = load("lenet5")
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.shape.dim[0].dim_value = 4
    pixels = pixels_of(DIGITS, spec)
    quantized, _ = to_int8(model, spec, [pixels])
    free, _ = to_int8(load("lenet5")[0], spec, [pixels])
    scales = [{t.name: t.float_data[:] for t in m.graph.initializer if "scale" in t.name} for m in (quantized, free)]
    assert scales[0] == scales[1]
    assert run(quantized, pixels[:4])["logits"].shape == (4, 10)


# What it is for


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_squeezenet_knows_real_photos_in_any_precision(shared, tmp_path):
    """Calibrated on ants and bees, judged on other pictures, as benchmarks/cpu.py does."""
    pytest.importorskip("timm")
    from visiontool.pytorch.convert import convert_checkpoint

    weights = shared / "weights" / "squeezenet1_1" / "model.safetensors"
    spec = convert_checkpoint("squeezenet1_1", weights, tmp_path, PHOTOS)
    model, _ = load(tmp_path)
    with tarfile.open(shared / "data" / "ants_and_bees.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    photos = list(find_images([str(shared / "data" / "photos")]))
    targets = np.array([spec.label_ids.index(Path(path).parent.name) for path in photos])
    pixels = pixels_of(photos, spec)
    exact = run(model, pixels, "logits")["logits"].argmax(1)
    assert (exact == targets).sum() >= 60
    train = pixels_of(find_images([str(tmp_path / "ants_and_bees" / "train")]), spec)
    quantized, kept = to_int8(model, spec, [train])
    assert len(kept) == 1
    for reduced, agreement, lost in ((to_fp16(model, spec), 99, 1), (quantized, 97, 2)):
        answers = run(reduced, pixels, "logits")["logits"].argmax(1)
        assert (answers == exact).sum() >= agreement
        assert ((exact == targets) & (answers != targets)).sum() <= lost


FAMILIES = [
    ("mobilenetv3_small_050", 64),  # HardSwish, HardSigmoid and gates
    ("convnext_atto", 64),  # LayerNormalization, and weights in MatMul
    ("vit_tiny_patch16_224", 32),  # attention
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), FAMILIES, ids=lambda value: value)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_family_in_both_precisions(name, side, tmp_path):
    pytest.importorskip("timm")
    from random_weights import random_weights

    from visiontool.pytorch import parity
    from visiontool.pytorch import weights as backbone
    from visiontool.pytorch.convert import convert

    network = backbone.create(name, img_size=side)
    cfg = network.pretrained_cfg
    labels = tuple(f"class {index}" for index in range(network.num_classes))
    input_spec = InputSpec(size=(side, side), mean=cfg["mean"], std=cfg["std"])
    spec = ModelSpec(name=name, labels=labels, input=input_spec)
    pixels = parity.pixels_of(PHOTOS, spec, 24)
    random_weights(network, parity.normalized(pixels, spec.input))
    spec = convert(network, spec, tmp_path / "model.onnx", PHOTOS, batches=(1, 3))
    model, _ = load(tmp_path)
    half, (quantized, _) = to_fp16(model, spec), to_int8(model, spec, [pixels])
    exact = run(model, pixels)
    assert weights(half)[SINGLE] < 0.01 * weights(half)[HALF]
    assert weights(quantized)[BYTE] > 0
    for reduced, bound in ((half, 0.01), (quantized, 0.1)):
        checker.check_model(reduced, full_check=True)
        got = run(reduced, pixels)
        for output, values in exact.items():
            assert np.linalg.norm(got[output] - values) < bound * np.linalg.norm(values), output
