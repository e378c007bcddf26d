"""visiontool: classify pictures with classic networks.

    from visiontool import Classifier
    Classifier().predict("img.jpg")

The names are resolved on first use, so that `import visiontool` costs nothing.
"""

from typing import TYPE_CHECKING, Any

from visiontool._version import __version__ as __version__

if TYPE_CHECKING:
    from visiontool.commands import export, finetune
    from visiontool.errors import (
        ConversionError,
        DataError,
        DeviceError,
        GateError,
        ModelError,
        PictureError,
        UsageError,
        VisiontoolError,
    )
    from visiontool.hub.listing import models
    from visiontool.images.decode import Limits
    from visiontool.inference.classifier import Classifier
    from visiontool.inference.ensemble import Ensemble
    from visiontool.inference.result import Prediction, Result
    from visiontool.model.foreign import Description
    from visiontool.model.spec import InputSpec, ModelSpec

_HOMES = {
    "Classifier": "inference.classifier",
    "ConversionError": "errors",
    "DataError": "errors",
    "Description": "model.foreign",
    "DeviceError": "errors",
    "Ensemble": "inference.ensemble",
    "GateError": "errors",
    "InputSpec": "model.spec",
    "Limits": "images.decode",
    "ModelError": "errors",
    "ModelSpec": "model.spec",
    "PictureError": "errors",
    "Prediction": "inference.result",
    "Result": "inference.result",
    "UsageError": "errors",
    "VisiontoolError": "errors",
    "export": "commands",
    "finetune": "commands",
    "models": "hub.listing",
}

__all__ = [
    "Classifier",
    "ConversionError",
    "DataError",
    "Description",
    "DeviceError",
    "Ensemble",
    "GateError",
    "InputSpec",
    "Limits",
    "ModelError",
    "ModelSpec",
    "PictureError",
    "Prediction",
    "Result",
    "UsageError",
    "VisiontoolError",
    "export",
    "finetune",
    "models",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"visiontool.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
