"""What figures of speed depend on, and mean little without."""

import platform
from pathlib import Path
from typing import Any

from visiontool._version import __version__
from visiontool.data.loader import cores


def machine(device: str = "cpu") -> dict[str, Any]:
    """Processor, cores that may be used, system, versions; and the GPU where `device` is one."""
    import onnxruntime  # that it was imported before, by `runtime`, keeps it from printing to stdout

    return {
        "processor": _processor(),
        "cores": cores(),
        "gpu": _gpu(device),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "visiontool": __version__,
    }


def _gpu(device: str) -> str | None:
    if not device.startswith("cuda:"):
        return None
    from visiontool.runtime import nvidia

    return nvidia.gpus()[int(device.removeprefix("cuda:"))].name


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
