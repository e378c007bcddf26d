"""What this process takes."""

import contextlib
import sys
from pathlib import Path

from visiontool.runtime import nvidia


def peak_bytes() -> int | None:
    """The most memory that this process had at any time; None where the system does not tell (Windows)."""
    # On Linux, ru_maxrss begins with what the process had that started this one.
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
    """The free memory of each GPU in bytes, in CUDA's order; None where the driver does not tell."""
    return [gpu.free_bytes for gpu in nvidia.gpus()]


def taken_on_gpu(device: str, before: list[int | None]) -> int | None:
    """How much less is free on a GPU than `free_on_gpus` said before, in bytes; None for what is no GPU.

    onnxruntime gives nothing back while it runs, so at the end this is the most that it had.
    """
    if not device.startswith("cuda:"):
        return None
    number = int(device.removeprefix("cuda:"))
    free, free_before = free_on_gpus()[number], before[number]
    return None if free is None or free_before is None else max(0, free_before - free)
