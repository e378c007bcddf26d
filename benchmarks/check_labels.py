"""Planted wrong labels, outliers and drift: what `visiontool check` finds, beside cleanlab on the same probabilities.

    python benchmarks/check_labels.py ants=FOLDER clothing=FOLDER mnist:10:300=FOLDER tiny:20:150=FOLDER ...
        [--only labels|clean|outliers|drift]

NAME:CLASSES:MOST=FOLDER takes that many of the classes (0 for all) and at most so many pictures of each. Labels are
flipped at 1, 5 and 10 %, to any class and to the class that the head takes it for most often, with three seeds. The
features and the shrinkage are chosen once, on the labels as they are. cleanlab, where it is installed, sees the same
held-out probabilities: `find_label_issues` and `get_label_quality_scores` as they are by default. Of the other sets,
pictures are planted in the first class of each; the pictures of val (or a fifth of all) are changed for drift.
"""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter
from scipy.special import softmax

from visiontool.checking.finding import Looked
from visiontool.checking.labels import check_labels
from visiontool.checking.outliers import check_drift, check_outliers
from visiontool.data.dataset import read
from visiontool.data.samples import Sample
from visiontool.data.splits import groups_of
from visiontool.hub.resolve import resolve
from visiontool.images.augment import Augment, views
from visiontool.images.fingerprint import same
from visiontool.inference.classifier import Classifier
from visiontool.inference.embeddings import embed_views
from visiontool.training.head import HeadOptions, solve
from visiontool.training.head.select import fit_temperature
from visiontool.training.label_errors import held_out_logits, label_errors

try:
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores
except ImportError:
    find_label_issues = None

SHARES, KINDS, SEEDS, PLANTED, MOST_CHANGED = (0.01, 0.05, 0.1), ("any", "confused"), range(3), (5, 20), 100
CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "as it is": lambda image: image,
    "darkened": lambda image: ImageEnhance.Brightness(image).enhance(0.5),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(max(image.size) / 100)),
    "color cast": lambda image: Image.merge(
        "RGB",
        [band.point([round(level * by) for level in range(256)]) for band, by in zip(image.split(), CAST, strict=True)],
    ),
    "JPEG 20": lambda image: image,
}
CAST = (1.0, 0.85, 0.7)


def looked_of(text: str) -> tuple[str, Looked]:
    name, folder = text.split("=")
    name, classes, most = (*name.split(":"), "0", "0")[:3]
    data = read(Path(folder))
    labels = range(0, len(data.labels), len(data.labels) // (int(classes) or len(data.labels)))
    number = {label: place for place, label in enumerate([*labels][: int(classes) or None])}
    of_class: dict[int, list[Sample]] = defaultdict(list)
    for sample in data.samples:
        if sample.class_id in number:
            of_class[number[sample.class_id]].append(sample)
    samples = []
    for class_id, some in sorted(of_class.items()):
        drawn = np.random.default_rng(0).permutation(len(some))[: int(most) or None]
        samples += [some[place]._replace(class_id=class_id) for place in sorted(drawn.tolist())]
    labels_of = tuple(data.labels[label] for label in number)
    return name, embedded(Looked(replace(data, labels=labels_of, label_ids=None, samples=tuple(samples)), (), [], {}))


def embedded(looked: Looked) -> Looked:
    classifier = Classifier.load(resolve("efficientnet_lite0"), threads=1)
    found = embed_views(classifier, [each.path for each in looked.data.samples], views(1, Augment(), 0))
    assert not found.errors, found.errors
    return replace(looked, fingerprints=tuple(found.fingerprints), embeddings=found.vectors[:, 0])


def labels_table(name: str, looked: Looked) -> None:
    ids, count, n_classes = looked.class_ids, len(looked.embeddings), len(looked.data.labels)
    groups = groups_of(looked.data, same(looked.fingerprints))
    options = HeadOptions("lda", stages=1, balance="none")
    best = solve(looked.embeddings[:, None], ids, n_classes, groups, options=options)
    features, shrinkage = best.head.features.of(looked.embeddings), best.path[best.chosen].strength
    clean = held_out_logits(features, ids, groups, shrinkage, 0)
    confusion = np.zeros((n_classes, n_classes))
    np.add.at(confusion, (ids, clean.argmax(axis=1)), 1)
    np.fill_diagonal(confusion, -1)
    for share in SHARES:
        for kind in KINDS:
            ours, theirs = [], []
            for seed in SEEDS:
                random, labels = np.random.default_rng(seed), ids.copy()
                rows = random.permutation(count)[: round(share * count)]
                to_any = (ids[rows] + random.integers(1, n_classes, len(rows))) % n_classes
                labels[rows] = to_any if kind == "any" else confusion.argmax(axis=1)[ids[rows]]
                logits = held_out_logits(features, labels, groups, shrinkage, seed)
                which, scores, _ = label_errors(logits, labels)
                ours.append(judged(which, scores, labels != ids))
                if find_label_issues is not None:
                    scale = fit_temperature(logits, labels, np.ones(count), (1e-6, 1e6))
                    probabilities = softmax(logits / scale, axis=1)
                    issues = np.flatnonzero(find_label_issues(labels, probabilities, n_jobs=1))
                    theirs.append(judged(issues, 1 - get_label_quality_scores(labels, probabilities), labels != ids))
            sides = " | ".join(cell(side) for side in (ours, theirs))
            print(f"| {name}, {n_classes} classes, {count:,} | {share:.0%} {kind} | {sides} |", flush=True)


def judged(which: NDArray[Any], scores: NDArray[Any], wrong: NDArray[np.bool_]) -> tuple[float, ...]:
    """Precision, recall, F1 and average precision."""
    hits = wrong[which].sum()
    hit = wrong[np.argsort(-scores, kind="stable")]
    average = (np.cumsum(hit) / np.arange(1, len(hit) + 1))[hit].mean()
    return hits / max(len(which), 1), hits / wrong.sum(), 2 * hits / (len(which) + wrong.sum()), average


def cell(rounds: list[tuple[float, ...]]) -> str:
    if not rounds:
        return "- | - | -"
    precision, recall, f1, average = np.mean(rounds, axis=0)
    return f"{precision:.2f} / {recall:.2f} | {f1:.3f} | {average:.3f}"


def clean_table(name: str, looked: Looked) -> None:
    start = time.perf_counter()
    found = [*check_labels(looked, 0), *check_outliers(looked), *check_drift(looked, 0)]
    seconds = time.perf_counter() - start
    said = "; ".join(f"{each.severity}: {each.title}" for each in found) or "nothing"
    print(f"| {name} | {len(looked.embeddings):,} | {said} | {seconds:.1f} |", flush=True)


def outliers_table(name: str, looked: Looked, source: str, other: Looked) -> None:
    for count in PLANTED:
        found = []
        for seed in SEEDS:
            drawn = np.random.default_rng(seed).permutation(len(other.embeddings))[:count].tolist()
            strange = [other.data.samples[place]._replace(name=f"planted/{place}", class_id=0) for place in drawn]
            data = replace(looked.data, samples=(*looked.data.samples, *strange))
            vectors = np.concatenate([looked.embeddings, other.embeddings[drawn]])
            prints = (*looked.fingerprints, *(other.fingerprints[place] for place in drawn))
            names = [each.name for one in check_outliers(Looked(data, prints, vectors, {})) for each in one.suspects]
            hits = sum(each.startswith("planted/") for each in names)
            found.append((hits / count, hits / max(len(names), 1)))
        recall, precision = np.mean(found, axis=0)
        print(f"| {name} | {count} of {source} | {recall:.2f} | {precision:.2f} |", flush=True)


def drift_table(name: str, looked: Looked) -> None:
    splits = [sample.split for sample in looked.data.samples]
    split = next((each for each in ("val", "test") if each in splits), "val")
    places = np.random.default_rng(0).permutation(len(splits))[: len(splits) // 5].tolist()
    places = ([place for place, of in enumerate(splits) if of == split] or places)[:: -(-len(splits) // 3000)]
    for change, made in CHANGES.items():
        with TemporaryDirectory() as folder:
            samples = [each._replace(split="train") if each.split == split else each for each in looked.data.samples]
            for place in places[:MOST_CHANGED]:
                path = str(Path(folder, f"{place}.{'jpg' if change == 'JPEG 20' else 'png'}"))
                with Image.open(samples[place].path) as image:
                    made(image.convert("RGB")).save(path, quality=20)
                samples[place] = samples[place]._replace(path=path, split=split)
            found = [*check_drift(embedded(replace(looked, data=replace(looked.data, samples=tuple(samples)))), 0)]
        said = "; ".join(f"{each.title}. {each.advice}" for each in found) or "nothing"
        print(f"| {name} | {change} | {said} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="NAME[:CLASSES[:MOST]]=FOLDER")
    parser.add_argument("--only", choices=("labels", "clean", "outliers", "drift"))
    arguments = parser.parse_args()
    sets = [looked_of(text) for text in arguments.sets]

    def heads(only: str, line: str) -> bool:
        if arguments.only in (None, only):
            print(f"\n{line}\n{'|---' * (line.count('|') - 1)}|", flush=True)
        return arguments.only in (None, only)

    if heads("clean", "| as it is | pictures | findings | seconds |"):
        for name, looked in sets:
            clean_table(name, looked)
    if heads("outliers", "| set | planted | recall | precision |"):
        for name, looked in sets:
            for source, other in sets:
                if source.split("_")[0] != name.split("_")[0]:
                    outliers_table(name, looked, source, other)
    if heads("drift", "| set | the pictures of val or test | finding |"):
        for name, looked in sets:
            drift_table(name, looked)
    if find_label_issues is None:
        print("\ncleanlab is not installed: its side is left out")
    ours = "| set | flipped | precision / recall | F1 | average precision | cleanlab: precision / recall "
    if heads("labels", f"{ours}| F1 | average precision |"):
        for name, looked in sets:
            labels_table(name, looked)
    return 0


if __name__ == "__main__":
    sys.exit(main())
