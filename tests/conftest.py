"""What all tests share: the colour model, small pictures, and the command line run in this process."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from visiontool import cli
from visiontool.hub.resolve import DEFAULT_MODEL, resolve
from visiontool.model.spec import InputSpec, ModelSpec

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("VISIONTOOL_SHARED", ROOT.parent / "shared"))

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
COLOR_SPEC = ModelSpec(
    name="colors",
    labels=("red", "green", "blue"),
    input=InputSpec(size=(8, 8), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    interpolation="nearest",
    embedding="embedding",
)


@pytest.fixture(autouse=True)
def _nothing_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests neither see nor change the models and choices of whoever runs them."""
    monkeypatch.delenv("VISIONTOOL_MODEL", raising=False)
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def default_model() -> Path:
    """The file of the default model, made once in the cache that the tests of a process share."""
    return resolve(DEFAULT_MODEL)


def color_graph() -> onnx.ModelProto:
    """A graph whose logits are the mean of each channel, 0 to 1, so every answer can be worked out by hand."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["pixels", "white"], ["scaled"]),
        helper.make_node("ReduceMean", ["scaled", "axes"], ["embedding"], keepdims=0),
        helper.make_node("Identity", ["embedding"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colors",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 8, 8, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("logits", "embedding")],
        [
            helper.make_tensor("white", TensorProto.FLOAT, [], [255.0]),
            helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def save_model(graph: onnx.ModelProto, path: Path, metadata: dict[str, str] | None = None) -> Path:
    """Writes `graph` with `metadata` to `path`."""
    helper.set_model_props(graph, metadata or {})
    onnx.save(graph, path)
    return path


@pytest.fixture
def color_model(tmp_path: Path) -> Path:
    """The colour model as a model file."""
    return save_model(color_graph(), tmp_path / "colors.onnx", COLOR_SPEC.to_metadata())


@pytest.fixture
def make_color_model(tmp_path: Path) -> Callable[..., Path]:
    """Makes a colour model file whose spec differs: make_color_model("name.onnx", temperature=2.0)."""

    def make(name: str, **changes: object) -> Path:
        return save_model(color_graph(), tmp_path / name, replace(COLOR_SPEC, **changes).to_metadata())

    return make


def save_picture(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (8, 8)) -> Path:
    """A picture of one color at `path`, whose format is that of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), color, np.uint8)).save(path)
    return path


def save_color_pictures(folder: Path, count: int) -> Path:
    """Fills `folder` with 0.png, 1.png ...: red, green, blue, red ..."""
    for index in range(count):
        save_picture(folder / f"{index}.png", (RED, GREEN, BLUE)[index % 3])
    return folder


class Ran(NamedTuple):
    """What a run of the command line gave."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Ran]:
    """Runs the command line in this process: run("predict", path)."""

    def run_(*arguments: object) -> Ran:
        capfdbinary.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        captured = capfdbinary.readouterr()
        return Ran(code, captured.out.decode(), captured.err.decode())

    return run_


def run_on_terminal(*arguments: object) -> tuple[int, str]:
    """Runs the command line on a terminal of 80 columns; gives the exit code and what it wrote."""
    import fcntl
    import pty
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "-m", "visiontool", *map(str, arguments)]
    # pytest's readline puts COLUMNS into the environment behind Python's back.
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, env=dict(os.environ)) as process:
        os.close(slave)
        written = b""
        with contextlib.suppress(OSError):  # Linux's way to say that the program has ended
            while piece := os.read(master, 2**16):
                written += piece
    os.close(master)
    return process.returncode, written.decode()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Has torch take one thread, since two tests run at once."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def shared() -> Path:
    """The folder of real data and weights beside the project; a test that wants it is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data at {SHARED} (set VISIONTOOL_SHARED)")
    return SHARED
