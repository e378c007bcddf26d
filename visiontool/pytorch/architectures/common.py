"""What these networks share: timm's interface, mixed in, and what timm is told of each."""

from collections.abc import Callable
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import ClassifierHead
from timm.models import build_model_with_cfg, register_model
from torch import nn
from torchvision.models import WeightsEnum


class HeadMixin:
    """Adds `forward` to `forward_features` and `forward_head`."""

    num_classes: int
    num_features: int
    forward_features: Callable[[torch.Tensor], torch.Tensor]
    forward_head: Callable[..., torch.Tensor]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


class TimmHeadMixin(HeadMixin):
    """Ends in timm's `ClassifierHead`, `head`."""

    head: ClassifierHead

    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.head.reset(num_classes)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return self.head(x, pre_logits=pre_logits)


class PooledLinear(HeadMixin):
    """Ends in a global pool, dropout, and the linear layer `fc`."""

    global_pool: nn.Module
    dropout: nn.Module
    fc: nn.Linear

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        x = self.dropout(self.global_pool(x).flatten(1))  # (N, D)
        return x if pre_logits else self.fc(x)


class ConvolutionPooled(HeadMixin):
    """Ends, as published, in a convolution and ReLU ahead of the pool, so its logits are not linear in the embedding.

    After `reset_classifier` the pool comes first, and its linear layer `classifier.2` takes the embedding.
    """

    global_pool: nn.Module
    classifier: nn.Sequential

    def get_classifier(self) -> nn.Module:
        return self.classifier

    def reset_classifier(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.classifier = nn.Sequential(self.global_pool, nn.Flatten(1), nn.Linear(self.num_features, num_classes))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return self.global_pool(x).flatten(1) if pre_logits else self.classifier(x).flatten(1)


def register(network: type, name: str, **arguments: Any) -> None:
    """Registers `network`, built with these arguments, with timm as `name`; its module has the `default_cfgs`."""

    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return build_model_with_cfg(network, name, pretrained, **arguments, **kwargs)

    entrypoint.__name__, entrypoint.__module__ = name, network.__module__
    register_model(entrypoint)


def torchvision_cfg(weights: WeightsEnum, **entries: Any) -> dict[str, Any]:
    """timm's `pretrained_cfg` of torchvision's `weights`, with `entries` added or in place of theirs."""
    transforms = weights.transforms()
    (crop,), (resize,) = transforms.crop_size, transforms.resize_size
    return {
        "url": weights.url,
        "license": "bsd-3-clause",
        "input_size": (3, crop, crop),
        "num_classes": len(weights.meta["categories"]),
        "interpolation": transforms.interpolation.value,
        "crop_pct": crop / resize,
        "mean": tuple(transforms.mean),
        "std": tuple(transforms.std),
        **entries,
    }


def untrained_cfg(**entries: Any) -> dict[str, Any]:
    """timm's `pretrained_cfg` for ImageNet without weights, with `entries` added or in place of its own."""
    return {
        "url": "",
        "input_size": (3, 224, 224),
        "num_classes": 1000,
        "interpolation": "bilinear",
        "crop_pct": 0.875,
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        **entries,
    }
