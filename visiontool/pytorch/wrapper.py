"""A network in the contract of a model file's graph (docs/model-file.md)."""

import torch
from timm.layers import SelectAdaptivePool2d
from torch import nn

from visiontool.errors import ConversionError, first_line
from visiontool.model.spec import InputSpec

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's convert("L")


class InContract(nn.Module):
    """uint8 (N, H, W, 3) in; logits, embedding and, where there is one, the feature map out.

    Args:
        model: a network with timm's interface (`forward_features`, `forward_head`); it is put into evaluation mode.

    Raises:
        ConversionError: the network cannot run at the size of `spec`, or its outputs are not those of a classifier.
    """

    mean: torch.Tensor
    std: torch.Tensor
    luma: torch.Tensor

    def __init__(self, model: nn.Module, spec: InputSpec) -> None:
        super().__init__()
        self.model = model
        self.gray = len(spec.mean) == 1
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1))
        self.register_buffer("luma", torch.tensor(LUMA).view(1, 3, 1, 1))
        self.eval()
        self.classes, self._has_map = _probe(model, torch.zeros(1, len(spec.mean), *spec.size))
        self._channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what it gives, in order."""
        return ("logits", "embedding", *(["feature_map"] if self._has_map else []))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # Without contiguous() the tensor is channels-last, and the exporter writes the pool as a gather.
        x = image.permute(0, 3, 1, 2).contiguous().to(torch.float32) / 255  # (N, 3, H, W)
        if self.gray:
            x = (x * self.luma).sum(dim=1, keepdim=True)  # (N, 1, H, W)
        return self.answers((x - self.mean) / self.std)

    def answers(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs for what the network itself takes: (N, channels, H, W), normalized."""
        features = self.model.forward_features(x)  # type: ignore[operator]
        embedding = self.model.forward_head(features, pre_logits=True)  # type: ignore[operator]
        logits = self.model.forward_head(features)  # type: ignore[operator]
        if not self._has_map:
            return logits, embedding
        return logits, embedding, features.permute(0, 3, 1, 2) if self._channels_last else features


def _probe(model: nn.Module, x: torch.Tensor) -> tuple[int, bool]:
    """The number of logits, and whether the features are a map that a global pool takes as it is.

    The run also settles what a network works out at its first picture, as timm's Conv2dSameExport does its padding.
    """
    taken: list[torch.Tensor] = []

    def note(pool: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        taken.append(inputs[0])

    hooks = [module.register_forward_pre_hook(note) for module in model.modules() if _is_global_pool(module)]
    try:
        with torch.inference_mode():
            features = model.forward_features(x)  # type: ignore[operator]
            taken.clear()
            embedding = model.forward_head(features, pre_logits=True)  # type: ignore[operator]
            logits = model.forward_head(features)  # type: ignore[operator]
    except Exception as error:  # whatever the network's own code raises for a size that it is not made for
        raise ConversionError(
            f"the network cannot run at {x.shape[2]}x{x.shape[3]} pixels: {first_line(error)}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if not all(isinstance(output, torch.Tensor) and output.ndim == 2 for output in (embedding, logits)):
        raise ConversionError("the network does not give one embedding and one row of logits for a picture")
    return logits.shape[1], features.ndim == 4 and any(pooled is features for pooled in taken)


def _is_global_pool(module: nn.Module) -> bool:
    if isinstance(module, SelectAdaptivePool2d):
        return not module.is_identity()
    return isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1))
