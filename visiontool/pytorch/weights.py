"""Networks by name, with weights from a file: timm's, torchvision's, or a checkpoint of somebody's training.

Nothing in a file is executed.
"""

import inspect
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import nn

import visiontool.pytorch.architectures  # noqa: F401 (registers our networks with timm)
from visiontool.errors import ConversionError, closest, first_line
from visiontool.hub import state_dict
from visiontool.hub.state_dict import Candidate, Fit
from visiontool.hub.weights import Tensor

_AUXILIARY_HEADS = ("AuxLogits.", "aux1.", "aux2.")  # of torchvision's Inception v3 and GoogLeNet, used in training
_FILTERS = ("checkpoint_filter_fn", "checkpoint_filter_fn_classifier", "_filter_fn", "_filter_torchvision_pretrained")


def create(
    architecture: str, *, img_size: int | tuple[int, int] | None = None, num_classes: int | None = None, **others: Any
) -> nn.Module:
    """The network of that name with random weights, in evaluation mode, built so that it can be exported.

    Args:
        architecture: timm's name, with or without a tag ("vgg16", "vgg16.tv_in1k"); the tag stands for how many classes
            the published weights have and what they expect of a picture (`model.pretrained_cfg`).
        img_size: N or (H, W) in pixels; None for the published size. It is built into networks that are made for one
            size (ViT, Swin, MaxViT); the others take any size that they can run at.
        num_classes: None for as many as the published weights have.
        others: for the constructor of the network.
    """
    cfg = pretrained_cfg(architecture)
    size = (img_size, img_size) if isinstance(img_size, int) else img_size
    arguments: dict[str, Any] = {"num_classes": num_classes, **others}
    if size is not None and cfg.fixed_input_size:
        arguments["img_size"] = size
    try:
        model = timm.create_model(architecture, exportable=True, **arguments).eval()
        if size is not None:
            with torch.inference_mode():
                model(torch.zeros(1, cfg.input_size[0], *size))
    except Exception as error:  # whatever the network's own code raises
        published = cfg.input_size[1:]
        height, width = size or published
        raise ConversionError(
            f"{architecture} cannot run at {height}x{width} pixels: {first_line(error)}\n"
            f"Its published size is {published[0]}x{published[1]}."
        ) from error
    return model


def create_with(architecture: str, file: Path, *, img_size: int | tuple[int, int] | None = None) -> nn.Module:
    """The network of that name with the weights of `file`, and with as many classes as these have."""
    model = create(architecture, img_size=img_size)
    found = state_dict.read(file, model.state_dict())
    head = cast(dict[str, Any], model.pretrained_cfg)["classifier"]  # a name, or several
    weight = _fits(model, found)[0].tensors.get(f"{head[0] if isinstance(head, (list, tuple)) else head}.weight")
    if weight is not None and len(weight) != model.num_classes:
        model = create(architecture, img_size=img_size, num_classes=len(weight))
    _load(model, found, file)
    if not model.num_classes:
        raise ConversionError(f"{file}: these weights of {architecture} have no classifier. Give some that have.")
    return model


def from_folder(folder: Path, weights: Path | None = None, **others: Any) -> nn.Module:
    """The network of a folder in timm's hub format, built as `create` does, with its weights or those of a file."""
    try:
        # Not pretrained=True: where the folder's files contradict each other, timm leaves layers as they were made.
        model = timm.create_model(f"local-dir:{folder}", exportable=True, **others).eval()
    except Exception as error:  # whatever reads them raises, and what the network's own code raises
        raise ConversionError(
            f"{folder}: expected timm's config.json and model.safetensors: {type(error).__name__}: {first_line(error)}"
        ) from error
    load_weights(model, weights or folder / "model.safetensors")
    return model


def pretrained_cfg(architecture: str) -> Any:
    """timm's `PretrainedCfg` of an architecture, with or without a tag: where its weights are and what they expect."""
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
    or torchvision's. Auxiliary heads are left out. Of several sets that fit timm's choice is taken: averaged weights,
    "state_dict", "model". After an error `model` is unchanged.

    Raises:
        ModelError: the file cannot be read, or does not hold the weights of `model`.
    """
    _load(model, state_dict.read(file, model.state_dict()), file)


def _load(model: nn.Module, found: list[Candidate], file: Path) -> None:
    tensors = state_dict.chosen(_fits(model, found), _architecture(model), file)
    model.load_state_dict(tensors, strict=False)


def _fits(model: nn.Module, found: list[Candidate]) -> list[Fit]:
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    in_torch = cache(_in_torch)  # most tensors are in several candidates
    return state_dict.fits(
        found, expected, lambda tensors: _renamed(model, {key: in_torch(tensor) for key, tensor in tensors.items()})
    )


def _renamed(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """`tensors` under the names and in the shapes of `model`, by the filter that timm has beside the architecture."""
    expected = model.state_dict()
    tensors = {key: value for key, value in tensors.items() if key in expected or not key.startswith(_AUXILIARY_HEADS)}
    # What timm gives as `pretrained_filter_fn` when it loads weights of this architecture itself.
    namespace = timm.models.model_entrypoint(_architecture(model)).__globals__
    rename: Callable[..., Any] | None = next((namespace[name] for name in _FILTERS if name in namespace), None)
    if rename is None:
        return tensors
    takes_model = len(inspect.signature(rename).parameters) > 1
    try:
        with warnings.catch_warnings():  # they are about timm's own code
            warnings.simplefilter("ignore")
            return rename(dict(tensors), model) if takes_model else rename(dict(tensors))
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return tensors  # of another network; the comparison has the clearer error


def _architecture(model: nn.Module) -> str:
    return cast(dict[str, Any], model.pretrained_cfg)["architecture"]


def _in_torch(tensor: Tensor) -> torch.Tensor:
    return torch.from_numpy(tensor.array())
