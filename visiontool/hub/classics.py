"""Names and papers of the classics, from catalog/classics.json, oldest first, and which weights a plain name means.

docs/models.md tells why these weights. Where no plain ones are published, the tag of ImageNet-1k alone is the default
where there is one, the authors' own before another's; for ViT it is AugReg's, for seresnet50 label smoothing (ra2).

Source:
    defaults: Kornblith et al. 2019, "Do Better ImageNet Models Transfer Better?", arXiv 1805.08974; 2021, "Why Do
    Better Loss Functions Lead to Less Transferable Features?", arXiv 2010.16402.
    top-1, in percent: the `_metrics` of torchvision's weights for tags tv_in1k; the README of Google's
    tpu/models/official/efficientnet/lite for EfficientNet-Lite; else results/results-imagenet.csv of timm's repository
    at commit 7479d451, the row of the weights' own input size and crop.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

_SEPARATORS = str.maketrans("- ./", "____")


@lru_cache(maxsize=1)
def papers() -> list[dict[str, Any]]:
    """Family, year, title and address of each paper, and its "networks": tag, top1, aliases, note by architecture."""
    entries: list[dict[str, Any]] = json.loads((Path(__file__).parent / "catalog" / "classics.json").read_bytes())
    return entries


def architecture_of(name: str) -> tuple[str, str]:
    """Architecture and default tag of the classic whose name or alias `name` is; ("", "") for any other name."""
    folded = fold(name)
    for paper in papers():
        for architecture, network in paper["networks"].items():
            if folded in map(fold, (architecture, *network.get("aliases", ()))):
                return architecture, network.get("tag", "")
    return "", ""


def default_weights(name: str) -> str:
    """The full name of the weights that a classic's plain name means ("resnet18.tv_in1k"); "" for any other name."""
    architecture, tag = ("", "") if split_tag(name)[1] else architecture_of(name)
    return f"{architecture}.{tag}" if tag else architecture


def split_tag(name: str) -> tuple[str, str]:
    """The architecture and the tag in `name`; a dot between digits is part of the architecture ("squeezenet1.1")."""
    for place, sign in enumerate(name):
        if sign == "." and not (name[:place][-1:].isdigit() and name[place + 1 : place + 2].isdigit()):
            return name[:place], name[place + 1 :]
    return name, ""


def fold(name: str) -> str:
    """`name` without what people write differently: case, and separators, but between digits (1_6 is not 16)."""
    folded = ""
    for part in name.lower().translate(_SEPARATORS).split("_"):
        if folded[-1:].isdigit() and part[:1].isdigit():
            folded += "_"
        folded += part
    return folded
