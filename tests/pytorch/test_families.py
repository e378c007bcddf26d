"""One network of each family, at a small size and with random weights: onnxruntime answers as torch does."""

import inspect
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from conftest import ROOT

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

from random_weights import random_weights  # noqa: E402

from visiontool import Classifier, InputSpec, ModelSpec  # noqa: E402
from visiontool.data.discover import find_images  # noqa: E402
from visiontool.exporting.export import ExportOptions, export  # noqa: E402
from visiontool.exporting.source import find  # noqa: E402
from visiontool.pytorch import parity, weights  # noqa: E402
from visiontool.pytorch.convert import convert  # noqa: E402
from visiontool.pytorch.exporters import OnnxWrapper  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

SAMPLES = list(find_images([str(ROOT / "samples")]))


class Family(NamedTuple):
    """A network that stands for its family, and what is to come of it."""

    name: str
    size: int  # pixels
    embedding: int  # width
    feature_map: tuple[int, int, int] | None  # (D', h, w)
    linear: bool = True  # logits = weights of the classifier * embedding + bias
    mean: bool = True  # the mean of the feature map over (h, w) is the embedding


FAMILIES = [
    Family("lenet5", 32, 84, None),
    Family("alexnet", 63, 4096, None),
    Family("nin", 99, 1024, (1024, 2, 2), linear=False),
    Family("vgg11", 32, 4096, None),
    Family("googlenet", 48, 1024, (1024, 2, 2)),
    Family("bn_inception", 64, 1024, (1024, 2, 2)),
    Family("inception_v3", 107, 2048, (2048, 2, 2)),
    Family("inception_v4", 107, 1536, (1536, 2, 2)),
    Family("inception_resnet_v2", 107, 1536, (1536, 2, 2)),
    Family("resnet18", 33, 512, (512, 2, 2)),
    Family("resnet26", 33, 2048, (2048, 2, 2)),
    Family("resnetv2_50", 33, 2048, (2048, 2, 2)),
    Family("cifar_resnet20", 32, 64, (64, 8, 8)),
    Family("cifar_resnetv2_20", 32, 64, (64, 8, 8)),
    Family("resnext50_32x4d", 33, 2048, (2048, 2, 2)),
    Family("legacy_seresnet18", 64, 512, (512, 2, 2)),
    Family("seresnet18", 33, 512, (512, 2, 2)),
    Family("densenet121", 64, 1024, (1024, 2, 2)),
    Family("squeezenet1_0", 47, 512, (512, 2, 2), linear=False),
    Family("squeezenet1_1", 47, 512, (512, 2, 2), linear=False),
    Family("legacy_xception", 71, 2048, (2048, 3, 3)),
    Family("mobilenetv1_100", 33, 1024, (1024, 2, 2)),
    Family("mobilenetv2_035", 33, 1280, (1280, 2, 2)),
    # The pool leads to one more convolution, and the embedding is behind that.
    Family("mobilenetv3_small_050", 33, 1024, (288, 2, 2), mean=False),
    Family("shufflenet_v2_x0_5", 33, 1024, (1024, 2, 2)),
    Family("mnasnet_small", 33, 1280, (1280, 2, 2)),
    Family("efficientnet_b0", 33, 1280, (1280, 2, 2)),
    Family("tf_efficientnet_b0", 33, 1280, (1280, 2, 2)),  # pads as TensorFlow does
    Family("regnetx_002", 33, 368, (368, 2, 2)),
    Family("regnety_002", 33, 368, (368, 2, 2)),
    Family("convnext_atto", 64, 320, (320, 2, 2), mean=False),  # a norm stands behind the pool
    Family("vit_tiny_patch16_224", 32, 192, None),
    Family("vit_little_patch16_reg1_gap_256", 32, 320, None),  # the mean of the tokens
    Family("deit_tiny_distilled_patch16_224", 32, 192, None, linear=False),  # two classifiers, of two tokens
    Family("swin_tiny_patch4_window7_224", 64, 768, (768, 2, 2)),  # its maps are channels-last
    Family("maxvit_tiny_tf_224", 64, 512, (512, 2, 2), mean=False),  # norm, linear layer and tanh behind the pool
]


# Exported in fp16 too.
HALVED = {"resnet18", "densenet121", "mobilenetv3_small_050", "efficientnet_b0", "vit_tiny_patch16_224"}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_file_answers_as_torch_does(family, tmp_path):
    model = weights.create(family.name, img_size=family.size)
    cfg = model.pretrained_cfg
    spec = ModelSpec(
        name=family.name,
        labels=tuple(f"class {index}" for index in range(model.num_classes)),
        input=InputSpec(size=(family.size, family.size), mean=cfg["mean"], std=cfg["std"]),
    )
    pixels = parity.pixels_of(SAMPLES, spec, 3)
    random_weights(model, parity.normalized(pixels, spec.input))
    path = tmp_path / "model.onnx"
    spec = convert(model, spec, path, SAMPLES, batches=(1, 3))
    assert "exporter" not in spec.tools
    classifier = Classifier.load(path, device="cpu")
    outputs = {name: classifier.outputs(pixels, name) for name in ("logits", "embedding")}
    assert outputs["embedding"].shape == (3, family.embedding)
    expected = parity.answers(OnnxWrapper(model, spec.input), spec.input, pixels)
    np.testing.assert_allclose(outputs["logits"], expected["logits"], atol=1e-3, rtol=1e-4)
    for name, values in outputs.items():
        assert np.linalg.norm(values[0] - values[1]) > 1e-3 * np.linalg.norm(values[0]), name

    assert (spec.feature_map is None) == (family.feature_map is None)
    if family.feature_map is not None:
        feature_map = classifier.outputs(pixels, "feature_map")
        assert feature_map.shape == (3, *family.feature_map)
        mean, embedding = feature_map.mean((2, 3)), outputs["embedding"]
        assert (mean.shape == embedding.shape and np.allclose(mean, embedding, atol=1e-4, rtol=1e-3)) == family.mean
    if family.linear:
        head = model.get_classifier()
        weight, bias = (tensor.detach().numpy() for tensor in (head.weight.flatten(1), head.bias))
        np.testing.assert_allclose(outputs["embedding"] @ weight.T + bias, outputs["logits"], atol=1e-3, rtol=1e-3)

    nodes = [(node.op_type, *node.input) for node in onnx.load(path).graph.node]
    work = [node for node in nodes if node[0] in ("Conv", "Gemm", "MatMul")]
    assert len(set(work)) == len(work), "a layer is in the graph twice"

    for precision in ("fp32", "fp16") if family.name in HALVED else ("fp32",):  # what misses the gate raises GateError
        exported = export(find(str(path)), tmp_path / f"{precision}.onnx", ExportOptions(precision=precision))
        assert exported.comparison is not None
        assert exported.spec.precision == precision


def test_every_family_of_the_classics_is_here():
    from visiontool.hub import catalog

    def code(name):
        return inspect.getfile(type(weights.create(name)))

    covered = {code(family.name) for family in FAMILIES}
    firsts = {entry.classic.family: entry.architecture for entry in reversed(catalog.classics()) if entry.classic}
    assert [name for name in firsts.values() if code(name) not in covered] == []
