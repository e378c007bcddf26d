"""Networks by name, with weights from a file: timm's, torchvision's, or a checkpoint of somebody's training."""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import timm
import torch
from torch import nn

import visiontool.pytorch.architectures  # noqa: F401 (registers our networks with timm)
from visiontool.errors import ConversionError, closest, first_line
from visiontool.pytorch import checkpoint

_AUXILIARY_HEADS = ("AuxLogits.", "aux1.", "aux2.")  # of torchvision's Inception v3 and GoogLeNet, used in training
_FILTERS = ("checkpoint_filter_fn", "checkpoint_filter_fn_classifier", "_filter_fn", "_filter_torchvision_pretrained")
_MOST_KEYS_SHOWN = 3
_LONGEST_KEY_SHOWN = 100

StateDict = Mapping[str, torch.Tensor]


def create(
    architecture: str, *, img_size: int | tuple[int, int] | None = None, num_classes: int | None = None
) -> nn.Module:
    """The network of that name with random weights, in evaluation mode, built so that it can be exported.

    Args:
        architecture: timm's name, with or without a tag ("vgg16", "vgg16.tv_in1k"); the tag says how many classes the
            published weights know and what they expect of a picture (`model.pretrained_cfg`).
        img_size: N or (H, W) in pixels; None for the published size. It is built into networks that are made for one
            size (ViT, Swin, MaxViT); the others take any size that they can run at.
        num_classes: None for as many as the published weights know.

    Raises:
        ConversionError: no such architecture or tag, or it cannot run at `img_size`.
    """
    cfg = pretrained_cfg(architecture)
    size = (img_size, img_size) if isinstance(img_size, int) else img_size
    arguments: dict[str, Any] = {"num_classes": num_classes}
    if size is not None and cfg.fixed_input_size:
        arguments["img_size"] = size
    try:
        model = timm.create_model(architecture, exportable=True, **arguments).eval()
        if size is not None:
            with torch.inference_mode():
                model(torch.zeros(1, cfg.input_size[0], *size))
    except Exception as error:  # whatever the network's own code raises
        height, width = size or cfg.input_size[1:]
        published = "x".join(map(str, cfg.input_size[1:]))
        raise ConversionError(
            f"{architecture} cannot run at {height}x{width} pixels: {first_line(error)}\n"
            f"Its published size is {published}."
        ) from error
    return model


def create_with(architecture: str, file: Path, *, img_size: int | tuple[int, int] | None = None) -> nn.Module:
    """The network of that name with the weights of `file`, and with as many classes as these have.

    Raises:
        ConversionError: as `create` and `load_weights`; or the weights are of no classifier.
    """
    model = create(architecture, img_size=img_size)
    found = checkpoint.read(file)
    head = cast(dict[str, Any], model.pretrained_cfg)["classifier"]
    renamed = min(_fits(model, found), key=lambda fit: fit.faults).renamed
    weight = renamed.get(f"{head if isinstance(head, str) or head is None else head[0]}.weight")
    if weight is not None and len(weight) != model.num_classes:
        model = create(architecture, img_size=img_size, num_classes=len(weight))
    _load(model, found, file)
    if not model.num_classes:
        raise ConversionError(f"{file}: these weights of {architecture} have no classifier. Give some that have.")
    return model


def from_folder(folder: Path, weights: Path | None = None) -> nn.Module:
    """The network of a folder in timm's hub format with its weights, in evaluation mode, built as `create` does.

    Args:
        weights: another file of them than its model.safetensors.

    Raises:
        ConversionError: the folder is not of that format, or holds weights of another network.
    """
    try:
        # Not pretrained=True: where the folder's files contradict each other, timm leaves layers as they were made.
        model = timm.create_model(f"local-dir:{folder}", exportable=True).eval()
    except Exception as error:  # whatever reads them raises, and what the network's own code raises
        raise ConversionError(
            f"{folder}: expected timm's config.json and model.safetensors: {type(error).__name__}: {first_line(error)}"
        ) from error
    load_weights(model, weights or folder / "model.safetensors")
    return model


def pretrained_cfg(architecture: str) -> Any:
    """timm's `PretrainedCfg` of an architecture, with or without a tag: where its weights are and what they expect.

    Raises:
        ConversionError: no such architecture or tag.
    """
    name, _, tag = architecture.partition(".")
    if not timm.is_model(name):
        raise ConversionError(f"no architecture is called {name!r}.{closest(name, timm.list_models())}")
    tags = {key.partition(".")[2]: cfg for key, cfg in timm.models.get_arch_pretrained_cfgs(name).items()}
    if tag and tag not in tags:
        raise ConversionError(f"{name} has no weights tagged {tag!r}. It has: {', '.join(tags) or 'none'}.")
    return timm.models.get_pretrained_cfg(architecture) or timm.models.PretrainedCfg(architecture=name)


def load_weights(model: nn.Module, file: Path) -> None:
    """Loads the weights of `file` into `model`, a network that `create` made.

    The file may be safetensors or what torch.save wrote; a plain state dict or a checkpoint that has it somewhere,
    with any prefix before the names (DataParallel's, torch.compile's, Lightning's); with timm's names of the layers
    or, where timm has other names for the same network, torchvision's. Auxiliary heads are left out. Of several sets
    that fit timm's choice is taken: averaged weights, "state_dict", "model". Nothing in the file is executed.

    Raises:
        ConversionError: the file cannot be read; holds weights of another network, and it lists those that are
            missing, left over or of another shape; or holds several, and none is timm's choice. `model` is unchanged.
    """
    _load(model, checkpoint.read(file), file)


class _Fit(NamedTuple):
    """How a set of weights fits a network."""

    weights: checkpoint.Weights
    renamed: StateDict
    told: str  # what does not fit, "" where all does
    faults: int


def _fits(model: nn.Module, found: Mapping[str, Any]) -> list[_Fit]:
    expected = model.state_dict()
    learned = [key for key in expected if not key.endswith("num_batches_tracked")]
    return [_fit(model, expected, weights) for weights in checkpoint.candidates(found, len(learned) // 2)]


def _fit(model: nn.Module, expected: StateDict, weights: checkpoint.Weights) -> _Fit:
    found = _renamed(model, weights.tensors)
    missing = [key for key in expected if key not in found and not key.endswith("num_batches_tracked")]
    left_over = [key for key in found if key not in expected]
    misshapen = [
        f"{key} {tuple(found[key].shape)} for {tuple(expected[key].shape)}"
        for key in expected
        if key in found and found[key].shape != expected[key].shape
    ]
    faults = {"missing": missing, "left over": left_over, "of another shape": misshapen}
    told = "; ".join(f"{what}: {_shown(keys)}" for what, keys in faults.items() if keys)
    return _Fit(weights, found, told, sum(map(len, faults.values())))


def _load(model: nn.Module, found: Mapping[str, Any], file: Path) -> None:
    best, *others = sorted(_fits(model, found), key=lambda fit: (fit.faults, fit.weights.rank))
    tensors = best.weights.tensors
    if not tensors:
        raise ConversionError(
            f"{file}: holds no weights, only {_shown([*map(str, found)]) or 'nothing'}; expected a state dict"
        )
    if unusable := [key for key, value in tensors.items() if not _is_usable(value)]:
        raise ConversionError(
            f"{file}: these weights are sparse, complex or not numbers (NaN): {_shown(unusable)}.\n"
            "Save them again as dense and finite tensors of float numbers."
        )
    if best.told:
        raise ConversionError(f"{file}: these are not the weights of {_architecture(model)}.\n{best.told}")
    if same := [fit for fit in others if not fit.told and fit.weights.rank == best.weights.rank]:
        places = ", ".join(fit.weights.place for fit in (best, *same))
        raise ConversionError(
            f"{file}: holds several sets of weights of {_architecture(model)}: {places}.\n"
            "Save the one that is meant in a file of its own."
        )
    model.load_state_dict(best.renamed, strict=False)


def _is_usable(tensor: torch.Tensor) -> bool:
    if tensor.layout != torch.strided or tensor.is_complex():
        return False
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _renamed(model: nn.Module, found: StateDict) -> StateDict:
    """`found` under the names and in the shapes of `model`, by the filter that timm keeps beside the architecture."""
    expected = model.state_dict()
    found = {key: value for key, value in found.items() if key in expected or not key.startswith(_AUXILIARY_HEADS)}
    rename = _filter_of(model)
    if rename is None:
        return found
    takes_model = len(inspect.signature(rename).parameters) > 1
    try:
        with warnings.catch_warnings():  # they are about timm's own code
            warnings.simplefilter("ignore")
            return rename(dict(found), model) if takes_model else rename(dict(found))
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return found  # of another network, as the comparison that follows says better


def _filter_of(model: nn.Module) -> Callable[..., StateDict] | None:
    """What timm gives as `pretrained_filter_fn` when it loads weights of this architecture itself."""
    names_there = timm.models.model_entrypoint(_architecture(model)).__globals__
    return next((names_there[name] for name in _FILTERS if name in names_there), None)


def _architecture(model: nn.Module) -> str:
    return cast(dict[str, Any], model.pretrained_cfg)["architecture"]


def _shown(keys: Sequence[str]) -> str:
    first, more = ", ".join(key[:_LONGEST_KEY_SHOWN] for key in keys[:_MOST_KEYS_SHOWN]), len(keys) - _MOST_KEYS_SHOWN
    return f"{first} and {more:,} more" if more > 0 else first
