"""The only maker of onnxruntime sessions: scan first, device policy, threads, and what onnxruntime prints."""

import contextlib
import ctypes
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from visiontool.errors import DeviceError, ModelError, UsageError, first_line, missing_extra
from visiontool.onnx_scan import Scan, scan
from visiontool.spec import Port

_redirecting = threading.RLock()


@contextlib.contextmanager
def _stdout_is_stderr() -> Iterator[None]:
    """onnxruntime and its preload helper print to stdout, which carries data only. One thread at a time: two that swap
    sys.stdout would swap it back in the wrong order.
    """
    with _redirecting, contextlib.redirect_stdout(sys.stderr):
        yield


with _stdout_is_stderr():
    import onnxruntime

_SEVERITY_FATAL = 4  # what onnxruntime logs below that, its exceptions say as well


class OpenModel(NamedTuple):
    """A model file that was scanned and has a session."""

    path: Path
    scan: Scan
    session: Any  # onnxruntime.InferenceSession
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    device: str  # what it runs on: "cpu" or "cuda:N"


def open_model(path: Path, *, device: str = "auto", threads: int = 0) -> OpenModel:
    """Scans the model file at `path` and opens a session for it.

    Args:
        device: "cpu", "cuda" or "cuda:N" (that or an error), or "auto": a GPU where one works, else the CPU.
        threads: of one run on the CPU; 0 leaves it to onnxruntime (all physical cores).

    Raises:
        DeviceError: the device cannot be used; the message names what is missing.
        ModelError: the file is no ONNX file, keeps tensors in other files, or onnxruntime refuses it.
        UsageError: `device` is none of the above.
    """
    found = scan(path)
    session, used = _open_session(path, device, threads)
    try:
        return OpenModel(path, found, session, _ports(session.get_inputs()), _ports(session.get_outputs()), used)
    except UnicodeDecodeError:
        raise ModelError(f"{path}: not an ONNX file, or a damaged one (a name in the graph is not UTF-8)") from None


def _ports(nodes: Sequence[Any]) -> list[Port]:
    return [Port(node.name, node.type, node.shape) for node in nodes]


def run(session: Any, output: str, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """One output of a session's graph.

    Raises:
        ModelError: onnxruntime cannot run the graph on these inputs.
    """
    try:
        (values,) = session.run([output], feeds)
    except Exception as error:  # as in _create
        raise ModelError(f"onnxruntime cannot run the model: {first_line(error)}") from None
    return values  # type: ignore[no-any-return]


def _open_session(path: Path, device: str, threads: int) -> tuple[Any, str]:
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d{1,3}))?", device)
    if match is None:
        raise UsageError(f"device {device!r} is not known; expected auto, cpu, cuda or cuda:N")
    number = int(match[1] or 0)
    if device == "cpu" or (device == "auto" and not _gpu_in_sight()):
        return _create(path, ["CPUExecutionProvider"], threads), "cpu"
    with _stdout_is_stderr():
        reason = _why_no_cuda()
    if reason is None:
        session = _create(path, [("CUDAExecutionProvider", {"device_id": number}), "CPUExecutionProvider"], threads)
        # onnxruntime falls back to the CPU in silence, so what it took has to be asked.
        if session.get_providers()[0] == "CUDAExecutionProvider":
            return session, f"cuda:{number}"
        reason = "onnxruntime could not start on it (the lines above say why)"
    if device == "auto":
        return _create(path, ["CPUExecutionProvider"], threads), "cpu"
    raise DeviceError(
        f"device {device!r} cannot be used: {reason}\nUse --device cpu, or --device auto to take what works."
    )


def _create(path: Path, providers: list[Any], threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SEVERITY_FATAL
    options.intra_op_num_threads = threads
    try:
        with _stdout_is_stderr():
            session = onnxruntime.InferenceSession(os.fspath(path), options, providers=providers)
        session.disable_fallback()  # else a run that fails on the GPU is done again on the CPU, and said on stdout
        return session
    # onnxruntime's exceptions share no root but Exception.
    except Exception as error:
        raise ModelError(f"{path}: onnxruntime cannot open it: {first_line(error)}") from None


def _gpu_in_sight() -> bool:
    """Whether an NVIDIA driver is on this machine: cheap, so that machines without one lose no time."""
    if sys.platform == "win32":
        return Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "nvcuda.dll").exists()
    return any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg", "/proc/driver/nvidia/version")))


def _why_no_cuda() -> str | None:
    """What keeps onnxruntime's CUDA provider from loading, or None."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        # Both builds share a module name, so the one must go before the other comes.
        return (
            "the installed onnxruntime is built for the CPU only.\nWhere NVIDIA's is offered for this platform: "
            'pip uninstall onnxruntime, then pip install "visiontool[gpu]"'
        )
    if not _gpu_in_sight():
        return "no NVIDIA GPU or driver was found"
    onnxruntime.preload_dlls()
    folder = Path(onnxruntime.__file__).parent / "capi"
    library = folder / (
        "onnxruntime_providers_cuda.dll" if sys.platform == "win32" else "libonnxruntime_providers_cuda.so"
    )
    try:
        if sys.platform != "win32":
            ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(library))
    except OSError as error:
        return f"{first_line(error)}. {missing_extra('gpu', 'CUDA')}"
    return None
