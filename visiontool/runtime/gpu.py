"""A network on an NVIDIA GPU: the options of its providers, where TensorRT keeps what it built, the way of a batch.

docs/gpu.md says which of the choices are measured.
"""

import hashlib
import json
import os
import queue
import stat
import sys
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from visiontool import cache
from visiontool.errors import DeviceError, ModelError, UsageError
from visiontool.onnx_scan import Scan
from visiontool.runtime import cannot_run, create_session, nvidia, ports
from visiontool.spec import MANIFEST_KEY, ModelSpec, Port

_MOST_SESSIONS = 8
_MOST_BUFFERS = 8  # of a session; each holds a batch of one size
_BATCH, _LEAST_BATCH, _SIDE = 64, 8, 224  # pictures in a run at that side in pixels, fewer where they are larger
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
_PRIVATE = 0o700
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class GpuOptions(NamedTuple):
    """How a GPU runs a network, where it is not to be as docs/gpu.md says."""

    tf32: bool = False
    """Whether products of float32 numbers may lose 13 of their 23 binary digits, which another processor keeps."""
    nhwc: bool | None = None
    """Whether convolutions take channels last; None for those of fp16 files."""
    exhaustive: bool | None = None
    """Whether all kernels are timed for each shape, or one is taken by rule; None to time them for many pictures."""
    cuda_graph: bool = False
    """Whether a run is recorded once for each batch size and replayed. All nodes must be on the GPU."""
    sessions: int = 1
    """Runs that go on at once, each with the weights and buffers of its own."""
    batch: int | None = None
    """The most pictures in a run that TensorRT builds its engine for; None for `usual_batch`."""


def usual_batch(size: tuple[int, int]) -> int:
    """The pictures in one run on a GPU for a network that takes (H, W) pixels, where nobody says."""
    return max(_LEAST_BATCH, min(_BATCH, _BATCH * _SIDE**2 // (size[0] * size[1])))


def chain(
    provider: str, number: int, path: Path, found: Scan, options: GpuOptions, *, many: bool
) -> list[tuple[str, dict[str, str]]]:
    """The providers for a session on the GPU `number`, as onnxruntime takes them, the preferred one first.

    Raises:
        ConversionError, DeviceError: TensorRT's engines cannot be kept.
        UsageError: options out of range.
    """
    if not 1 <= options.sessions <= _MOST_SESSIONS or (options.batch is not None and options.batch < 1):
        raise UsageError(f"sessions must be from 1 to {_MOST_SESSIONS} and batch at least 1, not {options}")
    # A session of TensorRT records one batch size only; and what others do on a GPU fails while a run is recorded.
    if options.cuda_graph and (provider != "cuda" or options.sessions > 1):
        raise UsageError("cuda_graph is for the provider cuda and one session")
    spec = _spec(found)
    on_cuda = ("CUDAExecutionProvider", cuda_options(number, spec, options, many=many))
    if provider == "cuda":
        return [on_cuda]
    inputs, _ = ports(create_session(path, ["CPUExecutionProvider"], threads=1))
    profile = tensorrt_profile(inputs[0], options)
    folder = engine_folder(engine_key(path, number, spec, profile))
    return [("TensorrtExecutionProvider", tensorrt_options(number, profile, folder)), on_cuda]


def cuda_options(number: int, spec: ModelSpec | None, options: GpuOptions, *, many: bool) -> dict[str, str]:
    """The options of onnxruntime's CUDA provider.

    Args:
        spec: what the file says of itself, if it does.
        many: whether many pictures are to come.
    """
    # The CUDA provider refuses an antialiased Resize of 8-bit numbers with channels last.
    nhwc = spec is not None and spec.precision == "fp16" and spec.resize == "host"
    exhaustive = many if options.exhaustive is None else options.exhaustive
    return {
        "device_id": str(number),
        "cudnn_conv_algo_search": "EXHAUSTIVE" if exhaustive else "HEURISTIC",
        "use_tf32": _flag(options.tf32),
        "prefer_nhwc": _flag(nhwc if options.nhwc is None else options.nhwc),
        "enable_cuda_graph": _flag(options.cuda_graph),
    }


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


def tensorrt_profile(taken: Port, options: GpuOptions) -> tuple[str, str] | None:
    """The smallest and the largest batch of the input `taken`, as TensorRT's provider reads it: "image:64x224x224x3".

    None where only the graph can tell: its batch is fixed, or it takes pictures of any size.
    """
    most = most_in_a_run(taken, options)
    if most is None or not has_one_size(taken):
        return None
    rest = "x".join(map(str, taken.shape[1:]))
    return f"{taken.name}:1x{rest}", f"{taken.name}:{most}x{rest}"


def most_in_a_run(taken: Port, options: GpuOptions) -> int | None:
    """The most pictures that an engine takes at once; None where the graph fixes the batch."""
    if taken.shape and isinstance(taken.shape[0], int):
        return None
    sides = sorted(length for length in taken.shape[1:] if isinstance(length, int))[-2:]  # without the channels
    return options.batch or usual_batch((sides[0], sides[-1]) if sides else (_SIDE, _SIDE))


def has_one_size(port: Port) -> bool:
    """Whether all but the batch is fixed."""
    return all(isinstance(length, int) for length in port.shape[1:])


def engine_key(path: Path, number: int, spec: ModelSpec | None, profile: tuple[str, str] | None) -> str:
    """Stands for all that an engine depends on: another one would be slow, wrong, or not load.

    Raises:
        ModelError: the model file cannot be read.
    """
    found = nvidia.gpus()[number]
    try:
        model = cache.model_sha256(path)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from None
    said = [
        model,
        spec.precision if spec else None,
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
    folder = cache.root() / "tensorrt" / key
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
        raise cache.cannot_write(error) from None
    return folder


def bind(
    provider: str,
    sessions: Sequence[Any],
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    device: str,
    options: GpuOptions,
) -> "Bound | None":
    """The way of batches to the device of these sessions, or None where no two batches need have the same shape.

    Raises:
        ModelError: there is none, and a CUDA graph was asked for.
    """
    if len(inputs) == 1 and has_one_size(inputs[0]):
        most = most_in_a_run(inputs[0], options) if provider == "tensorrt" else None
        return Bound(sessions, inputs[0], outputs, device, most=most, graph=options.cuda_graph)
    if options.cuda_graph:
        raise ModelError("a CUDA graph needs a network that takes pictures of one size")
    return None


class Bound:
    """Batches on their way to a device and back, through buffers there that are used again and again.

    Any number of threads may call `run`; as many runs go on at once as there are sessions.

    Args:
        device: "cuda:N", or "cpu", where nothing is gained.
        most: pictures in a run; more are run in parts.
        graph: whether runs are recorded and replayed, so that the sizes of all outputs must be known.
    """

    def __init__(
        self, sessions: Sequence[Any], taken: Port, given: Sequence[Port], device: str, *, most: int | None, graph: bool
    ) -> None:
        self.at_once = len(sessions)
        self._most = most
        self._free: queue.SimpleQueue[_Lane] = queue.SimpleQueue()
        for session in sessions:
            self._free.put(_Lane(session, taken, given, device, graph))

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
        lane = self._free.get()
        try:
            values = [lane.run(output, part, min(most, max(len(part), pad_to or 1))) for part in parts]
        except ModelError:
            raise
        except Exception as error:  # onnxruntime's exceptions share no root but Exception
            raise cannot_run(error) from None
        finally:
            self._free.put(lane)
        return values[0] if len(values) == 1 else np.concatenate(values)


class _Buffers(NamedTuple):
    """Room on the device for a batch of one size and one output, bound to a session."""

    binding: Any
    pixels: Any
    run_options: Any


class _Lane:
    """One session, for one thread at a time."""

    def __init__(self, session: Any, taken: Port, given: Sequence[Port], device: str, graph: bool) -> None:
        self._session = session
        self._input = taken.name
        self._outputs = {port.name: port for port in given}
        self._device, _, number = device.partition(":")
        self._number = int(number or 0)
        self._graph = graph
        self._graphs = 0
        self._buffers: OrderedDict[tuple[str, tuple[int, ...]], _Buffers] = OrderedDict()

    def run(self, output: str, tensor: NDArray[Any], size: int) -> NDArray[Any]:
        rows = len(tensor)
        if rows < size:
            tensor = np.concatenate([tensor, np.zeros((size - rows, *tensor.shape[1:]), tensor.dtype)])
        buffers = self._room_for(output, tensor)
        # It copies bytes, so an array whose rows are not in order would arrive as another.
        buffers.pixels.update_inplace(np.ascontiguousarray(tensor))
        self._session.run_with_iobinding(buffers.binding, buffers.run_options)
        values: NDArray[Any] = buffers.binding.copy_outputs_to_cpu()[0]
        return values[:rows]

    def _room_for(self, output: str, tensor: NDArray[Any]) -> _Buffers:
        key = output, tensor.shape
        if key in self._buffers:
            self._buffers.move_to_end(key)
            return self._buffers[key]
        # What was recorded writes to its buffers for ever, so these stay.
        if len(self._buffers) >= _MOST_BUFFERS and not self._graph:
            self._buffers.popitem(last=False)
        binding = self._session.io_binding()
        pixels = self._allocate(tensor.shape, tensor.dtype)
        binding.bind_ortvalue_input(self._input, pixels)
        port = self._outputs[output]
        dtype = _DTYPES.get(port.type)
        if dtype is not None and has_one_size(port):
            binding.bind_ortvalue_output(output, self._allocate((len(tensor), *port.shape[1:]), dtype))
        elif self._graph:
            raise ModelError(f"a CUDA graph needs outputs of a known size, and {output!r} has {[*port.shape]}")
        else:
            binding.bind_output(output, self._device, self._number)
        run_options = None
        if self._graph:
            self._graphs += 1
            run_options = onnxruntime.RunOptions()
            run_options.add_run_config_entry("gpu_graph_id", str(self._graphs))
        self._buffers[key] = _Buffers(binding, pixels, run_options)
        return self._buffers[key]

    def _allocate(self, shape: Sequence[Any], dtype: Any) -> Any:
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type([*shape], dtype, self._device, self._number)


def _spec(found: Scan) -> ModelSpec | None:
    """What the file says of itself; None where it says nothing that can be read, which is told elsewhere."""
    try:
        return ModelSpec.from_json(found.metadata[MANIFEST_KEY])
    except (KeyError, ModelError):
        return None


def _flag(value: bool) -> str:
    return "1" if value else "0"
