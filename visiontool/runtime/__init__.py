"""The only maker of onnxruntime sessions: scan first, device policy, threads, and what onnxruntime prints.

The way to the CPU is here, since most predictions take it and its start is measured. What another provider needs is
imported when one is meant: `providers` (which there are, and why one cannot be used), `gpu` (options, engines, buffers)
and `nvidia` (the driver).
"""

import contextlib
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray

from visiontool.errors import DeviceError, ModelError, UsageError, first_line
from visiontool.model.scan import Scan, scan
from visiontool.model.spec import Port

if TYPE_CHECKING:
    from visiontool.runtime.gpu import Bound

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

_SEVERITY_FATAL = 4  # what onnxruntime logs below that, its exceptions say as well
_CPU = "CPUExecutionProvider"
_BEFORE_REASON = (
    r"\[ONNXRuntimeError\] : \d+ : \w+ : (?:Load model from .*? failed:)?(?:\S+\.(?:cc|h):\d+ .*?\) (?=[A-Z]))?"
)
_TOO_NEW = {
    r"Unsupported model IR version: (\d+), max supported IR version: (\d+)": "IR version",
    r"Opset (\d+) is under development .* is till opset (\d+)": "opset",
}
ON_GPUS = ("cuda", "tensorrt")  # the providers that run on a device of the form cuda:N


class OpenModel(NamedTuple):
    """A model file that was scanned and has a session."""

    path: Path
    scan: Scan
    session: Any  # onnxruntime.InferenceSession
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    device: str  # what it runs on: "cpu", "cuda:N", or the name of another provider
    provider: str = "cpu"  # by its short name
    bound: "Bound | None" = None  # on a GPU: the way of batches there and back
    passed_over: str | None = None  # why the GPU that is there was not taken, where any device would do


def open_model(
    path: Path,
    *,
    device: str = "auto",
    provider: str | None = None,
    threads: int = 0,
    engine_batch: int | None = None,
) -> OpenModel:
    """Scans the model file at `path` and opens a session for it.

    Args:
        device: "cpu", "cuda" or "cuda:N" (that or an error), or "auto": a GPU where one works, else the CPU.
        provider: "cpu", "cuda", "tensorrt" or another that the installed onnxruntime has (`providers.built_in`): that
            or an error. None takes what suits the device.
        threads: of one run on the CPU; 0 leaves it to onnxruntime (all physical cores).
        engine_batch: the most pictures in a run that TensorRT builds its engine for; None for `gpu.usual_batch`.

    Raises:
        DeviceError: the device or provider cannot be used; the message names what is missing.
        ConversionError: the cache cannot be written, where TensorRT keeps what it builds.
        ModelError: the file is no ONNX file, keeps tensors in other files, or onnxruntime refuses it.
        UsageError: `device` or `provider` is none of the above, or they contradict each other.
    """
    _check(device, provider)
    found = scan(path)
    try:
        if provider == "cpu" or device == "cpu" or (provider is None and device == "auto" and not gpu_in_sight()):
            return _on_cpu(path, found, threads)
        from visiontool.runtime.providers import open_on

        try:
            return open_on(path, found, provider or "cuda", device, engine_batch)
        except DeviceError as error:
            opened = _on_cpu(path, found, threads)  # raises where the file is at fault, and not the device
            if provider is None and device == "auto":
                return opened._replace(passed_over=first_line(error))
            raise error from None
    except UnicodeDecodeError:
        raise ModelError(f"{path}: not an ONNX file, or a damaged one (a name in the graph is not UTF-8)") from None


def run(session: Any, output: str, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """One output of a session's graph.

    Raises:
        ModelError: onnxruntime cannot run the graph on these inputs.
    """
    try:
        (values,) = session.run([output], feeds)
    except Exception as error:  # as in create_session
        raise cannot_run(error) from None
    return values  # type: ignore[no-any-return]


def cannot_run(error: Exception) -> ModelError:
    """The error for a run of the graph that failed."""
    return ModelError(f"onnxruntime cannot run the model: {first_line(error)}")


def assignment(opened: OpenModel) -> dict[str, int]:
    """How many nodes of the graph, as onnxruntime runs it, each provider has, by its short name; the most first."""
    from visiontool.runtime.providers import short_name

    session = opened.session
    if opened.provider == "cpu":  # its session was opened without a record, which would cost every start
        session = create_session(opened.path, [_CPU], threads=1, record=True)
    counts: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        counts[short_name(part.ep_name)] += len(part.get_nodes())
    return dict(counts.most_common())


def create_session(path: Path, providers: list[Any], *, threads: int = 0, record: bool = False) -> Any:
    """A session with these providers, as onnxruntime names them, with their options.

    Args:
        record: whether `assignment` is to be asked.

    Raises:
        ModelError: onnxruntime cannot open the file with them.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SEVERITY_FATAL
    options.intra_op_num_threads = threads
    if record:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        with stdout_is_stderr():
            # With a fallback it would try the CPU after each failure, in creation and in runs, and say so on stdout.
            return onnxruntime.InferenceSession(os.fspath(path), options, providers=providers, enable_fallback=0)
    # onnxruntime's exceptions share no root but Exception.
    except Exception as error:
        raise _cannot_open(path, error) from None


def _cannot_open(path: Path, error: Exception) -> ModelError:
    """The error for a file that onnxruntime refuses: without the path again and the place in onnxruntime's source."""
    reason = re.sub(_BEFORE_REASON, "", " ".join(str(error).split()))
    for pattern, what in _TOO_NEW.items():
        if (new := re.search(pattern, reason)) is not None:
            from visiontool.errors import pip
            from visiontool.runtime.packages import names

            package = next(iter(names()), "onnxruntime")
            return ModelError(
                f"{path}: has {what} {new[1]}; onnxruntime {onnxruntime.__version__} reads up to {new[2]}.\n"
                f"Update it: {pip(f'install --upgrade {package}')}\n"
                f"Or export the file again with {what} {new[2]} or lower."
            )
    return ModelError(f"{path}: onnxruntime cannot open it: {first_line(ValueError(reason))}")


def ports(session: Any) -> tuple[list[Port], list[Port]]:
    """The inputs and the outputs of a session's graph."""
    inputs, outputs = (
        [Port(node.name, node.type, node.shape) for node in nodes]
        for nodes in (session.get_inputs(), session.get_outputs())
    )
    return inputs, outputs


def gpu_in_sight() -> bool:
    """Whether an NVIDIA driver is on this machine: cheap, so that machines without one lose no time."""
    if sys.platform == "win32":
        return Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "nvcuda.dll").exists()
    return any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg", "/proc/driver/nvidia/version")))


def _on_cpu(path: Path, found: Scan, threads: int) -> OpenModel:
    session = create_session(path, [_CPU], threads=threads)
    return OpenModel(path, found, session, *ports(session), "cpu")


def _check(device: str, provider: str | None) -> None:
    if device == provider:  # a classifier says of other providers that they are the device
        device = "auto"
    if re.fullmatch(r"auto|cpu|cuda(?::\d{1,3})?", device) is None:
        raise UsageError(f"device {device!r} is not known; expected auto, cpu, cuda or cuda:N")
    if provider is None:
        return
    if provider != "cpu":
        from visiontool.runtime.providers import check_name

        check_name(provider)
    # What the others run on is theirs to choose, so they take no device.
    fits = device == "cpu" if provider == "cpu" else device != "cpu" and provider in ON_GPUS
    if device != "auto" and not fits:
        raise UsageError(f"device {device!r} and provider {provider!r} contradict each other; leave one of them out")
