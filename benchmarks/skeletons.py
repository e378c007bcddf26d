"""Model files made without torch against those that torch's exporter writes; and the default model's first answer.

    python benchmarks/skeletons.py [NAME...] [--rounds 15]

For one network of each of eight families, with the same random weights: the size of the file, the processor's
time to open it and the time for one picture, each as the median of the rounds' ratios; the sides take turns. Target: at
most 1.02.

The first answer of the default model fills its skeleton and writes the cache, the second only opens it: whole
processes, the medians of their times. Target: at most 1.0 s apart. Needs the extra [train].
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from visiontool import runtime
from visiontool.data.loader import cores
from visiontool.hub import catalog, skeleton
from visiontool.hub.resolve import sample_pictures
from visiontool.pytorch import weights
from visiontool.pytorch.convert import convert_checkpoint

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
VISIONTOOL = str(Path(sys.executable).with_name("visiontool"))
NAMES = (
    *("resnet50", "densenet121", "inception_v3", "mobilenetv3_large_100", "tf_efficientnet_lite0"),
    *("vit_small_patch16_224", "swin_tiny_patch4_window7_224", "convnext_tiny"),
)
MAX_RATIO = 1.02
MAX_LATER_S = 1.0
RUNS = 5  # of one picture, and times that a file is opened, in a round


def make_files(name: str, folder: Path) -> tuple[Path, Path]:
    """The model file that is filled, and the one that torch's exporter writes, with the same weights."""
    from random_weights import random_weights

    entry = catalog.find(name)
    checkpoint = folder / f"{name}.pth"
    model = random_weights(weights.create(entry.name), torch.rand(2, *entry.input_size))
    torch.save(model.state_dict(), checkpoint)
    filled, converted = folder / f"{name}-filled", folder / f"{name}-converted"
    filled.mkdir()
    skeleton.fill_from(entry, checkpoint, name=name, source="", license="").write(filled)
    convert_checkpoint(entry.name, checkpoint, converted, sample_pictures(), name=name)
    return filled / "model.onnx", converted / "model.onnx"


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """How long it takes, by the wall or by another clock."""
    start = clock()
    work()
    return clock() - start


def ratios(files: tuple[Path, Path], rounds: int) -> tuple[float, float, float, float]:
    """Size, time to open and time for a picture of the filled file, each to that of the other; ms of the last."""
    # One thread each: the threads of two sessions would wait for each other, and slow the first.
    opened = [runtime.open_model(file, device="cpu", threads=1) for file in files]
    _, height, width, _ = opened[0].inputs[0].shape
    pixels = np.zeros((1, height, width, 3), np.uint8)

    def run(side: int) -> None:
        for _ in range(RUNS):
            opened[side].session.run(["logits"], {"image": pixels})

    def load(side: int) -> None:
        for _ in range(RUNS):
            runtime.open_model(files[side], device="cpu")

    run(0)
    run(1)
    opening, running, own = [], [], []
    for number in range(rounds):
        times = {}
        for side in (0, 1) if number % 2 else (1, 0):
            times[side] = seconds(partial(load, side), time.process_time), seconds(partial(run, side))
        opening.append(times[0][0] / times[1][0])
        running.append(times[0][1] / times[1][1])
        own.append(times[0][1] / RUNS * 1000)
    size = files[0].stat().st_size / files[1].stat().st_size
    return size, *map(statistics.median, (opening, running, own))


def answers(rounds: int) -> tuple[float, float]:
    """Seconds of the first and of the second answer of the default model, as whole processes."""
    first, second = [], []
    command = [VISIONTOOL, "predict", str(ROOT / "samples" / "orange.jpg"), "-q"]
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            environment = {**os.environ, "VISIONTOOL_CACHE": cache}
            run = partial(subprocess.run, command, env=environment, check=True, stdout=subprocess.DEVNULL)
            first.append(seconds(run))
            second.append(seconds(run))
    return statistics.median(first), statistics.median(second)


def main() -> int:
    """Returns 0 where the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # they are about the exporter's own code
    print(f"{platform.platform()}, {cores()} cores, Python {platform.python_version()}, torch {torch.__version__}\n")
    print("| network | size | open | one picture | ms |\n|---|---|---|---|---|")
    worst = 0.0
    for name in arguments.names:
        with tempfile.TemporaryDirectory() as folder:
            size, opening, running, own = ratios(make_files(name, Path(folder)), arguments.rounds)
        worst = max(worst, size, opening, running)
        print(f"| {name} | {size:.3f} | {opening:.2f} | {running:.2f} | {own:.1f} |", flush=True)
    first, second = answers(arguments.rounds)
    print(f"\nworst ratio: {worst:.2f}; target: at most {MAX_RATIO}")
    print(f"first answer {first:.2f} s, second {second:.2f} s; target: at most {MAX_LATER_S} s apart")
    return 0 if worst <= MAX_RATIO and first - second <= MAX_LATER_S else 1


if __name__ == "__main__":
    sys.exit(main())
