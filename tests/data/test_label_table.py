"""A CSV file says which picture has which label."""

import os

import pytest

from visiontool.data import dataset
from visiontool.data.samples import Dataset
from visiontool.errors import DataError


@pytest.fixture
def read(tmp_path):
    """Reads a CSV file of this text beside a folder with a/1.jpg ... a/4.jpg and b/1.jpg ... b/4.jpg."""
    root = tmp_path / "data"
    for folder in ("a", "b"):
        (root / folder).mkdir(parents=True)
        for number in range(1, 5):
            (root / folder / f"{number}.jpg").touch()

    def read_(text: str | bytes, **options: object) -> Dataset:
        file = tmp_path / "labels.csv"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return dataset.read(root, labels_file=file, **options)

    return read_


GOOD = "path,label\na/1.jpg,cat\na/2.jpg,dog\na/3.jpg,cat\na/4.jpg,dog\n"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(GOOD, id="commas"),
        pytest.param(GOOD.replace(",", ";"), id="semicolons"),
        pytest.param(GOOD.replace(",", "\t"), id="tabs"),
        pytest.param("sep=;\n" + GOOD.replace(",", ";"), id="Excel's first line"),
        pytest.param('\ufeff"sep=|"\r\n' + GOOD.replace(",", " | "), id="a delimiter that only that line says"),
        pytest.param(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode(), id="as Excel writes it"),
        pytest.param(GOOD.replace("path,label", "Label, Path ").replace("a/1.jpg,cat", "cat,a/1.jpg")
                     .replace("a/2.jpg,dog", "dog,a/2.jpg").replace("a/3.jpg,cat", "cat,a/3.jpg")
                     .replace("a/4.jpg,dog", "dog,a/4.jpg"), id="other order"),
        pytest.param(GOOD.replace("a/1.jpg", '"a/1.jpg"').replace("\n", "\n\n"), id="quotes and empty lines"),
        pytest.param(GOOD.replace(",", ";").encode("utf-16"), id="UTF-16"),
        pytest.param(GOOD.replace(",", " , ").replace("dog", '"dog" ') + " , \n", id="spaces"),
        pytest.param(GOOD.replace("a/", "a\\"), id="backslashes"),
        pytest.param(GOOD.replace("path,label", "File_Name,Class"), id="file_name, class"),
        pytest.param(GOOD.replace("path,label", "filename,category name"), id="filename, category name"),
        pytest.param(GOOD.replace("label", "label,class,file").replace("\n", ",x,x\n").replace("file,x,x", "file"),
                     id="path and label before others"),
    ],
)  # fmt: skip
def test_each_line_is_a_sample(read, text):
    table = read(text)
    assert table.faults == ()
    assert table.labels == ("cat", "dog")
    assert [(sample.name, sample.class_id, sample.split) for sample in table.samples] == [
        ("a/1.jpg", 0, None), ("a/2.jpg", 1, None), ("a/3.jpg", 0, None), ("a/4.jpg", 1, None),
    ]  # fmt: skip
    assert all(os.path.isfile(sample.path) for sample in table.samples)


def test_splits_and_groups_are_columns_that_may_be_empty(read):
    table = read("path,label,group\na/1.jpg,x,mine\na/2.jpg,y,\n", group=r"\d")
    assert [sample.group for sample in table.samples] == ["mine", "2"]
    table = read("path,label,split,group\na/1.jpg,x,Train,g1\na/2.jpg,y,valid,\na/3.jpg,x,test,g 2\na/4.jpg,y,,\n")
    assert [(sample.split, sample.group) for sample in table.samples] == [
        ("train", "g1"), ("val", None), ("test", "g 2"), (None, None),
    ]  # fmt: skip


def test_a_path_may_be_absolute_or_start_at_the_csv_file(read, tmp_path):
    (tmp_path / "beside.jpg").touch()
    inside = tmp_path / "data" / "b" / "1.jpg"
    table = read(GOOD + f"beside.jpg,cat\n{inside},dog\n")
    assert table.faults == ()
    assert [sample.name for sample in table.samples[4:]] == [(tmp_path / "beside.jpg").as_posix(), "b/1.jpg"]
    assert table.notes == ("1 path of labels.csv is taken from the folder that it lies in: beside.jpg",)


def test_paths_that_are_not_there_can_be_left_out(read):
    table = read(GOOD + "gone.jpg,cat\nlost.jpg,dog\n", skip_missing=True)
    assert table.faults == ()
    assert table.notes == ("left out of labels.csv: 2 paths are not there: gone.jpg, lost.jpg",)
    assert (len(table.samples), dict(table.ignored)) == (4, {"not there": 2})
    assert read(GOOD + "gone.jpg,bird\n", skip_missing=True).faults == ("1 class has no picture: bird",)


def test_all_faults_are_listed_at_once(read):
    table = read(
        "path,label,split\na/1.jpg,cat,train\na/1.jpg,dog,train\na/2.jpg,dog,train\na/2.jpg,dog,val\n"
        "gone.jpg,cat,train\n,cat,train\na/4.jpg,,train\na/4.jpg,dog,holdout\nb/1.jpg,cat,train,more\nb/2.jpg,cat,val\n"
        "b/2.jpg,cat,val\n"
    )
    assert table.faults == (
        "1 picture is there twice, with different labels: a/1.jpg (cat, dog)",
        "1 picture is in two splits: a/2.jpg",
        "1 path is not there (--on-bad skip leaves it out): gone.jpg",
        "2 lines have no path or no label: line 7, line 8",
        "1 line has more columns than the first: line 10",
        "1 split is not train, val, test or nothing: holdout",
    )
    assert dict(table.ignored) == {"repeated lines": 1}


@pytest.mark.parametrize(
    ("text", "labels", "class_ids"),
    [
        ("path,label\na/1.jpg,cat;dog\na/2.jpg,cat\na/3.jpg,dog", ("cat", "dog"), [(0, 1), (0,), (1,)]),
        (
            "path,label\na/1.jpg,cat | fox\na/2.jpg,fox | dog\na/3.jpg,dog|cat",
            ("cat", "dog", "fox"),
            [(0, 2), (2, 1), (1, 0)],
        ),
        ("path,label,label_2\na/1.jpg,cat,dog\na/2.jpg,cat,\na/3.jpg,dog,dog", ("cat", "dog"), [(0, 1), (0,), (1,)]),
        ("path,split,Dog,cat\na/1.jpg,,1,1\na/2.jpg,,0,1.0\na/3.jpg,,0,0", ("cat", "Dog"), [(1, 0), (0,), (-1,)]),
    ],
)
def test_a_picture_may_have_several_labels(read, text, labels, class_ids):
    table = read(f"{text}\n")
    assert table.is_multilabel
    assert (table.faults, table.labels) == ((), labels)
    assert [sample.class_ids for sample in table.samples] == class_ids


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na/1.jpg,crane | bird\na/2.jpg,crane | machine\na/3.jpg,crane | machine",  # names of two classes
        "path,label,fold\na/1.jpg,0,1\na/2.jpg,1,0\na/3.jpg,1,1",
    ],
)
def test_a_label_that_only_looks_like_several_is_one(read, text):
    table = read(f"{text}\n")
    assert not table.is_multilabel
    assert (table.faults, len(table.labels)) == ((), 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,class\na/1.jpg,cat\n", "has no column path, found: name, class\nExpected a CSV file whose first line"),
        ("path;kind\na/1.jpg;cat\n", "has no column label, found: path, kind\n"),
        ("file,image,label\n", "any of its columns file, image could be path; call the right one path\n"),
        ("path,class,category\n", "any of its columns class, category could be label; call the right one label\n"),
        ("a/1.jpg,cat\n", "has no column path, found: a/1.jpg, cat\n"),
        ("", "has no column path, found: nothing\n"),
        ("path,label\n", "names no picture\n"),
        (b"\xff\xfep\0a\0t\0h\0", "has no column label, found: path"),
        (b"\xff\xfep\0a\0t\0h", "is no CSV file: 'utf-16-le' codec can't decode"),
        ("path,label\na/9.jpg,cat\n", "none of its paths is there: a/9.jpg\nThey start at "),
        (b"PK\3\4...", "is a workbook: save its sheet as CSV"),
        ("path,label\n" + "x" * 200_000 + ",cat\n", "is no CSV file: field larger than field limit"),
    ],
)
def test_what_is_no_such_table_is_an_error(read, text, message):
    with pytest.raises(DataError) as caught:
        read(text)
    assert message in str(caught.value)
