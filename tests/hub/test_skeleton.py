"""Skeletons: there is one for each classic, and filled it is the network that torch has."""

import json
import re
import sys

import numpy as np
import pytest
from conftest import ROOT
from safetensors.numpy import load_file, save_file

from visiontool import Classifier, ModelError, UsageError
from visiontool.graph import fill
from visiontool.hub import catalog, skeleton, state_dict

sys.path.insert(0, str(ROOT / "scripts"))
import check_conversions

CLASSICS = check_conversions.with_skeleton()
NAME = "squeezenet1_1"
FAMILIES = (  # one network of each
    *("alexnet", "vgg11_bn", "googlenet", "resnet18", NAME, "resnetv2_50", "wide_resnet50_2", "densenet121"),
    *("legacy_xception", "resnext50_32x4d", "mobilenetv3_small_100", "legacy_seresnet18", "shufflenet_v2_x0_5"),
    *("mnasnet_small", "efficientnet_b0", "regnety_002", "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"),
    *("swin_tiny_patch4_window7_224", "convnext_tiny", "maxvit_tiny_tf_224"),
)


def test_every_classic_with_weights_has_a_skeleton_and_all_are_small():
    assert [name for name in CLASSICS if not skeleton.exists(catalog.find(name))] == []
    files = list(skeleton.SKELETONS.iterdir())
    assert sorted(file.name for file in files) == sorted(f"{name}.onnx.gz" for name in CLASSICS)
    assert sum(file.stat().st_size for file in files) < 2 * 2**20
    family = {entry.architecture: entry.classic.family for entry in catalog.classics()}
    assert sorted(family[name] for name in FAMILIES) == sorted({family[name] for name in CLASSICS})


@pytest.mark.parametrize("name", [name for name in CLASSICS if name in FAMILIES])
def test_a_skeleton_has_all_parameters_and_none_of_their_numbers(name):
    graph = skeleton.load(name).graph
    shapes = fill.parameters(skeleton.load(name))
    learned = [key for key in shapes if key not in skeleton.NORMALIZATION and ".running_" not in key]
    assert sum(int(np.prod(shapes[key])) for key in learned) == catalog.find(name).params
    assert not any(tensor.name in shapes for tensor in graph.initializer)
    assert not any(part.metadata_props or part.doc_string for part in (*graph.node, *graph.input, *graph.value_info))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", FAMILIES)
def test_filled_it_answers_as_torch_does(name):
    size = 107 if skeleton.exists(catalog.find(name), 107) else None  # odd, and small
    row = dict(
        zip(
            check_conversions.SKELETON_COLUMNS,
            map(str, check_conversions.checked_skeleton(name, (1, 2), size)),
            strict=True,
        )
    )
    assert not check_conversions.is_outside(row)


@pytest.fixture(scope="module")
def state():
    """Random weights of SqueezeNet under timm's names."""
    random = np.random.default_rng(0)
    shapes = fill.parameters(skeleton.load(NAME))
    return {key: random.normal(0, 0.05, shape) for key, shape in shapes.items() if key not in skeleton.NORMALIZATION}


def filled(folder, state, **how):
    """The model that a file with these weights becomes."""
    save_file({key: np.ascontiguousarray(values) for key, values in state.items()}, folder / "w.safetensors")
    model = skeleton.fill_from(catalog.find(NAME), folder / "w.safetensors", name="n", source="s", license="", **how)
    model.write(folder)
    assert model.to_bytes() == (folder / "model.onnx").read_bytes()
    return Classifier(folder / "model.onnx", device="cpu")


def test_a_model_of_another_number_of_classes(state, tmp_path):
    ten = {key: values[:10] if key.startswith("classifier.1.") else values for key, values in state.items()}
    few = filled(tmp_path, ten, class_names=(tuple("abcdefghij"), None))
    assert few.spec.labels == tuple("abcdefghij")
    pixels = np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3), np.uint8)
    (tmp_path / "all").mkdir()
    both = [classifier.outputs(pixels, "logits") for classifier in (few, filled(tmp_path / "all", state))]
    np.testing.assert_allclose(both[0], both[1][:, :10], rtol=1e-5)
    assert few.embed(list(pixels)).shape == (2, 512)
    with pytest.raises(UsageError, match="2 names, but the weights in .* have 10 classes"):
        filled(tmp_path, ten, class_names=(("a", "b"), None))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_weights_of_other_types_are_taken_as_float32(dtype, state, tmp_path):
    classifier = filled(tmp_path, {f"module.{key}": values.astype(dtype) for key, values in state.items()})
    kept = load_file(tmp_path / "model.safetensors")
    assert all(np.array_equal(kept[key], values.astype(dtype).astype(np.float32)) for key, values in state.items())
    assert classifier.spec.weights["params"] == 1_235_496
    assert classifier.spec.labels[:2] == ("tench", "goldfish")


def test_one_skeleton_serves_for_all_sizes_where_the_graph_is_the_same(state, tmp_path):
    entry, vit = catalog.find(NAME), catalog.find("vit_tiny_patch16_224")
    assert skeleton.exists(entry, 160)
    assert skeleton.exists(vit, 224)
    assert not skeleton.exists(vit, 160)
    assert not skeleton.exists(catalog.find("convnext_tiny.in12k"))
    small = filled(tmp_path, state, img_size=160)
    assert small.spec.input.size == (160, 160)
    pixels = np.random.default_rng(1).integers(0, 256, (2, 160, 160, 3), np.uint8)
    assert small.outputs(pixels, "feature_map").shape == (2, 512, 9, 9)
    assert json.loads((tmp_path / "config.json").read_bytes())["pretrained_cfg"]["input_size"] == [3, 160, 160]


def test_weights_that_do_not_fit_are_listed(state, tmp_path):
    state = {**state, "extra": np.ones(3), "features.0.bias": np.ones(7)}
    del state["classifier.1.bias"]
    words = (
        r"w.safetensors: these are not the weights of squeezenet1_1.\nmissing: classifier.1.bias; left over: extra; "
        r"of another shape: features.0.bias \(7,\) for \(64,\)"
    )
    with pytest.raises(ModelError, match=words):
        filled(tmp_path, state)
    assert not (tmp_path / "model.onnx").exists()


# Files of the networks' authors: what timm calls a layer, and what they do.
AUTHORS = {
    "densenet121": [(r"(denselayer\d+\.(?:norm|conv))([12]\.)", r"\1.\2")],
    "swin_tiny_patch4_window7_224": [
        *((rf"^layers\.{stage}\.downsample", f"layers.{stage - 1}.downsample") for stage in (1, 2, 3)),
        (r"^head\.fc\.", "head."),
    ],
    "convnext_tiny": [
        (r"^head\.norm\.", "norm."),
        (r"^head\.fc\.", "head."),
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d+)\.downsample\.", r"downsample_layers.\1."),
        (r"\.blocks\.", "."),
        ("conv_dw", "dwconv"),
        (r"mlp\.fc", "pwconv"),
    ],
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", CLASSICS)
def test_names_are_changed_as_timm_changes_them(name):
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    from visiontool.pytorch import weights

    theirs = check_conversions.TORCHVISION_NAMES.get(name, name)
    with torch.device("cpu" if "regnet" in theirs else "meta"):  # these compute widths with tensors
        model = weights.create(catalog.find(name).name)
        tensors = model.state_dict()
        if theirs in torchvision.models.list_models(torchvision.models):
            tensors = torchvision.models.get_model(theirs).state_dict()
    names = list(model.state_dict())
    for pattern, replacement in AUTHORS.get(name, ()):
        names = [re.sub(pattern, replacement, other) for other in names]
    expected, parameters = shapes_of(model.state_dict()), fill.parameters(skeleton.load(name))
    for file in (tensors, dict(zip(names, model.state_dict().values(), strict=True))):
        timms = shapes_of(weights._renamed(model, file))
        if not state_dict.faults(expected, timms)[1]:  # torchvision's names are not all that timm takes
            assert shapes_of(skeleton.renamed(name, parameters, file)) == timms
    assert timms == expected


def shapes_of(tensors):
    return {key: tuple(tensors[key].shape) for key in state_dict.learned(tensors)}
