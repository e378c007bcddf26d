"""torchvision's GoogLeNet (Inception v1) with timm's interface and without auxiliary heads.

Source:
    Szegedy et al. 2014, "Going Deeper with Convolutions", table 1; torchvision/models/googlenet.py.
    As in torchvision there is batch norm behind each convolution, and the "5x5" convolutions are 3x3, as in the
    TensorFlow model that the weights come from. 6,624,904 parameters without the auxiliary heads; those in the paper's
    table add up to 6.8 million.
"""

import torch
import torchvision
from timm.models import generate_default_cfgs
from torch import nn

from visiontool.pytorch.architectures.common import PooledLinear, register, torchvision_cfg


class GoogLeNet(PooledLinear, torchvision.models.GoogLeNet):
    """GoogLeNet, Inception v1."""

    def __init__(self, num_classes: int = 1000, in_chans: int = 3) -> None:
        if in_chans != 3:
            raise ValueError(f"GoogLeNet takes 3 channels, not {in_chans}")
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


def checkpoint_filter_fn(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """`state_dict` without the auxiliary heads, which torchvision's file holds untrained."""
    return {key: value for key, value in state_dict.items() if not key.startswith(("aux1.", "aux2."))}


default_cfgs = generate_default_cfgs(
    {
        "googlenet.tv_in1k": torchvision_cfg(
            torchvision.models.GoogLeNet_Weights.IMAGENET1K_V1,
            # torchvision turns its usual normalization into this one inside the network (transform_input=True).
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            pool_size=(7, 7),
            first_conv="conv1.conv",
            classifier="fc",
        )
    }
)

register(GoogLeNet, "googlenet", pretrained_filter_fn=checkpoint_filter_fn)
