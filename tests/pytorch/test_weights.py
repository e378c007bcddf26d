"""Networks by name, and their weights from every kind of file."""

import re

import pytest

timm = pytest.importorskip("timm")
torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

from random_weights import random_weights  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from visiontool import ConversionError, ModelError  # noqa: E402
from visiontool.pytorch.weights import create, create_with, load_weights  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def pictures(size):
    """Two of them, normalized: a ramp and a checkerboard."""
    ramp = torch.linspace(-2, 2, size).expand(3, size, size)
    return torch.stack([ramp, ((ramp.cumsum(1) + ramp.cumsum(2)) % 2) * 4 - 2])


def answers(model, size=64):
    with torch.inference_mode():
        return model.eval()(pictures(size))


def saved(path, model, wrap=lambda state: state):
    torch.save(wrap(model.state_dict()), path)
    return path


SLOW = ("shufflenet_v2_x0_5", "resnet18", "alexnet", "vgg11_bn")


@pytest.mark.parametrize("name", ["squeezenet1_1", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_torchvisions_weights_give_torchvisions_answers(tmp_path, name):
    theirs = random_weights(torchvision.models.get_model(name), pictures(64))
    ours = create(name)
    load_weights(ours, saved(tmp_path / "weights.pth", theirs))
    assert answers(ours).std() > 0
    torch.testing.assert_close(answers(ours), answers(theirs), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_torchvisions_old_names_of_layers_are_understood(tmp_path):
    """Its published file of DenseNet says "norm.1" where its code says "norm1"."""
    theirs = random_weights(torchvision.models.densenet121(), pictures(64))
    ours = create("densenet121")

    def as_published(state):
        named = {re.sub(r"(denselayer\d+\.\w+)([12])\.", r"\1.\2.", key): value for key, value in state.items()}
        return {key: value for key, value in named.items() if not key.endswith("num_batches_tracked")}

    file = saved(tmp_path / "weights.pth", theirs, as_published)
    assert "features.denseblock1.denselayer1.norm.1.weight" in torch.load(file, weights_only=True)
    load_weights(ours, file)
    torch.testing.assert_close(answers(ours), answers(theirs), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_left_out_and_the_normalization_is_torchvisions(tmp_path, name):
    size = 80
    theirs = torchvision.models.get_model(name, aux_logits=True, init_weights=False, transform_input=True)
    theirs = random_weights(theirs, pictures(size))
    ours = create(f"{name}.tv_in1k")
    load_weights(ours, saved(tmp_path / "weights.pth", theirs))
    pixels = pictures(size) / 4 + 0.5
    mean, std = (torch.tensor(ours.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    their_mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    their_std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    with torch.inference_mode():
        expected = theirs((pixels - their_mean) / their_std)
        right, wrong = (float((ours(x) - expected).norm() / expected.norm()) for x in ((pixels - mean) / std, pixels))
    assert right < 1e-3 < 1e-2 < wrong
    assert not any("aux" in key.lower() for key in ours.state_dict())


@pytest.fixture(scope="module")
def small():
    return random_weights(timm.create_model("cifar_resnet20"), pictures(32))


def prefixed(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


@pytest.mark.parametrize(
    ("suffix", "wrap"),
    [
        (".pth", lambda state: prefixed("_orig_mod.module.", state)),
        (".pth.tar", lambda state: {"epoch": 3, "state_dict": prefixed("module.", state)}),
        (".bin", lambda state: {"state_dict": {}, "state_dict_ema": state}),
        (".pth", lambda state: {"net": state, "acc": 93.1, "epoch": 7}),
        (".pth", lambda state: {"model": {"state_dict": prefixed("backbone.", state)}}),
        (
            ".ckpt",  # Lightning's
            lambda state: {
                "state_dict": {**prefixed("model.", state), "loss.weight": torch.ones(9)},
                "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
            },
        ),
        (".pth", lambda state: {"model": {key: value + 1 for key, value in state.items()}, "model_ema": state}),
        (".PTH", lambda state: {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}),
    ],
)
def test_checkpoints_of_all_kinds_are_read(tmp_path, small, suffix, wrap):
    ours = create("cifar_resnet20")
    load_weights(ours, saved(tmp_path / f"weights{suffix}", small, wrap))
    assert all(torch.equal(tensor, small.state_dict()[key]) for key, tensor in ours.state_dict().items())


@pytest.mark.parametrize("name", ["weights.safetensors", "pytorch_model.bin"])
def test_safetensors_are_read(tmp_path, small, name):
    save_file(small.state_dict(), tmp_path / name)
    ours = create("cifar_resnet20")
    load_weights(ours, tmp_path / name)
    torch.testing.assert_close(answers(ours, 32), answers(small, 32))


def test_position_embeddings_are_fitted_to_the_size(tmp_path):
    ours = create("test_vit", img_size=(64, 96))
    load_weights(ours, saved(tmp_path / "weights.pth", timm.create_model("test_vit")))
    assert ours.pos_embed.shape == (1, 1 + 4 * 6, 64)
    with torch.inference_mode():
        assert ours(torch.zeros(1, 3, 64, 96)).shape == (1, 1000)


def test_weights_of_another_network_are_listed_and_change_nothing(tmp_path):
    ours = create("cifar_resnet20")
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    weights = saved(tmp_path / "weights.pth", timm.create_model("cifar_resnet32", num_classes=7))
    with pytest.raises(ModelError) as caught:
        load_weights(ours, weights)
    assert str(caught.value).splitlines() == [
        f"{weights}: these are not the weights of cifar_resnet20.",
        # 3 stages of 2 more blocks of 2 convolutions and 2 norms, 10 tensors each
        "left over: stage1.3.conv1.weight, stage1.3.norm1.weight, stage1.3.norm1.bias and 57 more; "
        "of another shape: head.fc.weight (7, 64) for (10, 64), head.fc.bias (7,) for (10,)",
    ]
    assert all(torch.equal(value, before[key]) for key, value in ours.state_dict().items())
    with pytest.raises(ModelError, match=r"missing: stage1\.3\.conv1\.weight, .* and 57 more"):
        load_weights(create("cifar_resnet32"), saved(weights, ours))


def test_of_several_sets_of_weights_none_is_guessed(tmp_path):
    model = create("lenet5")
    weights = saved(
        tmp_path / "weights.pth",
        model,
        lambda state: {f"{who}.{key}": state[key] for who in ("student", "teacher") for key in state},
    )
    with pytest.raises(ModelError, match=r"several sets of weights of lenet5: student, teacher.\nSave the one"):
        load_weights(model, weights)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("test_resnet", "fc"),
        ("squeezenet1_1", "classifier.1"),
        pytest.param("deit_tiny_distilled_patch16_224", "head_dist", marks=pytest.mark.slow),
        pytest.param("vit_small_patch14_dinov2", "head", marks=pytest.mark.slow),  # published without
    ],
)
def test_the_network_gets_as_many_classes_as_the_weights_have(tmp_path, name, head):
    theirs = timm.create_model(name, num_classes=3)
    model = create_with(name, saved(tmp_path / "weights.pth", theirs, lambda state: {"net": state}))
    assert model.num_classes == 3
    assert torch.equal(model.get_submodule(head).weight, theirs.get_submodule(head).weight)


def test_weights_without_a_classifier_are_refused(tmp_path):
    weights = saved(tmp_path / "weights.pth", timm.create_model("test_vit", num_classes=0))
    with pytest.raises(ModelError, match=r"not the weights of test_vit.\nmissing: head.weight, head.bias"):
        create_with("test_vit", weights)


def test_a_file_without_weights_is_refused(tmp_path):
    torch.save({"epoch": 3, "net": {"a": torch.ones(1)}}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="w.pth: holds no weights, only epoch, net; expected a state dict"):
        load_weights(create("lenet5"), tmp_path / "w.pth")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_numbers_of_other_types_become_the_networks(tmp_path, small, dtype):
    halves = {key: value.to(getattr(torch, dtype)) for key, value in small.state_dict().items()}
    torch.save(halves, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    load_weights(ours := create("cifar_resnet20"), tmp_path / "w.pth")
    state = ours.state_dict()
    assert all(torch.equal(state[key], halves[key].to(state[key].dtype)) for key in halves)


def test_weights_that_are_not_numbers_are_refused(tmp_path):
    state = create("lenet5").state_dict()
    next(iter(state.values()))[0] = float("nan")
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=rf"w.pth: these weights are not numbers \(NaN\): {next(iter(state))}\.\n"):
        load_weights(create("lenet5"), tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("resnet5O", None, "'resnet5O'. Closest: resnet50, "),
        ("vgg11.v3", None, "vgg11 has no weights tagged 'v3'. It has: tv_in1k"),
        ("maxvit_tiny_tf_224", 8, r"maxvit_tiny_tf_224 cannot run at 8x8 pixels: .+\n.* 224x224\."),  # nor be built
        ("vit_tiny_patch16_224", (8, 64), "cannot run at 8x64 pixels"),
        ("squeezenet1_1", 8, "cannot run at 8x8 pixels"),
    ],
)
def test_a_network_that_cannot_be_created(name, size, words):
    with pytest.raises(ConversionError, match=words):
        create(name, img_size=size)


def test_attention_is_built_to_be_exported():
    model = create("test_vit.r160_in1k", num_classes=7)
    assert not model.blocks[0].attn.fused_attn
    assert not model.training
    assert model.num_classes == 7
