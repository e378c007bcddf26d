"""From a `--model` value to a file: built-in and pulled names, paths, and the errors where there is neither."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from visiontool.errors import ModelError, UsageError
from visiontool.hub import cache
from visiontool.hub import resolve as resolve_module
from visiontool.hub.resolve import (
    MODEL_VARIABLE,
    NUMBERS,
    ModelNotPulled,
    ModelUntrained,
    built_in_names,
    cached_name,
    folder_of,
    pullable,
    resolve,
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; the cache is empty too."""
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def two_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of weights with two models and one folder that holds none."""
    weights = tmp_path / "weights"
    for name in ("mnist_net", "lenet5", "unfinished"):
        (weights / name).mkdir(parents=True)
    for name in ("mnist_net", "lenet5"):
        (weights / name / "model.onnx").touch()
    monkeypatch.setattr(resolve_module, "weights_folder", lambda: weights)
    return weights


def put(name: str) -> Path:
    with cache.lock(cache.models(), name), cache.unpublished(name) as folder:
        (folder / "model.onnx").touch()
        return cache.publish(folder, name, "").path


def error_of(model: str | None) -> str:
    with pytest.raises(ModelError) as caught:
        resolve(model)
    return str(caught.value)


def test_a_file_comes_first_then_a_folder_with_a_model_then_a_built_in_name(two_built_in, folder):
    assert built_in_names() == ["lenet5", "mnist_net"]
    for typed in ("lenet5", "LeNet-5", "lenet"):
        assert resolve(typed) == two_built_in / "lenet5" / "model.onnx"
    (folder / "lenet5").mkdir()
    assert resolve("lenet5") == two_built_in / "lenet5" / "model.onnx"
    (folder / "lenet5" / "model.onnx").touch()
    assert resolve("lenet5") == Path("lenet5/model.onnx")
    (folder / "lenet_5").touch()
    assert resolve("lenet_5") == resolve(Path("lenet_5")) == Path("lenet_5")  # of any name


def test_a_folder_without_a_model_hides_no_model_of_its_name(folder):
    path = put("vgg11.tv_in1k")
    for name in ("vgg11", "vgg16", "nin", "birds"):
        (folder / name).mkdir()
    assert resolve("vgg11") == path
    with pytest.raises(ModelNotPulled):
        resolve("vgg16")
    with pytest.raises(ModelUntrained):
        resolve("nin")
    for typed in ("birds", "./vgg16"):
        assert error_of(typed) == f"{typed}: the folder has no model.onnx in it"


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("vgg16", "vgg16.tv_in1k"),
        ("VGG-16", "vgg16.tv_in1k"),
        ("vgg16@256", "vgg16.tv_in1k@256"),
        ("vgg16@224", "vgg16.tv_in1k"),  # its own size
        ("hf-hub:timm/vgg16.tv_in1k", "vgg16.tv_in1k"),
        ("hf-hub:me/birds", "me--birds"),
    ],
)
def test_a_known_model_is_resolved_by_every_name_once_it_is_pulled(typed, name):
    with pytest.raises(ModelNotPulled) as caught:
        resolve(typed)
    full = caught.value.name
    assert full == ("hf-hub:me/birds" if name == "me--birds" else name)
    assert str(caught.value) == f"{full} is not on this machine yet.\nGet it with: visiontool models pull {full}"
    path = put(name)
    assert resolve(typed) == resolve(name) == path


@pytest.mark.parametrize(
    ("typed", "name", "other"),
    [
        ("NiN", "nin", ""),
        ("seresnet34", "seresnet34", "legacy_seresnet34"),
    ],
)
def test_a_network_without_weights_names_one_that_has_them(typed, name, other):
    with pytest.raises(ModelUntrained) as caught:
        resolve(typed)
    assert caught.value.name == name
    remedy = f"{other} has weights: visiontool models pull {other}\nOr give" if other else "Give"
    own = "a folder of your own in timm's format: -m local-dir:FOLDER"
    assert str(caught.value) == f"{name} has no published weights.\n{remedy} {own}"


def test_a_name_in_the_cache_needs_no_catalog_and_the_catalog_no_library():
    put("vgg16.tv_in1k")
    code = (
        "import sys; from visiontool.hub import resolve\n"
        "resolve.resolve('vgg16.tv_in1k'), resolve.resolve('vgg16'); before = {*sys.modules}\n"
        "print(*before & {'visiontool.hub.catalog', 'visiontool.model', 'hashlib', 'shutil', 'numpy', 'torch'})\n"
        "from visiontool.hub import catalog; catalog.find('vgg16')\n"
        "print(*(name for name in {*sys.modules} - before if not name.startswith('visiontool')))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert ran.stdout.split() == []


def test_a_folder_in_timms_format_is_known_by_its_content(tmp_path):
    folder = tmp_path / "my birds"
    folder.mkdir()
    for file in ("config.json", "model.safetensors"):
        (folder / file).write_text(file)
    with pytest.raises(ModelNotPulled) as caught:
        resolve(f"local-dir:{folder}")
    assert caught.value.name == f"local-dir:{folder}"
    name = pullable(f"local-dir:{folder}").name
    assert re.fullmatch(r"my_birds\+[0-9a-f]{12}", name)
    path = put(name)
    assert resolve(f"local-dir:{folder}") == resolve(name) == path
    (folder / "config.json").write_text("another")
    with pytest.raises(ModelNotPulled):
        resolve(f"local-dir:{folder}")
    (folder / "model.onnx").touch()  # a run folder
    assert resolve(f"local-dir:{folder}") == folder / "model.onnx"


def test_commands_of_the_cache_take_every_name_of_a_pulled_model():
    put("vgg16.tv_in1k").with_name("record.json").write_text("damaged")
    put("vgg16.tv_in1k@256"), put("vgg11.tv_in1k+0123456789ab"), put("me--birds")
    for typed, name in (
        ("VGG-16", "vgg16.tv_in1k"),
        ("vgg16@256", "vgg16.tv_in1k@256"),
        ("vgg11.tv_in1k+0123456789ab", "vgg11.tv_in1k+0123456789ab"),
        ("hf-hub:me/birds", "me--birds"),
    ):
        assert cached_name(typed) == name
    for typed, words in (
        ("vgg11", "'vgg11' is not on this machine. There is: vgg11.tv_in1k+0123456789ab."),
        ("me--bird", "'me--bird' is not on this machine. There is: me--birds."),
        ("vgg19", "'vgg19' is not on this machine. Closest: vgg16.tv_in1k"),
        ("x", "'x' is not on this machine.\nWhat is: visiontool models --cached"),
        ("lenet5", "lenet5 is built in, not pulled."),
    ):
        with pytest.raises(ModelError, match=re.escape(words)):
            cached_name(typed)


def test_a_file_of_weights_makes_a_name_of_its_own(tmp_path):
    weights = tmp_path / "w.pth"
    weights.write_bytes(b"weights")
    digits = hashlib.sha256(b"weights").hexdigest()[:12]
    assert pullable("squeezenet1_1", weights=weights)[::3] == (f"squeezenet1_1+{digits}", NUMBERS)
    assert pullable("nin", weights=weights, img_size=256).name == f"nin+{digits}@256"
    assert pullable("LeNet-5", weights=weights).name == f"lenet5+{digits}"
    names = {pullable("resnet50.a1_in1k", weights=weights).name}  # its pictures are cropped in another way
    for word in ("cat", "dog"):
        (tmp_path / "names.txt").write_text(word)
        model = pullable("resnet50", weights=weights, class_names=tmp_path / "names.txt")
        assert model.class_names == ((word,), None)
        names.add(model.name)
    assert len(names) == 3
    assert all(re.fullmatch(rf"resnet50\+{digits}\+[0-9a-f]{{12}}", name) for name in names)


@pytest.mark.parametrize(
    ("model", "options", "kind", "words"),
    [
        ("nin", {"weights": Path("gone.pth")}, ModelError, "gone.pth: cannot be read: No such file"),
        ("nin", {"img_size": 0}, UsageError, "0 pixels: expected 1 to 99,999 as the side of the input"),
        ("hf-hub:me/birds", {"img_size": 256}, UsageError, "hf-hub:me/birds has its own weights and input size"),
        ("hf-hub:me/birds", {"class_names": Path("n")}, UsageError, "hf-hub:me/birds names its classes itself."),
        ("vgg16@256", {"img_size": 288}, UsageError, "vgg16@256 and an input size of 288 contradict each other"),
        ("vgg16", {"class_names": Path("n")}, UsageError, "vgg16 knows its classes; --class-names goes with --weights"),
        ("own@2.onnx", {}, ModelError, "own@2.onnx is .*: there is nothing to pull.\nUse it as it is: -m own@2.onnx"),
        ("mnist_net", {}, ModelError, "mnist_net is built in: there is nothing to pull."),
        *(
            (model, {"weights": Path("w.pth")}, UsageError, f"{model} has its weights in it already. Leave --weights")
            for model in ("gone.onnx", "run")
        ),
    ],
)
def test_what_cannot_be_pulled_is_refused(model, options, kind, words, two_built_in, folder):
    for file in ("own@2.onnx", "run/model.onnx", "w.pth"):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).touch()
    with pytest.raises(kind, match=f"^{words}"):
        pullable(model, **options)


def test_published_weights_in_a_file_are_known_by_their_hash(monkeypatch):
    """Whatever tag was named; not by the file's name, nor as those of another network."""
    weights = Path("resnet50-0676ba61.pth")
    for digits, network, name in (
        ("0676ba61", "resnet50", "resnet50.tv_in1k"),
        ("14fe96d1", "resnet50", "resnet50.a1_in1k"),
        ("14fe96d1", "resnet18", "resnet18"),
        ("0676ba62", "resnet50", "resnet50"),
    ):
        monkeypatch.setattr(resolve_module, "sha256", lambda path, digits=digits: digits + "0" * 56)
        model = pullable(network, weights=weights)
        assert (model.name, model.class_names) == (f"{name}+{digits}0000", None if "." in name else NUMBERS)
    monkeypatch.setattr(resolve_module, "sha256", lambda path: "0676ba61" + "0" * 56)
    with pytest.raises(UsageError, match=r"61.pth is resnet50.tv_in1k, whose classes are known.\nLeave --class-names"):
        pullable("resnet50", weights=weights, class_names=Path("names.txt"))


@pytest.mark.parametrize(
    ("file", "config", "is_known"),
    [
        ("model.safetensors", {"label_names": ["a"]}, True),
        ("model.safetensors", {"num_classes": 1000, "pretrained_cfg": {"tag": "a1_in1k"}}, True),
        ("model.safetensors", {"label_names": ["a"], "architecture": "resnet18"}, False),
        ("mine.safetensors", {"label_names": ["a"]}, False),  # of which the config.json need not be
        ("model.safetensors", None, False),
    ],
)
def test_weights_know_their_classes_where_timms_config_beside_them_does(file, config, is_known, tmp_path):
    (tmp_path / file).touch()
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet50", "pretrained_cfg": {}, **config}))
    assert folder_of("resnet50.a1_in1k", tmp_path / file) == (tmp_path if is_known else None)
    if is_known:
        with pytest.raises(UsageError, match="has its own weights and input size"):
            folder_of("resnet50@96", tmp_path / file)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("mnist_ne", "Built-in models: lenet5, mnist_net."),
        ("vgg", "'vgg' is not one model but several: vgg11, vgg11_bn, vgg13"),
        ("", "no model is called ''."),  # and not the folder one is in, which has a model.onnx
        ("unfinished", "no model is called 'unfinished'."),
        ("vgg16@big", "vgg16@big: behind the @ stands the side of the input in pixels, such as vgg16@256"),
        ("lenet5@64", "lenet5@64: lenet5 is built in, with its own input size.\nTake it as it is: -m lenet5"),
        ("hf-hub:me/" + "b" * 300, "expected hf-hub:ORG/NAME"),
        ("local-dir:gone", "local-dir:gone: expected a folder with config.json and model.safetensors"),
        ("missing.onnx", "missing.onnx: there is no such file"),
        ("vgg16.pth", "vgg16.pth: there is no such file. Closest: vgg16,"),
        ("w.BIN", "w.BIN: weights of torch, not a model file. Name their network: -m NAME --weights w.BIN\n"),
        ("ViT-B/16", "ViT-B/16: there is no such file. Closest: vit_b_16,"),
        ("..", "..: the folder has no model.onnx in it"),
    ],
)
def test_what_is_no_model_is_refused_with_the_next_thing_to_type(typed, words, two_built_in, folder):
    for name in ("w.BIN", "model.onnx"):
        (folder / name).touch()
    assert words in error_of(typed)


def test_a_model_from_the_environment_that_is_none_is_refused_with_its_origin(monkeypatch):
    for typed in ("mnist_ne", "vgg16", "missing.onnx", "."):
        monkeypatch.setenv(MODEL_VARIABLE, typed)
        assert "(VISIONTOOL_MODEL says so)" in error_of(None)
