"""From what `--model` says to a model file on this disk."""

import os
from pathlib import Path

from visiontool.errors import ModelError, closest
from visiontool.hub import cache

DEFAULT_MODEL = "resnet18_tiny200"
MODEL_VARIABLE = "VISIONTOOL_MODEL"
HUB, FOLDER = "hf-hub:", "local-dir:"  # as timm writes them, before ORG/NAME and the path of a folder
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")  # of a folder in timm's format, the better first
WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")  # of files of torch's weights


class ModelNotPulled(ModelError):
    """A model that is known, but not on this machine; `name` is what `pull.pull` takes."""

    def __init__(self, name: str, origin: str) -> None:
        super().__init__(f"{name}{origin} is not on this machine yet.\nGet it with: visiontool models pull {name}")
        self.name = name


class ModelUntrained(ModelError):
    """A network without published weights; `name` is the catalog's."""

    def __init__(self, name: str) -> None:
        other = _sibling_with_weights(name)
        first = f"{other} has weights: visiontool models pull {other}\nOr give" if other else "Give"
        super().__init__(
            f"{name} has no published weights.\n{first} a folder of your own in timm's format: -m {FOLDER}FOLDER"
        )
        self.name = name


def weights_folder() -> Path:
    """The folder of the built-in models: in the package when installed, beside it in a checkout."""
    return _shipped("weights")


def sample_pictures() -> list[Path]:
    """The sample pictures, in order."""
    return sorted(_shipped("samples").glob("*.jpg"))


def built_in_names() -> list[str]:
    """The names of the built-in models, in order."""
    return sorted(path.parent.name for path in weights_folder().glob(f"*/{cache.MODEL_FILE}"))


def default_model() -> str:
    """The model that answers where none is named: VISIONTOOL_MODEL's, else the user's choice, else the built-in one.

    Raises:
        ModelError: the file of the user's choice is damaged.
    """
    return _default()[0]


def resolve(model: str | os.PathLike[str] | None) -> Path:
    """The .onnx file that `model` means: a path, a folder with a model.onnx in it, a built-in or a pulled model.

    In this order; a pulled model is meant by its name in the cache, and by every name that the catalog has for it.
    None means `default_model`.

    Raises:
        ModelNotPulled: the model is known, but not in the cache.
        ModelUntrained: it has no published weights, and is not built in.
        ModelError: there is no such model; the message gives the nearest names. Or what is in the cache is damaged.
    """
    origin = ""
    if model is None:
        model, origin = _default()
    name, path = os.fspath(model), Path(model)
    if os.path.isfile(path):
        if path.suffix.lower() in WEIGHTS_SUFFIXES:
            raise ModelError(
                f"{name}{origin}: weights of torch, not a model file. Name their network: -m NAME --weights {name}\n"
                "For networks of your own, docs/model-file.md says how to convert."
            )
        return path
    folder = Path(name.removeprefix(FOLDER))
    if name and os.path.isfile(folder / cache.MODEL_FILE):
        return folder / cache.MODEL_FILE
    built_in = built_in_names()
    if name in built_in:
        return weights_folder() / name / cache.MODEL_FILE
    if (pulled := _pulled(name)) is not None:
        return pulled
    if not name.startswith((HUB, FOLDER)):
        has_separator = "/" in name or os.sep in name
        if has_separator and os.path.isdir(path):
            raise _empty_folder(name, origin)
        if has_separator or path.suffix.lower() in (".onnx", *WEIGHTS_SUFFIXES):
            raise _no_such_file(name, origin)
    return _resolve_pullable(name, origin, built_in)


def _shipped(name: str) -> Path:
    """A folder of files that come with the package: in it when installed, beside it in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def _default() -> tuple[str, str]:
    """The default model, and who says so, for messages."""
    if chosen := os.environ.get(MODEL_VARIABLE):
        return chosen, f" ({MODEL_VARIABLE} says so)"
    if chosen := cache.default_model():
        return chosen, ' ("visiontool models default" says so)'
    return DEFAULT_MODEL, ""


def _pulled(name: str) -> Path | None:
    found = cache.cached(name)
    if found is None:
        return None
    cache.mark_used(name)
    return found.path


def _empty_folder(name: str, origin: str) -> ModelError:
    return ModelError(f"{name}{origin}: the folder has no {cache.MODEL_FILE} in it")


def _no_such_file(name: str, origin: str) -> ModelError:
    """Some look like paths and are names, or begin with one: "ViT-B/16", "timm/resnet50.a1_in1k", "vgg16.pth"."""
    from visiontool.hub import catalog

    near = catalog.nearest(name)
    return ModelError(f"{name}{origin}: there is no such file{near and f'.{near}'}")


def _sibling_with_weights(architecture: str) -> str:
    """A network of the same name with more around it ("tf_efficientnet_b6") that has weights, or ""."""
    from visiontool.hub import catalog

    names = (entry.architecture for entry in catalog.entries() if not entry.is_untrained)
    return next((name for name in names if f"_{architecture}_" in f"_{name}_"), "")


def _resolve_pullable(name: str, origin: str, built_in: list[str]) -> Path:
    from visiontool.hub.naming import pullable

    try:
        wanted = pullable(name)
    except ModelError as error:
        if name and os.path.isdir(name):
            raise _empty_folder(name, origin) from None
        text = str(error).replace(repr(name), f"{name!r}{origin}", 1)
        near = f"\nBuilt-in models: {', '.join(built_in)}." if closest(name, built_in) else ""
        raise ModelError(f"{text}{near}") from None
    entry = wanted.entry
    if wanted.name in built_in:  # typed in another way, as "LeNet-5"
        return weights_folder() / wanted.name / cache.MODEL_FILE
    if (pulled := _pulled(wanted.name)) is not None:
        return pulled
    if entry is not None and entry.is_untrained:
        raise ModelUntrained(entry.name)
    raise ModelNotPulled(wanted.name if entry is not None else name, origin)
