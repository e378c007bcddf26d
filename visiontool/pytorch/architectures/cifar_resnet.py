"""The small ResNets for CIFAR's pictures of 32x32 pixels: v1 and v2 (pre-activation), 20, 32, 44 and 56 layers.

Source:
    v1: He, Zhang, Ren, Sun 2015, "Deep Residual Learning for Image Recognition", section 4.2: 6n + 2 layers, three
    stages of n blocks with 16, 32 and 64 maps, shortcuts without parameters (option A). 269,722 parameters for n = 3;
    the paper rounds to 0.27M.
    v2: He, Zhang, Ren, Sun 2016, "Identity Mappings in Deep Residual Networks": batch norm and ReLU come before each
    convolution, and once more behind the last block. Where a stage begins, the shortcut starts behind the first
    activation, as in the paper's appendix. The paper shows 110 layers and more; these are its blocks in the sizes of
    v1. They have exactly as many parameters: a norm of 64 maps behind the last block instead of one of 16 behind the
    first convolution (96 more), and the first norm of stages 2 and 3 is as wide as the stage before (32 and 64 fewer).
"""

import torch
from timm.layers import ClassifierHead
from timm.models import generate_default_cfgs
from torch import nn
from torch.nn import functional

from visiontool.pytorch.architectures.common import TimmHeadMixin, register, untrained_cfg


def _conv3x3(in_channels: int, channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)


def _shortcut(x: torch.Tensor, channels: int) -> torch.Tensor:
    """Option A: every second pixel, and maps of zeros behind those there are; `x` itself where nothing grows."""
    missing = channels - x.shape[1]
    return x if missing == 0 else functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, missing))


class Block(nn.Module):
    """conv, norm, ReLU, conv, norm; the shortcut is added, then ReLU (v1)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv1 = _conv3x3(in_channels, channels, stride=1 if in_channels == channels else 2)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3x3(channels, channels)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = functional.relu(self.norm1(self.conv1(x)))
        residual = self.norm2(self.conv2(residual))
        return functional.relu(residual + _shortcut(x, self.channels))


class PreActivationBlock(nn.Module):
    """norm, ReLU, conv, norm, ReLU, conv; the shortcut is added and nothing follows (v2)."""

    def __init__(self, in_channels: int, channels: int, first: bool) -> None:
        super().__init__()
        self.channels = channels
        self.first = first  # of its stage
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = _conv3x3(in_channels, channels, stride=1 if in_channels == channels else 2)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3x3(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated = functional.relu(self.norm1(x))
        residual = self.conv1(activated)
        residual = self.conv2(functional.relu(self.norm2(residual)))
        return residual + _shortcut(activated if self.first else x, self.channels)


class CifarResNet(TimmHeadMixin, nn.Module):
    """A ResNet of 6 * `blocks` + 2 layers for pictures of 32x32 pixels."""

    def __init__(
        self,
        blocks: int,
        pre_activation: bool,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = 64

        def stage(in_channels: int, channels: int) -> nn.Sequential:
            widths = [in_channels] + [channels] * (blocks - 1)
            if pre_activation:
                return nn.Sequential(*(PreActivationBlock(w, channels, i == 0) for i, w in enumerate(widths)))
            return nn.Sequential(*(Block(width, channels) for width in widths))

        def norm(channels: int) -> nn.Sequential:
            return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))

        self.conv1 = _conv3x3(in_chans, 16)
        self.norm1 = nn.Identity() if pre_activation else norm(16)
        self.stage1 = stage(16, 16)
        self.stage2 = stage(16, 32)
        self.stage3 = stage(32, 64)
        self.norm2 = norm(64) if pre_activation else nn.Identity()
        self.head = ClassifierHead(self.num_features, num_classes, pool_type=global_pool)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stage1(self.norm1(self.conv1(x)))  # (N, 3, 32, 32) -> (N, 16, 32, 32)
        x = self.stage2(x)  # (N, 32, 16, 16)
        return self.norm2(self.stage3(x))  # (N, 64, 8, 8)


_CFG = untrained_cfg(
    input_size=(3, 32, 32),
    num_classes=10,
    crop_pct=1.0,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    pool_size=(8, 8),
    first_conv="conv1",
    classifier="head.fc",
)
_NETWORKS = {
    f"cifar_resnet{version}{6 * blocks + 2}": {"blocks": blocks, "pre_activation": version == "v2_"}
    for version in ("", "v2_")
    for blocks in (3, 5, 7, 9)
}
default_cfgs = generate_default_cfgs({f"{name}.untrained": _CFG for name in _NETWORKS})

for _name, _arguments in _NETWORKS.items():
    register(CifarResNet, _name, **_arguments)
