"""Files of optimum, timm and transformers.js beside a model: its pictures are made ready as their tools do it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from conftest import save_model, save_picture
from PIL import Image

from visiontool import Classifier
from visiontool.errors import ModelError
from visiontool.exporting.source import find
from visiontool.model.foreign import Description

VIT = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}, "resample": 2, "do_resize": True}
VIT |= {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3}
VIT |= {"image_std": [0.25, 0.5, 1.0], "do_center_crop": None, "crop_size": None}
CONFIG = {"architectures": ["ViTForImageClassification"], "num_channels": 3, "problem_type": None}
CONFIG |= {"id2label": {"1": "green", "0": "red", "2": "LABEL_2"}}
LABELS = ("red", "green", "LABEL_2")
PIXELS = np.random.default_rng(0).integers(0, 256, (37, 50, 3), np.uint8)


def graph(shape: tuple[int | str, ...]) -> onnx.ModelProto:
    """A graph that gives the mean of each channel, with axes as optimum names them."""
    return onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 20]>
        main (float[{",".join(map(str, shape))}] pixel_values) => (float[batch_size, 3] logits)
        <int64[2] axes = {{2, 3}}>
        {{ logits = ReduceMean <keepdims = 0> (pixel_values, axes) }}"""
    )


SYMBOLIC = ("batch_size", "num_channels", "height", "width")
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a folder with a model and the files beside it: None leaves one out, bytes and lists are written as such."""

    def make_(processor: Any = VIT, config: Any = CONFIG, *, shape: tuple[int | str, ...] = SYMBOLIC) -> Path:
        for name, content in (("config.json", config), ("preprocessor_config.json", processor)):
            if content is not None:
                data = content if isinstance(content, bytes) else json.dumps(content).encode("utf-8-sig")
                (tmp_path / name).write_bytes(data)
        save_model(graph(shape), tmp_path / "model.onnx")
        return tmp_path

    return make_


def as_transformers_does(
    size: int | tuple[int, int],
    crop: tuple[int, int] | None,
    resample: int = 2,
    factor: float = 1 / 255,
    mean: Any = (0.5, 0.5, 0.5),
    std: Any = (0.25, 0.5, 1.0),
) -> list[float]:
    """The mean of each channel of what a graph is fed. A `size` of one number is the short side's."""
    image = Image.fromarray(PIXELS)
    if isinstance(size, int):
        size = (size, int(size * image.width / image.height))
    image = image.resize(size[::-1], Image.Resampling(resample))
    if crop is not None:
        top, left = round((size[0] - crop[0]) / 2), round((size[1] - crop[1]) / 2)
        image = image.crop((left, top, left + crop[1], top + crop[0]))
    values = (np.asarray(image, np.float64) * factor - mean) / std
    return values.mean(axis=(0, 1)).tolist()


CONVNEXT = {"feature_extractor_type": "ConvNextFeatureExtractor", "crop_pct": 0.875, "resample": 3}
CROP = {"do_center_crop": True, "crop_size": {"height": 8, "width": 8}}
KINDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"size": (8, 8), "crop": None}),
    ({"size": 8}, {"size": (8, 8), "crop": None}),  # as old ones write it
    ({"image_processor_type": "DeiTImageProcessor", "size": 10, **CROP, "resample": 3},
     {"size": (10, 10), "crop": (8, 8), "resample": 3}),
    ({"size": {"shortest_edge": 11, "longest_edge": None}, **CROP}, {"size": 11, "crop": (8, 8)}),
    ({"image_processor_type": "CLIPImageProcessor", "size": 8, "crop_size": 8, "do_center_crop": True},
     {"size": 8, "crop": (8, 8)}),
    ({"size": 8, "default_to_square": False, **CROP}, {"size": 8, "crop": (8, 8)}),
    ({**CONVNEXT, "image_processor_type": None, "size": 7}, {"size": 8, "crop": (7, 7), "resample": 3}),
    ({**CONVNEXT, "image_processor_type": "ConvNextImageProcessorFast", "size": {"shortest_edge": 384}},
     {"size": (384, 384), "crop": None, "resample": 3}),
    ({"image_processor_type": "PoolFormerImageProcessor", "size": {"shortest_edge": 8}, "crop_pct": 0.9, **CROP},
     {"size": 8, "crop": (8, 8)}),
    ({"image_processor_type": "LevitImageProcessor", "size": {"shortest_edge": 7}, "do_center_crop": True,
      "crop_size": 7}, {"size": 8, "crop": (7, 7)}),
    ({"do_rescale": False}, {"size": (8, 8), "crop": None, "factor": 1, "mean": 0.5}),
    ({"do_normalize": False}, {"size": (8, 8), "crop": None, "mean": 0, "std": 1}),
    ({"rescale_factor": 1 / 127.5, "rescale_offset": True, "image_mean": [0.0] * 3},
     {"size": (8, 8), "crop": None, "factor": 1 / 127.5, "mean": 1}),
    ({"include_top": True}, {"size": (8, 8), "crop": None, "std": (0.0625, 0.25, 1.0)}),
]  # fmt: skip


@pytest.mark.parametrize(("processor", "expected"), KINDS)
def test_pictures_are_made_ready_as_transformers_does_it(processor, expected, make):
    classifier = Classifier.load(make(VIT | processor))
    assert classifier.assumed == ()
    assert classifier.spec.labels == LABELS
    assert classifier.logits([PIXELS])[0].tolist() == pytest.approx(as_transformers_does(**expected), abs=1e-4)


def test_mobilevit_takes_blue_first_and_has_no_mean(make):
    processor = {"image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": True, "resample": 2}
    classifier = Classifier.load(make(processor | {"size": {"shortest_edge": 9}, **CROP}))
    expected = as_transformers_does(9, (8, 8), mean=0, std=1)[::-1]
    assert classifier.logits([PIXELS])[0].tolist() == pytest.approx(expected, abs=1e-4)


def test_what_the_user_says_comes_first(make, run, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("a\nb\nc\n")
    folder = make(VIT | {"size": {"shortest_edge": 10}, **CROP})
    description = Description(class_names=names, std=(0.1,), img_size=(6, 6), crop_pct=1.0, interpolation="box")
    classifier = Classifier.load(folder, description=description, crop_mode="squash")
    assert classifier.spec.labels == ("a", "b", "c")
    expected = as_transformers_does((6, 6), None, resample=4, std=0.1)
    assert classifier.logits([PIXELS])[0].tolist() == pytest.approx(expected, abs=1e-4)
    ran = run("predict", save_picture(tmp_path / "a.png", (255, 0, 0)), "-m", folder, "--json")
    assert (ran.code, ran.err) == (0, "Model model: 3 classes, on cpu.\n")
    assert json.loads(ran.out)["predictions"][0]["label"] == "red"


TIMM = {"architecture": "resnet18", "num_classes": 3, "label_names": ["n01440764", "n01443537", "n01484850"]}
TIMM |= {"label_descriptions": {"n01440764": "tench, Tinca", "n01443537": "goldfish", "n01484850": "shark"}}
CFG = {"input_size": [3, 8, 8], "mean": [0.5] * 3, "std": [0.25, 0.5, 1], "interpolation": "bicubic", "crop_pct": 0.8}


def test_timms_config_is_read_too(make):
    classifier = Classifier.load(make(None, {**TIMM, "pretrained_cfg": CFG}))
    assert classifier.assumed == ()
    assert classifier.spec.labels == ("tench", "goldfish", "shark")
    assert classifier.spec.label_ids == ("n01440764", "n01443537", "n01484850")
    expected = as_transformers_does(10, (8, 8), resample=3)
    assert classifier.logits([PIXELS])[0].tolist() == pytest.approx(expected, abs=1e-4)


def test_an_export_knows_them_too_where_tensors_lie_in_other_files(make):
    folder = make()
    inline = Classifier.load(folder).spec
    model = onnx.load(folder / "model.onnx")
    model.graph.initializer[0].raw_data = np.array([2, 3]).tobytes()
    del model.graph.initializer[0].int64_data[:]
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    with find(str(folder)) as source:
        assert source.spec == inline
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=f"^{folder / 'config.json'}: not valid JSON"):
        find(str(folder))


def test_the_folder_above_onnx_is_looked_into(make):
    folder = make()
    (folder / "onnx").mkdir()
    (folder / "model.onnx").rename(folder / "onnx" / "model.onnx")
    assert Classifier.load(folder / "onnx" / "model.onnx").spec.labels == LABELS


def test_what_they_do_not_say_is_asked_for(make):
    with pytest.raises(ModelError, match="Add --img-size N --mean R,G,B --std R,G,B as it was trained"):
        Classifier.load(make(None))
    with pytest.raises(ModelError, match="cannot tell which axis"):
        Classifier.load(make(None, {"name": "of something else"}))


@pytest.mark.parametrize(
    ("processor", "config", "words"),
    [
        (VIT, CONFIG | {"problem_type": "multi_label_classification"},
         "config.json: 'problem_type' is 'multi_label_classification'; expected one class a picture"),
        (VIT, CONFIG | {"id2label": {"0": "red", "2": "blue"}}, "config.json: 'id2label' must name each class"),
        (VIT, CONFIG | {"id2label": {"0": "a", "1": "b"}}, "the config.json beside it names 2 classes"),
        (VIT, CONFIG | {"num_channels": "3"}, "'num_channels' must be a whole number from 1 to 3, not '3'"),
        (VIT, b"{", "config.json: not valid JSON"),
        (None, {**TIMM, "pretrained_cfg": CFG | {"mean": [123.7]}}, "'pretrained_cfg.mean' must be a list"),
        (VIT | {"do_resize": False}, CONFIG, "preprocessor_config.json: does not resize pictures ('do_resize')"),
        (VIT | {"size": {"shortest_edge": 8}}, CONFIG, "pictures keep their proportions and are not cropped ('size'"),
        (VIT | {"size": {"shortest_edge": 8, "longest_edge": 9}}, CONFIG, "both 'shortest_edge' and 'longest_edge'"),
        (VIT | {"size": {"height": 8, "width": 1e9}}, CONFIG, "'size.width' must be a whole number from 1 to 4096"),
        (VIT | {"do_center_crop": True, "crop_size": 9}, CONFIG, "9x9 pixels ('crop_size') are cut out of 8x8"),
        (VIT | {"image_mean": [123.7] * 3}, CONFIG, "come to mean 123.7, 123.7, 123.7, std 0.25, 0.5, 1 on the scale"),
        (VIT | {"rescale_offset": True}, CONFIG, "'rescale_offset' goes with the 'rescale_factor' 0.00392157"),
    ],
)  # fmt: skip
def test_what_is_wrong_or_cannot_be_done_is_named(processor, config, words, make):
    folder = make(processor, config)
    with pytest.raises(ModelError) as caught:
        Classifier.load(folder)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert words in message


def test_a_size_that_the_graph_does_not_have_is_told(make):
    with pytest.raises(ModelError, match="has 1 channels, but the files beside it have mean and std of another number"):
        Classifier.load(make(config=CONFIG | {"num_channels": 1}))
    with pytest.raises(ModelError, match="takes 9x9 pixels .*, which a file beside it contradicts"):
        Classifier.load(make(shape=("N", 3, 9, 9)))
