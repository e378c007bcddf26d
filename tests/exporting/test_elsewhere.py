"""A model file works where there is no visiontool: with other readers of its metadata, in OpenCV, in a browser."""

import ast
import http.server
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import COLOR_SPEC, ROOT, save_model
from kinds_of_model import parsed, picky_graph, save_kinds, save_noise, spec_of
from PIL import Image

from visiontool import Classifier
from visiontool.exporting.precision import to_fp16, to_int8
from visiontool.exporting.snippet import snippet
from visiontool.hub.resolve import DEFAULT_MODEL, resolve
from visiontool.images.decode import open_image
from visiontool.images.transforms import fit_to_spec

PAGE_TEXT = (ROOT / "docs" / "elsewhere.md").read_text(encoding="utf-8")
WEB = ROOT / "examples" / "web"
MODELS = ("lenet5", DEFAULT_MODEL)
SAMPLES = {
    "lenet5": [ROOT / "samples" / "digits" / f"{digit}.png" for digit in (0, 3, 7)],
    DEFAULT_MODEL: [ROOT / "samples" / f"{name}.jpg" for name in ("orange", "teapot", "school_bus", "lighthouse")],
}


def test_readers_of_names_see_the_labels():
    """As Ultralytics reads its own files: Python literals, through onnxruntime alone."""
    metadata = onnxruntime.InferenceSession(resolve(DEFAULT_MODEL)).get_modelmeta().custom_metadata_map
    spec = Classifier.load(DEFAULT_MODEL, device="cpu").spec
    assert [ast.literal_eval(metadata["names"])[index] for index in range(len(spec.labels))] == list(spec.labels)
    assert tuple(ast.literal_eval(metadata["imgsz"])) == spec.input.size
    assert metadata["task"] == "classify"


def test_the_page_shows_the_ten_lines_that_are_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(resolve(DEFAULT_MODEL), "model.onnx")
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


def opencv(model, *pictures):
    """What the OpenCV example does with the pictures."""
    pytest.importorskip("cv2")
    command = [sys.executable, ROOT / "examples" / "opencv.py", model, *pictures]
    return subprocess.run(command, capture_output=True, text=True)


def check_opencv(model, pictures):
    """The OpenCV example answers as `predict` does; gives the labels."""
    ran = opencv(model, *pictures)
    assert ran.returncode == 0, ran.stderr
    lines = [line.split("  ") for line in ran.stdout.splitlines()]
    assert [line[2] for line in lines] == [str(path) for path in pictures]
    results = Classifier.load(model, device="cpu").predict(pictures, top_k=1)
    for (number, label, _), result in zip(lines, results, strict=True):
        assert label == result.predictions[0].label
        assert float(number) == pytest.approx(result.predictions[0].probability, abs=1e-3)
    return [line[1] for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_opencv_example_answers_as_predict_does(name, bitmaps):
    check_opencv(resolve(name), bitmaps[name])


@pytest.mark.slow
def test_the_opencv_example_gets_squeeze_and_excitation_right(tmp_path):
    """As MobileNetV3 has it: OpenCV itself gives HardSwish of the means instead."""
    graph = """colors (uint8[N,8,8,3] image) => (float[N,3] logits) {
        pixels = Cast <to = 1> (image)  scaled = Div (pixels, white)
        squeezed = ReduceMean <keepdims = 1> (scaled, axes)
        gate = HardSigmoid <alpha = 0.16666667, beta = 0.5> (squeezed)
        excited = Mul (scaled, gate)  planes = Transpose <perm = [0, 3, 1, 2]> (excited)
        highest = GlobalMaxPool (planes)  logits = Flatten (highest)
    }"""
    spec = replace(COLOR_SPEC, embedding=None, temperature=0.01)
    model = save_model(parsed(graph, white=255.0, axes=[1, 2]), tmp_path / "squeeze.onnx", spec.to_metadata())
    pixels = np.full((8, 8, 3), (0, 133, 0), np.uint8)
    pixels[::2, :, 0] = 255  # logits: red 1 * 0.58, green 0.52 * 0.59; of the means it would be 0.5 * 0.58
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    assert check_opencv(model, [tmp_path / "picture.png"]) == ["red"]


@pytest.mark.slow
def test_the_opencv_example_refuses_what_it_cannot_do(tmp_path):
    kinds = {kind.name: kind.path for kind in save_kinds(tmp_path)}
    for name, reason in (("resize inside", "resizes pictures itself"), ("oblong border", "no border crop to 12x5")):
        ran = opencv(kinds[name], ROOT / "samples" / "orange.jpg")
        assert ran.returncode == 1
        assert reason in ran.stderr


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The example page on a server, beside models and pictures."""
    if not (WEB / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("no onnxruntime-web: run npm install in examples/web")
    folder = tmp_path_factory.mktemp("site")
    for file in (*WEB.glob("*.html"), *WEB.glob("*.js")):
        shutil.copy(file, folder)
    (folder / "node_modules").symlink_to(WEB / "node_modules")
    for name in MODELS:
        shutil.copy(resolve(name), folder / f"{name}.onnx")
    model, spec = onnx.load(resolve(DEFAULT_MODEL)), Classifier.load(DEFAULT_MODEL, device="cpu").spec
    pixels = [fit_to_spec(open_image(path).image, spec)[None] for path in SAMPLES[DEFAULT_MODEL]]
    for precision, reduced in (("fp16", to_fp16(model, spec)), ("int8", to_int8(model, spec, pixels).model)):
        save_model(reduced, folder / f"{precision}.onnx", replace(spec, precision=precision).to_metadata())
    kinds, noise = save_kinds(folder), save_noise(folder)
    save_model(picky_graph(spec_of("center")), folder / "no manifest.onnx")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        yield SimpleNamespace(address=address, folder=folder, kinds=kinds, noise=noise)
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
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-sync disable-background-networking"
    for flag in (*flags.split(), "disable-component-update"):
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
@pytest.mark.parametrize(
    ("model", "classes", "tolerance"),
    [
        ("lenet5", 5, 1e-4),
        (DEFAULT_MODEL, 5, 1e-4),
        ("fp16", 1, 2e-3),
        ("int8", 1, 2e-2),
        ("jpeg", 1, 2e-2),  # what decoding at a part of the size changes, which visiontool does and a browser does not
    ],
)
def test_the_page_answers_as_predict_does(site, browser, bitmaps, model, classes, tolerance):
    pictures = bitmaps["lenet5" if model == "lenet5" else DEFAULT_MODEL]
    if model == "jpeg":
        model, pictures = DEFAULT_MODEL, SAMPLES[DEFAULT_MODEL]
    results = Classifier.load(site.folder / f"{model}.onnx", device="cpu").predict(pictures)
    for answer, result in zip(answers_of_page(browser, site.address, model, pictures), results, strict=True):
        expected = [(item.label, item.probability) for item in result.predictions[:classes]]
        assert [label for label, _ in answer[:classes]] == [label for label, _ in expected], result.path
        numbers = [number for _, number in answer[:classes]]
        assert numbers == pytest.approx([number for _, number in expected], abs=tolerance)


_CLASSIFY_ALL = """
const [models, pictures, done] = arguments;
async function classifyAll() {
  const { classify, load } = await import("/classify.js");
  const files = await Promise.all(pictures.map(async (name) => (await fetch(name)).blob()));
  const answers = {};
  for (const name of models) {
    const model = await load(`${name}.onnx`);
    answers[name] = [];
    for (const file of files) answers[name].push(await classify(model, file, 9));
  }
  return answers;
}
classifyAll().then(done, (error) => done(String(error)));
"""


@pytest.mark.slow
def test_the_page_follows_every_kind_of_manifest(site, browser):
    kinds = [kind for kind in site.kinds if kind.spec.input.dtype != "float16"]
    browser.get(f"{site.address}/index.html")
    names, pictures = [kind.name for kind in kinds], [path.name for path in site.noise]
    answers = browser.execute_async_script(_CLASSIFY_ALL, names, pictures)
    assert isinstance(answers, dict), answers
    for name, _, path in kinds:
        # As pictures and not as paths, so that no JPEG is decoded at a part of its size.
        results = Classifier.load(path, device="cpu").predict([Image.open(file) for file in site.noise], top_k=9)
        for picture, result, answer in zip(pictures, results, answers[name], strict=True):
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
