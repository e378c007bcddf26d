"""Logits or probabilities: what a graph without a manifest gives, by its operators and by its outputs."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOR_SPEC, color_graph, save_model
from onnx import TensorProto, helper, numpy_helper
from onnx.parser import parse_node

from visiontool import Classifier
from visiontool.errors import ModelError, UsageError
from visiontool.model.foreign import Description
from visiontool.model.scan import scan

COLOR = (200, 100, 50)
CONSTANTS = {
    "half": np.float32(0.5),
    "one": np.float32(1),
    "step": np.float32(1 / 255),
    "nothing": np.uint8(0),
    "middle": np.uint8(128),
    "eye": np.eye(3, dtype=np.float32),
    "yes": np.bool_(True),
    "pads": np.array([0, 0, 0, 1]),
    "from": np.array([0]),
    "to": np.array([3]),
    "along": np.array([1]),
}
BRANCH = "b () => (float[N, C] inner) { inner = Softmax(z) }"
DEQUANTIZE = "output = DequantizeLinear(q, step, nothing)"
EXP = ("e = Exp(z)", "sum = ReduceSum(e, along)")
# How a graph goes on behind its logits, `z`.
BY_SCAN = {  # so that a manifest that contradicts it is refused too
    "last": ["output = Softmax(z)"],
    "renamed": ["p = Softmax(z)", "output = Identity(p)"],
    "in part": ["w = Pad(z, pads)", "p = Softmax(w)", "output = Slice(p, from, to, along)"],
    "quantized": ["p = Softmax(z)", "q = QuantizeLinear(p, step, nothing)", DEQUANTIZE],
    "quantized operator": [
        "i = QuantizeLinear(z, step, middle)",
        "q = com.microsoft.QLinearSoftmax <axis = 1, opset = 13> (i, step, middle, step, nothing)",
        DEQUANTIZE,
    ],
}
BY_OUTPUTS = {
    "function": ["output = local.Head(z)"],
    "spelled out": [*EXP, "output = Div(e, sum)"],
    "linear": ["p = Softmax(z)", "output = MatMul(p, eye)"],
    "in a branch": [f"output = If(yes) <then_branch = {BRANCH}, else_branch = {BRANCH}>"],
    "log": ["p = Softmax(z)", "output = Log(p)"],  # logits, of the same probabilities
    "logits": ["output = Identity(z)"],
}
UNKNOWN = {
    "yes or no, spelled out": ["m = Neg(z)", "e = Exp(m)", "s = Add(e, one)", "output = Div(one, s)"],
}


def save(folder: Path, *lines: str) -> tuple[Path, Description]:
    """The colour model that goes on with operators, each as onnx.parser reads it."""
    model = color_graph()
    model.graph.node[-1].CopyFrom(parse_node("z = Sub(embedding, half)"))
    model.graph.node.extend(map(parse_node, lines))
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in CONSTANTS.items())
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", "C"]))
    for domain in ("local", "com.microsoft"):
        model.opset_import.add(domain=domain, version=1)
    opsets = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("local", "Head", ["x"], ["y"], [parse_node("y = Softmax(x)")], opsets))
    (folder / "names.txt").write_text("red\ngreen\nblue\n")
    return save_model(model, folder / "model.onnx"), Description(class_names=folder / "names.txt")


@pytest.mark.parametrize("kind", BY_SCAN | BY_OUTPUTS)
def test_probabilities_are_not_put_through_softmax_again(kind, tmp_path):
    model, description = save(tmp_path, *(BY_SCAN | BY_OUTPUTS)[kind])
    assert (scan(model).final_operators["output"] == "Softmax") == (kind in BY_SCAN)
    classifier = Classifier.load(model, description=description)
    (result,) = classifier.predict([np.full((8, 8, 3), COLOR, np.uint8)])
    answer = {item.label: item.probability for item in result.predictions}
    powers = np.exp(np.array(COLOR) / 255)
    expected = (powers / powers.sum()).tolist()
    tolerance = 0.005 if "quantized" in kind else 2e-6
    assert [*map(answer.get, ("red", "green", "blue"))] == pytest.approx(expected, abs=tolerance)

    activation = classifier.spec.activation
    other = {"none": "softmax", "softmax": "none"}[activation]
    path, manifest = tmp_path / "spec.json", json.loads(COLOR_SPEC.to_json()) | {"outputs": {"logits": "output"}}
    path.write_text(json.dumps(manifest | {"activation": activation}))
    assert Classifier.load(model, description=Description(spec=path)).spec.activation == activation
    path.write_text(json.dumps(manifest | {"activation": other}))
    with pytest.raises(ModelError, match=f"--spec .*'activation' is '{other}', but the graph .*: say '{activation}'"):
        Classifier.load(model, description=Description(spec=path))


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_may_be_either_is_asked_for(kind, tmp_path):
    model, description = save(tmp_path, *UNKNOWN[kind])
    with pytest.raises(
        ModelError, match=r"gives numbers that are never below 0 and add up to .*\nSay --activation none"
    ):
        Classifier.load(model, description=description)
    for activation in ("none", "softmax"):
        given = Description(class_names=description.class_names, activation=activation)
        assert Classifier.load(model, description=given).spec.activation == activation


def test_operators_tell_of_logits_and_of_yes_or_no(tmp_path):
    model, description = save(tmp_path, "a = Add(z, half)", "output = MatMul(a, eye)")  # never below 0
    assert Classifier.load(model, description=description).spec.activation == "none"
    model, description = save(tmp_path, "output = Sigmoid(z)")
    with pytest.raises(ModelError, match="its answers come from Sigmoid"):
        Classifier.load(model, description=description)
    model, description = save(tmp_path, "output = Softmax(z)")
    with pytest.raises(UsageError, match="--activation none: .* ends in Softmax, so it gives"):
        Classifier.load(model, description=Description(class_names=description.class_names, activation="none"))
