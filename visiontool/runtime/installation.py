"""What is installed on this machine: the packages that bring onnxruntime, and NVIDIA's driver and GPUs.

The driver is asked through ctypes, so no package is needed for it.
"""

import ctypes
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import Distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from visiontool.errors import pip

_PREFERRED = "onnxruntime-gpu"  # it runs on the CPU too
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_TEXT = 96  # bytes; NVML's names have at most this


class Gpu(NamedTuple):
    """A GPU, in the order in which CUDA counts them."""

    name: str
    compute_capability: str
    memory_bytes: int
    free_bytes: int | None  # None without the driver's management library


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def wheels() -> tuple[str, ...]:
    """The installed packages that brought the module onnxruntime, with their versions.

    All have a module of the same name, so two of them break each other.
    """
    spec = find_spec("onnxruntime")
    if spec is None:
        return ()
    (package, *_) = map(Path, spec.submodule_search_locations or [])
    main = f"{package.name}/__init__.py"
    installed = map(Distribution.at, sorted(package.parent.glob("onnxruntime*.dist-info")))
    return tuple(f"{each.name} {each.version}" for each in installed if main in map(str, each.files or ()))


def wheel_names() -> list[str]:
    return [wheel.split()[0] for wheel in wheels()]


def wheel_conflict() -> str | None:
    """What to do where several are installed; None where one is."""
    names = wheel_names()
    if len(names) < 2:
        return None
    conflict = f"{' and '.join(wheels())} are installed in one place, each over the other's files. One is enough:"
    return "\n".join((conflict, pip(f"uninstall -y {' '.join(names)}"), pip(f"install {_best_wheel(names)}")))


def wheel_repair() -> str:
    reinstall = pip(f"install --force-reinstall --no-deps {_best_wheel(wheel_names())}")
    return wheel_conflict() or f"Install it again: {reinstall}"


def _best_wheel(names: list[str]) -> str:
    return _PREFERRED if _PREFERRED in names or not names else names[0]


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that the driver shows to this process (CUDA_VISIBLE_DEVICES hides some)."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    return tuple(_gpu(cuda, number) for number in range(count.value))


def driver_version() -> str | None:
    """The version of the driver, such as "580.95.05"; None where there is none."""
    text = ctypes.create_string_buffer(_TEXT)
    if (nvml := _nvml()) is None or nvml.nvmlSystemGetDriverVersion(text, _TEXT):
        return None
    return text.value.decode(errors="replace")


def tensorrt_version() -> int | None:
    """The version of TensorRT, such as 101303 for 10.13.3; None where it is not loaded and cannot be."""
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL("nvinfer_10.dll" if sys.platform == "win32" else "libnvinfer.so.10")
        return int(library.getInferLibVersion())
    return None


def _gpu(cuda: Any, number: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    total, name, bus = ctypes.c_size_t(), ctypes.create_string_buffer(_TEXT), ctypes.create_string_buffer(_TEXT)
    cuda.cuDeviceGet(ctypes.byref(device), number)
    cuda.cuDeviceGetName(name, _TEXT, device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(total), device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    cuda.cuDeviceGetPCIBusId(bus, _TEXT, device)
    capability = f"{major.value}.{minor.value}"
    return Gpu(name.value.decode(errors="replace"), capability, total.value, _free_bytes(bus.value))


def _free_bytes(bus: bytes) -> int | None:
    """The free memory of the GPU at a place on the PCI bus: the two libraries number GPUs differently."""
    handle, memory = ctypes.c_void_p(), _Memory()
    nvml = _nvml()
    if nvml is None or nvml.nvmlDeviceGetHandleByPciBusId_v2(bus, ctypes.byref(handle)):
        return None
    return None if nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) else int(memory.free)


@cache
def _nvml() -> Any:
    try:
        nvml = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return None
    return None if nvml.nvmlInit_v2() else nvml
