"""`visiontool doctor`: versions, providers that load, GPUs, caches, and whether predicting works."""

import os
import platform
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from visiontool._version import __version__
from visiontool.cli import FAILED
from visiontool.cli.text import json_text, wrapped
from visiontool.errors import DeviceError, VisiontoolError, first_line
from visiontool.files import MODEL_FILE, cache_root
from visiontool.text import plural

_PACKAGES = ("numpy", "pillow", "onnx", "torch", "torchvision", "timm", "onnxscript")
_CACHES = ("models", "downloads", "features", "tensorrt")
_SAMPLE = "orange"  # a picture of samples/ and its label
_SMALL_MODEL = "lenet5"
# What makes whole numbers of 8 bits fast, and products of matrices.
_FEATURES = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "amx_bf16", "avx512_fp16", "asimddp", "i8mm")
_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_HUB_OFFLINE", "HF_TOKEN", "NVIDIA_TF32_OVERRIDE")
_SECRET = re.compile("TOKEN|KEY|SECRET|PASS", re.IGNORECASE)
_COLUMN = 12


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def doctor(as_json: bool) -> int:
    """Show what this installation can do.

    That is versions, providers that work, GPUs and caches. It lets EfficientNet-Lite0 answer for one
    picture. Exit code 1 where that goes wrong.
    """
    try:
        facts = examine()
    except (ImportError, AttributeError) as error:  # half a package has some of its names
        from visiontool.runtime.installation import wheel_repair

        raise VisiontoolError(f"onnxruntime cannot be used: {first_line(error)}\n{wheel_repair()}") from None
    if as_json:
        click.echo(json_text(facts, indent=2))
    else:
        for name, text in _lines(facts):
            for number, line in enumerate(text.splitlines()):
                first = f"{'' if number else name:<{_COLUMN}}"
                click.echo("\n".join(wrapped(line, first, " " * _COLUMN, break_words=False)))
    return 0 if facts["prediction"]["works"] else FAILED


def examine() -> dict[str, Any]:
    """What `--json` prints (docs/cli.md); raises only where onnxruntime or the cache cannot be used at all."""
    from visiontool.evaluation.benchmark.machine import machine
    from visiontool.hub import resolve
    from visiontool.runtime import installation, providers

    versions: dict[str, str | None] = dict.fromkeys(_PACKAGES)
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    try:
        default_model = resolve.default_model()
    except VisiontoolError as error:
        default_model = str(error)
    fault = installation.wheel_conflict()
    caches = {"all": cache_root()} | {name: cache_root() / name for name in _CACHES}
    variables = sorted(name for name in os.environ if name in _VARIABLES or name.startswith("VISIONTOOL_"))
    return {
        "schema": 1,
        "versions": {"visiontool": __version__, "python": platform.python_version()} | versions,
        "wheels": installation.wheels(),
        "machine": {key: value for key, value in machine().items() if key in ("processor", "cores", "system")},
        "features": processor_features(),
        "gpus": [gpu._asdict() for gpu in installation.gpus()],
        "driver": installation.driver_version(),
        "providers": {name: _why_not(name) for name in reversed(providers.built_in())},
        "caches": {name: _folder_facts(path) for name, path in caches.items()},
        "default_model": default_model,
        "environment": {name: "(set, not shown)" if _SECRET.search(name) else os.environ[name] for name in variables},
        "faults": [] if fault is None else [fault],
        "prediction": _prediction(),
    }


def processor_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...] | None:
    """The instructions of the processor that make networks fast; None on systems other than Linux."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "").split()
    return tuple(name for name in _FEATURES if name in flags)


def _why_not(provider: str) -> str | None:
    from visiontool import runtime
    from visiontool.hub import resolve
    from visiontool.runtime import providers

    if (reason := providers.why_not(provider)) is not None:
        return reason
    try:
        runtime.open_model(resolve.weights_folder() / _SMALL_MODEL / MODEL_FILE, provider=provider)
    except VisiontoolError as error:
        return first_line(error) if isinstance(error, DeviceError) else str(error)
    return None


def _folder_facts(path: Path) -> dict[str, Any]:
    size = sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
    parent = next(place for place in (path, *path.parents) if place.exists())
    return {"path": str(path), "bytes": size, "is_writable": parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)}


def _prediction() -> dict[str, Any]:
    """Whether DEFAULT_MODEL is right about a picture whose answer is known, and what it says or what is wrong."""
    from visiontool.hub import resolve
    from visiontool.inference.classifier import Classifier

    try:
        picture = next(path for path in resolve.sample_pictures() if Path(path).stem == _SAMPLE)
        start = time.perf_counter()
        (result,) = Classifier.load(resolve.DEFAULT_MODEL, device="cpu").predict([picture])
        milliseconds = 1000 * (time.perf_counter() - start)
    except VisiontoolError as error:
        return {"works": False, "said": str(error)}
    except Exception as error:  # whatever it is, it is what to report
        return {"works": False, "said": f"{type(error).__name__}: {error}"}
    if result.error is not None:
        return {"works": False, "said": result.error}
    best = result.predictions[0]
    answer = f"{resolve.DEFAULT_MODEL} says {best.label}, {best.probability:.3f}, of {Path(picture).name}"
    if best.label != _SAMPLE:
        return {"works": False, "said": f"{answer}, where {_SAMPLE} is right"}
    return {"works": True, "said": f"{answer}, in {milliseconds:.0f} ms"}


def _lines(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    versions, machine = facts["versions"], facts["machine"]
    yield "visiontool", f"{versions['visiontool']}, Python {versions['python']}, {machine['system']}"
    packages = [f"{name} {versions[name]}" for name in _PACKAGES if versions[name] is not None]
    yield "packages", ", ".join([*facts["wheels"], *packages])
    absent = [name for name in _PACKAGES if versions[name] is None]
    if absent:
        yield "", f"not installed: {', '.join(absent)}"
    features = "" if facts["features"] is None else f"; {' '.join(facts['features']) or 'nothing special'}"
    yield "processor", f"{machine['processor']}, {plural(machine['cores'], 'core')}{features}"
    for number, gpu in enumerate(facts["gpus"]):
        free = "" if gpu["free_bytes"] is None else f", {gpu['free_bytes'] / 2**30:.1f} free"
        memory = f"{gpu['memory_bytes'] / 2**30:.1f} GiB{free}"
        yield f"cuda:{number}", f"{gpu['name']}, compute capability {gpu['compute_capability']}, {memory}"
    driver = f"driver {facts['driver']}" if facts["driver"] else "no NVIDIA driver answers"
    yield ("", driver) if facts["gpus"] else ("GPU", f"none; {driver}")
    yield "providers", "\n".join(f"{name}: {reason or 'works'}" for name, reason in facts["providers"].items())
    for name, folder in facts["caches"].items():
        size = f"{folder['bytes'] / 1e6:,.1f} MB"
        if name == "all":
            yield "cache", f"{folder['path']}\n{size}, {'can' if folder['is_writable'] else 'CANNOT'} be written"
        elif folder["bytes"] or not folder["is_writable"]:
            yield "", f"{name}: {size}{'' if folder['is_writable'] else ', CANNOT be written'}"
    yield "model", facts["default_model"]
    variables = [f"{name}={value}" for name, value in facts["environment"].items()]
    if variables:
        yield "variables", "\n".join(variables)
    for fault in facts["faults"]:
        yield "FAULT", fault
    prediction = facts["prediction"]
    yield "predict", f"{'works' if prediction['works'] else 'FAILS'}: {prediction['said']}"
