"""From what `--model` says to a file: built-in names, paths, and what is said where there is neither."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Ran, save_picture

from visiontool.errors import ModelError, UsageError
from visiontool.hub import cache
from visiontool.hub import resolve as store
from visiontool.hub.naming import NUMBERS, cached_name, folder_of, pullable
from visiontool.hub.resolve import (
    DEFAULT_MODEL,
    MODEL_VARIABLE,
    ModelNotPulled,
    ModelUntrained,
    built_in_names,
    resolve,
    sample_pictures,
)


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def two_built_in(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of weights with two models and one folder that holds none."""
    folder = tmp_path_factory.mktemp("weights")
    for name in ("resnet18_tiny200", "lenet5", "unfinished"):
        (folder / name).mkdir()
    for name in ("resnet18_tiny200", "lenet5"):
        (folder / name / "model.onnx").touch()
    monkeypatch.setattr(store, "weights_folder", lambda: folder)
    return folder


def error_of(model: str | None) -> str:
    with pytest.raises(ModelError) as caught:
        resolve(model)
    return str(caught.value)


def test_the_default_model_is_one_of_the_built_in() -> None:
    assert DEFAULT_MODEL in built_in_names()
    assert resolve(None).is_file()


def test_built_in_names_are_the_folders_that_hold_a_model(two_built_in: Path) -> None:
    assert built_in_names() == ["lenet5", "resnet18_tiny200"]


def test_a_built_in_name_is_found_from_anywhere(two_built_in: Path, in_empty_folder: Path) -> None:
    assert resolve("lenet5") == two_built_in / "lenet5" / "model.onnx"


def test_a_file_comes_before_a_built_in_name(two_built_in: Path, in_empty_folder: Path) -> None:
    (in_empty_folder / "lenet5").touch()
    assert resolve("lenet5") == Path("lenet5")


def test_a_folder_with_a_model_comes_before_a_built_in_name(two_built_in: Path, in_empty_folder: Path) -> None:
    (in_empty_folder / "lenet5").mkdir()
    assert resolve("lenet5") == two_built_in / "lenet5" / "model.onnx"
    (in_empty_folder / "lenet5" / "model.onnx").touch()
    assert resolve("lenet5") == Path("lenet5/model.onnx")


def test_a_folder_without_a_model_hides_no_model_of_its_name(
    two_built_in: Path, in_empty_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "cache"))
    path = put("vgg11.tv_in1k")
    for name in ("lenet5", "vgg11", "vgg16", "nin", "birds"):
        (in_empty_folder / name).mkdir()
    assert resolve("lenet5") == two_built_in / "lenet5" / "model.onnx"
    assert resolve("vgg11") == path
    with pytest.raises(ModelNotPulled):
        resolve("vgg16")
    with pytest.raises(ModelUntrained):
        resolve("nin")
    for typed in ("birds", "./vgg16"):
        assert error_of(typed) == f"{typed}: the folder has no model.onnx in it"


@pytest.mark.parametrize("typed", ["LeNet5", "LeNet-5", "lenet_5", "lenet"])
def test_a_built_in_model_is_found_however_it_is_written(typed: str, two_built_in: Path, in_empty_folder: Path) -> None:
    assert resolve(typed) == two_built_in / "lenet5" / "model.onnx"


def test_a_known_model_that_is_not_here_is_told_with_the_command_that_gets_it(in_empty_folder: Path) -> None:
    for typed, name in (
        ("vgg16", "vgg16.tv_in1k"),
        ("VGG-16", "vgg16.tv_in1k"),
        ("vgg16@256", "vgg16.tv_in1k@256"),
        ("vgg16@224", "vgg16.tv_in1k"),  # its own size
        ("hf-hub:timm/vgg16.tv_in1k", "vgg16.tv_in1k"),
        ("hf-hub:me/birds", "hf-hub:me/birds"),
    ):
        with pytest.raises(ModelNotPulled) as caught:
            resolve(typed)
        assert caught.value.name == name
        assert str(caught.value) == f"{name} is not on this machine yet.\nGet it with: visiontool models pull {name}"


def test_a_network_without_weights_is_told_what_it_takes(in_empty_folder: Path) -> None:
    with pytest.raises(ModelUntrained) as caught:
        resolve("NiN")
    assert caught.value.name == "nin"
    assert str(caught.value) == (
        "nin has no published weights.\nGive a folder of your own in timm's format: -m local-dir:FOLDER"
    )


@pytest.mark.parametrize(
    ("name", "other"), [("efficientnet_b6", "tf_efficientnet_b6"), ("seresnet34", "legacy_seresnet34")]
)
def test_a_network_without_weights_names_one_that_has_them(name: str, other: str, in_empty_folder: Path) -> None:
    assert error_of(name) == (
        f"{name} has no published weights.\n{other} has weights: visiontool models pull {other}\n"
        "Or give a folder of your own in timm's format: -m local-dir:FOLDER"
    )


def put(name: str) -> Path:
    with cache.lock(cache.models(), name), cache.unpublished(name) as folder:
        (folder / "model.onnx").touch()
        return cache.publish(folder, name, source="", license="", tools={}).path


def test_a_pulled_model_is_found_by_every_name_it_has(
    in_empty_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "cache"))
    path, large, birds = put("vgg16.tv_in1k"), put("vgg16.tv_in1k@256"), put("me--birds")
    for typed in ("vgg16.tv_in1k", "vgg16", "VGG-16", "vgg16@224", "hf-hub:timm/vgg16.tv_in1k"):
        assert resolve(typed) == path
    for typed in ("vgg16.tv_in1k@256", "vgg16@256"):
        assert resolve(typed) == large
    for typed in ("me--birds", "hf-hub:me/birds"):
        assert resolve(typed) == birds
    (in_empty_folder / "vgg16").touch()
    assert resolve("vgg16") == Path("vgg16")  # a file comes first


def test_a_name_in_the_cache_is_found_without_the_catalog_and_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "cache"))
    put("vgg16.tv_in1k")
    code = (
        "import sys, time; from visiontool.hub import resolve as store\n"
        "begun = time.perf_counter(); store.resolve('vgg16.tv_in1k')\n"
        "assert time.perf_counter() - begun < 0.1, 'which takes half a millisecond'\n"
        "slow = {'visiontool.hub.catalog', 'hashlib', 'shutil', 'urllib.request', 'numpy', 'torch'} & {*sys.modules}\n"
        "assert not slow, slow"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_folder_in_timms_format_is_known_by_what_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "cache"))
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


def test_what_is_pulled_is_found_in_the_cache_by_every_name_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "cache"))
    (put("vgg16.tv_in1k") / "../record.json").resolve().write_text("damaged")
    put("vgg16.tv_in1k@256"), put("vgg11.tv_in1k+0123456789ab"), put("me--birds")
    for typed, name in (
        ("VGG-16", "vgg16.tv_in1k"),
        ("hf-hub:timm/vgg16.tv_in1k", "vgg16.tv_in1k"),
        ("vgg16@224", "vgg16.tv_in1k"),
        ("vgg16@256", "vgg16.tv_in1k@256"),
        ("vgg11.tv_in1k+0123456789ab", "vgg11.tv_in1k+0123456789ab"),
        ("me--birds", "me--birds"),
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


def test_a_file_of_weights_makes_a_name_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"weights")
    digits = hashlib.sha256(b"weights").hexdigest()[:12]
    assert pullable("squeezenet1_1", weights=tmp_path / "w.pth")[::3] == (f"squeezenet1_1+{digits}", NUMBERS)
    assert pullable("nin", weights=tmp_path / "w.pth", img_size=256).name == f"nin+{digits}@256"
    names = {pullable("resnet50.a1_in1k", weights=tmp_path / "w.pth").name}  # its pictures are cropped in another way
    for word in ("cat", "dog"):
        (tmp_path / "names.txt").write_text(word)
        wanted = pullable("resnet50", weights=tmp_path / "w.pth", class_names=tmp_path / "names.txt")
        assert wanted.class_names == ((word,), None)
        names.add(wanted.name)
    assert len(names) == 3
    assert all(re.fullmatch(rf"resnet50\+{digits}\+[0-9a-f]{{12}}", name) for name in names)
    with pytest.raises(ModelError, match=r"gone.pth: cannot be read: No such file"):
        pullable("nin", weights=tmp_path / "gone.pth")
    with pytest.raises(UsageError, match="hf-hub:me/birds has its own weights and input size"):
        pullable("hf-hub:me/birds", img_size=256)
    with pytest.raises(UsageError, match="vgg16@256 and an input size of 288 contradict each other"):
        pullable("vgg16@256", img_size=288)
    with pytest.raises(
        UsageError, match=r"vgg16 knows its classes; --class-names goes with --weights FILE. Leave it out"
    ):
        pullable("vgg16", class_names=tmp_path / "names.txt")


def test_published_weights_in_a_file_are_known_by_their_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever tag was named; not by the file's name, nor as those of another network."""
    weights = tmp_path / "resnet50-0676ba61.pth"
    for digits, network, name in (
        ("0676ba61", "resnet50", "resnet50.tv_in1k"),
        ("14fe96d1", "resnet50", "resnet50.a1_in1k"),
        ("14fe96d1", "resnet18", "resnet18"),
        ("0676ba62", "resnet50", "resnet50"),
    ):
        monkeypatch.setattr(cache, "sha256", lambda path, digits=digits: digits + "0" * 56)
        wanted = pullable(network, weights=weights)
        assert (wanted.name, wanted.class_names) == (f"{name}+{digits}0000", None if "." in name else NUMBERS)
    monkeypatch.setattr(cache, "sha256", lambda path: "0676ba61" + "0" * 56)
    with pytest.raises(
        UsageError, match=r"0676ba61.pth is resnet50.tv_in1k, whose classes are known.\nLeave --class-n"
    ):
        pullable("resnet50", weights=weights, class_names=tmp_path / "names.txt")


@pytest.mark.parametrize(
    ("file", "config", "is_known"),
    [
        ("model.safetensors", {"label_names": ["a"]}, True),
        ("pytorch_model.bin", {"label_names": ["a"]}, True),
        ("model.safetensors", {"num_classes": 1000, "pretrained_cfg": {"tag": "a1_in1k"}}, True),
        ("model.safetensors", {"num_classes": 2, "pretrained_cfg": {"tag": "a1_in1k"}}, False),
        ("model.safetensors", {"label_names": ["a"], "architecture": "resnet18"}, False),
        ("mine.safetensors", {"label_names": ["a"]}, False),  # of which the config.json need not be
        ("model.safetensors", None, False),
        ("model.safetensors", {"pretrained_cfg": []}, False),
    ],
)
def test_weights_know_their_classes_where_timms_config_beside_them_does(
    file: str, config: dict[str, Any] | None, is_known: bool, tmp_path: Path
) -> None:
    (tmp_path / file).touch()
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet50", "pretrained_cfg": {}, **config}))
    assert folder_of("resnet50.a1_in1k", tmp_path / file) == (tmp_path if is_known else None)
    if is_known:
        with pytest.raises(UsageError, match="has its own weights and input size"):
            folder_of("resnet50@96", tmp_path / file)


@pytest.mark.parametrize("model", ["own.onnx", "gone.onnx", "own@2.onnx", "run", "./run", "resnet18_tiny200"])
def test_what_has_its_weights_already_takes_no_others_and_needs_no_pulling(
    model: str, two_built_in: Path, in_empty_folder: Path
) -> None:
    for file in ("own.onnx", "own@2.onnx", "run/model.onnx", "w.pth"):
        (in_empty_folder / file).parent.mkdir(exist_ok=True)
        (in_empty_folder / file).touch()
    with pytest.raises(UsageError) as caught:
        pullable(model, weights=Path("w.pth"))
    assert str(caught.value) == (
        f"{model} has its weights in it already. Leave --weights out,\n"
        "or name the network that the weights are of: -m NAME --weights w.pth"
    )
    with pytest.raises(ModelError, match=rf"there is nothing to pull.\nUse it as it is: -m {re.escape(model)}$"):
        pullable(model)


def test_a_network_of_the_name_of_a_built_in_model_takes_other_weights(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"weights")
    assert pullable("LeNet-5", weights=tmp_path / "w.pth").name.startswith("lenet5+")


def test_a_file_of_weights_alone_is_told_how_to_give_it(in_empty_folder: Path) -> None:
    for name in ("w.pth", "w.ckpt", "w.BIN"):
        (in_empty_folder / name).touch()
        assert error_of(name).startswith(
            f"{name}: weights of torch, not a model file. Name their network: -m NAME --weights {name}\n"
        )


def test_the_sample_pictures_are_there() -> None:
    assert "lemon.jpg" in {path.name for path in sample_pictures()}


def test_a_path_may_be_a_path_object_and_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.dat"
    path.touch()
    assert resolve(path) == path
    assert resolve(str(path)) == path


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("resnet18_tiny20", "no model is called 'resnet18_tiny20'."),
        ("resnet18_tiny20", "Built-in models: lenet5, resnet18_tiny200."),
        ("resnet5O", "no model is called 'resnet5O'. Closest: resnet56, resnet50"),
        ("vgg", "'vgg' is not one model but several: vgg11, vgg11_bn, vgg13"),
        ("vgg16.tv_in2k", "vgg16 has no weights with the tag 'tv_in2k'. Closest: tv_in1k."),
        ("", "no model is called ''."),
        ("unfinished", "no model is called 'unfinished'."),
        ("unfinished", "or give the path of an .onnx file."),
        ("vgg16@big", "vgg16@big: behind the @ stands the side of the input in pixels, such as vgg16@256"),
        ("vgg16@0", "vgg16@0: behind the @ stands the side of the input in pixels"),
        ("vgg16@100000", "vgg16@100000: behind the @ stands the side"),
        ("vgg16@" + "9" * 5000, "behind the @ stands the side"),
        ("vgg16@²", "behind the @ stands the side"),
        ("lenet5@64", "lenet5@64: lenet5 is built in, with its own input size.\nTake it as it is: -m lenet5"),
        ("resnet18_tiny200@64", "resnet18_tiny200@64: resnet18_tiny200 is built in, with its own input size."),
        ("hf-hub:me/" + "b" * 300, "expected hf-hub:ORG/NAME"),
        ("local-dir:" + "b" * 5000, "expected a folder with config.json and model.safetensors"),
        ("hf-hub:birds", "hf-hub:birds: expected hf-hub:ORG/NAME"),
        ("hf-hub:me/birds@v2", "hf-hub:me/birds@v2: expected hf-hub:ORG/NAME"),
        ("local-dir:gone", "local-dir:gone: expected a folder with config.json and model.safetensors"),
        ("missing.onnx", "missing.onnx: there is no such file"),
        ("vgg16.pth", "vgg16.pth: there is no such file. Closest: vgg16,"),
        ("ViT-B/16", "ViT-B/16: there is no such file. Closest: vit_b_16,"),
        ("timm/resnet50.a1_in1k", "timm/resnet50.a1_in1k: there is no such file. Closest: resnet50,"),
        ("squeezenet1.2", "no model is called 'squeezenet1.2'. Closest: squeezenet1_"),
        ("runs/one", "runs/one: there is no such file"),
        (".", ".: the folder has no model.onnx in it"),
        ("a\nb", r"no model is called 'a\nb'"),
    ],
)
def test_what_is_no_model_is_refused_with_the_next_thing_to_type(
    typed: str, words: str, two_built_in: Path, in_empty_folder: Path
) -> None:
    assert words in error_of(typed)


def test_an_empty_name_never_means_the_folder_one_is_in(two_built_in: Path, in_empty_folder: Path) -> None:
    (in_empty_folder / "model.onnx").touch()
    assert "no model is called ''" in error_of("")


def test_the_user_chooses_the_default_model_by_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODEL_VARIABLE, "lenet5")
    assert resolve(None).parent.name == "lenet5"
    monkeypatch.setenv(MODEL_VARIABLE, "")
    assert resolve(None).parent.name == DEFAULT_MODEL


@pytest.mark.parametrize("value", ["lenett", "models/gone.onnx", ".", "vgg16"])
def test_a_wrong_choice_in_the_variable_is_told_as_such(
    value: str, two_built_in: Path, in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "VISIONTOOL_MODEL" not in error_of(value)
    monkeypatch.setenv(MODEL_VARIABLE, value)
    assert "(VISIONTOOL_MODEL says so)" in error_of(None)


def test_the_variable_works_on_the_command_line_and_gives_way_to_an_option(
    color_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Ran]
) -> None:
    picture = save_picture(tmp_path / "red.png", (255, 0, 0))
    monkeypatch.setenv(MODEL_VARIABLE, str(color_model))
    assert '"label": "red"' in run("predict", picture, "--json").out
    monkeypatch.setenv(MODEL_VARIABLE, "nothing-of-that-name")
    ran = run("predict", picture, "--json")
    assert (ran.code, ran.out) == (4, "")
    assert "no model is called 'nothing-of-that-name' (VISIONTOOL_MODEL says so)" in ran.err
    assert run("predict", picture, "-m", color_model, "--json").code == 0
