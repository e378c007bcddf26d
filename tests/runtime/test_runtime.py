"""Which provider runs a network: what was asked for, or an error that names what is missing."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import BLUE, COLOR_SPEC, RED, ROOT, color_graph, save_model, save_picture

from visiontool import Classifier, DeviceError, ModelError, UsageError, runtime
from visiontool.cli.pull import say_how
from visiontool.runtime import installation, providers

BUILT_IN = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
WHY_NO_LIBRARY = providers._why_no_library.__wrapped__  # without its cache
GPU = installation.Gpu("NVIDIA H200", "9.0", 150 * 2**30, None)


@pytest.fixture
def with_driver(monkeypatch):
    """As on a machine with a driver and one GPU, an onnxruntime for it, and libraries that load."""
    monkeypatch.setattr(providers.onnxruntime, "get_available_providers", lambda: BUILT_IN)
    for module in (runtime, providers):
        monkeypatch.setattr(module, "gpu_in_sight", lambda: True)
    monkeypatch.setattr(providers, "_why_no_library", lambda provider: None)
    monkeypatch.setattr(installation, "gpus", lambda: (GPU,))


def refusal(path: Path, **options: str) -> list[str]:
    with pytest.raises(DeviceError) as raised:
        runtime.open_model(path, **options)
    return str(raised.value).splitlines()


@pytest.mark.parametrize("options", [{}, {"device": "cpu"}, {"provider": "cpu"}, {"device": "cpu", "provider": "cpu"}])
def test_without_a_gpu_everything_runs_on_the_cpu(color_model, monkeypatch, options):
    monkeypatch.setattr(runtime, "gpu_in_sight", lambda: False)
    opened = runtime.open_model(color_model, **options)
    assert (opened.device, opened.provider, opened.bound) == ("cpu", "cpu", None)
    shares = runtime.assignment(opened)
    assert [*shares] == ["cpu"]
    assert 2 <= shares["cpu"] <= 4  # of the four nodes that it was written with, some may have been merged


@pytest.mark.parametrize(
    ("device", "provider", "words"),
    [
        ("cpu", "cuda", "device 'cpu' and provider 'cuda' contradict each other"),
        ("cuda:1", "cpu", "contradict"),
        ("cuda", "openvino", "contradict"),
        ("auto", "tensort", "provider 'tensort' is not known; the installed onnxruntime has cpu"),
        ("auto", "CUDAExecutionProvider", "is not known"),
        ("gpu", "cuda", "device 'gpu' is not known"),
    ],
)
def test_contradictions_are_refused_before_anything_is_opened(device, provider, words):
    with pytest.raises(UsageError, match=words):
        runtime.open_model(Path("no such file"), device=device, provider=provider)


def test_a_provider_without_its_gpu_is_an_error_and_never_the_cpu(color_model, monkeypatch):
    monkeypatch.setattr(providers.onnxruntime, "get_available_providers", lambda: BUILT_IN)
    monkeypatch.setattr(providers, "gpu_in_sight", lambda: False)
    for provider in ("cuda", "tensorrt"):
        assert refusal(color_model, provider=provider) == [
            f"provider '{provider}' cannot be used: no NVIDIA GPU or driver was found",
            "Use another --provider, or leave it out to take what works.",
        ]


@pytest.mark.parametrize(
    ("provider", "package"),
    [("openvino", "onnxruntime-openvino"), ("directml", "onnxruntime-directml"), ("cuda", '"visiontool[gpu]"')],
)
def test_a_provider_of_another_wheel_is_refused_with_its_wheel(color_model, monkeypatch, provider, package):
    monkeypatch.setattr(providers.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(installation, "wheels", lambda: ("onnxruntime 1.31.1",))
    lines = refusal(color_model, provider=provider)
    assert "the installed onnxruntime (onnxruntime 1.31.1) is built without it" in lines[0]
    assert "uninstall onnxruntime, then" in lines[1]
    assert lines[1].endswith(f"install {package}")
    assert len(lines) == 3


@pytest.mark.skipif(runtime.gpu_in_sight(), reason="a GPU's libraries may load")
def test_a_missing_library_is_named_with_what_brings_it(color_model, monkeypatch):
    """CUDA's libraries are really looked for, and are not there."""
    if "cuda" not in providers.built_in() or sys.platform != "linux":
        pytest.skip("this onnxruntime has no CUDA")
    monkeypatch.setattr(providers, "gpu_in_sight", lambda: True)
    lines = refusal(color_model, provider="cuda")
    assert re.match(r"provider 'cuda' cannot be used: lib\w+\.so\.\d+: cannot open shared object file", lines[0])
    assert lines[1].endswith('install "visiontool[gpu]"') or "driver" in lines[1]
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("provider", "library", "words"),
    [
        ("cuda", "libcuda.so.1", "by --gpus all"),  # the driver's own comes by no package
        ("tensorrt", "libnvinfer.so.10", "TensorRT 10 comes by: .*tensorrt-cu.*<11"),
    ],
)
def test_a_library_that_does_not_load(color_model, with_driver, monkeypatch, provider, library, words):
    error = f"{library}: cannot open shared object file: No such file or directory"
    monkeypatch.setattr(providers, "_why_no_library", WHY_NO_LIBRARY)
    monkeypatch.setattr(providers.onnxruntime, "preload_dlls", lambda: print("noise"))
    monkeypatch.setattr(providers, "_load", lambda name: error if name == provider else None)
    monkeypatch.setattr(providers, "create_session", lambda *_, **__: pytest.fail("a session was made"))
    lines = refusal(color_model, provider=provider)
    assert lines[0] == f"provider '{provider}' cannot be used: {error}."
    assert re.search(words, lines[1])


def test_a_gpu_that_is_not_there(color_model, with_driver, monkeypatch):
    lines = refusal(color_model, device="cuda:1")
    assert lines[0] == "device 'cuda:1' cannot be used: the driver shows 1 GPU here, counted from 0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(installation, "gpus", lambda: ())
    assert "shows 0 GPUs here, counted from 0 (CUDA_VISIBLE_DEVICES is '')" in refusal(color_model, device="cuda")[0]


def test_a_silent_fallback_to_the_cpu_is_an_error_unless_any_device_will_do(color_model, with_driver):
    """The libraries seem to load and do not: onnxruntime takes the CPU and says nothing."""
    if "CUDAExecutionProvider" not in providers.onnxruntime.get_all_providers():
        pytest.skip("this onnxruntime does not know CUDA")
    assert "'cuda' cannot be used" in refusal(color_model, provider="cuda")[0]
    assert runtime.open_model(color_model).device == "cpu"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"ir_version": 99},
            r"has IR version 99; onnxruntime \S+ reads up to (\d+)\.\n"
            r"Update it: .*pip.* install --upgrade onnxruntime\S*\nOr export .* with IR version \1 or lower\.",
        ),
        ({"opset": 99}, r"has opset 99; .* up to (\d+)\.\nUpdate it: .*\nOr export .* with opset \1 or lower\."),
        (
            {"operator": "Nope"},
            r"onnxruntime cannot open it: This is an invalid model\. .* No Op registered for Nope .*",
        ),
    ],
)
@pytest.mark.parametrize("options", [{"device": "cpu"}, {"provider": "cuda"}])
def test_a_file_that_onnxruntime_refuses_on_any_provider(tmp_path, with_driver, changes, words, options):
    graph = color_graph()
    graph.ir_version = changes.get("ir_version", 10)
    graph.opset_import[0].version = changes.get("opset", 20)
    graph.graph.node[1].op_type = changes.get("operator", "Div")
    folder = tmp_path / ("a" * 100) / ("b" * 100)
    folder.mkdir(parents=True)
    path = save_model(graph, folder / "model.onnx", COLOR_SPEC.to_metadata())
    with pytest.raises(ModelError) as raised:
        runtime.open_model(path, **options)
    assert re.fullmatch(re.escape(f"{path}: ") + words, str(raised.value)), str(raised.value)


class FakeCudaSession:
    """A session that claims that CUDA runs `nodes` of its nodes; the CPU does."""

    def __init__(self, path, nodes):
        self.session = runtime.create_session(path, ["CPUExecutionProvider"])
        self.nodes = {"CUDAExecutionProvider": nodes, "CPUExecutionProvider": 1}

    def __getattr__(self, name):
        return getattr(self.session, name)

    def get_providers(self):
        return [*self.nodes]

    def get_provider_graph_assignment_info(self):
        return [SimpleNamespace(ep_name=name, get_nodes=lambda n=n: [None] * n) for name, n in self.nodes.items()]


@pytest.fixture
def cuda_runs(monkeypatch, with_driver):
    """Has CUDA run so many nodes; gives the list of sessions' arguments."""

    def begin(nodes):
        calls = []
        monkeypatch.setattr(
            providers,
            "create_session",
            lambda path, chain, **options: calls.append((chain, options)) or FakeCudaSession(path, nodes),
        )
        return calls

    return begin


def test_a_provider_that_runs_no_node_is_an_error(color_model, cuda_runs):
    cuda_runs(nodes=0)
    assert "it runs none of the nodes of this network" in refusal(color_model, provider="cuda")[0]


@pytest.mark.parametrize("options", [{}, {"device": "cuda"}, {"device": "cuda:0"}, {"provider": "cuda"}])
def test_a_gpu_that_works_is_taken(color_model, cuda_runs, options):
    calls = cuda_runs(nodes=3)
    opened = runtime.open_model(color_model, threads=1, **options)
    assert (opened.device, opened.provider, opened.passed_over) == ("cuda:0", "cuda", None)
    assert opened.bound is not None
    [([(name, provider_options), last], session_options)] = calls
    assert (name, last) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert (provider_options["use_tf32"], session_options) == ("0", {"threads": 1, "record": True})
    assert runtime.assignment(opened) == {"cuda": 3, "cpu": 1}


def test_verbose_tells_what_is_left_to_the_cpu(color_model, cuda_runs, capsys):
    cuda_runs(nodes=1234)
    say_how(Classifier.load(color_model, device="cuda"), None)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Runs on cuda:0: 1,234 of 1,235 nodes by the provider cuda, 1 by cpu."
    assert lines[1].startswith("NVIDIA H200, 150 GiB, driver ")
    assert lines[2] == "1 run at once; up to 64 pictures in a run."


def test_verbose_tells_on_stderr_what_runs_which_share(run, color_model):
    picture = ROOT / "samples" / "orange.jpg"
    plain = run("predict", picture, "-m", color_model)
    verbose = run("predict", picture, "-m", color_model, "-v", "--provider", "cpu")
    assert (verbose.code, verbose.out) == (0, plain.out)
    more = verbose.err.removeprefix(plain.err).splitlines()
    assert re.fullmatch("Runs on cpu: all . nodes by the provider cpu.", more[0])
    assert "1 run at once, each with as many threads as cores; up to 8 pictures in a run." in more
    assert "onnxruntime" in more[-1]
    ran = run("predict", picture, "-m", color_model, "--device", "cpu", "--provider", "cuda")
    assert (ran.code, ran.out, "contradict" in ran.err) == (2, "", True)


def test_verbose_tells_why_a_gpu_is_not_taken(run, color_model, with_driver, monkeypatch):
    reason = "libcublasLt.so.13: cannot open shared object file. CUDA needs packages that are not installed.\nInstall"
    monkeypatch.setattr(providers, "_why_no_library", lambda provider: reason)
    picture = ROOT / "samples" / "orange.jpg"
    ran = run("predict", picture, "-m", color_model, "-v")
    assert (ran.code, ran.out.count("{")) == (0, 4)  # the row, and three classes
    lines = ran.err.splitlines()
    assert lines[1] == 'The GPU cannot be used; "visiontool doctor" says why.'
    assert lines[3] == (
        "Not on the GPU: provider 'cuda' cannot be used: libcublasLt.so.13: cannot open shared object file."
        " CUDA needs packages that are not installed."
    )
    assert run("predict", picture, "-m", color_model, "-q").err == ""


def test_the_way_to_the_cpu_imports_nothing_of_the_way_to_a_gpu():
    code = (
        "import sys; from visiontool.cli import main; code = main(['predict', 'samples/orange.jpg', '-q'])\n"
        "print([name for name in sys.modules if name.startswith('visiontool.runtime.')])"
    )
    if runtime.gpu_in_sight():
        pytest.skip("here the way may lead to a GPU")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ran.stdout.splitlines()[-1] == "['visiontool.runtime.session']"


def test_finetuning_takes_a_provider_too(run, color_model, tmp_path):
    for label, color in (("red", RED), ("blue", BLUE)):
        for number in range(5):
            save_picture(tmp_path / "data" / label / f"{number}.png", color, (8 + number, 8))
    options = ("-m", color_model, "--provider", "cpu", "--views", 1, "--no-mirror", "-v", "-o", tmp_path / "run")
    ran = run("finetune", tmp_path / "data", *options)
    assert ran.code == 0, ran.err
    assert " nodes by the provider cpu." in ran.err
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["provider"] == "cpu"
