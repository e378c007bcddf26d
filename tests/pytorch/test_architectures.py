"""The networks that timm lacks: their parameters by hand, their shapes, and timm's interface."""

import math

import pytest

timm = pytest.importorskip("timm")
torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

from torch import nn  # noqa: E402

import visiontool.pytorch.architectures as architectures  # noqa: E402
from visiontool.pytorch.architectures import cifar_resnet  # noqa: E402


def conv(in_channels, channels, kernel):
    """Parameters of a convolution with bias."""
    return in_channels * channels * kernel * kernel + channels


def norm(channels):
    return 2 * channels


def parameters(name):
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


def test_lenet5_has_the_parameters_of_the_textbook():
    expected = conv(1, 6, 5) + conv(6, 16, 5) + conv(16, 120, 5) + (120 * 84 + 84) + (84 * 10 + 10)
    assert parameters("lenet5") == expected == 61_706


def test_nin_has_the_parameters_of_the_published_model():
    first = conv(3, 96, 11) + 2 * conv(96, 96, 1)
    second = conv(96, 256, 5) + 2 * conv(256, 256, 1)
    third = conv(256, 384, 3) + 2 * conv(384, 384, 1)
    fourth = conv(384, 1024, 3) + conv(1024, 1024, 1) + conv(1024, 1000, 1)
    assert parameters("nin") == first + second + third + fourth == 7_595_176


def test_bn_inception_has_the_parameters_of_the_published_model():
    def unit(in_channels, channels, kernel):
        return conv(in_channels, channels, kernel) + norm(channels)

    def inception(in_channels, conv1x1, conv3x3, double3x3, projection):
        (reduced3, maps3), (reduced5, maps5) = conv3x3, double3x3
        parts = unit(in_channels, reduced3, 1) + unit(reduced3, maps3, 3)
        parts += unit(in_channels, reduced5, 1) + unit(reduced5, maps5, 3) + unit(maps5, maps5, 3)
        if conv1x1:  # not where height and width are halved
            parts += unit(in_channels, conv1x1, 1) + unit(in_channels, projection, 1)
        return parts

    stem = unit(3, 64, 7) + unit(64, 64, 1) + unit(64, 192, 3)
    third = inception(192, 64, (64, 64), (64, 96), 32) + inception(256, 64, (64, 96), (64, 96), 64)
    third += inception(320, 0, (128, 160), (64, 96), 0)
    fourth = inception(576, 224, (64, 96), (96, 128), 128) + inception(576, 192, (96, 128), (96, 128), 128)
    fourth += inception(576, 160, (128, 160), (128, 160), 128) + inception(608, 96, (128, 192), (160, 192), 128)
    fourth += inception(608, 0, (128, 192), (192, 256), 0)
    fifth = inception(1056, 352, (192, 320), (160, 224), 128) + inception(1024, 352, (192, 320), (192, 224), 128)
    assert parameters("bn_inception") == stem + third + fourth + fifth + 1024 * 1000 + 1000 == 11_295_240


@pytest.mark.parametrize(("layers", "total"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018)])
def test_cifar_resnets_have_the_parameters_of_the_paper(layers, total):
    blocks = (layers - 2) // 6  # in each of three stages

    def conv3x3(in_channels, channels):
        return 9 * in_channels * channels  # no bias

    first = 3 * 16 * 9
    convolutions = sum(conv3x3(w, w) * (2 * blocks - 1) for w in (16, 32, 64))
    convolutions += conv3x3(16, 16) + conv3x3(16, 32) + conv3x3(32, 64)
    v1_norms = norm(16) + sum(2 * blocks * norm(w) for w in (16, 32, 64))
    # In v2 the first norm of each stage is of the width before it, and one stands behind the last block.
    v2_norms = sum(2 * blocks * norm(w) for w in (16, 32, 64)) - norm(32) - norm(64) + norm(16) + norm(32) + norm(64)
    linear = 64 * 10 + 10
    assert parameters(f"cifar_resnet{layers}") == first + convolutions + v1_norms + linear == total
    assert parameters(f"cifar_resnetv2_{layers}") == first + convolutions + v2_norms + linear == total


@pytest.mark.parametrize("name", [name for name in OURS if hasattr(torchvision.models, name)])
def test_torchvisions_networks_are_torchvisions(name):
    cfg = timm.models.get_pretrained_cfg(name)
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    transforms = weights.transforms()
    assert (cfg.tag, cfg.url) == ("tv_in1k", weights.url)
    assert cfg.input_size == (3, *transforms.crop_size * 2)
    assert math.floor(cfg.input_size[1] / cfg.crop_pct) == transforms.resize_size[0]  # as timm and `preprocess` do it
    if name != "alexnet":  # 61 million random numbers
        assert parameters(name) == weights.meta["num_params"]


QUICK = ("lenet5", "cifar_resnet20", "squeezenet1_1")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in OURS]
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


@pytest.mark.parametrize(
    "name", ["cifar_resnet20", "squeezenet1_1", pytest.param("bn_inception", marks=pytest.mark.slow)]
)
def test_they_come_back_from_a_folder(name, tmp_path):
    model = timm.create_model(name, num_classes=7)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).state_dict()
    assert all(torch.equal(again[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["squeezenet1_1", "nin"])
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
