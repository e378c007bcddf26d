"""visiontool: classify pictures with classic networks.

    from visiontool import Classifier
    Classifier.load().predict(["img.jpg"])

The names are resolved on first use, so that `import visiontool` costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visiontool.classifier import Classifier
    from visiontool.errors import (
        ConversionError,
        DataError,
        DeviceError,
        ModelError,
        PictureError,
        UsageError,
        VisiontoolError,
    )
    from visiontool.images import Limits
    from visiontool.outside import Description
    from visiontool.result import Prediction, Result
    from visiontool.spec import InputSpec, ModelSpec

__version__ = "0.1.0"

_HOMES = {
    "Classifier": "classifier",
    "ConversionError": "errors",
    "DataError": "errors",
    "Description": "outside",
    "DeviceError": "errors",
    "InputSpec": "spec",
    "Limits": "images",
    "ModelError": "errors",
    "ModelSpec": "spec",
    "PictureError": "errors",
    "Prediction": "result",
    "Result": "result",
    "UsageError": "errors",
    "VisiontoolError": "errors",
}

__all__ = [
    "Classifier",
    "ConversionError",
    "DataError",
    "Description",
    "DeviceError",
    "InputSpec",
    "Limits",
    "ModelError",
    "ModelSpec",
    "PictureError",
    "Prediction",
    "Result",
    "UsageError",
    "VisiontoolError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"visiontool.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
