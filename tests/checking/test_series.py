"""Series are told by names, time and look only where their pictures are alike, with what keeps them whole."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visiontool.checking.finding import Looked
from visiontool.checking.series import check_series
from visiontool.data.samples import Dataset, Sample
from visiontool.images.fingerprint import Fingerprint

OBJECTS, VIEWS, WIDTH = 40, 6, 16
LETTERS = str.maketrans("0123456789", "abcdefghij")


def series(naming: str, *, apart: float = 1.0, folder: Path = Path(), split=lambda number, view: None) -> Looked:
    """Objects of two classes, with views that are near to each other; `apart` is the distance of the classes."""
    rng = np.random.default_rng(0)
    order = rng.permutation(OBJECTS * VIEWS)
    samples, embeddings, prints = [], [], []
    for index in range(OBJECTS * VIEWS):
        number, view = divmod(index, VIEWS)
        if view == 0:
            center = rng.normal(size=WIDTH) + np.eye(WIDTH)[0] * (number % 2) * apart
        label = "ab"[number % 2]
        name = naming.format(label=label, number=number, view=view, shot=index, any=order[index])
        name = name.translate(LETTERS) if "word" in naming else name
        samples.append(Sample(str(folder / name), name, number % 2, split(number, view), None))
        embeddings.append(center + rng.normal(scale=0.1, size=WIDTH))
        prints.append(Fingerprint(64, 64, str(index), rng.integers(0, 256, 256, dtype=np.uint8).tobytes(), b"abc"))
    data = Dataset(Path(), ("a", "b"), None, tuple(samples), {}, (), ())
    return Looked(data, tuple(prints), np.array(embeddings, np.float32), {})


@pytest.mark.parametrize(
    ("naming", "groups"),
    [
        ("{label}/obj{number:03}_{view}.jpg", OBJECTS),
        ("train/{label}/{number:03} ({view}).jpg", OBJECTS),
        ("{label}/obj{number:03}-{view}-left.jpg", OBJECTS),
        ("{label}/IMG_{shot:05}.jpg", None),
        ("{label}/{number}/{view}x.jpg", OBJECTS),
    ],
)
def test_series_are_told_by_their_names(naming, groups):
    looked = series(naming)
    (finding,) = check_series(looked, 0)
    assert (finding.check, finding.severity) == ("series", "serious")
    random, whole = map(float, re.findall(r"\d\.\d{3}", finding.title))
    assert random > whole + 0.05
    *_, option, pattern = shlex.split(finding.advice)
    assert option == "--group"
    found = [re.search(pattern, sample.name)[1] for sample in looked.data.samples]
    assert groups is None or [*map(found.index, found)] == [index - index % VIEWS for index in range(len(found))]


def test_series_that_do_not_change_the_accuracy_are_a_warning():
    (finding,) = check_series(series("{label}/obj{number:03}_{view}.jpg", apart=100.0), 0)
    assert finding.severity == "warning"


def test_numbers_that_say_nothing_are_no_series():
    for naming in ("{label}/IMG_{any:05}.jpg", "{label}/{label}_{any}.jpg", "{label}/{any:x}-{any:o}.jpg"):
        assert [*check_series(series(naming), 0)] == []


def told_right(finding, looked: Looked, kind: str) -> bool:
    """Whether the clusters keep each object whole, and few of them hold two."""
    of = {sample.name: index // VIEWS for index, sample in enumerate(looked.data.samples)}
    clusters = {(suspect.cluster, of[suspect.name]) for suspect in finding.suspects}
    assert finding.title.startswith(f"{kind} tell ")
    assert "--labels" in finding.advice
    return len(clusters) == OBJECTS and len({cluster for cluster, _ in clusters}) >= 0.9 * OBJECTS


def test_series_are_told_by_the_time_when_they_were_taken(tmp_path):
    looked = series("{label}{any:05}.jpg", folder=tmp_path)
    for index, sample in enumerate(looked.data.samples):
        number, view = divmod(index, VIEWS)
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9003] = f"2024:05:01 10:{number:02}:{4 * view:02}"
        Image.new("RGB", (8, 8)).save(sample.path, exif=exif)
    (finding,) = check_series(looked, 0)
    assert told_right(finding, looked, "times")
    assert finding.severity == "serious"


def test_series_are_told_by_what_follows_each_other_in_the_order_of_names():
    looked = series("{label}/word{shot:05}.jpg")
    (finding,) = check_series(looked, 0)
    assert told_right(finding, looked, "looks")
    assert [*check_series(series("{label}/word{any:05}.jpg"), 0)] == []


@pytest.mark.parametrize("kind", ["names", "looks"])
def test_series_in_several_splits_of_the_user_are_serious_and_whole_ones_a_note(kind):
    naming = {"names": "{label}/obj{number:03}_{view}.jpg", "looks": "{label}/word{shot:05}.jpg"}[kind]
    (finding,) = check_series(series(naming, apart=100.0, split=lambda number, view: "val" if view > 3 else "train"), 0)
    assert finding.severity == "serious"
    pictures = int(re.search(r"\((\d+) pictures of val in train\)", finding.title)[1])
    assert pictures == len(finding.suspects) == 80 if kind == "names" else 76 <= pictures <= 80
    (finding,) = check_series(series(naming, split=lambda number, view: "val" if number > 30 else "train"), 0)
    assert finding.severity == "note"
    # Numbers that begin anew in each split are not the same objects.
    looked = series("{label}/obj{number:03}_{view}.jpg", split=lambda number, view: "val" if number > 19 else "train")
    names = [re.sub(r"(\d\d\d)", lambda n: f"{int(n[1]) % 20:03}", one.name) for one in looked.data.samples]
    samples = [one._replace(name=f"{one.split}/{name}") for one, name in zip(looked.data.samples, names, strict=True)]
    assert [each.severity for each in check_series(replace(looked, data=replace(looked.data, samples=samples)), 0)] == [
        "note"
    ]


def test_groups_of_the_user_are_trusted():
    looked = series("{label}/obj{number:03}_{view}.jpg")
    samples = tuple(sample._replace(group=sample.name) for sample in looked.data.samples)
    assert [*check_series(replace(looked, data=replace(looked.data, samples=samples)), 0)] == []
