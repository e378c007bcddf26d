"""The plots of a run: readable at any number of classes, whatever the labels say, and the same bytes each time."""

from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from conftest import BLUE, RED, save_picture
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from visiontool.evaluation.metrics import Metrics, measure
from visiontool.training.head import Head, PathPoint, Solution
from visiontool.training.report import draw_confused, draw_confusion, draw_curves

HOSTILE = ["$x^2$", "$\\frac{", "a\nb\x1b[31m", "W" * 300, "قطة", "猫の写真", "\ud800", "\u202eabc", "_a", "", "😀"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were written, in order."""
    figures: list[Figure] = []
    savefig = Figure.savefig

    def keep(figure: Figure, *arguments: object, **options: object) -> None:
        savefig(figure, *arguments, **options)
        figures.append(figure)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def texts(figure: Figure) -> list[str]:
    """What can be read on it."""
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


def cut_off(figure: Figure) -> list[str]:
    """Texts that stick out of the picture by more than a pixel."""
    page = figure.bbox.padded(1)
    boxes = {text.get_text(): text.get_window_extent() for text in figure.findobj(Text) if text.get_text()}
    return [text for text, box in boxes.items() if not (page.contains(*box.min) and page.contains(*box.max))]


def solved(path: tuple[PathPoint, ...], chosen: int) -> Solution:
    head = Head(weight=np.zeros((2, 3), np.float32), bias=np.zeros(2, np.float32), temperature=1.0)
    return Solution(head, "logistic", "none", True, path, chosen, ())


def three_a_class(classes: int) -> Metrics:
    """Of three pictures a class all are right, but one of class 0 that is taken for class 1."""
    truth = np.repeat(np.arange(classes), 3)
    predicted = truth.copy()
    predicted[0] = 1
    probabilities = np.full((len(truth), classes), 0.1 / classes)
    probabilities[np.arange(len(truth)), predicted] += 0.9
    return measure(probabilities, truth, [f"class {class_id}" for class_id in range(classes)])


def test_curves_show_the_path_and_what_was_chosen(tmp_path: Path, drawn: list[Figure]) -> None:
    path = (PathPoint(0.01, 0.7, 0.1, 0.5), PathPoint(1.0, 0.25, 0.05, 0.875), PathPoint(100.0, 0.5, 0.1, 0.75))
    draw_curves(tmp_path / "curves.png", solved(path, chosen=1))
    figure = drawn[0]
    assert "Held-out pictures: NLL 0.250, accuracy 0.875 as chosen" in texts(figure)
    assert "chosen: 1" in texts(figure)
    upper, lower = figure.axes
    assert lower.get_xscale() == "log"
    assert upper.lines[0].get_xydata().tolist() == [[0.01, 0.7], [1.0, 0.25], [100.0, 0.5]]
    assert lower.lines[0].get_xydata().tolist() == [[0.01, 0.5], [1.0, 0.875], [100.0, 0.75]]
    assert cut_off(figure) == []


def test_confusion_counts_and_names_few_classes(tmp_path: Path, drawn: list[Figure]) -> None:
    draw_confusion(tmp_path / "confusion.png", three_a_class(2), ["ants", "bees"])
    shown = texts(drawn[0])
    assert [text for text in shown if text in {"1", "2", "3"}] == ["2", "1", "3"]  # row by row; none where 0
    assert {"ants", "bees", "true", "predicted"} <= set(shown)
    assert any(text.startswith("6 pictures\naccuracy 0.833 (95 % interval 0.") for text in shown)
    matrix = drawn[0].axes[0].images[0].get_array()
    np.testing.assert_allclose(matrix, [[2 / 3, 1 / 3], [0, 1]])
    with matplotlib.rc_context({"font.size": 30, "text.usetex": True, "figure.facecolor": "black"}):
        draw_confusion(tmp_path / "again.png", three_a_class(2), ["ants", "bees"])  # whatever the user's settings
    assert (tmp_path / "confusion.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    metrics = measure(np.array([[0.9, 0.05, 0.05], [0.1, 0.2, 0.7]]), np.array([0, 2]), ["a", "b", "c"])
    draw_confusion(tmp_path / "confusion.png", metrics, ["a", "b", "c"])  # a class without pictures is a blank row
    assert drawn[2].axes[0].images[0].get_array().mask.tolist() == [[False] * 3, [True] * 3, [False] * 3]


@pytest.mark.parametrize("classes", [20, 1000])
def test_confusion_keeps_everything_on_the_page(tmp_path: Path, drawn: list[Figure], classes: int) -> None:
    labels = [f"{class_id} {HOSTILE[class_id % len(HOSTILE)]}" for class_id in range(classes)]
    draw_confusion(tmp_path / "confusion.png", three_a_class(classes), labels)
    assert cut_off(drawn[0]) == []
    named = [tick.get_window_extent() for tick in drawn[0].axes[0].get_yticklabels() if tick.get_text()]
    assert len(named) == classes if classes <= 100 else len(named) > 3
    assert not any(one.overlaps(other) for one, other in pairwise(named))
    shown = " ".join(texts(drawn[0]))
    if classes == 20:
        assert all(text in shown for text in ("0 $x^2$", "2 a\\nb\\x1b[31m", "6 \\ud800", "7 \\u202eabc", "WW…WW"))
    if classes > 100:
        assert "Most frequent confusions (with class ids):\n1 of 3: 0 0 $x^2$ as 1 1 $\\frac{" in shown
    with Image.open(tmp_path / "confusion.png") as picture:
        assert max(picture.size) <= 2000
        # At least one pixel a class, or a class could vanish.
        assert drawn[0].axes[0].get_window_extent().height >= classes


def test_confused_shows_the_readable_ones_with_both_labels(tmp_path: Path, drawn: list[Figure]) -> None:
    red, blue = save_picture(tmp_path / "r.png", RED, (30, 10)), save_picture(tmp_path / "b.png", BLUE, (3, 500))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    pictures = [
        (str(red), "red", "blue", 0.875),
        (str(tmp_path / "broken.png"), "broken", "red", 0.5),
        (str(tmp_path / "gone.png"), "gone", "red", 0.5),
        (str(blue), "blue", "$gr\neen$", 0.5),
    ]
    draw_confused(tmp_path / "confused.png", pictures)
    assert texts(drawn[0]) == [
        "The most confused pictures",
        "true: red\npredicted: blue\nprobability 0.88",
        "true: blue\npredicted: $gr\\neen$\nprobability 0.50",
    ]
    with Image.open(tmp_path / "confused.png") as sheet:
        assert [sheet.getpixel((column * 260 + 130, 136))[:3] for column in (0, 1)] == [RED, BLUE]
    draw_confused(tmp_path / "confused.png", [(str(red), "W" * 99, "W" * 99, 0.5)] * 30)
    assert len(texts(drawn[1])) == 1 + 24
    assert cut_off(drawn[0]) == cut_off(drawn[1]) == []
    draw_confused(tmp_path / "confused.png", [(str(tmp_path / "gone.png"), "a", "b", 0.5)])
    assert texts(drawn[2]) == ["No confused pictures."]
