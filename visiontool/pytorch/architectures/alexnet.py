"""torchvision's AlexNet with timm's interface.

Source:
    Krizhevsky, Sutskever, Hinton 2012, "ImageNet Classification with Deep Convolutional Neural Networks", in the form
    of Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks", figure 1: one column, so no
    grouped convolutions, 64-192-384-256-256 maps, no response normalization. torchvision/models/alexnet.py.
    61,100,840 parameters, where the paper of 2012 counts 60 million.
"""

import torch
import torchvision
from timm.models import generate_default_cfgs
from torch import nn

from visiontool.pytorch.architectures.common import HeadMixin, register, torchvision_cfg


class AlexNet(HeadMixin, torchvision.models.AlexNet):
    """AlexNet; two layers of 4096 stand between the pictures' features and the classifier."""

    def __init__(self, num_classes: int = 1000, in_chans: int = 3) -> None:
        if in_chans != 3:
            raise ValueError(f"AlexNet takes 3 channels, not {in_chans}")
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


default_cfgs = generate_default_cfgs(
    {
        "alexnet.tv_in1k": torchvision_cfg(
            torchvision.models.AlexNet_Weights.IMAGENET1K_V1, first_conv="features.0", classifier="classifier.6"
        )
    }
)

register(AlexNet, "alexnet")
