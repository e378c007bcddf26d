"""`visiontool doctor`: what it finds, what it says of faults, and its exit code."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import save_picture

from visiontool import DeviceError, runtime
from visiontool.cli import doctor
from visiontool.hub import resolve
from visiontool.runtime import installation, providers


def install(site, name, version, files):
    """A package as pip leaves it: its metadata, and the list of its files."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    for file in files:
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).touch()


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of packages with one wheel of onnxruntime, and another package whose name begins alike."""
    install(tmp_path, "onnxruntime-gpu", "1.31.1", ["onnxruntime/__init__.py", "onnxruntime/capi/a.py"])
    install(tmp_path, "onnxruntime-genai", "0.9.0", ["onnxruntime_genai/__init__.py"])
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path / "onnxruntime")]})
    find_spec = installation.find_spec
    monkeypatch.setattr(installation, "find_spec", lambda name: spec if name == "onnxruntime" else find_spec(name))
    return tmp_path


def test_predicting_works_here_and_the_exit_code_says_so(run):
    ran = run("doctor")
    assert ran.code == 0
    *_, last = ran.out.split("\npredict     ")
    assert last.startswith("works: tf_efficientnet_lite0.in1k says orange, 0.")
    assert all(len(line) <= 80 or " " not in line.strip() for line in ran.out.splitlines())
    assert "cpu: works" in ran.out


def test_json_has_the_same(run, tmp_path, monkeypatch):
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "mine"))
    save_picture(tmp_path / "mine" / "models" / "some.png", (1, 2, 3))
    facts = json.loads(run("doctor", "--json").out)
    assert facts["schema"] == 1
    assert facts["providers"]["cpu"] is None
    assert facts["prediction"]["works"] is True
    size = (tmp_path / "mine" / "models" / "some.png").stat().st_size
    assert facts["caches"]["models"] == {"path": str(tmp_path / "mine" / "models"), "bytes": size, "is_writable": True}
    assert facts["caches"]["all"]["bytes"] == size
    assert facts["environment"]["VISIONTOOL_CACHE"] == str(tmp_path / "mine")
    assert facts["versions"]["python"] == sys.version.split()[0]
    assert facts["wheels"] == [*installation.wheels()]


def test_a_secret_is_never_shown(run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    monkeypatch.setenv("VISIONTOOL_API_KEY", "verysecret")
    monkeypatch.setenv("VISIONTOOL_MODEL", "lenet5")
    monkeypatch.setenv("SOMETHING_ELSE", "verysecret")
    for arguments in ([], ["--json"]):
        ran = run("doctor", *arguments)
        assert "verysecret" not in ran.out + ran.err
        assert "SOMETHING_ELSE" not in ran.out
        assert "HF_TOKEN" in ran.out
        assert "lenet5" in ran.out


def test_two_wheels_are_told_with_the_commands_that_mend_it(site, run):
    install(site, "onnxruntime", "1.30.0", ["onnxruntime/__init__.py"])
    assert installation.wheels() == ("onnxruntime 1.30.0", "onnxruntime-gpu 1.31.1")
    message, *commands = installation.wheel_conflict().splitlines()
    assert message.startswith("onnxruntime 1.30.0 and onnxruntime-gpu 1.31.1 are installed in one place")
    assert commands[0].endswith(" uninstall -y onnxruntime onnxruntime-gpu")
    assert commands[1].endswith(" install onnxruntime-gpu")
    ran = run("doctor")
    assert "FAULT       onnxruntime 1.30.0 and onnxruntime-gpu 1.31.1 are installed in one" in ran.out
    assert ran.code == 0  # it works all the same, for now


def test_half_a_package_is_told_with_the_command_that_mends_it(tmp_path):
    """As after one of two wheels was removed: the folder is there, its contents are not."""
    (tmp_path / "onnxruntime").mkdir()
    code = "import sys; from visiontool.cli import main; sys.exit(main(['doctor']))"
    where = {**os.environ, "PYTHONPATH": str(tmp_path)}
    (tmp_path / "onnxruntime" / "__init__.py").touch()
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=where)
    assert (ran.returncode, ran.stdout) == (1, "")
    first, second = ran.stderr.splitlines()
    assert first.startswith("Error: onnxruntime cannot be used: ")
    assert second.startswith("Install it again: ")
    assert second.endswith("install --force-reinstall --no-deps onnxruntime-gpu")


def test_a_provider_that_loads_and_cannot_be_used_is_told_too(run, monkeypatch):
    monkeypatch.setattr(providers, "built_in", lambda: {"openvino": "OpenVINOExecutionProvider", "cpu": "CPU"})

    def refuse(path, *, provider):
        if provider == "openvino":
            raise DeviceError("provider 'openvino' cannot be used: no such device\nUse another")

    monkeypatch.setattr(runtime, "open_model", refuse)
    report = doctor.examine()
    assert report["providers"] == {"cpu": None, "openvino": "provider 'openvino' cannot be used: no such device"}
    assert not report["prediction"]["works"]  # it needs the same function
    assert run("doctor").code == 1


def test_gpus_are_shown_with_their_memory(run, monkeypatch):
    gpu = installation.Gpu("NVIDIA H200", "9.0", 150 * 2**30, 100 * 2**30)
    monkeypatch.setattr(installation, "gpus", lambda: (gpu, gpu._replace(free_bytes=None)))
    monkeypatch.setattr(installation, "driver_version", lambda: "580.95.05")
    out = run("doctor").out
    assert "cuda:0      NVIDIA H200, compute capability 9.0, 150.0 GiB, 100.0 free\n" in out
    assert "cuda:1      NVIDIA H200, compute capability 9.0, 150.0 GiB\n" in out
    assert "            driver 580.95.05\n" in out


def test_a_wrong_answer_and_no_picture_are_no_working_installation(run, tmp_path, monkeypatch):
    other = next(path for path in resolve.sample_pictures() if path.stem != "orange")
    monkeypatch.setattr(resolve, "sample_pictures", lambda: [shutil.copy(other, tmp_path / "orange.jpg")])
    ran = run("doctor")
    assert ran.code == 1
    assert "predict     FAILS: tf_efficientnet_lite0.in1k says " in ran.out
    assert ", where orange is right" in " ".join(ran.out.split())
    monkeypatch.setattr(resolve, "sample_pictures", list)
    assert "predict     FAILS: StopIteration" in run("doctor").out


def test_the_processors_instructions_are_read(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags\t\t: fpu avx2 avx512_vnni amx_int8 sse\n")
    assert doctor.processor_features(tmp_path / "cpuinfo") == ("avx2", "avx512_vnni", "amx_int8")
    (tmp_path / "arm").write_text("Features\t: fp asimd asimddp i8mm\n")
    assert doctor.processor_features(tmp_path / "arm") == ("asimddp", "i8mm")
    assert doctor.processor_features(tmp_path / "none") is None
