"""Which layer is named where two networks differ."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from color_models import brighter, changed_color_model, load
from conftest import RED, ROOT, save_model, save_picture
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from visiontool.errors import GateError
from visiontool.evaluation.compare import Pictures, check, compare, first_difference
from visiontool.evaluation.compare.gates import GATES
from visiontool.hub.resolve import DEFAULT_MODEL, resolve
from visiontool.images import transforms
from visiontool.training.pictures import pictures_for


@pytest.fixture
def red(tmp_path):
    return str(save_picture(tmp_path / "red.png", RED))


def change_tensor(model, name, change):
    """Does `change(values)` to a tensor of a graph."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    values = np.ascontiguousarray(change(numpy_helper.to_array(tensor)))
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def shuffled(values):
    return np.random.default_rng(0).permutation(values.ravel()).reshape(values.shape)


@pytest.mark.parametrize(
    ("name", "tensor", "change", "layer"),
    [
        ("lenet5", "mean", lambda values: values + 0.05, "node_sub (Sub)"),
        ("lenet5", "model.c3.weight", shuffled, "node_conv2d_1 (Conv)"),
        (DEFAULT_MODEL, "blocks.3.1.conv_pw.weight", shuffled, "node_Conv_798 (Conv)"),
    ],
)
def test_the_changed_layer_of_a_network(tmp_path, name, tensor, change, layer):
    source = resolve(name)
    model = onnx.load(source)
    change_tensor(model, tensor, change)
    onnx.save(model, tmp_path / "changed.onnx")
    folder = ROOT / "samples" / "digits" if name == "lenet5" else ROOT / "samples"
    a, b = load(source), load(tmp_path / "changed.onnx")
    comparison = compare(a, b, pictures_for(a.spec, on=folder))
    with pytest.raises(GateError) as caught:
        check(a, b, comparison)
    first, worst, third = str(caught.value).splitlines()
    assert first.startswith(f"changed.onnx does not answer as {name} does: ")
    assert worst.startswith(f"The worst picture is {comparison.worst}: ")
    assert third.startswith(f"The first layer that differs is {layer}: its output by ")
    assert third.endswith("its inputs by 0.00%.")


def times(*factors, names=("first", "second", "third")):
    """Puts multiplications in front of the logits, whose outputs have these names."""

    def change(graph):
        graph.node.pop()
        values = ["embedding", *names[: len(factors)]]
        for number, factor in enumerate(factors):
            graph.initializer.append(helper.make_tensor(f"factor{number}", TensorProto.FLOAT, [], [factor]))
            inputs = [values[number], f"factor{number}"]
            graph.node.append(helper.make_node("Mul", inputs, [values[number + 1]], f"mul{number}"))
        graph.node.append(helper.make_node("Identity", [values[-1]], ["logits"], "last"))

    return change


def pad(graph):
    graph.node[1].CopyFrom(helper.make_node("Pad", ["pixels", "more"], ["scaled"]))
    graph.initializer.append(helper.make_tensor("more", TensorProto.INT64, [8], [0, 0, 0, 0, 0, 1, 1, 0]))


@pytest.mark.parametrize(
    ("a", "b", "precision", "words"),
    [
        (
            times(1),
            brighter,
            "fp32",
            "the first layer that differs is scaled (Div): its output by 100.00% of its size, its inputs by 0.00%",
        ),
        (
            times(1, 1, 1),  # 7 %, then 5 % more, and 5 % more again; the second output cannot be matched
            times(1.07, 1.05, 1.05, names=("first", "other", "third")),
            "int8",
            "they part little by little, and the layer that adds most is mul2 (Mul): its output by 17.97% of its size,"
            " its inputs by 7.00%",
        ),
        (
            times(1),
            times(1.00005),
            "fp32",
            "on the CPU, no layer makes of it something that differs by more than 0.01% of its size",
        ),
        (
            times(1),
            pad,
            "fp32",
            "the first layer that differs is scaled (Div), which gives [1, 8, 8, 3] in A and [1, 9, 9, 3] in B",
        ),
    ],
)
def test_the_words(tmp_path, red, a, b, precision, words):
    a, b = (
        load(changed_color_model(tmp_path / f"{n}.onnx", change, precision=precision))
        for n, change in enumerate((a, b))
    )
    assert first_difference(a, b, red) == words


def test_layers_with_other_names_are_not_matched(color_model, tmp_path, red):
    def rename(graph):
        for node in graph.node[:3]:
            node.output[0] = f"my_{node.output[0]}"
        for node in graph.node[1:]:
            node.input[0] = f"my_{node.input[0]}"
        graph.output.pop()

    a, b = load(color_model), load(changed_color_model(tmp_path / "other.onnx", rename, embedding=None))
    assert compare(a, b, Pictures((red,), None, "here")).faults == ()
    assert first_difference(a, b, red) is None


def test_a_graph_for_a_fixed_number_of_pictures(color_model, tmp_path, red):
    def four_at_once(graph):
        brighter(graph)
        for value in (*graph.input, *graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 4

    a, b = load(color_model), load(changed_color_model(tmp_path / "fixed.onnx", four_at_once))
    assert compare(a, b, Pictures((red,), None, "here")).max_absolute == pytest.approx(1.0)
    assert "scaled (Div): its output by 100.00%" in first_difference(a, b, red)


@pytest.mark.parametrize("form", ["fp16", "int8", "resize in the graph"])
def test_the_changed_layer_of_an_export(tmp_path, form):
    from visiontool.exporting.precision import to_fp16, to_int8
    from visiontool.exporting.resize import embed_resize

    source = ROOT / "weights" / "lenet5" / "model.onnx"
    a = load(source)
    digits = pictures_for(a.spec, on=ROOT / "samples" / "digits")
    pixels = np.stack([transforms.fit_to_spec(Image.open(path).convert("RGB"), a.spec) for path in digits.paths])

    def exported(model, name):
        if form == "fp16":
            model, spec = to_fp16(model, a.spec), replace(a.spec, precision="fp16")
        elif form == "int8":
            model, spec = to_int8(model, a.spec, [pixels]).model, replace(a.spec, precision="int8")
        else:
            spec = embed_resize(model, a.spec)
        return load(save_model(model, tmp_path / name, spec.to_metadata()))

    comparison = compare(a, exported(onnx.load(source), "good.onnx"), digits)
    assert comparison.faults == ()
    assert comparison.gate.probability == GATES[form].probability
    model = onnx.load(source)
    change_tensor(model, "model.c3.weight", shuffled)
    broken = exported(model, "broken.onnx")
    assert "the first layer that differs is node_conv2d_1 (Conv)" in first_difference(a, broken, digits.paths[0])
