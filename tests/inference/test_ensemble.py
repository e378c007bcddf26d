"""Ensembles: their answers are those of their members, and their files say all that is needed."""

import json
import pickle

import numpy as np
import pytest
from conftest import RED, save_picture
from kinds_of_model import IDS, LABELS, save_noise, save_picky

from visiontool import Classifier, Ensemble, ModelError, UsageError
from visiontool.inference.ensemble import Combination, load


@pytest.fixture
def members(tmp_path):
    """Two models of other sizes and orders of the classes, one of which calls them otherwise."""
    foreign = ("rot", "grün", "blau", "grau", "schwarz", "Öre")
    a = save_picky(tmp_path / "a.onnx", "crop")
    b = save_picky(tmp_path / "b.onnx", "oblong", 2, (3, 1, 0, 5, 4, 2), labels=foreign)
    return [Classifier(path, threads=1) for path in (a, b)]


@pytest.fixture
def saved(members, tmp_path):
    Ensemble(members, Combination("weighted", (0.25, 0.75)), "both").save(tmp_path / "both.json")
    return tmp_path / "both.json"


def test_an_answer_is_the_weighted_mean_matched_by_label_ids(members, saved, tmp_path):
    pictures = [*map(str, save_noise(tmp_path)), "gone.png"]
    ensemble = load(saved)
    of_each = [list(member.answers(pictures)) for member in members]
    for images in (pictures, iter(pictures)):
        for answer, *each in zip(ensemble.answers(images), *of_each, strict=True):
            assert (answer.path, answer.error) == (each[0].path, each[0].error)
            if answer.error is None:
                in_order = [each[1].probabilities[members[1].spec.label_ids.index(one)] for one in IDS]
                assert answer.probabilities == pytest.approx(0.25 * each[0].probabilities + 0.75 * np.array(in_order))
    assert ensemble.spec.labels == LABELS
    assert [result.status for result in ensemble.predict(pictures, top_k=2)] == ["ok"] * 4 + ["error"]
    assert ensemble.predict(pictures[0]) == pickle.loads(pickle.dumps(ensemble)).predict(pictures)[0]
    views = [next(member.answers(pictures, tta="flip")).probabilities.max() for member in (*members, ensemble)]
    assert min(views) > 0
    whole = [answer.probabilities for answer in ensemble.answers(pictures[:4])]
    assert np.exp(ensemble.logits(pictures[:4])) == pytest.approx(np.array(whole), abs=1e-6)


def test_only_some_classes_compete(members, saved, tmp_path):
    picture = save_noise(tmp_path)[0]
    among = ["green", IDS[4]]
    for model in (members[0].path, saved):
        whole = next(load(model).answers([picture])).probabilities
        result = load(model, among=among).predict(picture)
        assert [item.index for item in result.predictions] == sorted([1, 4], key=lambda index: -whole[index])
        for item in result.predictions:
            assert item.probability == pytest.approx(whole[item.index] / (whole[1] + whole[4]))
    again = pickle.loads(pickle.dumps(Classifier(members[0].path, among=among)))
    assert again.competing.tolist() == [1, 4]


@pytest.mark.parametrize(
    ("among", "words"),
    [
        (["gren", "4", "red"], "2 names are no classes of colors: gren, 4\n'gren': Closest: green"),
        (["red"], "two or more"),
    ],
)
def test_names_that_cannot_compete_are_refused(members, among, words):
    with pytest.raises(UsageError, match=words):
        Classifier(members[0].path, among=among)


def test_the_file_goes_with_its_models_and_notices_another_one(saved, tmp_path):
    document = json.loads(saved.read_text())
    assert [member["model"] for member in document["members"]] == ["a.onnx", "b.onnx"]
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("a.onnx", "b.onnx", "both.json"):
        (tmp_path / name).rename(moved / name)
    assert Ensemble.load(moved / "both.json").combination.weights == (0.25, 0.75)
    save_picky(moved / "b.onnx", "oblong", 3)
    with pytest.raises(ModelError, match="b.onnx is another file than the one"):
        Ensemble.load(moved / "both.json")
    (moved / "b.onnx").unlink()
    with pytest.raises(ModelError, match="there is no .*b.onnx"):
        Ensemble.load(moved / "both.json")


def test_a_built_in_model_is_a_member_by_its_name_and_one_of_weight_0_is_none(tmp_path):
    model = Classifier("lenet5")
    Ensemble([model, model], Combination("greedy", (1.0, 0.0)), "one").save(tmp_path / "one.json")
    assert json.loads((tmp_path / "one.json").read_text())["members"] == [{"model": "lenet5"}]
    picture = save_picture(tmp_path / "a.png", RED)
    assert Ensemble.load(tmp_path / "one.json").predict(picture).predictions == pytest.approx(
        model.predict(picture).predictions
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 2}, "reads up to 1: update"),
        ({"kind": "best"}, "'kind' must be one of average"),
        ({"members": []}, "at least one model"),
        ({"members": [{}]}, "'members.model' is missing"),
        ({"members": [{"model": "nothing"}]}, "no model is called 'nothing'"),
        ({"weights": [0.5]}, "'weights' must be a list of 2 numbers"),
        ({"kind": "stacking", "coefficients": [1]}, "a list of 72 numbers"),
    ],
)
def test_a_file_that_is_wrong_says_what(saved, changes, words):
    saved.write_text(json.dumps(json.loads(saved.read_text()) | changes))
    with pytest.raises(ModelError, match=words):
        load(saved)


def test_what_no_file_could_say_is_not_saved_and_other_classes_are_not_joined(members, color_model, tmp_path):
    two = Combination("average", (0.5, 0.5))
    squashed = Classifier(members[0].path, crop_mode="squash")
    with pytest.raises(ModelError, match="visiontool export"):
        Ensemble([squashed, members[1]], two, "x").save(tmp_path / "x.json")
    with pytest.raises(ModelError, match="only one of them knows"):
        Ensemble([members[0], Classifier(color_model)], two, "x")
    (tmp_path / "x.json").write_text("{")
    for open_ in (Ensemble.load, Classifier):
        with pytest.raises(ModelError, match=r"not valid JSON|predict, evaluate and export take"):
            open_(tmp_path / "x.json")
