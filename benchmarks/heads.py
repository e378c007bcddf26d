"""Heads on frozen backbones: accuracy by the number of pictures a class, beside the head of before and scikit-learn.

    python benchmarks/heads.py ants=FOLDER clothing=FOLDER ... [-m efficientnet_lite0] [-m squeezenet1_1]

Each FOLDER is a data set as `visiontool finetune` takes it; what is for training is drawn from its train, and its test
(or, where there is none, its val) judges. `benchmarks/drawn.py` draws two of them. Sides, all on the same pictures and
outputs of the same backbone, or of two joined (-m efficientnet_lite0,squeezenet1_1):

- before: logistic regression on the embedding, for 5 pictures a class and fewer also nearest class means, by folds;
- visiontool: what `visiontool finetune` chooses;
- scikit-learn: LogisticRegressionCV on the standardized embedding, without mirrored views;
- with --ablate, instead of scikit-learn: visiontool with one of its choices made;
- with --left-out, instead of scikit-learn: discriminant analysis on the embedding in ways that visiontool does not try.

Seconds are those of the head alone, on one core and with the outputs at hand. NAME:20=FOLDER takes 20 of the classes.
"""

import argparse
import platform
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from visiontool.data.dataset import read
from visiontool.data.loader import cores
from visiontool.exporting.merge import joined_backbones
from visiontool.hub.resolve import resolve
from visiontool.images.augment import LEVELS, Augment, views
from visiontool.inference.classifier import Classifier
from visiontool.inference.embeddings import embed_views
from visiontool.training.embed_dataset import seen_by_heads
from visiontool.training.head import Features, HeadOptions, solve
from visiontool.training.settings import Settings

FEW_SHOT = 5
MOST_JUDGED = 2000
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # of scikit-learn, inverse
ANY, PLAIN = HeadOptions(), HeadOptions("logistic", "none", 1)
ABLATED = {
    "the embedding alone": HeadOptions(stages=1),
    "not transformed": HeadOptions(transform="none"),
    "logistic regression": HeadOptions("logistic"),
    "class means": HeadOptions("means"),
}
LEFT_OUT = ("as it is", "mirrored too", "L2", "power", "power, standardized", "power, Ledoit-Wolf")
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Outputs(NamedTuple):
    """What a backbone gives for the pictures of a data set."""

    train: Floats  # (N, V, D)
    train_ids: Ints  # (N,)
    test: Floats  # (M, D)
    test_ids: Ints  # (M,)
    widths: tuple[int, ...]
    paths: tuple[list[str], list[str]]  # of the pictures for training, and of those of the test


class Side(NamedTuple):
    """What one side did with one draw."""

    accuracy: float
    seconds: float
    what: str


def outputs_of(model: str, folder: Path, classes: int | None, most: int | None) -> Outputs:
    """The outputs for at most `most` pictures of each class for training, and some 2,000 to judge."""
    data = read(folder)
    labels = range(0, len(data.labels), len(data.labels) // classes) if classes else range(len(data.labels))
    number_of = {label: number for number, label in enumerate([*labels][:classes])}
    judge = "test" if any(sample.split == "test" for sample in data.samples) else "val"
    of_class: dict[tuple[str, int], list[str]] = defaultdict(list)
    for sample in data.samples:
        split = sample.split or "train"  # of which val would be drawn
        if split in ("train", judge) and sample.class_id in number_of:
            of_class[split, number_of[sample.class_id]].append(sample.path)
    per_class = {"train": most, judge: max(1, MOST_JUDGED // len(number_of))}
    paths, ids = defaultdict[str, list[str]](list), defaultdict[str, list[int]](list)
    for (split, class_id), some in sorted(of_class.items()):
        for path in np.random.default_rng(0).permutation(some)[: per_class[split]].tolist():
            paths[split].append(path)
            ids[split].append(class_id)
    with joined_backbones([resolve(name) for name in model.split(",")]) as file:
        backbone = Classifier.load(file, threads=1)
        with seen_by_heads(Settings(data=folder), backbone) as (seen, widths):
            found = [
                embed_views(seen, paths[split], views(count, augment, 0))
                for split, count, augment in (("train", 2, LEVELS["light"]), (judge, 1, Augment()))
            ]
    sides, readable = [], []
    for split, embedded in zip(("train", judge), found, strict=True):
        places = [place for place in range(len(paths[split])) if place not in embedded.errors]
        sides += [embedded.vectors[places], np.array(ids[split])[places]]
        readable.append([paths[split][place] for place in places])
    return Outputs(sides[0], sides[1], sides[2][:, 0], sides[3], widths, (readable[0], readable[1]))


def before(data: Outputs, drawn: Ints, seed: int) -> Side:
    """The head that visiontool had before."""
    start, ids, width = time.perf_counter(), data.train_ids[drawn], data.widths[0]
    classes, groups = int(ids.max()) + 1, np.arange(len(ids))
    kinds = [PLAIN, PLAIN._replace(kind="means")] if np.bincount(ids).min() <= FEW_SHOT else [PLAIN]
    solved = [solve(data.train[drawn, :, :width], ids, classes, groups, options=kind, seed=seed) for kind in kinds]
    best = min(solved, key=lambda each: each.candidates[0].nll)
    right = best.head.logits(data.test[:, :width]).argmax(axis=1) == data.test_ids
    return Side(float(right.mean()), time.perf_counter() - start, best.kind)


def ours(data: Outputs, drawn: Ints, seed: int, options: HeadOptions = ANY) -> Side:
    """What visiontool chooses, as far as the options leave it open."""
    start, ids = time.perf_counter(), data.train_ids[drawn]
    classes, groups = int(ids.max()) + 1, np.arange(len(ids))
    solution = solve(data.train[drawn], ids, classes, groups, widths=data.widths, options=options, seed=seed)
    right = solution.head.logits(data.test).argmax(axis=1) == data.test_ids
    what = f"{solution.kind} on {len(solution.head.features.widths)}"
    return Side(float(right.mean()), time.perf_counter() - start, what)


def scikit_learn(data: Outputs, drawn: Ints, seed: int) -> Side:
    """scikit-learn's logistic regression, with the penalty by its own folds."""
    start, ids, width = time.perf_counter(), data.train_ids[drawn], data.widths[0]
    folds = min(5, int(np.bincount(ids).min()))
    regression = LogisticRegressionCV(
        Cs=PENALTIES, cv=folds, l1_ratios=(0,), scoring="neg_log_loss", use_legacy_attributes=False, random_state=seed
    )
    model = make_pipeline(StandardScaler(), regression).fit(data.train[drawn, 0, :width], ids)
    right = model.predict(data.test[:, :width]) == data.test_ids
    return Side(float(right.mean()), time.perf_counter() - start, "")


def discriminant(data: Outputs, drawn: Ints, seed: int, way: str) -> Side:
    """Linear discriminant analysis on the embedding, brought into a form by `way`."""
    start, ids, width = time.perf_counter(), data.train_ids[drawn], data.widths[0]
    train, test = data.train[drawn, :1, :width], data.test[:, :width]
    if "mirrored" in way:  # as further pictures, which stay with theirs
        train, ids = data.train[drawn, :, :width].reshape(-1, 1, width), np.repeat(ids, data.train.shape[1])
    groups = np.arange(len(ids)) // (len(ids) // len(drawn))
    if "L2" in way:
        train, test = (each / np.linalg.norm(each, axis=-1, keepdims=True) for each in (train, test))
    if "power" in way:
        train, test = (Features((width,), "power").of(each) for each in (train, test))
    if "standardized" in way:
        mean, deviation = train.mean(axis=(0, 1)), train.std(axis=(0, 1)) + 1e-6
        train, test = (train - mean) / deviation, (test - mean) / deviation
    if "Ledoit" in way:
        answers = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(train[:, 0], ids).predict(test)
    else:
        options = HeadOptions("lda", "none", 1)
        solution = solve(train, ids, int(ids.max()) + 1, groups, options=options, seed=seed)
        answers = solution.head.logits(test).argmax(axis=1)
    return Side(float((answers == data.test_ids).mean()), time.perf_counter() - start, "")


def draw(ids: Ints, count: int | None, seed: int) -> Ints:
    """The indices of `count` pictures of each class, in order; None for all."""
    order = np.random.default_rng(seed).permutation(len(ids))
    return np.sort(np.concatenate([order[ids[order] == class_id][:count] for class_id in np.unique(ids)]))


def main() -> int:
    """Prints a table for each backbone; returns 1 where a mean over the sets is below that of the head of before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="NAME[:CLASSES]=FOLDER")
    parser.add_argument("-m", "--model", action="append", help="of any backbone that finetune takes, or A,B")
    parser.add_argument("--counts", default="5,20,50,all", help="pictures a class")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--most", type=int, help="pictures a class that are opened at all")
    parser.add_argument("--ablate", action="store_true", help="the sides with one choice made, not scikit-learn")
    parser.add_argument("--left-out", action="store_true", help="the sides that are no choices, not scikit-learn")
    arguments = parser.parse_args()
    sides: dict[str, Callable[[Outputs, Ints, int], Side]] = {
        "before": before,
        "visiontool": ours,
        **({name: partial(ours, options=one) for name, one in ABLATED.items()} if arguments.ablate else {}),
    }
    if arguments.left_out:
        sides |= {way: partial(discriminant, way=way) for way in LEFT_OUT}
    elif not arguments.ablate:
        sides["scikit-learn"] = scikit_learn
    print(f"{platform.platform()}, {cores()} cores, scikit-learn {sklearn.__version__}")
    is_met = True
    for model in arguments.model or ["efficientnet_lite0"]:
        is_met &= table(model, arguments, sides)
    return 0 if is_met else 1


def table(model: str, arguments: argparse.Namespace, sides: dict[str, Callable[[Outputs, Ints, int], Side]]) -> bool:
    """Prints the table of one backbone; whether no mean is below that of before."""
    counts = [None if count == "all" else int(count) for count in arguments.counts.split(",")]
    print(f"\n{model}, mean accuracy (mean seconds) of {arguments.seeds} draws\n")
    print("| set | pictures a class | " + " | ".join(sides) + " | what visiontool chose |")
    print("|---|---|" + "---|" * (len(sides) + 1))
    means: dict[tuple[int | None, str], list[float]] = defaultdict(list)
    for text in arguments.sets:
        name, _, folder = text.partition("=")
        name, _, classes = name.partition(":")
        data = outputs_of(model, Path(folder), int(classes) if classes else None, arguments.most)
        for count in counts:
            found: dict[str, list[Side]] = defaultdict(list)
            for seed in range(arguments.seeds if count else 1):  # all of them are the same in each draw
                drawn = draw(data.train_ids, count, seed)
                with threadpool_limits(1):
                    for side, run in sides.items():
                        found[side].append(run(data, drawn, seed))
            cells = [cell(found[side]) for side in sides]
            for side in sides:
                means[count, side].append(statistics.mean(each.accuracy for each in found[side]))
            chosen = ", ".join(
                f"{what} ({times})" for what, times in Counter(one.what for one in found["visiontool"]).most_common(2)
            )
            classes = f"{name}, {len(np.unique(data.train_ids))} classes"
            print(f"| {classes} | {count or 'all'} | {' | '.join(cells)} | {chosen} |", flush=True)
    for count in counts:
        cells = [f"{statistics.mean(means[count, side]):.3f}" for side in sides]
        print(f"| mean of the sets | {count or 'all'} | {' | '.join(cells)} | |")
    return all(
        statistics.mean(means[count, "visiontool"]) >= statistics.mean(means[count, "before"]) for count in counts
    )


def cell(found: Sequence[Side]) -> str:
    """The mean accuracy, and seconds, of some draws."""
    return f"{statistics.mean(one.accuracy for one in found):.3f} ({statistics.mean(one.seconds for one in found):.1f})"


if __name__ == "__main__":
    sys.exit(main())
