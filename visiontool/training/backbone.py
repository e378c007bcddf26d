"""Networks by name and their weights from a file: timm's, torchvision's, DataParallel's."""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import nn

import visiontool.training.architectures  # noqa: F401 (registers our networks with timm)
from visiontool.errors import ConversionError, closest, first_line
from visiontool.store import WEIGHTS_SUFFIXES

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


def from_folder(folder: Path) -> nn.Module:
    """The network and weights of a folder in timm's hub format, in evaluation mode, built as `create` does.

    Raises:
        ConversionError: the folder is not of that format, or holds weights of another network.
    """
    try:
        # Not pretrained=True: where the folder's files contradict each other, timm leaves layers as they were made.
        model = timm.create_model(f"local-dir:{folder}", exportable=True).eval()
    except Exception as error:  # as in _read, and what the network's own code raises
        raise ConversionError(
            f"{folder}: expected timm's config.json and model.safetensors: {type(error).__name__}: {first_line(error)}"
        ) from error
    load_weights(model, folder / "model.safetensors")
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

    The file may be safetensors or what torch.save wrote; a plain state dict or a checkpoint that has it under
    "state_dict", "model" or a name for averaged weights; with the prefixes of DataParallel and torch.compile; with
    timm's names of the layers or, where timm has other names for the same network, torchvision's. Auxiliary heads
    are left out. Nothing in the file is executed.

    Raises:
        ConversionError: the file cannot be read, or holds weights of another network: it lists those that are
            missing, left over or of another shape. `model` is unchanged.
    """
    found = _renamed(model, _read(file))
    expected = model.state_dict()
    missing = [key for key in expected if key not in found and not key.endswith("num_batches_tracked")]
    left_over = [key for key in found if key not in expected]
    misshapen = [
        f"{key} {tuple(found[key].shape)} for {tuple(expected[key].shape)}"
        for key in expected
        if key in found and found[key].shape != expected[key].shape
    ]
    faults = [
        f"{what}: {_shown(keys)}"
        for what, keys in (("missing", missing), ("left over", left_over), ("of another shape", misshapen))
        if keys
    ]
    if faults:
        raise ConversionError(f"{file}: these are not the weights of {_architecture(model)}.\n{'; '.join(faults)}")
    model.load_state_dict(found, strict=False)


def _read(file: Path) -> StateDict:
    """The state dict in the file, without the prefixes of wrappers."""
    if file.suffix.lower() not in WEIGHTS_SUFFIXES:
        raise ConversionError(f"{file}: expected weights in a file that ends in {', '.join(WEIGHTS_SUFFIXES)}")
    try:
        found = timm.models.load_state_dict(str(file), weights_only=True)
    except FileNotFoundError:
        raise ConversionError(f"{file}: there is no such file") from None
    except Exception as error:  # each format's reader raises others, down to plain Exception
        raise ConversionError(
            f"{file}: cannot be read as weights ({type(error).__name__}).\n"
            "Expected safetensors, or what torch.save writes of a model's state_dict() and nothing else."
        ) from error
    tensors = {key: value for key, value in found.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ConversionError(f"{file}: holds no weights, only {_shown([*found]) or 'nothing'}; expected a state dict")
    if unusable := [key for key, value in tensors.items() if not _is_usable(value)]:
        raise ConversionError(
            f"{file}: these weights are sparse, complex or not numbers (NaN): {_shown(unusable)}.\n"
            "Save them again as dense and finite tensors of float numbers."
        )
    return tensors


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
