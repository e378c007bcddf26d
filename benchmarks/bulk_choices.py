"""The measurements behind the choice of threads, batch size, spinning, processes and draft for many pictures.

    python benchmarks/bulk_choices.py MODEL.onnx FOLDER [--pictures 200] [--rounds 3]

Prints milliseconds per picture, as medians of rounds that alternate all variants (docs/scale.md). MODEL is a model
file of visiontool, FOLDER contains JPEGs.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnxruntime

from visiontool.data.loader import LoadOptions, StageTimes, batches, cores, load, map_ahead
from visiontool.data.prepare import Prepared, Recipe, prepare
from visiontool.images.decode import DEFAULT_LIMITS
from visiontool.model.spec import MANIFEST_KEY, ModelSpec


def session(path: Path, threads: int, spinning: bool) -> onnxruntime.InferenceSession:
    """A session on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def predict(
    network: onnxruntime.InferenceSession, at_once: int, batch: int, isolate: bool, files: list[str], recipe: Recipe
) -> None:
    """Opens files and runs them through a network, as `Classifier.predict_stream` does."""

    def run(items: list[Prepared]) -> object:
        pixels = np.stack([item.pixels for item in items if item.pixels is not None])
        return network.run(["logits"], {"image": pixels})

    items = load(files, recipe, LoadOptions(isolate=isolate), ahead=batch * (1 + at_once))
    exhaust(map_ahead(run, batches(items, batch), at_once, StageTimes()))


def exhaust(items: Iterable[object]) -> None:
    """Takes all items."""
    for _ in items:
        pass


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    files = [str(path) for path in sorted(arguments.folder.rglob("*.jpg"))][: arguments.pictures]
    together, still, alone = (session(arguments.model, *how) for how in ((cores(), True), (cores(), False), (1, False)))
    spec = ModelSpec.from_json(alone.get_modelmeta().custom_metadata_map[MANIFEST_KEY])
    recipe = Recipe.of(spec, DEFAULT_LIMITS)
    ways: dict[str, Callable[[], None]] = {}
    for batch in (1, 4, 8, 32):
        ways |= {
            f"batch {batch}: one run on all cores, spinning": lambda b=batch: predict(
                together, 1, b, False, files, recipe
            ),
            f"batch {batch}: one run on all cores": lambda b=batch: predict(still, 1, b, False, files, recipe),
            f"batch {batch}: a run a core": lambda b=batch: predict(alone, cores(), b, False, files, recipe),
            f"batch {batch}: a run a core, processes": lambda b=batch: predict(alone, cores(), b, True, files, recipe),
        }
    ways["opening one file, with draft"] = lambda: exhaust(prepare(path, recipe) for path in files)
    whole = recipe._replace(resize_to=2**20)  # so big that no JPEG is decoded at less than its size
    ways["opening one file, without"] = lambda: exhaust(prepare(path, whole) for path in files)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append((time.perf_counter() - start) / len(files) * 1000)
    print(f"{platform.platform()}, {cores()} of {os.cpu_count()} cores, onnxruntime {onnxruntime.__version__}\n")
    print(f"| {spec.name}, {len(files)} files of {arguments.folder.name} | ms a picture |\n|---|---|")
    for name, values in times.items():
        print(f"| {name} | {statistics.median(values):.2f} |")


if __name__ == "__main__":
    main()
