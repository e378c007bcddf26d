"""LeNet-5, as it is taught today.

Source:
    LeCun, Bottou, Bengio, Haffner 1998, "Gradient-Based Learning Applied to Document Recognition", section II.B.
    Simplified as usual: C3 is connected to all maps of S2, subsampling is a plain average, the output is a softmax
    over logits instead of radial basis functions. 61,706 parameters.
"""

import torch
from timm.models import generate_default_cfgs
from torch import nn

from visiontool.pytorch.architectures.common import HeadMixin, register, untrained_cfg


class LeNet5(HeadMixin, nn.Module):
    """LeNet-5 for gray pictures of 32x32 pixels, with timm's interface.

    Args:
        batch_norm: normalizes behind each convolution, which the paper's has not, to see what that does.
    """

    def __init__(self, num_classes: int = 10, in_chans: int = 1, batch_norm: bool = False) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_features = 120
        self.head_hidden_size = 84
        self.c1 = nn.Conv2d(in_chans, 6, 5)
        self.c3 = nn.Conv2d(6, 16, 5)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(120, 84)
        self.fc = nn.Linear(84, num_classes)
        self.pool = nn.AvgPool2d(2)
        self.norm1, self.norm3, self.norm5 = (
            nn.BatchNorm2d(channels) if batch_norm else nn.Identity() for channels in (6, 16, 120)
        )

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.fc = nn.Linear(self.head_hidden_size, num_classes)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(torch.tanh(self.norm1(self.c1(x))))  # (N, 1, 32, 32) -> (N, 6, 28, 28) -> S2 (N, 6, 14, 14)
        x = self.pool(torch.tanh(self.norm3(self.c3(x))))  # (N, 16, 10, 10) -> S4 (N, 16, 5, 5)
        return torch.tanh(self.norm5(self.c5(x)))  # (N, 120, 1, 1)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        x = torch.tanh(self.f6(x.flatten(1)))  # (N, 84)
        return x if pre_logits else self.fc(x)


default_cfgs = generate_default_cfgs(
    {
        "lenet5.untrained": untrained_cfg(
            input_size=(1, 32, 32),
            num_classes=10,
            crop_pct=1.0,
            mean=(0.1307,),
            std=(0.3081,),
            first_conv="c1",
            classifier="fc",
        )
    }
)

register(LeNet5, "lenet5")
