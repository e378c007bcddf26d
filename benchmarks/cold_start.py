"""How long one answer takes as a whole process: visiontool against the barest script, and against its peers.

    python benchmarks/cold_start.py [--pairs 10] [--peer-runs 5]

Runs alternate, so that a machine with drifting speed slows both sides alike; the result is the median of the pairs'
ratios. Target: at most 1.15 times the barest script, for the default model, for a ResNet-18 (224 px, 1,000 classes),
and for the same ResNet-18 named like a pulled network. Peers (timm, Ultralytics, Hugging Face) are measured if they are
installed, with random weights, which do not affect speed. The ResNet-18 graph needs the extra [train].
"""

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from visiontool.hub.resolve import DEFAULT_MODEL, resolve

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "samples" / "orange.jpg"
TARGET = 1.15

# Prepared once in a folder of their own, then timed as `python run.py PICTURE` or a command.
PEERS = {
    "timm": (
        "import timm, torch; torch.save(timm.create_model('resnet18').state_dict(), 'resnet18.pth')",
        """
import sys, timm, torch
from PIL import Image
model = timm.create_model('resnet18', checkpoint_path='resnet18.pth').eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
with torch.inference_mode():
    logits = model(transform(Image.open(sys.argv[1]).convert('RGB')).unsqueeze(0))
print(logits.softmax(1).topk(5))
""",
    ),
    "transformers": (
        "import transformers as t; c = t.ResNetConfig(depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512],"
        " layer_type='basic', num_labels=1000); t.ResNetForImageClassification(c).save_pretrained('resnet18');"
        " t.ConvNextImageProcessor(size={'shortest_edge': 224}, crop_pct=0.875).save_pretrained('resnet18')",
        """
import sys
from transformers import pipeline
print(pipeline('image-classification', model='resnet18')(sys.argv[1]))
""",
    ),
    "ultralytics": (
        "from ultralytics import YOLO; YOLO('yolov8n-cls.yaml').save('yolov8n-cls.pt')",
        """
import sys
sys.argv = ['yolo', 'classify', 'predict', 'model=yolov8n-cls.pt', f'source={sys.argv[1]}', 'save=False']
from ultralytics.cfg import entrypoint
entrypoint()
""",
    ),
}


def seconds(command: list[str], folder: Path) -> float:
    """Wall time of a whole process.

    Raises:
        subprocess.CalledProcessError: it failed, so its time means nothing.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "YOLO_OFFLINE": "true"}
    # What pip installs is compiled; a checkout would be compiled anew by each of its runs.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


def compare(name: str, ours: list[str], other: list[str], folder: Path, pairs: int) -> float:
    """Prints both medians and gives the median of ours / other over alternating pairs, after one warm-up of each."""
    times: dict[str, list[float]] = {"ours": [], "other": []}
    for pair in range(pairs + 1):
        order: list[tuple[str, Callable[[], float]]] = [
            ("ours", lambda: seconds(ours, folder)),
            ("other", lambda: seconds(other, folder)),
        ]
        for side, run in order if pair % 2 else reversed(order):
            elapsed = run()
            if pair:
                times[side].append(elapsed)
    ratio = statistics.median(a / b for a, b in zip(times["ours"], times["other"], strict=True))
    medians = {side: statistics.median(values) for side, values in times.items()}
    print(f"| {name} | {medians['ours']:.3f} | {medians['other']:.3f} | {ratio:.2f} |", flush=True)
    return ratio


def resnet18(folder: Path) -> Path:
    """A ResNet-18 graph in visiontool's contract, with random weights."""
    import timm
    import torch

    from visiontool.model.spec import InputSpec, ModelSpec
    from visiontool.pytorch.convert import convert

    torch.manual_seed(0)
    spec = ModelSpec(
        name="resnet18_random",
        labels=tuple(f"class {index}" for index in range(1000)),
        input=InputSpec(size=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    )
    path = folder / "resnet18.onnx"
    convert(timm.create_model("resnet18"), spec, path, [PICTURE])
    return path


def put_into_cache(model: Path) -> Path:
    """Makes `model` what `visiontool models pull resnet18` would have made."""
    from visiontool.hub import cache, catalog

    name = catalog.find("resnet18").name
    with cache.lock(cache.models(), name), cache.unpublished(name) as unpublished:
        shutil.copyfile(model, unpublished / "model.onnx")
        return cache.publish(unpublished, name, source="random weights", license="", tools={}).path


def main() -> int:
    """Returns 0 where every ratio to the barest script is within the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--peer-runs", type=int, default=5, help="pairs against each peer; 0 leaves the peers out")
    arguments = parser.parse_args()
    python = sys.executable
    versions = " ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("numpy", "pillow", "onnxruntime-gpu", "onnxruntime", "torch", *PEERS)
        if installed(name)
    )
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}\n")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["VISIONTOOL_CACHE"] = str(folder / "cache")  # for the processes too
        graphs = {"default model": (resolve(DEFAULT_MODEL), DEFAULT_MODEL)}  # the file, and what -m says
        if importlib.util.find_spec("timm"):
            model = resnet18(folder)
            graphs["ResNet-18, 224 px"] = (model, str(model))
            graphs["the same, pulled"] = (put_into_cache(model), "resnet18")
        print(
            "| whole process, one picture | visiontool s | other s | median of the pairs' ratios |\n|---|---|---|---|"
        )
        worst = 0.0
        for graph, (model, name) in graphs.items():
            ours = [str(Path(python).with_name("visiontool")), "predict", str(PICTURE), "-m", name]
            barest = [python, str(ROOT / "benchmarks" / "barest.py"), str(PICTURE), "-m", str(model)]
            worst = max(worst, compare(f"{graph}: against the barest script", ours, barest, folder, arguments.pairs))
        for peer, (prepare, run) in PEERS.items() if arguments.peer_runs else ():
            if not importlib.util.find_spec(peer):
                print(f"| against {peer} | | not installed | |")
                continue
            subprocess.run([python, "-c", prepare], cwd=folder, check=True, capture_output=True)
            (folder / f"{peer}_run.py").write_text(run)
            theirs = [python, f"{peer}_run.py", str(PICTURE)]
            compare(f"{graph}: against {peer}", ours, theirs, folder, arguments.peer_runs)
    print(f"\nworst ratio to the barest script: {worst:.2f}; target: at most {TARGET}")
    return 0 if worst <= TARGET else 1


def installed(distribution: str) -> bool:
    """Whether a distribution of that name is installed."""
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
