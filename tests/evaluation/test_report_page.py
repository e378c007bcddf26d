"""The page: what it says, that labels and paths stay text, and that it works in a browser."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from conftest import BLUE, COLOR_SPEC, RED, save_picture

from visiontool.data.samples import Sample
from visiontool.evaluation import report
from visiontool.evaluation.evaluate import Evaluation, groups_of
from visiontool.evaluation.metrics import measure
from visiontool.inference.classifier import Classifier

HOSTILE = ("</script><script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "\ud800\u202eb{{ 1 + 1 }}")
FACTS = {"seed": "0", "visiontool": "<i>0.1</i>"}


def evaluation_of(folder, class_ids, probabilities, labels=COLOR_SPEC.labels, name="colors"):
    """An evaluation of pictures 0.png, 1.png ... in `folder`, of which the first two are there."""
    folder.mkdir(exist_ok=True)
    save_picture(folder / "0.png", RED)
    save_picture(folder / "1.png", BLUE)
    class_ids, probabilities = np.array(class_ids), np.array(probabilities, np.float32)
    samples = tuple(
        Sample(str(folder / f"{i}.png"), f"a<b>/{i}.png", int(c), None, None) for i, c in enumerate(class_ids)
    )
    metrics = measure(probabilities, class_ids, labels, groups_of(samples))
    spec = replace(COLOR_SPEC, labels=tuple(labels), name=name)
    return Evaluation(
        spec, folder / "m.onnx", "test of x", samples, class_ids, probabilities, metrics, {"y.png": "cut"}
    )


def three_classes(folder, **changes):
    """Four pictures, two of them wrong: 0 is blue and taken for red, 1 is blue and taken for green."""
    probabilities = [(0.7, 0.2, 0.1), (0.1, 0.5, 0.4), (0.8, 0.1, 0.1), (0.2, 0.6, 0.2)]
    return evaluation_of(folder, [2, 2, 0, 1], probabilities, **changes)


def many_classes(folder, classes=40):
    """Each class is right twice and is once taken for the next one; class 7 is never right."""
    class_ids = np.repeat(np.arange(classes), 3)
    answers = class_ids + ((np.arange(3 * classes) % 3 == 0) | (class_ids == 7))
    probabilities = np.full((3 * classes, classes), 0.5 / classes)
    probabilities[np.arange(3 * classes), answers % classes] += 0.5
    return evaluation_of(folder, class_ids, probabilities, labels=[f"class {number}" for number in range(classes)])


def page_of(tmp_path, *evaluations, **more):
    file = tmp_path / "page.html"
    report.write(file, evaluations, **{"title": "On <x>", "facts": FACTS, "models": [None] * len(evaluations), **more})
    return file.read_text(encoding="utf-8")


def text_of(page):
    """What can be read, without the style and the scripts."""
    shown = re.sub(r"<(style|script).*?</\1>", "", page[page.index("<body>") :], flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", shown)).split())


def test_it_says_what_was_measured(tmp_path, color_model):
    one = three_classes(tmp_path / "data")
    curve = {"A curve": report.Curve(("strength", "loss"), [(0.1, 0.2, 0.1), (10, 0.5, 0)], 1.0)}
    page = page_of(
        tmp_path, one, models=[Classifier(color_model)], curves=curve, data={"Split": "val 4"}, notes=["A note."]
    )
    text = text_of(page)
    for said in (
        "On <x>",
        "4 pictures, test of x , answered by colors",
        "Accuracy 50.0% 15.0 to 85.0%",
        "blue 2 0.0% – 0.0% red 1×",
        "True class red green blue red 1 0 0 green 0 1 0 blue 1 1 0",
        "The most frequent confusions: True class Answer Pictures blue red 1 of 2 blue green 1 of 2",
        "All 2 wrong answers",
        "red 70.0% green 20.0% blue true 10.0% loss 2.30 · a<b>/0.png",
        "green 50.0% blue true 40.0% loss 0.92 · a<b>/1.png",
        "A note.",
        "0.1 1 10 0.100 0.200 0.300 0.400 0.500 strength loss A curve",
        "3 of the model's 3 have pictures here",
        "1 to 2, median 1",
        "Unreadable 1 picture: y.png",
        "Split val 4",
        "visiontool <i>0.1</i>",
    ):
        assert said in text, said
    assert "Top 5" not in text  # of three classes
    sources = re.findall(r'src="data:image/(\w+);', page)
    assert sources == ["jpeg", "png", "jpeg"]  # nothing in a blue picture speaks for green
    # From left to right by the logarithm, 300 wide and high; the chosen one is in the middle.
    assert '<path class="guide" d="M150.0 300L150.0 0"/>' in page
    assert '<polyline points="0.0,225.0 300.0,0.0 "/>' in page
    assert '<path class="whisker" d="M0.0 300.0V150.0"/>' in page
    assert not re.findall(r"https?:|//\w", re.sub(r"base64,[\w+/=]+", "", page))


def test_a_picture_that_is_gone_and_no_errors_at_all(tmp_path):
    gone = three_classes(tmp_path / "data")
    (tmp_path / "data" / "0.png").unlink()
    assert "cannot be opened any more red 70.0%" in text_of(page_of(tmp_path, gone))
    text = text_of(page_of(tmp_path, evaluation_of(tmp_path / "data", [0, 1], [(0.9, 0.1, 0), (0.1, 0.9, 0)])))
    assert "All pictures are answered right." in text
    assert "Without a picture 1 class: blue" in text


def test_several_models_have_a_row_and_a_part_each(tmp_path):
    models = [
        replace(three_classes(tmp_path / "data", name=name), latency_ms=1.25, size_bytes=2_500_000)
        for name in ("one", "two")
    ]
    page = page_of(tmp_path, *models)
    assert "Calibration error ms MB one 50.0% 15.0 to 85.0%" in text_of(page)
    assert " 1.2 2.5 two 50.0%" in text_of(page)
    assert re.findall(r"<h([1-6])", page) == [*"12", *"23333" * 2, *"22"]
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert {*re.findall(r'href="#([^"]+)"', page)} <= {*ids}


def test_labels_and_paths_stay_text(tmp_path):
    page = page_of(tmp_path, three_classes(tmp_path / "data", labels=HOSTILE, name=HOSTILE[0]), notes=HOSTILE[:2])
    assert page.count("<script") == page.count("</script") == 1
    assert "<img src=x" not in page
    assert "?\u202eb{{ 1 + 1 }}" in text_of(page)


def outcome_of(page, tmp_path, script, allowed=True):
    """What a script gives that runs at the end of the page, and what the browser complains about."""
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("no chromium on the PATH")
    script = f"document.documentElement.dataset.outcome = JSON.stringify((() => {{ {script} }})());"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    if allowed:
        page = page.replace("script-src '", f"script-src 'sha256-{digest}' '")
    (tmp_path / "tried.html").write_text(page.replace("</body>", f"<script>{script}</script></body>"), "utf-8")
    flags = "headless no-sandbox disable-gpu no-first-run disable-background-networking enable-logging=stderr v=0"
    command = [chromium, *(f"--{flag}" for flag in flags.split()), f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--dump-dom", (tmp_path / "tried.html").as_uri()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    outcome = re.search(r'data-outcome="([^"]*)"', ran.stdout)
    return outcome and json.loads(html.unescape(outcome[1])), [
        line for line in ran.stderr.splitlines() if "CONSOLE" in line
    ]


@pytest.mark.slow
def test_a_browser_sorts_and_filters(tmp_path):
    page = page_of(tmp_path, many_classes(tmp_path / "data"))
    outcome, complaints = outcome_of(
        page,
        tmp_path,
        """
        const table = document.querySelector(".sortable"), heads = [...table.tHead.rows[0].cells];
        const first = () => [...table.tBodies[0].rows].slice(0, 3).map((row) => row.cells[0].textContent);
        const sort = (column) => { heads[column].firstElementChild.click(); return first(); };
        const byName = sort(0), backwards = sort(0), sorted = heads.map((head) => head.ariaSort);
        const byF1 = sort(4);
        const input = document.querySelector("input[type=search]");
        const type = (text) => { input.value = text; input.dispatchEvent(new Event("input")); };
        const shown = () => [...table.tBodies[0].rows].filter((row) => !row.hidden).length;
        type(" CLASS 39 ");
        const one = shown();
        type("class 1");
        const some = [shown(), document.querySelector(".filter output").value];
        document.querySelector("a[href='#class-0-20']").click();
        const canvas = document.querySelector("canvas"), said = [];
        for (const [key, shiftKey] of [["ArrowRight", false], ["ArrowDown", true], ["ArrowUp", false]]) {
          canvas.dispatchEvent(new KeyboardEvent("keydown", { key, shiftKey }));
          said.push(document.querySelector(".canvas output").value.replace(/[\\u2068\\u2069]/g, ""));
        }
        const drawn = canvas.getContext("2d").getImageData(0, 0, canvas.width, 1).data.some((value) => value > 0);
        return { byName, backwards, sorted, byF1, one, some, after: shown(), said, drawn };
        """,
    )
    assert complaints == []
    assert outcome["byName"] == ["class 0", "class 1", "class 2"]
    assert outcome["backwards"] == ["class 39", "class 38", "class 37"]
    assert outcome["sorted"] == ["descending", *[None] * 5]
    assert outcome["byF1"][0] == "class 7"
    assert (outcome["one"], outcome["some"], outcome["after"]) == (1, [11, "11 of 40 classes"], 40)
    assert outcome["said"] == [
        "True class class 0, answer class 1: 1 of 3 pictures (33.3%)",
        "True class class 10, answer class 1: 0 of 3 pictures (0.0%)",
        "True class class 9, answer class 1: 0 of 3 pictures (0.0%)",
    ]
    assert outcome["drawn"]


@pytest.mark.slow
def test_a_browser_runs_nothing_else_and_loads_nothing(tmp_path):
    page = page_of(tmp_path, three_classes(tmp_path / "data", labels=HOSTILE))
    script = "return [document.images.length, [...document.images].every((image) => image.complete), document.title];"
    assert outcome_of(page, tmp_path, script) == ([2, True, "On <x>"], [])
    outcome, complaints = outcome_of(page, tmp_path, script, allowed=False)
    assert outcome is None
    assert "Content Security Policy" in complaints[0]
