"""Class folders become samples, and every fault of them is listed at once. No picture is opened for that."""

import os
from pathlib import Path

import pytest

from visiontool.data import dataset
from visiontool.data.samples import Dataset, Unusable, check, without
from visiontool.errors import DataError, UsageError


@pytest.fixture
def data(tmp_path):
    """Makes empty files in a folder of data: data("ants/1.jpg", "bees/") gives the folder."""

    def make(*names: str) -> Path:
        root = tmp_path / "data"
        root.mkdir(exist_ok=True)
        for name in names:
            path = root / name
            if name.endswith("/"):
                path.mkdir(parents=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        return root

    return make


def two_each(*folders: str) -> list[str]:
    return [f"{folder}/{number}.jpg" for folder in folders for number in (1, 2)]


def splits_of(read: Dataset) -> dict[str, str | None]:
    return {sample.name: sample.split for sample in read.samples}


def test_a_folder_is_a_class_and_its_pictures_are_samples(data):
    root = data("bees/2.jpg", "bees/10.png", "ants/a.JPEG", "ants/b.webp")
    read = dataset.read(root)
    assert read.labels == ("ants", "bees")
    assert read.label_ids is None
    assert [(sample.name, sample.class_id) for sample in read.samples] == [
        ("ants/a.JPEG", 0), ("ants/b.webp", 0), ("bees/2.jpg", 1), ("bees/10.png", 1),
    ]  # fmt: skip
    assert all(sample.path == str(root / sample.name) and sample.split is None for sample in read.samples)
    assert (read.faults, read.notes, dict(read.ignored)) == ((), (), {})


@pytest.mark.parametrize(
    ("names", "labels", "notes", "faults"),
    [
        ("10 2 1", "1 2 10", "the labels are numbers, in the order of their values: 1, 2, 10", ""),
        ("birds/crane machines/crane", "birds/crane machines/crane",
         "2 labels are folders in folders: birds/crane, machines/crane", ""),
        ("d/ants d/bees", "d/ants d/bees",
         "2 labels are folders in folders: d/ants, d/bees; all are in d/, so DATA/d may be meant", ""),
        ("birds birds/crane", "birds birds/crane", "1 label is a folder in a folder: birds/crane", ""),
        ("cat sea_lion sea-lion", "cat sea-lion sea_lion",
         "1 label is written in different ways: sea-lion / sea_lion", ""),
        ("train/caf\u00e9 train/tea val/cafe\u0301 val/tea", "caf\u00e9 tea", "", ""),
        ("train/a train/b val/a val/b", "a b", "", ""),
        ("train/0a train/1a test/0a", "0a 1a", "val is drawn from train, since there is none", ""),
        ("train/a train/b val/a val/b val/c test/d", "a b c d", "", "2 classes of val or test are not in train: c, d"),
        ("train/a train/b val/a val/b val/c train/c/", "a b c", "", "1 class of val or test is not in train: c"),
        ("bus train", "bus train",
         "train/ holds pictures itself and has other classes beside it, so it is a class too", ""),
        ("only", "only", "", "expected at least 2 classes, found only one: only"),
        ("a b c\td/", "a b c\td", "", "1 class has no picture: 'c\\td'"),
        ("a b \udcff", "a b \udcff", "", "1 label is no UTF-8 text: '\\udcff'"),
        ("bus car test", "bus car test", "", "test/: a split without labels, or a class like bus, car? Rename it if"),
        ("train/a train/b c", "a b", "val is drawn", "train/ beside other folders with pictures: c."),
        ("val/a val/b test/a", "a b", "", "there is test/, val/ but no train/"),
        ("train/a train/b val/a val/b dev/a", "a b", "dev/ is taken for val", "dev/ and val/ are both taken for val"),
        ("train/a train/b val", "a b", "val is drawn", "2 pictures lie in val/, with no label: 1.jpg, 2.jpg"),
        ("train/a train/b val/", "a b", "val is drawn", "val/ holds no picture"),
        ("train/a train/b .", "a b", "val is drawn", "2 pictures lie in DATA itself, with no label: 1.jpg, 2.jpg"),
        (".", "", "", "2 pictures lie in DATA itself, with no label: 1.jpg, 2.jpg\nexpected DATA/<label>/picture, "
         "or a table of labels: --labels FILE.csv\nexpected at least 2 classes, found none"),
    ],
)  # fmt: skip
def test_what_folders_mean(data, names, labels, notes, faults):
    folders = names.split(" ")
    root = data(
        *two_each(*(name for name in folders if name[-1] != "/")), *(name for name in folders if name[-1] == "/")
    )
    read = dataset.read(root)
    assert read.labels == tuple(labels.split(" ") if labels else ())
    for lines, expected in ((read.notes, notes), (read.faults, faults)):
        assert len(lines) >= 1 if expected else lines == ()
        assert expected in "\n".join(lines)


def test_what_is_hidden_or_junk_is_ignored_and_counted(data):
    root = data(
        *two_each("ants", "bees"), "ants/.ipynb_checkpoints/1.jpg", ".git/2.jpg", "ants/._1.jpg",
        "bees/Thumbs.db", "labels.tsv", "__MACOSX/ants/1.jpg",
    )  # fmt: skip
    os.symlink(root, root / "bees" / "loop")
    (root / "bees" / "1.dng").write_bytes(b"II*\0")
    read = dataset.read(root)
    assert read.labels == ("ants", "bees")
    assert dict(read.ignored) == {"hidden": 3, "not pictures": 2, "junk": 1, "repeated": 1, "unsupported": 1}
    assert read.faults == ()
    assert read.notes == ("1 file is of a kind that cannot be read: bees/1.dng",)


def test_links_to_class_folders_are_followed(data, tmp_path):
    root = data(*two_each("ants", "../elsewhere/bees"))
    (tmp_path / "elsewhere" / "bees" / "IMG_3").write_bytes(b"\xff\xd8\xff\xe0")
    os.symlink("../elsewhere/bees", root / "bees")
    read = dataset.read(root)
    assert read.labels == ("ants", "bees")
    assert [sample.name for sample in read.samples][2:] == ["bees/1.jpg", "bees/2.jpg", "bees/IMG_3"]
    assert (read.faults, dict(read.ignored)) == ((), {})


@pytest.mark.parametrize("val", ["val", "validation", "Valid"])
def test_split_folders_are_found_by_their_names(data, val):
    read = dataset.read(data(*two_each(f"{val}/ants", f"{val}/bees", "TRAIN/ants", "TRAIN/bees", "test/ants")))
    assert read.labels == ("ants", "bees")
    assert splits_of(read)["TRAIN/bees/1.jpg"] == "train"
    assert splits_of(read)[f"{val}/bees/2.jpg"] == "val"
    assert splits_of(read)["test/ants/1.jpg"] == "test"
    assert "TRAIN/ is taken for train" in read.notes[0]
    assert (f"{val}/ is taken for val" in read.notes[0]) == (val != "val")
    assert read.faults == ()


def test_ids_become_the_labels_of_the_model(data):
    known = {"n02012849": "crane (bird)", "n03126707": "crane (machine)", "n01443537": "goldfish"}
    read = dataset.read(data(*two_each("train/n03126707", "train/n02012849", "val/crane (machine)", "val/n02012849")),
                        known=known)  # fmt: skip
    assert read.labels == ("crane (bird)", "crane (machine)")
    assert read.label_ids == ("n02012849", "n03126707")
    classes = {sample.name: sample.class_id for sample in read.samples}
    assert classes["train/n03126707/1.jpg"] == classes["val/crane (machine)/1.jpg"] == 1
    assert read.faults == ()
    assert "the labels are the model's" in read.notes
    read = dataset.read(data(*two_each("train/wasps")), known=known)  # which the model does not know
    assert (read.labels, read.label_ids) == (("crane (machine)", "n02012849", "n03126707", "wasps"), None)
    assert dataset.read(data("flat/1.jpg") / "flat", known=known).notes == ()  # there is no label


def test_all_faults_are_listed_at_once_and_many_of_a_kind_in_one_line(data):
    root = data("a/1.jpg", *(f"empty{number}/" for number in range(17)), "loose.jpg", "loose2.jpg")
    read = dataset.read(root)
    assert read.faults == (
        "2 pictures lie in DATA itself, with no label: loose.jpg, loose2.jpg",
        "17 classes have no picture: empty0, empty1, empty2 and 14 more",
    )
    with pytest.raises(Unusable) as caught:
        check(read, {"a/1.jpg": "truncated or damaged"})
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{root} cannot be learned from:"
    assert lines[1:-1] == [f"  - {fault}" for fault in (*read.faults, "a/1.jpg: truncated or damaged")]
    assert lines[-1].startswith("Put the data right and run it again; --on-bad skip")
    assert caught.value.faults == (*read.faults, "a/1.jpg: truncated or damaged")


def test_without_leaves_out_samples_and_finds_the_faults_anew(data):
    read = dataset.read(data(*two_each("a", "b")))
    left = without(read, {"b/1.jpg", "b/2.jpg"})
    assert [sample.name for sample in left.samples] == ["a/1.jpg", "a/2.jpg"]
    assert left.faults == ("1 class has no picture: b",)


def test_nothing_there_is_an_error_that_says_what_was_expected(data, tmp_path):
    with pytest.raises(DataError, match="is not there\nExpected a folder"):
        dataset.read(tmp_path / "nowhere")
    for name, message in (
        ("file.ZIP", "is an archive\nUnpack it"),
        ("file.csv", r"is no folder\nGive the folder of the pictures, and this table as --labels .*file\.csv"),
        ("file.png", "is no folder\nExpected a folder with a folder of pictures for each class"),
    ):
        (tmp_path / name).touch()
        with pytest.raises(DataError, match=message):
            dataset.read(tmp_path / name)
    with pytest.raises(DataError, match=r"no picture in .*left out: 1 hidden, 1 not pictures\)\nExpected DATA/<label>"):
        dataset.read(data("notes.txt", ".DS_Store"))


def test_groups_are_what_the_expression_finds_in_the_name(data):
    names = ["a/p1_1.jpg", "a/p1_2.jpg", "a/p2_1.jpg", "b/p3_1.jpg", "b/other.jpg", "b/p4_1.jpg"]
    read = dataset.read(data(*names), group=r"(p\d+)_")
    assert {sample.name: sample.group for sample in read.samples} == {
        "a/p1_1.jpg": "p1", "a/p1_2.jpg": "p1", "a/p2_1.jpg": "p2", "b/p3_1.jpg": "p3", "b/p4_1.jpg": "p4",
        "b/other.jpg": None,
    }  # fmt: skip
    assert read.notes == ("1 picture is in no group: b/other.jpg",)
    assert {sample.group for sample in dataset.read(data(), group=r"p\d").samples} == {"p1", "p2", "p3", "p4", None}
    with pytest.raises(UsageError, match=r"--group '\(' is no regular expression"):
        dataset.read(data(), group="(")
    fault = "--group patient matches no picture, not even a/p1_1.jpg"
    assert dataset.read(data(), group="patient").faults[0] == fault
