"""What figures of speed depend on: this machine, and the memory that this process takes on it."""

import contextlib
import platform
import sys
from pathlib import Path
from typing import Any

from visiontool._version import __version__
from visiontool.data.loader import cores
from visiontool.runtime import installation


def machine(device: str = "cpu") -> dict[str, Any]:
    """Processor, cores that may be used, system, versions; and the GPU where `device` is one."""
    import onnxruntime  # `visiontool.runtime` has imported it, which keeps it from printing to stdout

    number = _gpu_number(device)
    return {
        "processor": _processor(),
        "cores": cores(),
        "gpu": None if number is None else installation.gpus()[number].name,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "visiontool": __version__,
    }


def _gpu_number(device: str) -> int | None:
    return int(device.removeprefix("cuda:")) if device.startswith("cuda:") else None


def _processor() -> str:
    with contextlib.suppress(OSError):  # not Linux
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_bytes() -> int | None:
    """The most memory that this process had at any time; None where it is not known (Windows)."""
    # On Linux, ru_maxrss begins with the peak of the process that started this one.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def free_on_gpus() -> list[int | None]:
    """The free memory of each GPU in bytes, in CUDA's order; None where it is not known."""
    return [gpu.free_bytes for gpu in installation.gpus()]


def taken_on_gpu(device: str, before: list[int | None]) -> int | None:
    """How much less is free on a GPU than `free_on_gpus` gave before, in bytes; None for what is no GPU.

    onnxruntime gives nothing back while it runs, so at the end this is the most that it had.
    """
    number = _gpu_number(device)
    if number is None:
        return None
    free, free_before = free_on_gpus()[number], before[number]
    return None if free is None or free_before is None else max(0, free_before - free)
