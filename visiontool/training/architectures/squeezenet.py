"""torchvision's SqueezeNet with timm's interface.

Source: Iandola et al. 2016, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size";
    torchvision/models/squeezenet.py.
"""

from typing import Any

import torch
import torchvision
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from visiontool.training.architectures.torchvision_cfg import torchvision_cfg


class SqueezeNet(torchvision.models.SqueezeNet):
    """SqueezeNet; its classifier is a convolution and ReLU before the pool, so it is not linear in the embedding."""

    def __init__(self, version: str = "1_1", num_classes: int = 1000, in_chans: int = 3) -> None:
        if in_chans != 3:
            raise ValueError(f"SqueezeNet takes 3 channels, not {in_chans}")
        super().__init__(version=version, num_classes=num_classes)
        self.num_features = self.head_hidden_size = 512
        self.global_pool = nn.AdaptiveAvgPool2d(1)

    def get_classifier(self) -> nn.Module:
        return self.classifier

    def reset_classifier(self, num_classes: int) -> None:
        """A linear classifier on the embedding takes the place of the convolution."""
        self.num_classes = num_classes
        self.classifier = nn.Sequential(self.global_pool, nn.Flatten(1), nn.Linear(self.num_features, num_classes))

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x)  # (N, 3, 224, 224) -> (N, 512, 13, 13)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return self.global_pool(x).flatten(1) if pre_logits else self.classifier(x).flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


_LAYERS = {"pool_size": (13, 13), "first_conv": "features.0", "classifier": "classifier.1"}
default_cfgs = generate_default_cfgs(
    {
        "squeezenet1_0.tv_in1k": torchvision_cfg(torchvision.models.SqueezeNet1_0_Weights.IMAGENET1K_V1, **_LAYERS),
        "squeezenet1_1.tv_in1k": torchvision_cfg(torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1, **_LAYERS),
    }
)


@register_model
def squeezenet1_0(pretrained: bool = False, **kwargs: Any) -> SqueezeNet:
    """SqueezeNet 1.0, torchvision's weights."""
    return build_model_with_cfg(SqueezeNet, "squeezenet1_0", pretrained, version="1_0", **kwargs)


@register_model
def squeezenet1_1(pretrained: bool = False, **kwargs: Any) -> SqueezeNet:
    """SqueezeNet 1.1, torchvision's weights."""
    return build_model_with_cfg(SqueezeNet, "squeezenet1_1", pretrained, version="1_1", **kwargs)
