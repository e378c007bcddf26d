"""How fast visiontool classifies a folder, against the machine's limit and against peers; and how much memory it uses.

    python benchmarks/bulk.py [--pictures FOLDER] [--rounds 3] [--peer-pictures 200]

The bound: on the same cores, a picture needs the time of the network alone plus the time of opening it alone. Each is
measured with all cores at its own best (the better of one run on all cores and one single-threaded run per core; the
better of threads and processes). Target: at least 0.9 of the bound, end to end, for ResNet-18 and ResNet-50, for 1,000
JPEGs of about 500x375 and for 100 of 12 megapixels. The whole command, including its start, is timed as well. Rounds
alternate the sides; the result is the median of the rounds' ratios.

Peak memory is that of all processes of the command together, at 1,000 and at 20,000 pictures; target: within 10 %.

The pictures are made from the photos in FOLDER (default: samples/). The weights are random, which does not affect
speed. Needs the extra [train]; the Hugging Face pipeline is measured if transformers is installed.
"""

import argparse
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import timm
import torch
from PIL import Image

from visiontool import Classifier
from visiontool.data.loader import LoadOptions, cores, load
from visiontool.data.prepare import Recipe, prepare
from visiontool.hub.resolve import DEFAULT_MODEL, resolve
from visiontool.images.decode import DEFAULT_LIMITS
from visiontool.model.spec import InputSpec, ModelSpec
from visiontool.pytorch.convert import convert
from visiontool.runtime import open_model

ROOT = Path(__file__).resolve().parent.parent
TARGET = 0.9
MEMORY_TARGET = 1.1
BATCH = 8
VISIONTOOL = str(Path(sys.executable).with_name("visiontool"))

TIMM = """
import sys, timm, torch
from timm.data import create_dataset, create_loader, resolve_model_data_config
model = timm.create_model(sys.argv[1], num_classes=1000).eval()
loader = create_loader(create_dataset('', root=sys.argv[2]), batch_size=8, use_prefetcher=False,
                       num_workers=int(sys.argv[3]), device=torch.device('cpu'),
                       **{k: v for k, v in resolve_model_data_config(model).items()
                          if k in ('input_size', 'interpolation', 'mean', 'std', 'crop_pct')})
done = 0
with torch.inference_mode():
    for pictures, _ in loader:
        done += len(model(pictures).softmax(1).topk(5)[0])
print(done)
"""
TRANSFORMERS_MODEL = """
import sys, transformers as t
deep = sys.argv[1] == 'resnet50'
config = t.ResNetConfig(depths=[3, 4, 6, 3] if deep else [2, 2, 2, 2], layer_type='bottleneck' if deep else 'basic',
                        hidden_sizes=[256, 512, 1024, 2048] if deep else [64, 128, 256, 512], num_labels=1000)
t.ResNetForImageClassification(config).save_pretrained(sys.argv[1])
t.ConvNextImageProcessor(size={'shortest_edge': 224}, crop_pct=0.875).save_pretrained(sys.argv[1])
"""
TRANSFORMERS = """
import glob, sys
from transformers import pipeline
names = sorted(glob.glob(sys.argv[2] + '/*/*.jpg'))
print(len(list(pipeline('image-classification', model=sys.argv[1])(names, batch_size=8, top_k=5))))
"""


def make_graph(name: str, folder: Path) -> Path:
    """An architecture of timm at 224 px with random weights, as a model file."""
    torch.manual_seed(0)
    spec = ModelSpec(
        name=name,
        labels=tuple(f"class {index}" for index in range(1000)),
        input=InputSpec(size=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        crop_pct=0.875,
        interpolation="bilinear",
    )
    path = folder / f"{name}.onnx"
    convert(timm.create_model(name), spec, path, sorted((ROOT / "samples").glob("*.jpg"))[:2])
    return path


def make_pictures(photos: list[Path], folder: Path, size: tuple[int, int], different: int, count: int) -> list[str]:
    """`count` JPEGs of about `size`, of which `different` differ: a folder as ImageFolder wants it."""
    inside = folder / "class"
    inside.mkdir(parents=True)
    for index in range(count):
        path = inside / f"{index:05}.jpg"
        if index >= different:
            os.link(inside / f"{index % different:05}.jpg", path)
            continue
        with Image.open(photos[index % len(photos)]) as photo:
            upright = size if photo.width >= photo.height else size[::-1]
            photo.convert("RGB").resize(upright, Image.Resampling.BICUBIC).save(path, quality=90)
    return [str(path) for path in sorted(inside.iterdir())]


def rate(count: int, work: Callable[[], object]) -> float:
    """Pictures a second."""
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


class Network:
    """The network alone, on pictures that are ready."""

    def __init__(self, path: Path, pixels: np.ndarray[Any, Any]) -> None:
        self._pixels = pixels
        self._alone = open_model(path, device="cpu", threads=1).session
        self._together = open_model(path, device="cpu").session

    def rate(self, count: int) -> float:
        """The better of the two ways to use all cores."""
        runs = max(1, count // BATCH)
        with ThreadPoolExecutor(cores()) as pool:
            apart = rate(runs * BATCH, lambda: list(pool.map(lambda _: self._run(self._alone), range(runs))))
        return max(apart, rate(runs * BATCH, lambda: [self._run(self._together) for _ in range(runs)]))

    def _run(self, session: "onnxruntime.InferenceSession") -> None:
        session.run(["logits"], {"image": self._pixels})


def opening_rate(files: list[str], recipe: Recipe) -> float:
    """Opening and fitting alone: the better of threads and processes."""
    with ThreadPoolExecutor(cores()) as pool:
        threads = rate(len(files), lambda: list(pool.map(lambda path: prepare(path, recipe), files)))
    options = LoadOptions(isolate=True)
    return max(threads, rate(len(files), lambda: exhaust(load(files, recipe, options, ahead=32))))


def exhaust(items: Iterable[object]) -> None:
    """Takes all items."""
    for _ in items:
        pass


def end_to_end_rate(classifier: Classifier, files: list[str]) -> float:
    """From paths to results, in the way of the command line, its processes started within the time."""
    return rate(len(files), lambda: exhaust(classifier.predict_stream(files, timeout=10.0, isolate=True)))


def against_the_bound(graphs: dict[str, Path], sets: dict[str, list[str]], rounds: int, folder: Path) -> float:
    """Prints a line a graph and set; returns the worst median."""
    print("pictures/s (medians) on all cores:\n")
    print("| graph | pictures | network alone | opening alone | bound | visiontool | of the bound | whole command |")
    print("|---|---|---|---|---|---|---|---|")
    worst = 1.0
    for name, graph in graphs.items():
        classifier = Classifier.load(graph, device="cpu", threads=1)
        recipe = Recipe.of(classifier.spec, DEFAULT_LIMITS)
        for kind, files in sets.items():
            pixels = np.stack([prepare(path, recipe).pixels for path in files[:BATCH]])  # type: ignore[misc]
            network = Network(graph, pixels)
            exhaust(classifier.predict_stream(files[:32], timeout=10.0, isolate=True))  # warm
            rows = []
            for _ in range(rounds):
                alone, opening = network.rate(min(len(files), 200)), opening_rate(files, recipe)
                bound = 1 / (1 / alone + 1 / opening)
                ours = end_to_end_rate(classifier, files)
                whole = rate(len(files), partial(whole_command, graph, Path(files[0]).parent, folder))
                rows.append((alone, opening, bound, ours, ours / bound, whole))
            alone, opening, bound, ours, share, whole = (
                statistics.median(column) for column in zip(*rows, strict=True)
            )
            worst = min(worst, share)
            figures = " | ".join(f"{figure:.1f}" for figure in (alone, opening, bound, ours))
            print(f"| {name} | {kind} | {figures} | {share:.2f} | {whole:.1f} |", flush=True)
    return worst


def predict_command(model: Path, pictures: Path, folder: Path) -> list[str]:
    """`visiontool predict` on a folder, rows into a file."""
    return [VISIONTOOL, "predict", str(pictures), "-m", str(model), "-o", str(folder / "rows.jsonl"), "--force", "-q"]


def whole_command(graph: Path, pictures: Path, folder: Path) -> None:
    """Runs `predict_command`."""
    subprocess.run(predict_command(graph, pictures, folder), check=True)


def against_peers(graphs: dict[str, Path], files: list[str], rounds: int, folder: Path) -> None:
    """Prints the whole process of each side on the same pictures, alternating."""
    top = Path(files[0]).parent.parent
    (folder / "timm_run.py").write_text(TIMM)
    (folder / "transformers_run.py").write_text(TRANSFORMERS)
    print(
        f"\nwhole processes on {len(files)} JPEGs of about 500x375 (medians; the ratio is that of the rounds' rates):\n"
    )
    print("| graph | peer | visiontool s | peer s | times as fast |\n|---|---|---|---|---|")
    for name, graph in graphs.items():
        peers = {"timm's DataLoader": [sys.executable, "timm_run.py", name, str(top), str(cores())]}
        if importlib.util.find_spec("transformers"):
            command = [sys.executable, "-c", TRANSFORMERS_MODEL, name]
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
            peers["Hugging Face pipeline"] = [sys.executable, "transformers_run.py", name, str(top)]
        for peer, command in peers.items():
            pairs = []
            for _ in range(rounds):
                ours = 1 / rate(1, partial(whole_command, graph, top, folder))
                environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
                theirs = 1 / rate(1, partial(run_peer, command, folder, environment, len(files)))
                pairs.append((ours, theirs))
            ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
            ratio = statistics.median(theirs / ours for ours, theirs in pairs)
            print(f"| {name} | {peer} | {ours:.1f} | {theirs:.1f} | {ratio:.1f} |", flush=True)


def run_peer(command: list[str], folder: Path, environment: dict[str, str], count: int) -> None:
    """Runs a peer, which has to have done all pictures."""
    ran = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    assert ran.stdout.split()[-1] == str(count), ran.stdout


def peak_memory(model: Path, pictures: Path, folder: Path) -> float:
    """MiB that the command and its processes take at their highest, added up."""
    peaks: dict[int, int] = {}
    with subprocess.Popen(predict_command(model, pictures, folder)) as process:
        while process.poll() is None:
            for pid in (process.pid, *children(process.pid)):
                peaks[pid] = max(peaks.get(pid, 0), high_water_mark(pid))
            time.sleep(0.02)
    assert process.returncode == 0
    return sum(peaks.values()) / 1024


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in task.read_text().split()]
        except OSError:
            continue
    return found


def high_water_mark(pid: int) -> int:
    """Peak resident KiB of a process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def main() -> int:
    """Returns 0 where the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, default=ROOT / "samples")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-pictures", type=int, default=200, help="0 leaves the peers out")
    arguments = parser.parse_args()
    photos = sorted(arguments.pictures.rglob("*.jpg")) + sorted(arguments.pictures.rglob("*.JPEG"))
    versions = f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}, timm {timm.__version__}"
    print(f"{platform.platform()}, {cores()} cores, Python {platform.python_version()}, {versions}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        graphs = {name: make_graph(name, folder) for name in ("resnet18", "resnet50")}
        sets = {
            "1,000 of 500x375": make_pictures(photos, folder / "small", (500, 375), 100, 1000),
            "100 of 12 MP": make_pictures(photos, folder / "big", (4000, 3000), 20, 100),
        }
        worst = against_the_bound(graphs, sets, arguments.rounds, folder)
        if arguments.peer_pictures:
            some = make_pictures(photos, folder / "some", (500, 375), 100, arguments.peer_pictures)
            against_peers(graphs, some, arguments.rounds, folder)
        make_pictures(photos, folder / "many", (500, 375), 100, 20_000)
        default = resolve(DEFAULT_MODEL)
        small, many = (peak_memory(default, folder / kind, folder) for kind in ("small", "many"))
    print(f"\npeak memory, default model: {small:.0f} MiB at 1,000 pictures, {many:.0f} at 20,000: {many / small:.2f}")
    print(f"worst share of the bound: {worst:.2f}; target: at least {TARGET}")
    return 0 if worst >= TARGET and many / small <= MEMORY_TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
