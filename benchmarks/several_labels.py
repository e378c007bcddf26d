"""Several labels a picture on a frozen backbone: visiontool's head beside scikit-learn's logistic regressions.

    python benchmarks/several_labels.py clothing=FOLDER tiny:20=FOLDER [--counts 200,1000] [--seeds 3]

From each data set, as `visiontool finetune` takes it, collages are drawn: 256x256 pixels with 0 to 3 of its pictures on
a plain ground, some classes more often than others, and the labels of what is on it. Those for training are of its
train, 800 to judge are of its test (or, where there is none, its val). NAME:20=FOLDER takes 20 of the classes.

Sides, on the same outputs of the backbone: visiontool; the same on the embedding alone; a LogisticRegressionCV for each
label, at thresholds of 0.5. Target: at least scikit-learn's mAP and micro F1 on the mean. Seconds are those of the head
alone, on one core.
"""

import argparse
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import sklearn
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import average_precision_score, f1_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from visiontool.data.dataset import read
from visiontool.data.loader import cores
from visiontool.data.splits import folds_of_sets
from visiontool.images.augment import Augment, views
from visiontool.inference.classifier import Classifier
from visiontool.inference.embeddings import embed_views
from visiontool.inference.network import sigmoid
from visiontool.training.embed_dataset import seen_by_heads
from visiontool.training.head import HeadOptions
from visiontool.training.head.multilabel import solve
from visiontool.training.settings import Settings

SIDE, MOST_ON_ONE, JUDGED = 256, 3, 800
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # inverse
Targets = NDArray[np.bool_]


def collages(folder: Path, classes: int | None, target: Path, count: int) -> dict[str, tuple[list[str], Targets]]:
    """Draws collages of the data in `folder`: of train and test their paths and labels (N, L)."""
    random, data = np.random.default_rng(0), read(folder)
    labels = [*range(0, len(data.labels), len(data.labels) // (classes or len(data.labels)))][:classes]
    judge = "test" if any(sample.split == "test" for sample in data.samples) else "val"
    sources = defaultdict[tuple[str, int], list[str]](list)
    for sample in data.samples:
        sources[sample.split or "train", sample.class_id].append(sample.path)
    often = random.permutation(1 / np.arange(1, len(labels) + 1) ** 0.7)
    found = {}
    for name, split, number in (("train", "train", count), ("test", judge, JUDGED)):
        paths, targets = [], np.zeros((number, len(labels)), bool)
        for index in range(number):
            on_it = random.choice(len(labels), random.integers(MOST_ON_ONE + 1), replace=False, p=often / often.sum())
            targets[index, on_it] = True
            picture = collage(random, [str(random.choice(sources[split, labels[each]])) for each in on_it])
            paths.append(str(target / f"{name}{index}.png"))
            picture.save(paths[-1])
        found[name] = paths, targets
    return found


def collage(random: Generator, paths: list[str]) -> Image.Image:
    """One with these pictures, each in a quarter of its own."""
    picture = Image.new("RGB", (SIDE, SIDE), tuple(random.integers(0, 256, 3).tolist()))
    for quarter, path in zip(random.permutation(4).tolist(), paths, strict=False):
        side = int(random.integers(SIDE // 3, SIDE // 2))
        left, top = random.integers(0, SIDE // 2 - side + 1, 2).tolist()
        part = Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        picture.paste(part, (left + SIDE // 2 * (quarter % 2), top + SIDE // 2 * (quarter // 2)))
    return picture


def ours(
    outputs: NDArray[np.float32], targets: Targets, test: NDArray[np.float32], widths: tuple[int, ...], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64] | float]:
    """Probabilities of the test, and thresholds."""
    sets = [tuple(np.flatnonzero(row)) or (-1,) for row in targets]
    fold_of = folds_of_sets(sets, np.arange(len(sets)), 5, seed)
    solution, thresholds = solve(outputs, targets, fold_of, widths, HeadOptions(), lambda done, total: None)
    return sigmoid(solution.head.logits(test)), thresholds


def scikit_learn(
    outputs: NDArray[np.float32], targets: Targets, test: NDArray[np.float32], widths: tuple[int, ...], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64] | float]:
    """The same of a logistic regression for each label, on the standardized embedding."""
    regression = LogisticRegressionCV(
        Cs=PENALTIES, cv=5, l1_ratios=(0,), scoring="neg_log_loss", use_legacy_attributes=False, random_state=seed
    )
    model = OneVsRestClassifier(make_pipeline(StandardScaler(), regression))
    return model.fit(outputs[:, : widths[0]], targets).predict_proba(test[:, : widths[0]]), 0.5


def main() -> int:
    """Prints the table; returns 1 where the target is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="NAME[:CLASSES]=FOLDER")
    parser.add_argument("-m", "--model", default="efficientnet_lite0")
    parser.add_argument("--counts", default="200,1000", help="collages for training")
    parser.add_argument("--seeds", type=int, default=3, help="draws of them")
    arguments = parser.parse_args()
    counts = [int(count) for count in arguments.counts.split(",")]
    print(f"{platform.platform()}, {cores()} cores, scikit-learn {sklearn.__version__}, {arguments.model}\n")
    print("| set | collages | side | mAP | micro F1 | macro F1 | Brier | s |\n|---|---|---|---|---|---|---|---|")
    backbone, sides = (
        Classifier.load(arguments.model, threads=1),
        {"visiontool": ours, "the embedding alone": ours, "scikit-learn": scikit_learn},
    )
    means = defaultdict[str, list[list[float]]](list)
    for text in arguments.sets:
        name, _, folder = text.partition("=")
        name, _, classes = name.partition(":")
        with (
            tempfile.TemporaryDirectory() as target,
            seen_by_heads(Settings(data=Path(folder)), backbone) as (seen, widths),
        ):
            drawn = collages(Path(folder), int(classes) if classes else None, Path(target), 2 * max(counts))
            outputs = {
                split: embed_views(seen, paths, views(1, Augment(), 0), use_cache=False).vectors[:, 0]
                for split, (paths, _) in drawn.items()
            }
        truth = drawn["test"][1]
        for count in counts:
            for side, run in sides.items():
                used = widths[:1] if side == "the embedding alone" else widths
                rows = []
                for seed in range(arguments.seeds):
                    some = np.random.default_rng(seed).permutation(2 * max(counts))[:count]
                    begin, targets = time.perf_counter(), drawn["train"][1][some]
                    with threadpool_limits(1), warnings.catch_warnings(action="ignore"):
                        probabilities, least = run(outputs["train"][some], targets, outputs["test"], used, seed)
                    seconds, given = time.perf_counter() - begin, probabilities >= least
                    micro, macro = (f1_score(truth, given, average=kind) for kind in ("micro", "macro"))
                    rows.append(
                        [
                            average_precision_score(truth, probabilities),
                            micro,
                            macro,
                            float(np.mean((probabilities - truth) ** 2)),
                            seconds,
                        ]
                    )
                figures = [statistics.mean(column) for column in zip(*rows, strict=True)]
                means[side].append(figures[:2])
                cells = " | ".join([*(f"{figure:.3f}" for figure in figures[:-1]), f"{figures[-1]:.1f}"])
                print(f"| {name}, {truth.shape[1]} labels | {count:,} | {side} | {cells} |", flush=True)
    (our_map, our_f1), (their_map, their_f1) = (np.mean(means[side], axis=0) for side in ("visiontool", "scikit-learn"))
    print(f"\nmean: mAP {our_map:.3f} and {their_map:.3f}, micro F1 {our_f1:.3f} and {their_f1:.3f}")
    return 0 if our_map >= their_map and our_f1 >= their_f1 else 1


if __name__ == "__main__":
    sys.exit(main())
