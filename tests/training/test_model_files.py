"""A run's files for timm: written without torch, and torch gives the same logits with them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT
from safetensors.numpy import load_file, save_file

from visiontool import Classifier, InputSpec, ModelSpec
from visiontool.data.discover import find_images
from visiontool.graph.head import with_head
from visiontool.training.head import Features, Head
from visiontool.training.model_files import write_timm_files

LENET = ROOT / "weights" / "lenet5"
LABELS = ("one", "two, or a pair", "drei", "\u0447\u0435\u0442\u044b\u0440\u0435")


def make_run(source, folder, **changes):
    """A run in `folder`: the network of the model file `source` with a new head. Returns the head."""
    spec = Classifier.load(source).spec
    random = np.random.default_rng(7)
    width = Classifier.load(source).embedding_width()
    weight = (random.standard_normal((len(LABELS), width)) / width**0.5).astype(np.float32)
    bias = random.standard_normal(len(LABELS)).astype(np.float32)
    folder.mkdir()
    usual = {"name": "run", "labels": LABELS, "label_ids": None, "weights": {"license": "mit"}, "accuracy": ()}
    spec = with_head(source, folder / "model.onnx", weight, bias, replace(spec, **(usual | changes)))
    assert write_timm_files(source, folder, spec, Head(weight, bias, 1.0, Features((width,))))
    return weight, bias


def random_pixels(spec):
    return np.random.default_rng(0).integers(0, 256, (3, *spec.input.size, 3), np.uint8)


def timms_logits(run, pixels):
    """What timm's network of the run gives for the pixels, normalized as its config.json says."""
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    from visiontool.pytorch.exporters import OnnxWrapper

    model = timm.create_model(f"local-dir:{run}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(model)
    spec = InputSpec(size=tuple(config["input_size"][1:]), mean=tuple(config["mean"]), std=tuple(config["std"]))
    with torch.inference_mode():
        return OnnxWrapper(model, spec)(torch.from_numpy(pixels))[0].numpy()


def check_logits(run):
    classifier = Classifier.load(run)
    pixels = random_pixels(classifier.spec)
    logits = classifier.outputs(pixels, "logits")
    assert np.ptp(logits, axis=0).min() > 1e-3  # the pictures are told apart
    np.testing.assert_allclose(timms_logits(run, pixels), logits, rtol=1e-4, atol=1e-4)


def test_the_config_says_what_the_model_file_says(tmp_path):
    changes = {"crop_mode": "border", "crop_pct": 0.75, "interpolation": "bicubic"}
    make_run(LENET / "model.onnx", tmp_path / "run", **changes)
    text = (tmp_path / "run" / "config.json").read_text(encoding="utf-8")
    config = json.loads(text)
    assert (config["architecture"], config["num_classes"], config["label_names"]) == ("lenet5", 4, list(LABELS))
    assert config["model_args"] == {"in_chans": 1, "num_classes": 4}
    assert config["accuracy"] == []  # that of the digits is not the new one's
    assert config["pretrained_cfg"] == {
        **changes,
        "tag": "mnist",
        "custom_load": False,
        "input_size": [1, 32, 32],
        "mean": [0.1307],
        "std": [0.3081],
        "num_classes": 4,
        "classifier": "fc",
        "license": "mit",
    }
    assert str(ROOT) not in text
    assert str(tmp_path) not in text
    make_run(LENET / "model.onnx", tmp_path / "ids", label_ids=("n01", "n02", "n03", "n04"))
    config = json.loads((tmp_path / "ids" / "config.json").read_text(encoding="utf-8"))
    assert config["label_names"] == ["n01", "n02", "n03", "n04"]
    assert config["label_descriptions"]["n02"] == "two, or a pair"


@pytest.mark.slow
def test_timm_gives_the_logits_of_the_run_and_of_a_run_on_it(tmp_path):
    pytest.importorskip("torch")
    import visiontool.pytorch.architectures  # noqa: F401

    make_run(LENET / "model.onnx", tmp_path / "run", crop_mode="squash", crop_pct=0.8)
    check_logits(tmp_path / "run")
    make_run(tmp_path / "run" / "model.onnx", tmp_path / "again", labels=("a", "b", "c", "d"))
    check_logits(tmp_path / "again")


def beside(tmp_path, tensors):
    """A folder with LeNet-5's model file and config, and `tensors` as its weights."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("model.onnx", "config.json"):
        shutil.copyfile(LENET / name, folder / name)
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_only_the_head_differs_and_the_rest_keeps_its_precision(tmp_path):
    tensors = {name: tensor.astype(np.float16) for name, tensor in load_file(LENET / "model.safetensors").items()}
    tensors |= {"mask": np.ones(5, np.uint8), "steps": np.array(7)}
    source = beside(tmp_path, tensors)
    weight, bias = make_run(source / "model.onnx", tmp_path / "run")
    after = load_file(tmp_path / "run" / "model.safetensors")
    assert np.array_equal(after["fc.weight"], weight)
    assert np.array_equal(after["fc.bias"], bias)
    assert {name: tensor.dtype for name, tensor in after.items()} == {
        name: np.float32 if name.startswith("fc.") else tensor.dtype for name, tensor in tensors.items()
    }
    assert all(np.array_equal(after[name], tensors[name]) for name in tensors if not name.startswith("fc."))


@pytest.mark.parametrize("fault", ["no files", "other network", "other tool", "no classifier"])
def test_nothing_is_written_where_timm_could_not_give_the_logits(fault, tmp_path):
    tensors = load_file(LENET / "model.safetensors")
    if fault == "other network":
        tensors["fc.weight"] = tensors["fc.weight"] * 1.1
    source = beside(tmp_path, tensors)
    config = source / "config.json"
    match fault:
        case "no files":
            config.unlink()
        case "other tool":
            config.write_text('{"architectures": ["ViTForImageClassification"]}')
        case "no classifier":
            config.write_text(config.read_text().replace('"classifier": "fc"', '"classifier": null'))
    run = tmp_path / "run"
    run.mkdir()
    spec = replace(Classifier.load(LENET).spec, labels=("a", "b"))
    head = Head(np.ones((2, 84), np.float32), np.ones(2, np.float32), 1.0, Features((84,)))
    assert not write_timm_files(source / "model.onnx", run, spec, head)
    assert list(run.iterdir()) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("architecture", "size", "layers"),
    [
        ("resnet18", 33, ["fc"]),  # linear
        ("alexnet", 63, ["classifier.6"]),  # the last of three layers; the other two lead to the embedding
        ("squeezenet1_1", 47, ["classifier.2"]),  # was a convolution ahead of the pool
        ("deit_tiny_distilled_patch16_224", 32, ["head", "head_dist"]),  # the mean of two classifiers
        ("convnext_atto", 32, ["head.fc"]),  # a norm between pool and classifier
        ("mobilenetv3_small_050", 33, ["classifier"]),  # a convolution between pool and classifier
        ("resnetv2_18", 33, ["head.fc"]),  # a convolution of 1x1 behind the pool
        ("cifar_resnet20", 32, ["head.fc"]),
    ],
)
def test_timm_gives_the_logits_for_every_kind_of_head(architecture, size, layers, tmp_path):
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    from random_weights import random_weights

    from visiontool.pytorch import parity
    from visiontool.pytorch import weights as backbone
    from visiontool.pytorch.convert import convert

    model = backbone.create(architecture, img_size=size)
    spec = ModelSpec(
        name=architecture,
        labels=tuple(map(str, range(model.num_classes))),
        input=InputSpec(size=(size, size), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
    )
    random_weights(model, parity.normalized(random_pixels(spec), spec.input))
    source = tmp_path / "source"
    timm.models.save_for_hf(model, source, safe_serialization=True, data_config={"input_size": (3, size, size)})
    samples = list(find_images([str(ROOT / "samples")]))
    convert(model, spec, source / "model.onnx", samples, batches=(1, 2))

    weight, _ = make_run(source / "model.onnx", tmp_path / "run")
    check_logits(tmp_path / "run")
    new = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True)
    assert new.num_classes == len(LABELS)
    for layer in layers:
        assert torch.equal(new.get_submodule(layer).weight.flatten(1), torch.from_numpy(weight))
    if architecture in ("squeezenet1_1", "deit_tiny_distilled_patch16_224"):  # the run's head is of another kind
        make_run(tmp_path / "run" / "model.onnx", tmp_path / "again")
        check_logits(tmp_path / "again")
