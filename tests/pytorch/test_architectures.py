"""The networks that timm lacks: their parameters by hand, their shapes, and timm's interface."""

import math

import pytest

timm = pytest.importorskip("timm")
torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

from torch import nn  # noqa: E402

import visiontool.pytorch.architectures as architectures  # noqa: E402
from visiontool.pytorch.architectures import cifar_resnet  # noqa: E402


def parameters(name):
    with torch.device("meta"):  # without random numbers
        return sum(parameter.numel() for parameter in timm.create_model(name).parameters())


OURS = [name for module in architectures.__all__ for name in timm.list_models(module=module)]


def test_these_are_the_networks_and_none_of_them_shadows_timms():
    assert sorted(OURS) == sorted(
        ["alexnet", "bn_inception", "googlenet", "lenet5", "nin", "squeezenet1_0", "squeezenet1_1"]
        + [f"shufflenet_v2_x{width}" for width in ("0_5", "1_0", "1_5", "2_0")]
        + [f"cifar_resnet{version}{layers}" for version in ("", "v2_") for layers in (20, 32, 44, 56)]
    )
    for name in OURS:
        assert timm.models.model_entrypoint(name).__module__.startswith("visiontool."), name


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("lenet5", 61_706),  # the textbook's
        ("nin", 7_595_176),  # the published file of 29 MiB
        ("bn_inception", 11_295_240),  # the published model's, with the biases of its convolutions
        ("cifar_resnet20", 269_722),  # the paper's 0.27M, 0.46M, 0.66M and 0.85M
        ("cifar_resnet32", 464_154),
        ("cifar_resnet44", 658_586),
        ("cifar_resnet56", 853_018),
        ("cifar_resnetv2_20", 269_722),
        ("cifar_resnetv2_56", 853_018),
    ],
)
def test_parameters(name, total):
    assert parameters(name) == total


@pytest.mark.parametrize("name", [name for name in OURS if hasattr(torchvision.models, name)])
def test_torchvisions_networks_are_torchvisions(name):
    cfg = timm.models.get_pretrained_cfg(name)
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    transforms = weights.transforms()
    assert (cfg.tag, cfg.url) == ("tv_in1k", weights.url)
    assert cfg.input_size == (3, *transforms.crop_size * 2)
    assert math.floor(cfg.input_size[1] / cfg.crop_pct) == transforms.resize_size[0]  # as timm and `preprocess` do it
    assert parameters(name) == weights.meta["num_params"]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in ("lenet5", "cifar_resnet20") else pytest.mark.slow) for name in OURS],
)
def test_they_have_timms_interface(name):
    model = timm.create_model(name).eval()
    features, x = model.num_features, torch.zeros(2, *model.pretrained_cfg["input_size"])
    with torch.inference_mode():
        maps = model.forward_features(x)
        embedding = model.forward_head(maps, pre_logits=True)
        assert maps.shape[:2] == (2, features)
        if (size := model.pretrained_cfg.get("pool_size")) is not None:
            assert maps.shape[2:] == size
        assert embedding.shape == (2, model.head_hidden_size)
        assert torch.equal(model(x), model.forward_head(maps))
        assert model(x).shape == (2, model.num_classes)
        assert model.get_submodule(model.pretrained_cfg["classifier"]).weight.shape[0] == model.num_classes
        assert model.get_submodule(model.pretrained_cfg["first_conv"]).weight.shape[1] == x.shape[1]

        model.reset_classifier(7)
        assert model.num_classes == 7
        head = model.get_classifier()
        head = head if isinstance(head, nn.Linear) else head[-1]  # in place of a convolution: pool, flatten, linear
        torch.testing.assert_close(model(x), head(embedding))


@pytest.mark.parametrize("name", ["cifar_resnet20", pytest.param("bn_inception", marks=pytest.mark.slow)])
def test_they_come_back_from_a_folder(name, tmp_path):
    model = timm.create_model(name, num_classes=7)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).state_dict()
    assert all(torch.equal(again[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["squeezenet1_1", pytest.param("nin", marks=pytest.mark.slow)])
def test_a_linear_head_can_be_had_from_the_start(name):
    model = timm.create_model(name, num_classes=7, linear_head=True).eval()
    x = torch.rand(2, 3, 99, 99, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        embedding = model.forward_head(model.forward_features(x), pre_logits=True)
        torch.testing.assert_close(model(x), model.get_submodule("classifier.2")(embedding))


def test_the_small_resnets_shortcuts_keep_every_second_pixel_and_fill_with_zeros():
    x = torch.arange(2 * 4 * 4, dtype=torch.float32).view(1, 2, 4, 4)
    expected = torch.zeros(1, 4, 2, 2)
    expected[0, 0] = torch.tensor([[0, 2], [8, 10]])
    expected[0, 1] = torch.tensor([[16, 18], [24, 26]])
    block = cifar_resnet.Block(2, 4).eval()
    nn.init.zeros_(block.conv2.weight)
    assert torch.equal(block(x), expected)


def test_pre_activation_blocks_add_what_is_activated_only_where_a_stage_begins():
    x = torch.tensor([-4.0, 4.0]).view(1, 2, 1, 1)
    first, later = (cifar_resnet.PreActivationBlock(2, 2, first).eval() for first in (True, False))
    for block in (first, later):
        nn.init.zeros_(block.conv2.weight)
        block.norm1.running_mean[:] = 1
        block.norm1.eps = 0
    assert later(x).flatten().tolist() == [-4, 4]
    assert first(x).flatten().tolist() == [0, 3]  # relu(x - 1)


@pytest.mark.parametrize("name", ["alexnet", "googlenet", "shufflenet_v2_x1_0", "squeezenet1_1"])
def test_torchvisions_networks_take_three_channels_only(name):
    with pytest.raises(ValueError, match="takes 3 channels, not 1"):
        timm.create_model(name, in_chans=1)
