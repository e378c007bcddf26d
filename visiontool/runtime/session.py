"""The only maker of onnxruntime sessions: their options, their errors, and what onnxruntime prints."""

import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from visiontool.errors import ModelError, first_line
from visiontool.model.scan import Scan
from visiontool.model.spec import Port

_redirecting = threading.RLock()


@contextlib.contextmanager
def stdout_is_stderr() -> Iterator[None]:
    """onnxruntime and its preload helper print to stdout, which carries data only. One thread at a time: two that swap
    sys.stdout would swap it back in the wrong order.
    """
    with _redirecting, contextlib.redirect_stdout(sys.stderr):
        yield


with stdout_is_stderr():
    import onnxruntime

CPU = "CPUExecutionProvider"
ON_GPUS = ("cuda", "tensorrt")  # the providers that run on a device of the form cuda:N
_SEVERITY_FATAL = 4  # its exceptions repeat what onnxruntime logs below that
_BEFORE_REASON = (
    r"\[ONNXRuntimeError\] : \d+ : \w+ : (?:Load model from .*? failed:)?(?:\S+\.(?:cc|h):\d+ .*?\) (?=[A-Z]))?"
)
_TOO_NEW = {
    r"Unsupported model IR version: (\d+), max supported IR version: (\d+)": "IR version",
    r"Opset (\d+) is under development .* is till opset (\d+)": "opset",
}


class DeviceSession(Protocol):
    """A session with buffers on its device: `gpu.BoundSession`."""

    def outputs(self, output: str, tensor: NDArray[Any], pad_to: int | None = None) -> NDArray[Any]: ...


class OpenModel(NamedTuple):
    """A model file that was scanned and has a session."""

    path: Path
    scan: Scan
    session: Any  # onnxruntime.InferenceSession
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    device: str  # what it runs on: "cpu", "cuda:N", or the name of another provider
    provider: str = "cpu"  # by its short name
    bound: DeviceSession | None = None  # on a GPU
    content: bytes | None = None  # of a model that is in memory only
    passed_over: str | None = None  # why the GPU that is there was not taken, where any device would do


def create_session(
    path: Path, providers: list[Any], *, threads: int = 0, record: bool = False, content: bytes | None = None
) -> Any:
    """A session with these providers, as onnxruntime names them, with their options.

    Args:
        record: for `assignment`.
        content: of the model, where no file has it; `path` is then for messages.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SEVERITY_FATAL
    options.intra_op_num_threads = threads
    if record:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        with stdout_is_stderr():
            # With a fallback it would try the CPU after each failure, in creation and in runs, and say so on stdout.
            return onnxruntime.InferenceSession(
                content or os.fspath(path), options, providers=providers, enable_fallback=0
            )
    except Exception as error:  # onnxruntime's exceptions share no root but Exception
        raise _cannot_open(path, error) from None


def _cannot_open(path: Path, error: Exception) -> ModelError:
    """The error for a file that onnxruntime refuses: without the path again and the place in onnxruntime's source."""
    reason = re.sub(_BEFORE_REASON, "", " ".join(str(error).split()))
    for pattern, version in _TOO_NEW.items():
        if (match := re.search(pattern, reason)) is not None:
            from visiontool.errors import pip
            from visiontool.runtime.installation import wheel_names

            package = next(iter(wheel_names()), "onnxruntime")
            return ModelError(
                f"{path}: has {version} {match[1]}; onnxruntime {onnxruntime.__version__} reads up to {match[2]}.\n"
                f"Update it: {pip(f'install --upgrade {package}')}\n"
                f"Or export the file again with {version} {match[2]} or lower."
            )
    return ModelError(f"{path}: onnxruntime cannot open it: {first_line(ValueError(reason))}")


def ports(session: Any) -> tuple[list[Port], list[Port]]:
    inputs, outputs = (
        [Port(node.name, node.type, node.shape) for node in nodes]
        for nodes in (session.get_inputs(), session.get_outputs())
    )
    return inputs, outputs


def outputs(session: Any, output: str, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """One output of a session's graph for these inputs."""
    try:
        (values,) = session.run([output], feeds)
    except Exception as error:  # as in create_session
        raise cannot_run(error) from None
    return values  # type: ignore[no-any-return]


def cannot_run(error: Exception) -> ModelError:
    return ModelError(f"onnxruntime cannot run the model: {first_line(error)}")


def gpu_in_sight() -> bool:
    """Whether an NVIDIA driver is on this machine: cheap, so that machines without one lose no time."""
    if sys.platform == "win32":
        return Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "nvcuda.dll").exists()
    return any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg", "/proc/driver/nvidia/version")))
