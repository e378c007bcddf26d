"""Two models side by side: what differs is counted and judged by what it must be."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from color_models import brighter, changed_color_model, load
from conftest import COLOR_SPEC, RED, ROOT, save_color_pictures
from onnx import TensorProto, helper
from PIL import Image

from visiontool.errors import DataError, GateError
from visiontool.evaluation.compare import Pictures, check, compare, first_difference
from visiontool.evaluation.compare.comparison import Accumulator
from visiontool.evaluation.compare.gates import GATES, gate_for, manifest_differences
from visiontool.model.spec import InputSpec


def compared(a, b, paths, targets=None):
    return compare(load(a), load(b), Pictures(tuple(map(str, paths)), targets, "here"))


@pytest.fixture
def colors(tmp_path):
    """9 pictures: red, green, blue, red ..."""
    folder = save_color_pictures(tmp_path / "pictures", 9)
    return [folder / f"{number}.png" for number in range(9)]


def test_a_model_answers_as_itself(color_model, colors):
    comparison = compared(color_model, color_model, colors, targets=(0, 1, 2) * 3)
    assert comparison.faults == ()
    assert comparison.pictures == 9
    assert comparison.agreement == 1.0
    assert comparison.max_probability_difference == comparison.relative_l2 == comparison.max_absolute == 0.0
    assert comparison.batch_difference == 0.0
    assert comparison.embedding_cosine == 1.0
    assert comparison.a.accuracy == comparison.b.accuracy == 1.0
    assert comparison.a.size_bytes == os.path.getsize(color_model)
    assert comparison.a.images_per_s > 0
    check(load(color_model), load(color_model), comparison)


def test_every_number_by_hand(color_model, colors, tmp_path):
    """B's logits are twice those of A: (2, 0, 0) for red, and not (1, 0, 0)."""
    twice = changed_color_model(tmp_path / "twice.onnx", brighter)
    comparison = compared(color_model, twice, colors)
    assert comparison.relative_l2 == pytest.approx(1.0, abs=1e-6)
    assert comparison.max_absolute == pytest.approx(1.0, abs=1e-6)
    before, after = np.exp(1) / (np.exp(1) + 2), np.exp(2) / (np.exp(2) + 2)
    assert comparison.max_probability_difference == pytest.approx(after - before, abs=1e-6)
    assert comparison.a.worst_answer.probability == pytest.approx(before)
    assert comparison.b.worst_answer.probability == pytest.approx(after)
    assert comparison.agreement == 1.0
    assert comparison.embedding_cosine == pytest.approx(1.0)
    assert any("logits differ by 1 of their size" in fault for fault in comparison.faults)


def test_swapped_labels(color_model, make_color_model, colors):
    swapped = make_color_model("swapped.onnx", labels=("green", "red", "blue"))
    comparison = compared(color_model, swapped, colors, targets=(0, 1, 2) * 3)
    assert comparison.relative_l2 == 0.0
    assert comparison.changed == 6
    assert comparison.a.accuracy == 1.0
    assert comparison.b.accuracy == pytest.approx(1 / 3)
    assert comparison.faults[0] == "label 0 is 'red' in A, 'green' in B; 2 differ"
    with pytest.raises(GateError, match=r"(?s)red \(57.6%\) became green \(57.6%\).*no layer makes"):
        check(load(color_model), load(swapped), comparison)


GRAY = InputSpec(size=(8, 8), mean=(0.5,), std=(1.0,))
IDS = {"label_ids": ("n1", "n2", "n3")}


@pytest.mark.parametrize(
    ("a", "b", "lines"),
    [
        (IDS, {}, []),  # one without ids contradicts nobody
        (IDS, {"label_ids": ("n1", "n3", "n2")}, ["label id 1 is 'n2' in A, 'n3' in B; 2 differ"]),
        ({}, {"temperature": 2.0}, ["the temperature is 1 in A, 2 in B, so the probabilities are others"]),
        (
            {},
            {"interpolation": "bicubic", "crop_pct": 0.5},
            ["the crop_pct is 1 in A, 0.5 in B", "the interpolation is nearest in A, bicubic in B"],
        ),
        ({"input": GRAY}, {"input": replace(GRAY, mean=(0.5, 0.5, 0.5))}, []),
        (
            {"input": GRAY},
            {"input": replace(GRAY, mean=(0.5, 0.5, 0.4))},
            ["the mean is (0.5, 0.5, 0.5) in A, (0.5, 0.5, 0.4) in B"],
        ),
    ],
)
def test_differences_of_manifests(a, b, lines):
    assert manifest_differences(replace(COLOR_SPEC, **a), replace(COLOR_SPEC, **b)) == lines


def test_each_model_gets_the_picture_prepared_by_its_own_manifest(make_color_model, tmp_path):
    """Red in the middle, blue around it: a smaller crop has more red."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[..., 2] = 255
    pixels[4:12, 4:12] = RED
    Image.fromarray(pixels).save(tmp_path / "target.png")
    whole, middle = make_color_model("whole.onnx"), make_color_model("middle.onnx", crop_pct=0.5)
    comparison = compared(whole, middle, [tmp_path / "target.png"])
    assert (comparison.a.worst_answer.label, comparison.b.worst_answer.label) == ("blue", "red")
    assert comparison.faults[0] == "the crop_pct is 1 in A, 0.5 in B"
    sentence = first_difference(load(whole), load(middle), str(tmp_path / "target.png"))
    assert sentence == "the two are given different pixels: the crop_pct is 1 in A, 0.5 in B"


def test_another_number_of_classes_cannot_be_compared(color_model, colors):
    with pytest.raises(GateError, match="label 0 is 'red' in A, '0' in B"):
        compared(color_model, ROOT / "weights" / "lenet5", colors)


def test_logits_that_depend_on_the_batch(color_model, colors, tmp_path):
    def subtract_mean_of_batch(graph):
        graph.node[-1].CopyFrom(helper.make_node("Sub", ["embedding", "batch_mean"], ["logits"]))
        graph.node.insert(3, helper.make_node("ReduceMean", ["embedding", "first"], ["batch_mean"], keepdims=1))
        graph.initializer.append(helper.make_tensor("first", TensorProto.INT64, [1], [0]))

    model = changed_color_model(tmp_path / "batch.onnx", subtract_mean_of_batch)
    (fault,) = compared(model, model, colors).faults
    assert "the logits of B depend on the batch" in fault


def test_answers_that_are_not_numbers(color_model, colors, tmp_path):
    def divide_by_green(graph):
        """0 / 0 wherever a picture has no green."""
        graph.node[-1].CopyFrom(helper.make_node("Div", ["embedding", "green"], ["logits"]))
        graph.node.insert(3, helper.make_node("Slice", ["embedding", "one", "two", "one"], ["green"]))
        graph.initializer.append(helper.make_tensor("one", TensorProto.INT64, [1], [1]))
        graph.initializer.append(helper.make_tensor("two", TensorProto.INT64, [1], [2]))

    broken = changed_color_model(tmp_path / "broken.onnx", divide_by_green)
    comparison = compared(color_model, broken, colors)
    assert (comparison.no_numbers, comparison.pictures) == (6, 3)
    assert "6 of 9 pictures: an answer is not a number" in comparison.faults
    assert str(comparison.b.worst_answer) == "no number"
    json.dumps(comparison.to_json(), allow_nan=False)


def test_unreadable_pictures_are_left_out_and_counted(color_model, colors, tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    paths = [tmp_path / "empty.png", *colors, tmp_path / "gone.png"]
    comparison = compared(color_model, color_model, paths, targets=(2, *(0, 1, 2) * 3, 1))
    assert (comparison.unreadable, comparison.pictures) == (2, 9)
    assert comparison.b.accuracy == 1.0
    with pytest.raises(DataError, match=r"(?s)here: none of the pictures can be read.*empty.png: "):
        compared(color_model, color_model, [tmp_path / "empty.png"])


@pytest.fixture
def totals(color_model):
    """Of two color models: red, green or blue, whichever logit is the largest."""
    return Accumulator(load(color_model), load(color_model), sure=0.2)


def rows(*logits):
    return np.array(logits, np.float32)


def test_an_answer_is_sure_above_the_margin(totals):
    """Two classes share all but 1e-9: p = 1 / (1 + exp(-difference)), so a margin of 0.2 is a difference of ln 1.5."""
    edge = np.log(1.5)
    a = rows([edge - 0.01, 0, -20], [edge + 0.01, 0, -20], [edge + 0.01, 0, -20])
    totals.add(["a", "b", "c"], a, rows([0, 1, -20], [0, 1, -20], [1, 0, -20]), None)
    assert (totals.changed, totals.sure_changed, totals.pictures) == (2, 1, 3)
    assert totals.worst[0] == "b"
    assert totals.agreement == pytest.approx(1 / 3)


def test_a_changed_answer_is_worse_than_a_large_difference(totals):
    totals.add(["far"], rows([9, 0, 0]), rows([0.1, 0, 0]), None)
    totals.add(["changed"], rows([0.1, 0, 0]), rows([0, 0.1, 0]), None)
    totals.add(["near"], rows([1, 0, 0]), rows([1, 0, 0]), None)
    path, before, after = totals.worst
    assert (path, before.label, after.label) == ("changed", "red", "green")
    totals.add(["nothing", "right"], rows([1, 0, 0], [0, 1, 0]), rows([np.nan, 0, 0], [0, 1, 0]), [2, 1])
    assert (totals.worst[0], totals.worst[2]) == ("nothing", (None, None))
    assert (totals.no_numbers, totals.accuracies) == (1, (0.25, 0.25))  # one of four


def test_the_cosine_of_embeddings(totals):
    assert totals.embedding_cosine is None
    for a, b, cosine in (
        (([0, 0], [0.1, 0.3]), ([0, 0], [0.1, 0.3]), 1.0),
        (([1, 0], [1, 0]), ([2, 0], [1, 1]), 0.5**0.5),
        (([1, 0],), ([0, 0],), 0.0),
        (([1, 0],), ([np.nan, 0],), -1.0),
    ):
        totals.add_embeddings(rows(*a), rows(*b))
        assert totals.embedding_cosine == pytest.approx(cosine)


def test_the_loosest_of_all_that_two_models_are(make_color_model):
    models = {name: load(make_color_model(f"{name}.onnx", precision=name)) for name in ("fp32", "fp16", "int8")}
    gpu, inside, inside16 = (load(models[name].path) for name in ("fp32", "fp32", "fp16"))
    gpu.device = "cuda:0"
    inside.spec, inside16.spec = replace(inside.spec, resize="graph"), replace(inside16.spec, resize="graph")
    assert gate_for(models["fp32"], models["fp32"]) == GATES["fp32"]
    assert gate_for(models["fp32"], models["fp16"]) == GATES["fp16"]
    assert gate_for(models["int8"], models["fp32"]) == GATES["int8"]
    assert gate_for(gpu, models["fp32"]) == GATES["fp32 off the CPU"]
    gate, fp16, resized = gate_for(models["fp16"], inside16), GATES["fp16"], GATES["resize in the graph"]
    assert gate.agreement == min(fp16.agreement, resized.agreement)
    assert gate.layer == max(fp16.layer, resized.layer)
    assert gate_for(models["int8"], inside16).cosine is None
    gate = gate_for(models["fp32"], inside)
    assert (gate.cosine, gate.agreement, gate.max_absolute) == (0.999, 0.995, None)


@pytest.mark.parametrize(
    ("precision", "changes", "fault"),
    [
        ("fp16", {"pictures": 200, "changed": 2}, "99.00% of the answers are the same, where at least 99.5% must be"),
        ("int8", {"pictures": 1000, "changed": 31}, "96.90% of the answers are the same, where at least 97.0%"),
        ("int8", {"pictures": 199, "changed": 2}, "2 of 199 answers changed, where 1 of fewer than 200 is allowed"),
        ("int8", {"pictures": 10, "changed": 1, "sure_changed": 1}, "1 of 10 answers changed although A was sure"),
        ("int8", {"pictures": 200, "a": 0.905, "b": 0.895}, ""),
        ("int8", {"pictures": 200, "a": 0.9, "b": 0.885}, "accuracy fell by 1.5 points, where 1.0 is allowed"),
        ("fp32", {"max_absolute": 2e-3}, "a logit differs by 0.002, where at most 0.001 is allowed"),
        ("fp32", {"max_absolute": 2e-3, "largest_logit": 200.0}, ""),
        ("fp16", {"max_probability_difference": 0.011}, "a probability differs by 0.011, where at most 0.01 is"),
        ("fp16", {"embedding_cosine": 0.9985}, "an embedding has a cosine of 0.9985 with that of A, where at least"),
        ("int8", {"relative_l2": 0.11}, "the logits differ by 0.11 of their size"),
        ("int8", {"batch_difference": float("inf")}, "the logits of B depend on the batch, by inf"),
        ("fp32", {"relative_l2": float("nan")}, "the logits differ by nan"),
    ],
)
def test_each_bound(color_model, colors, precision, changes, fault):
    """The faults of a comparison in which all is equal but for `changes`."""
    equal = compared(color_model, color_model, colors[:3])
    models = {name: replace(getattr(equal, name), accuracy=changes.pop(name, None)) for name in ("a", "b")}
    agreement = 1 - changes.get("changed", 0) / changes.get("pictures", 3)
    faults = replace(equal, **models, gate=GATES[precision], agreement=agreement, **changes).faults
    assert len(faults) == bool(fault)
    assert not fault or faults[0].startswith(fault)


def test_the_table_of_the_docs_is_that_of_the_gates():
    rows = {}
    for line in (ROOT / "docs" / "verify.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            kind, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            rows[kind] = cells
    for kind, gate in GATES.items():
        numbers = [gate.relative_l2, gate.max_absolute, gate.probability, gate.cosine, gate.agreement or "all but ties"]
        numbers += [gate.sure, gate.accuracy_drop, gate.batch]
        expected = ["any" if value is None else value if isinstance(value, str) else f"{value:g}" for value in numbers]
        assert rows[kind] == expected, kind
