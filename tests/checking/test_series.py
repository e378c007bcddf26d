"""Series are told by names only where their pictures are alike, with the group that finetune takes."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from visiontool.checking.finding import Looked
from visiontool.checking.series import check_series
from visiontool.data.samples import Dataset, Sample
from visiontool.images.fingerprint import Fingerprint

OBJECTS, VIEWS, WIDTH = 40, 6, 16


def series(naming: str, *, apart: float = 1.0) -> Looked:
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
        samples.append(Sample(name, name, number % 2, None, None))
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
        assert check_series(series(naming), 0) == []


def test_groups_of_the_user_are_trusted():
    looked = series("{label}/obj{number:03}_{view}.jpg")
    samples = tuple(sample._replace(group=sample.name) for sample in looked.data.samples)
    assert check_series(replace(looked, data=replace(looked.data, samples=samples)), 0) == []
