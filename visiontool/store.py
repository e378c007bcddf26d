"""From what `--model` says to a model file on this disk."""

import os
from pathlib import Path

from visiontool.errors import ModelError, closest

DEFAULT_MODEL = "resnet18_tiny200"
MODEL_FILE = "model.onnx"
MODEL_VARIABLE = "VISIONTOOL_MODEL"
_TORCH_ENDINGS = (".pt", ".pth", ".safetensors", ".ckpt")


def weights_folder() -> Path:
    """The folder of the built-in models: in the package when installed, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "weights"
    return inside if inside.is_dir() else package.parent / "weights"


def built_in_names() -> list[str]:
    """The names of the built-in models, in order."""
    return sorted(path.parent.name for path in weights_folder().glob(f"*/{MODEL_FILE}"))


def resolve(model: str | os.PathLike[str] | None) -> Path:
    """The .onnx file that `model` means: a path to one, a folder with a model.onnx in it, or a built-in name.

    A file or folder of that name comes before a built-in model. None means the user's choice, VISIONTOOL_MODEL of the
    environment, else the built-in picture model.

    Raises:
        ModelError: there is no such model; the message gives the nearest names.
    """
    origin = ""
    if model is None:
        model = os.environ.get(MODEL_VARIABLE) or DEFAULT_MODEL
        origin = f" ({MODEL_VARIABLE} says so)" if model != DEFAULT_MODEL else ""
    name, path = os.fspath(model), Path(model)
    if os.path.isfile(path):
        if path.suffix in _TORCH_ENDINGS:
            raise ModelError(
                f"{name}{origin}: weights of torch, not a model file. docs/model-file.md says how to convert."
            )
        return path
    if name and os.path.isfile(path / MODEL_FILE):
        return path / MODEL_FILE
    built_in = built_in_names()
    if name in built_in:
        return weights_folder() / name / MODEL_FILE
    if name and os.path.isdir(path):
        raise ModelError(f"{name}{origin}: the folder has no {MODEL_FILE} in it")
    if path.suffix == ".onnx" or "/" in name or os.sep in name:
        raise ModelError(f"{name}{origin}: there is no such file")
    raise ModelError(
        f"no model is called {name!r}{origin}.{closest(name, built_in)}\n"
        f"Built-in models: {', '.join(built_in)}. Or give the path of an .onnx file."
    )
