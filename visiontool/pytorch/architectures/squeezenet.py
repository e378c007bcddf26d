"""torchvision's SqueezeNet with timm's interface.

Source: Iandola et al. 2016, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size";
    torchvision/models/squeezenet.py.
"""

import torch
import torchvision
from timm.models import generate_default_cfgs
from torch import nn

from visiontool.pytorch.architectures.common import ConvolutionPooled, register, torchvision_cfg


class SqueezeNet(ConvolutionPooled, torchvision.models.SqueezeNet):
    """SqueezeNet.

    Args:
        linear_head: has the head that `reset_classifier` makes instead of the published one.
    """

    def __init__(
        self, version: str = "1_1", num_classes: int = 1000, in_chans: int = 3, linear_head: bool = False
    ) -> None:
        if in_chans != 3:
            raise ValueError(f"SqueezeNet takes 3 channels, not {in_chans}")
        super().__init__(version=version, num_classes=num_classes)
        self.num_features = self.head_hidden_size = 512
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        if linear_head:
            self.reset_classifier(num_classes)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x)  # (N, 3, 224, 224) -> (N, 512, 13, 13)


_LAYERS = {"pool_size": (13, 13), "first_conv": "features.0", "classifier": "classifier.1"}
default_cfgs = generate_default_cfgs(
    {
        "squeezenet1_0.tv_in1k": torchvision_cfg(torchvision.models.SqueezeNet1_0_Weights.IMAGENET1K_V1, **_LAYERS),
        "squeezenet1_1.tv_in1k": torchvision_cfg(torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1, **_LAYERS),
    }
)

register(SqueezeNet, "squeezenet1_0", version="1_0")
register(SqueezeNet, "squeezenet1_1", version="1_1")
