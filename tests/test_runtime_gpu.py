"""The way to a GPU, as far as it can be gone without one: options, the key of engines, buffers bound on the CPU.

Whether a GPU then answers alike, and how fast, only benchmarks/gpu.py tells (docs/gpu.md).
"""

import ctypes
import mmap
import os
import stat
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import BLUE, COLOR_SPEC, GREEN, RED, color_graph, save_model, save_picture
from onnx import TensorProto, helper

from visiontool import Classifier, ModelError, runtime
from visiontool.errors import ConversionError, DeviceError, UsageError
from visiontool.onnx_scan import Scan
from visiontool.runtime import gpu, nvidia, providers
from visiontool.runtime.gpu import Bound, GpuOptions
from visiontool.spec import MANIFEST_KEY, Port

H200 = nvidia.Gpu("NVIDIA H200", "9.0", 150 * 2**30, None)
CAPI = Path(onnxruntime.__file__).parent / "capi"
FP16 = replace(COLOR_SPEC, precision="fp16")
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

    def run_with_iobinding(self, binding, run_options):
        self.sizes.append(binding.get_outputs()[0].shape()[0])
        self.session.run_with_iobinding(binding, run_options)


@pytest.fixture
def bound(color_model):
    """Two sessions of the color model behind buffers in the CPU's memory."""
    sessions = [runtime.create_session(color_model, ["CPUExecutionProvider"], threads=1) for _ in range(2)]
    return Bound(sessions, *bound_ports(sessions[0]), "cpu", most=None, graph=False)


def bound_ports(session):
    (taken,), given = runtime.ports(session)
    return taken, given


def test_fp16_files_run_with_channels_last_and_tf32_is_off():
    options = gpu.cuda_options(1, FP16, GpuOptions(), many=False)
    assert options == {
        "device_id": "1",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",
        "prefer_nhwc": "1",
        "enable_cuda_graph": "0",
    }
    assert gpu.cuda_options(0, COLOR_SPEC, GpuOptions(), many=True)["cudnn_conv_algo_search"] == "EXHAUSTIVE"
    for spec in (COLOR_SPEC, None, replace(FP16, resize="graph")):
        assert gpu.cuda_options(0, spec, GpuOptions(), many=True)["prefer_nhwc"] == "0"


def test_every_choice_can_be_said():
    said = GpuOptions(tf32=True, nhwc=False, exhaustive=False, cuda_graph=True)
    options = gpu.cuda_options(0, FP16, said, many=True)
    assert [*options.values()] == ["0", "HEURISTIC", "1", "0", "1"]


@pytest.mark.parametrize(
    ("wanted", "provider"),
    [
        (GpuOptions(sessions=0), "cuda"),
        (GpuOptions(sessions=9), "cuda"),
        (GpuOptions(batch=0), "tensorrt"),
        (GpuOptions(cuda_graph=True), "tensorrt"),
        (GpuOptions(cuda_graph=True, sessions=2), "cuda"),
    ],
)
def test_options_out_of_range_are_refused(color_model, wanted, provider):
    with pytest.raises(UsageError):
        gpu.chain(provider, 0, color_model, Scan({}, {}), wanted, many=False)


@pytest.mark.parametrize(
    ("size", "count"), [((224, 224), 64), ((64, 64), 64), ((448, 448), 16), ((600, 600), 8), ((4096, 4096), 8)]
)
def test_larger_pictures_come_in_smaller_batches(size, count):
    assert gpu.usual_batch(size) == count


@pytest.mark.parametrize(
    ("shape", "batch_", "profile"),
    [
        (["N", 224, 224, 3], None, ("image:1x224x224x3", "image:64x224x224x3")),
        (["N", 3, 448, 448], None, ("image:1x3x448x448", "image:16x3x448x448")),
        (["N", 224, 224, 3], 256, ("image:1x224x224x3", "image:256x224x224x3")),
        ([4, 224, 224, 3], None, None),
        (["N", "H", "W", 3], None, None),
    ],
)
def test_an_engine_is_built_for_one_picture_up_to_a_full_batch(shape, batch_, profile):
    taken = Port("image", "tensor(uint8)", shape)
    assert gpu.tensorrt_profile(taken, GpuOptions(batch=batch_)) == profile


def test_tensorrt_comes_before_cuda_and_finds_its_engines_again(color_model, monkeypatch):
    monkeypatch.setattr(nvidia, "gpus", lambda: (H200,))
    found = Scan({MANIFEST_KEY: COLOR_SPEC.to_json()}, {})
    one, other = (gpu.chain("tensorrt", 0, color_model, found, GpuOptions(), many=True) for _ in range(2))
    assert one == other
    assert [name for name, _ in one] == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    said = one[0][1]
    assert said["trt_profile_max_shapes"] == said["trt_profile_opt_shapes"] == "image:64x8x8x3"
    assert said["trt_engine_cache_path"] == said["trt_timing_cache_path"]
    assert Path(said["trt_engine_cache_path"]).is_dir()
    assert not [name for name in said if name.endswith(("fp16_enable", "int8_enable"))]  # the file's types say it
    larger = gpu.chain("tensorrt", 0, color_model, found, GpuOptions(batch=128), many=True)
    assert larger[0][1]["trt_engine_cache_path"] != said["trt_engine_cache_path"]


def test_each_thing_that_an_engine_depends_on_gives_another_key(color_model, make_color_model, monkeypatch):
    monkeypatch.setattr(nvidia, "gpus", lambda: (H200, H200))
    monkeypatch.setattr(nvidia, "driver_version", lambda: "580.95.05")
    monkeypatch.setattr(nvidia, "tensorrt_version", lambda: 101303)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    profile = gpu.tensorrt_profile(NHWC, GpuOptions())

    def key(path=color_model, spec=COLOR_SPEC, profile=profile):
        return gpu.engine_key(path, 0, spec, profile)

    first = key()
    assert key() == first
    assert gpu.engine_key(color_model, 1, COLOR_SPEC, profile) == first  # an equal GPU runs the same engine
    keys = [first, key(make_color_model("other.onnx", temperature=2.0)), key(spec=FP16), key(profile=None)]
    for target, name, value in (
        (nvidia, "gpus", lambda: (H200._replace(name="NVIDIA H100"),)),
        (nvidia, "gpus", lambda: (H200._replace(compute_capability="8.0"),)),
        (nvidia, "driver_version", lambda: "590.1"),
        (nvidia, "tensorrt_version", lambda: 101601),
        (onnxruntime, "__version__", "1.32.0"),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(target, name, value)
            keys.append(key())
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    keys.append(key())
    assert len(set(keys)) == len(keys) == 10


@linux_only
def test_engines_lie_where_nobody_else_may_write(tmp_path, monkeypatch):
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "cache"))
    folder = gpu.engine_folder("k" * 32)
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert gpu.engine_folder("k" * 32) == folder
    folder.chmod(0o777)
    with pytest.raises(DeviceError, match=f"chmod 700 {folder}"):
        gpu.engine_folder("k" * 32)


def test_a_cache_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConversionError, match="Set VISIONTOOL_CACHE"):
        gpu.engine_folder("k" * 32)


def test_a_batch_comes_back_as_from_the_session_itself(bound):
    for count in (1, 5, 8, 5):
        pixels = batch(count, seed=count)
        np.testing.assert_allclose(bound.run("logits", pixels), expected(pixels), atol=1e-6)
        np.testing.assert_allclose(bound.run("embedding", pixels), expected(pixels), atol=1e-6)


def test_an_answer_stays_when_the_buffers_are_used_again(bound):
    first, second = batch(4, seed=1), batch(4, seed=2)
    answer = bound.run("logits", first)
    bound.run("logits", second)
    bound.run("logits", second)
    np.testing.assert_allclose(answer, expected(first), atol=1e-6)


def test_rows_that_are_not_in_order_in_memory_arrive_in_order(bound):
    pixels = batch(3).transpose(0, 2, 1, 3)
    assert not pixels.flags.c_contiguous
    np.testing.assert_allclose(bound.run("logits", pixels), expected(pixels), atol=1e-6)
    pixels = batch(6)[::2]
    np.testing.assert_allclose(bound.run("logits", pixels), expected(pixels), atol=1e-6)


def test_a_short_batch_is_padded_and_what_was_added_is_dropped(color_model):
    session = Bindings(runtime.create_session(color_model, ["CPUExecutionProvider"]))
    bound = Bound([session], *bound_ports(session), "cpu", most=None, graph=False)
    for count, pad_to in ((8, 8), (3, 8), (3, None), (9, 8)):
        pixels = batch(count)
        answer = bound.run("logits", pixels, pad_to)
        assert answer.shape == (count, 3)
        np.testing.assert_allclose(answer, expected(pixels), atol=1e-6)
    assert session.sizes == [8, 8, 3, 9]


def test_more_than_an_engine_takes_is_run_in_parts(color_model):
    session = Bindings(runtime.create_session(color_model, ["CPUExecutionProvider"]))
    bound = Bound([session], *bound_ports(session), "cpu", most=4, graph=False)
    pixels = batch(10)
    np.testing.assert_allclose(bound.run("logits", pixels, 10), expected(pixels), atol=1e-6)
    assert session.sizes == [4, 4, 4]
    assert bound.run("logits", pixels[:2]).shape == (2, 3)
    assert session.sizes[3:] == [2]


def test_buffers_of_sizes_that_do_not_come_again_are_given_back(bound):
    lane = bound._free.get()
    for count in range(1, 30):
        assert lane.run("logits", batch(count), count).shape == (count, 3)
        assert len(lane._buffers) <= 8
    assert [shape[0] for _, shape in lane._buffers] == [*range(22, 30)]


def test_threads_get_their_own_answers(bound):
    assert bound.at_once == 2
    wrong = []

    def work(seed):
        for turn in range(20):
            pixels = batch(1 + (seed + turn) % 5, seed * 100 + turn)
            if not np.allclose(bound.run("logits", pixels), expected(pixels), atol=1e-6):
                wrong.append((seed, turn))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def unsized_model(path: Path) -> Path:
    """The color model, whose outputs do not say how wide they are."""
    graph = color_graph()
    for output in graph.graph.output:
        output.type.tensor_type.shape.dim[1].dim_param = "C"
    return save_model(graph, path)


def test_an_output_of_unknown_width_is_given_too(tmp_path):
    session = runtime.create_session(unsized_model(tmp_path / "unsized.onnx"), ["CPUExecutionProvider"])
    taken, given = bound_ports(session)
    given = [port._replace(shape=["N", None]) for port in given]
    bound = Bound([session], taken, given, "cpu", most=None, graph=False)
    np.testing.assert_allclose(bound.run("logits", batch(3)), expected(batch(3)), atol=1e-6)
    with pytest.raises(ModelError, match="a CUDA graph needs outputs of a known size, and 'logits' has"):
        Bound([session], taken, given, "cpu", most=None, graph=True).run("logits", batch(3))


def test_each_size_that_is_recorded_has_a_number_of_its_own(color_model):
    """Of a CUDA graph: the number in the options of a run; 0 would be that of runs without any."""
    session = runtime.create_session(color_model, ["CPUExecutionProvider"])
    bound = Bound([session], *bound_ports(session), "cpu", most=None, graph=True)
    for count in (*range(1, 11), 1, 5):
        bound.run("logits", batch(count))
    kept = bound._free.get()._buffers.values()
    numbers = sorted(int(buffers.run_options.get_run_config_entry("gpu_graph_id")) for buffers in kept)
    assert numbers == [*range(1, 11)]


def test_what_fails_in_a_run_is_said_and_the_session_is_free_again(bound):
    for _ in range(3):
        with pytest.raises(ModelError, match="onnxruntime cannot run the model"):
            bound.run("logits", np.zeros((2, 9, 9, 3), np.uint8))
    assert bound.run("logits", batch(2)).shape == (2, 3)


def test_floats_of_16_bits_come_back_as_they_are(tmp_path):
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    shape = ["N", 4]
    graph = helper.make_graph(
        nodes,
        "halves",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, shape)],
    )
    path = tmp_path / "halves.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    session = runtime.create_session(path, ["CPUExecutionProvider"])
    bound = Bound([session], *bound_ports(session), "cpu", most=None, graph=False)
    values = np.arange(8, dtype=np.float16).reshape(2, 4)
    answer = bound.run("y", values, 5)
    assert answer.dtype == np.float16
    np.testing.assert_array_equal(answer, values)


@pytest.fixture
def on_gpu(color_model):
    """A classifier that takes the way to a GPU, with the CPU at its end; and its session."""
    opened = runtime.open_model(color_model, device="cpu")
    session = Bindings(opened.session)
    bound = Bound([session], opened.inputs[0], opened.outputs, "cpu", most=None, graph=False)
    opened = opened._replace(device="cuda:0", provider="cuda", bound=bound)
    return Classifier(opened, COLOR_SPEC), session


def test_every_batch_of_many_pictures_has_the_size_of_the_first(on_gpu, tmp_path):
    classifier, session = on_gpu
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


def test_a_gpu_gets_larger_batches_and_one_run_for_each_session(on_gpu, color_model, bound):
    classifier, _ = on_gpu
    assert (classifier.batch_size(None), classifier.batch_size(5), classifier.runs_at_once) == (64, 5, 1)
    opened = runtime.open_model(color_model)._replace(device="cuda:0", provider="cuda", bound=bound)
    assert Classifier(opened, COLOR_SPEC).runs_at_once == 2


def test_a_fixed_batch_is_never_padded_further(tmp_path):
    graph = color_graph()
    for port in (*graph.graph.input, *graph.graph.output):
        port.type.tensor_type.shape.dim[0].dim_value = 4
    path = save_model(graph, tmp_path / "fixed.onnx", COLOR_SPEC.to_metadata())
    opened = runtime.open_model(path, device="cpu")
    bound = Bound([opened.session], opened.inputs[0], opened.outputs, "cpu", most=None, graph=False)
    classifier = Classifier(opened._replace(device="cuda:0", provider="cuda", bound=bound), COLOR_SPEC)
    for count in (2, 4, 9):
        np.testing.assert_allclose(classifier.run(batch(count), "logits", pad_to=8), expected(batch(count)), atol=1e-6)


def test_the_driver_is_asked_by_its_own_numbers(monkeypatch):
    """Two libraries that number the GPUs differently are matched by the place on the bus."""
    cuda, nvml = FakeCuda(), FakeNvml()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: cuda if "cuda" in name else nvml)
    nvidia._nvml.cache_clear()
    try:
        found = nvidia.gpus()
        version = nvidia.driver_version()
    finally:
        nvidia._nvml.cache_clear()
    assert found == (
        nvidia.Gpu("NVIDIA H200", "9.0", 150 * 2**30, 7 * 2**30),
        nvidia.Gpu("NVIDIA A30", "8.6", 24 * 2**30, 3 * 2**30),
    )
    assert version == "580.95.05"
    cuda.code = 100  # CUDA_ERROR_NO_DEVICE
    assert nvidia.gpus() == ()


class FakeCuda:
    """The driver's functions as Python has them: each fills what it is given, and returns 0."""

    code = 0
    names, memory, buses = (b"NVIDIA H200", b"NVIDIA A30"), (150, 24), (b"0000:01:00.0", b"0000:02:00.0")

    def cuInit(self, flags):
        return self.code

    def cuDeviceGetCount(self, count):
        count._obj.value = 2
        return 0

    def cuDeviceGet(self, device, number):
        device._obj.value = number
        return 0

    def cuDeviceGetName(self, text, length, device):
        text.value = self.names[device.value]
        return 0

    def cuDeviceTotalMem_v2(self, total, device):
        total._obj.value = self.memory[device.value] * 2**30
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = {75: (9, 8), 76: (0, 6)}[attribute][device.value]
        return 0

    def cuDeviceGetPCIBusId(self, text, length, device):
        text.value = self.buses[device.value]
        return 0


class FakeNvml:
    """The management library, which counts the GPUs the other way around."""

    def nvmlInit_v2(self):
        return 0

    def nvmlSystemGetDriverVersion(self, text, length):
        text.value = b"580.95.05"
        return 0

    def nvmlDeviceGetHandleByPciBusId_v2(self, bus, handle):
        handle._obj.value = {b"0000:02:00.0": 1, b"0000:01:00.0": 2}[bus]
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle, memory):
        memory._obj.free = {1: 3, 2: 7}[handle.value] * 2**30
        return 0


@pytest.mark.slow
def test_every_option_is_one_that_the_installed_onnxruntime_knows(color_model, monkeypatch):
    """An unknown option would leave the provider out in silence."""
    if not {"cuda", "tensorrt"} <= set(providers.built_in()) or os.name == "nt":
        pytest.skip("this onnxruntime has no CUDA")
    monkeypatch.setattr(nvidia, "gpus", lambda: (H200,))
    chain = gpu.chain("tensorrt", 0, color_model, Scan({}, {}), GpuOptions(), many=True)
    for (_, options), name in zip(chain, ("tensorrt", "cuda"), strict=True):
        with (
            open(CAPI / f"libonnxruntime_providers_{name}.so", "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as library,
        ):
            unknown = [option for option in options if library.find(option.encode()) < 0]
        assert unknown == []
