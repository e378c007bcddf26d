"""A model file works where there is no visiontool: with other readers of its metadata, in OpenCV, in a browser."""

import ast
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import COLOR_SPEC, ROOT, color_graph, save_model
from kinds_of_model import Kind, picky_graph, save_kinds, save_noise, spec_of
from onnx import helper
from PIL import Image

from visiontool import Classifier
from visiontool.export.precision import to_fp16, to_int8
from visiontool.export.snippet import snippet
from visiontool.images.decode import open_image
from visiontool.images.transforms import fit_to_spec

PAGE_TEXT = (ROOT / "docs" / "elsewhere.md").read_text(encoding="utf-8")
WEB = ROOT / "examples" / "web"
MODELS = {name: ROOT / "weights" / name / "model.onnx" for name in ("lenet5", "resnet18_tiny200")}
SAMPLES = {
    "lenet5": [ROOT / "samples" / "digits" / f"{digit}.png" for digit in (0, 3, 7)],
    "resnet18_tiny200": [ROOT / "samples" / f"{name}.jpg" for name in ("orange", "teapot", "school_bus", "lighthouse")],
}


@pytest.mark.parametrize("name", MODELS)
def test_readers_of_names_see_the_labels(name):
    """As Ultralytics reads its own files: Python literals, through onnxruntime alone."""
    metadata = onnxruntime.InferenceSession(MODELS[name]).get_modelmeta().custom_metadata_map
    spec = Classifier.load(MODELS[name], device="cpu").spec
    assert [ast.literal_eval(metadata["names"])[index] for index in range(len(spec.labels))] == list(spec.labels)
    assert tuple(ast.literal_eval(metadata["imgsz"])) == spec.input.size
    assert metadata["task"] == "classify"


def commands_of_page(word):
    """The lines of the page's shell block in which `word` stands."""
    found = re.findall(r"^```sh\n(.*?)^```", PAGE_TEXT, re.DOTALL | re.MULTILINE)
    (block,) = [block for block in found if word in block]
    return block


def run_as_written(lines, folder):
    """Runs lines of the page in a folder like a clone that was set up."""
    (folder / "bin").mkdir()
    (folder / ".venv" / "bin").mkdir(parents=True)
    for path, arguments in ((folder / "bin" / "visiontool", "-m visiontool"), (folder / ".venv/bin/python", "")):
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        path.chmod(0o755)
    for part in ("samples", "weights", "examples"):
        (folder / part).symlink_to(ROOT / part)
    environment = {**os.environ, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_ten_lines_of_the_page_run_as_written(tmp_path):
    assert run_as_written(commands_of_page("ten_lines.py"), tmp_path).splitlines()[0].endswith("  3")


def test_the_page_shows_the_ten_lines_that_are_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(MODELS["resnet18_tiny200"], "model.onnx")
    (lines,) = re.findall(r"<!-- ten lines -->\n```python\n(.*?)\n```", PAGE_TEXT, re.DOTALL)
    assert snippet(Classifier.load("model.onnx", device="cpu").spec, Path("model.onnx")) == lines


@pytest.fixture
def bitmaps(tmp_path):
    """A copy of each sample without the loss of JPEG, by model: how big JPEGs are decoded is visiontool's own."""
    copies = {name: [tmp_path / f"{path.stem}.png" for path in paths] for name, paths in SAMPLES.items()}
    for name, paths in SAMPLES.items():
        for path, copy in zip(paths, copies[name], strict=True):
            Image.open(path).save(copy)
    return copies


def best(name, pictures):
    """The label and probability that visiontool gives each picture."""
    results = Classifier.load(MODELS[name], device="cpu").predict(pictures)
    return [(result.predictions[0].label, result.predictions[0].probability) for result in results]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_opencv_example_answers_as_predict_does(name, bitmaps):
    pytest.importorskip("cv2")
    command = [sys.executable, ROOT / "examples" / "opencv.py", MODELS[name], *bitmaps[name]]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    lines = [line.split("  ") for line in ran.stdout.splitlines()]
    assert [line[2] for line in lines] == [str(path) for path in bitmaps[name]]
    for (number, label, _), (expected, probability) in zip(lines, best(name, bitmaps[name]), strict=True):
        assert label == expected
        assert float(number) == pytest.approx(probability, abs=1e-3)


@pytest.mark.slow
def test_the_opencv_example_runs_as_written(tmp_path):
    pytest.importorskip("cv2")
    install, command = commands_of_page("opencv.py").splitlines()
    assert install.endswith(" install opencv-python-headless")
    assert [line.split()[1] for line in run_as_written(command, tmp_path).splitlines()] == ["orange", "teapot"]


@pytest.mark.slow
def test_the_opencv_example_gets_squeeze_and_excitation_right(tmp_path):
    """As MobileNetV3 has it: OpenCV itself gives HardSwish of the means instead."""
    pytest.importorskip("cv2")
    graph = color_graph()
    axes, nodes = graph.graph.initializer[1].name, graph.graph.node
    del nodes[2:]
    nodes.extend(
        [
            helper.make_node("ReduceMean", ["scaled", axes], ["squeezed"], keepdims=1),
            helper.make_node("HardSigmoid", ["squeezed"], ["gate"], alpha=1 / 6, beta=0.5),
            helper.make_node("Mul", ["scaled", "gate"], ["excited"]),
            helper.make_node("Transpose", ["excited"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("GlobalMaxPool", ["planes"], ["highest"]),
            helper.make_node("Flatten", ["highest"], ["logits"]),
        ]
    )
    del graph.graph.output[1]
    spec = replace(COLOR_SPEC, embedding=None, temperature=0.01)
    model = save_model(graph, tmp_path / "squeeze.onnx", spec.to_metadata())
    picture = tmp_path / "picture.png"
    pixels = np.full((8, 8, 3), (0, 133, 0), np.uint8)
    pixels[::2, :, 0] = 255  # logits: red 1 * 0.58, green 0.52 * 0.59; of the means it would be 0.5 * 0.58
    Image.fromarray(pixels).save(picture)
    ran = subprocess.run(
        [sys.executable, ROOT / "examples" / "opencv.py", model, picture], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    (result,) = Classifier.load(model, device="cpu").predict([picture])
    number, label, _ = ran.stdout.strip().split("  ")
    assert label == result.predictions[0].label == "red"
    assert float(number) == pytest.approx(result.predictions[0].probability, abs=1e-3)


@pytest.mark.slow
def test_the_opencv_example_says_what_it_does_not_do(tmp_path):
    pytest.importorskip("cv2")
    kinds = {kind.name: kind.path for kind in save_kinds(tmp_path)}
    for name, reason in (("resize inside", "resizes pictures itself"), ("oblong border", "no border crop to 12x5")):
        command = [sys.executable, ROOT / "examples" / "opencv.py", kinds[name], ROOT / "samples" / "orange.jpg"]
        ran = subprocess.run(command, capture_output=True, text=True)
        assert ran.returncode == 1
        assert reason in ran.stderr


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


def save_reduced(folder):
    """The built-in model in fp16 and int8."""
    spec = Classifier.load(MODELS["resnet18_tiny200"], device="cpu").spec
    model = onnx.load(MODELS["resnet18_tiny200"])
    pixels = [fit_to_spec(open_image(path).image, spec)[None] for path in SAMPLES["resnet18_tiny200"]]
    save_model(to_fp16(model, spec), folder / "fp16.onnx", replace(spec, precision="fp16").to_metadata())
    save_model(to_int8(model, spec, pixels).model, folder / "int8.onnx", replace(spec, precision="int8").to_metadata())


class Site(NamedTuple):
    """The example page on a server, beside models and pictures."""

    address: str
    folder: Path
    kinds: list[Kind]
    noise: list[Path]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if not (WEB / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("no onnxruntime-web: run npm install in examples/web")
    folder = tmp_path_factory.mktemp("site")
    for file in (*WEB.glob("*.html"), *WEB.glob("*.js")):
        shutil.copy(file, folder)
    (folder / "node_modules").symlink_to(WEB / "node_modules")
    for name, path in MODELS.items():
        shutil.copy(path, folder / f"{name}.onnx")
    save_reduced(folder)
    kinds, noise = save_kinds(folder), save_noise(folder)
    save_model(picky_graph(spec_of("center")), folder / "no manifest.onnx")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Site(f"http://127.0.0.1:{server.server_port}", folder, kinds, noise)
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser(site, tmp_path_factory):
    """Chromium without a window, and without calls home."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium or no chromedriver on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"):
        options.add_argument(f"--{flag}")
    for flag in ("disable-background-networking", "disable-component-update"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as opened:
        yield opened


def text(browser, element):
    return browser.find_element("id", element).text


def wait(browser, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 30, 0.02).until(lambda _: condition())


def answers_of_page(browser, address, model, pictures):
    """What the page shows for each picture: (label, probability), best first."""
    browser.get(f"{address}/index.html?model={model}.onnx")
    chooser = browser.find_element("id", "picture")
    wait(browser, chooser.is_enabled)
    for picture in pictures:
        chooser.send_keys(str(picture))
        wait(browser, lambda: text(browser, "status").endswith(" ms") and chooser.is_enabled())
        rows = [row.find_elements("tag name", "td") for row in browser.find_elements("tag name", "tr")]
        yield [(label.text, float(percent.text.removesuffix(" %")) / 100) for label, percent, _ in rows]
        browser.execute_script("document.getElementById('status').textContent = ''")


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_page_shows_what_predict_says(site, browser, bitmaps, name):
    pictures = bitmaps[name]
    results = Classifier.load(MODELS[name], device="cpu").predict(pictures)
    for shown, result in zip(answers_of_page(browser, site.address, name, pictures), results, strict=True):
        expected = [(item.label, item.probability) for item in result.predictions]
        assert [label for label, _ in shown] == [label for label, _ in expected], result.path
        assert [number for _, number in shown] == pytest.approx([number for _, number in expected], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "nearly"), [("fp16", 2e-3), ("int8", 2e-2)])
def test_the_page_runs_reduced_precision(site, browser, bitmaps, precision, nearly):
    pictures = bitmaps["resnet18_tiny200"]
    results = Classifier.load(site.folder / f"{precision}.onnx", device="cpu").predict(pictures, top_k=1)
    for row, result in zip(answers_of_page(browser, site.address, precision, pictures), results, strict=True):
        (expected,) = result.predictions
        assert row[0][0] == expected.label
        assert row[0][1] == pytest.approx(expected.probability, abs=nearly)


@pytest.mark.slow
def test_the_page_reads_jpegs(site, browser):
    """Within what decoding at a part of the size changes, which visiontool does and a browser does not."""
    name = "resnet18_tiny200"
    shown = answers_of_page(browser, site.address, name, SAMPLES[name])
    for row, (label, probability) in zip(shown, best(name, SAMPLES[name]), strict=True):
        assert row[0][0] == label
        assert row[0][1] == pytest.approx(probability, abs=0.02)


_CLASSIFY_ALL = """
const [models, pictures, done] = arguments;
async function answers() {
  const { classify, load } = await import("/classify.js");
  const files = await Promise.all(pictures.map(async (name) => (await fetch(name)).blob()));
  const found = {};
  for (const name of models) {
    const model = await load(`${name}.onnx`);
    found[name] = [];
    for (const file of files) found[name].push(await classify(model, file, 9));
  }
  return found;
}
answers().then(done, (error) => done(String(error)));
"""


@pytest.mark.slow
def test_the_page_follows_every_kind_of_manifest(site, browser):
    kinds = [kind for kind in site.kinds if kind.spec.input.dtype != "float16"]
    browser.get(f"{site.address}/index.html")
    names, pictures = [kind.name for kind in kinds], [path.name for path in site.noise]
    found = browser.execute_async_script(_CLASSIFY_ALL, names, pictures)
    assert isinstance(found, dict), found
    for name, _, path in kinds:
        # As pictures and not as paths, so that no JPEG is decoded at a part of its size.
        results = Classifier.load(path, device="cpu").predict([Image.open(file) for file in site.noise], top_k=9)
        for picture, result, answer in zip(pictures, results, found[name], strict=True):
            assert [item["label"] for item in answer] == [item.label for item in result.predictions], (name, picture)
            numbers = [item["probability"] for item in answer]
            expected = [item.probability for item in result.predictions]
            assert numbers == pytest.approx(expected, abs=1e-4), (name, picture)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "picture", "reason"),
    [
        ("no manifest", None, "no manifest.onnx has no manifest: visiontool export writes one"),
        ("missing", None, "missing.onnx: 404"),
        ("half", "wide.png", "this page does not run graphs that take float16"),
        ("center", "no manifest.onnx", "The source image could not be decoded."),
    ],
)
def test_the_page_says_what_went_wrong(site, browser, model, picture, reason):
    browser.get(f"{site.address}/index.html?model={model}.onnx")
    if picture is not None:
        chooser = browser.find_element("id", "picture")
        wait(browser, chooser.is_enabled)
        chooser.send_keys(str(site.folder / picture))
    wait(browser, lambda: text(browser, "status").startswith("Error"))
    assert text(browser, "status").startswith(f"Error: {reason}")
