"""The effect of more views of each training picture, and which of the operations causes it.

    python benchmarks/views.py [ants_and_bees] [mnist] [tiny_imagenet] [--seeds 3] [--shared FOLDER]

Reports accuracy and NLL on the val pictures for heads that were solved on K views of the training pictures: the K-curve
of each level of augmentation, and each operation alone. A head may reject the views if held-out training pictures
favor that (`visiontool.training.head.solve`); the table says how often it accepted them. Seconds are those of computing
the views that no line above has computed, and of solving the head. The datasets are those of finetune.py.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transfer_data import DATASETS, SHARED, Task

from visiontool import Classifier
from visiontool.data.loader import cores
from visiontool.evaluation.metrics import measure
from visiontool.files import CACHE_VARIABLE
from visiontool.images.augment import LEVELS, Augment, views
from visiontool.inference.embeddings import embed_views
from visiontool.inference.network import softmax
from visiontool.training.head import Head, HeadOptions, solve

OPERATIONS = {
    "crop": Augment(crop=0.5),
    "rotate": Augment(rotate=15.0),
    "shift": Augment(shift=0.1),
    "zoom": Augment(zoom=0.2),
    "brightness": Augment(brightness=0.2),
    "contrast": Augment(contrast=0.2),
    "color": Augment(color=0.2),
}


class Result(NamedTuple):
    """One head, on val."""

    accuracy: float
    nll: float
    took_views: bool
    embed_s: float
    solve_s: float


def variants(mirror: bool) -> Iterator[tuple[str, int, Augment]]:
    """Name, number of views and augmentation of each line of the table."""
    yield "the picture alone", 1, Augment()
    if mirror:
        yield "light: mirror", 2, LEVELS["light"]
    for level in ("medium", "heavy"):
        augment = replace(LEVELS[level], mirror=mirror)
        yield from ((level, count, augment) for count in ((4, 8) if mirror else (2, 4, 8)))
    for operation, augment in OPERATIONS.items():
        yield f"{operation} {getattr(augment, operation):g} alone", 4, augment


class Data:
    """The pictures of a task and their classes."""

    def __init__(self, task: Task) -> None:
        self.train, self.val = ([str(path) for path in task.pictures(split)] for split in ("train", "val"))
        self.labels = sorted({Path(path).parent.name for path in self.train})

    def class_ids(self, paths: list[str]) -> NDArray[np.intp]:
        """The class of each picture."""
        return np.array([self.labels.index(Path(path).parent.name) for path in paths])


def solved(classifier: Classifier, data: Data, count: int, augment: Augment, seed: int) -> Result:
    """A head on `count` views of each training picture."""
    start = time.perf_counter()
    train = embed_views(classifier, data.train, views(count, augment, seed)).vectors
    val = embed_views(classifier, data.val, views(1, Augment(), 0)).vectors[:, 0]
    embedded = time.perf_counter()
    class_ids = data.class_ids(data.train)
    kind = HeadOptions("logistic", "none", 1)  # which learns from views
    solution = solve(train, class_ids, len(data.labels), np.arange(len(class_ids)), options=kind, seed=seed)
    solve_s = time.perf_counter() - embedded
    accuracy, nll = on_val(solution.head, val, data.class_ids(data.val))
    return Result(accuracy, nll, solution.all_views, embedded - start, solve_s)


def on_val(head: Head, embeddings: NDArray[np.float32], class_ids: NDArray[np.intp]) -> tuple[float, float]:
    """Accuracy, and NLL in nats a picture."""
    probabilities = softmax(embeddings @ head.weight.T + head.bias, head.temperature)
    measured = measure(probabilities, class_ids, [str(index) for index in range(len(head.bias))])
    return measured.accuracy, measured.nll


def print_table(task: Task, seeds: int) -> None:
    """Prints a line for each variant."""
    classifier, data = Classifier.load(task.model, threads=1), Data(task)
    embed_views(classifier, data.val, views(1, Augment(), 0))  # not on the account of the first line
    print("| views | K | val accuracy, mean (range) | val NLL | views taken | new views, s | head, s |")
    print("|---|---|---|---|---|---|---|")
    for name, count, augment in variants(task.mirror):
        runs = [solved(classifier, data, count, augment, seed) for seed in range(seeds)]
        accuracies = [run.accuracy for run in runs]
        accuracy = f"{statistics.mean(accuracies):.4f} ({min(accuracies):.4f} to {max(accuracies):.4f})"
        nll = statistics.mean(run.nll for run in runs)
        taken = f"{sum(run.took_views for run in runs)} of {seeds}" if count > 1 else ""
        embed_s = max(run.embed_s for run in runs)  # what no seed changes is computed for the first one alone
        solve_s = statistics.median(run.solve_s for run in runs)
        print(f"| {name} | {count} | {accuracy} | {nll:.4f} | {taken} | {embed_s:.1f} | {solve_s:.1f} |", flush=True)


def main() -> int:
    """Prints a table for each dataset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="*", choices=[*DATASETS, []], metavar="DATASET", help=", ".join(DATASETS))
    parser.add_argument("--shared", type=Path, default=SHARED, metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{platform.platform()}, {cores()} cores, Python {platform.python_version()}, {arguments.seeds} seeds")
    for dataset in arguments.datasets or DATASETS:
        with tempfile.TemporaryDirectory() as name:
            os.environ[CACHE_VARIABLE] = str(Path(name) / "cache")  # for the process that pulls, too
            task = DATASETS[dataset](arguments.shared, Path(name))
            data = Data(task)
            print(f"\n{dataset}: {len(data.train)} training and {len(data.val)} val pictures, {task.weights.name}\n")
            print_table(task, arguments.seeds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
