"""A network on an NVIDIA GPU: the options of its providers, where TensorRT keeps what it built, the way of a batch.

What a GPU gains is not measured yet (docs/gpu.md).
"""

import hashlib
import json
import os
import stat
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from visiontool import files
from visiontool.errors import DeviceError, ModelError, UsageError
from visiontool.model.spec import Port
from visiontool.runtime import cannot_run, create_session, nvidia, ports

_MOST_BUFFERS = 8  # each holds a batch of one size
_BATCH, _LEAST_BATCH, _SIDE = 64, 8, 224  # pictures in a run at that side in pixels, fewer where they are larger
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
_PRIVATE = 0o700
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def usual_batch(size: tuple[int, int]) -> int:
    """The pictures in one run on a GPU for a network that takes (H, W) pixels, where nobody says."""
    return max(_LEAST_BATCH, min(_BATCH, _BATCH * _SIDE**2 // (size[0] * size[1])))


def chain(provider: str, number: int, path: Path, engine_batch: int | None) -> list[tuple[str, dict[str, str]]]:
    """The providers for a session on the GPU `number`, as onnxruntime takes them, the preferred one first.

    Raises:
        ConversionError, DeviceError: TensorRT's engines cannot be kept.
        UsageError: `engine_batch` is below 1.
    """
    if engine_batch is not None and engine_batch < 1:
        raise UsageError(f"engine_batch must be at least 1, not {engine_batch}")
    # An exhaustive search would time all kernels for each new shape. TF32 drops 13 of the 23 binary digits of a factor.
    options = {"device_id": str(number), "cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}
    on_cuda = ("CUDAExecutionProvider", options)
    if provider == "cuda":
        return [on_cuda]
    inputs, _ = ports(create_session(path, ["CPUExecutionProvider"], threads=1))
    profile = tensorrt_profile(inputs[0], engine_batch)
    folder = engine_folder(engine_key(path, number, profile))
    return [("TensorrtExecutionProvider", tensorrt_options(number, profile, folder)), on_cuda]


def tensorrt_options(number: int, profile: tuple[str, str] | None, folder: Path) -> dict[str, str]:
    """The options of onnxruntime's TensorRT provider.

    None of them names a precision: the types in the file say it, which is the one way that TensorRT 11 has.

    Args:
        profile: of `tensorrt_profile`.
        folder: for engines and timings.
    """
    said = {
        "device_id": str(number),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(folder),
    }
    if profile is not None:
        least, most = profile
        said |= {"trt_profile_min_shapes": least, "trt_profile_opt_shapes": most, "trt_profile_max_shapes": most}
    return said


def tensorrt_profile(taken: Port, engine_batch: int | None) -> tuple[str, str] | None:
    """The smallest and the largest batch of the input `taken`, as TensorRT's provider reads it: "image:64x224x224x3".

    None where only the graph can tell: its batch is fixed, or it takes pictures of any size.
    """
    most = most_in_a_run(taken, engine_batch)
    if most is None or not has_one_size(taken):
        return None
    rest = "x".join(map(str, taken.shape[1:]))
    return f"{taken.name}:1x{rest}", f"{taken.name}:{most}x{rest}"


def most_in_a_run(taken: Port, engine_batch: int | None) -> int | None:
    """The most pictures that an engine takes at once; None where the graph fixes the batch."""
    if taken.shape and isinstance(taken.shape[0], int):
        return None
    sides = sorted(length for length in taken.shape[1:] if isinstance(length, int))[-2:]  # without the channels
    return engine_batch or usual_batch((sides[0], sides[-1]) if sides else (_SIDE, _SIDE))


def has_one_size(port: Port) -> bool:
    """Whether all but the batch is fixed."""
    return all(isinstance(length, int) for length in port.shape[1:])


def engine_key(path: Path, number: int, profile: tuple[str, str] | None) -> str:
    """Stands for all that an engine depends on: another one would be slow, wrong, or not load.

    Raises:
        ModelError: the model file cannot be read.
    """
    found = nvidia.gpus()[number]
    try:
        model = files.model_sha256(path)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from None
    said = [
        model,
        profile,
        onnxruntime.__version__,
        nvidia.tensorrt_version(),
        found.name,
        found.compute_capability,
        nvidia.driver_version(),
        os.environ.get("NVIDIA_TF32_OVERRIDE"),  # what decides about TF32 in TensorRT
    ]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


def engine_folder(key: str) -> Path:
    """The folder for the engines of a key, made where it is not there. Engines are code: nobody else may write there.

    Raises:
        ConversionError: the cache cannot be written.
        DeviceError: others may write to it.
    """
    folder = files.cache_root() / "tensorrt" / key
    try:
        for place in (folder.parent, folder):
            place.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
            status = place.stat()
            if sys.platform != "win32" and (status.st_uid != os.getuid() or status.st_mode & _OTHERS_WRITE):
                raise DeviceError(
                    f"{place}: others may write to it, and what lies there is run on the GPU.\n"
                    f"Remove it, or make it yours alone: chmod 700 {place}"
                )
    except OSError as error:
        raise files.cannot_write(error) from None
    return folder


class Bound:
    """Batches on their way to a device and back, through buffers there that are used again and again.

    Any number of threads may call `run`, one of which runs.

    Args:
        taken, given: the input, of one size but for the batch, and the outputs.
        device: "cuda:N", or "cpu", where nothing is gained.
        most: pictures in a run; more are run in parts.
    """

    def __init__(self, session: Any, taken: Port, given: Sequence[Port], device: str, most: int | None) -> None:
        self._session = session
        self._input = taken.name
        self._outputs = {port.name: port for port in given}
        self._device, _, number = device.partition(":")
        self._number = int(number or 0)
        self._most = most
        self._buffers: dict[tuple[str, tuple[int, ...]], tuple[Any, Any]] = {}
        self._running = threading.Lock()

    def run(self, output: str, tensor: NDArray[Any], pad_to: int | None = None) -> NDArray[Any]:
        """One output of the graph for a batch.

        Args:
            tensor: (N, ...) as the graph takes it.
            pad_to: at least so many pictures are run, since each other number costs the search for kernels anew; what
                comes of those that are added is dropped.

        Raises:
            ModelError: onnxruntime cannot run the graph on it.
        """
        most = self._most or max(len(tensor), pad_to or 1)
        parts = [tensor[start : start + most] for start in range(0, max(1, len(tensor)), most)]
        try:
            with self._running:
                values = [self._run_once(output, part, min(most, max(len(part), pad_to or 1))) for part in parts]
        except Exception as error:  # onnxruntime's exceptions share no root but Exception
            raise cannot_run(error) from None
        return values[0] if len(values) == 1 else np.concatenate(values)

    def _run_once(self, output: str, tensor: NDArray[Any], size: int) -> NDArray[Any]:
        rows = len(tensor)
        if rows < size:
            tensor = np.concatenate([tensor, np.zeros((size - rows, *tensor.shape[1:]), tensor.dtype)])
        binding, pixels = self._room_for(output, tensor)
        # It copies bytes, so an array whose rows are not in order would arrive as another.
        pixels.update_inplace(np.ascontiguousarray(tensor))
        self._session.run_with_iobinding(binding)
        values: NDArray[Any] = binding.copy_outputs_to_cpu()[0]
        return values[:rows]

    def _room_for(self, output: str, tensor: NDArray[Any]) -> tuple[Any, Any]:
        """The buffers on the device for one output and a batch of one size: the binding, and its input."""
        key = output, tensor.shape
        if key not in self._buffers:
            if len(self._buffers) >= _MOST_BUFFERS:
                self._buffers.clear()
            binding = self._session.io_binding()
            pixels = self._allocate(tensor.shape, tensor.dtype)
            binding.bind_ortvalue_input(self._input, pixels)
            port = self._outputs[output]
            dtype = _DTYPES.get(port.type)
            if dtype is not None and has_one_size(port):
                binding.bind_ortvalue_output(output, self._allocate((len(tensor), *port.shape[1:]), dtype))
            else:
                binding.bind_output(output, self._device, self._number)
            self._buffers[key] = binding, pixels
        return self._buffers[key]

    def _allocate(self, shape: Sequence[Any], dtype: Any) -> Any:
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type([*shape], dtype, self._device, self._number)
