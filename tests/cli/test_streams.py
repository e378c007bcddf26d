"""What `visiontool predict` does to its streams: pipes, full disks, closed ones; and errors on stderr."""

import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from conftest import save_color_pictures


@pytest.fixture
def pictures(tmp_path):
    return save_color_pictures(tmp_path / "pictures", 3)


def rows_of(text):
    return [json.loads(line) for line in text.splitlines()]


def test_no_warning_of_python_reaches_stderr(run, color_model, pictures, monkeypatch):
    from visiontool.inference.classifier import Classifier

    def loud(self, *args, **options):
        warnings.simplefilter("always")  # as some libraries do
        warnings.warn("about code", stacklevel=1)
        logging.getLogger("PIL.loud").error("about code")
        return predict_stream(self, *args, **options)

    predict_stream = Classifier.predict_stream
    monkeypatch.setattr(Classifier, "predict_stream", loud)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's
    before = list(warnings.filters)
    ran = run("predict", pictures / "0.png", "-m", color_model, "-q")
    assert (ran.code, ran.err) == (0, "")
    assert list(warnings.filters) == before


def test_a_closed_pipe_ends_quietly(color_model, pictures):
    for index in range(200):
        os.link(pictures / "0.png", pictures / f"copy{index}.png")
    command = [sys.executable, "-m", "visiontool", "predict", pictures, "-m", color_model, "-q", "-b", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_exit_1(color_model, pictures):
    with open("/dev/full", "wb") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "visiontool", "predict", pictures, "-m", color_model, "-q"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    assert ran.returncode == 1
    assert ran.stderr == "Error: the output cannot be written: No space left on device\n"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_or_a_device_is_written_and_stays_what_it_is(run, color_model, pictures, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        ran = run("predict", pictures, "-m", color_model, "-o", pipe)
        assert (ran.code, ran.out) == (0, "")
        assert len(rows_of(reader.stdout.read().decode())) == 3
    assert not pipe.is_file()
    assert run("predict", pictures, "-m", color_model, "-o", os.devnull, "--force").code == 0
    assert not os.path.isfile(os.devnull)


def test_closed_streams_are_no_reason_to_fail(color_model, pictures):
    command = f"{sys.executable} -m visiontool predict {pictures} -m {color_model} --json"
    ran = subprocess.run(["sh", "-c", f"{command} 2>&-"], capture_output=True, text=True)
    assert ran.returncode == 0
    assert len(json.loads(ran.stdout)) == 3
    ran = subprocess.run(["sh", "-c", f"{command} >&-"], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr.splitlines()[1:]) == (
        1,
        ["Error: the output cannot be written: Bad file descriptor"],
    )


def test_what_was_not_foreseen_is_one_line_and_a_way_to_see_more(run, color_model, pictures, monkeypatch):
    from visiontool.inference import classifier

    def defect(*_):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(classifier.Classifier, "probabilities", defect)
    ran = run("predict", pictures, "-m", color_model, "-q")
    assert ran.code == 1
    assert ran.err.splitlines()[0] == "Error: ZeroDivisionError: a defect"
    assert "VISIONTOOL_DEBUG=1" in ran.err
    monkeypatch.setenv("VISIONTOOL_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run("predict", pictures, "-m", color_model, "-q")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_stderr_changes_neither_rows_nor_exit_code(color_model, pictures):
    with open("/dev/full", "wb") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "visiontool", "predict", pictures, "-m", color_model],
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
        )
    assert (ran.returncode, len(rows_of(ran.stdout))) == (0, 3)
