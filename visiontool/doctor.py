"""What an installation can do: versions, providers that load, GPUs, caches, and whether predicting works."""

import os
import platform
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from visiontool import runtime
from visiontool._version import __version__
from visiontool.errors import DeviceError, VisiontoolError, first_line
from visiontool.evaluation.benchmark.machine import machine
from visiontool.hub import cache, resolve
from visiontool.inference.classifier import Classifier
from visiontool.runtime import installation, providers

PACKAGES = ("numpy", "pillow", "onnx", "torch", "torchvision", "timm", "onnxscript")
_SAMPLE = "orange"  # a picture of samples/ and its label
_SMALL = "lenet5"
# What makes whole numbers of 8 bits fast, and products of matrices.
_FEATURES = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "amx_bf16", "avx512_fp16", "asimddp", "i8mm")
_SHOWN = ("CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_HUB_OFFLINE", "HF_TOKEN", "NVIDIA_TF32_OVERRIDE")
_SECRET = re.compile("TOKEN|KEY|SECRET|PASS", re.IGNORECASE)


class Place(NamedTuple):
    """A folder of the cache."""

    path: str
    bytes: int
    is_writable: bool


class Tried(NamedTuple):
    """A prediction that was tried."""

    works: bool
    said: str
    """The answer, or what was wrong."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found.

    Attributes:
        versions: of visiontool, Python and packages; None for one that is not installed.
        wheels: the packages that bring onnxruntime, with their versions.
        machine: processor, cores, system.
        features: of the processor, as far as they matter for speed; None where that cannot be asked.
        providers: for each that onnxruntime was built with, None where it works, or why it does not.
        caches: the folders of the cache by what they hold, its root as "all".
        default_model: what commands take that name none.
        environment: the variables that change what visiontool does; never a secret.
        faults: what is to be put right, with the commands.
    """

    versions: dict[str, str | None]
    wheels: tuple[str, ...]
    machine: dict[str, Any]
    features: tuple[str, ...] | None
    gpus: tuple[installation.Gpu, ...]
    driver: str | None
    providers: dict[str, str | None]
    caches: dict[str, Place]
    default_model: str
    environment: dict[str, str]
    faults: tuple[str, ...]
    prediction: Tried

    def to_json(self) -> dict[str, Any]:
        """The same as JSON has it."""
        records = {
            "gpus": [gpu._asdict() for gpu in self.gpus],
            "caches": {name: place._asdict() for name, place in self.caches.items()},
            "prediction": self.prediction._asdict(),
        }
        return {"schema": 1, **asdict(self), **records}


def examine() -> Report:
    """Looks at the installation. What does not work raises nothing, unless onnxruntime cannot be used at all."""
    return Report(
        {"visiontool": __version__, "python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        installation.wheels(),
        {key: value for key, value in machine().items() if key in ("processor", "cores", "system")},
        processor_features(),
        installation.gpus(),
        installation.driver_version(),
        {name: _why_not(name) for name in reversed(providers.built_in())},
        _caches(),
        _default_model(),
        shown_environment(os.environ),
        tuple(filter(None, [installation.wheel_conflict()])),
        _predict(),
    )


def shown_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that change what visiontool does, without the values of those that may hold a secret."""
    names = sorted(name for name in environment if name in _SHOWN or name.startswith("VISIONTOOL_"))
    return {name: "(set, not shown)" if _SECRET.search(name) else environment[name] for name in names}


def processor_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...] | None:
    """The instructions of the processor that make networks fast; None where the system does not say."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return None
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "").split()
    return tuple(name for name in _FEATURES if name in flags)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _why_not(provider: str) -> str | None:
    """Why a provider cannot be used, found by using it."""
    if (reason := providers.why_not(provider)) is not None:
        return reason
    try:
        runtime.open_model(_built_in(_SMALL), provider=provider)
    except VisiontoolError as error:
        return first_line(error) if isinstance(error, DeviceError) else str(error)
    return None


def _built_in(name: str) -> Path:
    """The file of a built-in model; `store.resolve` would prefer a folder of that name beside the user."""
    return resolve.weights_folder() / name / cache.MODEL_FILE


def _caches() -> dict[str, Place]:
    try:
        root = cache.root()
    except VisiontoolError:  # there is no home folder
        return {}
    inside = {name: root / name for name in ("models", "downloads", "features", "tensorrt")}
    return {name: _place(path) for name, path in {"all": root, **inside}.items()}


def _place(path: Path) -> Place:
    size = 0
    for folder, _, files in os.walk(path):
        for file in files:
            with suppress(OSError):  # another process removed it meanwhile
                size += os.lstat(os.path.join(folder, file)).st_size
    there = next(place for place in (path, *path.parents) if place.exists())
    return Place(str(path), size, there.is_dir() and os.access(there, os.W_OK | os.X_OK))


def _default_model() -> str:
    try:
        return os.environ.get(resolve.MODEL_VARIABLE) or cache.default_model() or resolve.DEFAULT_MODEL
    except VisiontoolError as error:
        return str(error)


def _predict() -> Tried:
    """Has the built-in model answer for a picture whose answer is known."""
    try:
        picture = next(path for path in resolve.sample_pictures() if Path(path).stem == _SAMPLE)
        start = time.perf_counter()
        (result,) = Classifier.load(_built_in(resolve.DEFAULT_MODEL), device="cpu").predict([picture])
        seconds = time.perf_counter() - start
    except Exception as error:  # whatever it is, it is what to report
        return Tried(False, f"{type(error).__name__}: {error}")
    if result.error is not None:
        return Tried(False, result.error)
    best = result.predictions[0]
    said = f"{resolve.DEFAULT_MODEL} says {best.label}, {best.probability:.3f}, of {Path(picture).name}"
    if best.label != _SAMPLE:
        return Tried(False, f"{said}, where {_SAMPLE} is right")
    return Tried(True, f"{said}, in {1000 * seconds:.0f} ms")
