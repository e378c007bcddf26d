"""The manifest: what it writes, and a clear error for each way in which one can be wrong."""

import ast
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from conftest import COLOR_SPEC
from hypothesis import given, settings
from hypothesis import strategies as st

from visiontool.errors import ModelError
from visiontool.model.spec import MANIFEST_KEY, MAX_MANIFEST_CHARS, Decisions, InputSpec, ModelSpec, Port

FULL_SPEC = ModelSpec(
    name="full",
    architecture="resnet18",
    labels=("crane (bird)", "jack-o'-lantern", 'the "best"', "für 日本 😀"),
    label_ids=("n02012849", "n03590841", "n00000001", "n00000002"),
    input=InputSpec(
        name="pixels", layout="NCHW", dtype="float16", color="BGR", size=(48, 64), mean=(0.4, 0.5, 0.6), std=(0.5,)
    ),
    crop_mode="border",
    crop_pct=0.875,
    interpolation="bilinear",
    logits="scores",
    embedding="pooled",
    feature_map="map",
    activation="softmax",
    temperature=1.25,
    weights={"source": "here", "license": "apache-2.0"},
    accuracy=({"dataset": "test", "pictures": 100, "top1": 0.5, "per_class": [0.25, 0.75]},),
    tools={"torch": "2.15.0"},
    parity={"max_abs": 1e-6},
    assumed=("RGB", "crop_pct 0.875"),
    decisions=Decisions(precision=0.98, thresholds=(0.5, 2.0, 0.0, 0.75), coverage=0.9, quantiles=(0.25,)),
)


COLOR_INPUT = Port("image", "tensor(uint8)", ["N", 8, 8, 3])
COLOR_OUTPUTS = [Port("logits", "tensor(float)", ["N", 3]), Port("embedding", "tensor(float)", ["N", 3])]


def manifest(**changes: Any) -> str:
    """The colour model's manifest with other values; "input__size" stands for "size" in "input", None deletes it."""
    values = json.loads(COLOR_SPEC.to_json())
    for name, value in changes.items():
        *groups, key = name.split("__")
        inner = values
        for group in groups:
            inner = inner[group]
        inner[key] = value
        if value is None:
            del inner[key]
    return json.dumps(values)


def error_of(text: str) -> str:
    with pytest.raises(ModelError) as caught:
        ModelSpec.from_json(text)
    message = str(caught.value)
    assert len(message) < 400, "an error is one to three lines, whatever the manifest holds"
    assert message.isprintable()
    return message


@pytest.mark.parametrize("spec", [COLOR_SPEC, FULL_SPEC], ids=["colors", "full"])
def test_a_manifest_reads_back_as_it_was_written(spec):
    again = ModelSpec.from_json(spec.to_json())
    assert again == spec
    assert again.to_json() == spec.to_json()


def test_what_is_not_known_is_left_out_of_the_manifest():
    assert set(json.loads(FULL_SPEC.to_json())) == {
        *("schema", "task", "name", "architecture", "labels", "label_ids", "input", "preprocessing", "outputs"),
        *("activation", "temperature", "weights", "accuracy", "tools", "parity", "assumed", "decisions"),
    }
    values = json.loads(COLOR_SPEC.to_json())
    assert not {"architecture", "label_ids", "weights", "accuracy", "tools", "parity", "decisions"} & set(values)
    assert values["outputs"] == {"logits": "logits", "embedding": "embedding"}


def test_a_spec_with_a_number_that_json_lacks_is_not_written():
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(COLOR_SPEC, temperature=math.nan).to_json()


label_lists = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, unique=True)


@settings(max_examples=25, deadline=None)
@given(label_lists)
def test_any_labels_survive_the_manifest_and_the_names_alias(labels):
    metadata = replace(COLOR_SPEC, labels=tuple(labels)).to_metadata()
    assert ModelSpec.from_json(metadata[MANIFEST_KEY]).labels == tuple(labels)
    assert ast.literal_eval(metadata["names"]) == dict(enumerate(labels))  # as Ultralytics reads it
    assert (metadata["task"], ast.literal_eval(metadata["imgsz"])) == ("classify", [8, 8])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid JSON"),
        ('{"schema": 1', "not valid JSON"),
        ('{"schema": NaN}', "'schema' must be a whole number from 1 to 2147483648, not nan"),
        ("[" * 100_000, "not valid JSON"),
        ('{"schema": ' + "1" * 5000 + "}", "not valid JSON"),
        ("[]", "manifest: must be a JSON object, not []"),
        (" " * (MAX_MANIFEST_CHARS + 1), f"at most {MAX_MANIFEST_CHARS:,}"),
    ],
    ids=lambda value: value[:20],
)
def test_what_is_no_manifest_at_all_is_refused(text, words):
    assert words in error_of(text)


def test_what_an_answer_depends_on_is_required_and_the_rest_has_a_default():
    for name in (
        *("schema", "task", "name", "labels", "input", "input__size", "input__mean", "input__std"),
        *("preprocessing", "preprocessing__crop_mode", "preprocessing__crop_pct", "preprocessing__interpolation"),
        *("outputs", "outputs__logits"),
    ):
        assert error_of(manifest(**{name: None})) == f"manifest: {name.replace('__', '.')!r} is missing"
    for name in ("input__name", "input__layout", "input__dtype", "input__color", "activation", "temperature"):
        assert ModelSpec.from_json(manifest(**{name: None})) == COLOR_SPEC
    assert ModelSpec.from_json(manifest(outputs__embedding=None)) == replace(COLOR_SPEC, embedding=None)


WRONG_VALUES = [
    ("schema", 2, "schema 2; this version reads up to 1"),
    ("task", "detect", "'task' must be one of classify, multilabel, not 'detect'"),
    ("name", "x" * 10_001, "'name' must be text of at most 10,000 characters"),
    ("labels", "cat", "'labels' must be a list of 1 to 100,000 texts of 1 to 10,000 characters, not 'cat'"),
    ("labels", ["red", "", "blue"], "'labels' must be a list of 1 to 100,000 texts"),
    ("labels", ["red", "blue", "red"], "'labels' holds 'red' more than once"),
    ("label_ids", ["n1", "n2"], "'label_ids' holds 2 ids for 3 labels"),
    ("input__dtype", "int8", "'input.dtype' must be one of uint8, float32, float16"),
    ("input__size", [8], "'input.size' must be a list of 2 numbers from 1 to 4096, not [8]"),
    ("input__size", [8.5, 8], "'input.size' must be [height, width] in whole pixels, not [8.5, 8.0]"),
    ("input__mean", [123.675, 116.28, 103.53], "'input.mean' must be a list of 1 or 3 numbers from 0 to 1"),
    ("input", json.loads(COLOR_SPEC.to_json())["input"] | {"color": "L"}, "'input.mean' must be a list of 1 numbers"),
    ("preprocessing__exif", "ignored", "'preprocessing.exif' must be one of upright"),
    ("preprocessing__crop_pct", 0, "'preprocessing.crop_pct' must be a number from 0.1 to 1"),
    ("outputs", "logits", "'outputs' must be a JSON object, not 'logits'"),
    ("decisions", {"thresholds": [0.5]}, "'decisions.thresholds' must be a list of 3 numbers from 0 to 2, not [0.5]"),
    ("decisions", {"quantiles": [0.5, 2]}, "'decisions.quantiles' must be a list of 1 or 3 numbers from 0 to 1, not"),
    ("temperature", 10**400, "'temperature' must be a number from 0.001 to 1000, not 1"),
    ("weights", {"a": {"b": 1}}, "'weights' must be an object of at most 100 texts and numbers"),
    ("accuracy", [{"top1": 1.0}, 5], "'accuracy' must be a list of at most 100 objects"),
]


@pytest.mark.parametrize(("name", "value", "words"), WRONG_VALUES, ids=lambda value: str(value)[:30])
def test_a_wrong_value_is_refused_by_name(name, value, words):
    assert words in error_of(manifest(**{name: value}))


def test_a_whole_number_may_be_written_with_a_point_and_a_float_without():
    spec = ModelSpec.from_json(manifest(input__size=[8.0, 8.0], temperature=2))
    assert spec.input.size == (8, 8)
    assert type(spec.input.size[0]) is int
    assert spec.temperature == 2.0


def test_an_axis_without_a_number_fits_any_length():
    COLOR_SPEC.check_graph(
        [Port("image", "tensor(uint8)", [None, "H", None, 3])],
        [Port("logits", "tensor(float16)", []), Port("embedding", "tensor(float)", [None, "D"])],
        {},
    )
    COLOR_SPEC.check_graph([COLOR_INPUT], COLOR_OUTPUTS, {})
    COLOR_SPEC.check_graph([COLOR_INPUT], [COLOR_OUTPUTS[0]._replace(shape=["N", 3, 1, 1]), COLOR_OUTPUTS[1]], {})


def test_a_softmax_that_the_manifest_does_not_tell_of_is_refused():
    with pytest.raises(ModelError, match="ends in Softmax: say 'softmax'"):
        COLOR_SPEC.check_graph([COLOR_INPUT], COLOR_OUTPUTS, {"logits": "Softmax"})
    replace(COLOR_SPEC, activation="softmax").check_graph([COLOR_INPUT], COLOR_OUTPUTS, {"logits": "Softmax"})
    COLOR_SPEC.check_graph([COLOR_INPUT], COLOR_OUTPUTS, {"embedding": "Softmax"})


LOGITS, EMBEDDING = COLOR_OUTPUTS


@pytest.mark.parametrize(
    ("changes", "inputs", "outputs", "words"),
    [
        ({"labels": ("a", "b")}, [{}], [{}], "the manifest has 2 labels, the graph gives 3 logits"),
        ({"labels": ("a",)}, [{}], [{"shape": ["N", 1]}], "has one label; a classifier tells 2 or more classes apart"),
        ({"feature_map": "embedding"}, [{}], [{}], "the feature_map output is 'embedding' tensor(float) ['N', 3]; exp"),
        ({}, [{"name": "data"}], [{}], "input is 'image' tensor(uint8) [N, 8, 8, 3], the graph's is 'data'"),
        ({}, [{"type": "tensor(float)"}], [{}], "tensor(uint8) [N, 8, 8, 3], the graph's is 'image' tensor(float)"),
        ({}, [{"shape": ["N", 9, 8, 3]}], [{}], "[N, 8, 8, 3], the graph's is 'image' tensor(uint8) ['N', 9, 8, 3]"),
        ({}, [{"shape": [0, 8, 8, 3]}], [{}], "takes 0 pictures at once"),
        ({}, [{}], [{"type": "tensor(string)"}], "output is 'logits' tensor(string) ['N', 3]; expected float numbers"),
        ({}, [{}], [{"shape": ["N", 3, 2, 1]}], "['N', 3, 2, 1]; expected float numbers with 2 axes"),
        ({}, [{"name": "x\n" * 9999, "shape": ["N\n\x1b" * 9999, 9, 9, 9]}], [{}], "the graph's is 'x"),
        ({}, [{}], [{"name": f"o\n{i}"} for i in range(9999)], "is not in the graph"),
    ],
)
def test_a_manifest_that_does_not_fit_its_graph_is_refused(changes, inputs, outputs, words):
    spec = replace(COLOR_SPEC, **changes)
    with pytest.raises(ModelError) as caught:
        spec.check_graph(
            [COLOR_INPUT._replace(**each) for each in inputs],
            [*(LOGITS._replace(**each) for each in outputs), EMBEDDING],
            {},
        )
    assert words in str(caught.value)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_damaged_manifest_is_read_or_refused(data):
    text = FULL_SPEC.to_json()
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = start + data.draw(st.integers(0, 12))
        token = st.sampled_from(["", '"', "{", "]", ",", "-", "1e999", "null", "NaN", "[[", "\\ud800", "\udcff", "\0"])
        text = text[:start] + data.draw(token | st.text(max_size=6)) + text[end:]
    try:
        spec = ModelSpec.from_json(text)
    except ModelError as error:
        assert 0 < len(str(error)) < 400
        return
    assert ModelSpec.from_json(spec.to_json()) == spec
