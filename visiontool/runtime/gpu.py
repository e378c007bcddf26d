"""A network on an NVIDIA GPU: the options of its providers, TensorRT's engines, buffers for batches."""

import hashlib
import json
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from visiontool import files
from visiontool.errors import DeviceError, UsageError
from visiontool.model.spec import Port
from visiontool.runtime import installation
from visiontool.runtime.session import CPU, cannot_run, create_session, ports

_MAX_BUFFERS = 8  # each holds a batch of one size
_BATCH, _MIN_BATCH, _SIDE = 64, 8, 224  # pictures in a batch at that side in pixels, fewer where they are larger
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


def usual_batch(size: tuple[int, int]) -> int:
    """The usual batch on a GPU for a network that takes (H, W) pixels."""
    return max(_MIN_BATCH, min(_BATCH, _BATCH * _SIDE**2 // (size[0] * size[1])))


def chain(provider: str, number: int, path: Path, engine_batch: int | None) -> list[tuple[str, dict[str, str]]]:
    """The providers for a session on the GPU `number`, as onnxruntime takes them, the preferred one first."""
    if engine_batch is not None and engine_batch < 1:
        raise UsageError(f"engine_batch must be at least 1, not {engine_batch}")
    # An exhaustive search would time all kernels for each new shape. TF32 drops 13 of the 23 binary digits of a factor.
    cuda_options = {"device_id": str(number), "cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}
    on_cuda = ("CUDAExecutionProvider", cuda_options)
    if provider == "cuda":
        return [on_cuda]
    inputs, _ = ports(create_session(path, [CPU], threads=1))
    profile = tensorrt_profile(inputs[0], engine_batch)
    folder = str(engine_folder(engine_key(path, number, profile)))
    # None of these names a precision: the types in the file do, which is the one way that TensorRT 11 has.
    options = {
        "device_id": str(number),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": folder,
    }
    if profile is not None:
        options["trt_profile_min_shapes"] = profile[0]
        options["trt_profile_opt_shapes"] = options["trt_profile_max_shapes"] = profile[1]
    return [("TensorrtExecutionProvider", options), on_cuda]


def tensorrt_profile(port: Port, engine_batch: int | None) -> tuple[str, str] | None:
    """The smallest and the largest batch of an input, such as "image:64x224x224x3"; None where the graph decides."""
    largest = max_batch(port, engine_batch)
    if largest is None or not has_one_size(port):
        return None
    rest = "x".join(map(str, port.shape[1:]))
    return f"{port.name}:1x{rest}", f"{port.name}:{largest}x{rest}"


def max_batch(port: Port, engine_batch: int | None) -> int | None:
    """The largest batch that an engine takes; None where the graph fixes it."""
    if port.shape and isinstance(port.shape[0], int):
        return None
    sides = sorted(length for length in port.shape[1:] if isinstance(length, int))[-2:]  # without the channels
    return engine_batch or usual_batch((sides[0], sides[-1]) if sides else (_SIDE, _SIDE))


def has_one_size(port: Port) -> bool:
    return all(isinstance(length, int) for length in port.shape[1:])


def engine_key(path: Path, number: int, profile: tuple[str, str] | None) -> str:
    """A key of all that an engine depends on: another one would be slow, wrong, or not load."""
    device = installation.gpus()[number]
    parts = [
        files.model_sha256(path),
        profile,
        onnxruntime.__version__,
        installation.tensorrt_version(),
        device.name,
        device.compute_capability,
        installation.driver_version(),
        os.environ.get("NVIDIA_TF32_OVERRIDE"),  # decides about TF32 in TensorRT
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def engine_folder(key: str) -> Path:
    """The folder for the engines of a key. Engines are code, so nobody else may write there."""
    folder = files.cache_root() / "tensorrt" / key
    try:
        for place in (folder.parent, folder):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = place.stat()
            if sys.platform != "win32" and (status.st_uid != os.getuid() or status.st_mode & 0o022):
                raise DeviceError(
                    f"{place}: others may write to it, and what lies there is run on the GPU.\n"
                    f"Remove it, or make it yours alone: chmod 700 {place}"
                )
    except OSError as error:
        raise files.cannot_write(error) from None
    return folder


class BoundSession:
    """A session with buffers on a device for its batches, which are used again and again.

    Any number of threads may call `outputs`, one at a time is served.

    Args:
        port: the input, of one size but for the batch.
        device: "cuda:N", or "cpu", where nothing is gained.
        max_batch: larger ones are split.
    """

    def __init__(
        self, session: Any, port: Port, output_ports: Sequence[Port], device: str, max_batch: int | None
    ) -> None:
        self._session = session
        self._input = port.name
        self._outputs = {port.name: port for port in output_ports}
        self._device, _, number = device.partition(":")
        self._number = int(number or 0)
        self._max_batch = max_batch
        self._buffers: dict[tuple[str, tuple[int, ...]], tuple[Any, Any]] = {}
        self._lock = threading.Lock()

    def outputs(self, output: str, tensor: NDArray[Any], pad_to: int | None = None) -> NDArray[Any]:
        """One output of the graph for a batch.

        Args:
            tensor: (N, ...) as the graph takes it.
            pad_to: a smaller batch is padded to this size, since each other size costs the search for kernels anew.
        """
        limit = self._max_batch or max(len(tensor), pad_to or 1)
        parts = [tensor[start : start + limit] for start in range(0, max(1, len(tensor)), limit)]
        try:
            with self._lock:
                values = [self._batch_output(output, part, min(limit, max(len(part), pad_to or 1))) for part in parts]
        except Exception as error:  # onnxruntime's exceptions share no root but Exception
            raise cannot_run(error) from None
        return values[0] if len(values) == 1 else np.concatenate(values)

    def _batch_output(self, output: str, tensor: NDArray[Any], size: int) -> NDArray[Any]:
        rows = len(tensor)
        if rows < size:
            tensor = np.concatenate([tensor, np.zeros((size - rows, *tensor.shape[1:]), tensor.dtype)])
        key = output, tensor.shape
        if key not in self._buffers:
            if len(self._buffers) >= _MAX_BUFFERS:
                self._buffers.clear()
            self._buffers[key] = self._bind(output, tensor)
        binding, pixels = self._buffers[key]
        # It copies bytes, so an array whose rows are not in order would arrive as another.
        pixels.update_inplace(np.ascontiguousarray(tensor))
        self._session.run_with_iobinding(binding)
        values: NDArray[Any] = binding.copy_outputs_to_cpu()[0]
        return values[:rows]

    def _bind(self, output: str, tensor: NDArray[Any]) -> tuple[Any, Any]:
        """A binding for one output and batches of this size, and its input."""
        binding = self._session.io_binding()
        pixels = self._allocate(tensor.shape, tensor.dtype)
        binding.bind_ortvalue_input(self._input, pixels)
        port = self._outputs[output]
        dtype = _DTYPES.get(port.type)
        if dtype is not None and has_one_size(port):
            binding.bind_ortvalue_output(output, self._allocate((len(tensor), *port.shape[1:]), dtype))
        else:
            binding.bind_output(output, self._device, self._number)
        return binding, pixels

    def _allocate(self, shape: Sequence[Any], dtype: Any) -> Any:
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type([*shape], dtype, self._device, self._number)
