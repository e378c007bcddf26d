"""The classics with their default weights, and the generated tables of all names.

classics.json has the papers, oldest first, and of each network which weights a plain name means, how good they are, and
what else it is called. names.csv has all names of timm, torchvision and this project; classics.csv the rows of the
classics' default weights, so that names.csv stays closed. No field of these two has a comma or a quote in it, so the
module csv, whose import costs as much as the search, is not needed.

A default tag is that of the weights trained with plain softmax cross-entropy, where they exist: a head on a frozen
backbone is better on their features than on those of stronger recipes (label smoothing, mixup, binary cross-entropy),
although these have the higher top-1. So resnet50 means resnet50.tv_in1k, not a1_in1k; the stronger ones keep their full
names. Where the default is of another kind, it is one of these:

- None are published that are known to be plain: Inception v3 and v4, Inception-ResNet v2, ResNet v2, Xception,
  resnext101_64x4d, MobileNet v1 to v3, MnasNet, EfficientNet, ConvNeXt, DeiT, Swin, MaxViT. Of these the tag of
  ImageNet-1k alone stands where there is one, the authors' own before another's. (torchvision's plain weights of
  MobileNet v2 fit its own module only.)
- seresnet50: softmax with label smoothing (ra2) before binary cross-entropy (a1). Plain: legacy_seresnet50.
- ViT: AugReg's, pretrained on ImageNet-21k and of one recipe for all sizes; on ImageNet-1k alone it is weak.

Source:
    defaults: Kornblith et al. 2019, "Do Better ImageNet Models Transfer Better?", arXiv 1805.08974; 2021, "Why Do
    Better Loss Functions Lead to Less Transferable Features?", arXiv 2010.16402.
    top-1, in percent: the `_metrics` of torchvision's weights for tags tv_in1k; else results/results-imagenet.csv of
    timm's repository at commit 7479d451, the row of the weights' own input size and crop.
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from visiontool.hub.catalog.entry import Classic, Entry, fold

NAMES, CLASSICS = (Path(__file__).with_name(name) for name in ("names.csv", "classics.csv"))
COLUMNS = "name,library,license,params,macs,input,interpolation,crop_mode,crop_pct,mean,std,classes,source,sha256"


@lru_cache(maxsize=1)
def papers() -> list[dict[str, Any]]:
    """Family, year, title and address of each paper, and its "networks": tag, top1, aliases, note by architecture."""
    found: list[dict[str, Any]] = json.loads(Path(__file__).with_name("classics.json").read_bytes())
    return found


def classics() -> tuple[Entry, ...]:
    """The classics, oldest first, each with its default weights."""
    rows = {row.architecture: row for row in read(CLASSICS)}
    return tuple(_with_paper(rows[name], paper) for paper in papers() for name in paper["networks"])


def classic_called(name: str) -> Entry | None:
    """The classic whose name or alias `name` is, or None."""
    wanted = fold(name)
    for paper in papers():
        for known, network in paper["networks"].items():
            if wanted in map(fold, (known, *network.get("aliases", ()))):
                return _with_paper(next(row for row in read(CLASSICS) if row.architecture == known), paper)
    return None


def members(family: str) -> list[str]:
    """The names of the classics of `family`; none where no family is called so."""
    wanted = fold(family)
    return [name for paper in papers() if fold(paper["family"]) == wanted for name in paper["networks"]]


def read(table: Path) -> Iterator[Entry]:
    """Every row of a generated table, without what classics.json says; the default weights of an architecture first."""
    with table.open(encoding="utf-8") as file:
        for line in file:
            if not line.startswith(("#", COLUMNS)):
                yield _entry(line.rstrip("\n"))


def _with_paper(row: Entry, paper: dict[str, Any]) -> Entry:
    network = paper["networks"][row.architecture]
    classic = Classic(
        row.architecture,
        tuple(network.get("aliases", ())),
        paper["family"],
        paper["year"],
        paper["title"],
        paper["address"],
        network.get("note", ""),
    )
    return row._replace(top1=network.get("top1"), classic=classic)


def _entry(line: str) -> Entry:
    name, library, license, params, macs, size, *fitting, mean, std, classes, source, sha256 = line.split(",")
    interpolation, crop_mode, crop_pct = fitting
    architecture, _, tag = name.partition(".")
    channels, height, width = size.split("x")
    return Entry(
        name=name,
        architecture=architecture,
        tag=tag,
        library=library,
        license=license,
        params=int(params),
        macs=int(macs) if macs else None,
        input_size=(int(channels), int(height), int(width)),
        classes=int(classes),
        source=source + name if source.endswith("/") else source,
        sha256=tuple(sha256.split()),
        interpolation=interpolation,
        crop_mode=crop_mode,
        crop_pct=float(crop_pct),
        mean=tuple(map(float, mean.split(" "))),
        std=tuple(map(float, std.split(" "))),
        top1=None,
        classic=None,
    )
