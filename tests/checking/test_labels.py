"""Likely label errors in synthetic embeddings."""

from pathlib import Path

import numpy as np
import pytest

from visiontool.checking.finding import Looked
from visiontool.checking.labels import check_labels
from visiontool.data.samples import Dataset, Sample
from visiontool.images.fingerprint import Fingerprint
from visiontool.training.label_errors import held_out_logits, label_errors, pruned


def looked(embeddings, class_ids, splits=None, groups=None, brightness=None, **options) -> Looked:
    """Pictures called by their numbers, all different."""
    n = len(embeddings)
    labels = tuple(f"class{each}" for each in range(max(class_ids) + 1))
    samples = tuple(
        Sample(f"/{i}", f"{i}", int(class_ids[i]), splits[i] if splits else None, groups[i] if groups else None)
        for i in range(n)
    )
    thumbnails = np.random.default_rng(99).integers(0, 256, (n, 256), np.uint8)
    levels = [100] * n if brightness is None else brightness
    prints = tuple(Fingerprint(64, 64, f"{i}", thumbnails[i].tobytes(), bytes([int(levels[i])] * 3)) for i in range(n))
    data = Dataset(Path("DATA"), labels, None, samples, {}, (), (), **options)
    return Looked(data, prints, np.asarray(embeddings, np.float32), {})


def clusters(count=300, classes=3, width=16, spread=1.0, seed=0):
    """Embeddings around a center for each class, and the classes."""
    random, class_ids = np.random.default_rng(seed), np.arange(count) % classes
    return 4 * np.eye(classes, width)[class_ids] + spread * random.normal(size=(count, width)), class_ids


@pytest.mark.parametrize(("flipped", "severity"), [(3, "warning"), (20, "serious")])
def test_flipped_labels_are_found_with_what_they_look_like(flipped, severity) -> None:
    embeddings, true = clusters()
    labels = true.copy()
    labels[:flipped] = (true[:flipped] + 1) % 3
    (finding,) = check_labels(looked(embeddings, labels), 0)
    names = [each.name for each in finding.suspects]
    assert (finding.check, finding.severity) == ("label", severity)
    assert len(set(names) & {f"{i}" for i in range(flipped)}) >= 0.9 * flipped
    assert len(names) <= 1.2 * flipped
    first = finding.suspects[0]
    assert first.suggested == f"class{true[int(first.name)]}"
    assert first.reason.startswith(f"labelled class{labels[int(first.name)]}, looks like {first.suggested} (")
    assert 0.9 < first.score <= 1
    assert [*finding.suspects] == sorted(finding.suspects, key=lambda each: -each.score)
    assert [*check_labels(looked(embeddings, labels), 0)] == [finding]


@pytest.mark.parametrize("spread", [1.0, 2.5])  # the head errs for none, and for many
def test_clean_labels_give_nothing_serious(spread) -> None:
    found = [*check_labels(looked(*clusters(spread=spread)), 0)]
    assert sum(len(finding.suspects) for finding in found) <= 5
    assert all(each.severity == "warning" for each in found)


def test_nothing_is_said_where_there_is_nothing_to_judge() -> None:
    embeddings, labels = clusters(60)
    assert [*check_labels(looked(embeddings, labels, is_multilabel=True), 0)] == []
    assert [*check_labels(looked(embeddings, 0 * labels), 0)] == []
    assert [
        *check_labels(looked(embeddings, labels, groups=[f"{each}" for each in labels]), 0)
    ] == []  # a class a group


def test_a_class_without_pictures_and_one_that_is_a_single_group_are_no_obstacle() -> None:
    embeddings, true = clusters(300, 4)
    labels = np.where(true == 3, 4, true)  # none of class 3
    labels[0] = 1
    groups = ["one" if label == 4 else f"own{i}" for i, label in enumerate(labels)]
    (finding,) = check_labels(looked(embeddings, labels, groups=groups), 0)
    assert [each.name for each in finding.suspects] == ["0"]


def test_no_picture_is_judged_by_a_head_that_saw_it_or_its_group() -> None:
    embeddings, labels = clusters(100, 2, width=200, spread=3.0)
    embeddings = np.repeat(embeddings + 20 * np.random.default_rng(1).normal(size=embeddings.shape), 2, axis=0)
    labels, groups = np.random.default_rng(2).permutation(np.repeat(labels, 2)), np.repeat(np.arange(100), 2)
    logits = held_out_logits(embeddings.astype(np.float32), labels, groups, 0.1, 0)
    assert (logits.argmax(axis=1) == labels).mean() < 0.65


def test_classes_of_two_pictures_are_judged_too() -> None:
    embeddings, labels = clusters(100)
    labels[:4] = 3, 3, 4, 4
    assert np.isfinite(held_out_logits(embeddings.astype(np.float32), labels, np.arange(100), 0.5, 0)).all()


def test_confident_learning_takes_as_many_as_the_joint_says() -> None:
    probabilities = np.array([[0.9, 0.1]] * 8 + [[0.2, 0.8]] * 2 + [[0.1, 0.9]] * 9 + [[0.45, 0.55]])
    labels = np.array([0] * 10 + [1] * 10)
    assert np.flatnonzero(pruned(probabilities, labels)).tolist() == []  # 0.8 is less than class 1's mean confidence
    probabilities[8] = 0.05, 0.95
    assert np.flatnonzero(pruned(probabilities, labels)).tolist() == [8]
    assert label_errors(np.log(probabilities), labels)[0].tolist() in ([], [8])
