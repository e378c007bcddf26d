"""Pulling from a real server: weights come, are converted and kept, and nothing is left of what fails."""

import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hub_server
import numpy as np
import pytest
from conftest import COLOR_SPEC, color_graph, save_model, save_picture
from hub_server import HubServer

from visiontool import Classifier, ConversionError, ModelError, ModelSpec
from visiontool.hub import cache, catalog, resolve
from visiontool.pytorch.pull import pull

timm = pytest.importorskip("timm")
torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")
constants = pytest.importorskip("huggingface_hub.constants")

# torch.export and the packages below it still use what Python and onnx have deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

NAME = "test_resnet.r160_in1k"  # timm's smallest: 0.47 M parameters
FILES = ["config.json", "model.onnx", "model.safetensors", "record.json"]


def network(name: str = NAME) -> Any:
    """A network with random weights, always the same."""
    import visiontool.pytorch.architectures  # noqa: F401 (registers SqueezeNet with timm)

    torch.manual_seed(0)
    return timm.create_model(name).eval()


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with hub_server.running() as hub:
        hub.add_to_hub(f"timm/{NAME}", "model.safetensors", safetensors_torch.save(network().state_dict()))
        yield hub


@pytest.fixture(autouse=True)
def root(tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own; processes that are started know the server, and so does this one."""
    for name, folder in (("VISIONTOOL_CACHE", "cache"), ("TORCH_HOME", "torch"), ("HF_HOME", "hf")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DOWNLOAD_TIMEOUT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    return tmp_path / "cache"


@pytest.fixture
def quick_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The older exporter and small batches, which take a fifth of the time; test_convert.py has the others."""
    from visiontool.pytorch import convert, exporters

    monkeypatch.setattr(convert, "batches_for", lambda size: (1, 2))

    monkeypatch.setattr(exporters, "EXPORTERS", {"TorchScript": exporters.EXPORTERS["TorchScript"]})


def left_in(root: Path) -> dict[str, list[str]]:
    """What is in the cache, folder by folder."""
    return {str(folder.relative_to(root)): sorted(os.listdir(folder)) for folder in root.glob("*") if folder.is_dir()}


COLOR = (200, 30, 90)


def logits_of_torch(model: Any, spec: ModelSpec) -> Any:
    """What torch answers for a picture of one color, which no resizing or cropping changes."""
    color, mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (COLOR, spec.input.mean, spec.input.std))
    with torch.inference_mode():
        return model(((color / 255 - mean) / std).expand(1, 3, *spec.input.size)).numpy()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return save_picture(tmp_path / "color.png", COLOR, (100, 80))


@pytest.mark.usefixtures("quick_exporter")
def test_a_network_is_pulled_once_and_then_answers_as_torch_does(root: Path, hub: HubServer, picture: Path) -> None:
    steps: list[tuple[str, int, int | None]] = []
    pulled = pull("test_resnet", progress=lambda *values: steps.append(values))
    assert pulled.name == NAME
    assert left_in(root)["models"] == [NAME]
    assert sorted(os.listdir(pulled.folder)) == FILES
    assert (pulled.source, pulled.path) == (f"hf-hub:timm/{NAME}", resolve.resolve("test_resnet"))
    assert cache.verify(NAME) == []
    size = len(next(iter(hub.files.values())).content)
    assert list(dict.fromkeys(stage for stage, _, _ in steps)) == ["download", "convert"]
    assert [values for values in steps if values[0] == "download"][-1] == ("download", size, size)

    classifier = Classifier.load(NAME)
    assert (classifier.spec.name, classifier.spec.weights["license"]) == (NAME, "apache-2.0")
    assert classifier.spec.weights["source"] == f"hf-hub:timm/{NAME}"
    assert len(classifier.spec.labels) == 1000
    expected = logits_of_torch(network(), classifier.spec)
    np.testing.assert_allclose(classifier.logits([picture]), expected, atol=1e-4)

    hub.asked.clear()
    assert pull(NAME, offline=True) == pulled
    assert hub.asked == []


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("nin", {}, "nin has no published weights.\nGive a folder of your own in timm's format: -m local-dir:FOLDER"),
        ("lenet5", {}, "lenet5 is built in: there is nothing to pull.\nUse it as it is: -m lenet5"),
        ("weights/lenet5", {}, "there is nothing to pull.\nUse it as it is: -m weights/lenet5"),
        ("vgg17", {}, "no model is called 'vgg17'"),
        ("test_resnet", {"offline": True}, "would be downloaded, but --offline was given.\nGo online"),
        ("hf-hub:me/birds", {"offline": True}, "would be downloaded, but --offline was given"),
        ("vit_giant_patch16_gap_224.in22k_ijepa", {}, "gives features only, so its answers would have no names.\n"),
        ("resmlp_12_224.fb_dino", {}, "1,000 numbers that are not known as ImageNet's classes"),
        ("resmlp_12_224.fb_dino", {}, "With names for its classes: visiontool models pull resmlp_12_224.fb_in1k"),
        ("mvitv2_base_cls.fb_inw21k", {}, "would have no names.\nChoose another network."),
        ("vgg16", {}, "cannot be downloaded: there is no such repository, or it is private"),
        ("hf-hub:me/birds", {}, "give the folder of a copy of the repository: -m local-dir:FOLDER"),
    ],
)
def test_what_cannot_be_pulled_says_what_to_do(name: str, options: dict[str, Any], words: str, root: Path) -> None:
    with pytest.raises(ModelError, match=re.escape(words)):
        pull(name, **options)
    assert cache.all_cached() == []
    assert all(names == [] for names in left_in(root).values())


def test_a_pull_waits_for_another_and_takes_its_model(root: Path) -> None:
    stages: list[str] = []
    waits = threading.Event()

    def progress(stage: str, *_: object) -> None:
        stages.append(stage)
        waits.set()

    puller = threading.Thread(target=pull, args=[NAME], kwargs={"progress": progress})
    with cache.lock(cache.models(), NAME):
        puller.start()
        assert waits.wait(10)
        with cache.unpublished(NAME) as folder:
            save_model(color_graph(), folder / "model.onnx", COLOR_SPEC.to_metadata())
            cache.publish(folder, NAME, "a test")
    puller.join(10)
    assert not puller.is_alive()
    assert stages == ["wait"]


def test_a_network_too_large_for_a_file_is_refused_before_it_is_downloaded(hub: HubServer) -> None:
    large = next(entry for entry in catalog.entries() if entry.params > 2**29 and entry.classes and entry.source)
    with pytest.raises(ModelError, match=r"M parameters; an .onnx file holds at most 537 M"):
        pull(large.name)
    assert hub.asked == []


def test_without_the_extra_the_error_names_the_command_that_installs_it(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "visiontool.pytorch.convert", raising=False)
    monkeypatch.delattr("visiontool.pytorch.convert", raising=False)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelError, match=rf"Pulling {NAME} needs packages .* not installed.\n.*visiontool\[train"):
        pull(NAME)
    assert hub.asked == []


def test_files_that_are_no_weights_of_the_network_leave_nothing(root: Path, hub: HubServer, tmp_path: Path) -> None:
    own = tmp_path / "other.pth"
    torch.save({"state_dict": {"module.conv.weight": torch.zeros(3)}}, own)
    page = b"<!DOCTYPE html><title>Log in</title>"
    hub.files.clear()
    hub.add_to_hub(f"timm/{NAME}", "model.safetensors", safetensors_torch.save({"x": torch.zeros(100_000)}))
    hub.add_to_hub("me/page", "config.json", page)
    hub.add_to_hub(
        "me/birds", "config.json", b'{"architecture": "test_resnet", "pretrained_cfg": {}, "num_classes": 9}'
    )
    for repository in ("me/page", "me/birds"):
        hub.add_to_hub(repository, "model.safetensors", page)
    for name, weights, kind, words in (
        (NAME, own, ModelError, f"^{own}: these are not the weights of test_resnet"),
        (NAME, None, ModelError, f"^hf-hub:timm/{NAME}: these are not the weights of test_resnet"),
        ("hf-hub:me/page", None, ConversionError, "^hf-hub:me/page: expected timm's config.json"),
        ("hf-hub:me/birds", None, ModelError, "^hf-hub:me/birds/model.safetensors: .*web page"),
    ):
        with pytest.raises(kind, match=words) as caught:
            pull(name, weights=weights)
        assert str(root) not in str(caught.value)
        assert left_in(root)["models"] == []
    assert own.exists()


@pytest.mark.slow
def test_another_input_size_is_another_model_and_a_damaged_one_is_made_anew(root: Path) -> None:
    path = pull("test_resnet", img_size=96).path
    assert Classifier.load("test_resnet@96").spec.input.size == (96, 96)
    with pytest.raises(resolve.ModelNotPulled):
        resolve.resolve("test_resnet")
    path.write_bytes(b"damaged")
    with pytest.raises(cache.DamagedModel):
        Classifier.load(f"{NAME}@96")
    assert pull("test_resnet@96").path == path
    assert cache.verify(f"{NAME}@96") == []


@pytest.mark.slow
def test_a_checkpoint_in_torchvisions_layout_is_pulled(
    root: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Path, run: Any
) -> None:
    model = network("squeezenet1_1")
    torch.save(model.state_dict(), tmp_path / "saved.pth")
    url = hub.add_checkpoint("squeezenet1_1", (tmp_path / "saved.pth").read_bytes())
    entry = catalog.find("squeezenet1_1")._replace(source=url)
    monkeypatch.setattr(catalog, "find", lambda name: entry)
    pulled = pull("squeezenet1_1")
    assert (pulled.name, pulled.source) == ("squeezenet1_1.tv_in1k", url)
    assert Classifier.load("squeezenet1_1").spec.weights["license"] == "bsd-3-clause"
    ran = run("predict", picture, "-m", "squeezenet1_1", "--weights", tmp_path / "saved.pth")  # which nobody published
    assert "so they have numbers.\nName them with --class-names FILE" in ran.err
    assert {row["label"] for row in json.loads(ran.out)["predictions"]} < set(map(str, range(1000)))
    again = pull("squeezenet1_1", weights=tmp_path / "saved.pth")
    assert re.fullmatch(r"squeezenet1_1\+[0-9a-f]{12}", again.name)
    assert again.source == "file saved.pth"
    assert left_in(root)["models"] == [again.name, pulled.name]


@pytest.mark.slow
def test_a_folder_in_timms_format_is_pulled_from_the_hub_and_from_the_disk(
    root: Path, hub: HubServer, picture: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "my birds"
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3).eval()
    config = {"label_names": ["wren", "owl", "emu"]}
    timm.models.save_for_hf(model, str(folder), model_config=config, safe_serialization=True)
    for file in ("config.json", "model.safetensors"):
        hub.add_to_hub("me/birds", file, (folder / file).read_bytes())
    for name, source in (("hf-hub:me/birds", "me--birds"), (f"local-dir:{folder}", "my_birds+")):
        with pytest.raises(resolve.ModelNotPulled):
            resolve.resolve(name)
        pulled = pull(name)
        assert pulled.name.startswith(source)
        assert pulled.source == name
        assert sorted(os.listdir(pulled.folder)) == FILES
        classifier = Classifier.load(name)
        assert classifier.path == pulled.path
        assert classifier.spec.labels == ("wren", "owl", "emu")
        expected = logits_of_torch(model, classifier.spec)
        np.testing.assert_allclose(classifier.logits([picture]), expected, atol=1e-4)


@pytest.mark.usefixtures("quick_exporter")
def test_weights_of_ones_own_have_the_names_that_are_given(root: Path, tmp_path: Path, picture: Path, run: Any) -> None:
    import visiontool.pytorch.architectures  # noqa: F401

    model = timm.create_model("cifar_resnet20", num_classes=3).eval()
    weights, names = tmp_path / "own.pth", tmp_path / "names.txt"
    torch.save({"model_state_dict": {f"model.{key}": value for key, value in model.state_dict().items()}}, weights)
    names.write_text("n02012849 crane\nn03126707 crane\nn01518878 ostrich, Struthio camelus\n")
    named = pull("cifar_resnet20", weights=weights, class_names=names)
    spec = Classifier.load(named.name).spec
    assert (spec.labels, spec.label_ids[:1]) == (("crane (bird)", "crane (machine)", "ostrich"), ("n02012849",))
    assert (spec.name, spec.weights["source"], spec.weights.get("license")) == (named.name, "file own.pth", None)
    assert "in1k" not in (named.folder / "config.json").read_text()
    np.testing.assert_allclose(Classifier.load(named.name).logits([picture]), logits_of_torch(model, spec), atol=1e-4)

    for command in (("predict",), ("explain", "-o", tmp_path / "map.png")):
        ran = run(
            *command, picture, "-m", "cifar_resnet20", "--weights", weights, "--class-names", names, "-q", "--json"
        )
        assert (ran.err, json.loads(ran.out)["model"]) == ("", named.name)
    names.write_text("cat\ndog\n")
    ran = run("models", "pull", "cifar_resnet20", "--weights", weights, "--class-names", names)
    assert (ran.code, ran.out) == (2, "")
    assert f"--class-names: 2 names, but the weights in {weights} have 3 classes.\nGive one name for each" in ran.err


@pytest.mark.slow
def test_weights_with_timms_config_beside_them_are_its_folder(root: Path, tmp_path: Path) -> None:
    model, folder = timm.create_model("test_resnet", num_classes=3), tmp_path / "birds"
    config = {"label_names": ["wren", "owl", "emu"], "pretrained_cfg": {"crop_pct": 0.5}}
    timm.models.save_for_hf(model, str(folder), model_config=config)  # pytorch_model.bin
    pulled = pull("test_resnet", weights=folder / "pytorch_model.bin")
    spec = Classifier.load(pulled.name).spec
    assert (spec.labels, spec.crop_pct) == (("wren", "owl", "emu"), 0.5)
    assert pulled == pull(f"local-dir:{folder}")
    assert sorted(os.listdir(pulled.folder)) == FILES


def test_a_folder_of_a_classic_needs_no_torch(
    tmp_path: Path, picture: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv3_small_100", num_classes=3).eval()
    folder, names = tmp_path / "birds", {"label_names": ["wren", "owl", "emu"]}
    config = {**names, "accuracy": [{"dataset": "birds", "top1": 0.9}], "pretrained_cfg": {"crop_pct": 0.5}}
    timm.models.save_for_hf(model, str(folder), model_config=config, safe_serialization=True)
    for file in ("config.json", "model.safetensors"):
        hub.add_to_hub("me/birds", file, (folder / file).read_bytes())

    def converter(name: str) -> None:
        raise ModelError(f"{name} needs torch")

    monkeypatch.setattr("visiontool.pytorch.pull._converter", converter)
    for name in (f"local-dir:{folder}", "hf-hub:me/birds"):
        pulled = pull(name)
        assert (pulled.source, sorted(os.listdir(pulled.folder))) == (name, FILES)
        classifier = Classifier(pulled.name)
        spec = classifier.spec
        assert (spec.labels, spec.crop_pct, spec.accuracy[0]["top1"]) == (("wren", "owl", "emu"), 0.5, 0.9)
        np.testing.assert_allclose(classifier.logits([picture]), logits_of_torch(model, spec), atol=1e-4)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"in_chans": 3', '"in_chans": 1'))
    with pytest.raises(ModelError, match="needs torch"):
        pull(f"local-dir:{folder}")
