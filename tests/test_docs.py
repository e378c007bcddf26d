"""What README and docs say is run as written."""

import itertools
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import ROOT, save_picture
from onnx import TensorProto, helper

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def command_of(mark):
    """The command that stands in the README behind a mark such as <!-- run: main -->."""
    return re.search(rf"<!-- run: {mark} -->\n```sh\n(.*?)\n```", README)[1]


def test_the_generated_docs_are_fresh():
    ran = subprocess.run([sys.executable, "scripts/make_docs.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_links_in_the_docs_lead_somewhere():
    for page in (*ROOT.glob("README*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "weights").rglob("README.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page}: {target}"


def facts(text):
    """What a translation must keep: in blocks, headings and tables also the order."""
    text = re.sub(r".*\(README.*\.md\).*", "", text)  # the other language
    figure = r"\d+(?:[.,]\d+)*"
    return {
        "blocks": re.findall(r"^```.*?^```|^<!-- .*? -->", text, re.DOTALL | re.MULTILINE),
        "headings": re.findall(r"^#+(?= )", text, re.MULTILINE),
        "tables": [re.findall(figure, line) for line in re.findall(r"^\|.*", text, re.MULTILINE)],
        "code": sorted(re.findall(r"`[^`\n]+`", text)),
        "links": sorted(re.findall(r"\]\((.+?)\)", text)),
        "figures": sorted(re.findall(figure, text)),
    }


def test_the_chinese_readme_has_the_same_commands_links_and_figures():
    assert facts((ROOT / "README.zh.md").read_text(encoding="utf-8")) == facts(README)


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """A folder with samples/ and what examples name: img.jpg, mydata/, and a network of another tool."""
    shutil.copytree(ROOT / "samples", tmp_path / "samples")
    shutil.copytree(ROOT / "weights" / "lenet5", tmp_path / "weights" / "lenet5")
    save_picture(tmp_path / "img.jpg", (255, 0, 0), (64, 64))
    for label, number in itertools.product(("cat", "dog"), range(10)):
        color = (200 - 9 * number, 30, 40) if label == "cat" else (20, 30 + 7 * number, 200 - 9 * number)
        save_picture(tmp_path / "mydata" / label / f"{number}.jpg", color, (64, 48))
    names = [f"{label}/{number}.jpg" for label in ("cat", "dog") for number in range(10)]
    tags = [f"{name},{name < 'd':d},{name[-5] > '4':d}" for name in names]
    (tmp_path / "tags.csv").write_text("\n".join(["path,warm,late", *tags]))
    for label, number in itertools.product("17", range(10)):
        save_picture(tmp_path / "mnist" / label / f"{number}.png", (25 * number,) * 3, (28, 28 - 8 * (label == "1")))
    shutil.copytree(tmp_path / "mnist", tmp_path / "newdata")
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["data", "axes"], ["out"], keepdims=0)],
        "resnet50",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, 64, 64])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10),
        tmp_path / "resnet50.onnx",
    )
    (tmp_path / "imagenet.txt").write_text("red\ngreen\nblue\n")
    (tmp_path / "map.csv").write_text("cat,tabby\ndog,Chihuahua\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("page", "count"),
    [
        pytest.param("README.md", 20, marks=pytest.mark.slow),
        ("docs/cli.md", 6),
        ("docs/models.md", 4),
        pytest.param("docs/check.md", 3, marks=pytest.mark.slow),
        pytest.param("docs/evaluate.md", 13, marks=pytest.mark.slow),
        pytest.param("docs/training.md", 15, marks=pytest.mark.slow),
        pytest.param("docs/export.md", 7, marks=pytest.mark.slow),
    ],
)
def test_every_command_of_the_docs_runs_as_written(stage, page, count):
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = [line for block in blocks(text, "sh") for line in block.splitlines()]
    lines = [
        line
        for line in lines
        if re.search(
            r"visiontool (predict|finetune|check|evaluate|explain|embed|export|verify|benchmark|models|doctor)\b", line
        )
    ]
    lines = [line for line in lines if not line.startswith("python3 ")]  # setting up is another test
    assert len(lines) >= count
    (stage / "bin").mkdir()
    (stage / "bin" / "visiontool").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m visiontool "$@"\n')
    (stage / "bin" / "visiontool").chmod(0o755)
    environment = {**os.environ, "PATH": f"{stage / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    script = "\n".join(lines)
    ran = subprocess.run(["bash", "-euxo", "pipefail", "-c", script], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert page != "README.md" or (stage / "rows.csv").exists()


def test_the_example_of_the_readme_runs(stage, capsys):
    (code,) = blocks(README, "python")
    exec(compile(code, "README.md", "exec"), {})
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["3", "7"]


@pytest.mark.slow
def test_the_example_of_the_training_page_runs(stage, capsys):
    (code,) = blocks((ROOT / "docs" / "training.md").read_text(encoding="utf-8"), "python")
    exec(compile(code, "training.md", "exec"), {})
    assert str(stage / "runs" / "mydata") in capsys.readouterr().out
    assert (stage / "runs" / "mydata" / "model.onnx").is_file()


def test_the_notebook_of_the_python_page_runs_from_top_to_bottom(stage, capsys):
    scope: dict[str, object] = {}
    for code in blocks((ROOT / "docs" / "python.md").read_text(encoding="utf-8"), "python"):
        exec(compile(code, "python.md", "exec"), scope)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("3 3 0.9")
    assert [line[:10] for line in printed[1:4]] == ["<Result: 3"] * 3
    assert [line.split()[1] for line in printed[-10:]] == list("0123456789")
    assert scope["table"]["label_1"].tolist() == list("0123456789")
    assert (scope["similarity"].argmax(axis=1) == range(10)).all()
    assert scope["mine"].spec.labels == ("cat", "dog")
    assert {row["license"] for row in scope["small"]} >= {"apache-2.0"}
    assert (stage / "mydata.onnx").is_file()


def test_the_model_that_the_model_file_page_writes_answers_right(stage, run):
    page = (ROOT / "docs" / "model-file.md").read_text(encoding="utf-8")
    write, _, read = blocks(page, "python")
    exec(compile(write, "model-file.md", "exec"), {})
    scope: dict[str, object] = {}
    exec(compile(read, "model-file.md", "exec"), scope)
    assert scope["manifest"]["labels"] == ["red", "green", "blue"]
    ran = run("predict", "img.jpg", "-m", "colors.onnx")
    assert ran.code == 0, ran.err
    row = json.loads(ran.out)
    assert row["predictions"][0]["label"] == "red"


def test_the_manifest_that_the_model_file_page_shows_is_valid():
    from visiontool import ModelSpec

    page = (ROOT / "docs" / "model-file.md").read_text(encoding="utf-8")
    manifest, _ensemble = blocks(page, "json")
    assert ModelSpec.from_json(manifest).labels == ("red", "green", "blue")


def copy_of_the_project(target):
    """The files of the project, and nothing that was built or installed."""
    ignore = shutil.ignore_patterns(
        ".venv", ".git", "__pycache__", ".*_cache", "dist", "build", ".hypothesis", "runs", "node_modules"
    )
    return shutil.copytree(ROOT, target, ignore=ignore)


@pytest.mark.slow
def test_the_main_command_of_the_readme_runs_as_written_on_a_bare_machine(tmp_path):
    project = copy_of_the_project(tmp_path / "visiontool")
    base = Path(sys.base_prefix) / "bin"
    environment = {**os.environ, "PATH": f"{base}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    ran = subprocess.run(
        ["bash", "-c", command_of("main")], cwd=project, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    row = json.loads(ran.stdout[ran.stdout.index('{\n  "schema"') :])
    assert row["predictions"][0]["label"] == "orange"
    # From another folder, so that it is the installed package with its packed weights that answers.
    installed = project / ".venv" / "bin" / "visiontool"
    (project / "weights").rename(project / "weights-away")
    ran = subprocess.run(
        [installed, "predict", project / "samples" / "digits", "-m", "lenet5"], cwd="/", capture_output=True, text=True
    )
    assert [json.loads(line)["predictions"][0]["label"] for line in ran.stdout.splitlines()] == list("0123456789")
    packages = subprocess.run(
        [project / ".venv/bin/python", "-c", "import torch"], capture_output=True, text=True, cwd="/"
    )
    assert packages.returncode != 0


@pytest.mark.slow
def test_the_samples_are_what_the_script_draws(tmp_path):
    """Within what another processor or Pillow may round otherwise."""
    from PIL import Image

    script = runpy.run_path(str(ROOT / "scripts" / "make_samples.py"))
    assert "main" in script
    subprocess.run([sys.executable, "scripts/make_samples.py", "--output", tmp_path], cwd=ROOT, check=True)
    committed = [path for path in (ROOT / "samples").rglob("*") if path.suffix in (".jpg", ".png")]
    assert len(committed) >= 15
    for path in committed:
        drawn = np.asarray(Image.open(tmp_path / path.relative_to(ROOT / "samples")), np.int16)
        assert np.abs(drawn - np.asarray(Image.open(path), np.int16)).mean() < 1.0
