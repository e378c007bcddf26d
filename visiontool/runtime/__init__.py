"""Model files opened with onnxruntime: the file is scanned first, then a device is chosen.

The way to the CPU is short, since most predictions take it and its start is measured. What another provider needs is
imported when one is meant: `providers` (which there are, and why one cannot be used) and `gpu`.
"""

import re
from pathlib import Path

from visiontool.errors import DeviceError, ModelError, UsageError, first_line
from visiontool.model.scan import Scan, scan, scan_bytes
from visiontool.runtime.session import CPU, ON_GPUS, OpenModel, cannot_run, create_session, gpu_in_sight, outputs, ports

__all__ = ["OpenModel", "assignment", "cannot_run", "create_session", "gpu_in_sight", "open_model", "outputs", "ports"]


def open_model(
    path: Path,
    *,
    device: str = "auto",
    provider: str | None = None,
    threads: int = 0,
    engine_batch: int | None = None,
    content: bytes | None = None,
) -> OpenModel:
    """Scans the model file at `path` and opens a session for it.

    Args:
        device, provider, threads, engine_batch: as for `Classifier`.
        content: of the model, where no file has it; it runs on the CPU, and `path` is for messages.

    Raises:
        DeviceError: the device or provider cannot be used; the message names what is missing.
        ModelError: the file is no ONNX file, keeps tensors in other files, or onnxruntime refuses it.
    """
    _check(device, provider)
    scanned = scan(path) if content is None else scan_bytes(content, path)
    is_any = provider is None and device == "auto"
    try:
        if provider == "cpu" or device == "cpu" or (is_any and (content is not None or not gpu_in_sight())):
            return _on_cpu(path, scanned, threads, content)
        from visiontool.runtime.providers import open_on

        try:
            return open_on(path, scanned, provider or "cuda", device, engine_batch)
        except DeviceError as error:
            opened = _on_cpu(path, scanned, threads)  # raises where the file is at fault, and not the device
            if is_any:
                return opened._replace(passed_over=first_line(error))
            raise error from None
    except UnicodeDecodeError:
        raise ModelError(f"{path}: not an ONNX file, or a damaged one (a name in the graph is not UTF-8)") from None


def assignment(opened: OpenModel) -> dict[str, int]:
    """How many nodes of the graph, as onnxruntime runs it, each provider has, by its short name; the most first."""
    from visiontool.runtime.providers import assigned_nodes

    if opened.provider == "cpu":  # its session was opened without a record, which would cost every start
        return assigned_nodes(create_session(opened.path, [CPU], threads=1, record=True, content=opened.content))
    return assigned_nodes(opened.session)


def _on_cpu(path: Path, scanned: Scan, threads: int, content: bytes | None = None) -> OpenModel:
    session = create_session(path, [CPU], threads=threads, content=content)
    return OpenModel(path, scanned, session, *ports(session), "cpu", content=content)


def _check(device: str, provider: str | None) -> None:
    if device == provider:  # a classifier's `device` is the provider's name for others than GPUs
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
