"""The classics, one by one: which weights a plain name means, how good they are, and what else the network is called.

A default tag is that of the weights trained with plain softmax cross-entropy, where they exist: a head on a frozen
backbone is better on their features than on those of stronger recipes (label smoothing, mixup, binary cross-entropy),
although these have the higher top-1. So resnet50 means resnet50.tv_in1k, not a1_in1k; the stronger ones keep their full
names. Where the default is of another kind, it is one of these:

- None are published that are known to be plain: Inception v3 and v4, Inception-ResNet v2, ResNet v2, Xception,
  resnext101_64x4d, MobileNet v1 to v3, MnasNet, EfficientNet, ConvNeXt, DeiT, Swin, MaxViT. Of these the tag of
  ImageNet-1k alone stands where there is one, the authors' own before another's. (torchvision's plain weights of
  MobileNet v2 fit its own module only.)
- seresnet50: softmax with label smoothing (ra2) before binary cross-entropy (a1). Plain: legacy_seresnet50.
- ViT: AugReg's, pretrained on ImageNet-21k and of one recipe for all sizes; on ImageNet-1k alone it is weak.

Source:
    defaults: Kornblith et al. 2019, "Do Better ImageNet Models Transfer Better?", arXiv 1805.08974; 2021, "Why Do
    Better Loss Functions Lead to Less Transferable Features?", arXiv 2010.16402.
    top-1: the `_metrics` of torchvision's weights for tags tv_in1k; else results/results-imagenet.csv of timm's
    repository at commit 7479d451, the row of the weights' own input size and crop.
"""

from typing import NamedTuple


class Network(NamedTuple):
    """A classic; its paper is in papers.py."""

    tag: str  # of the default weights; "" where nothing is published
    top1: float | None  # in percent
    aliases: str = ""  # apart by spaces
    note: str = ""


# By the name of the architecture, in the order of papers.py.
NETWORKS = {
    "lenet5": Network("", None, "lenet", "gray digits of 32x32; ours are trained on MNIST"),
    "alexnet": Network(
        "tv_in1k",
        56.522,
        note='widths of "One weird trick for parallelizing convolutional neural networks", arXiv 1404.5997',
    ),
    "nin": Network("", None, "network_in_network"),
    "vgg11": Network("tv_in1k", 69.02),
    "vgg11_bn": Network("tv_in1k", 70.37),
    "vgg13": Network("tv_in1k", 69.928),
    "vgg13_bn": Network("tv_in1k", 71.586),
    "vgg16": Network("tv_in1k", 71.592),
    "vgg16_bn": Network("tv_in1k", 73.36),
    "vgg19": Network("tv_in1k", 72.376),
    "vgg19_bn": Network("tv_in1k", 74.218),
    "googlenet": Network("tv_in1k", 69.778, "inception_v1"),
    "bn_inception": Network("", None, "inception_v2 inception_bn"),
    "inception_v3": Network("tv_in1k", 77.294),
    "resnet18": Network("tv_in1k", 69.758),
    "resnet34": Network("tv_in1k", 73.314),
    "resnet50": Network("tv_in1k", 76.13),
    "resnet101": Network("tv_in1k", 77.374),
    "resnet152": Network("tv_in1k", 78.312),
    "cifar_resnet20": Network("", None, "resnet20 resnet20_cifar", "for pictures of 32x32"),
    "cifar_resnet32": Network("", None, "resnet32 resnet32_cifar", "for pictures of 32x32"),
    "cifar_resnet44": Network("", None, "resnet44 resnet44_cifar", "for pictures of 32x32"),
    "cifar_resnet56": Network("", None, "resnet56 resnet56_cifar", "for pictures of 32x32"),
    "inception_v4": Network("tf_in1k", 80.144),
    "inception_resnet_v2": Network("tf_in1k", 80.446),
    "squeezenet1_0": Network("tv_in1k", 58.092, "squeezenet_v1_0"),
    "squeezenet1_1": Network("tv_in1k", 58.178, "squeezenet_v1_1"),
    "resnetv2_50": Network("a1h_in1k", 80.406, "resnet50_v2 preact_resnet50"),
    "resnetv2_101": Network("a1h_in1k", 82.042, "resnet101_v2 preact_resnet101"),
    "resnetv2_152": Network("", None, "resnet152_v2 preact_resnet152"),
    "cifar_resnetv2_20": Network("", None, "resnet20_v2 preact_resnet20", "for pictures of 32x32"),
    "cifar_resnetv2_32": Network("", None, "resnet32_v2 preact_resnet32", "for pictures of 32x32"),
    "cifar_resnetv2_44": Network("", None, "resnet44_v2 preact_resnet44", "for pictures of 32x32"),
    "cifar_resnetv2_56": Network("", None, "resnet56_v2 preact_resnet56", "for pictures of 32x32"),
    "wide_resnet50_2": Network("tv_in1k", 78.468, "wide_resnet50 wrn50_2"),
    "wide_resnet101_2": Network("tv_in1k", 78.848, "wide_resnet101 wrn101_2"),
    "densenet121": Network("tv_in1k", 74.434),
    "densenet161": Network("tv_in1k", 77.138),
    "densenet169": Network("tv_in1k", 75.6),
    "densenet201": Network("tv_in1k", 76.896),
    "legacy_xception": Network("tf_in1k", 79.05, "xception"),
    "resnext50_32x4d": Network("tv_in1k", 77.618, "resnext50"),
    "resnext101_32x8d": Network("tv_in1k", 79.312),
    "resnext101_64x4d": Network("tv_in1k", 83.246),
    "mobilenetv1_100": Network("ra4_e3600_r224_in1k", 75.384, "mobilenet_v1 mobilenet_v1_1_0"),
    "legacy_seresnet18": Network("in1k", 71.742),
    "legacy_seresnet34": Network("in1k", 74.788),
    "legacy_seresnet50": Network("in1k", 77.644),
    "legacy_seresnet101": Network("in1k", 78.396),
    "legacy_seresnet152": Network("in1k", 78.66),
    "seresnet50": Network("ra2_in1k", 80.26),
    "mobilenetv2_050": Network("lamb_in1k", 65.93, "mobilenet_v2_0_5"),
    "mobilenetv2_100": Network("ra_in1k", 72.936, "mobilenet_v2 mobilenet_v2_1_0"),
    "mobilenetv2_140": Network("ra_in1k", 76.528, "mobilenet_v2_1_4"),
    "shufflenet_v2_x0_5": Network("tv_in1k", 60.552),
    "shufflenet_v2_x1_0": Network("tv_in1k", 69.362, "shufflenet_v2"),
    "shufflenet_v2_x1_5": Network("tv_in1k", 72.996),
    "shufflenet_v2_x2_0": Network("tv_in1k", 76.23),
    "mnasnet_small": Network("lamb_in1k", 66.196),
    "mnasnet_100": Network("rmsp_in1k", 74.662, "mnasnet1_0 mnasnet_b1", "MnasNet-B1, without squeeze-and-excitation"),
    "semnasnet_100": Network("rmsp_in1k", 75.464, "mnasnet_a1", "MnasNet-A1, with squeeze-and-excitation"),
    "mobilenetv3_small_100": Network("lamb_in1k", 67.638, "mobilenet_v3_small"),
    "mobilenetv3_large_100": Network("ra_in1k", 75.786, "mobilenet_v3_large"),
    "efficientnet_b0": Network("ra_in1k", 77.696),
    "efficientnet_b1": Network("ft_in1k", 77.594),
    "efficientnet_b2": Network("ra_in1k", 79.34),
    "efficientnet_b3": Network("ra2_in1k", 81.474),
    "efficientnet_b4": Network("ra2_in1k", 82.654),
    "efficientnet_b5": Network("sw_in12k_ft_in1k", 85.892),
    "tf_efficientnet_b6": Network("aa_in1k", 84.118),
    "tf_efficientnet_b7": Network("aa_in1k", 84.436),
    "regnetx_002": Network("pycls_in1k", 68.76),
    "regnetx_008": Network("pycls_in1k", 75.062, "regnet_x_800mf"),
    "regnetx_016": Network("pycls_in1k", 76.924, "regnet_x_1_6gf"),
    "regnetx_032": Network("pycls_in1k", 78.166, "regnet_x_3_2gf"),
    "regnetx_080": Network("pycls_in1k", 79.216, "regnet_x_8gf"),
    "regnety_002": Network("pycls_in1k", 70.294),
    "regnety_004": Network("pycls_in1k", 74.006, "regnet_y_400mf"),
    "regnety_016": Network("pycls_in1k", 77.908, "regnet_y_1_6gf"),
    "regnety_032": Network("pycls_in1k", 78.896, "regnet_y_3_2gf"),
    "regnety_160": Network("pycls_in1k", 80.284, "regnet_y_16gf"),
    "vit_tiny_patch16_224": Network("augreg_in21k_ft_in1k", 75.452, "vit_ti_16"),
    "vit_small_patch16_224": Network("augreg_in21k_ft_in1k", 81.414, "vit_s_16"),
    "vit_base_patch32_224": Network("augreg_in21k_ft_in1k", 80.736, "vit_b_32"),
    "vit_base_patch16_224": Network("augreg_in21k_ft_in1k", 84.532, "vit_b_16"),
    "vit_large_patch16_224": Network("augreg_in21k_ft_in1k", 85.85, "vit_l_16"),
    "deit_tiny_patch16_224": Network("fb_in1k", 72.196, "deit_tiny deit_ti"),
    "deit_small_patch16_224": Network("fb_in1k", 79.862, "deit_small deit_s"),
    "deit_base_patch16_224": Network("fb_in1k", 81.98, "deit_base deit_b"),
    "deit_tiny_distilled_patch16_224": Network(
        "fb_in1k", 74.54, "deit_tiny_distilled", "has a second head that learned from a teacher"
    ),
    "deit_small_distilled_patch16_224": Network(
        "fb_in1k", 81.216, "deit_small_distilled", "has a second head that learned from a teacher"
    ),
    "deit_base_distilled_patch16_224": Network(
        "fb_in1k", 83.388, "deit_base_distilled", "has a second head that learned from a teacher"
    ),
    "swin_tiny_patch4_window7_224": Network("ms_in1k", 81.388, "swin_t swin_tiny"),
    "swin_small_patch4_window7_224": Network("ms_in1k", 83.228, "swin_s swin_small"),
    "swin_base_patch4_window7_224": Network("ms_in1k", 83.61, "swin_b swin_base"),
    "swin_large_patch4_window7_224": Network("ms_in22k_ft_in1k", 86.33, "swin_l swin_large"),
    "convnext_tiny": Network("fb_in1k", 82.066, "convnext_t"),
    "convnext_small": Network("fb_in1k", 83.144, "convnext_s"),
    "convnext_base": Network("fb_in1k", 83.834, "convnext_b"),
    "convnext_large": Network("fb_in1k", 84.298, "convnext_l"),
    "maxvit_tiny_tf_224": Network("in1k", 83.422, "maxvit_t maxvit_tiny"),
    "maxvit_small_tf_224": Network("in1k", 84.456, "maxvit_s maxvit_small"),
    "maxvit_base_tf_224": Network("in1k", 84.87, "maxvit_b maxvit_base"),
    "maxvit_large_tf_224": Network("in1k", 84.934, "maxvit_l maxvit_large"),
}
