"""The papers of the classics, oldest first. networks.py says of each network what its paper does not."""

from typing import NamedTuple


class Paper(NamedTuple):
    """A paper, and the classics that it describes."""

    family: str
    year: int
    title: str
    address: str
    networks: str  # names of networks.py, apart by spaces


PAPERS = (
    Paper(
        "LeNet",
        1998,
        "Gradient-based learning applied to document recognition",
        "https://doi.org/10.1109/5.726791",
        "lenet5",
    ),
    Paper(
        "AlexNet",
        2012,
        "ImageNet Classification with Deep Convolutional Neural Networks",
        "https://papers.nips.cc/paper/2012/hash/c399862d3b9d6b76c8436e924a68c45b-Abstract.html",
        "alexnet",
    ),
    Paper(
        "NiN",
        2013,
        "Network In Network",
        "https://arxiv.org/abs/1312.4400",
        "nin",
    ),
    Paper(
        "VGG",
        2014,
        "Very Deep Convolutional Networks for Large-Scale Image Recognition",
        "https://arxiv.org/abs/1409.1556",
        "vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn",
    ),
    Paper(
        "Inception",
        2014,
        "Going Deeper with Convolutions",
        "https://arxiv.org/abs/1409.4842",
        "googlenet",
    ),
    Paper(
        "Inception",
        2015,
        "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift",
        "https://arxiv.org/abs/1502.03167",
        "bn_inception",
    ),
    Paper(
        "Inception",
        2015,
        "Rethinking the Inception Architecture for Computer Vision",
        "https://arxiv.org/abs/1512.00567",
        "inception_v3",
    ),
    Paper(
        "ResNet",
        2015,
        "Deep Residual Learning for Image Recognition",
        "https://arxiv.org/abs/1512.03385",
        "resnet18 resnet34 resnet50 resnet101 resnet152 cifar_resnet20 cifar_resnet32 cifar_resnet44 cifar_resnet56",
    ),
    Paper(
        "Inception",
        2016,
        "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning",
        "https://arxiv.org/abs/1602.07261",
        "inception_v4 inception_resnet_v2",
    ),
    Paper(
        "SqueezeNet",
        2016,
        "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size",
        "https://arxiv.org/abs/1602.07360",
        "squeezenet1_0 squeezenet1_1",
    ),
    Paper(
        "ResNet v2",
        2016,
        "Identity Mappings in Deep Residual Networks",
        "https://arxiv.org/abs/1603.05027",
        "resnetv2_50 resnetv2_101 resnetv2_152 cifar_resnetv2_20 cifar_resnetv2_32 cifar_resnetv2_44 cifar_resnetv2_56",
    ),
    Paper(
        "Wide ResNet",
        2016,
        "Wide Residual Networks",
        "https://arxiv.org/abs/1605.07146",
        "wide_resnet50_2 wide_resnet101_2",
    ),
    Paper(
        "DenseNet",
        2016,
        "Densely Connected Convolutional Networks",
        "https://arxiv.org/abs/1608.06993",
        "densenet121 densenet161 densenet169 densenet201",
    ),
    Paper(
        "Xception",
        2016,
        "Xception: Deep Learning with Depthwise Separable Convolutions",
        "https://arxiv.org/abs/1610.02357",
        "legacy_xception",
    ),
    Paper(
        "ResNeXt",
        2016,
        "Aggregated Residual Transformations for Deep Neural Networks",
        "https://arxiv.org/abs/1611.05431",
        "resnext50_32x4d resnext101_32x8d resnext101_64x4d",
    ),
    Paper(
        "MobileNet",
        2017,
        "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
        "https://arxiv.org/abs/1704.04861",
        "mobilenetv1_100",
    ),
    Paper(
        "SE-ResNet",
        2017,
        "Squeeze-and-Excitation Networks",
        "https://arxiv.org/abs/1709.01507",
        "legacy_seresnet18 legacy_seresnet34 legacy_seresnet50 legacy_seresnet101 legacy_seresnet152 seresnet50",
    ),
    Paper(
        "MobileNet",
        2018,
        "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
        "https://arxiv.org/abs/1801.04381",
        "mobilenetv2_050 mobilenetv2_100 mobilenetv2_140",
    ),
    Paper(
        "ShuffleNet v2",
        2018,
        "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design",
        "https://arxiv.org/abs/1807.11164",
        "shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0",
    ),
    Paper(
        "MnasNet",
        2018,
        "MnasNet: Platform-Aware Neural Architecture Search for Mobile",
        "https://arxiv.org/abs/1807.11626",
        "mnasnet_small mnasnet_100 semnasnet_100",
    ),
    Paper(
        "MobileNet",
        2019,
        "Searching for MobileNetV3",
        "https://arxiv.org/abs/1905.02244",
        "mobilenetv3_small_100 mobilenetv3_large_100",
    ),
    Paper(
        "EfficientNet",
        2019,
        "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
        "https://arxiv.org/abs/1905.11946",
        "efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 "
        "tf_efficientnet_b6 tf_efficientnet_b7",
    ),
    Paper(
        "RegNet",
        2020,
        "Designing Network Design Spaces",
        "https://arxiv.org/abs/2003.13678",
        "regnetx_002 regnetx_008 regnetx_016 regnetx_032 regnetx_080 regnety_002 regnety_004 regnety_016 "
        "regnety_032 regnety_160",
    ),
    Paper(
        "ViT",
        2020,
        "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
        "https://arxiv.org/abs/2010.11929",
        "vit_tiny_patch16_224 vit_small_patch16_224 vit_base_patch32_224 vit_base_patch16_224 vit_large_patch16_224",
    ),
    Paper(
        "DeiT",
        2020,
        "Training data-efficient image transformers & distillation through attention",
        "https://arxiv.org/abs/2012.12877",
        "deit_tiny_patch16_224 deit_small_patch16_224 deit_base_patch16_224 deit_tiny_distilled_patch16_224 "
        "deit_small_distilled_patch16_224 deit_base_distilled_patch16_224",
    ),
    Paper(
        "Swin",
        2021,
        "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
        "https://arxiv.org/abs/2103.14030",
        "swin_tiny_patch4_window7_224 swin_small_patch4_window7_224 swin_base_patch4_window7_224 "
        "swin_large_patch4_window7_224",
    ),
    Paper(
        "ConvNeXt",
        2022,
        "A ConvNet for the 2020s",
        "https://arxiv.org/abs/2201.03545",
        "convnext_tiny convnext_small convnext_base convnext_large",
    ),
    Paper(
        "MaxViT",
        2022,
        "MaxViT: Multi-Axis Vision Transformer",
        "https://arxiv.org/abs/2204.01697",
        "maxvit_tiny_tf_224 maxvit_small_tf_224 maxvit_base_tf_224 maxvit_large_tf_224",
    ),
)
