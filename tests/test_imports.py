"""What each command may import: the start must stay fast, and predicting must never need torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from visiontool.hub.resolve import DEFAULT_MODEL

TORCH = ("accelerate", "torch", "torchvision", "timm", "onnxscript")
SLOW = ("numpy", "PIL", "onnxruntime", "rich", "onnx", *TORCH)

BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)
sys.meta_path.insert(0, Blocker())
from visiontool.cli import main
sys.exit(main(sys.argv[1:]))
"""


def run_blocked(blocked, *arguments):
    return subprocess.run(
        [sys.executable, "-c", BLOCKER.format(blocked=tuple(blocked)), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], ["predict", "--help"], ["predict"]])
def test_help_and_version_need_nothing_slow(arguments):
    ran = run_blocked(SLOW, *arguments)
    assert "blocked" not in ran.stderr
    if arguments == ["predict"]:  # a usage error, told with the help
        assert ran.returncode == 2
    else:
        assert ran.returncode == 0
        assert "visiontool" in ran.stdout


def test_importing_the_package_imports_nothing_else():
    code = "import sys; before = set(sys.modules); import visiontool; print(set(sys.modules) - before)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not any(name in ran.stdout for name in ("numpy", "click", "PIL", "onnxruntime"))


def test_every_public_name_is_there():
    import visiontool

    assert sorted(visiontool._HOMES) == visiontool.__all__
    for name in visiontool.__all__:
        assert getattr(visiontool, name).__name__ == name
    with pytest.raises(AttributeError):
        visiontool.nonsense  # noqa: B018


@pytest.mark.parametrize(
    ("model", "folder"), [(DEFAULT_MODEL, "samples"), ("lenet5", "samples/digits")], ids=["default", "lenet5"]
)
def test_the_models_at_hand_are_right_on_every_sample_without_torch_or_onnx(model, folder, default_model):
    expected = {path.name: path.stem.replace("_", " ") for path in Path(ROOT, folder).iterdir() if path.suffix != ".md"}
    expected = {name: {"lighthouse": "beacon"}.get(label, label) for name, label in expected.items() if "." in name}
    ran = run_blocked(
        (*TORCH, "onnx", "rich", "scipy", "matplotlib", "visiontool.images.augment"),
        "predict",
        folder,
        "-m",
        model,
        "--no-recursive",
        "-q",
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    assert {Path(row["path"]).name: row["predictions"][0]["label"] for row in rows} == expected
    assert len(rows) >= 5


def test_the_default_model_is_made_without_torch_and_said_to_answer_where_none_is_named(monkeypatch, tmp_path):
    """Also where the cache cannot be written."""
    (tmp_path / "file").touch()
    for cache, remark in ("cache", ""), ("file/cache", "The cache cannot be written"):
        monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / cache))
        ran = run_blocked((*TORCH, "huggingface_hub"), "predict", "samples/orange.jpg", "--json")
        assert json.loads(ran.stdout)["predictions"][0]["label"] == "orange"
        assert ran.stderr.startswith(
            "Model tf_efficientnet_lite0.in1k: 1,000 ImageNet classes, on cpu. "
            f"The default; -m names another (visiontool models).\n{remark}"
        )
        assert (ran.stderr.count("\n") == 1) == (not remark)
        ran = run_blocked(
            (*TORCH, "rich"), "predict", "samples/orange.jpg", "-q", "-o", tmp_path / "row.csv", "--force"
        )
        assert (ran.returncode, ran.stderr) == (0, "")


def test_torch_onnx_and_click_are_named_in_their_rooms_only():
    for path in (ROOT / "visiontool").rglob("*.py"):
        lines = path.read_text().splitlines()
        imported = {
            line.split()[1].partition(".")[0] for line in map(str.strip, lines) if line.startswith(("import ", "from "))
        }
        room = path.relative_to(ROOT / "visiontool").parts[0]
        if room != "pytorch":
            assert not imported & {*TORCH, "onnx_ir"}, path
        if room not in ("exporting", "pytorch", "graph"):
            assert "onnx" not in imported, path
        if room != "cli":
            assert not imported & {"click", "rich"}, path
