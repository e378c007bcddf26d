"""BN-Inception (Inception v2), as published for Caffe.

Source:
    Ioffe, Szegedy 2015, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
    Shift", figure 5, in the form that became known with the Caffe model "Inception-BN" and the PyTorch model
    "bninception" made from it. It differs from the figure in two places: the pool's projection of 4c and 4d has 128
    maps, not 96, so 608 instead of 576 leave them; and each convolution has a bias beside its batch norm.
    11,295,240 parameters: 11,285,224 without those biases, and the paper names no number.
"""

import torch
from timm.layers import ClassifierHead
from timm.models import generate_default_cfgs
from torch import nn

from visiontool.pytorch.architectures.common import TimmHeadMixin, register, untrained_cfg


def _conv(in_channels: int, channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


class Inception(nn.Module):
    """Four branches side by side: 1x1, 3x3, two 3x3 in place of a 5x5, and a pool with a projection.

    The arguments are the maps of each; of `conv3x3` and `double3x3` those of the reduction and of the convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        conv1x1: int,
        conv3x3: tuple[int, int],
        double3x3: tuple[int, int],
        projection: int,
        pool: type[nn.AvgPool2d] | type[nn.MaxPool2d] = nn.AvgPool2d,
    ) -> None:
        super().__init__()
        self.conv1x1 = _conv(in_channels, conv1x1, 1)
        self.conv3x3 = nn.Sequential(_conv(in_channels, conv3x3[0], 1), _conv(*conv3x3, 3))
        self.double3x3 = nn.Sequential(
            _conv(in_channels, double3x3[0], 1), _conv(*double3x3, 3), _conv(double3x3[1], double3x3[1], 3)
        )
        self.pool = nn.Sequential(pool(3, 1, padding=1), _conv(in_channels, projection, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.conv1x1(x), self.conv3x3(x), self.double3x3(x), self.pool(x)], dim=1)


class Reduction(nn.Module):
    """Halves height and width by stride 2 in three branches: 3x3, two 3x3, and a pool that passes all maps on."""

    def __init__(self, in_channels: int, conv3x3: tuple[int, int], double3x3: tuple[int, int]) -> None:
        super().__init__()
        self.conv3x3 = nn.Sequential(_conv(in_channels, conv3x3[0], 1), _conv(*conv3x3, 3, stride=2))
        self.double3x3 = nn.Sequential(
            _conv(in_channels, double3x3[0], 1), _conv(*double3x3, 3), _conv(double3x3[1], double3x3[1], 3, stride=2)
        )
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.conv3x3(x), self.double3x3(x), self.pool(x)], dim=1)


class BNInception(TimmHeadMixin, nn.Module):
    """BN-Inception for pictures whose sides are multiples of 32 pixels."""

    def __init__(self, num_classes: int = 1000, in_chans: int = 3, global_pool: str = "avg") -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = 1024
        self.stem = nn.Sequential(
            _conv(in_chans, 64, 7, stride=2),  # (N, 3, 224, 224) -> (N, 64, 112, 112)
            nn.MaxPool2d(3, 2, ceil_mode=True),  # (N, 64, 56, 56)
            _conv(64, 64, 1),
            _conv(64, 192, 3),  # (N, 192, 56, 56)
            nn.MaxPool2d(3, 2, ceil_mode=True),  # (N, 192, 28, 28)
        )
        self.inception3a = Inception(192, 64, (64, 64), (64, 96), 32)  # (N, 256, 28, 28)
        self.inception3b = Inception(256, 64, (64, 96), (64, 96), 64)  # (N, 320, 28, 28)
        self.inception3c = Reduction(320, (128, 160), (64, 96))  # (N, 576, 14, 14)
        self.inception4a = Inception(576, 224, (64, 96), (96, 128), 128)  # (N, 576, 14, 14)
        self.inception4b = Inception(576, 192, (96, 128), (96, 128), 128)  # (N, 576, 14, 14)
        self.inception4c = Inception(576, 160, (128, 160), (128, 160), 128)  # (N, 608, 14, 14)
        self.inception4d = Inception(608, 96, (128, 192), (160, 192), 128)  # (N, 608, 14, 14)
        self.inception4e = Reduction(608, (128, 192), (192, 256))  # (N, 1056, 7, 7)
        self.inception5a = Inception(1056, 352, (192, 320), (160, 224), 128)  # (N, 1024, 7, 7)
        self.inception5b = Inception(1024, 352, (192, 320), (192, 224), 128, pool=nn.MaxPool2d)  # (N, 1024, 7, 7)
        self.head = ClassifierHead(self.num_features, num_classes, pool_type=global_pool)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inception3c(self.inception3b(self.inception3a(self.stem(x))))
        x = self.inception4d(self.inception4c(self.inception4b(self.inception4a(x))))
        return self.inception5b(self.inception5a(self.inception4e(x)))


default_cfgs = generate_default_cfgs(
    {"bn_inception.untrained": untrained_cfg(pool_size=(7, 7), first_conv="stem.0.0", classifier="head.fc")}
)

register(BNInception, "bn_inception")
