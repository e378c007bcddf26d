"""Networks by name, with weights from a file: timm's, torchvision's, or a checkpoint of somebody's training.

Nothing in a file is executed.
"""

import argparse
import inspect
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import timm
import torch
from safetensors.torch import load_file
from torch import nn

import visiontool.pytorch.architectures  # noqa: F401 (registers our networks with timm)
from visiontool.errors import ConversionError, closest, first_line
from visiontool.hub.resolve import WEIGHTS_SUFFIXES

_AUXILIARY_HEADS = ("AuxLogits.", "aux1.", "aux2.")  # of torchvision's Inception v3 and GoogLeNet, used in training
_FILTERS = ("checkpoint_filter_fn", "checkpoint_filter_fn_classifier", "_filter_fn", "_filter_torchvision_pretrained")
_MAX_KEYS = 3  # in an error
_MAX_KEY_CHARS = 100
# The keys of weights in a checkpoint, in timm's order: averaged weights first.
_TIMM_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")
_MAX_DEPTH = 4
_TORCH_BEFORE_1_6 = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # before the pickle of torch.save, which was no zip
_SAFETENSORS = b"\0\0\0\0{"  # from byte 4: the end of a length in 8 bytes, then JSON
_HEAD_BYTES = 1 << 20
_SAVE = 'where it was made: torch.save(model.state_dict(), "weights.pth")'

# How files begin that are no weights, what they are, and what to do.
_FOREIGN_STARTS = (
    (rb"version https://git-lfs", "it is a pointer of Git LFS, not the file itself", "Fetch that: git lfs pull"),
    (rb"(\xef\xbb\xbf)?\s*<", "it is a web page (HTML or XML), not weights", "Save the file itself, in a browser."),
    (rb"\x89HDF\r\n\x1a\n", "it is HDF5, as Keras writes", "Give weights of torch."),
    (rb"\x1f\x8b|.{257}ustar", "it is an archive (gzip or tar)", "Unpack it first."),
    (rb"\x08.[\x12\x3a\x42]", "it is an ONNX model", "Call it something.onnx and give that as the model: -m FILE.onnx"),
)
# What is only in the ZIP archives of programs, what they are, and their weights in Python.
_PROGRAMS = (
    ("/constants.pkl", "it is a TorchScript archive, code with weights", 'torch.jit.load("{}").state_dict()'),
    ("/archive_format", "it is a program of torch.export", 'torch.export.load("{}").state_dict'),
)


def create(
    architecture: str, *, img_size: int | tuple[int, int] | None = None, num_classes: int | None = None
) -> nn.Module:
    """The network of that name with random weights, in evaluation mode, built so that it can be exported.

    Args:
        architecture: timm's name, with or without a tag ("vgg16", "vgg16.tv_in1k"); the tag stands for how many classes
            the published weights have and what they expect of a picture (`model.pretrained_cfg`).
        img_size: N or (H, W) in pixels; None for the published size. It is built into networks that are made for one
            size (ViT, Swin, MaxViT); the others take any size that they can run at.
        num_classes: None for as many as the published weights have.
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
    content = _read(file)
    head = cast(dict[str, Any], model.pretrained_cfg)["classifier"]  # a name, or several
    renamed = min(_fits(model, content), key=lambda fit: fit.fault_count).renamed
    weight = renamed.get(f"{head[0] if isinstance(head, (list, tuple)) else head}.weight")
    if weight is not None and len(weight) != model.num_classes:
        model = create(architecture, img_size=img_size, num_classes=len(weight))
    _load(model, content, file)
    if not model.num_classes:
        raise ConversionError(f"{file}: these weights of {architecture} have no classifier. Give some that have.")
    return model


def from_folder(folder: Path, weights: Path | None = None) -> nn.Module:
    """The network of a folder in timm's hub format, built as `create` does, with its weights or those of a file."""
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
    """
    _load(model, _read(file), file)


class _Candidate(NamedTuple):
    place: str  # in the file, "" for all of it
    rank: int  # less is better: timm's choice comes first
    tensors: Mapping[str, torch.Tensor]


class _Fit(NamedTuple):
    candidate: _Candidate
    renamed: Mapping[str, torch.Tensor]
    faults: str  # what does not fit, "" where all does
    fault_count: int


def _load(model: nn.Module, content: Mapping[str, Any], file: Path) -> None:
    best, *others = sorted(_fits(model, content), key=lambda fit: (fit.fault_count, fit.candidate.rank))
    tensors, architecture = best.candidate.tensors, _architecture(model)
    if not tensors:
        keys = _some([*map(str, content)]) or "nothing"
        raise ConversionError(f"{file}: holds no weights, only {keys}; expected a state dict")
    unusable = [
        key
        for key, value in tensors.items()
        if value.layout != torch.strided
        or value.is_complex()
        or (value.is_floating_point() and not torch.isfinite(value).all())
    ]
    if unusable:
        raise ConversionError(
            f"{file}: these weights are sparse, complex or not numbers (NaN): {_some(unusable)}.\n"
            "Save them again as dense and finite tensors of float numbers."
        )
    if best.faults:
        raise ConversionError(f"{file}: these are not the weights of {architecture}.\n{best.faults}")
    if same := [fit for fit in others if not fit.faults and fit.candidate.rank == best.candidate.rank]:
        places = ", ".join(fit.candidate.place for fit in (best, *same))
        raise ConversionError(
            f"{file}: holds several sets of weights of {architecture}: {places}.\n"
            "Save the one that is meant in a file of its own."
        )
    model.load_state_dict(best.renamed, strict=False)


def _fits(model: nn.Module, content: Mapping[str, Any]) -> list[_Fit]:
    expected = model.state_dict()
    learned = [key for key in expected if not key.endswith("num_batches_tracked")]
    fits = []
    for candidate in _candidates(content, len(learned) // 2):
        renamed = _renamed(model, candidate.tensors)
        shapes = {key: (tuple(renamed[key].shape), tuple(expected[key].shape)) for key in expected if key in renamed}
        faults = {
            "missing": [key for key in learned if key not in renamed],
            "left over": [key for key in renamed if key not in expected],
            "of another shape": [f"{key} {got} for {right}" for key, (got, right) in shapes.items() if got != right],
        }
        text = "; ".join(f"{kind}: {_some(keys)}" for kind, keys in faults.items() if keys)
        fits.append(_Fit(candidate, renamed, text, sum(map(len, faults.values()))))
    return fits


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


def _some(keys: Sequence[str]) -> str:
    first, more = ", ".join(key[:_MAX_KEY_CHARS] for key in keys[:_MAX_KEYS]), len(keys) - _MAX_KEYS
    return f"{first} and {more:,} more" if more > 0 else first


def _candidates(content: Mapping[str, Any], least: int) -> list[_Candidate]:
    """The sets of at least `least` tensors, however nested, with and without common prefixes; else what timm takes."""
    candidates = []
    for path, tensors in _nested(content):
        rank = _TIMM_KEYS.index(path[0]) if path and path[0] in _TIMM_KEYS else len(_TIMM_KEYS)
        prefixes = Counter(key[: dot + 1] for key in tensors for dot, sign in enumerate(key) if sign == ".")
        for prefix in ["", *(prefix for prefix, count in prefixes.items() if count >= least)]:
            chosen = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            if len(chosen) >= least:
                candidates.append(_Candidate(".".join(filter(None, (*path, prefix.rstrip(".")))), rank, chosen))
    if candidates:
        return candidates
    usual = next((content[key] for key in _TIMM_KEYS if isinstance(content.get(key), Mapping)), content)
    return [_Candidate("", 0, next(_nested(usual))[1])]


def _nested(value: Mapping[Any, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """The tensors of each mapping in `value`, itself included. An optimizer's are numbered, and so left out."""
    named = {key: item for key, item in value.items() if isinstance(key, str)}
    yield path, {key: item for key, item in named.items() if isinstance(item, torch.Tensor)}
    for key, item in named.items():
        if isinstance(item, Mapping) and len(path) < _MAX_DEPTH:
            yield from _nested(item, (*path, key))


def _read(file: Path) -> Mapping[str, Any]:
    """What torch.save or safetensors wrote, by content, not by name."""
    if file.suffix.lower() not in WEIGHTS_SUFFIXES:
        raise ConversionError(f"{file}: expected weights in a file that ends in {', '.join(WEIGHTS_SUFFIXES)}")
    try:
        with file.open("rb") as opened:
            head = opened.read(_HEAD_BYTES)
    except OSError as error:
        raise ConversionError(f"{file}: cannot be read: {error.strerror}") from None
    try:
        fault = _fault(file, head)
        if fault is None and head[4:9] == _SAFETENSORS:
            content = load_file(file)
        elif fault is None:
            # timm's own checkpoints have a Namespace in them. Opened here, because torch would go by the file's name.
            with torch.serialization.safe_globals([argparse.Namespace]), file.open("rb") as opened:
                content = torch.load(opened, map_location="cpu", weights_only=True)
    except Exception as error:  # each format's reader raises others, down to plain Exception
        raise ConversionError(f"{file}: cannot be read as weights: {_reason(file, head, error)}") from error
    if fault is not None:
        raise ConversionError(f"{file}: cannot be read as weights: {fault}")
    if not isinstance(content, Mapping):
        raise ConversionError(f"{file}: holds a {type(content).__name__}, no weights with names.\nSave them {_SAVE}")
    return content


def _fault(file: Path, head: bytes) -> str | None:
    """What the file is if it cannot be weights, and what to do; None where it may be."""
    if not head:
        return "it is empty.\nDownload or copy it again."
    if head[4:9] == _SAFETENSORS:
        return None
    for start, kind, remedy in _FOREIGN_STARTS:
        if re.match(start, head, re.DOTALL):
            return f"{kind}.\n{remedy}"
    if head.startswith(b"PK\x03\x04"):
        return _zip_fault(file)
    if re.fullmatch(rb"[^\0-\x08\x0e-\x1f\x7f]+", head[:200]):
        text = head[:40].decode(errors="replace")
        return f"it is text, which begins with {text!r}.\nExpected what torch.save or safetensors writes."
    return None


def _zip_fault(file: Path) -> str | None:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return "it is damaged or cut short.\nDownload or copy it again."
    for ending, kind, weights in _PROGRAMS:
        if any(name.endswith(ending) for name in names):
            return f'{kind}.\nTake the weights out: torch.save({weights.format(file.name)}, "weights.pth")'
    if any(name.endswith("/data.pkl") for name in names):
        return None
    return f"it is a ZIP archive of other files ({', '.join(names[:3])[:100]}).\nUnpack it, if weights are in it."


def _reason(file: Path, head: bytes, error: Exception) -> str:
    is_zip = head.startswith(b"PK\x03\x04")
    blocked = re.search(r"GLOBAL (\S+) was not an allowed", str(error.__cause__ or error) + str(error))
    if blocked is not None:
        if is_zip:
            with zipfile.ZipFile(file) as archive:
                head = archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))
        if b"torch.nn.modules" in head:
            return f"it is a whole network ({blocked[1]}) with its code, not its weights alone.\nSave these {_SAVE}"
        return f"{blocked[1]} is in it, whose code would have to be run.\nSave the weights alone {_SAVE}"
    if head.startswith(_TORCH_BEFORE_1_6) or head[4:9] == _SAFETENSORS:
        return "it is damaged or cut short.\nDownload or copy it again."
    if head.startswith(b"\x80") and not is_zip:
        return f"it is a pickle that torch.save did not write.\nSave the weights {_SAVE}"
    return f"{type(error).__name__}.\nExpected what safetensors or torch.save writes of a model's state_dict()."
