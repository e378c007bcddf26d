"""The execution providers of onnxruntime by their short names: which there are, why one cannot be used, opening one.

onnxruntime lists what it was built with, whether or not that can be loaded, and takes the CPU in silence where it
cannot. So each library is loaded here first, which names what is missing, and then the session is asked what it took.
"""

import ctypes
import io
import os
import sys
from collections import Counter
from contextlib import redirect_stdout, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnxruntime

from visiontool.errors import DeviceError, ModelError, UsageError, closest, first_line, missing_extra, pip
from visiontool.model.scan import Scan
from visiontool.runtime import gpu, installation
from visiontool.runtime.session import CPU, ON_GPUS, OpenModel, create_session, gpu_in_sight, ports, stdout_is_stderr

_SUFFIX = "ExecutionProvider"
_RENAMED = {"DmlExecutionProvider": "directml", "NvTensorRTRTXExecutionProvider": "tensorrt-rtx"}
# All wheels of onnxruntime share the module's name, so one must go before another comes.
_IN_OTHER_WHEELS = ("directml", "migraphx", "openvino", "webgpu")  # of the name onnxruntime-openvino
_DRIVER = "nvcuda" if sys.platform == "win32" else "libcuda.so"
_TENSORRT = 10  # onnxruntime's provider is linked with this major version; the newest in the package index is another


def short_name(full: str) -> str:
    """ "cuda" for "CUDAExecutionProvider"."""
    return _RENAMED.get(full, full.removesuffix(_SUFFIX).lower())


def built_in() -> dict[str, str]:
    """The providers that the installed onnxruntime was built with: the short name of each and onnxruntime's."""
    return {short_name(full): full for full in onnxruntime.get_available_providers()}


def check_name(provider: str) -> None:
    """Raises UsageError for a name that no onnxruntime knows."""
    known = {short_name(full) for full in onnxruntime.get_all_providers()} | set(built_in())
    if provider not in known:
        raise UsageError(
            f"provider {provider!r} is not known; the installed onnxruntime has {', '.join(reversed(built_in()))}."
            f"{closest(provider, known)}"
        )


def why_not(provider: str, number: int = 0) -> str | None:
    """What keeps a provider from being used on a GPU, and what to type where that is known; None if nothing does."""
    if provider not in built_in():
        return _not_built_in(provider)
    if provider not in ON_GPUS:
        return None  # only a session shows it
    if not gpu_in_sight():
        return "no NVIDIA GPU or driver was found"
    with stdout_is_stderr():
        reason = _why_no_library(provider)
    if reason is not None:
        return reason
    count = len(installation.gpus())
    if number >= count:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        variable = "" if hidden is None else f" (CUDA_VISIBLE_DEVICES is {hidden!r})"
        return f"the driver shows {count} GPU{'' if count == 1 else 's'} here, counted from 0{variable}"
    return None


def open_on(path: Path, scanned: Scan, provider: str, device: str, engine_batch: int | None) -> OpenModel:
    """A model file that was scanned, opened on another provider than the CPU, where some of its nodes must run."""
    number = int(device.partition(":")[2] or 0)
    if provider == "cuda" and device != "auto":
        refusal = f"device {device!r} cannot be used: {{}}\nUse --device cpu, or --device auto to take what works."
    else:
        refusal = (
            f"provider {provider!r} cannot be used: {{}}\nUse another --provider, or leave it out to take what works."
        )
    if (reason := why_not(provider, number)) is not None:
        raise DeviceError(refusal.format(reason))
    full, on_gpu = built_in()[provider], provider in ON_GPUS
    chain = gpu.chain(provider, number, path, engine_batch) if on_gpu else [(full, {})]
    try:
        # More threads than one gain nothing where the nodes run elsewhere (onnxruntime#20494).
        session = create_session(path, [*chain, CPU], threads=1, record=True)
    except ModelError as error:
        raise DeviceError(refusal.format(first_line(error))) from None
    if session.get_providers()[0] != full:  # onnxruntime falls back to the CPU in silence
        raise DeviceError(refusal.format("onnxruntime could not start on it (the lines above say why)"))
    if not assigned_nodes(session).get(provider):
        raise DeviceError(refusal.format("it runs none of the nodes of this network"))
    inputs, outputs = ports(session)
    place, bound = f"cuda:{number}" if on_gpu else provider, None
    if on_gpu and len(inputs) == 1 and gpu.has_one_size(inputs[0]):
        max_batch = gpu.max_batch(inputs[0], engine_batch) if provider == "tensorrt" else None
        bound = gpu.BoundSession(session, inputs[0], outputs, place, max_batch)
    return OpenModel(path, scanned, session, inputs, outputs, place, provider, bound)


def assigned_nodes(session: Any) -> dict[str, int]:
    """How many nodes each provider has in a session with a record, by its short name; the most first."""
    counts: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        counts[short_name(part.ep_name)] += len(part.get_nodes())
    return dict(counts.most_common())


def _not_built_in(provider: str) -> str:
    installed = ", ".join(installation.wheels()) or f"onnxruntime {onnxruntime.__version__}"
    reason = f"the installed onnxruntime ({installed}) is built without it."
    if provider not in (*ON_GPUS, *_IN_OTHER_WHEELS):
        return reason
    wheel = '"visiontool[gpu]"' if provider in ON_GPUS else f"onnxruntime-{provider}"
    packages = " ".join(installation.wheel_names()) or "onnxruntime"
    commands = f"{pip(f'uninstall {packages}')}, then {pip(f'install {wheel}')}"
    return f"{reason}\nWhere it is offered for this platform: {commands}"


@cache
def _why_no_library(provider: str) -> str | None:
    """What keeps the library of CUDA's or TensorRT's provider from loading. It stays loaded where nothing does."""
    with redirect_stdout(io.StringIO()):  # it prints what it misses; the reason below is clearer
        onnxruntime.preload_dlls()
    if (reason := _load("cuda")) is not None:
        if _DRIVER in reason:
            return f"{reason}.\nThat is a part of NVIDIA's driver. A container gets it by --gpus all."
        return f"{reason}. {missing_extra('gpu', 'CUDA')}"
    if provider == "cuda":
        return None
    _preload_tensorrt()
    if (reason := _load("tensorrt")) is not None:
        major = (onnxruntime.cuda_version or "13").partition(".")[0]
        command = pip(f'install "tensorrt-cu{major}<{_TENSORRT + 1}"')
        return f"{reason}.\nTensorRT {_TENSORRT} comes by: {command}"
    return None


def _load(name: str) -> str | None:
    """Loads the library of a provider; gives the error of the system's loader."""
    folder = Path(onnxruntime.__file__).parent / "capi"
    windows = sys.platform == "win32"
    file = f"onnxruntime_providers_{name}.dll" if windows else f"libonnxruntime_providers_{name}.so"
    try:
        if not windows:
            ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / file))
    except OSError as error:
        return first_line(error)
    return None


def _preload_tensorrt() -> None:
    """Loads TensorRT's libraries from its wheel, which the system's loader does not search."""
    package = find_spec("tensorrt_libs")
    for folder in (package.submodule_search_locations or []) if package else []:
        for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):  # in the order of their dependencies
            file = f"{name}_{_TENSORRT}.dll" if sys.platform == "win32" else f"lib{name}.so.{_TENSORRT}"
            with suppress(OSError):  # the provider's library names what is missing then
                ctypes.CDLL(str(Path(folder, file)), mode=ctypes.RTLD_GLOBAL)
