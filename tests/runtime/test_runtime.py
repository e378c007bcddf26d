"""Which provider runs a network: what was asked for, or an error that says what is missing."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import BLUE, COLOR_SPEC, RED, ROOT, color_graph, save_model, save_picture

from visiontool import Classifier, DeviceError, ModelError, UsageError, runtime
from visiontool.cli.pull import say_how
from visiontool.runtime import nvidia, packages, providers

BUILT_IN = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
WHY_NO_LIBRARY = providers._why_no_library.__wrapped__  # without what it found before
GPU = nvidia.Gpu("NVIDIA H200", "9.0", 150 * 2**30, None)


@pytest.fixture
def with_driver(monkeypatch):
    """As on a machine with a driver and one GPU, an onnxruntime for it, and libraries that load."""
    monkeypatch.setattr(providers.onnxruntime, "get_available_providers", lambda: BUILT_IN)
    for module in (runtime, providers):
        monkeypatch.setattr(module, "gpu_in_sight", lambda: True)
    monkeypatch.setattr(providers, "_why_no_library", lambda provider: None)
    monkeypatch.setattr(nvidia, "gpus", lambda: (GPU,))


def refusal(path: Path, **wanted: str) -> list[str]:
    with pytest.raises(DeviceError) as raised:
        runtime.open_model(path, **wanted)
    return str(raised.value).splitlines()


@pytest.mark.parametrize("wanted", [{}, {"device": "cpu"}, {"provider": "cpu"}, {"device": "cpu", "provider": "cpu"}])
def test_without_a_gpu_everything_runs_on_the_cpu(color_model, monkeypatch, wanted):
    monkeypatch.setattr(runtime, "gpu_in_sight", lambda: False)
    opened = runtime.open_model(color_model, **wanted)
    assert (opened.device, opened.provider, opened.bound) == ("cpu", "cpu", None)
    shares = runtime.assignment(opened)
    assert [*shares] == ["cpu"]
    assert 2 <= shares["cpu"] <= 4  # of the four nodes that it was written with, some may have been merged


@pytest.mark.parametrize(
    ("device", "provider", "said"),
    [
        ("cpu", "cuda", "device 'cpu' and provider 'cuda' contradict each other"),
        ("cpu", "tensorrt", "contradict"),
        ("cuda", "cpu", "contradict"),
        ("cuda:1", "cpu", "contradict"),
        ("cuda", "openvino", "contradict"),
        ("cpu", "openvino", "contradict"),
        ("auto", "tensort", "provider 'tensort' is not known; the installed onnxruntime has cpu"),
        ("auto", "CUDAExecutionProvider", "is not known"),
        ("gpu", "cuda", "device 'gpu' is not known"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_opened(device, provider, said):
    with pytest.raises(UsageError, match=said):
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
def test_a_provider_of_another_wheel_is_told_with_the_wheel(color_model, monkeypatch, provider, package):
    monkeypatch.setattr(providers.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(packages, "wheels", lambda: ("onnxruntime 1.31.1",))
    said = refusal(color_model, provider=provider)
    assert "the installed onnxruntime (onnxruntime 1.31.1) is built without it" in said[0]
    assert "uninstall onnxruntime, then" in said[1]
    assert said[1].endswith(f"install {package}")
    assert len(said) == 3


@pytest.mark.skipif(runtime.gpu_in_sight(), reason="a GPU's libraries may load")
def test_a_library_that_is_missing_is_named_with_what_brings_it(color_model, monkeypatch):
    """CUDA's libraries are really looked for, and are not there."""
    if "cuda" not in providers.built_in() or sys.platform != "linux":
        pytest.skip("this onnxruntime has no CUDA")
    monkeypatch.setattr(providers, "gpu_in_sight", lambda: True)
    said = refusal(color_model, provider="cuda")
    assert re.match(r"provider 'cuda' cannot be used: lib\w+\.so\.\d+: cannot open shared object file", said[0])
    assert said[1].endswith('install "visiontool[gpu]"') or "driver" in said[1]
    assert len(said) == 3


def test_the_drivers_own_library_comes_by_no_package(color_model, with_driver, monkeypatch):
    monkeypatch.setattr(providers, "_why_no_library", WHY_NO_LIBRARY)
    monkeypatch.setattr(providers.onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(providers, "_load", lambda name: "libcuda.so.1: cannot open shared object file")
    said = refusal(color_model, provider="cuda")
    assert "--gpus all" in said[1]
    assert "pip" not in "".join(said)


def test_tensorrt_is_never_tried_before_its_library_loads(color_model, with_driver, monkeypatch):
    monkeypatch.setattr(providers, "_why_no_library", WHY_NO_LIBRARY)
    monkeypatch.setattr(providers.onnxruntime, "preload_dlls", lambda: print("noise"))
    missing = "libnvinfer.so.10: cannot open shared object file: No such file or directory"
    monkeypatch.setattr(providers, "_load", lambda name: missing if name == "tensorrt" else None)
    monkeypatch.setattr(providers, "create_session", lambda *_, **__: pytest.fail("a session was made"))
    said = refusal(color_model, provider="tensorrt")
    assert said[0] == f"provider 'tensorrt' cannot be used: {missing}."
    assert said[1].startswith("TensorRT 10 comes by: ")
    assert said[1].endswith('<11"')
    assert '"tensorrt-cu' in said[1]
    assert providers.why_not("cuda") is None


def test_a_gpu_that_is_not_there_is_told_with_how_many_there_are(color_model, with_driver, monkeypatch):
    said = refusal(color_model, device="cuda:1")
    assert said[0] == "device 'cuda:1' cannot be used: the driver shows 1 GPU here, counted from 0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(nvidia, "gpus", lambda: ())
    assert "shows 0 GPUs here, counted from 0 (CUDA_VISIBLE_DEVICES is '')" in refusal(color_model, device="cuda")[0]


def test_a_gpu_that_onnxruntime_leaves_in_silence_is_an_error_unless_any_device_will_do(color_model, with_driver):
    """The libraries are said to load and do not: onnxruntime takes the CPU and says nothing."""
    if "CUDAExecutionProvider" not in providers.onnxruntime.get_all_providers():
        pytest.skip("this onnxruntime does not know CUDA")
    assert "'cuda' cannot be used" in refusal(color_model, provider="cuda")[0]
    assert runtime.open_model(color_model).device == "cpu"


@pytest.mark.parametrize(
    ("changes", "said"),
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
        (
            {"operator": "x" * 999 + "\nend"},
            r"onnxruntime cannot open it: This is .{92} \.\.\. x+ end with domain_version of 20",
        ),
    ],
)
def test_why_onnxruntime_refuses_a_file_is_not_cut_off(tmp_path, changes, said):
    graph = color_graph()
    graph.ir_version = changes.get("ir_version", 10)
    graph.opset_import[0].version = changes.get("opset", 20)
    graph.graph.node[1].op_type = changes.get("operator", "Div")
    folder = tmp_path / ("a" * 100) / ("b" * 100)
    folder.mkdir(parents=True)
    path = save_model(graph, folder / "model.onnx", COLOR_SPEC.to_metadata())
    with pytest.raises(ModelError) as raised:
        runtime.open_model(path, device="cpu")
    assert re.fullmatch(re.escape(f"{path}: ") + said, str(raised.value)), str(raised.value)


def test_a_broken_file_is_the_files_fault_on_every_provider(tmp_path, with_driver):
    graph = color_graph()
    graph.graph.node[1].op_type = "NoSuchOperator"
    path = save_model(graph, tmp_path / "broken.onnx", COLOR_SPEC.to_metadata())
    for wanted in ({}, {"provider": "cuda"}, {"device": "cuda"}):
        with pytest.raises(ModelError, match="onnxruntime cannot open it"):
            runtime.open_model(path, **wanted)


class Elsewhere:
    """A session that says of itself that another provider runs some of its nodes; the CPU does."""

    def __init__(self, path, provider, nodes):
        self.session = runtime.create_session(path, ["CPUExecutionProvider"])
        self.provider = provider
        self.nodes = {provider: nodes, "CPUExecutionProvider": 1}

    def __getattr__(self, name):
        return getattr(self.session, name)

    def get_providers(self):
        return [self.provider, "CPUExecutionProvider"]

    def get_provider_graph_assignment_info(self):
        return [SimpleNamespace(ep_name=name, get_nodes=lambda n=n: [None] * n) for name, n in self.nodes.items()]


@pytest.fixture
def opened_with(monkeypatch, with_driver):
    """What sessions are opened with, by a machine whose CUDA gets as many nodes as are said."""
    calls = []

    def begin(nodes):
        def create(path, chain, **how):
            calls.append((chain, how))
            return Elsewhere(path, "CUDAExecutionProvider", nodes)

        monkeypatch.setattr(providers, "create_session", create)
        return calls

    return begin


def test_a_provider_that_runs_no_node_is_an_error(color_model, opened_with):
    opened_with(nodes=0)
    assert "it runs none of the nodes of this network" in refusal(color_model, provider="cuda")[0]


@pytest.mark.parametrize("wanted", [{}, {"device": "cuda"}, {"device": "cuda:0"}, {"provider": "cuda"}])
def test_a_gpu_that_works_is_taken(color_model, opened_with, wanted):
    calls = opened_with(nodes=3)
    opened = runtime.open_model(color_model, threads=1, **wanted)
    assert (opened.device, opened.provider, opened.passed_over) == ("cuda:0", "cuda", None)
    assert opened.bound is not None
    [([(name, options), last], how)] = calls
    assert (name, last) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert (options["use_tf32"], how) == ("0", {"threads": 1, "record": True})
    assert runtime.assignment(opened) == {"cuda": 3, "cpu": 1}


def test_verbose_says_what_is_left_to_the_cpu(color_model, opened_with, capsys):
    opened_with(nodes=1234)
    say_how(Classifier.load(color_model, device="cuda"), None)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "Runs on cuda:0: 1,234 of 1,235 nodes by the provider cuda, 1 by cpu."
    assert said[1].startswith("NVIDIA H200, 150 GiB, driver ")
    assert said[2] == "1 run at once; up to 64 pictures in a run."


def test_pictures_of_any_size_go_without_buffers_that_are_kept(tmp_path, opened_with):
    opened_with(nodes=3)
    graph = color_graph()
    for place in (1, 2):
        graph.graph.input[0].type.tensor_type.shape.dim[place].dim_param = "side"
    path = save_model(graph, tmp_path / "any.onnx")
    assert runtime.open_model(path, device="cuda").bound is None


def test_a_classifier_says_what_runs_it(color_model):
    classifier = Classifier.load(color_model, provider="cpu", threads=1)
    assert (classifier.device, classifier.provider, classifier.threads) == ("cpu", "cpu", 1)
    assert [*classifier.assignment()] == ["cpu"]
    again = Classifier.load(color_model, device=classifier.device, provider=classifier.provider)
    assert again.provider == "cpu"


def test_verbose_says_on_stderr_what_runs_which_share(run, color_model):
    picture = ROOT / "samples" / "orange.jpg"
    plain = run("predict", picture, "-m", color_model)
    verbose = run("predict", picture, "-m", color_model, "-v", "--provider", "cpu")
    assert (verbose.code, verbose.out) == (0, plain.out)
    more = verbose.err.removeprefix(plain.err).splitlines()
    assert more[0].startswith("Runs on cpu: all ")
    assert more[0].endswith(" nodes by the provider cpu.")
    assert "1 run at once, each with as many threads as cores; up to 8 pictures in a run." in more
    assert "onnxruntime" in more[-1]
    ran = run("predict", picture, "-m", color_model, "-q", "-v")
    assert (ran.code, ran.out) == (2, "")
    assert "contradict" in ran.err


def test_a_gpu_that_is_not_taken_is_told(run, color_model, with_driver, monkeypatch):
    reason = "libcublasLt.so.13: cannot open shared object file. CUDA needs packages that are not installed.\nInstall"
    monkeypatch.setattr(providers, "_why_no_library", lambda provider: reason)
    picture = ROOT / "samples" / "orange.jpg"
    ran = run("predict", picture, "-m", color_model, "-v")
    assert (ran.code, ran.out.count("{")) == (0, 4)  # the row, and three classes
    said = ran.err.splitlines()
    assert said[1] == 'The GPU cannot be used; "visiontool doctor" says why.'
    assert said[3] == (
        "Not on the GPU: provider 'cuda' cannot be used: libcublasLt.so.13: cannot open shared object file."
        " CUDA needs packages that are not installed."
    )
    assert run("predict", picture, "-m", color_model, "-q").err == ""
    assert Classifier.load(color_model, device="cpu").passed_over is None


def test_the_way_to_the_cpu_imports_nothing_of_the_way_to_a_gpu():
    code = (
        "import sys; from visiontool.cli import main; code = main(['predict', 'samples/orange.jpg', '-q'])\n"
        "print([name for name in sys.modules if name.startswith('visiontool.runtime.')])"
    )
    if runtime.gpu_in_sight():
        pytest.skip("here the way may lead to a GPU")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ran.stdout.splitlines()[-1] == "[]"


def test_the_commands_of_the_page_that_need_no_gpu_run_as_written(run, tmp_path, monkeypatch):
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    lines = [line.split() for line in page.splitlines() if re.match(r"visiontool (doctor|predict)", line)]
    shutil.copy(ROOT / "samples" / "orange.jpg", tmp_path / "img.jpg")
    monkeypatch.chdir(tmp_path)
    here = [line for line in lines if "tensorrt" not in line]
    assert len(here) == 4
    for _, *arguments in here:
        assert run(*arguments).code == 0, arguments


def test_finetuning_runs_by_the_provider_too_and_its_settings_say_so(run, color_model, tmp_path):
    for label, color in (("red", RED), ("blue", BLUE)):
        for number in range(5):
            save_picture(tmp_path / "data" / label / f"{number}.png", color, (8 + number, 8))
    arguments = ("finetune", tmp_path / "data", "-m", color_model, "--provider", "cpu", "--views", 1, "--no-mirror")
    ran = run(*arguments, "-v", "--dry-run")
    assert ran.code == 0
    assert " nodes by the provider cpu." in ran.err
    ran = run(*arguments, "-o", tmp_path / "run", "-q")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["provider"] == "cpu"
    ran = run("finetune", "--from", tmp_path / "run", "--provider", "tensorrt", "--device", "cpu")
    assert ran.code == 2  # what is typed takes the place of what the run had
    assert "device 'cpu' and provider 'tensorrt'" in ran.err


def test_a_contradiction_is_a_usage_error_on_the_command_line(run, color_model):
    ran = run("predict", "samples", "-m", color_model, "--device", "cpu", "--provider", "cuda")
    assert (ran.code, ran.out) == (2, "")
    ran = run("finetune", "samples", "-m", color_model, "--device", "cpu", "--provider", "cuda")
    assert (ran.code, ran.out) == (2, "")
    assert "contradict" in ran.err
