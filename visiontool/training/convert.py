"""From a torch network to a model file, written only after it has answered as torch does on real pictures."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxscript
import timm
import torch
from numpy.typing import NDArray
from onnx_ir.passes import common as passes
from torch import nn

import visiontool.training.architectures  # noqa: F401 (registers our networks with timm)
from visiontool import labels, preprocess
from visiontool.classifier import Classifier
from visiontool.errors import ConversionError, ModelError
from visiontool.images import ImageSource, open_image
from visiontool.spec import InputSpec, ModelSpec

PARITY_BATCHES = (1, 2, 7, 32)
MAX_RELATIVE_L2 = 1e-5
MAX_ABSOLUTE = 1e-3
_TRACE_BATCH = 2  # torch.export would make a constant of a batch of 1
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's convert("L")


def convert(model: nn.Module, spec: ModelSpec, path: Path, pictures: Sequence[ImageSource]) -> ModelSpec:
    """Writes `model` as a model file that says `spec` of itself.

    Args:
        model: a network with timm's interface (`forward_features`, `forward_head`), weights loaded; it is put into
            evaluation mode.
        spec: what the file is to say; `embedding`, `feature_map`, `tools` and `parity` are filled in here.
        path: the file, replaced if it exists, and only once the new one has passed.
        pictures: real pictures to compare with torch on, at least one; more say more.

    Returns:
        The spec as written.

    Raises:
        ConversionError: the exporter failed, the file cannot be written, or it does not answer as torch does. Nothing
            is left behind.
        PictureError: one of `pictures` cannot be read.
    """
    if not pictures:
        raise ConversionError("a conversion is checked on real pictures; give at least one")
    model.eval()
    graph = _InContract(model, spec.input).eval()
    outputs = ["logits", "embedding", *(["feature_map"] if graph.has_feature_map else [])]
    spec = replace(
        spec,
        logits="logits",
        embedding="embedding",
        feature_map="feature_map" if graph.has_feature_map else None,
        tools={
            "torch": torch.__version__.partition("+")[0],
            "onnxscript": onnxscript.__version__,
            "timm": timm.__version__,
        },
        parity={
            "reference": "torch",
            "batches": list(PARITY_BATCHES),
            "pictures": len(pictures),
            "max_relative_l2": MAX_RELATIVE_L2,
            "max_absolute": MAX_ABSOLUTE,
        },
    )
    pixels = _parity_pixels(spec, pictures)
    unfinished = path.with_name(path.name + ".partial")
    try:
        _export(graph, spec, outputs, unfinished)
        _check_parity(model, spec, unfinished, pixels)
        unfinished.replace(path)
    except ModelError as error:
        raise ConversionError(f"{spec.name}: the written file cannot be used: {error}") from error
    except OSError as error:
        raise ConversionError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        unfinished.unlink(missing_ok=True)
    return spec


def convert_folder(folder: Path, path: Path, pictures: Sequence[ImageSource], *, name: str | None = None) -> ModelSpec:
    """Converts a folder in timm's hub format: config.json and model.safetensors.

    Besides timm's keys, config.json may have `accuracy` (a list of {dataset, pictures, top1, top5}) and `source`, which
    says where the weights come from.

    Args:
        name: what the model is to be called; None for the folder's name.

    Raises:
        ConversionError: a file is missing or not of that format; or as `convert`.
    """
    try:
        config = json.loads((folder / "config.json").read_bytes())
        model = timm.create_model(f"local-dir:{folder}", pretrained=True)
        spec = _spec(
            name or folder.name,
            config["architecture"],
            config["pretrained_cfg"],
            _named_classes(config.get("label_names"), config.get("label_descriptions")),
            _weights(folder / "model.safetensors", config["pretrained_cfg"], config.get("source", "")),
            accuracy=config.get("accuracy", ()),
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ConversionError(
            f"{folder}: expected timm's config.json and model.safetensors: {type(error).__name__}: {error}"
        ) from error
    return convert(model, spec, path, pictures)


def convert_checkpoint(
    architecture: str, checkpoint: Path, path: Path, pictures: Sequence[ImageSource], *, name: str | None = None
) -> ModelSpec:
    """Converts a published network whose weights lie in a local .safetensors or .pth file.

    Args:
        architecture: timm's name, with or without a tag; preprocessing and labels are those of its published weights.
        name: what the model is to be called; None for the architecture's name.

    Raises:
        ConversionError: no such architecture, weights of another network, or classes that are not ImageNet's; or as
            `convert`.
    """
    try:
        model = timm.create_model(architecture)
        timm.models.load_checkpoint(model, str(checkpoint), weights_only=True)
        cfg = model.pretrained_cfg
        if not str(cfg.get("tag")).endswith("in1k"):
            raise ValueError(f"the classes of {architecture!r} are not known")
        info = timm.data.ImageNetInfo("imagenet-1k")
        spec = _spec(
            name or architecture.partition(".")[0],
            cfg["architecture"],
            cfg,
            _named_classes(info.label_names(), info.label_descriptions(as_dict=True)),
            _weights(checkpoint, cfg, cfg.get("url") or cfg.get("hf_hub_id") or ""),
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ConversionError(f"{checkpoint}: {type(error).__name__}: {error}") from error
    return convert(model, spec, path, pictures)


def _spec(
    name: str,
    architecture: str,
    cfg: Mapping[str, Any],
    classes: tuple[tuple[str, ...], tuple[str, ...] | None],
    weights: Mapping[str, str],
    accuracy: Sequence[Mapping[str, Any]] = (),
) -> ModelSpec:
    """What timm's `pretrained_cfg` says, in our words."""
    channels, height, width = cfg["input_size"]
    return ModelSpec(
        name=name,
        architecture=architecture,
        labels=classes[0],
        label_ids=classes[1],
        input=InputSpec(
            size=(height, width), mean=_per_channel(cfg["mean"], channels), std=_per_channel(cfg["std"], channels)
        ),
        crop_mode=cfg.get("crop_mode") or "center",
        crop_pct=cfg["crop_pct"],
        interpolation=cfg["interpolation"],
        weights=weights,
        accuracy=tuple(accuracy),
    )


def _named_classes(
    names: Sequence[str] | None, descriptions: Mapping[str, str] | None
) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Labels and ids: where there are descriptions, `names` are WordNet ids, else they are the labels."""
    if not names:
        raise ValueError("label_names is missing, so the classes have no names")
    if descriptions is None:
        return labels.numbered(names), None
    return labels.from_descriptions([descriptions[label_id] for label_id in names], names), tuple(names)


def _weights(file: Path, cfg: Mapping[str, Any], source: str) -> dict[str, str]:
    facts = {
        "source": source,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "license": cfg.get("license") or "",
    }
    return {key: value for key, value in facts.items() if value}


def _per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    if len(values) not in (1, channels):
        raise ValueError(f"{len(values)} numbers for {channels} channels")
    return tuple(map(float, values)) * (channels // len(values))


class _InContract(nn.Module):
    """The network in the contract of docs/model-file.md: uint8 (N, H, W, 3) in; logits, embedding, feature map out."""

    mean: torch.Tensor
    std: torch.Tensor
    luma: torch.Tensor

    def __init__(self, model: nn.Module, spec: InputSpec) -> None:
        super().__init__()
        self.model = model
        self.gray = len(spec.mean) == 1
        self.has_feature_map = _has_global_pool(model)
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1))
        self.register_buffer("luma", torch.tensor(_LUMA).view(1, 3, 1, 1))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # Without contiguous() the tensor is channels-last, and the exporter writes the pool as a gather.
        x = image.permute(0, 3, 1, 2).contiguous().to(torch.float32) / 255  # (N, 3, H, W)
        if self.gray:
            x = (x * self.luma).sum(dim=1, keepdim=True)  # (N, 1, H, W)
        x = (x - self.mean) / self.std
        features = self.model.forward_features(x)  # type: ignore[operator]
        embedding = self.model.forward_head(features, pre_logits=True)  # type: ignore[operator]
        logits = self.model.forward_head(features)  # type: ignore[operator]
        return (logits, embedding, features) if self.has_feature_map else (logits, embedding)


def _has_global_pool(model: nn.Module) -> bool:
    """Whether the features are a map (N, D', h, w) that a global pool turns into the embedding."""
    pool = getattr(model, "global_pool", None) or getattr(getattr(model, "head", None), "global_pool", None)
    return isinstance(pool, nn.Module) and not isinstance(pool, nn.Identity)


def _export(graph: _InContract, spec: ModelSpec, outputs: list[str], path: Path) -> None:
    height, width = spec.input.size
    example = torch.zeros((_TRACE_BATCH, height, width, 3), dtype=torch.uint8)
    try:
        program = torch.onnx.export(
            graph,
            (example,),
            input_names=[spec.input.name],
            output_names=outputs,
            dynamic_shapes=({0: "N"},),
            external_data=False,
            verbose=False,
        )
    except Exception as error:
        raise ConversionError(f"{spec.name}: torch.onnx.export failed: {error}") from error
    if program is None:
        raise ConversionError(f"{spec.name}: torch.onnx.export gave nothing")
    model = program.model
    passes.CommonSubexpressionEliminationPass()(model)
    _clear_traces(model)
    # The Image.* metadata is about inputs that are marked so.
    model.graph.inputs[0].type = onnx_ir.TensorType(onnx_ir.DataType.UINT8, denotation="IMAGE")
    model.metadata_props.update(spec.to_metadata())
    onnx_ir.save(model, path)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionError(f"{spec.name}: the exporter wrote a file that is not valid ONNX: {error}") from error


def _clear_traces(model: onnx_ir.Model) -> None:
    """Takes out what the exporter notes of itself: node metadata holds stack traces with this machine's paths."""
    passes.ClearMetadataAndDocStringPass()(model)
    model.producer_version = torch.__version__.partition("+")[0]
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    for value in values + [output for node in model.graph for output in node.outputs]:
        value.metadata_props.clear()


def _parity_pixels(spec: ModelSpec, pictures: Sequence[ImageSource]) -> NDArray[np.uint8]:
    """As many different inputs as the largest batch of the check, (N, H, W, 3): the pictures, then they in disguise."""
    fitted = [preprocess.fit_to_spec(open_image(picture).image, spec) for picture in pictures[: max(PARITY_BATCHES)]]
    height = spec.input.size[0]
    views, shift = list(fitted), 0
    while len(views) < max(PARITY_BATCHES):
        shift += 1
        views += [np.roll(pixels[:, :: (-1) ** shift], shift * height // 16, axis=0) for pixels in fitted]
    return np.stack(views[: max(PARITY_BATCHES)])


def _check_parity(model: nn.Module, spec: ModelSpec, path: Path, pixels: NDArray[np.uint8]) -> None:
    """Compares the file, opened by the code that users run, with `model` on the same pixels."""
    classifier = Classifier.load(path, device="cpu")
    for batch in PARITY_BATCHES:
        chunk = pixels[:batch]
        with torch.inference_mode():
            x = _normalized(chunk, spec.input)
            features = model.forward_features(x)  # type: ignore[operator]
            expected = {"logits": model(x), "embedding": model.forward_head(features, pre_logits=True)}  # type: ignore[operator]
        if spec.feature_map:
            expected["feature_map"] = features
        for output, values in expected.items():
            _compare(f"{spec.name}: {output}, batch {batch}", classifier.run(chunk, output), values.numpy())
        _compare_classes(f"{spec.name}: batch {batch}", classifier.run(chunk, "logits"), expected["logits"].numpy())


def _normalized(pixels: NDArray[np.uint8], spec: InputSpec) -> torch.Tensor:
    """What the network was trained on, (N, channels, H, W), worked out apart from the exported graph."""
    values = pixels.astype(np.float64) / 255
    if len(spec.mean) == 1:
        values = (values @ np.array(_LUMA))[..., None]
    values = (values - np.array(spec.mean)) / np.array(spec.std)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32))


def _compare(what: str, got: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """Raises ConversionError unless `got` is `expected` within the gates (docs/design.md says where they come from)."""
    if got.shape != expected.shape:
        raise ConversionError(f"{what}: shape {got.shape} in the file, {expected.shape} in torch")
    relative = float(np.linalg.norm(got - expected)) / max(float(np.linalg.norm(expected)), 1e-12)
    absolute = float(np.abs(got - expected).max())
    if not (relative <= MAX_RELATIVE_L2 and absolute <= MAX_ABSOLUTE):
        raise ConversionError(
            f"{what}: the file does not answer as torch does "
            f"(relative difference {relative:.1e}, at most {MAX_RELATIVE_L2:.0e}; largest {absolute:.1e})"
        )


def _compare_classes(what: str, got: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """Raises ConversionError where another class is named although torch's answer is clear."""
    ordered = np.sort(expected, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > MAX_ABSOLUTE
    if (got.argmax(1) != expected.argmax(1))[clear].any():
        raise ConversionError(f"{what}: the file and torch name different classes")
