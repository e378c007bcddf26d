"""A result as a row, and as a notebook shows it."""

import base64
import csv
import json
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import BLUE, RED, save_picture
from PIL import Image

from visiontool import Classifier, Prediction, Result

HOSTILE = Result(
    "<b>/\udcff.png", "a & b", (Prediction('<script src="x">', 0, 0.75), Prediction("b", 1, 0.25)), notes=("<i>",)
)


@pytest.fixture
def classifier(color_model):
    return Classifier(color_model)


def parts(result):
    """What a notebook shows: pictures, texts, and the widths of bars. It is well-formed."""
    tree = ElementTree.fromstring(result._repr_html_())
    sources = [element.get("src") for element in tree.iter("img")]
    pictures = [Image.open(BytesIO(base64.b64decode(source.split("base64,")[1]))) for source in sources]
    styles = [element.get("style", "") for element in tree.iter()]
    return pictures, list(tree.itertext()), [style.split("width:")[1] for style in styles if ";width:" in style]


def cell(value):
    """As the command writes it to CSV."""
    return "" if value is None or value is False else f"{value:.6f}" if isinstance(value, float) else str(value)


def test_a_result_gives_the_rows_of_the_command(run, classifier, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_picture(tmp_path / "a.png", RED)
    for name in ("a.png", "gone.png"):
        command = ("predict", name, "-m", classifier.path)
        result = classifier.predict(name)
        assert result.to_dict() == json.loads(run(*command).out)
        (row,) = csv.DictReader(run(*command, "--format", "csv").out.splitlines())
        texts = {key: cell(value) for key, value in result.to_row().items()}
        assert texts == {key: row[key] for key in texts}
    assert classifier.predict((tmp_path / "a.png").read_bytes()).to_dict()["path"] is None


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (Result("a.png", "m", (Prediction("cat", 3, 0.913),)), "<Result a.png: cat (91.3%)>"),
        (Result(None, "m", (Prediction("a\nb", 3, 0.5),), unknown=True), r"<Result: unknown, at best 'a\nb' (50.0%)>"),
        (Result("a.png", "m", error="no such file"), "<Result a.png: error: no such file>"),
    ],
    ids=["ok", "unknown", "error"],
)
def test_a_result_says_its_answer_in_a_line(result, text):
    assert repr(result) == text


def test_a_notebook_shows_a_small_picture_and_a_bar_for_each_class(classifier, tmp_path):
    path = save_picture(tmp_path / "a.png", BLUE, (3000, 1500))
    pictures, texts, widths = parts(classifier.predict(path))
    assert [picture.size for picture in pictures] == [(160, 80)]
    assert np.allclose(np.asarray(pictures[0]), BLUE, atol=4)
    assert texts[texts.index("blue") + 1] == widths[0] == "57.6%"  # e / (e + 2)
    assert len(widths) == 3
    result = classifier.predict([path])[0]
    path.unlink()
    assert parts(result)[0] == []
    assert parts(result)[1:] == (texts, widths)


def test_one_picture_that_is_an_object_keeps_a_small_thumbnail_and_no_other_result_does(classifier):
    array = np.full((500, 900, 3), RED, np.uint8)
    one = classifier.predict(array)
    ((picture,), _, _) = parts(one)
    assert picture.size == (160, 160)  # what the network sees, 8 x 8 pixels
    assert np.allclose(np.asarray(picture), RED, atol=4)
    assert len(one.thumbnail) < 2000
    others = [*classifier.predict([array]), *classifier.predict_stream([array])]
    assert [(other.thumbnail, parts(other)[0]) for other in others] == [(None, [])] * 2
    assert others == [one, one]


def test_what_a_file_or_a_model_says_is_no_html_and_a_reason_is_shown():
    _, texts, _ = parts(HOSTILE)
    assert {'<script src="x">', "<b>/\ufffd.png", "a & b", "<i>"} <= set(texts)
    HOSTILE._repr_html_().encode()
    assert "Error: no such file" in parts(Result("x.png", "m", error="no such file"))[1]
