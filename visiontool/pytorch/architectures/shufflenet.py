"""torchvision's ShuffleNet v2 with timm's interface.

Source: Ma et al. 2018, "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", table 5;
    torchvision/models/shufflenetv2.py.
"""

import torch
import torchvision
from timm.models import generate_default_cfgs
from torch import nn

from visiontool.pytorch.architectures.common import PooledLinear, register, torchvision_cfg


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
_CHANNELS = {
    "0_5": [24, 48, 96, 192, 1024],
    "1_0": [24, 116, 232, 464, 1024],
    "1_5": [24, 176, 352, 704, 1024],
    "2_0": [24, 244, 488, 976, 2048],
}
default_cfgs = generate_default_cfgs(
    {
        f"shufflenet_v2_x{width}.tv_in1k": torchvision_cfg(
            torchvision.models.get_model_weights(f"shufflenet_v2_x{width}").IMAGENET1K_V1, **_LAYERS
        )
        for width in _CHANNELS
    }
)

for _width, _channels in _CHANNELS.items():
    register(ShuffleNetV2, f"shufflenet_v2_x{_width}", channels=_channels)
