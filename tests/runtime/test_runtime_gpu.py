"""What of a GPU can be tested without one: options, the key of engines, buffers bound on the CPU.

Whether a GPU answers alike, and how fast, only benchmarks/gpu.py tells (docs/gpu.md).
"""

import ctypes
import mmap
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from conftest import BLUE, COLOR_SPEC, GREEN, RED, color_graph, save_model, save_picture

from visiontool import Classifier, ModelError, runtime
from visiontool.errors import ConversionError, DeviceError, UsageError
from visiontool.model.spec import Port
from visiontool.runtime import gpu, installation, providers
from visiontool.runtime.gpu import BoundSession

H200 = installation.Gpu("NVIDIA H200", "9.0", 150 * 2**30, None)
CAPI = Path(onnxruntime.__file__).parent / "capi"
NHWC = Port("image", "tensor(uint8)", ["N", 224, 224, 3])
linux_only = pytest.mark.skipif(os.name == "nt", reason="Windows keeps folders private by other means")


def batch(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), np.uint8)


def expected(pixels: np.ndarray) -> np.ndarray:
    """What the color model answers."""
    return (pixels / 255).mean((1, 2))


class Bindings:
    """Counts the batches that a session runs, by their size."""

    def __init__(self, session):
        self.session = session
        self.sizes = []

    def __getattr__(self, name):
        return getattr(self.session, name)

    def run_with_iobinding(self, binding):
        self.sizes.append(binding.get_outputs()[0].shape()[0])
        self.session.run_with_iobinding(binding)


def bound_on_cpu(path, most=None):
    """Buffers in the CPU's memory, and the session behind them."""
    session = Bindings(runtime.create_session(path, ["CPUExecutionProvider"], threads=1))
    (taken,), given = runtime.ports(session)
    return BoundSession(session, taken, given, "cpu", most), session


@pytest.fixture
def bound(color_model):
    return bound_on_cpu(color_model)[0]


@pytest.mark.parametrize(
    ("shape", "batch_", "profile"),
    [
        (["N", 224, 224, 3], None, ("image:1x224x224x3", "image:64x224x224x3")),
        (["N", 64, 64, 3], None, ("image:1x64x64x3", "image:64x64x64x3")),
        (["N", 3, 4096, 4096], None, ("image:1x3x4096x4096", "image:8x3x4096x4096")),
        (["N", 224, 224, 3], 256, ("image:1x224x224x3", "image:256x224x224x3")),
        ([4, 224, 224, 3], None, None),
        (["N", "H", "W", 3], None, None),
    ],
)
def test_an_engine_is_built_for_one_picture_up_to_a_full_batch(shape, batch_, profile):
    taken = Port("image", "tensor(uint8)", shape)
    assert gpu.tensorrt_profile(taken, batch_) == profile


def test_tensorrt_comes_before_cuda_and_finds_its_engines_again(color_model, monkeypatch):
    monkeypatch.setattr(installation, "gpus", lambda: (H200,))
    one, other = (gpu.chain("tensorrt", 0, color_model, None) for _ in range(2))
    assert one == other
    assert [name for name, _ in one] == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    options = one[0][1]
    assert options["trt_profile_max_shapes"] == options["trt_profile_opt_shapes"] == "image:64x8x8x3"
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"]
    assert Path(options["trt_engine_cache_path"]).is_dir()
    assert one[1][1] == {"device_id": "0", "cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}
    assert not [name for name in options if name.endswith(("fp16_enable", "int8_enable"))]  # the file's types say it
    with pytest.raises(UsageError, match="engine_batch must be at least 1, not 0"):
        gpu.chain("tensorrt", 0, color_model, 0)
    larger = gpu.chain("tensorrt", 0, color_model, 128)
    assert larger[0][1]["trt_engine_cache_path"] != options["trt_engine_cache_path"]


def test_each_thing_that_an_engine_depends_on_gives_another_key(color_model, make_color_model, monkeypatch):
    monkeypatch.setattr(installation, "gpus", lambda: (H200, H200))
    monkeypatch.setattr(installation, "driver_version", lambda: "580.95.05")
    monkeypatch.setattr(installation, "tensorrt_version", lambda: 101303)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    profile = gpu.tensorrt_profile(NHWC, None)

    def key(path=color_model, profile=profile):
        return gpu.engine_key(path, 0, profile)

    first = key()
    assert key() == first
    assert gpu.engine_key(color_model, 1, profile) == first  # an equal GPU runs the same engine
    keys = [first, key(make_color_model("other.onnx", temperature=2.0)), key(profile=None)]
    for target, name, value in (
        (installation, "gpus", lambda: (H200._replace(name="NVIDIA H100"),)),
        (installation, "gpus", lambda: (H200._replace(compute_capability="8.0"),)),
        (installation, "driver_version", lambda: "590.1"),
        (installation, "tensorrt_version", lambda: 101601),
        (onnxruntime, "__version__", "1.32.0"),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(target, name, value)
            keys.append(key())
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    keys.append(key())
    assert len(set(keys)) == len(keys) == 9


@linux_only
def test_engines_lie_where_nobody_else_may_write(tmp_path, monkeypatch):
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "cache"))
    folder = gpu.engine_folder("k" * 32)
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert gpu.engine_folder("k" * 32) == folder
    folder.chmod(0o777)
    with pytest.raises(DeviceError, match=f"chmod 700 {folder}"):
        gpu.engine_folder("k" * 32)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConversionError, match="Set VISIONTOOL_CACHE"):
        gpu.engine_folder("k" * 32)


def test_a_batch_comes_back_as_from_the_session_itself(bound):
    with pytest.raises(ModelError, match="onnxruntime cannot run the model"):
        bound.outputs("logits", np.zeros((2, 9, 9, 3), np.uint8))
    answers = []
    for count in (1, 5, 8, 5, *range(1, 12)):  # more sizes than there are buffers
        answers += [(bound.outputs("logits", pixels := batch(count, seed=count)), pixels)]
        np.testing.assert_allclose(bound.outputs("embedding", pixels), expected(pixels), atol=1e-6)
    for pixels in (batch(3).transpose(0, 2, 1, 3), batch(6)[::2]):  # not in order in memory
        answers += [(bound.outputs("logits", pixels), pixels)]
    for answer, pixels in answers:  # at the end, when their buffers were used again
        np.testing.assert_allclose(answer, expected(pixels), atol=1e-6)


@pytest.mark.parametrize(
    ("most", "batches", "sizes"),  # an engine's largest batch, (pictures, pad_to) of each batch, and what is run
    [
        (None, ((8, 8), (3, 8), (3, None), (9, 8)), [8, 8, 3, 9]),
        (4, ((10, 10), (2, None)), [4, 4, 4, 2]),
    ],
)
def test_a_short_batch_is_padded_and_a_large_one_split(color_model, most, batches, sizes):
    bound, session = bound_on_cpu(color_model, most)
    for count, pad_to in batches:
        pixels = batch(count)
        np.testing.assert_allclose(bound.outputs("logits", pixels, pad_to), expected(pixels), atol=1e-6)
    assert session.sizes == sizes


def test_threads_get_their_own_answers(bound):
    batches = [batch(1 + seed % 5, seed) for seed in range(80)]
    with ThreadPoolExecutor(4) as pool:
        for pixels, answer in zip(batches, pool.map(partial(bound.outputs, "logits"), batches), strict=True):
            np.testing.assert_allclose(answer, expected(pixels), atol=1e-6)


@pytest.fixture
def on_gpu(color_model):
    """A classifier that takes the way to a GPU, with the CPU at its end; and its session."""
    opened = runtime.open_model(color_model, device="cpu")
    bound, session = bound_on_cpu(color_model)
    opened = opened._replace(device="cuda:0", provider="cuda", bound=bound)
    return Classifier.of(opened, COLOR_SPEC), session


def test_every_batch_of_many_pictures_has_the_size_of_the_first(on_gpu, tmp_path):
    classifier, session = on_gpu
    assert (classifier.batch_size(None), classifier.batch_size(5), classifier.runs_at_once) == (64, 5, 1)
    colors = [RED, GREEN, BLUE]
    pictures = [save_picture(tmp_path / f"{i}.png", colors[i % 3]) for i in range(11)]
    pictures[2].write_bytes(b"no picture")
    pictures[9].unlink()
    results = [*classifier.predict_stream(pictures, batch_size=4)]
    answers = [result.predictions[0].label if result.status == "ok" else None for result in results]
    names = ["red", "green", "blue"]
    assert answers == [None if i in (2, 9) else names[i % 3] for i in range(11)]
    assert session.sizes == [4, 4, 4]
    session.sizes.clear()
    assert len(classifier.predict(pictures[:2])) == 2
    assert session.sizes == [2]


def test_a_fixed_batch_is_never_padded_further(tmp_path):
    graph = color_graph()
    for port in (*graph.graph.input, *graph.graph.output):
        port.type.tensor_type.shape.dim[0].dim_value = 4
    path = save_model(graph, tmp_path / "fixed.onnx", COLOR_SPEC.to_metadata())
    opened = runtime.open_model(path, device="cpu")
    opened = opened._replace(device="cuda:0", provider="cuda", bound=bound_on_cpu(path)[0])
    classifier = Classifier.of(opened, COLOR_SPEC)
    for count in (2, 4, 9):
        np.testing.assert_allclose(
            classifier.outputs(batch(count), "logits", pad_to=8), expected(batch(count)), atol=1e-6
        )


def fill(reference, value) -> int:
    getattr(reference, "_obj", reference).value = value
    return 0


def test_the_driver_is_asked_by_its_own_numbers(monkeypatch):
    """Two libraries that number the GPUs differently are matched by the place on the bus."""
    cuda, nvml = SimpleNamespace(), SimpleNamespace()
    cuda.cuInit = lambda flags: 0
    cuda.cuDeviceGetCount = lambda count: fill(count, 2)
    cuda.cuDeviceGet = lambda device, number: fill(device, number)
    cuda.cuDeviceGetName = lambda text, _, device: fill(text, (b"NVIDIA H200", b"NVIDIA A30")[device.value])
    cuda.cuDeviceTotalMem_v2 = lambda total, device: fill(total, (150, 24)[device.value] * 2**30)
    cuda.cuDeviceGetAttribute = lambda value, what, device: fill(value, {75: (9, 8), 76: (0, 6)}[what][device.value])
    cuda.cuDeviceGetPCIBusId = lambda text, _, device: fill(text, (b"bus 1", b"bus 2")[device.value])
    nvml.nvmlInit_v2 = lambda: 0
    nvml.nvmlSystemGetDriverVersion = lambda text, _: fill(text, b"580.95.05")
    nvml.nvmlDeviceGetHandleByPciBusId_v2 = lambda bus, handle: fill(handle, {b"bus 2": 1, b"bus 1": 2}[bus])
    nvml.nvmlDeviceGetMemoryInfo = lambda handle, memory: setattr(memory._obj, "free", {1: 3, 2: 7}[handle.value]) or 0
    monkeypatch.setattr(ctypes, "CDLL", lambda name: cuda if "cuda" in name else nvml)
    monkeypatch.setattr(installation, "_nvml", installation._nvml.__wrapped__)
    h200, a30 = installation.gpus()
    assert h200 == installation.Gpu("NVIDIA H200", "9.0", 150 * 2**30, 7)
    assert a30 == installation.Gpu("NVIDIA A30", "8.6", 24 * 2**30, 3)
    assert installation.driver_version() == "580.95.05"
    cuda.cuInit = lambda flags: 100  # CUDA_ERROR_NO_DEVICE
    assert installation.gpus() == ()


@pytest.mark.slow
def test_every_option_is_one_that_the_installed_onnxruntime_knows(color_model, monkeypatch):
    """An unknown option would leave the provider out in silence."""
    if not {"cuda", "tensorrt"} <= set(providers.built_in()) or os.name == "nt":
        pytest.skip("this onnxruntime has no CUDA")
    monkeypatch.setattr(installation, "gpus", lambda: (H200,))
    chain = gpu.chain("tensorrt", 0, color_model, None)
    for (_, options), name in zip(chain, ("tensorrt", "cuda"), strict=True):
        with (
            open(CAPI / f"libonnxruntime_providers_{name}.so", "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as library,
        ):
            unknown = [option for option in options if library.find(option.encode()) < 0]
        assert unknown == []
