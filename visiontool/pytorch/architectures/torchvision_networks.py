"""torchvision's networks that timm lacks, with timm's interface.

Source: torchvision/models/alexnet.py, googlenet.py, shufflenetv2.py and squeezenet.py, and each class's paper.
"""

from typing import Any

import torch
import torchvision
from timm.models import generate_default_cfgs
from torch import nn
from torchvision.models import get_model_weights

from visiontool.pytorch.architectures.common import (
    ConvolutionPooled,
    HeadMixin,
    PooledLinear,
    register,
    torchvision_cfg,
)


def _check_channels(network: str, in_chans: int) -> None:
    if in_chans != 3:
        raise ValueError(f"{network} takes 3 channels, not {in_chans}")


class AlexNet(HeadMixin, torchvision.models.AlexNet):
    """AlexNet; two layers of 4096 stand between the pictures' features and the classifier.

    61,100,840 parameters, where the paper of 2012 counts 60 million.

    Source:
        Krizhevsky, Sutskever, Hinton 2012, "ImageNet Classification with Deep Convolutional Neural Networks", in the
        form of Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks", figure 1: one
        column, so no grouped convolutions, 64-192-384-256-256 maps, no response normalization.
    """

    def __init__(self, num_classes: int = 1000, in_chans: int = 3) -> None:
        _check_channels("AlexNet", in_chans)
        super().__init__(num_classes)
        self.num_classes = num_classes
        self.num_features = 256
        self.head_hidden_size = 4096

    def get_classifier(self) -> nn.Module:
        return self.classifier[-1]

    def reset_classifier(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.classifier[-1] = nn.Linear(self.head_hidden_size, num_classes)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x)  # (N, 3, 224, 224) -> (N, 256, 6, 6)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        x = self.avgpool(x).flatten(1)  # (N, 9216); at 224x224 the pool changes nothing
        x = self.classifier[:-1](x)  # (N, 4096)
        return x if pre_logits else self.classifier[-1](x)


class GoogLeNet(PooledLinear, torchvision.models.GoogLeNet):
    """GoogLeNet, Inception v1, without auxiliary heads.

    As in torchvision there is batch norm behind each convolution, and the "5x5" convolutions are 3x3, as in the
    TensorFlow model that the weights come from. 6,624,904 parameters; those in the paper's table add up to 6.8 million.

    Source: Szegedy et al. 2014, "Going Deeper with Convolutions", table 1.
    """

    def __init__(self, num_classes: int = 1000, in_chans: int = 3) -> None:
        _check_channels("GoogLeNet", in_chans)
        super().__init__(num_classes, aux_logits=False, init_weights=True)
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = 1024
        self.global_pool = self.avgpool

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool1(self.conv1(x))  # (N, 3, 224, 224) -> (N, 64, 56, 56)
        x = self.maxpool2(self.conv3(self.conv2(x)))  # (N, 192, 28, 28)
        x = self.maxpool3(self.inception3b(self.inception3a(x)))  # (N, 480, 14, 14)
        x = self.inception4c(self.inception4b(self.inception4a(x)))  # (N, 512, 14, 14)
        x = self.maxpool4(self.inception4e(self.inception4d(x)))  # (N, 832, 7, 7)
        return self.inception5b(self.inception5a(x))  # (N, 1024, 7, 7)


class ShuffleNetV2(PooledLinear, torchvision.models.ShuffleNetV2):
    """ShuffleNet v2 with `channels` behind the first convolution, stages 2, 3 and 4, and the last convolution.

    Source: Ma et al. 2018, "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", table 5.
    """

    def __init__(self, channels: list[int], num_classes: int = 1000, in_chans: int = 3) -> None:
        _check_channels("ShuffleNet", in_chans)
        super().__init__([4, 8, 4], channels, num_classes)
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = channels[-1]
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Identity()

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.conv1(x))  # (N, 3, 224, 224) -> (N, 24, 56, 56)
        x = self.stage4(self.stage3(self.stage2(x)))  # x1.0: (N, 116, 28, 28), (N, 232, 14, 14), (N, 464, 7, 7)
        return self.conv5(x)  # x1.0: (N, 1024, 7, 7)


class SqueezeNet(ConvolutionPooled, torchvision.models.SqueezeNet):
    """SqueezeNet; with `linear_head` it has the head that `reset_classifier` makes instead of the published one.

    Source: Iandola et al. 2016, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size".
    """

    def __init__(
        self, version: str = "1_1", num_classes: int = 1000, in_chans: int = 3, linear_head: bool = False
    ) -> None:
        _check_channels("SqueezeNet", in_chans)
        super().__init__(version=version, num_classes=num_classes)
        self.num_features = self.head_hidden_size = 512
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        if linear_head:
            self.reset_classifier(num_classes)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x)  # (N, 3, 224, 224) -> (N, 512, 13, 13)


_SHUFFLENETS = {
    "shufflenet_v2_x0_5": [24, 48, 96, 192, 1024],
    "shufflenet_v2_x1_0": [24, 116, 232, 464, 1024],
    "shufflenet_v2_x1_5": [24, 176, 352, 704, 1024],
    "shufflenet_v2_x2_0": [24, 244, 488, 976, 2048],
}
_SQUEEZENETS = {"squeezenet1_0": "1_0", "squeezenet1_1": "1_1"}
_ENTRIES: dict[str, dict[str, Any]] = {
    "alexnet": {"first_conv": "features.0", "classifier": "classifier.6"},
    "googlenet": {
        # torchvision turns its usual normalization into this one inside the network (transform_input=True).
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "pool_size": (7, 7),
        "first_conv": "conv1.conv",
        "classifier": "fc",
    },
    **{name: {"pool_size": (7, 7), "first_conv": "conv1.0", "classifier": "fc"} for name in _SHUFFLENETS},
    **{
        name: {"pool_size": (13, 13), "first_conv": "features.0", "classifier": "classifier.1"} for name in _SQUEEZENETS
    },
}
default_cfgs = generate_default_cfgs(
    {
        f"{name}.tv_in1k": torchvision_cfg(get_model_weights(name).IMAGENET1K_V1, **entries)
        for name, entries in _ENTRIES.items()
    }
)


def _without_auxiliary_heads(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state_dict.items() if not key.startswith(("aux1.", "aux2."))}


register(AlexNet, "alexnet")
register(GoogLeNet, "googlenet", pretrained_filter_fn=_without_auxiliary_heads)
for _name, _channels in _SHUFFLENETS.items():
    register(ShuffleNetV2, _name, channels=_channels)
for _name, _version in _SQUEEZENETS.items():
    register(SqueezeNet, _name, version=_version)
