"""README, tutorial and page about errors: what they say is run as written, what they show is what is printed."""

import lzma
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from contextlib import suppress
from io import BytesIO
from math import isclose
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import ROOT
from huggingface_hub import errors
from kinds_of_model import parsed
from onnx import numpy_helper
from PIL import Image

from visiontool.runtime import providers

HOME = "/home/me/visiontool"  # where the tutorial's checkout is
PARTS = re.split(r"^(?=## |### More digits)", (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"), flags=re.M)
NUMBER = re.compile(r"\d+(?:\.\d+)?")
TIMED = re.compile(r"^Time|\d/s\)|pictures/s")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with samples/, an empty cache, and the programs of the activated environment."""
    shutil.copytree(ROOT / "samples", tmp_path / "samples")
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, arguments in (("visiontool", "-m visiontool"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def printed(command: str) -> list[str]:
    """What a command prints where stdout is a terminal and stderr, which would have progress bars there, is none."""
    import pty

    terminal, stdout = pty.openpty()
    with (
        open("stderr", "w+") as stderr,
        subprocess.Popen(["bash", "-euc", command], stdout=stdout, stderr=stderr) as run,
    ):
        os.close(stdout)
        written = b""
        with suppress(OSError):  # Linux's way to say that the program has ended
            while piece := os.read(terminal, 2**16):
                written += piece
    os.close(terminal)
    with open("stderr") as stderr:
        lines = stderr.read() + written.decode()
    assert run.returncode == 0, f"{command}\n{lines}"
    return re.sub(r"\x1b\[\d*m", "", lines).splitlines()


def is_alike(shown: str, line: str) -> bool:
    """The same words and numbers; fractions within 5 %, since processors round differently; of times the first word."""
    shown, line = (re.sub(r"[\s█-▏]+", " ", text).strip() for text in (shown, line))
    if TIMED.search(shown):
        return shown.split()[:1] == line.split()[:1]
    if NUMBER.sub("#", shown) != NUMBER.sub("#", line):
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(line), strict=True)
    return all(one == other or ("." in one and isclose(float(one), float(other), rel_tol=0.05)) for one, other in pairs)


def check_tutorial(part: str, count: int) -> None:
    steps = re.findall(r"^```sh\n(.*?)^```\n\n```text\n(.*?)^```", part, re.S | re.M)
    assert len(steps) == count == part.count("```sh")
    for command, shown in steps:
        lines = printed(command)
        for line in shown.replace(HOME, os.getcwd()).splitlines():
            assert line == "..." or any(is_alike(line, other) for other in lines), f"{command}{line}\n{lines}"


@pytest.mark.slow
def test_the_tutorial_for_students_prints_what_it_shows(checkout):
    check_tutorial(PARTS[2], 4)


@pytest.mark.real
def test_the_end_of_the_tutorial_for_students_prints_what_it_shows(checkout, shared):
    with tarfile.open(fileobj=BytesIO(lzma.open(shared / "data" / "mnist.tar.xz").read())) as archive:
        digits = sorted(
            (member for member in archive if "/train/" in member.name and member.isfile()), key=lambda m: m.name
        )
        for digit in range(10):
            for member in [member for member in digits if f"/train/{digit}/" in member.name][:100]:
                picture = checkout / "digits" / ("even", "odd")[digit % 2] / f"{digit}-{os.path.basename(member.name)}"
                picture.parent.mkdir(parents=True, exist_ok=True)
                picture.write_bytes(archive.extractfile(member).read())
    check_tutorial(PARTS[3], 1)


@pytest.mark.real
def test_the_tutorial_for_your_own_pictures_prints_what_it_shows(checkout, shared):
    with tarfile.open(shared / "data" / "ants_and_bees.tar") as archive:
        archive.extractall(filter="data")
    data = checkout / "ants_and_bees"
    (data / "train" / ".DS_Store").unlink()
    (data / "train").rename("mydata")
    shutil.copy("mydata/ants/1030023514_aad5c608f9.jpg", "mydata/bees")
    whole = (checkout / "mydata" / "bees" / "1092977343_cb42b38d62.jpg").read_bytes()
    (checkout / "mydata" / "bees" / "cut.jpg").write_bytes(whole[:20_000])
    (checkout / "new").mkdir()
    unseen = ("ants/10308379_1b6c72e180", "bees/1032546534_06907fe3b3", "bees/10870992_eebeeb3a12")
    for number, name in enumerate(unseen, 1):
        shutil.copy(data / "val" / f"{name}.jpg", f"new/{number}.jpg")
    check_tutorial(PARTS[1], 11)


@pytest.mark.real
def test_the_first_screen_of_the_readme_prints_what_it_shows(checkout, shared):
    with tarfile.open(shared / "data" / "ants_and_bees.tar") as archive:
        archive.extractall(filter="data")
    Path("ants_and_bees").rename("mydata")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    check_tutorial(readme[readme.index("Three commands") : readme.index("## Predict")], 3)


@pytest.mark.slow
def test_the_page_of_explanations_prints_what_it_shows_and_shows_what_it_draws(checkout, capsys):
    page = (ROOT / "docs" / "explain.md").read_text(encoding="utf-8")
    before, code = page.split("```python\n")
    check_tutorial(before, 9)
    pictures = re.findall(r"\]\((explain-\w+\.png)\)", page)
    assert sorted(pictures) == sorted(path.name for path in Path().glob("explain-*.png"))
    for name in pictures:
        drawn, shown = (np.asarray(Image.open(path).convert("RGB"), float) for path in (name, ROOT / "docs" / name))
        assert np.abs(drawn - shown).mean() < 4, name  # those of the page have fewer colors
    exec(compile(code.split("```")[0], "explain.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[1].startswith("daisy ")


@pytest.fixture
def mishaps(tmp_path, monkeypatch):
    """A folder with what the page about errors names, on a machine without a GPU, a network and the extras."""
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    picture, digits = ROOT / "samples" / "orange.jpg", ROOT / "samples" / "digits"
    for source, *places in (
        (picture, "photo.jpg", "flat/photo.jpg", "faulty/train/dog/1.jpg"),
        (digits / "1.png", "few/one/1.png", "faulty/train/cat/1.png"),
        (digits / "2.png", "few/two/2.png", "faulty/val/fish/2.png"),
    ):
        for place in map(Path, places):
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)
    for folder in ("empty", "faulty/train/bird", "blocked"):
        Path(folder).mkdir()
    for place in ("cut.jpg", "faulty/train/dog/cut.jpg"):
        Path(place).write_bytes(picture.read_bytes()[:15_000])
    Image.new("1", (12_000, 12_000)).save("huge.png")
    Path("photo.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    Path("paper.jpg").write_bytes(b"%PDF-1.7\n")
    Path("pointer.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 99\n")
    Path("page.onnx").write_text("<!DOCTYPE html>\n<html>")
    Path("two.txt").write_text("red\ngreen\n")

    torch.save(torch.nn.Linear(3, 2), "whole.pth")
    torch.save(torch.nn.Linear(3, 2).state_dict(), "weights.pth")
    with zipfile.ZipFile("script.pt", "w") as archive:
        archive.writestr("script/constants.pkl", "")
    theirs = parsed(
        "theirs (float[N,3,8,8] x) => (float[N,3] y) { y = ReduceMean <keepdims=0> (x, axes) }", axes=[2, 3]
    )
    onnx.save(theirs, "theirs.onnx")
    theirs.opset_import[0].version = 99
    onnx.save(theirs, "new.onnx")
    onnx.save(theirs, "external.onnx", save_as_external_data=True, size_threshold=0, location="external.data")
    changed = onnx.load(ROOT / "weights" / "lenet5" / "model.onnx")
    weights = changed.graph.initializer[0]
    weights.CopyFrom(numpy_helper.from_array(-2 * numpy_helper.to_array(weights), weights.name))
    onnx.save(changed, "changed.onnx")

    def unreachable(*_, **__):
        raise errors.LocalEntryNotFoundError("Connection refused")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    monkeypatch.setattr(providers, "gpu_in_sight", lambda: False)
    for name in ("torch", "torchvision", "timm"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "visiontool.pytorch.convert", raising=False)  # which another test imported
    monkeypatch.delattr("visiontool.pytorch.convert", raising=False)
    Path("blocked/pillow_heif.py").write_text("raise ImportError")  # for the process that opens it
    monkeypatch.syspath_prepend("blocked")


def test_the_page_about_errors_shows_what_is_printed(mishaps, run, monkeypatch):
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    assert [*map(int, re.findall(r"^### (\d+)\.", page, re.M))] == [*range(1, 21)]
    steps = re.findall(r"^\$ (.*)\n((?:(?!\$ |```).*\n)*)", page, re.M)
    assert run("predict", "photo.jpg", "-m", "lenet5", "-o", "rows.jsonl").code == 0
    for command, shown in steps[2:]:  # the first two are of pip and of the shell
        words = shlex.split(command)
        with monkeypatch.context() as patch:
            while "=" in words[0]:
                patch.setenv(*words.pop(0).split("="))
            ran = run(*words[1:], *(["--format", "table"] if words[1] == "predict" and "-o" not in words else []))
        printed = " ".join(f"{ran.out}{ran.err}".split())
        assert ran.code, command
        for piece in re.split(r"\.\.\.|\n", shown):
            assert piece.strip() in printed, f"{command}\n{piece}\n{printed}"
