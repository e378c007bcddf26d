"""What a network without published weights expects of a picture, in the words of timm's `pretrained_cfg`."""

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


def untrained_cfg(**entries: Any) -> dict[str, Any]:
    """The usual configuration for ImageNet at 224x224 pixels, with `entries` added or in place of its own."""
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
