"""Outliers and drift in synthetic embeddings."""

import numpy as np
from test_labels import clusters, looked

from visiontool.checking.outliers import check_drift, check_outliers


def test_pictures_of_another_kind_are_found_the_strangest_first() -> None:
    embeddings, labels = clusters()
    embeddings[:5, 8:] += 5
    embeddings[2, 8:] += 20
    embeddings[2, :3] = 0
    (finding,) = check_outliers(looked(embeddings, labels))
    names = [each.name for each in finding.suspects]
    assert (finding.check, finding.severity) == ("outlier", "warning")
    assert names[0] == "2"
    assert {*names} <= {"0", "1", "2", "3", "4"}
    assert all(0.5 <= each.score <= 1 for each in finding.suspects)


def test_a_clean_set_and_a_tiny_one_have_no_outliers() -> None:
    embeddings, labels = clusters()
    assert [*check_outliers(looked(embeddings, labels))] == []
    assert [*check_outliers(looked(np.ones((40, 8)), np.arange(40) % 2))] == []  # all the same
    assert [*check_outliers(looked(embeddings[:9], labels[:9]))] == []


def splits_of(count, name="test"):
    return ["train" if draw < 0.7 else name for draw in np.random.default_rng(3).random(count)]


def test_a_split_from_elsewhere_is_told_from_train_and_in_what() -> None:
    embeddings, labels = clusters()
    splits = splits_of(300)
    is_test = np.array(splits) == "test"
    embeddings[:, 10] += 3 * is_test
    (finding,) = check_drift(looked(embeddings, labels, splits, brightness=100 - 50 * is_test), 0)
    assert (finding.check, finding.severity) == ("drift", "warning")
    assert finding.title.startswith("test looks unlike train: a classifier tells them apart in 9")
    assert "Pictures of test are mostly darker. " in finding.advice


def test_splits_of_one_place_do_not_drift_though_their_classes_differ_in_number() -> None:
    embeddings, labels = clusters()
    assert [*check_drift(looked(embeddings, labels, splits_of(300, "val")), 0)] == []
    uneven = ["test" if (i % 10 < 6) == (label == 0) else "train" for i, label in enumerate(labels)]
    assert [*check_drift(looked(embeddings, labels, uneven), 0)] == []
    assert [*check_drift(looked(embeddings, labels), 0)] == []  # no split is given
    few = ["test" if i < 9 else "train" for i in range(300)]
    assert [*check_drift(looked(embeddings, labels, few), 0)] == []
