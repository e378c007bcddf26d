"""From torch to a model file: the built-in models, SqueezeNet's real weights, and the gate for a wrong file."""

import copy
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from conftest import ROOT, save_picture
from PIL import Image

timm = pytest.importorskip("timm")
torch = pytest.importorskip("torch")

from random_weights import random_weights  # noqa: E402

from visiontool import Classifier, ConversionError, InputSpec, ModelError, ModelSpec  # noqa: E402
from visiontool.data.discover import find_images  # noqa: E402
from visiontool.hub import timm_config  # noqa: E402
from visiontool.model.difference import batches_for  # noqa: E402
from visiontool.model.scan import scan  # noqa: E402
from visiontool.model.spec import MANIFEST_KEY  # noqa: E402
from visiontool.pytorch import exporters, parity  # noqa: E402
from visiontool.pytorch.architectures.lenet import LeNet5  # noqa: E402
from visiontool.pytorch.convert import _imagenet_names, convert, convert_checkpoint, convert_folder  # noqa: E402
from visiontool.pytorch.exporters import OnnxWrapper  # noqa: E402

# torch.export and the packages below it still use what Python and onnx have deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

SAMPLES = list(find_images([str(ROOT / "samples")]))
LENET = ROOT / "weights" / "lenet5"
EXPORTERS = exporters.EXPORTERS.copy()


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """LeNet-5 converted once, and the spec that came of it."""
    path = tmp_path_factory.mktemp("digits") / "digits.onnx"
    spec = convert_folder(LENET, path, SAMPLES, name="digits")
    return path, spec


def test_the_manifest_is_that_of_the_config(digits):
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
    """The same answers and manifest, whatever versions wrote the graph and whatever it was compared with torch on."""
    path, spec = digits
    committed = Classifier.load(LENET)
    assert replace(committed.spec, name="digits", tools={}, parity={}) == replace(spec, tools={}, parity={})
    pictures = [path_ for path_ in SAMPLES if "digits" in path_]
    np.testing.assert_allclose(committed.logits(pictures), Classifier.load(path).logits(pictures), atol=1e-4)


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A random LeNet-5 for color pictures, its spec, and a picture to check it on; only the quickest exporter."""
    monkeypatch.setattr(exporters, "EXPORTERS", {"TorchScript": EXPORTERS["TorchScript"]})
    torch.manual_seed(0)
    spec = ModelSpec(
        name="random",
        labels=("a", "b", "c"),
        input=InputSpec(size=(32, 32), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
    )
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    return LeNet5(num_classes=3, in_chans=3), spec, [tmp_path / "noise.png"]


def test_a_color_network_passes_and_its_file_normalizes(network, tmp_path):
    model, spec, pictures = network
    written = convert(model, spec, tmp_path / "out.onnx", pictures)
    assert written.tools["torch"] == torch.__version__.partition("+")[0]
    classifier = Classifier.load(tmp_path / "out.onnx")
    white = save_picture(tmp_path / "white.png", (255, 255, 255), (32, 32))
    x = ((torch.ones(3) - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor([0.2, 0.3, 0.4])).view(1, 3, 1, 1)
    with torch.inference_mode():
        expected = model(x.expand(1, 3, 32, 32)).numpy()
    np.testing.assert_allclose(classifier.logits([white]), expected, atol=1e-5)


@pytest.mark.parametrize("fault", ["weights", "mean", "batch", "network"])
def test_a_file_that_answers_otherwise_is_never_written(network, tmp_path, monkeypatch, fault):
    model, spec, pictures = network
    target = tmp_path / "out.onnx"
    target.write_bytes(b"the file of before")
    export = EXPORTERS["TorchScript"]

    def wrong(wrapper, example, inputs):
        if fault == "network":  # the exporter breaks what it was to write, so that both sides would be the same
            torch.nn.init.zeros_(wrapper.model.fc.weight)
        if fault == "mean":
            wrapper = copy.deepcopy(wrapper)
            wrapper.mean += 0.01
        if fault == "weights":
            wrapper = OnnxWrapper(LeNet5(num_classes=3, in_chans=3), spec.input)
        program = export(wrapper, example, inputs)
        if fault == "batch":  # right for the traced batch only
            wrong = onnx_ir.to_proto(program)
            logits = next(node for node in wrong.graph.node if "logits" in node.output)
            logits.output[list(logits.output).index("logits")] = "logits_before"
            wrong.graph.initializer.append(onnx.helper.make_tensor("two", onnx.TensorProto.FLOAT, [2, 1], [1.0, 1.001]))
            wrong.graph.node.append(onnx.helper.make_node("Mul", ["logits_before", "two"], ["logits"]))
            program = onnx_ir.from_proto(wrong)
        return program

    monkeypatch.setattr(exporters, "EXPORTERS", {"wrong": wrong})
    with pytest.raises(ConversionError, match=r"does not answer as torch does|shape \(2, 3\) in the file, \(1, 3\)"):
        convert(model, spec, target, pictures)
    assert target.read_bytes() == b"the file of before"
    assert not list(tmp_path.glob("*.partial"))


def test_another_exporter_is_taken_where_one_fails(network, tmp_path, monkeypatch):
    model, spec, pictures = network
    older = EXPORTERS["TorchScript"]

    def fails(*_):
        raise NotImplementedError("no such operator")

    def wrong(wrapper, example, inputs):
        return older(OnnxWrapper(LeNet5(num_classes=3, in_chans=3), spec.input), example, inputs)

    order = {"first": fails, "second": wrong, "third": older}
    monkeypatch.setattr(exporters, "EXPORTERS", order)
    written = convert(model, spec, tmp_path / "out.onnx", pictures)
    assert written.tools["exporter"] == "third"
    assert Classifier.load(tmp_path / "out.onnx").spec == written

    del order["third"]
    with pytest.raises(ConversionError) as caught:
        convert(model, spec, tmp_path / "none.onnx", pictures)
    lines = str(caught.value).splitlines()
    assert lines[0] == "random: no exporter wrote a file that answers as torch does"
    assert lines[1] == "first: the exporter failed: no such operator"
    assert lines[2].startswith("second: logits, batch 1: the file does not answer as torch does (relative difference ")
    assert not (tmp_path / "none.onnx").exists()


@pytest.mark.slow
def test_the_other_exporters_write_files_that_pass(network, tmp_path, monkeypatch):
    model, spec, pictures = network
    assert list(EXPORTERS) == ["dynamo", "dynamo without optimizer", "TorchScript"]
    for name, exporter in EXPORTERS.items():
        monkeypatch.setattr(exporters, "EXPORTERS", {name: exporter})
        convert(model, spec, tmp_path / "out.onnx", pictures)


def test_what_cannot_be_converted_is_not_written(network, tmp_path, monkeypatch):
    model, spec, pictures = network
    large = replace(spec, input=replace(spec.input, size=(40, 48)))
    for spec_, words in (
        (large, "random: the network cannot run at 40x48 pixels: .*mat1 and mat2 shapes"),
        (replace(spec, labels=("a", "b")), "random: the network gives 3 logits for 2 labels"),
    ):
        with pytest.raises(ConversionError, match=words):
            convert(model, spec_, tmp_path / "out.onnx", pictures)

    def refuse(*_, **__):
        raise onnx.checker.ValidationError("bad")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(ConversionError, match="not valid ONNX: bad"):
        convert(model, spec, tmp_path / "out.onnx", pictures)
    assert not list(tmp_path.glob("out*"))


def test_the_batches_that_are_compared_are_fewer_where_pictures_are_large():
    assert batches_for((224, 224)) == batches_for((299, 299)) == (1, 2, 7, 32)
    assert batches_for((600, 600)) == (1, 2, 7)
    assert batches_for((2000, 2000)) == (1, 2)


def test_a_config_that_cannot_be_used_is_named(tmp_path):
    with pytest.raises(ConversionError, match="config.json"):
        convert_folder(tmp_path, tmp_path / "out.onnx", SAMPLES)
    shutil.copy(LENET / "model.safetensors", tmp_path)
    config = json.loads((LENET / "config.json").read_text())
    names, cfg = config.pop("label_names"), config["pretrained_cfg"]
    for changes, words in (
        ({}, "label_names"),
        ({"label_names": dict(enumerate(names))}, "label_names is no list"),
        ({"label_names": names, "pretrained_cfg": {**cfg, "mean": [0.5, 0.5]}}, "2 numbers for 1 channels"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(ConversionError, match=words):
            convert_folder(tmp_path, tmp_path / "out.onnx", SAMPLES)


@pytest.mark.parametrize(
    ("name", "classes"),
    [("resnet18.a1_in1k", 1000), ("convnext_nano.in12k", 11821), ("vit_tiny_patch16_224.augreg_in21k", 21843)],
)
def test_a_hub_folder_without_names_has_those_of_its_imagenet(name, classes):
    cfg = timm.models.get_pretrained_cfg(name)
    names = _imagenet_names(cfg.architecture, cfg.tag, cfg.num_classes)
    labels, ids = timm_config.named_classes(names["label_names"], names["label_descriptions"])
    assert len(set(labels)) == len(set(ids)) == len(labels) == len(ids) == classes
    assert classes != 1000 or names == timm_config.imagenet()


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("resnet50_clip.openai", ConversionError, "the 1,024 classes of its weights (openai) have no names"),
        ("nin", ConversionError, "its classes have no names"),
        ("squeezenet1_1", ModelError, "not the weights of squeezenet1_1"),
    ],
)
def test_checkpoints_that_are_refused(tmp_path, name, error, reason):
    with pytest.raises(error, match=re.escape(reason)):
        convert_checkpoint(name, LENET / "model.safetensors", tmp_path / "out", SAMPLES)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("squeezenet1_1.tv_in1k", None),
        ("shufflenet_v2_x0_5", (64, 96)),
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", 64),  # its position embeddings are fitted to the size
    ],
)
def test_timm_gives_the_same_logits_from_the_folder(tmp_path, name, size):
    weights, folder = tmp_path / "weights.pth", tmp_path / "made"
    torch.save(random_weights(timm.create_model(name), torch.randn(2, 3, 224, 224)).state_dict(), weights)
    spec = convert_checkpoint(name, weights, folder, SAMPLES, img_size=size, source="a test", license="mit")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.onnx", "model.safetensors"]
    assert spec.input.size == ((size, size) if isinstance(size, int) else size or (224, 224))
    assert (spec.name, spec.labels[0], spec.label_ids[0]) == (name.partition(".")[0], "tench", "n01440764")
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    params = sum(parameter.numel() for parameter in again.parameters())
    assert spec.weights == {"source": "a test", "sha256": sha256, "license": "mit", "params": params}
    classifier = Classifier.load(folder)
    assert classifier.spec == spec
    pixels = parity.pixels_of(SAMPLES, spec, 3)
    with torch.inference_mode():
        expected = again(parity.normalized(pixels, spec.input)).numpy()
    np.testing.assert_allclose(classifier.outputs(pixels, "logits"), expected, atol=1e-3, rtol=1e-4)
    assert convert_folder(folder, tmp_path / "again.onnx", SAMPLES, name=spec.name) == spec


@pytest.mark.real
def test_squeezenet_with_its_real_weights_knows_real_photos(shared, tmp_path, run):
    weights = shared / "weights" / "squeezenet1_1" / "model.safetensors"
    spec = convert_checkpoint("squeezenet1_1", weights, tmp_path, SAMPLES)
    assert spec.weights["source"].endswith("squeezenet1_1-b8a52dc0.pth")
    assert (spec.labels[134], spec.labels[517]) == ("crane (bird)", "crane (machine)")
    ran = run("predict", "-m", tmp_path, shared / "data" / "photos")
    assert ran.code == 0
    rows = [json.loads(line) for line in ran.out.splitlines()]
    files = {str(file) for file in (shared / "data" / "photos").rglob("*") if file.is_file()}
    assert {row["path"] for row in rows} == files
    answers = [(Path(row["path"]).parent.name, [item["label_id"] for item in row["predictions"]]) for row in rows]
    assert np.mean([ids[0] == target for target, ids in answers]) >= 0.60
    assert np.mean([target in ids for target, ids in answers]) >= 0.84


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
