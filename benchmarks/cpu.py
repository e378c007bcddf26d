"""Networks on the CPU: how fast onnxruntime runs them compared with torch, and what fp16 and int8 cost and gain.

    python benchmarks/cpu.py [--rounds 15] [--threads N] [--shared FOLDER]

ResNet-50 at 224 px with random weights, which do not affect speed: `Classifier.outputs` in fp32 and int8 against torch
in eager mode (channels last) and torch.compile (if a C++ compiler is present), at 1 and 8 pictures per run. Each side
is a separate process with the same number of threads; the sides take turns, and the result is the median of the rounds'
ratios. All sides get the same uint8 pictures, and return logits.

SqueezeNet 1.1 with its ImageNet weights: how many of 100 photos get the same answer in fp16 and int8 as in fp32, how
many right answers are lost, and how long one picture takes; int8 is calibrated on other pictures (of ants and bees).
It is compared with int8 with weights of 8 full bits, as onnxruntime rounds them, which answers differently without
VNNI.

FOLDER has data/photos, data/ants_and_bees.tar and weights/squeezenet1_1/model.safetensors. Needs the extra [train].
"""

import argparse
import importlib.metadata
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnx
from numpy.typing import NDArray
from transfer_data import SHARED, ants_and_bees

from visiontool import Classifier
from visiontool.data.discover import find_images
from visiontool.data.loader import cores
from visiontool.data.prepare import Recipe, prepare
from visiontool.exporting.precision import to_fp16, to_int8
from visiontool.exporting.precision.qdq import TypedGraph
from visiontool.files import CACHE_VARIABLE
from visiontool.graph import edit
from visiontool.images.decode import DEFAULT_LIMITS
from visiontool.model.spec import ModelSpec

ROOT = Path(__file__).resolve().parent.parent
SIZE, BATCHES = 224, (1, 8)
PAUSE_S = 0.2  # before each run: threads of the side before it go on spinning for a while
FP32, INT8, EAGER, COMPILED = "visiontool fp32", "visiontool int8", "torch eager, channels last", "torch.compile"
# (side, beside, at least so many times as fast)
SPEEDS = ((FP32, EAGER, 1.2), (FP32, COMPILED, 0.9), (INT8, FP32, 2.0))
FULL_INT8 = "int8, weights of 8 full bits"
TIMED = 16  # photos in a run of SqueezeNet, since one takes too little time
LEAST_AGREEMENT, MOST_LOST = {"fp16": 0.99, "int8": 0.97}, {"fp16": 1, "int8": 2}

# Each waits for the number of pictures on a line, runs the network once, and says how many seconds it took.
PROLOGUE = """
import sys, time
import numpy as np
path, weights, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
pixels = np.load(path)
"""
EPILOGUE = """
for line in sys.stdin:
    batch = pixels[:int(line)]
    start = time.perf_counter()
    run(batch)
    print(time.perf_counter() - start, flush=True)
"""
OURS = """
from visiontool import Classifier
classifier = Classifier.load(weights, device='cpu', threads=threads)
def run(batch):
    classifier.outputs(batch, 'logits')
"""
TORCH = """
import timm, torch
torch.set_num_threads(threads)
model = timm.create_model('resnet50').eval().to(memory_format=torch.channels_last)
model.load_state_dict(torch.load(weights))
mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
def network(image):
    return model((image.permute(0, 3, 1, 2).float() / 255 - mean) / std)
network = torch.compile(network, dynamic=False) if {compiled} else network
@torch.inference_mode()
def run(batch):
    network(torch.from_numpy(batch)).numpy()
"""
SIDES = {FP32: OURS, INT8: OURS, EAGER: TORCH.format(compiled=False), COMPILED: TORCH.format(compiled=True)}


def networks(folder: Path, pictures: list[Path]) -> dict[str, Path]:
    """ResNet-50 with random weights: for each side the file that it loads."""
    import timm
    import torch

    from visiontool.model.spec import InputSpec
    from visiontool.pytorch.convert import convert

    torch.manual_seed(0)
    model = timm.create_model("resnet50")
    torch.save(model.state_dict(), folder / "resnet50.pth")
    spec = ModelSpec(
        name="resnet50_random",
        labels=tuple(f"class {index}" for index in range(1000)),
        input=InputSpec(size=(SIZE, SIZE), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    )
    fp32, int8 = folder / "fp32.onnx", folder / "int8.onnx"
    spec = convert(model, spec, fp32, pictures)
    graph, _ = edit.load(fp32)
    quantized = to_int8(graph, spec, [pixels_of(pictures, spec)])
    for line in quantized.notes:
        print(f"ResNet-50 in int8: {line}\n")
    onnx.helper.set_model_props(quantized.model, spec.to_metadata())
    int8.write_bytes(quantized.model.SerializeToString())
    return {FP32: fp32, INT8: int8, EAGER: folder / "resnet50.pth", COMPILED: folder / "resnet50.pth"}


def pixels_of(paths: Sequence[str | Path], spec: ModelSpec) -> NDArray[np.uint8]:
    """The pictures that can be read, (N, H, W, 3), as the network sees them."""
    recipe = Recipe.of(spec, DEFAULT_LIMITS)
    pixels = [prepare(path, recipe).pixels for path in paths]
    return np.stack([picture for picture in pixels if picture is not None])


def seconds(files: dict[str, Path], pixels: Path, threads: int, rounds: int) -> dict[tuple[str, int], list[float]]:
    """What a run takes, by side and number of pictures, round by round; two rounds before them warm up."""
    processes = {
        side: subprocess.Popen(
            [sys.executable, "-c", PROLOGUE + SIDES[side] + EPILOGUE, str(pixels), str(file), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        for side, file in files.items()
    }
    taken: dict[tuple[str, int], list[float]] = defaultdict(list)
    try:
        for batch in BATCHES:
            for turn in range(-2, rounds):
                sides = list(processes)
                first = turn % len(sides)
                for side in sides[first:] + sides[:first]:
                    process = processes[side]
                    time.sleep(PAUSE_S)
                    process.stdin.write(f"{batch}\n")  # type: ignore[union-attr]
                    process.stdin.flush()  # type: ignore[union-attr]
                    elapsed = float(process.stdout.readline())  # type: ignore[union-attr]
                    if turn >= 0:
                        taken[side, batch].append(elapsed)
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()
    return taken


def print_speed(taken: dict[tuple[str, int], list[float]]) -> None:
    """Prints a line for each side and batch."""
    print("| ResNet-50, 224 px | pictures | ms a run, median | pictures/s | times as fast as torch eager |")
    print("|---|---|---|---|---|")
    for (side, batch), times in taken.items():
        median = statistics.median(times)
        ratio = statistics.median(b / a for a, b in zip(times, taken[EAGER, batch], strict=True))
        print(f"| {side} | {batch} | {median * 1000:.1f} | {batch / median:.1f} | {ratio:.2f} |")
    print()


def speed_targets(taken: dict[tuple[str, int], list[float]], vnni: bool | None) -> list[tuple[str, bool]]:
    """What was to be reached, and whether it was."""
    targets = []
    for side, other, least in SPEEDS:
        for batch in BATCHES:
            if (other, batch) not in taken or (side == INT8 and not vnni):
                continue
            pairs = zip(taken[side, batch], taken[other, batch], strict=True)
            ratio = statistics.median(b / a for a, b in pairs)
            text = f"{side}, {batch} pictures: {ratio:.2f} times as fast as {other}, at least {least}"
            targets.append((text, ratio >= least))
    return targets


def squeezenet(shared: Path, folder: Path, threads: int, rounds: int) -> list[tuple[str, bool]]:
    """Prints how SqueezeNet answers in each precision; gives what was to be reached, and whether it was."""
    task = ants_and_bees(shared, folder)
    graph, _ = edit.load(Path(task.model))
    spec = Classifier.load(task.model, device="cpu").spec
    photos = list(find_images([str(shared / "data" / "photos")]))
    pixels = pixels_of(photos, spec)
    right = np.array([(spec.label_ids or ()).index(Path(path).parent.name) for path in photos])
    calibration = [pixels_of(task.pictures("train"), spec)]
    models = {"fp32": graph, "fp16": to_fp16(graph, spec)}
    for precision, rounding in (
        ("int8", nullcontext()),
        (FULL_INT8, patch.object(TypedGraph, "_round_weights", return_value={})),
    ):
        with rounding:
            quantized = to_int8(graph, spec, calibration)
        models[precision] = quantized.model
        for line in quantized.notes:
            print(f"SqueezeNet, {precision}: {line}\n")
    classifiers, sizes = {}, {}
    for precision, model in models.items():
        onnx.helper.set_model_props(model, spec.to_metadata())
        path = folder / f"{precision}.onnx"
        path.write_bytes(model.SerializeToString())
        classifiers[precision] = Classifier.load(path, device="cpu", threads=threads)
        sizes[precision] = path.stat().st_size
    answers = {precision: network.outputs(pixels, spec.logits).argmax(1) for precision, network in classifiers.items()}
    taken: dict[str, list[float]] = defaultdict(list)
    order = list(classifiers)
    for turn in range(-2, rounds):
        order.append(order.pop(0))
        for precision in order:
            time.sleep(PAUSE_S)
            start = time.perf_counter()
            classifiers[precision].outputs(pixels[:TIMED], spec.logits)
            if turn >= 0:
                taken[precision].append((time.perf_counter() - start) / TIMED)
    targets = []
    print(f"| SqueezeNet 1.1, {len(photos)} photos | MB | ms a picture | as in fp32 | right | right in fp32, lost |")
    print("|---|---|---|---|---|---|")
    for precision, got in answers.items():
        agreement = float((got == answers["fp32"]).mean())
        lost = int(((answers["fp32"] == right) & (got != right)).sum())
        print(
            f"| {precision} | {sizes[precision] / 1e6:.1f} | {statistics.median(taken[precision]) * 1000:.1f} "
            f"| {agreement:.1%} | {(got == right).mean():.1%} | {lost} |"
        )
        if precision in LEAST_AGREEMENT:
            least, most = LEAST_AGREEMENT[precision], MOST_LOST[precision]
            targets.append(
                (f"{precision}: {agreement:.1%} answers as in fp32, at least {least:.0%}", agreement >= least)
            )
            targets.append((f"{precision}: {lost} right answers lost, at most {most}", lost <= most))
    print()
    return targets


def processor() -> tuple[str, bool | None]:
    """The processor's name, and whether it multiplies 8-bit integers fast (VNNI); None where that is not known."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), None
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {key.strip(): value.strip() for key, value in facts.items()}
    flags = named.get("flags", "").split()
    return named.get("model name", platform.machine()), "avx512_vnni" in flags or "avx_vnni" in flags


def main() -> int:
    """Returns 0 where all targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--shared", type=Path, default=SHARED, metavar="FOLDER")
    arguments = parser.parse_args()
    name, vnni = processor()
    versions = " ".join(
        f"{package} {importlib.metadata.version(package)}" for package in ("numpy", "torch", "timm", "onnx")
    )
    import onnxruntime

    says = {True: "with VNNI", False: "without VNNI", None: "VNNI unknown"}[vnni]
    print(f"{platform.platform()}, {name} ({says}), {cores()} cores, {arguments.threads} threads each")
    print(f"Python {platform.python_version()}, onnxruntime {onnxruntime.__version__}, {versions}\n")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ[CACHE_VARIABLE] = str(folder / "cache")  # for the processes too
        pictures = sorted((ROOT / "samples").glob("*.jpg"))
        files = networks(folder, pictures)
        if shutil.which(os.environ.get("CXX", "g++")) is None:
            print("no C++ compiler: torch.compile is left out\n")
            del files[COMPILED]
        pixels = folder / "pixels.npy"
        np.save(pixels, pixels_of(pictures, Classifier.load(files[FP32], device="cpu").spec)[: max(BATCHES)])
        taken = seconds(files, pixels, arguments.threads, arguments.rounds)
        print_speed(taken)
        targets = speed_targets(taken, vnni)
        targets += squeezenet(arguments.shared, folder, arguments.threads, arguments.rounds)
    for text, is_met in targets:
        print(f"{'met' if is_met else 'NOT met'}: {text}")
    return 0 if all(is_met for _, is_met in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
