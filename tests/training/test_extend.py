"""A run gets more classes, or more pictures of its classes, without the pictures that it was made from."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import COLOR_SPEC, color_graph, save_model
from onnx import numpy_helper
from test_finetune import fill, tree

from visiontool import Classifier
from visiontool.data.dataset import read
from visiontool.training.extend import with_known
from visiontool.training.head.gaussian import Statistics

LDA = ("--head", "lda", "--transform", "none", "--stages", "1", "--augment", "none")


@pytest.fixture(autouse=True)
def one_shrinkage(monkeypatch):
    """So that every run chooses the same one."""
    monkeypatch.setattr("visiontool.training.head.select.SHRINKAGES", (0.3,))


@pytest.fixture
def base(run, tmp_path, monkeypatch):
    """A run of two classes, of pictures in a/."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "cache"))
    save_model(color_graph(), tmp_path / "colors.onnx", COLOR_SPEC.to_metadata())
    for part, label in (("a", "warm"), ("a", "fresh"), ("b", "cold"), ("c", "warm")):
        for split, count in (("train", 8), ("val", 3)):
            fill(tmp_path / part / split / label, label, count, seed=ord(part) * count)
    assert run("finetune", "a", "-m", "colors.onnx", *LDA, "-o", "base").code == 0
    return tmp_path / "base"


def head_of(folder):
    """Labels, and in their order weights and biases (C, D + 1), of which only differences between classes matter."""
    values = {one.name: numpy_helper.to_array(one) for one in onnx.load(folder / "model.onnx").graph.initializer}
    rows = np.column_stack([values["head.weight"], values["head.bias"]])
    labels = Classifier.load(folder).spec.labels
    return labels, (rows - rows.mean(axis=0))[np.argsort(labels)]


def test_extending_twice_gives_the_head_of_one_run_of_all(run, base, tmp_path):
    before = tree(base)
    for part, split in itertools.product("abc", ("train", "val")):
        for path in (tmp_path / part / split).rglob("*.png"):
            target = tmp_path / "all" / split / path.parent.name / f"{part}{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    first = run("finetune", "b", "--extend", base, "-o", "first", "--json")  # a single class, a new one
    assert first.code == 0, first.err
    measured = json.loads(first.out)
    assert measured["extended"] == {"run": str(base), "pictures": 6, "accuracy_before": 1, "accuracy_after": 1}
    assert (measured["pictures"], measured["val"]["pictures"]) == ({"train": 8, "val": 3}, 3)
    for word in ("New classes: cold", f"Old pictures: 1.000 right before, 1.000 after, 6 of val of {base}"):
        assert word in first.err
    shutil.rmtree("b")
    second = run("finetune", "c", "--extend", "first", "-o", "second")  # more pictures of a known class
    assert second.code == 0, second.err
    assert "Old pictures: answers before and after cannot be compared, since the pictures of first are" in second.err
    whole = run("finetune", "all", "-m", "colors.onnx", *LDA, "-o", "whole")
    assert whole.code == 0, whole.err
    (labels, ours), (_, theirs) = head_of(tmp_path / "second"), head_of(tmp_path / "whole")
    assert labels == ("fresh", "warm", "cold")
    scale = np.linalg.norm(theirs) / np.linalg.norm(ours)  # which each run has chosen
    assert ours * scale == pytest.approx(theirs, abs=1e-5 * float(np.abs(theirs).max()))
    assert Classifier.load("second").spec.temperature == Classifier.load(base).spec.temperature
    assert tree(base) == before


def test_statistics_of_parts_are_those_of_the_whole():
    random = np.random.default_rng(0)
    features = random.normal(3, 1, (90, 5)).astype(np.float32)
    class_ids = np.sort(random.integers(0, 4, 90))
    part = random.permutation(90) < 40
    part[class_ids == 3] = False
    one = Statistics.of(features[part], class_ids[part], np.ones(part.sum()), 3)
    other = Statistics.of(features[~part], class_ids[~part], np.ones((~part).sum()), 4)
    whole = Statistics.of(features, class_ids, np.ones(90), 4)
    for ours, theirs in zip(one.merged(other), whole, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)


def test_ids_stay_where_every_class_has_one(base):
    spec = replace(Classifier.load(base).spec, label_ids=("n01", "n02"))
    assert with_known(base, spec, read(Path("b"))).label_ids is None
    assert with_known(base, spec, read(Path("c"))).label_ids == ("n01", "n02")


def test_the_same_pictures_again_are_told(run, base):
    ran = run("finetune", "a", "--extend", base, "-o", "again")
    assert "base already, so they count twice: " in ran.err
    assert "New classes: none" in ran.err
    assert run("finetune", "--from", "again", "-o", "more").code == 0


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        ("--views 2", 2, "--views is not for --extend"),
        ("--no-mirror", 2, "--mirror is not for --extend"),
        ("-m lenet5", 2, "--model is not for --extend"),
        ("--weights colors.onnx", 2, "--weights"),
        ("--folds 3", 2, "leave out"),
        ("--unfreeze all", 2, "leave out"),
        ("--extend a", 3, "Expected the folder of a run"),
        ("--extend logistic", 3, "finetune --from logistic --head lda -o logistic --force"),
    ],
)
def test_refusals(run, base, tmp_path, more, code, words):
    shutil.copytree(base, "logistic")
    (tmp_path / "logistic" / "statistics.npz").unlink()
    ran = run("finetune", "b", "--extend", base, "-o", "new", *more.split())
    assert (ran.code, words in ran.err) == (code, True), ran.err
    assert not (tmp_path / "new").exists()


def test_only_a_run_of_linear_discriminant_analysis_keeps_statistics(run, base):
    kept = {}
    for options in (("--head", "logistic"), ("--head", "lda", "--balance", "weights"), ("--head", "lda")):
        assert run("finetune", "a", "-m", "colors.onnx", *options, "-o", "other", "--force").code == 0
        kept[options[-1]] = (base.parent / "other" / "statistics.npz").is_file()
    assert kept == {"logistic": False, "weights": False, "lda": True}
