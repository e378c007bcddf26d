"""A new head behind the embedding: what stays, what goes, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import COLOR_SPEC, ROOT, color_graph, save_model
from onnx import TensorProto, helper

from visiontool import Classifier, ConversionError, ModelError, ModelSpec
from visiontool.graph import edit
from visiontool.graph.head import with_head
from visiontool.model.scan import scan
from visiontool.model.spec import MANIFEST_KEY

# Of the means of red, green and blue: how warm, how cold.
WEIGHT = np.array([[1.0, 0.5, -1.0], [-1.0, 0.0, 2.0]], np.float32)
BIAS = np.array([0.25, -0.5], np.float32)
WARM_OR_COLD = replace(COLOR_SPEC, name="warmth", labels=("warm", "cold"))

ORANGE = np.full((1, 8, 8, 3), (255, 51, 0), np.uint8)
ORANGE_LOGITS = [[1.0 + 0.5 * 0.2 + 0.25, -1.0 - 0.5]]


def answers(path: Path, pixels: np.ndarray = ORANGE) -> np.ndarray:
    classifier = Classifier.load(path, device="cpu")
    return classifier.outputs(pixels, classifier.spec.logits)


def test_the_head_is_a_linear_layer_on_the_embedding(color_model, tmp_path):
    spec = with_head(color_model, tmp_path / "out.onnx", WEIGHT, BIAS, WARM_OR_COLD)
    np.testing.assert_allclose(answers(tmp_path / "out.onnx"), ORANGE_LOGITS, atol=1e-6)
    np.testing.assert_allclose(answers(tmp_path / "out.onnx", np.repeat(ORANGE, 5, 0)), ORANGE_LOGITS * 5, atol=1e-6)
    assert spec == WARM_OR_COLD
    assert Classifier.load(tmp_path / "out.onnx").spec == spec
    assert scan(tmp_path / "out.onnx").metadata == spec.to_metadata()


def test_what_led_to_the_old_head_only_is_gone_and_the_rest_is_as_it_was(tmp_path):
    source = ROOT / "weights" / "resnet18_tiny200" / "model.onnx"
    before = ModelSpec.from_json(scan(source).metadata[MANIFEST_KEY])
    spec = replace(before, labels=("a", "b", "c"), label_ids=None)
    with_head(source, tmp_path / "out.onnx", np.ones((3, 256), np.float32), np.zeros(3, np.float32), spec)
    old, new = onnx.load(source).graph, onnx.load(tmp_path / "out.onnx").graph
    assert list(new.node)[:-1] == [node for node in old.node if "logits" not in node.output]
    constants = {tensor.name: tensor for tensor in new.initializer}
    kept = [tensor for tensor in old.initializer if tensor.name not in ("model.fc.weight", "model.fc.bias")]
    assert [constants.pop(tensor.name) for tensor in kept] == kept
    assert set(constants) == {"head.weight", "head.bias"}
    assert [output.name for output in new.output] == ["logits", "embedding", "feature_map"]
    assert list(new.input) == list(old.input)
    assert new.input[0].type.denotation == "IMAGE"
    assert new.output[0].type.tensor_type.shape.dim[0].dim_param == "N"
    described = {value.name for value in new.value_info}
    assert described <= {name for node in new.node for name in (*node.input, *node.output)}


def test_what_the_graph_decides_is_taken_from_it(color_model, tmp_path):
    wrong = replace(
        WARM_OR_COLD,
        input=replace(COLOR_SPEC.input, size=(9, 9)),
        logits="scores",
        embedding=None,
        feature_map="map",
        activation="softmax",
        temperature=2.0,
    )
    spec = with_head(color_model, tmp_path / "out.onnx", WEIGHT, BIAS, wrong)
    assert spec == replace(WARM_OR_COLD, temperature=2.0)
    np.testing.assert_allclose(answers(tmp_path / "out.onnx"), ORANGE_LOGITS, atol=1e-6)


def test_a_file_can_be_given_another_head_in_its_own_place(color_model):
    with_head(color_model, color_model, WEIGHT, BIAS, WARM_OR_COLD)
    once = color_model.read_bytes()
    with_head(color_model, color_model, WEIGHT, BIAS, WARM_OR_COLD)
    assert color_model.read_bytes() == once
    with_head(color_model, color_model, -WEIGHT, -BIAS, WARM_OR_COLD)
    np.testing.assert_allclose(answers(color_model), -np.array(ORANGE_LOGITS), atol=1e-6)
    assert [path.name for path in color_model.parent.iterdir()] == ["colors.onnx"]


def with_old_names_in_use() -> onnx.ModelProto:
    """The embedding is made from values that have the names of the new head."""
    model = color_graph()
    graph = model.graph
    graph.node[1].output[0] = graph.node[2].input[0] = "head.weight"
    graph.node[0].name = "head"
    graph.initializer[0].name = graph.node[1].input[1] = "head.bias"
    del graph.node[3]
    graph.node[2].output[0] = "logits"
    graph.node.append(helper.make_node("Identity", ["logits"], ["embedding"]))
    return model


def with_a_graph_inside() -> onnx.ModelProto:
    """The embedding comes out of a branch that takes a value from outside it."""
    model = color_graph()
    graph = model.graph
    graph.node[2].output[0] = "means"
    value = helper.make_tensor_value_info("chosen", TensorProto.FLOAT, ["N", 3])
    branch = helper.make_graph([helper.make_node("Identity", ["means"], ["chosen"])], "branch", [], [value])
    other = helper.make_graph([helper.make_node("Neg", ["means"], ["chosen"])], "other", [], [value])
    graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    choice = helper.make_node("If", ["yes"], ["embedding"], then_branch=branch, else_branch=other)
    graph.node.insert(3, choice)
    return model


def with_constants_among_the_inputs() -> onnx.ModelProto:
    """As before IR version 4."""
    model = color_graph()
    model.ir_version = 3
    model.opset_import[0].version = 13
    model.graph.node[2].ClearField("attribute")
    model.graph.node[2].attribute.extend(helper.make_node("ReduceMean", [], [], axes=[1, 2], keepdims=0).attribute)
    del model.graph.node[2].input[1], model.graph.initializer[1]
    model.graph.initializer.append(helper.make_tensor("dead", TensorProto.FLOAT, [1], [1.0]))
    model.graph.node[3].op_type = "Mul"
    model.graph.node[3].input.append("dead")
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
    return model


@pytest.mark.parametrize("build", [with_old_names_in_use, with_a_graph_inside, with_constants_among_the_inputs])
def test_graphs_of_other_shapes(build, tmp_path):
    source = save_model(build(), tmp_path / "source.onnx", COLOR_SPEC.to_metadata())
    np.testing.assert_allclose(answers(source), [[1.0, 0.2, 0.0]], atol=1e-6)
    with_head(source, tmp_path / "out.onnx", WEIGHT, BIAS, WARM_OR_COLD)
    np.testing.assert_allclose(answers(tmp_path / "out.onnx"), ORANGE_LOGITS, atol=1e-6)
    assert b"dead" not in (tmp_path / "out.onnx").read_bytes()


def half_precision() -> onnx.ModelProto:
    model = color_graph()
    model.graph.node[0].attribute[0].i = TensorProto.FLOAT16
    model.graph.initializer[0].CopyFrom(helper.make_tensor("white", TensorProto.FLOAT16, [], [255.0]))
    for output in model.graph.output:
        output.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


@pytest.mark.parametrize(
    ("graph", "spec", "weight", "bias", "labels", "message"),
    [
        (color_graph, None, WEIGHT, BIAS, 2, "no manifest, so it is from another tool"),
        (color_graph, replace(COLOR_SPEC, embedding=None), WEIGHT, BIAS, 2, "no embedding output"),
        (color_graph, replace(COLOR_SPEC, embedding="pooled"), WEIGHT, BIAS, 2, "embedding output 'pooled' is not in"),
        (color_graph, replace(COLOR_SPEC, feature_map="map"), WEIGHT, BIAS, 2, "feature_map output 'map' is not in"),
        (half_precision, COLOR_SPEC, WEIGHT, BIAS, 2, "'embedding' is not float32"),
        (color_graph, COLOR_SPEC, np.ones((2, 4), np.float32), BIAS, 2, r"shape \(N, 4\), the file gives \['N', 3\]"),
        (
            color_graph,
            COLOR_SPEC,
            WEIGHT,
            np.ones(3, np.float32),
            2,
            r"weight \(C, D\) and a bias \(C,\), not \(2, 3\)",
        ),
        (color_graph, COLOR_SPEC, WEIGHT, BIAS, 3, "gives 2 logits for 3 labels"),
    ],
)
def test_what_does_not_fit_is_refused(graph, spec, weight, bias, labels, message, tmp_path):
    source = save_model(graph(), tmp_path / "source.onnx", spec and spec.to_metadata())
    target_spec = replace(COLOR_SPEC, labels=tuple("abc"[:labels]))
    with pytest.raises(ModelError, match=f"source.onnx: .*{message}"):
        with_head(source, tmp_path / "out.onnx", weight, bias, target_spec)
    assert [path.name for path in tmp_path.iterdir()] == ["source.onnx"]


@pytest.mark.parametrize("target", ["missing/out.onnx", "folder.onnx"])
def test_where_nothing_can_be_written_it_says_so(color_model, tmp_path, target):
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ConversionError, match=f"{target}: cannot be written: "):
        with_head(color_model, tmp_path / target, WEIGHT, BIAS, WARM_OR_COLD)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["colors.onnx", "folder.onnx"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_the_file_of_before(color_model, tmp_path):
    (tmp_path / "out.onnx").write_bytes(b"the file of before")
    (tmp_path / "out.onnx.partial").symlink_to("/dev/full")
    with pytest.raises(ConversionError, match="out.onnx: cannot be written: No space left"):
        with_head(color_model, tmp_path / "out.onnx", WEIGHT, BIAS, WARM_OR_COLD)
    assert (tmp_path / "out.onnx").read_bytes() == b"the file of before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["colors.onnx", "out.onnx"]


def test_a_network_that_cannot_run_gets_no_name(tmp_path):
    broken = color_graph()
    broken.graph.node[1].op_type = "DoesNotExist"
    source = save_model(broken, tmp_path / "source.onnx", COLOR_SPEC.to_metadata())
    with pytest.raises(ConversionError, match="out.onnx: with its new head the file is not a valid model"):
        with_head(source, tmp_path / "out.onnx", WEIGHT, BIAS, WARM_OR_COLD)
    assert [path.name for path in tmp_path.iterdir()] == ["source.onnx"]


def test_a_name_that_is_no_text_is_an_error_of_the_file(color_model):
    color_model.write_bytes(color_model.read_bytes().replace(b"scaled", b"sc\xff\xfeed"))
    with pytest.raises(ModelError, match=r"colors\.onnx: not an ONNX file, or a damaged one"):
        edit.load(color_model)


def test_a_file_is_what_is_in_it_whatever_its_name(color_model, tmp_path):
    for name in ("model.json", "model.textproto", "model"):
        (tmp_path / name).write_bytes(color_model.read_bytes())
        assert edit.load(tmp_path / name)[0].graph.name == "colors"
