"""What is odd about classes is found from the samples alone."""

import numpy as np

from visiontool.checking.classes import check_classes
from visiontool.checking.finding import Looked
from visiontool.data.dataset import read


def found(root, counts: dict[str, int], *others: str):
    """The findings (check, severity, title) about folders with that many pictures, and files beside them."""
    names = [f"{folder}/{number}.png" for folder, count in counts.items() for number in range(count)]
    for name in (*names, *others):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    data = read(root)
    looked = Looked(data, (), np.zeros((len(data.samples), 1), np.float32), {})
    return [(finding.check, finding.severity, finding.title) for finding in check_classes(looked)]


def test_good_classes_give_nothing(tmp_path):
    assert found(tmp_path, {"train/ants": 20, "train/bees": 60, "val/ants": 2, "val/bees": 3}) == []


def test_small_and_unequal_classes(tmp_path):
    has = "classes have fewer than 10 pictures to learn from"
    assert found(tmp_path / "few", {"ants": 9, "bees": 50, "wasps": 5}) == [
        ("few", "warning", f"2 {has}: wasps (5), ants (9)"),
        ("imbalance", "warning", "bees has 50 pictures to learn from, wasps 5"),
    ]
    checks = found(tmp_path / "one", {"ants": 1, "bees": 8})
    assert checks[0] == ("few", "serious", f"2 {has}: ants (1), bees (8)")
    assert checks[1][:2] == ("split", "warning")


def test_splits_that_lack_classes(tmp_path):
    counts = {"train/ants": 20, "train/bees": 20, "val/ants": 3, "test/bees": 3}
    assert found(tmp_path / "a", counts) == [
        ("split", "warning", "1 class has no picture in val: bees"),
        ("split", "warning", "1 class has no picture in test: ants"),
    ]
    counts = {"train/ants": 20, "train/bees": 20, "val/ants": 3, "val/bees": 3, "val/wasps": 3}
    assert found(tmp_path / "b", counts) == [("unusable", "serious", "1 class of val or test is not in train: wasps")]


def test_names_that_differ_in_little_and_what_lies_beside(tmp_path):
    counts = dict.fromkeys(("Tom cat", "tom_cats", "box", "boxes", "glass", "gas", "a/dog"), 10)
    assert found(tmp_path, counts, "box/notes.txt", ".DS_Store") == [
        ("spelling", "warning", "2 labels are written in different ways: box / boxes, Tom cat / tom_cats"),
        ("reading", "note", "1 label is a folder in a folder: a/dog"),
        ("ignored", "note", "Left out: 1 hidden, 1 not pictures"),
    ]
