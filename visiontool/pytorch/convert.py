"""From a torch network to a model file, written only after it has answered as torch does on real pictures."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import onnxscript
import timm
import torch
from safetensors.torch import save, save_file
from torch import nn

from visiontool.errors import ConversionError, ModelError
from visiontool.files import MODEL_FILE, replacing, sha256
from visiontool.hub.timm_config import named, spec_of
from visiontool.images.decode import ImageSource
from visiontool.model import class_names as model_class_names
from visiontool.model.class_names import ClassNames
from visiontool.model.difference import batches_for
from visiontool.model.spec import ModelSpec
from visiontool.pytorch import exporters, parity
from visiontool.pytorch import weights as torch_weights

_MAX_FAULT_CHARS = 200
_ROUNDINGS, _ROUNDED = 4, 8  # times torch's own rounding, measured on so many pictures


def convert(
    model: nn.Module,
    spec: ModelSpec,
    path: Path,
    pictures: Sequence[ImageSource],
    *,
    batches: Sequence[int] | None = None,
    is_new: bool = False,
) -> ModelSpec:
    """Writes `model` as a model file with the manifest `spec`.

    Each exporter of `exporters.EXPORTERS` is tried until one writes a file that passes.

    Args:
        model: a network with timm's interface (`forward_features`, `forward_head`), weights loaded, best made by
            `weights.create`; it is put into evaluation mode.
        spec: `embedding`, `feature_map`, `tools` and `parity` are filled in here.
        path: the file, replaced if it exists, and only once the new one has passed.
        pictures: real pictures to compare with torch on, at least one.
        batches: sizes at which they are compared; None for `difference.BATCHES`, less what would take too much memory.
        is_new: trained here, perhaps for a few steps only. Such a network may magnify rounding, so the file may differ
            by four times as much as torch in float32 from torch in float64.

    Returns:
        The spec as written; `tools` has "exporter" where it was not the first.

    Raises:
        ConversionError: the network cannot run at the size, no exporter wrote a file that answers as torch does, or
            the file cannot be written. Nothing is left behind.
    """
    weights_bytes = sum(tensor.nbytes for tensor in model.state_dict().values())
    if weights_bytes > exporters.MAX_WEIGHTS_BYTES:
        raise ConversionError(
            f"{spec.name} has {weights_bytes / 2**30:.1f} GiB of weights; an .onnx file without others beside it holds"
            " less than 2. Choose a smaller network."
        )
    try:
        wrapper = exporters.OnnxWrapper(model, spec.input)
    except ConversionError as error:
        raise ConversionError(f"{spec.name}: {error}") from error
    if wrapper.classes != len(spec.labels):
        raise ConversionError(
            f"{spec.name}: the network gives {wrapper.classes:,} logits for {len(spec.labels):,} labels"
        )
    batches = tuple(batches or batches_for(spec.input.size))
    pixels, bound = parity.pixels_of(pictures, spec, max(batches)), parity.MAX_RELATIVE_L2
    if is_new:
        bound = max(bound, _ROUNDINGS * parity.rounding(wrapper, spec.input, pixels[:_ROUNDED]))
    spec = replace(
        spec,
        logits="logits",
        embedding="embedding",
        feature_map="feature_map" if "feature_map" in wrapper.outputs else None,
        # The graph has fewer, where a batch normalization became part of a convolution.
        weights={**spec.weights, "params": sum(parameter.numel() for parameter in model.parameters())},
        tools={
            "torch": torch.__version__.partition("+")[0],
            "onnxscript": onnxscript.__version__,
            "timm": timm.__version__,
        },
        parity={
            "reference": "torch",
            "batches": list(batches),
            "pictures": min(len(pictures), max(batches)),
            "max_relative_l2": bound,
            "max_absolute": parity.MAX_ABSOLUTE,
        },
    )
    expected = parity.answers(wrapper, spec.input, pixels)  # before an exporter can have changed anything
    faults = [f"{spec.name}: no exporter wrote a file that answers as torch does"]
    try:
        with replacing(path) as unfinished:
            for number, exporter in enumerate(exporters.EXPORTERS):
                attempt = spec if number == 0 else replace(spec, tools={**spec.tools, "exporter": exporter})
                try:
                    exporters.export(exporter, wrapper, attempt, unfinished)
                    parity.check(unfinished, spec.input, pixels, expected, batches, bound)
                except (ConversionError, ModelError) as error:
                    text = " ".join(str(error).split())
                    more = "..." if len(text) > _MAX_FAULT_CHARS else ""
                    faults.append(f"{exporter}: {text[:_MAX_FAULT_CHARS]}{more}")
                else:
                    return attempt
            raise ConversionError("\n".join(faults))
    except OSError as error:
        raise ConversionError(f"{path}: cannot be written: {error.strerror}") from error


def write_trained(model: nn.Module, spec: ModelSpec, folder: Path, pictures: Sequence[ImageSource]) -> ModelSpec:
    """Writes model.safetensors and model.onnx of a trained network into `folder`; config.json is the caller's."""
    tensors = {key: tensor.detach().clone().contiguous() for key, tensor in model.state_dict().items()}
    with replacing(folder / "model.safetensors") as unfinished:
        unfinished.write_bytes(save(tensors, {"format": "pt"}))  # save_file has no OSError for a full disk
    return convert(model, spec, folder / MODEL_FILE, pictures, is_new=True)


def convert_folder(
    folder: Path,
    path: Path,
    pictures: Sequence[ImageSource],
    *,
    name: str | None = None,
    weights: Path | None = None,
) -> ModelSpec:
    """Converts a folder in timm's hub format: config.json and model.safetensors.

    Besides timm's keys, config.json may have `accuracy` (a list of {dataset, pictures, top1, top5}), `source`, where
    the weights come from, and `sha256` of the file they came in.

    Args:
        name: of the model; None for the folder's name.
        weights: another file of them, as `weights.load_weights` takes it; the folder gets its model.safetensors.
    """
    in_folder = folder / "model.safetensors"
    model = torch_weights.from_folder(folder, weights or in_folder)
    if weights not in (None, in_folder):
        save_file({key: tensor.clone() for key, tensor in model.state_dict().items()}, in_folder, {"format": "pt"})
    try:
        config = json.loads((folder / "config.json").read_bytes())
        if config.get("label_names") is None:  # timm leaves ImageNet's out
            cfg = config["pretrained_cfg"]
            classes = config.get("num_classes", cfg["num_classes"])
            config |= _imagenet_names(config["architecture"], cfg.get("tag") or "", classes)
        facts = {
            "source": config.get("source"),
            "sha256": config.get("sha256") or sha256(in_folder),
            "license": config["pretrained_cfg"].get("license"),
        }
        spec = spec_of(name or folder.name, config, {key: value for key, value in facts.items() if value})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConversionError(
            f"{folder}: expected timm's config.json and model.safetensors: {type(error).__name__}: {error}"
        ) from error
    return convert(model, spec, path, pictures)


def convert_checkpoint(
    architecture: str,
    checkpoint: Path,
    folder: Path,
    pictures: Sequence[ImageSource],
    *,
    name: str | None = None,
    img_size: int | tuple[int, int] | None = None,
    source: str = "",
    license: str | None = None,
    class_names: ClassNames | None = None,
) -> ModelSpec:
    """Converts a network whose weights lie in a local file, into a folder of its own.

    The folder gets model.onnx, config.json and model.safetensors, so that
    `timm.create_model("local-dir:FOLDER", pretrained=True)` gives the same logits (for what timm lacks, after
    `import visiontool.pytorch.architectures`).

    Args:
        architecture: timm's name, with or without a tag; preprocessing is that of its published weights.
        checkpoint: as `weights.load_weights` takes it.
        folder: made where it is missing.
        name: of the model; None for the architecture's name.
        img_size: N or (H, W) in pixels; None for the published size.
        source: where the weights come from; "" for where they are published, or the file where they are others.
        license: of the weights; None for the published one.
        class_names: None for the published weights, whose classes are ImageNet's. Of others as many as they have
            classes; with no names at all the classes are called by their numbers.
    """
    cfg = torch_weights.pretrained_cfg(architecture)
    cfg_changes: dict[str, Any] = {} if license is None else {"license": license}
    if class_names is None:
        names = _imagenet_names(architecture, cfg.tag or "", cfg.num_classes)
        source = source or (f"hf-hub:{cfg.hf_hub_id}" if cfg.hf_hub_id else cfg.url or "")
        model = torch_weights.create(architecture, img_size=img_size)
        torch_weights.load_weights(model, checkpoint)
    else:
        cfg_changes["tag"] = ""  # that of the published ones
        model = torch_weights.create_with(architecture, checkpoint, img_size=img_size)
        names = named(class_names, checkpoint, cast(int, model.num_classes))
    size = (img_size, img_size) if isinstance(img_size, int) else img_size or cfg.input_size[1:]
    config = {
        **names,
        "source": source or f"file {checkpoint.name}",
        "sha256": sha256(checkpoint),
        "pretrained_cfg": cfg_changes,
    }
    try:
        timm.models.save_for_hf(
            model,
            str(folder),
            model_config=config,
            safe_serialization=True,
            data_config={"input_size": (cfg.input_size[0], *size)},
        )
    except OSError as error:
        raise ConversionError(f"{folder}: cannot be written: {error.strerror}") from error
    del model  # the folder is read back: what is converted is what lies there
    return convert_folder(folder, folder / "model.onnx", pictures, name=name or architecture.partition(".")[0])


def _imagenet_names(architecture: str, tag: str, classes: int) -> dict[str, Any]:
    """The classes of published weights as config.json has them; ConversionError where they are not ImageNet's."""
    if not model_class_names.are_imagenets(classes, tag):
        known = f"the {classes:,} classes of its weights ({tag})" if classes and tag != "untrained" else "its classes"
        raise ConversionError(
            f"{architecture}: {known} have no names: they are not known as ImageNet's.\n"
            "Give a folder in timm's format, whose config.json has label_names: -m local-dir:FOLDER"
        )
    info = timm.data.ImageNetInfo(timm.data.infer_imagenet_subset({"num_classes": classes}))
    return {"label_names": info.label_names(), "label_descriptions": info.label_descriptions(as_dict=True)}
