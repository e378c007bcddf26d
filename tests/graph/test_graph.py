"""A new head behind the embedding: what stays, what goes, and what is refused; and graphs read and changed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import COLOR_SPEC, ROOT, color_graph, save_model
from kinds_of_model import parsed

from visiontool import Classifier, ConversionError, ModelSpec, UsageError
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
    # What the graph decides is taken from it.
    wrong = {"logits": "scores", "embedding": None, "feature_map": "map", "activation": "softmax"}
    spec = replace(WARM_OR_COLD, input=replace(COLOR_SPEC.input, size=(9, 9)), **wrong)
    spec = with_head(color_model, tmp_path / "out.onnx", WEIGHT, BIAS, spec)
    assert spec == WARM_OR_COLD
    assert scan(tmp_path / "out.onnx").metadata == spec.to_metadata()
    for count in (1, 5):
        result = answers(tmp_path / "out.onnx", np.repeat(ORANGE, count, 0))
        np.testing.assert_allclose(result, ORANGE_LOGITS * count, atol=1e-6)


def test_what_led_to_the_old_head_only_is_gone_and_the_rest_is_as_it_was(default_model, tmp_path):
    before = ModelSpec.from_json(scan(default_model).metadata[MANIFEST_KEY])
    spec = replace(before, labels=("a", "b", "c"), label_ids=None)
    with_head(default_model, tmp_path / "out.onnx", np.ones((3, 1280), np.float32), np.zeros(3, np.float32), spec)
    old, new = onnx.load(default_model).graph, onnx.load(tmp_path / "out.onnx").graph
    assert list(new.node)[:-1] == [node for node in old.node if "logits" not in node.output]
    constants = {tensor.name: tensor for tensor in new.initializer}
    remaining = [tensor for tensor in old.initializer if tensor.name not in ("classifier.weight", "classifier.bias")]
    assert [constants.pop(tensor.name) for tensor in remaining] == remaining
    assert set(constants) == {"head.weight", "head.bias"}
    assert [output.name for output in new.output] == ["logits", "embedding", "feature_map"]
    assert list(new.input) == list(old.input)
    assert new.input[0].type.denotation == "IMAGE"
    assert new.output[0].type.tensor_type.shape.dim[0].dim_param == "N"
    described = {value.name for value in new.value_info}
    assert described <= {name for node in new.node for name in (*node.input, *node.output)}
    orange = [ROOT / "samples" / "orange.jpg"]
    embedding, classifier = Classifier.load(default_model).embed(orange), Classifier.load(tmp_path / "out.onnx")
    np.testing.assert_array_equal(classifier.embed(orange), embedding)
    np.testing.assert_allclose(classifier.logits(orange), embedding.sum(1, keepdims=True).repeat(3, 1), rtol=1e-5)


HEAD = "colors (uint8[N,8,8,3] image) => (float[N,3] logits, float[N,3] embedding) { pixels = Cast <to = 1> (image) "


@pytest.mark.parametrize(
    "graph",
    [
        # The embedding is made from values that have the names of the new head.
        """[head] "head.weight" = Div (pixels, "head.bias")  logits = ReduceMean <keepdims = 0> ("head.weight", axes)
           embedding = Identity (logits) }""",
        # It comes out of a branch that takes a value from outside of it.
        """scaled = Div (pixels, "head.bias")  means = ReduceMean <keepdims = 0> (scaled, axes)
           embedding = If <then_branch = a () => (float[N,3] b) { b = Identity (means) },
                           else_branch = c () => (float[N,3] d) { d = Neg (means) }> (yes)
           logits = Mul (embedding, dead) }""",
    ],
    ids=["names in use", "a graph inside"],
)
def test_graphs_of_other_shapes(graph, tmp_path):
    model = parsed(HEAD + graph, **{"head.bias": 255.0, "axes": [1, 2], "yes": True, "dead": 1.0})
    source = save_model(model, tmp_path / "source.onnx", COLOR_SPEC.to_metadata())
    np.testing.assert_allclose(answers(source), [[1.0, 0.2, 0.0]], atol=1e-6)
    with_head(source, tmp_path / "out.onnx", WEIGHT, BIAS, WARM_OR_COLD)
    np.testing.assert_allclose(answers(tmp_path / "out.onnx"), ORANGE_LOGITS, atol=1e-6)
    assert b"dead" not in (tmp_path / "out.onnx").read_bytes()


def test_a_graph_that_is_not_valid_is_not_written(color_model, tmp_path):
    with pytest.raises(ConversionError, match=r"missing/out\.onnx: cannot be written: "):
        with_head(color_model, tmp_path / "missing" / "out.onnx", WEIGHT, BIAS, WARM_OR_COLD)
    broken = color_graph()
    broken.graph.node[1].op_type = "DoesNotExist"
    source = save_model(broken, tmp_path / "source.onnx", COLOR_SPEC.to_metadata())
    with pytest.raises(ConversionError, match="out.onnx: with its new head the file is not a valid model"):
        with_head(source, tmp_path / "out.onnx", WEIGHT, BIAS, WARM_OR_COLD)
    assert not (tmp_path / "out.onnx").exists()


def test_a_file_is_what_is_in_it_whatever_its_name(color_model, tmp_path):
    for name in ("model.json", "model.textproto", "model"):
        (tmp_path / name).write_bytes(color_model.read_bytes())
        assert edit.load(tmp_path / name)[0].graph.name == "colors"


@pytest.mark.parametrize("has_types", [True, False])
def test_a_fixed_batch(color_model, tmp_path, has_types):
    model = onnx.load(color_model)
    if has_types:
        model = onnx.shape_inference.infer_shapes(model)
    else:  # as some tools write it
        model.graph.output[0].type.tensor_type.ClearField("shape")
    edit.fix_batch(model, COLOR_SPEC, 4)
    edit.fix_batch(model, COLOR_SPEC, 4)
    values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    sides = [value.type.tensor_type.shape.dim[:1] for value in values]
    assert {side[0].dim_value for side in sides if side} == {4}
    session = onnxruntime.InferenceSession(model.SerializeToString())
    assert session.run(["logits"], {"image": np.repeat(ORANGE, 4, 0)})[0].shape == (4, 3)
    fixed = save_model(model, tmp_path / "four.onnx", COLOR_SPEC.to_metadata())
    for count in (1, 4, 6):
        np.testing.assert_allclose(answers(fixed, np.repeat(ORANGE, count, 0)), [[1, 0.2, 0]] * count, atol=1e-6)
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
        session.run(["logits"], {"image": ORANGE})


@pytest.mark.parametrize(
    ("batch", "words"), [(0, "expected 1 to 4096"), (4097, "expected 1 to 4096"), (8, "takes 4 .* cannot be made to")]
)
def test_a_batch_that_cannot_be_fixed(color_model, batch, words):
    model = onnx.load(color_model)
    edit.fix_batch(model, COLOR_SPEC, 4)
    with pytest.raises(UsageError, match=words):
        edit.fix_batch(model, COLOR_SPEC, batch)
