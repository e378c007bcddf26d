"""config.json in timm's hub format: from it to the manifest of a model file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visiontool.errors import UsageError
from visiontool.model.class_names import ClassNames, from_descriptions, numbered
from visiontool.model.spec import InputSpec, ModelSpec

IMAGENET = Path(__file__).parent / "catalog" / "imagenet.txt"


def imagenet() -> dict[str, Any]:
    """The 1,000 classes of ImageNet as config.json has them: WordNet ids in order, and the synonyms of each."""
    lines = IMAGENET.read_text(encoding="utf-8").splitlines()
    descriptions = dict(line.split(" ", 1) for line in lines)
    return {"label_names": list(descriptions), "label_descriptions": descriptions}


def named(class_names: ClassNames, weights: Path, classes: int) -> dict[str, Any]:
    """The user's `class_names` as config.json has them: names, or ids with descriptions; numbers where there are none.

    Raises UsageError where the file `weights` has another number of classes.
    """
    names, ids = class_names
    names = names or tuple(map(str, range(classes)))
    if len(names) != classes:
        raise UsageError(
            f"--class-names: {len(names):,} names, but the weights in {weights} have {classes:,} classes.\n"
            "Give one name for each, in the order of the network's outputs."
        )
    return {
        "label_names": list(ids or names),
        "label_descriptions": dict(zip(ids, names, strict=True)) if ids else None,
    }


def spec_of(name: str, config: Mapping[str, Any], weights: Mapping[str, str]) -> ModelSpec:
    """The manifest that `config` stands for; its outputs are those that the graph has.

    Besides timm's keys, `config` may have `accuracy` (a list of {dataset, pictures, top1, top5}).

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is not in timm's format, or names no classes.
    """
    cfg = config["pretrained_cfg"]
    channels, height, width = cfg["input_size"]
    normalization = {}
    for key in ("mean", "std"):  # one number for all channels, or one for each
        values = cfg[key]
        if len(values) not in (1, channels):
            raise ValueError(f"{len(values)} numbers for {channels} channels")
        normalization[key] = tuple(map(float, values)) * (channels // len(values))
    labels, label_ids = named_classes(config["label_names"], config.get("label_descriptions"))
    return ModelSpec(
        name=name,
        architecture=config["architecture"],
        labels=labels,
        label_ids=label_ids,
        input=InputSpec(size=(height, width), **normalization),
        crop_mode=cfg.get("crop_mode") or "center",
        crop_pct=cfg["crop_pct"],
        interpolation=cfg["interpolation"],
        weights=weights,
        accuracy=tuple(config.get("accuracy", ())),
    )


def named_classes(names: Any, descriptions: Mapping[str, str] | None) -> ClassNames:
    """The labels and ids that `label_names` and `label_descriptions` stand for; ValueError where they do not."""
    if not isinstance(names, list):
        raise ValueError("label_names is no list, so it is open which class each name is of")
    if descriptions is None:
        return numbered(names), None
    # With descriptions the names are WordNet ids.
    return from_descriptions([descriptions[label_id] for label_id in names], names), tuple(names)
