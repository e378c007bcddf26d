"""`visiontool predict -m NAME` and `models pull NAME` with a network that is not here yet, from a local server."""

import json
import os
import re
import subprocess
import sys

import hub_server
import pytest
from conftest import ROOT, SHARED, run_on_terminal, save_picture
from PIL import Image
from random_weights import random_weights
from test_imports import TORCH, run_blocked

timm = pytest.importorskip("timm")
torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

pytestmark = pytest.mark.slow

NAME = "test_resnet.r160_in1k"  # timm's smallest


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server with random weights of one small network, for the processes that a test starts."""
    torch.manual_seed(0)
    weights = safetensors_torch.save(timm.create_model(NAME).state_dict())
    for name, folder in (("VISIONTOOL_CACHE", "cache"), ("TORCH_HOME", "torch"), ("HF_HOME", "hf")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DOWNLOAD_TIMEOUT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with hub_server.running() as hub:
        hub.add_to_hub(f"timm/{NAME}", "model.safetensors", weights)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def visiontool(*arguments):
    command = [sys.executable, "-m", "visiontool", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_predict_gets_a_network_once_and_then_needs_neither_torch_nor_network(hub, tmp_path):
    red = save_picture(tmp_path / "red.png", (255, 0, 0), (64, 64))
    first = visiontool("predict", red, "-m", "test_resnet")
    assert first.returncode == 0, first.stderr
    begun, ended = first.stderr.splitlines()[:2]
    assert begun == f"{NAME} is not on this machine yet: getting it, once."
    assert re.fullmatch(rf"{NAME} is ready: [\d.]+ MB; .*", ended)
    asked = len(hub.requests())
    second = run_blocked((*TORCH, "onnx", "huggingface_hub"), "predict", red, "-m", "test_resnet")
    assert second.returncode == 0, second.stderr
    assert second.stdout == first.stdout
    assert json.loads(first.stdout)["model"] == NAME
    assert len(hub.requests()) == asked


def test_a_classic_is_pulled_without_torch_and_answers_as_torch_does(hub, tmp_path):
    name = "mobilenetv2_050.lamb_in1k"
    model = random_weights(timm.create_model(name), torch.rand(2, 3, 224, 224))
    hub.add_to_hub(f"timm/{name}", "model.safetensors", safetensors_torch.save(model.state_dict()))
    orange = ROOT / "samples" / "orange.jpg"
    first = run_blocked(TORCH, "predict", orange, "-m", "mobilenetv2_050", "-k", "3")
    assert first.returncode == 0, first.stderr
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with torch.inference_mode(), Image.open(orange) as picture:
        values, indices = model(transform(picture)[None]).softmax(1)[0].topk(3)
    answers = json.loads(first.stdout)["predictions"]
    assert [answer["index"] for answer in answers] == indices.tolist()
    assert [answer["probability"] for answer in answers] == pytest.approx(values.tolist(), abs=1e-4)
    smaller = run_blocked(TORCH, "predict", orange, "-m", "mobilenetv2_050@160")
    assert (smaller.returncode, json.loads(smaller.stdout)["status"]) == (0, "ok")
    for wanted, options in (("vit_tiny_patch16_224", ["--img-size", "160"]), ("resnet26", [])):
        refused = run_blocked(TORCH, "models", "pull", wanted, *options)
        assert refused.returncode == 4
        assert "visiontool[train]" in refused.stderr
        assert "Without torch: the classics" in refused.stderr


def test_quiet_is_quiet_and_prints_the_path(hub, tmp_path):
    ran = visiontool("models", "pull", "test_resnet", "-q", "--img-size", 64)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.strip() == str(tmp_path / "cache" / "models" / f"{NAME}@64" / "model.onnx")
    ran = visiontool("models", "pull", f"{NAME}@64")
    assert ran.returncode == 0
    assert ran.stderr == ""  # nothing to do, nothing to say


def test_on_a_terminal_each_stage_has_a_bar(hub, tmp_path):
    code, text = run_on_terminal("models", "pull", "test_resnet")
    assert code == 0
    for words in ("Downloading", "Making the model file"):
        assert words in text
    assert "Traceback" not in text


def test_a_download_that_fails_names_the_address_and_the_ways_out(hub, tmp_path):
    red = save_picture(tmp_path / "red.png", (255, 0, 0))
    ran = visiontool("predict", red, "-m", "test_vit")
    assert (ran.returncode, ran.stdout) == (4, "")
    assert "hf-hub:timm/test_vit.r160_in1k cannot be downloaded" in ran.stderr
    assert "--weights" in ran.stderr


def test_weights_that_do_not_fit_are_refused_with_a_list(tmp_path, hub):
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "other.pth")
    ran = visiontool("models", "pull", "test_resnet", "--weights", tmp_path / "other.pth")
    assert ran.returncode == 4
    assert "missing" in ran.stderr
    assert "conv1.0.weight" in ran.stderr
    assert not hub.requests()


@pytest.mark.real
def test_real_weights_from_a_file_answer_as_their_model_does(shared, tmp_path, monkeypatch):
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "cache"))
    (weights,) = (SHARED / "weights" / "squeezenet1_1").glob("*.safetensors")
    orange = ROOT / "samples" / "orange.jpg"
    ran = visiontool("predict", orange, "-m", "squeezenet1_1", "--weights", weights, "--offline")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["predictions"][0]["label"] == "orange"
    again = run_blocked(TORCH, "predict", str(orange), "-m", "squeezenet1_1", "--weights", str(weights), "--offline")
    assert again.stdout == ran.stdout, again.stderr
    (folder,) = os.listdir(tmp_path / "cache" / "models")
    assert re.fullmatch(r"squeezenet1_1\.tv_in1k\+[0-9a-f]{12}", folder)
    assert visiontool("models", "path", folder).returncode == 0
