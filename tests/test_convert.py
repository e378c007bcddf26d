"""From torch to a model file: the built-in models, SqueezeNet's real weights, and the gate for a wrong file."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import ROOT, save_picture
from PIL import Image

timm = pytest.importorskip("timm")
torch = pytest.importorskip("torch")

from visiontool import Classifier, ConversionError, InputSpec, ModelSpec  # noqa: E402
from visiontool.find import find_images  # noqa: E402
from visiontool.onnx_scan import scan  # noqa: E402
from visiontool.spec import MANIFEST_KEY  # noqa: E402
from visiontool.training import convert as converting  # noqa: E402
from visiontool.training.architectures.lenet import LeNet5  # noqa: E402

# torch.export and the packages below it still use what Python and onnx have deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

SAMPLES = list(find_images([str(ROOT / "samples")]))
LENET = ROOT / "weights" / "lenet5"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """LeNet-5 converted once, and the spec that came of it."""
    path = tmp_path_factory.mktemp("digits") / "digits.onnx"
    spec = converting.convert_folder(LENET, path, SAMPLES, name="digits")
    return path, spec


def test_the_file_says_what_the_config_said(digits):
    path, spec = digits
    assert ModelSpec.from_json(scan(path).metadata[MANIFEST_KEY]) == spec
    assert spec.labels == tuple("0123456789")
    assert spec.architecture == "lenet5"
    assert spec.input.size == (32, 32)
    assert (spec.crop_pct, spec.interpolation) == (1.0, "bilinear")
    assert spec.embedding == "embedding"
    assert spec.feature_map is None  # LeNet-5 has no global pool
    assert spec.weights["license"] == "apache-2.0"
    assert len(spec.weights["sha256"]) == 64
    assert spec.parity["batches"] == [1, 2, 7, 32]


def test_the_file_holds_no_path_and_no_trace_of_this_machine(digits):
    path, _ = digits
    raw = path.read_bytes()
    for trace in (str(ROOT), str(Path(torch.__file__).parent), "stack_trace", "pkg.torch"):
        assert trace.encode() not in raw
    model = onnx.load(path)
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert "+" not in model.producer_version
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_the_committed_file_is_what_the_converter_writes(digits):
    """The same answers to the byte of its manifest, whatever versions wrote the graph."""
    path, spec = digits
    committed = Classifier.load(LENET)
    assert replace(committed.spec, name="digits", tools={}) == replace(spec, tools={})
    pictures = [path_ for path_ in SAMPLES if "digits" in path_]
    np.testing.assert_allclose(committed.logits(pictures), Classifier.load(path).logits(pictures), atol=1e-4)


def test_the_last_layer_on_the_embedding_gives_the_logits(digits):
    path, _ = digits
    classifier = Classifier.load(path)
    model = timm.create_model(f"local-dir:{LENET}", pretrained=True)
    embedding = classifier.embed(SAMPLES)
    assert embedding.shape == (len(SAMPLES), 84)
    weight, bias = (tensor.detach().numpy() for tensor in (model.fc.weight, model.fc.bias))
    np.testing.assert_allclose(embedding @ weight.T + bias, classifier.logits(SAMPLES), atol=1e-4)


def test_the_same_network_gives_the_same_bytes(digits, tmp_path):
    path, _ = digits
    code = (
        "import sys; from pathlib import Path; from visiontool.training.convert import convert_folder;"
        "convert_folder(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:], name='digits')"
    )
    again = tmp_path / "again.onnx"
    subprocess.run(
        [sys.executable, "-c", code, LENET, again, *SAMPLES],
        check=True,
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "12345"},
    )
    assert again.read_bytes() == path.read_bytes()


@pytest.fixture
def network(tmp_path):
    """A random LeNet-5 for color pictures, its spec, and a picture to check it on."""
    torch.manual_seed(0)
    spec = ModelSpec(
        name="random",
        labels=("a", "b", "c"),
        input=InputSpec(size=(32, 32), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
    )
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    return LeNet5(num_classes=3, in_chans=3), spec, [tmp_path / "noise.png"]


def test_a_color_network_passes_and_its_file_normalizes_as_told(network, tmp_path):
    model, spec, pictures = network
    written = converting.convert(model, spec, tmp_path / "out.onnx", pictures)
    assert written.tools["torch"] == torch.__version__.partition("+")[0]
    classifier = Classifier.load(tmp_path / "out.onnx")
    white = save_picture(tmp_path / "white.png", (255, 255, 255), (32, 32))
    x = ((torch.ones(3) - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor([0.2, 0.3, 0.4])).view(1, 3, 1, 1)
    with torch.inference_mode():
        expected = model(x.expand(1, 3, 32, 32)).numpy()
    np.testing.assert_allclose(classifier.logits([white]), expected, atol=1e-5)


@pytest.mark.parametrize("fault", ["weights", "mean", "batch"])
def test_a_file_that_answers_otherwise_is_never_written(network, tmp_path, monkeypatch, fault):
    model, spec, pictures = network
    target = tmp_path / "out.onnx"
    target.write_bytes(b"the file of before")
    export = converting._export

    def wrong_export(graph, spec, outputs, path):
        if fault == "mean":
            graph.mean += 0.01
        if fault == "weights":
            graph.model = LeNet5(num_classes=3, in_chans=3)
        export(graph, spec, outputs, path)
        if fault == "batch":  # right for the traced batch only
            wrong = onnx.load(path)
            logits = next(node for node in wrong.graph.node if "logits" in node.output)
            logits.output[list(logits.output).index("logits")] = "logits_before"
            wrong.graph.initializer.append(onnx.helper.make_tensor("two", onnx.TensorProto.FLOAT, [2, 1], [1.0, 1.001]))
            wrong.graph.node.append(onnx.helper.make_node("Mul", ["logits_before", "two"], ["logits"]))
            onnx.save(wrong, path)

    monkeypatch.setattr(converting, "_export", wrong_export)
    with pytest.raises(ConversionError, match="does not answer as torch does|cannot be used"):
        converting.convert(model, spec, target, pictures)
    assert target.read_bytes() == b"the file of before"
    assert not list(tmp_path.glob("*.partial"))


def test_what_is_missing_from_a_folder_is_named(tmp_path):
    with pytest.raises(ConversionError, match="config.json"):
        converting.convert_folder(tmp_path, tmp_path / "out.onnx", SAMPLES)
    config = json.loads((LENET / "config.json").read_text())
    del config["label_names"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((LENET / "model.safetensors").read_bytes())
    with pytest.raises(ConversionError, match="label_names"):
        converting.convert_folder(tmp_path, tmp_path / "out.onnx", SAMPLES)


def test_weights_of_another_network_are_refused(tmp_path):
    with pytest.raises(ConversionError, match="squeezenet|features"):
        converting.convert_checkpoint("squeezenet1_1", LENET / "model.safetensors", tmp_path / "out.onnx", SAMPLES)
    assert not list(tmp_path.iterdir())


def test_one_mean_for_three_channels_does_not_make_a_network_gray():
    assert converting._per_channel([0.5], 3) == (0.5, 0.5, 0.5)
    assert converting._per_channel([0.1307], 1) == (0.1307,)
    with pytest.raises(ValueError, match="2 numbers for 3 channels"):
        converting._per_channel([0.5, 0.5], 3)


def test_a_file_that_is_not_valid_onnx_is_never_written(network, tmp_path, monkeypatch):
    model, spec, pictures = network

    def refuse(*_, **__):
        raise onnx.checker.ValidationError("bad")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(ConversionError, match="not valid ONNX: bad"):
        converting.convert(model, spec, tmp_path / "out.onnx", pictures)
    assert not list(tmp_path.glob("out*"))


def test_no_picture_means_no_conversion(network, tmp_path):
    model, spec, _ = network
    with pytest.raises(ConversionError, match="real pictures"):
        converting.convert(model, spec, tmp_path / "out.onnx", [])


@pytest.mark.real
def test_squeezenet_with_its_real_weights_knows_real_photos(shared, tmp_path, run):
    weights = shared / "weights" / "squeezenet1_1" / "model.safetensors"
    path = tmp_path / "squeezenet.onnx"
    spec = converting.convert_checkpoint("squeezenet1_1", weights, path, SAMPLES)
    assert (spec.labels[134], spec.labels[517]) == ("crane (bird)", "crane (machine)")
    ran = run("predict", "-m", path, shared / "data" / "photos")
    assert ran.code == 0
    rows = [json.loads(line) for line in ran.out.splitlines()]
    files = {str(file) for file in (shared / "data" / "photos").rglob("*") if file.is_file()}
    assert {row["path"] for row in rows} == files
    answers = [(Path(row["path"]).parent.name, [item["label_id"] for item in row["predictions"]]) for row in rows]
    assert np.mean([ids[0] == target for target, ids in answers]) >= 0.60
    assert np.mean([target in ids for target, ids in answers]) >= 0.84


@pytest.mark.real
def test_squeezenets_feature_map_averages_to_its_embedding(shared, tmp_path):
    weights = shared / "weights" / "squeezenet1_1" / "model.safetensors"
    path = tmp_path / "squeezenet.onnx"
    converting.convert_checkpoint("squeezenet1_1", weights, path, SAMPLES)
    classifier = Classifier.load(path)
    pixels = np.stack([np.asarray(Image.open(SAMPLES[0]).convert("RGB").resize((224, 224)))])
    feature_map = classifier.run(pixels, "feature_map")
    assert feature_map.shape[:2] == (1, 512)
    np.testing.assert_allclose(feature_map.mean((2, 3)), classifier.run(pixels, "embedding"), atol=1e-4)


@pytest.mark.slow
def test_one_command_makes_a_built_in_model_anew(tmp_path):
    """Where the same versions wrote the committed file, to the byte."""
    project = tmp_path / "project"
    for part in ("scripts", "samples", "weights/lenet5"):
        shutil.copytree(ROOT / part, project / part)
    committed = (LENET / "model.onnx").read_bytes()
    (project / "weights" / "lenet5").rename(project / "better")
    subprocess.run(
        [sys.executable, "scripts/add_builtin.py", "better", "--name", "lenet5"],
        cwd=project,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    made = project / "weights" / "lenet5"
    assert sorted(path.name for path in made.iterdir()) == sorted(path.name for path in LENET.iterdir())
    tools = ModelSpec.from_json(scan(made / "model.onnx").metadata[MANIFEST_KEY]).tools
    if tools == Classifier.load(LENET).spec.tools:
        assert (made / "model.onnx").read_bytes() == committed
