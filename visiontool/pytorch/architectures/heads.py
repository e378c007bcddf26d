"""timm's interface, mixed into networks that do not have it; they add `forward_features`."""

from collections.abc import Callable

import torch
from torch import nn


class _Headed:
    num_classes: int
    num_features: int
    global_pool: nn.Module
    forward_features: Callable[[torch.Tensor], torch.Tensor]
    forward_head: Callable[[torch.Tensor], torch.Tensor]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


class PooledLinear(_Headed):
    """Ends in a global pool, dropout, and the linear layer `fc`."""

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


class ConvolutionPooled(_Headed):
    """Ends, as published, in a convolution and ReLU ahead of the pool, so its logits are not linear in the embedding.

    After `reset_classifier` the pool comes first, and its linear layer `classifier.2` takes the embedding.
    """

    classifier: nn.Sequential

    def get_classifier(self) -> nn.Module:
        return self.classifier

    def reset_classifier(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.classifier = nn.Sequential(self.global_pool, nn.Flatten(1), nn.Linear(self.num_features, num_classes))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return self.global_pool(x).flatten(1) if pre_logits else self.classifier(x).flatten(1)
