"""What torchvision publishes of a set of weights, in the words of timm's `pretrained_cfg`."""

from typing import Any

from torchvision.models import WeightsEnum


def torchvision_cfg(weights: WeightsEnum, **entries: Any) -> dict[str, Any]:
    """The configuration of torchvision's `weights`, with `entries` added or in place of theirs."""
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
