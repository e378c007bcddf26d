"""Two models side by side: what differs is found, named, and judged by what it must be."""

import json
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from conftest import BLUE, COLOR_SPEC, GREEN, RED, ROOT, color_graph, save_color_pictures, save_model, save_picture
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from visiontool import Classifier
from visiontool.errors import DataError, GateError
from visiontool.evaluation.compare import check, compare, first_difference
from visiontool.evaluation.compare.gates import GATES, gate_for
from visiontool.evaluation.compare.manifests import differences
from visiontool.evaluation.compare.tally import Tally
from visiontool.images import transforms
from visiontool.model.spec import InputSpec
from visiontool.training.pictures import Pictures, of_run, pictures_for


def load(path):
    return Classifier.load(path, device="cpu")


def compared(a, b, paths, targets=None):
    pictures = Pictures(tuple(map(str, paths)), targets, "here")
    return compare(load(a), load(b), pictures)


def changed_color_model(path, change, **said):
    """The color model with `change(graph)` done to its graph."""
    model = color_graph()
    change(model.graph)
    return save_model(model, path, replace(COLOR_SPEC, **said).to_metadata())


def brighter(graph, factor=2.0):
    """Logits are `factor` times the mean of each channel."""
    graph.initializer[0].CopyFrom(helper.make_tensor("white", TensorProto.FLOAT, [], [255.0 / factor]))


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


def test_every_number_is_worked_out(color_model, colors, tmp_path):
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
    assert first_difference(load(color_model), load(twice), str(colors[0])) == (
        "the first layer that differs is scaled (Div): its output by 100.00% of its size, its inputs by 0.00%"
    )


def test_swapped_labels_are_named(color_model, make_color_model, colors):
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


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        ({"label_ids": ("n1", "n2", "n3")}, {}, []),  # one without ids contradicts nobody
        (
            {"label_ids": ("n1", "n2", "n3")},
            {"label_ids": ("n1", "n3", "n2")},
            ["label id 1 is 'n2' in A, 'n3' in B; 2 differ"],
        ),
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
def test_what_the_files_say_differently_is_named(a, b, said):
    assert differences(replace(COLOR_SPEC, **a), replace(COLOR_SPEC, **b)) == said


def test_each_model_sees_the_picture_prepared_as_its_own_file_says(make_color_model, tmp_path):
    """Red in the middle, blue around it: who crops more sees more red."""
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


def test_another_number_of_classes_cannot_be_compared(color_model, tmp_path, colors):
    other = ROOT / "weights" / "lenet5"
    with pytest.raises(GateError, match="label 0 is 'red' in A, '0' in B"):
        compared(color_model, other, colors)


def test_a_network_that_depends_on_its_batch_is_found(color_model, colors, tmp_path):
    def subtract_mean_of_batch(graph):
        graph.node[-1].CopyFrom(helper.make_node("Sub", ["embedding", "batch_mean"], ["logits"]))
        graph.node.insert(3, helper.make_node("ReduceMean", ["embedding", "first"], ["batch_mean"], keepdims=1))
        graph.initializer.append(helper.make_tensor("first", TensorProto.INT64, [1], [0]))

    model = changed_color_model(tmp_path / "batch.onnx", subtract_mean_of_batch)
    comparison = compared(model, model, colors)
    assert len(comparison.faults) == 1
    assert "the logits of B depend on the batch" in comparison.faults[0]


def test_answers_that_are_no_numbers_are_found(color_model, colors, tmp_path):
    def divide_by_green(graph):
        """0 / 0 wherever a picture has no green."""
        graph.node[-1].CopyFrom(helper.make_node("Div", ["embedding", "green"], ["logits"]))
        graph.node.insert(3, helper.make_node("Slice", ["embedding", "one", "two", "one"], ["green"]))
        graph.initializer.append(helper.make_tensor("one", TensorProto.INT64, [1], [1]))
        graph.initializer.append(helper.make_tensor("two", TensorProto.INT64, [1], [2]))

    broken = changed_color_model(tmp_path / "broken.onnx", divide_by_green)
    comparison = compared(color_model, broken, colors)
    assert comparison.no_numbers == 6
    assert comparison.pictures == 3
    assert "6 of 9 pictures: an answer is not a number" in comparison.faults
    assert comparison.b.worst_answer.label is None
    json.dumps(comparison.to_json(), allow_nan=False)


def test_unreadable_pictures_are_left_out_and_counted(color_model, colors, tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    paths = [tmp_path / "empty.png", *colors, tmp_path / "gone.png"]
    comparison = compared(color_model, color_model, paths, targets=(2, *(0, 1, 2) * 3, 1))
    assert comparison.unreadable == 2
    assert comparison.pictures == 9
    assert comparison.b.accuracy == 1.0
    with pytest.raises(DataError, match=r"(?s)here: none of the pictures can be read.*empty.png: "):
        compared(color_model, color_model, [tmp_path / "empty.png"])


@pytest.fixture
def tally(color_model):
    """Of two color models: red, green or blue, whichever logit is the largest."""
    return Tally(load(color_model), load(color_model), sure=0.2)


def rows(*logits):
    return np.array(logits, np.float32)


def test_an_answer_is_a_sure_one_above_the_margin(tally):
    """Two classes share all but 1e-9: p = 1 / (1 + exp(-difference)), so a margin of 0.2 is a difference of ln 1.5."""
    edge = np.log(1.5)
    a = rows([edge - 0.01, 0, -20], [edge + 0.01, 0, -20], [edge + 0.01, 0, -20])
    tally.add(["a", "b", "c"], a, rows([0, 1, -20], [0, 1, -20], [1, 0, -20]), None)
    assert (tally.changed, tally.sure_changed, tally.pictures) == (2, 1, 3)
    assert tally.worst.path == "b"
    assert tally.agreement == pytest.approx(1 / 3)


def test_a_changed_answer_is_worse_than_a_large_difference(tally):
    tally.add(["far"], rows([9, 0, 0]), rows([0.1, 0, 0]), None)
    tally.add(["changed"], rows([0.1, 0, 0]), rows([0, 0.1, 0]), None)
    tally.add(["near"], rows([1, 0, 0]), rows([1, 0, 0]), None)
    assert tally.worst.path == "changed"
    assert (tally.worst.a.label, tally.worst.b.label) == ("red", "green")
    tally.add(["nothing"], rows([1, 0, 0]), rows([np.nan, 0, 0]), None)
    assert tally.worst.path == "nothing"
    assert tally.worst.b == (None, None)


def test_targets_belong_to_their_pictures_where_others_have_no_numbers(tally):
    logits = rows([1, 0, 0], [np.inf, 0, 0], [0, 1, 0], [0, 0, 1])
    tally.add(["0", "1", "2", "3"], logits, logits, [0, 2, 1, 0])
    assert tally.no_numbers == 1
    assert tally.accuracies == (pytest.approx(2 / 3), pytest.approx(2 / 3))


def test_what_is_said_does_not_depend_on_how_pictures_come_in_batches(tally, color_model):
    random = np.random.default_rng(0)
    a, b = (random.normal(size=(20, 3)).astype(np.float32) for _ in "ab")
    names = [str(index) for index in range(20)]
    tally.add(names, a, b, None)
    other = Tally(load(color_model), load(color_model), sure=0.2)
    for start in (0, 7, 14):
        some = slice(start, start + 7)
        other.add(names[some], a[some], b[some], None)
    assert (
        other.relative_l2
        == pytest.approx(tally.relative_l2)
        == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a), rel=1e-5)
    )
    assert (other.changed, other.worst) == (tally.changed, tally.worst)
    assert other.max_absolute == tally.max_absolute == np.abs(a.astype(float) - b).max()


def test_the_cosine_of_embeddings(tally):
    assert tally.cosine is None
    tally.add_embeddings(rows([0, 0], [0.1, 0.3]), rows([0, 0], [0.1, 0.3]))
    assert tally.cosine == 1.0
    tally.add_embeddings(rows([1, 0], [1, 0]), rows([2, 0], [1, 1]))
    assert tally.cosine == pytest.approx(0.5**0.5)
    tally.add_embeddings(rows([1, 0]), rows([0, 0]))
    assert tally.cosine == 0.0
    tally.add_embeddings(rows([1, 0]), rows([np.nan, 0]))
    assert tally.cosine == -1.0


def test_every_picture_of_a_few_has_its_embedding_compared(color_model, colors, tmp_path):
    def turn_blue(graph):
        graph.node[2].output[0] = "mean"
        graph.node.insert(3, helper.make_node("Mul", ["mean", "signs"], ["embedding"]))
        graph.node[-1].input[0] = "mean"
        graph.initializer.append(helper.make_tensor("signs", TensorProto.FLOAT, [3], [1.0, 1.0, -1.0]))

    turned = changed_color_model(tmp_path / "turned.onnx", turn_blue)
    comparison = compared(color_model, turned, [colors[0], colors[2]])
    assert comparison.embedding_cosine == -1.0
    assert comparison.max_absolute == 0.0


# Which pictures


def test_any_folder_one_picture_or_the_samples(tmp_path):
    samples = pictures_for(COLOR_SPEC)
    assert len(samples.paths) >= 10
    assert (samples.targets, samples.origin) == (None, "the samples")
    folder = save_color_pictures(tmp_path / "plain", 3)
    save_picture(folder / "red" / "deeper.png", RED)
    assert len(pictures_for(COLOR_SPEC, on=folder).paths) == 4
    assert pictures_for(COLOR_SPEC, on=folder).targets is None
    assert pictures_for(COLOR_SPEC, on=folder / "1.png").paths == (str(folder / "1.png"),)
    (tmp_path / "empty").mkdir()
    for name, words in (("gone", "there is no such file or folder"), ("empty", "no picture was found in")):
        with pytest.raises(DataError, match=words):
            pictures_for(COLOR_SPEC, on=tmp_path / name)


@pytest.fixture
def class_folders(tmp_path):
    for label, color in (("red", RED), ("n2", GREEN), ("blue", BLUE)):
        save_picture(tmp_path / "data" / label / "0.png", color)
    return tmp_path / "data"


def test_class_folders_are_matched_by_label_or_id(class_folders):
    pictures = pictures_for(replace(COLOR_SPEC, label_ids=("n1", "n2", "n3")), on=class_folders)
    found = {os.path.relpath(path, class_folders): target for path, target in zip(*pictures[:2], strict=True)}
    assert found == {"red/0.png": 0, "n2/0.png": 1, "blue/0.png": 2}
    assert pictures.origin == str(class_folders)
    others = pictures_for(COLOR_SPEC, on=class_folders)
    assert (len(others.paths), others.targets) == (3, None)
    assert "'n2' is no class of colors" in others.origin


def test_val_is_taken_where_there_is_one(tmp_path):
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for number in range(count):
            save_picture(tmp_path / split / "red" / f"{number}.png", RED)
    pictures = pictures_for(COLOR_SPEC, on=tmp_path)
    assert [os.path.relpath(path, tmp_path) for path in pictures.paths] == ["val/red/0.png", "val/red/1.png"]
    assert pictures.targets == (0, 0)
    assert pictures.origin == f"{tmp_path}, val"
    shutil.rmtree(tmp_path / "val")
    assert len(pictures_for(COLOR_SPEC, on=tmp_path).paths) == 4


@pytest.fixture
def run_folder(tmp_path):
    """The files of a run that say which picture was where."""
    from visiontool.training.finetune import Settings

    for label, color in (("red", RED), ("green", GREEN), ("blue", BLUE)):
        for number in range(3):
            save_picture(tmp_path / "data" / label / f"{number}.png", color)
    folder = tmp_path / "runs" / "data"
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(Settings(data=tmp_path / "data").to_json())
    rows = [
        f"{label}/{number}.png,{label},{split}\n"
        for label in ("blue", "green", "red")
        for number, split in enumerate(("train", "val", "test"))
    ]
    (folder / "splits.csv").write_text("path,label,split\n" + "".join(rows))
    return folder


def test_val_of_a_run_or_train_of_one_that_was_judged_by_folds(run_folder, tmp_path):
    from visiontool.training.finetune import Settings

    pictures = pictures_for(COLOR_SPEC, run=run_folder)
    assert pictures.paths == tuple(str(tmp_path / "data" / name / "1.png") for name in ("blue", "green", "red"))
    assert (pictures.targets, pictures.origin) == ((2, 1, 0), f"val of {run_folder}")
    assert [os.path.basename(path) for path in of_run(COLOR_SPEC, run_folder, "train").paths] == ["0.png"] * 3
    assert pictures_for(replace(COLOR_SPEC, labels=("red", "green", "cyan")), run=run_folder).targets is None
    (run_folder / "settings.json").write_text(Settings(data=tmp_path / "data", folds=3).to_json())
    assert pictures_for(COLOR_SPEC, run=run_folder).origin == f"train of {run_folder}"


def test_samples_and_a_remark_where_the_data_of_a_run_has_moved(run_folder, tmp_path):
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    pictures = pictures_for(COLOR_SPEC, run=run_folder)
    assert pictures.targets is None
    assert pictures.origin.startswith("the samples, since the pictures of ")
    assert f"are not in {tmp_path / 'data'} any more" in pictures.origin
    with pytest.raises(DataError, match="any more"):
        of_run(COLOR_SPEC, run_folder, "val")


# The gates


def test_the_loosest_of_all_that_two_models_are(make_color_model):
    models = {name: load(make_color_model(f"{name}.onnx", precision=name)) for name in ("fp32", "fp16", "int8")}
    gpu, inside, inside16 = (load(models[name].path) for name in ("fp32", "fp32", "fp16"))
    gpu.device = "cuda:0"
    inside.spec, inside16.spec = replace(inside.spec, resize="graph"), replace(inside16.spec, resize="graph")
    models |= {"gpu": gpu, "inside": inside, "inside16": inside16}
    for a, b, kind in (
        ("fp32", "fp32", "fp32"),
        ("fp32", "fp16", "fp16"),
        ("int8", "fp32", "int8"),
        ("gpu", "fp32", "fp32 off the CPU"),
    ):
        assert gate_for(models[a], models[b]) == GATES[kind]
    gate, fp16, resized = gate_for(models["fp16"], inside16), GATES["fp16"], GATES["resize in the graph"]
    assert gate.agreement == min(fp16.agreement, resized.agreement)
    assert gate.layer == max(fp16.layer, resized.layer)
    assert gate_for(models["int8"], inside16).cosine is None
    gate = gate_for(models["fp32"], inside)
    assert (gate.cosine, gate.agreement, gate.max_absolute) == (0.999, 0.995, None)


@pytest.fixture
def judged(color_model, colors):
    """Makes the faults of a comparison in which all is equal but for what is given."""
    equal = compared(color_model, color_model, colors)

    def judge(precision, **changes):
        sides = {side: replace(getattr(equal, side), accuracy=changes.pop(side, None)) for side in ("a", "b")}
        pictures, changed = changes.get("pictures", 9), changes.get("changed", 0)
        gate = GATES[precision]
        return replace(equal, **sides, gate=gate, agreement=1 - changed / pictures, **changes).faults

    return judge


@pytest.mark.parametrize(
    ("precision", "changes", "fault"),
    [
        ("fp16", {"pictures": 200, "changed": 1, "sure_changed": 1}, ""),
        ("fp16", {"pictures": 200, "changed": 2}, "99.00% of the answers are the same, where at least 99.5% must be"),
        ("int8", {"pictures": 1000, "changed": 30}, ""),
        ("int8", {"pictures": 1000, "changed": 31}, "96.90% of the answers are the same, where at least 97.0%"),
        ("int8", {"pictures": 199, "changed": 1}, ""),
        ("int8", {"pictures": 199, "changed": 2}, "2 of 199 answers changed, where 1 of fewer than 200 is allowed"),
        ("int8", {"pictures": 10, "changed": 1, "sure_changed": 1}, "1 of 10 answers changed although A was sure"),
        ("fp32", {"pictures": 1000, "changed": 3}, ""),
        ("fp32", {"pictures": 1000, "changed": 3, "sure_changed": 1}, "1 of 1,000 answers changed although A"),
        ("int8", {"pictures": 200, "a": 0.905, "b": 0.895}, ""),
        ("int8", {"pictures": 200, "a": 0.9, "b": 0.885}, "accuracy fell by 1.5 points, where 1.0 is allowed"),
        ("int8", {"pictures": 199, "a": 0.9, "b": 0.8}, ""),
        ("int8", {"pictures": 200, "a": 0.8, "b": 0.9}, ""),
        ("fp32", {"max_absolute": 2e-3}, "a logit differs by 0.002, where at most 0.001 is allowed"),
        ("fp32", {"max_absolute": 2e-3, "largest_logit": 200.0}, ""),
        ("fp16", {"max_probability_difference": 0.011}, "a probability differs by 0.011, where at most 0.01 is"),
        ("fp16", {"embedding_cosine": 0.9985}, "an embedding has a cosine of 0.9985 with that of A, where at least"),
        ("fp16", {"embedding_cosine": None}, ""),
        ("int8", {"relative_l2": 0.09}, ""),
        ("int8", {"relative_l2": 0.11}, "the logits differ by 0.11 of their size"),
        ("int8", {"batch_difference": float("inf")}, "the logits of B depend on the batch, by inf"),
        ("fp32", {"relative_l2": float("nan")}, "the logits differ by nan"),
    ],
)
def test_each_bound_is_asked(judged, precision, changes, fault):
    faults = judged(precision, **changes)
    assert len(faults) == bool(fault)
    assert not fault or faults[0].startswith(fault)


def test_the_table_of_the_docs_is_that_of_the_gates():
    rows = {}
    for line in (ROOT / "docs" / "verify.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            kind, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            rows[kind] = cells
    for kind, gate in GATES.items():
        bounds = (
            gate.relative_l2,
            gate.max_absolute,
            gate.probability,
            gate.cosine,
            gate.agreement or "all but ties",
            gate.sure,
            gate.accuracy_drop,
            gate.batch,
        )
        told = ["any" if bound is None else bound if isinstance(bound, str) else f"{bound:g}" for bound in bounds]
        assert rows[kind] == told, kind


# What is to blame, in real networks


def copy_with(name, path, change):
    """The built-in model with `change(values)` done to what it calls by a name."""
    model = onnx.load(ROOT / "weights" / name / "model.onnx")
    for tensor in model.graph.initializer:
        if tensor.name in change:
            values = change[tensor.name](numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
    onnx.save(model, path)
    return path


def shuffled(values):
    return np.random.default_rng(0).permutation(values.ravel()).reshape(values.shape)


@pytest.mark.parametrize(
    ("name", "tensor", "change", "layer"),
    [
        ("lenet5", "mean", lambda values: values + 0.05, "node_sub (Sub)"),
        ("lenet5", "model.c3.weight", shuffled, "node_conv2d_1 (Conv)"),
        ("resnet18_tiny200", "mean", lambda values: values + 0.02, "node_sub (Sub)"),
        ("resnet18_tiny200", "model.layer3.1.conv1.weight", shuffled, "node_Conv_341 (Conv)"),
        ("resnet18_tiny200", "model.fc.weight", shuffled, "node_linear (Gemm)"),
    ],
)
def test_what_was_changed_in_a_network_is_found_and_named(tmp_path, name, tensor, change, layer):
    source = ROOT / "weights" / name / "model.onnx"
    changed = copy_with(name, tmp_path / "changed.onnx", {tensor: change})
    folder = ROOT / "samples" / "digits" if name == "lenet5" else ROOT / "samples"
    a, b = load(source), load(changed)
    comparison = compare(a, b, pictures_for(a.spec, on=folder), batches=(1, 2))
    with pytest.raises(GateError) as caught:
        check(a, b, comparison)
    first, worst, third = str(caught.value).splitlines()
    assert first.startswith(f"changed.onnx does not answer as {name} does: ")
    assert worst.startswith(f"The worst picture is {comparison.worst}: ")
    assert third.startswith(f"The first layer that differs is {layer}: its output by ")
    assert third.endswith("its inputs by 0.00%.")


def times(*factors, names=("first", "second", "third")):
    """Puts multiplications in front of the logits; what they give is called by the names."""

    def change(graph):
        graph.node.pop()
        values = ["embedding", *names[: len(factors)]]
        for number, factor in enumerate(factors):
            graph.initializer.append(helper.make_tensor(f"factor{number}", TensorProto.FLOAT, [], [factor]))
            graph.node.append(
                helper.make_node("Mul", [values[number], f"factor{number}"], [values[number + 1]], f"mul{number}")
            )
        graph.node.append(helper.make_node("Identity", [values[-1]], ["logits"], "last"))

    return change


def test_where_no_layer_stands_out_the_one_that_adds_most_is_named(tmp_path, colors):
    """7 %, then 5 % more, and 5 % more again; what the second gives has another name, so nobody can tell."""
    a = changed_color_model(tmp_path / "a.onnx", times(1, 1, 1), precision="int8")
    b = changed_color_model(
        tmp_path / "b.onnx", times(1.07, 1.05, 1.05, names=("first", "other", "third")), precision="int8"
    )
    assert first_difference(load(a), load(b), str(colors[0])) == (
        "they part little by little, and the layer that adds most is mul2 (Mul): its output by 17.97% of its size,"
        " its inputs by 7.00%"
    )


def test_what_rounding_explains_is_no_difference(tmp_path, colors):
    a = changed_color_model(tmp_path / "a.onnx", times(1))
    b = changed_color_model(tmp_path / "b.onnx", times(1.00005))
    assert first_difference(load(a), load(b), str(colors[0])) == (
        "on the CPU, no layer makes of it something that differs by more than 0.01% of its size"
    )


def test_a_layer_of_another_shape_is_named(color_model, tmp_path, colors):
    def pad(graph):
        graph.node[1].CopyFrom(helper.make_node("Pad", ["pixels", "more"], ["scaled"]))
        graph.initializer.append(helper.make_tensor("more", TensorProto.INT64, [8], [0, 0, 0, 0, 0, 1, 1, 0]))

    other = changed_color_model(tmp_path / "other.onnx", pad)
    assert first_difference(load(color_model), load(other), str(colors[0])) == (
        "the first layer that differs is scaled (Div), which gives [1, 8, 8, 3] in A and [1, 9, 9, 3] in B"
    )


def test_layers_with_other_names_are_not_matched(color_model, tmp_path, colors):
    def rename(graph):
        for node in graph.node[:3]:
            node.output[0] = f"my_{node.output[0]}"
        for node in graph.node[1:]:
            node.input[0] = f"my_{node.input[0]}"
        graph.output.pop()

    other = changed_color_model(tmp_path / "other.onnx", rename, embedding=None)
    a, b = load(color_model), load(other)
    assert compare(a, b, Pictures(tuple(map(str, colors)), None, "here")).faults == ()
    assert first_difference(a, b, str(colors[0])) is None


def test_a_graph_for_a_fixed_number_of_pictures_is_compared(color_model, tmp_path, colors):
    def four_at_once(graph):
        brighter(graph)
        for value in (*graph.input, *graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 4

    fixed = changed_color_model(tmp_path / "fixed.onnx", four_at_once)
    a, b = load(color_model), load(fixed)
    assert compare(a, b, Pictures(tuple(map(str, colors)), None, "here")).max_absolute == pytest.approx(1.0)
    assert "scaled (Div): its output by 100.00%" in first_difference(a, b, str(colors[0]))


def written(model, spec, path):
    """A graph with its manifest, as a file."""
    return save_model(model, path, spec.to_metadata())


@pytest.fixture
def lenet5():
    """The built-in model, loaded, and its graph."""
    path = ROOT / "weights" / "lenet5" / "model.onnx"
    return load(path), onnx.load(path)


def test_a_graph_that_resizes_is_compared_with_one_that_does_not(lenet5, tmp_path):
    from visiontool.export.resize import embed_resize

    a, model = lenet5
    spec = embed_resize(model, a.spec)
    b = load(written(model, spec, tmp_path / "any-size.onnx"))
    comparison = compare(a, b, pictures_for(a.spec))
    assert comparison.faults == ()
    assert comparison.gate.probability == GATES["resize in the graph"].probability
    for tensor in model.graph.initializer:
        if tensor.name == "model.c3.weight":
            tensor.CopyFrom(numpy_helper.from_array(shuffled(numpy_helper.to_array(tensor)), tensor.name))
    b = load(written(model, spec, tmp_path / "broken.onnx"))
    assert "node_conv2d_1 (Conv)" in first_difference(a, b, comparison.worst)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_what_was_changed_in_an_export_of_less_precision_is_named(lenet5, tmp_path, precision):
    from visiontool.export.precision import to_fp16, to_int8

    a, model = lenet5
    digits = pictures_for(a.spec, on=ROOT / "samples" / "digits")
    pixels = np.stack([transforms.fit_to_spec(Image.open(path).convert("RGB"), a.spec) for path in digits.paths])

    def reduced(model):
        if precision == "fp16":
            return to_fp16(model, a.spec)
        return to_int8(model, a.spec, [pixels]).model

    spec = replace(a.spec, precision=precision)
    good = load(written(reduced(model), spec, tmp_path / "good.onnx"))
    comparison = compare(a, good, digits)
    assert comparison.faults == ()
    for tensor in model.graph.initializer:
        if tensor.name == "model.c3.weight":
            tensor.CopyFrom(numpy_helper.from_array(shuffled(numpy_helper.to_array(tensor)), tensor.name))
    broken = load(written(reduced(model), spec, tmp_path / "broken.onnx"))
    with pytest.raises(GateError, match=re.escape("The first layer that differs is node_conv2d_1 (Conv)")):
        check(a, broken, compare(a, broken, digits))
