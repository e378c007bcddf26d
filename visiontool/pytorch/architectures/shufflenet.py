"""torchvision's ShuffleNet v2 with timm's interface.

Source: Ma et al. 2018, "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", table 5;
    torchvision/models/shufflenetv2.py.
"""

from typing import Any

import torch
import torchvision
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from visiontool.pytorch.architectures.heads import PooledLinear
from visiontool.pytorch.architectures.torchvision_cfg import torchvision_cfg


class ShuffleNetV2(PooledLinear, torchvision.models.ShuffleNetV2):
    """ShuffleNet v2 with `channels` behind the first convolution, stages 2, 3 and 4, and the last convolution."""

    def __init__(self, channels: list[int], num_classes: int = 1000, in_chans: int = 3) -> None:
        if in_chans != 3:
            raise ValueError(f"ShuffleNet takes 3 channels, not {in_chans}")
        super().__init__([4, 8, 4], channels, num_classes)
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = channels[-1]
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Identity()

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.conv1(x))  # (N, 3, 224, 224) -> (N, 24, 56, 56)
        x = self.stage4(self.stage3(self.stage2(x)))  # x1.0: (N, 116, 28, 28), (N, 232, 14, 14), (N, 464, 7, 7)
        return self.conv5(x)  # x1.0: (N, 1024, 7, 7)


_LAYERS = {"pool_size": (7, 7), "first_conv": "conv1.0", "classifier": "fc"}
_models = torchvision.models
default_cfgs = generate_default_cfgs(
    {
        "shufflenet_v2_x0_5.tv_in1k": torchvision_cfg(_models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1, **_LAYERS),
        "shufflenet_v2_x1_0.tv_in1k": torchvision_cfg(_models.ShuffleNet_V2_X1_0_Weights.IMAGENET1K_V1, **_LAYERS),
        "shufflenet_v2_x1_5.tv_in1k": torchvision_cfg(_models.ShuffleNet_V2_X1_5_Weights.IMAGENET1K_V1, **_LAYERS),
        "shufflenet_v2_x2_0.tv_in1k": torchvision_cfg(_models.ShuffleNet_V2_X2_0_Weights.IMAGENET1K_V1, **_LAYERS),
    }
)


def _shufflenet(name: str, channels: list[int], pretrained: bool, **kwargs: Any) -> ShuffleNetV2:
    return build_model_with_cfg(ShuffleNetV2, name, pretrained, channels=channels, **kwargs)


@register_model
def shufflenet_v2_x0_5(pretrained: bool = False, **kwargs: Any) -> ShuffleNetV2:
    """ShuffleNet v2, half as wide, torchvision's weights."""
    return _shufflenet("shufflenet_v2_x0_5", [24, 48, 96, 192, 1024], pretrained, **kwargs)


@register_model
def shufflenet_v2_x1_0(pretrained: bool = False, **kwargs: Any) -> ShuffleNetV2:
    """ShuffleNet v2, torchvision's weights."""
    return _shufflenet("shufflenet_v2_x1_0", [24, 116, 232, 464, 1024], pretrained, **kwargs)


@register_model
def shufflenet_v2_x1_5(pretrained: bool = False, **kwargs: Any) -> ShuffleNetV2:
    """ShuffleNet v2, 1.5 times as wide, torchvision's weights."""
    return _shufflenet("shufflenet_v2_x1_5", [24, 176, 352, 704, 1024], pretrained, **kwargs)


@register_model
def shufflenet_v2_x2_0(pretrained: bool = False, **kwargs: Any) -> ShuffleNetV2:
    """ShuffleNet v2, twice as wide, torchvision's weights."""
    return _shufflenet("shufflenet_v2_x2_0", [24, 244, 488, 976, 2048], pretrained, **kwargs)
