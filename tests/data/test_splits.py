"""Splits and folds: each class has its share, what belongs together stays together, and a file gives them again."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from visiontool.data.samples import Dataset, Sample, Unusable
from visiontool.data.splits import folds, groups_of, leaks, read_splits, split, unfolded, unjudged, write_splits
from visiontool.errors import DataError, UsageError


def dataset_of(*classes: int, split: str | None = None) -> Dataset:
    """A dataset with so many pictures of each class, "0/0", "0/1" ..."""
    samples = [
        Sample(f"data/{label}/{number}", f"{label}/{number}", label, split, None)
        for label, count in enumerate(classes)
        for number in range(count)
    ]
    return Dataset(Path("data"), tuple(map(str, range(len(classes)))), None, tuple(samples), {}, (), ())


def with_changes(data: Dataset, **changes) -> Dataset:
    """The dataset with sample._replace(split=...) and so on, where the values are functions of the sample."""
    samples = (sample._replace(**{key: value(sample) for key, value in changes.items()}) for sample in data.samples)
    return Dataset(data.root, data.labels, None, tuple(samples), {}, (), ())


def in_val(data: Dataset, splits: tuple[str, ...]) -> Counter[int]:
    return Counter(sample.class_id for sample, side in zip(data.samples, splits, strict=True) if side == "val")


def test_val_has_its_share_of_each_class():
    data = dataset_of(100, 37, 10, 3, 2)
    splits = split(data, val_share=0.2)
    assert in_val(data, splits) == {0: 20, 1: 7, 2: 2, 3: 1, 4: 1}
    assert set(splits) == {"train", "val"}
    assert in_val(data, split(data, val_share=0.9)) == {0: 90, 1: 33, 2: 9, 3: 2, 4: 1}
    assert split(data, seed=3) == split(data, seed=3) != split(data, seed=4)
    for share in (0, 1, -0.2, float("nan")):
        with pytest.raises(UsageError, match="expected more than 0 and less than 1"):
            split(data, val_share=share)


def test_groups_and_same_pictures_stay_on_one_side_and_shares_are_kept():
    draw = random.Random(0)
    data = with_changes(dataset_of(300, 200, 100), group=lambda sample: f"{sample.class_id}-{draw.randrange(60)}")
    same = list(range(600))
    for index in range(0, 600, 7):
        same[index] = max(0, index - 3)
    splits = split(data, same)
    groups = groups_of(data, same)
    sides = {(group, side) for group, side in zip(groups.tolist(), splits, strict=True)}
    assert len(sides) == len(set(groups.tolist()))
    for class_id, total in enumerate((300, 200, 100)):
        assert in_val(data, splits)[class_id] / total == pytest.approx(0.2, abs=0.02)
    assert leaks(data, splits, same) == []


def test_groups_of_several_classes_leave_each_class_something_on_both_sides():
    for seed in range(10):
        draw = random.Random(seed)
        data = with_changes(dataset_of(30, 30, 4, 4), group=lambda sample, draw=draw: str(draw.randrange(16)))
        splits = split(data, seed=seed)
        for side in ("train", "val"):
            has = {sample.class_id for sample, side in zip(data.samples, splits, strict=True) if side == side}
            assert has == {0, 1, 2, 3}


def test_the_splits_of_the_user_stay_and_the_rest_is_train():
    given = {"0/0": "val", "0/1": "test", "1/0": "val", "1/1": "", "0/2": "train"}
    data = with_changes(dataset_of(4, 3), split=lambda sample: given.get(sample.name))
    assert split(data) == ("val", "test", "train", "train", "val", "", "train")


def test_a_class_that_cannot_be_in_val_stays_in_train_and_is_named():
    data = with_changes(dataset_of(5, 3, 1, 2), group=lambda sample: "g" if sample.class_id == 3 else None)
    splits = split(data, [0, 1, 2, 3, 4, 5, 5, 5, 8, 9, 10])
    assert in_val(data, splits) == {0: 1}
    assert splits[5:] == ("train",) * 6
    few = "with too few pictures or groups to draw from (copies count once)"
    assert unjudged(data, splits) == [f"3 classes have no picture in val, {few}: 1, 2, 3"]
    with pytest.raises(Unusable, match=r"no class has a picture in val, with too few .*\nAdd other pictures"):
        unjudged(dataset_of(1, 1), split(dataset_of(1, 1)))


def test_classes_that_given_splits_lack_are_named():
    data = with_changes(
        dataset_of(3, 3, 3), split=lambda sample: {"0/0": "val", "1/0": "test"}.get(sample.name, "train")
    )
    lines = ["2 classes have no picture in val: 1, 2", "2 classes have no picture in test: 0, 2"]
    assert unjudged(data, split(data)) == lines
    with pytest.raises(Unusable, match="no class has a picture in val\n"):
        unjudged(data, ("train",) * 9)


def test_leaks_of_given_splits_are_listed_and_nothing_is_moved():
    given = {"0/0": "val", "0/1": "val", "1/0": "test", "1/1": "val"}
    data = with_changes(dataset_of(4, 4), split=lambda sample: given.get(sample.name, "train"),
                   group=lambda sample: "g" if sample.name in ("1/0", "1/3") else None)  # fmt: skip
    same = [0, 0, 0, 3, 3, 5, 6, 7]
    splits = split(data, same)
    assert splits == tuple(sample.split for sample in data.samples)
    assert leaks(data, splits, same) == [
        "2 pictures of val are also in train (same picture), e.g. 0/0 = 0/2",
        "1 picture of test is also in train (same picture), e.g. 1/0 = 0/3",
        "1 picture of test is of a group that is in train too, e.g. 1/0 and 1/3",
    ]
    assert leaks(data, ("",) * 8, same) == []


def fold_counts(class_ids, fold_of, count):
    return np.array([np.bincount(fold_of[class_ids == c], minlength=count) for c in np.unique(class_ids)])


def test_each_fold_has_its_share_of_each_class():
    class_ids = np.repeat([0, 1, 2], [100, 53, 7])
    fold_of = folds(class_ids, np.arange(160), 5, seed=1)
    counts = fold_counts(class_ids, fold_of, 5)
    assert counts.sum(axis=1).tolist() == [100, 53, 7]
    assert (counts.max(axis=1) - counts.min(axis=1)).tolist() == [0, 1, 1]
    assert np.array_equal(fold_of, folds(class_ids, np.arange(160), 5, seed=1))
    assert not np.array_equal(fold_of, folds(class_ids, np.arange(160), 5, seed=2))
    assert sorted(folds([0, 0, 0], [0, 1, 2], 10, seed=0)) == [0, 1, 2]
    with pytest.raises(UsageError, match="1 folds: expected at least 2"):
        folds([0, 1], [0, 1], 1, seed=0)


def test_folds_keep_groups_whole_and_leave_each_class_something_to_learn_from():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        class_ids = np.repeat([0, 1, 2], [60, 20, 4])
        groups = np.concatenate([rng.integers(0, 15, 60), 15 + rng.integers(0, 6, 20), [21, 21, 21, 22]])
        fold_of = folds(class_ids, groups, 5, seed)
        assert all(len(set(fold_of[groups == group])) == 1 for group in np.unique(groups))
        assert (fold_counts(class_ids, fold_of, 5) < [[60], [20], [4]]).all()
        # Groups of 4 on average, in five folds of 12 and 4 pictures.
        assert np.ptp(fold_counts(class_ids, fold_of, 5)[0]) <= 7


def test_a_class_that_no_other_fold_would_know_is_in_none_and_named():
    data = dataset_of(2, 1, 3)
    fold_of = folds([sample.class_id for sample in data.samples], [0, 1, 2, 3, 3, 3], 2, seed=0)
    assert fold_of[2:].tolist() == [-1] * 4
    assert sorted(fold_of[:2]) == [0, 1]
    few = "with too few pictures or groups (copies count once)"
    assert unfolded(data, np.arange(6), fold_of) == [f"2 classes are in no fold, {few}: 1, 2"]
    with pytest.raises(Unusable, match="3 classes are in no fold"):
        unfolded(data, np.arange(6), np.full(6, -1))


def test_a_file_of_splits_gives_them_again_whatever_the_names(tmp_path):
    names = ("a,b", 'q"uote', "line\nbreak", " space ", "\udcff\udcfe", "a;b\tc")
    samples = tuple(Sample(f"data/{name}", name, 0, None, "of, \n\udcff") for name in names)
    data = Dataset(Path("data"), ("la,bel",), None, samples, {}, (), ())
    splits = ("train", "val", "test", "", "train", "val")
    write_splits(tmp_path / "splits.csv", data, splits)
    assert read_splits(tmp_path / "splits.csv", data) == splits


def test_splits_of_another_dataset_name_what_one_side_lacks(tmp_path):
    file = tmp_path / "splits.csv"
    write_splits(file, dataset_of(6, 1), ("train",) * 7)
    with pytest.raises(DataError) as caught:
        read_splits(file, dataset_of(2, 3))
    assert str(caught.value).splitlines()[:-1] == [
        f"{file} does not fit data:",
        "  - 2 pictures of the data are not in it: 1/1, 1/2",
        "  - 4 pictures in it are not in the data: 0/2, 0/3, 0/4 and 1 more",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,split\n0/1,Val \n0/0, train\n0/2,train\n", "1 picture in it is not in the data: 0/2"),
        ("path,split\n0/0,train\n0/1,holdout\n", "1 split is not train, val or test: holdout"),
        ("path,split\n0/0,train\n0/1,val\n0/0,val\n", "1 picture is in two splits: 0/0"),
        ("path,label\n0/0,0\n0/1,0\n", "has no column split"),
        ("0/0,train\n", "has no column path, found: 0/0, train"),
    ],
)
def test_what_is_no_file_of_splits_is_an_error(tmp_path, text, message):
    (tmp_path / "splits.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        read_splits(tmp_path / "splits.csv", dataset_of(2))
    assert message in str(caught.value)


def test_nothing_is_left_to_draw_where_all_pictures_belong_to_train():
    data = dataset_of(2, 2)
    data = with_changes(
        data, group=lambda sample: "all", split=lambda sample: "train" if sample.name[-1] == "0" else None
    )
    assert set(split(data)) == {"train"}


def test_a_picture_of_several_labels_is_judged_for_each_and_one_of_none_for_none():
    data = dataset_of(2, 2, split="train")
    several = Sample("data/x", "x", 0, "val", None, (1,))
    none = Sample("data/y", "y", -1, "val", None)
    splits = ("train", "train", "train", "train", "val")
    assert unjudged(replace(data, samples=(*data.samples, several)), splits) == []
    with pytest.raises(Unusable, match="no class has a picture in val"):
        unjudged(replace(data, samples=(*data.samples, none)), splits)
    assert replace(data, is_multilabel=True).label_of(several) == "0|1"
