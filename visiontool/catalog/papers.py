"""The classics, oldest first: what a person has to say of them. classics.csv holds what a program can say.

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

# timm's name, default tag ("" where nothing is published), top-1 in percent, aliases
Model = tuple[str, str, float | None, str]
# family, year, title, address, models
Paper = tuple[str, int, str, str, tuple[Model, ...]]

PAPERS: tuple[Paper, ...] = (
    (
        "LeNet",
        1998,
        "Gradient-based learning applied to document recognition",
        "https://doi.org/10.1109/5.726791",
        (("lenet5", "", None, "lenet"),),
    ),
    (
        "AlexNet",
        2012,
        "ImageNet Classification with Deep Convolutional Neural Networks",
        "https://papers.nips.cc/paper/2012/hash/c399862d3b9d6b76c8436e924a68c45b-Abstract.html",
        (("alexnet", "tv_in1k", 56.522, ""),),
    ),
    (
        "NiN",
        2013,
        "Network In Network",
        "https://arxiv.org/abs/1312.4400",
        (("nin", "", None, "network_in_network"),),
    ),
    (
        "VGG",
        2014,
        "Very Deep Convolutional Networks for Large-Scale Image Recognition",
        "https://arxiv.org/abs/1409.1556",
        (
            ("vgg11", "tv_in1k", 69.02, ""),
            ("vgg11_bn", "tv_in1k", 70.37, ""),
            ("vgg13", "tv_in1k", 69.928, ""),
            ("vgg13_bn", "tv_in1k", 71.586, ""),
            ("vgg16", "tv_in1k", 71.592, ""),
            ("vgg16_bn", "tv_in1k", 73.36, ""),
            ("vgg19", "tv_in1k", 72.376, ""),
            ("vgg19_bn", "tv_in1k", 74.218, ""),
        ),
    ),
    (
        "Inception",
        2014,
        "Going Deeper with Convolutions",
        "https://arxiv.org/abs/1409.4842",
        (("googlenet", "tv_in1k", 69.778, "inception_v1"),),
    ),
    (
        "Inception",
        2015,
        "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift",
        "https://arxiv.org/abs/1502.03167",
        (("bn_inception", "", None, "inception_v2 inception_bn"),),
    ),
    (
        "Inception",
        2015,
        "Rethinking the Inception Architecture for Computer Vision",
        "https://arxiv.org/abs/1512.00567",
        (("inception_v3", "tv_in1k", 77.294, ""),),
    ),
    (
        "ResNet",
        2015,
        "Deep Residual Learning for Image Recognition",
        "https://arxiv.org/abs/1512.03385",
        (
            ("resnet18", "tv_in1k", 69.758, ""),
            ("resnet34", "tv_in1k", 73.314, ""),
            ("resnet50", "tv_in1k", 76.13, ""),
            ("resnet101", "tv_in1k", 77.374, ""),
            ("resnet152", "tv_in1k", 78.312, ""),
            ("cifar_resnet20", "", None, "resnet20 resnet20_cifar"),
            ("cifar_resnet32", "", None, "resnet32 resnet32_cifar"),
            ("cifar_resnet44", "", None, "resnet44 resnet44_cifar"),
            ("cifar_resnet56", "", None, "resnet56 resnet56_cifar"),
        ),
    ),
    (
        "Inception",
        2016,
        "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning",
        "https://arxiv.org/abs/1602.07261",
        (
            ("inception_v4", "tf_in1k", 80.144, ""),
            ("inception_resnet_v2", "tf_in1k", 80.446, ""),
        ),
    ),
    (
        "SqueezeNet",
        2016,
        "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size",
        "https://arxiv.org/abs/1602.07360",
        (
            ("squeezenet1_0", "tv_in1k", 58.092, "squeezenet_v1_0"),
            ("squeezenet1_1", "tv_in1k", 58.178, "squeezenet_v1_1"),
        ),
    ),
    (
        "ResNet v2",
        2016,
        "Identity Mappings in Deep Residual Networks",
        "https://arxiv.org/abs/1603.05027",
        (
            ("resnetv2_50", "a1h_in1k", 80.406, "resnet50_v2 preact_resnet50"),
            ("resnetv2_101", "a1h_in1k", 82.042, "resnet101_v2 preact_resnet101"),
            ("resnetv2_152", "", None, "resnet152_v2 preact_resnet152"),
            ("cifar_resnetv2_20", "", None, "resnet20_v2 preact_resnet20"),
            ("cifar_resnetv2_32", "", None, "resnet32_v2 preact_resnet32"),
            ("cifar_resnetv2_44", "", None, "resnet44_v2 preact_resnet44"),
            ("cifar_resnetv2_56", "", None, "resnet56_v2 preact_resnet56"),
        ),
    ),
    (
        "Wide ResNet",
        2016,
        "Wide Residual Networks",
        "https://arxiv.org/abs/1605.07146",
        (
            ("wide_resnet50_2", "tv_in1k", 78.468, "wrn50_2"),
            ("wide_resnet101_2", "tv_in1k", 78.848, "wrn101_2"),
        ),
    ),
    (
        "DenseNet",
        2016,
        "Densely Connected Convolutional Networks",
        "https://arxiv.org/abs/1608.06993",
        (
            ("densenet121", "tv_in1k", 74.434, ""),
            ("densenet161", "tv_in1k", 77.138, ""),
            ("densenet169", "tv_in1k", 75.6, ""),
            ("densenet201", "tv_in1k", 76.896, ""),
        ),
    ),
    (
        "Xception",
        2016,
        "Xception: Deep Learning with Depthwise Separable Convolutions",
        "https://arxiv.org/abs/1610.02357",
        (("legacy_xception", "tf_in1k", 79.05, "xception"),),
    ),
    (
        "ResNeXt",
        2016,
        "Aggregated Residual Transformations for Deep Neural Networks",
        "https://arxiv.org/abs/1611.05431",
        (
            ("resnext50_32x4d", "tv_in1k", 77.618, "resnext50"),
            ("resnext101_32x8d", "tv_in1k", 79.312, ""),
            ("resnext101_64x4d", "tv_in1k", 83.246, ""),
        ),
    ),
    (
        "MobileNet",
        2017,
        "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
        "https://arxiv.org/abs/1704.04861",
        (("mobilenetv1_100", "ra4_e3600_r224_in1k", 75.384, "mobilenet_v1"),),
    ),
    (
        "SE-ResNet",
        2017,
        "Squeeze-and-Excitation Networks",
        "https://arxiv.org/abs/1709.01507",
        (
            ("legacy_seresnet18", "in1k", 71.742, ""),
            ("legacy_seresnet34", "in1k", 74.788, ""),
            ("legacy_seresnet50", "in1k", 77.644, ""),
            ("legacy_seresnet101", "in1k", 78.396, ""),
            ("legacy_seresnet152", "in1k", 78.66, ""),
            ("seresnet50", "ra2_in1k", 80.26, ""),
        ),
    ),
    (
        "MobileNet",
        2018,
        "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
        "https://arxiv.org/abs/1801.04381",
        (
            ("mobilenetv2_050", "lamb_in1k", 65.93, ""),
            ("mobilenetv2_100", "ra_in1k", 72.936, "mobilenet_v2"),
            ("mobilenetv2_140", "ra_in1k", 76.528, ""),
        ),
    ),
    (
        "ShuffleNet v2",
        2018,
        "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design",
        "https://arxiv.org/abs/1807.11164",
        (
            ("shufflenet_v2_x0_5", "tv_in1k", 60.552, ""),
            ("shufflenet_v2_x1_0", "tv_in1k", 69.362, "shufflenet_v2"),
            ("shufflenet_v2_x1_5", "tv_in1k", 72.996, ""),
            ("shufflenet_v2_x2_0", "tv_in1k", 76.23, ""),
        ),
    ),
    (
        "MnasNet",
        2018,
        "MnasNet: Platform-Aware Neural Architecture Search for Mobile",
        "https://arxiv.org/abs/1807.11626",
        (
            ("mnasnet_small", "lamb_in1k", 66.196, ""),
            ("mnasnet_100", "rmsp_in1k", 74.662, "mnasnet1_0 mnasnet_b1"),
            ("semnasnet_100", "rmsp_in1k", 75.464, "mnasnet_a1"),
        ),
    ),
    (
        "MobileNet",
        2019,
        "Searching for MobileNetV3",
        "https://arxiv.org/abs/1905.02244",
        (
            ("mobilenetv3_small_100", "lamb_in1k", 67.638, "mobilenet_v3_small"),
            ("mobilenetv3_large_100", "ra_in1k", 75.786, "mobilenet_v3_large"),
        ),
    ),
    (
        "EfficientNet",
        2019,
        "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
        "https://arxiv.org/abs/1905.11946",
        (
            ("efficientnet_b0", "ra_in1k", 77.696, ""),
            ("efficientnet_b1", "ft_in1k", 77.594, ""),
            ("efficientnet_b2", "ra_in1k", 79.34, ""),
            ("efficientnet_b3", "ra2_in1k", 81.474, ""),
            ("efficientnet_b4", "ra2_in1k", 82.654, ""),
            ("efficientnet_b5", "sw_in12k_ft_in1k", 85.892, ""),
            ("tf_efficientnet_b6", "aa_in1k", 84.118, ""),
            ("tf_efficientnet_b7", "aa_in1k", 84.436, ""),
        ),
    ),
    (
        "RegNet",
        2020,
        "Designing Network Design Spaces",
        "https://arxiv.org/abs/2003.13678",
        (
            ("regnetx_002", "pycls_in1k", 68.76, ""),
            ("regnetx_008", "pycls_in1k", 75.062, "regnet_x_800mf"),
            ("regnetx_016", "pycls_in1k", 76.924, "regnet_x_1_6gf"),
            ("regnetx_032", "pycls_in1k", 78.166, "regnet_x_3_2gf"),
            ("regnetx_080", "pycls_in1k", 79.216, "regnet_x_8gf"),
            ("regnety_002", "pycls_in1k", 70.294, ""),
            ("regnety_004", "pycls_in1k", 74.006, "regnet_y_400mf"),
            ("regnety_016", "pycls_in1k", 77.908, "regnet_y_1_6gf"),
            ("regnety_032", "pycls_in1k", 78.896, "regnet_y_3_2gf"),
            ("regnety_160", "pycls_in1k", 80.284, "regnet_y_16gf"),
        ),
    ),
    (
        "ViT",
        2020,
        "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
        "https://arxiv.org/abs/2010.11929",
        (
            ("vit_tiny_patch16_224", "augreg_in21k_ft_in1k", 75.452, "vit_ti_16"),
            ("vit_small_patch16_224", "augreg_in21k_ft_in1k", 81.414, "vit_s_16"),
            ("vit_base_patch32_224", "augreg_in21k_ft_in1k", 80.736, "vit_b_32"),
            ("vit_base_patch16_224", "augreg_in21k_ft_in1k", 84.532, "vit_b_16"),
            ("vit_large_patch16_224", "augreg_in21k_ft_in1k", 85.85, "vit_l_16"),
        ),
    ),
    (
        "DeiT",
        2020,
        "Training data-efficient image transformers & distillation through attention",
        "https://arxiv.org/abs/2012.12877",
        (
            ("deit_tiny_patch16_224", "fb_in1k", 72.196, "deit_tiny deit_ti"),
            ("deit_small_patch16_224", "fb_in1k", 79.862, "deit_small deit_s"),
            ("deit_base_patch16_224", "fb_in1k", 81.98, "deit_base deit_b"),
            ("deit_tiny_distilled_patch16_224", "fb_in1k", 74.54, "deit_tiny_distilled"),
            ("deit_small_distilled_patch16_224", "fb_in1k", 81.216, "deit_small_distilled"),
            ("deit_base_distilled_patch16_224", "fb_in1k", 83.388, "deit_base_distilled"),
        ),
    ),
    (
        "Swin",
        2021,
        "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
        "https://arxiv.org/abs/2103.14030",
        (
            ("swin_tiny_patch4_window7_224", "ms_in1k", 81.388, "swin_t swin_tiny"),
            ("swin_small_patch4_window7_224", "ms_in1k", 83.228, "swin_s swin_small"),
            ("swin_base_patch4_window7_224", "ms_in1k", 83.61, "swin_b swin_base"),
            ("swin_large_patch4_window7_224", "ms_in22k_ft_in1k", 86.33, "swin_l swin_large"),
        ),
    ),
    (
        "ConvNeXt",
        2022,
        "A ConvNet for the 2020s",
        "https://arxiv.org/abs/2201.03545",
        (
            ("convnext_tiny", "fb_in1k", 82.066, "convnext_t"),
            ("convnext_small", "fb_in1k", 83.144, "convnext_s"),
            ("convnext_base", "fb_in1k", 83.834, "convnext_b"),
            ("convnext_large", "fb_in1k", 84.298, "convnext_l"),
        ),
    ),
    (
        "MaxViT",
        2022,
        "MaxViT: Multi-Axis Vision Transformer",
        "https://arxiv.org/abs/2204.01697",
        (
            ("maxvit_tiny_tf_224", "in1k", 83.422, "maxvit_t maxvit_tiny"),
            ("maxvit_small_tf_224", "in1k", 84.456, "maxvit_s maxvit_small"),
            ("maxvit_base_tf_224", "in1k", 84.87, "maxvit_b maxvit_base"),
            ("maxvit_large_tf_224", "in1k", 84.934, "maxvit_l maxvit_large"),
        ),
    ),
)

NOTES = {
    "lenet5": "gray digits of 32x32; ours are trained on MNIST",
    "alexnet": 'widths of "One weird trick for parallelizing convolutional neural networks", arXiv 1404.5997',
    "cifar_resnet20": "for pictures of 32x32",
    "cifar_resnet32": "for pictures of 32x32",
    "cifar_resnet44": "for pictures of 32x32",
    "cifar_resnet56": "for pictures of 32x32",
    "cifar_resnetv2_20": "for pictures of 32x32",
    "cifar_resnetv2_32": "for pictures of 32x32",
    "cifar_resnetv2_44": "for pictures of 32x32",
    "cifar_resnetv2_56": "for pictures of 32x32",
    "mnasnet_100": "MnasNet-B1, without squeeze-and-excitation",
    "semnasnet_100": "MnasNet-A1, with squeeze-and-excitation",
    "deit_tiny_distilled_patch16_224": "has a second head that learned from a teacher",
    "deit_small_distilled_patch16_224": "has a second head that learned from a teacher",
    "deit_base_distilled_patch16_224": "has a second head that learned from a teacher",
}
