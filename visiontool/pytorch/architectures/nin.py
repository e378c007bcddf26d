"""Network in Network, as published for ImageNet.

Source:
    Lin, Chen, Yan 2013, "Network In Network", which describes CIFAR networks; for ImageNet the authors published a
    Caffe model ("nin_imagenet" of the Caffe model zoo), whose layers these are, under its names. Convolutions of 1x1
    are its "cascaded cross channel parametric pooling", cccp. 7,595,176 parameters: the published file of 29 MiB.
"""

import torch
from timm.models import generate_default_cfgs
from torch import nn

from visiontool.pytorch.architectures.common import ConvolutionPooled, register, untrained_cfg


def _mlpconv(in_channels: int, channels: int, kernel: int, stride: int = 1, padding: int = 0) -> list[nn.Module]:
    """A convolution and two of 1x1, each with ReLU: a small network that slides over the picture."""
    convolutions = [
        nn.Conv2d(in_channels, channels, kernel, stride, padding),
        nn.Conv2d(channels, channels, 1),
        nn.Conv2d(channels, channels, 1),
    ]
    return [layer for convolution in convolutions for layer in (convolution, nn.ReLU(inplace=True))]


class NiN(ConvolutionPooled, nn.Module):
    """Network in Network; with `linear_head` it has the head that `reset_classifier` makes instead of its own."""

    def __init__(self, num_classes: int = 1000, in_chans: int = 3, linear_head: bool = False) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = 1024
        self.features = nn.Sequential(
            *_mlpconv(in_chans, 96, 11, stride=4),  # (N, 3, 224, 224) -> (N, 96, 54, 54)
            nn.MaxPool2d(3, 2, ceil_mode=True),  # (N, 96, 27, 27)
            *_mlpconv(96, 256, 5, padding=2),  # (N, 256, 27, 27)
            nn.MaxPool2d(3, 2, ceil_mode=True),  # (N, 256, 13, 13)
            *_mlpconv(256, 384, 3, padding=1),  # (N, 384, 13, 13)
            nn.MaxPool2d(3, 2, ceil_mode=True),  # (N, 384, 6, 6)
            nn.Dropout(0.5),
            *_mlpconv(384, 1024, 3, padding=1)[:4],  # (N, 1024, 6, 6); the second 1x1 is the classifier
        )
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Conv2d(1024, num_classes, 1), nn.ReLU(inplace=True), self.global_pool)
        if linear_head:
            self.reset_classifier(num_classes)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x)  # (N, 1024, 6, 6)


default_cfgs = generate_default_cfgs(
    {"nin.untrained": untrained_cfg(pool_size=(6, 6), first_conv="features.0", classifier="classifier.0")}
)

register(NiN, "nin")
