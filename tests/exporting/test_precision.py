"""Half precision and 8-bit integers: what is in the file, how it answers, and that it is the same file each time."""

import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import ROOT
from kinds_of_model import parsed
from onnx import TensorProto, checker, helper, numpy_helper

from visiontool import InputSpec, ModelSpec
from visiontool.data.discover import find_images
from visiontool.data.prepare import Recipe, prepare
from visiontool.errors import ConversionError, DataError
from visiontool.exporting.precision import to_fp16, to_int8
from visiontool.exporting.precision.qdq import round_weights
from visiontool.graph import edit
from visiontool.hub.resolve import DEFAULT_MODEL, resolve
from visiontool.images.decode import DEFAULT_LIMITS
from visiontool.model.spec import MANIFEST_KEY

DIGITS = sorted((ROOT / "samples" / "digits").glob("*.png"))
PHOTOS = sorted((ROOT / "samples").glob("*.jpg"))
SINGLE, HALF, BYTE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8
SPEC = ModelSpec(name="net", labels=("0", "1"), input=InputSpec(size=(4, 4), mean=(0.0,), std=(1.0,)))


def load(name):
    model, scanned = edit.load(resolve(name))
    return model, ModelSpec.from_json(scanned.metadata[MANIFEST_KEY])


def pixels_of(paths, spec):
    prepared = [prepare(path, Recipe.of(spec, DEFAULT_LIMITS)) for path in paths]
    return np.stack([picture.pixels for picture in prepared])


def run(model, pixels, *outputs):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values = session.run(list(outputs) or None, {session.get_inputs()[0].name: pixels})
    assert all(value.dtype == np.float32 for value in values)
    return dict(zip(outputs or [output.name for output in session.get_outputs()], values, strict=True))


def errors(model, reduced, pixels):
    """How far each output of a reduced graph is from that of `model`, as a share of its length."""
    exact, outputs = run(model, pixels), run(reduced, pixels)
    assert exact.keys() == outputs.keys()
    return {name: np.linalg.norm(outputs[name] - exact[name]) / np.linalg.norm(exact[name]) for name in exact}


def weights(model, least=2):
    """How many numbers of each type the tensors hold that have at least `least` axes, normalization left out."""
    counts = Counter()
    for tensor in model.graph.initializer:
        if len(tensor.dims) >= least and tensor.name not in ("mean", "std", "luma"):
            counts[tensor.data_type] += int(np.prod(tensor.dims))
    return counts


def net(body, **constants):
    """A graph in ONNX's text format on `pixels`, floats (N, 3, 4, 4) from 0 to 1, that gives `logits`."""
    model = parsed(
        f"""net (uint8[N,4,4,3] image) => (float[N,C] logits) {{
            turned = Transpose <perm = [0, 3, 1, 2]> (image)
            cast = Cast <to = 1> (turned)
            pixels = Div (cast, white)
            {body}
        }}""",
        **{"white": 255.0, "axes": [2, 3], **constants},
    )
    checker.check_model(model, full_check=True)
    return model


def noise(count):
    return np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)


# fp16


@pytest.mark.parametrize(
    ("name", "paths", "most"), [("lenet5", DIGITS, 2e-3), (DEFAULT_MODEL, PHOTOS, 1e-2)], ids=["lenet5", "default"]
)
def test_fp16_answers_alike_and_is_half_as_large(name, paths, most):
    model, spec = load(name)
    before = model.SerializeToString(deterministic=True)
    half = to_fp16(model, spec)
    checker.check_model(half, full_check=True)
    assert weights(half)[HALF] == weights(model)[SINGLE]
    assert weights(half)[SINGLE] == 0
    assert 0.48 < half.ByteSize() / model.ByteSize() < 0.55
    pixels = pixels_of(paths, spec)
    assert (run(half, pixels)["logits"].argmax(1) == run(model, pixels)["logits"].argmax(1)).all()
    assert all(0 < error < most for error in errors(model, half, pixels).values())
    assert [port.type for port in half.graph.input] == [port.type for port in model.graph.input]
    assert model.SerializeToString(deterministic=True) == before


ONES = np.ones((2, 3, 1, 1))  # its convolution gives 3 everywhere for white
TAIL = "pooled = GlobalAveragePool (map)  logits = Flatten (pooled)"


@pytest.mark.parametrize(
    ("body", "constants", "logits"),
    [
        (  # what leads to the first weights: 1e-6 has no fp16, and 1e5 is beyond
            f"scaled = Mul (pixels, large)  back = Mul (scaled, small)  map = Conv (back, ones)  {TAIL}",
            {"large": 1e5, "small": 1e-6},
            [0.3, 0.3],
        ),
        (  # a norm with a small epsilon: 3e-7 / sqrt(9e-14 + 1e-12)
            "map = Conv (pixels, ones)  tiny = Mul (map, small)  square = Pow (tiny, two)"
            "  variance = ReduceMean (square, axes)  above = Add (variance, epsilon)  deviation = Sqrt (above)"
            "  normed = Div (tiny, deviation)  logits = ReduceMean <keepdims = 0> (normed, axes)",
            {"small": [[[1e-7]], [[1e-7]]], "two": 2.0, "epsilon": 1e-12},
            [0.2873, 0.2873],
        ),
        (  # a mask of the smallest number
            f"plain = Conv (pixels, ones)  masked = Add (plain, mask)  map = Sub (masked, mask)  {TAIL}",
            {"mask": [[[0.0]], [[-3e38]]]},
            [3, 0],
        ),
        (  # a mean whose sum is 96,000
            "map = Conv (pixels, thousands)  logits = ReduceMean <keepdims = 0> (map, axes)",
            {"thousands": 2000 * ONES},
            [6000, 6000],
        ),
        (  # a constant that fp16 and float32 share
            "plain = Conv (pixels, ones)  map = Add (plain, bias)  pooled = GlobalAveragePool (map)"
            "  twice = Add (pooled, bias)  logits = Flatten (twice)",
            {"bias": [[[1.0]], [[2.0]]]},
            [5, 7],
        ),
    ],
)
def test_what_fp16_cannot_hold_is_computed_in_float32(body, constants, logits):
    half = to_fp16(net(body, ones=ONES, **constants), SPEC)
    checker.check_model(half, full_check=True)
    np.testing.assert_allclose(run(half, np.full((1, 4, 4, 3), 255, np.uint8))["logits"], [logits], rtol=1e-3)
    assert weights(half, 4)[HALF] == ONES.size


def with_branch():
    branch = "= inner () => (float[N,3,4,4] a) { a = Identity (pixels) }"
    return net(
        f"chosen = If <then_branch {branch}, else_branch {branch}> (true)\n"
        "logits = ReduceMean <keepdims = 0> (chosen, axes)",
        true=True,
    )


def of_opset_12():
    model = one_that_hurts()
    model.opset_import[0].version = 12
    return model


@pytest.mark.parametrize(
    ("convert", "make", "kind", "words"),
    [
        (to_fp16, with_branch, ConversionError, r"net: a graph with If in it cannot be converted to fp16"),
        (to_int8, with_branch, ConversionError, r"net: nothing in the graph .*\n.*--precision fp16"),
        (to_int8, of_opset_12, ConversionError, "operator set 13"),
        (to_int8, lambda: one_that_hurts(), DataError, "int8 needs pictures"),
    ],
)
def test_what_cannot_be_converted_is_refused(convert, make, kind, words):
    pixels = () if convert is to_fp16 else ([],) if kind is DataError else ([noise(2)],)
    with pytest.raises(kind, match=words):
        convert(make(), SPEC, *pixels)


# int8


def optimized(model, folder):
    """The operators of the graph that onnxruntime executes."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3  # it warns that the file is for this processor
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def test_int8_answers_alike_and_is_a_quarter_as_large(capfd, tmp_path, monkeypatch):
    model, spec = load("lenet5")
    before = model.SerializeToString(deterministic=True)
    pixels, progress = pixels_of(DIGITS, spec), Mock()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    quantized, notes = to_int8(model, spec, [pixels[:3], pixels[3:]], progress=progress)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert notes == ()
    progress.assert_called_with("calibrate", len(DIGITS), len(DIGITS))
    checker.check_model(quantized, full_check=True)
    bytes_ = weights(quantized)[BYTE] + weights(quantized)[TensorProto.UINT8]
    assert bytes_ == weights(model)[SINGLE]
    assert quantized.ByteSize() < 0.31 * model.ByteSize()
    outputs = run(quantized, pixels)
    assert (outputs["logits"].argmax(1) == run(model, pixels)["logits"].argmax(1)).all()
    for output in ("logits", "embedding"):
        assert 1e-4 < errors(model, quantized, pixels)[output] < 0.1, output
        assert len(np.unique(outputs[output])) > min(256, 0.9 * outputs[output].size), "it was rounded to 8 bits"
    assert model.SerializeToString(deterministic=True) == before


def test_onnxruntime_computes_a_residual_block_with_integers(tmp_path):
    body = """
        one = Conv <pads = [1, 1, 1, 1]> (pixels, first)
        one_up = Relu (one)
        two = Conv <pads = [1, 1, 1, 1]> (one_up, second)
        sum = Add (two, one_up)
        sum_up = Relu (sum)
        pooled = GlobalAveragePool (sum_up)
        flat = Flatten (pooled)
        logits = Gemm (flat, head)"""
    draw = np.random.default_rng(1)
    first, second = draw.normal(size=(8, 3, 3, 3)), draw.normal(size=(8, 8, 3, 3)) / 8
    quantized, notes = to_int8(net(body, first=first, second=second, head=draw.normal(size=(8, 2))), SPEC, [noise(8)])
    assert notes == ()
    kinds = optimized(quantized, tmp_path)
    assert (kinds["QLinearConv"], kinds["QLinearAdd"]) == (2, 1)
    assert kinds["Conv"] == kinds["Relu"] == kinds["Add"] == 0


def one_that_hurts():
    """Three convolutions, then a mean. The second gives one channel of up to 1000 beside one of up to 1, and the third
    takes the large one off again, so that the answer is in what 8 bits of a common range cannot show.
    """
    body = """
        [first_conv] one = Conv (pixels, first)
        one_up = Relu (one)
        [second_conv] two = Conv (one_up, second)
        two_up = Relu (two)
        [third_conv] three = Conv (two_up, third)
        three_up = Relu (three)
        [fourth_conv] four = Conv (three_up, fourth)
        logits = ReduceMean <keepdims = 0> (four, axes)"""
    draw = np.random.default_rng(1)
    first = np.abs(draw.normal(size=(4, 3, 1, 1)))
    second = np.abs(draw.normal(size=(4, 4, 1, 1)))
    second[0] *= 1000
    third = draw.normal(size=(4, 4, 1, 1))
    third[:, 0] = 0
    return net(body, first=first, second=second, third=third, fourth=draw.normal(size=(2, 4, 1, 1)))


def test_what_hurts_stays_in_float_and_is_named(tmp_path):
    model, pixels, progress = one_that_hurts(), noise(32), Mock()
    quantized, notes = to_int8(model, SPEC, [pixels], progress=progress)
    # The second gives the range and the third takes it, so either alone is wrong. The others are not at fault.
    assert len(notes) == 1
    assert "kept in float: 2 of 4 Conv (second_conv, third_conv), each of which alone would move the logits" in notes[0]
    progress.assert_called_with("calibrate", 4, 4)
    assert errors(model, quantized, pixels)["logits"] < 0.03
    assert weights(quantized)[SINGLE] == 32
    kinds = optimized(quantized, tmp_path)  # onnxruntime itself does not quantize them either
    assert (kinds["QLinearConv"], kinds["Conv"] + kinds["FusedConv"]) == (2, 2)
    careless, notes = to_int8(model, SPEC, [pixels], tolerance=1e9)
    assert notes == ()
    assert errors(model, careless, pixels)["logits"] > 0.2


def sums_in_16_bits(rows):
    """The sums of white pixels times `rows` on a processor that adds two products in 16 bits, as x86 without VNNI."""
    products = np.pad(255 * rows.astype(np.int64), ((0, 0), (0, rows.shape[1] % 2)))
    return np.clip(products[:, ::2] + products[:, 1::2], -(2**15), 2**15 - 1).sum(1)


@pytest.mark.parametrize("name", ["lenet5", "one that hurts"])
def test_no_processor_cuts_off_a_sum(name):
    model, spec = load(name) if name == "lenet5" else (one_that_hurts(), SPEC)
    pixels = pixels_of(DIGITS, spec) if name == "lenet5" else noise(32)
    graph = to_int8(model, spec, [pixels], tolerance=1e9).model.graph
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
    plain, _ = to_int8(model, SPEC, [noise(32)])
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name in ("first", "third")]:
        node = helper.make_node("Constant", [], [tensor.name], value=tensor)
        model.graph.node.insert(0, node)
        model.graph.initializer.remove(tensor)
    for node in model.graph.node:
        node.ClearField("name")
    quantized, (note,) = to_int8(model, SPEC, [noise(32)])
    assert "2 of 4 Conv (Conv_" in note
    assert weights(quantized) == weights(plain)
    np.testing.assert_array_equal(run(quantized, noise(4))["logits"], run(plain, noise(4))["logits"])


def test_a_graph_for_a_fixed_number_of_pictures_is_calibrated_on_any():
    model, spec = load("lenet5")
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.shape.dim[0].dim_value = 4
    pixels = pixels_of(DIGITS, spec)
    quantized, _ = to_int8(model, spec, [pixels])
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
    quantized, notes = to_int8(model, spec, [train])
    assert len(notes) == 1
    for reduced, agreement, lost in ((to_fp16(model, spec), 99, 1), (quantized, 97, 2)):
        answers = run(reduced, pixels, "logits")["logits"].argmax(1)
        assert (answers == exact).sum() >= agreement
        assert ((exact == targets) & (answers != targets)).sum() <= lost


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("mobilenetv3_small_050", 64),  # HardSwish, HardSigmoid and gates
        ("convnext_atto", 64),  # LayerNormalization, and weights in MatMul
        ("vit_tiny_patch16_224", 32),  # attention
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_family_in_both_precisions(name, side, tmp_path):
    pytest.importorskip("timm")
    from random_weights import random_weights

    from visiontool.pytorch import parity
    from visiontool.pytorch import weights as backbone
    from visiontool.pytorch.convert import convert

    network = backbone.create(name, img_size=side)
    cfg, labels = network.pretrained_cfg, tuple(map(str, range(network.num_classes)))
    spec = replace(SPEC, labels=labels, input=InputSpec(size=(side, side), mean=cfg["mean"], std=cfg["std"]))
    pixels = parity.pixels_of(PHOTOS, spec, 24)
    random_weights(network, parity.normalized(pixels, spec.input))
    spec = convert(network, spec, tmp_path / "model.onnx", PHOTOS, batches=(1, 3))
    model, _ = load(tmp_path)
    half, (quantized, _) = to_fp16(model, spec), to_int8(model, spec, [pixels])
    assert weights(half)[SINGLE] < 0.01 * weights(half)[HALF]
    assert weights(quantized)[BYTE] > 0
    for reduced, bound in ((half, 0.01), (quantized, 0.1)):
        checker.check_model(reduced, full_check=True)
        for output, error in errors(model, reduced, pixels).items():
            assert error < bound, output
