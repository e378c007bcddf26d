"""The model of a run: its file, behind the same backbone; and for timm, config.json and model.safetensors.

Only the last layer differs from the files of the model that it began with, so torch is not needed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from visiontool._version import __version__
from visiontool.errors import ConversionError
from visiontool.files import MODEL_FILE
from visiontool.graph.head import with_head
from visiontool.images.decode import Limits
from visiontool.inference.classifier import Classifier
from visiontool.model.spec import ModelSpec
from visiontool.training.embed_dataset import EmbeddedDataset
from visiontool.training.head import Head

CONFIG, WEIGHTS = "config.json", "model.safetensors"

# As published these have a convolution and ReLU ahead of the pool. Built with the argument `linear_head` of
# visiontool.pytorch.architectures they have this layer behind it instead.
_LINEAR_LAYERS = {"squeezenet1_0": "classifier.2", "squeezenet1_1": "classifier.2", "nin": "classifier.2"}

# DeiT and PiT with two classifiers of two tokens: logits are the mean of both, the embedding the mean of the tokens,
# so the same head in both places is that head on the embedding.
_DISTILLED = "_distilled_"

# How the network is built. All else in a `pretrained_cfg` is of the old head, or of where its weights were.
_BUILD_KEYS = ("tag", "min_input_size", "fixed_input_size", "pool_size", "first_conv")

_COMPARED = 16  # pictures
_MODEL_TOLERANCE = 1e-4  # of the largest logit
_LEAST = 1e-2  # taken for the largest logit where all are smaller: where nothing tells the classes apart, all are zero
_TIMM_TOLERANCE = 1e-3  # of the largest logit


class _Place(NamedTuple):
    """Where a head goes in timm's network."""

    old: list[str]  # layers that it replaces
    new: list[str]  # layers that get it
    axes: int  # of the new layers' weight: 4 where they are convolutions of 1x1
    model_args: dict[str, Any]


def write_model(
    folder: Path,
    base: Classifier,
    spec: ModelSpec,
    embedded: EmbeddedDataset,
    judged: NDArray[np.intp],
    head: Head,
    limits: Limits,
) -> Classifier:
    """Writes the model of the run behind the backbone of `base`, and compares it on some of the `judged` pictures.

    It is returned, opened; its `spec` has temperature, tools and parity too.

    Raises:
        ConversionError: the file gives other logits than the head on the outputs it was solved with.
    """
    some = judged[np.linspace(0, len(judged) - 1, min(_COMPARED, len(judged)), dtype=np.intp)]
    spec = replace(
        spec,
        temperature=head.temperature,
        tools={**base.spec.tools, "visiontool": __version__},
        parity={
            "reference": "the head on outputs of the backbone",
            "pictures": len(some),
            "allowed_relative": _MODEL_TOLERANCE,
        },
    )
    file = folder / MODEL_FILE
    features = head.features
    stages = len(features.widths)
    with_head(base.path, file, head.weight, head.bias, spec, stages=stages, transform=features.transform)
    model = Classifier.load(file, device=base.device, provider=base.provider, limits=limits)
    logits = model.logits([embedded.data.samples[index].path for index in some.tolist()])
    expected = head.logits(embedded.outputs[some, 0])
    difference = float(np.abs(logits - expected).max() / max(np.abs(expected).max(), _LEAST))
    if not difference <= _MODEL_TOLERANCE:
        raise ConversionError(
            f"{file}: gives other logits than its head on the backbone's outputs, by {difference:.1e} of the largest.\n"
            f"Allowed are {_MODEL_TOLERANCE:.0e}. Please report it, with the name of the model ({base.spec.name})."
        )
    return model


def write_timm_files(source: Path, folder: Path, spec: ModelSpec, head: Head) -> bool:
    """Writes config.json and model.safetensors into `folder`, for the network of `source` with a new head.

    `timm.create_model("local-dir:FOLDER", pretrained=True)` then gives the logits of the model file, for what timm
    lacks after `import visiontool.pytorch.architectures`.

    Args:
        source: the model file; config.json and model.safetensors are expected beside it.
        spec: the manifest of the new model file.

    Returns:
        False, and nothing is written, where these files are missing or of another network than `source`, or where timm
        could not build this head: it must be linear in the embedding.
    """
    if not head.features.is_embedding:
        return False
    try:
        config = json.loads((source.parent / CONFIG).read_bytes())
        tensors = load_file(source.parent / WEIGHTS)
        place = _find_place(source, config, tensors, head.weight.shape[1])
        if place is None:
            return False
        config = config_of(config, spec, place.new, place.model_args)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError):  # not as timm writes them
        return False
    weight = head.weight.reshape(head.weight.shape + (1,) * (place.axes - 2))
    # In order: save takes memory as it is.
    parts = {name: np.ascontiguousarray(part, np.float32) for name, part in (("weight", weight), ("bias", head.bias))}
    for layer in place.old:
        for part in parts:
            del tensors[f"{layer}.{part}"]
    tensors |= {f"{layer}.{part}": values for layer in place.new for part, values in parts.items()}
    (folder / WEIGHTS).write_bytes(save(tensors, {"format": "pt"}))  # save_file has no OSError for a full disk
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return True


def delete_timm_files(folder: Path) -> None:
    """Deletes the files of `write_timm_files`."""
    for name in (CONFIG, WEIGHTS):
        (folder / name).unlink(missing_ok=True)


def _find_place(
    source: Path, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], width: int
) -> _Place | None:
    """Where the head for embeddings of `width` goes: the place of its own, if that gives its logits of the embedding.

    None where it does not: where a norm comes between, as in LeViT, or the files are of another network.
    """
    architecture, layers = config["architecture"], config["pretrained_cfg"]["classifier"]
    model_args = dict(config.get("model_args") or {})
    layers = [layers] if isinstance(layers, str) else list(layers)
    weight, bias = (
        np.mean([tensors[f"{layer}.{part}"] for layer in layers], axis=0, dtype=np.float32)
        for part in ("weight", "bias")
    )
    if weight.shape[1:] != (width,) + (1,) * (weight.ndim - 2):
        return None
    if architecture in _LINEAR_LAYERS and not model_args.get("linear_head"):
        return _Place(layers, [_LINEAR_LAYERS[architecture]], 2, {**model_args, "linear_head": True})
    place = _Place(layers, layers, weight.ndim, model_args)
    if _DISTILLED in architecture:
        return place
    classifier = Classifier.load(source, device="cpu")
    spec = classifier.spec
    pixels = np.random.default_rng(0).integers(0, 256, (2, *spec.input.size, 3), np.uint8)
    logits = classifier.outputs(pixels, spec.logits)
    expected = classifier.outputs(pixels, spec.embedding or "") @ np.reshape(weight, (-1, width)).T + bias
    if expected.shape != logits.shape:
        return None
    return place if np.abs(expected - logits).max() <= _TIMM_TOLERANCE * np.abs(logits).max() else None


def config_of(
    before: Mapping[str, Any], spec: ModelSpec, classifier: Sequence[str], model_args: Mapping[str, Any]
) -> dict[str, Any]:
    """config.json of a network with the classes and the preprocessing of `spec`.

    Args:
        before: that of the network with other classes, or its `architecture` and `pretrained_cfg`.
        classifier: the names of its last layers.
        model_args: for its constructor.
    """
    cfg = before["pretrained_cfg"]
    config: dict[str, Any] = {
        "architecture": before["architecture"],
        "num_classes": len(spec.labels),
        **{key: before[key] for key in ("num_features", "global_pool") if key in before},
        "model_args": {**model_args, "num_classes": len(spec.labels)},
        "label_names": spec.labels,
        "source": spec.weights.get("source", ""),
        "accuracy": [dict(entry) for entry in spec.accuracy],
        "pretrained_cfg": {
            **{key: cfg[key] for key in _BUILD_KEYS if key in cfg},
            "custom_load": False,
            "input_size": [cfg["input_size"][0], *spec.input.size],
            "interpolation": spec.interpolation,
            "crop_pct": spec.crop_pct,
            "crop_mode": spec.crop_mode,
            "mean": spec.input.mean,
            "std": spec.input.std,
            "num_classes": len(spec.labels),
            "classifier": classifier[0] if len(classifier) == 1 else [*classifier],
            "license": spec.weights.get("license"),
        },
    }
    if spec.label_ids is not None and len(set(spec.label_ids)) == len(spec.label_ids):
        config["label_names"] = spec.label_ids
        config["label_descriptions"] = dict(zip(spec.label_ids, spec.labels, strict=True))
    return config
