"""A run gets more classes, or more pictures of its classes, without the pictures that it was made from.

Linear discriminant analysis needs the size and the mean of each class and the scatter inside them: the run keeps that.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from threadpoolctl import threadpool_limits

from visiontool.data.loader import LoadOptions
from visiontool.data.samples import Dataset
from visiontool.errors import DataError, first_line
from visiontool.images.augment import Augment, views
from visiontool.inference.classifier import Classifier
from visiontool.inference.embeddings import embed_views
from visiontool.model.spec import ModelSpec
from visiontool.text import listed, on_one_line, plural
from visiontool.training.embed_dataset import EmbeddedDataset, seen_by_heads
from visiontool.training.head import Features, Head, Solution
from visiontool.training.head.gaussian import Statistics
from visiontool.training.head.logistic import Balance, Balancing
from visiontool.training.pictures import of_run
from visiontool.training.seen import copies
from visiontool.training.settings import Settings

STATISTICS_FILE = "statistics.npz"


class Known(NamedTuple):
    """What a run knows of its training pictures, and how its head follows from that."""

    statistics: Statistics
    features: Features
    shrinkage: float
    scale: float  # of the logits
    temperature: float

    @classmethod
    def of_run(cls, run: Path) -> "Known":
        """That of the run in the folder `run`; raises DataError where it has none."""
        file = run / STATISTICS_FILE
        try:
            with np.load(file, allow_pickle=False) as arrays:
                sizes, means, half = (arrays[name].astype(np.float64) for name in Statistics._fields)
                features = Features(tuple(arrays["widths"].tolist()), arrays["transform"].item())
                return cls(Statistics(sizes, means, half + np.tril(half, -1).T), features, *arrays["numbers"].tolist())
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
            raise DataError(
                f"{run} cannot be extended: {file} is {'broken' if file.exists() else 'missing'}.\nA run has it whose "
                "head is linear discriminant analysis, without --balance weights, --unfreeze and --from-scratch.\n"
                f"Make it again: visiontool finetune --from {run} --head lda -o {run} --force"
            ) from None

    def write(self, folder: Path) -> None:
        """Writes statistics.npz. The scatter is symmetric: a half is left out."""
        arrays = self.statistics._replace(scatter=np.tril(self.statistics.scatter))._asdict()
        arrays = {name: values.astype(np.float32) for name, values in arrays.items()}
        widths, transform = self.features
        np.savez_compressed(folder / STATISTICS_FILE, widths=widths, transform=transform, numbers=self[2:], **arrays)

    def head(self, balance: Balance) -> tuple[Head, str]:
        """The head of these statistics, and what was done about classes of different sizes."""
        balancing = Balancing.of(balance, self.statistics.sizes.astype(np.int64))
        is_balanced, width = balancing.name != "none", len(self.statistics.scatter)
        with threadpool_limits(1, user_api="blas"):
            (linear,) = self.statistics.heads([self.shrinkage], width, is_balanced=is_balanced)
        weight, bias = (values.astype(np.float32) for values in linear.scaled(self.scale))
        return Head(weight, bias, self.temperature, self.features), balancing.name


def with_known(run: Path, spec: ModelSpec, data: Dataset) -> Dataset:
    """The dataset with the classes of the run ahead of its new ones; raises DataError where that cannot be extended."""
    Known.of_run(run)
    new = [label for label in data.labels if label not in spec.labels]
    places = {label: place for place, label in enumerate((*spec.labels, *new))}
    samples = tuple(one._replace(class_id=places[data.labels[one.class_id]]) for one in data.samples)
    data = replace(data, label_ids=None if new else spec.label_ids, samples=samples, known=len(spec.labels))
    note = listed(new, "new class", "new classes") if new else "no new class, but more pictures"
    return replace(data, labels=(*places,), notes=(*data.notes, note))


def keep(settings: Settings, folder: Path, solution: Solution, embedded: EmbeddedDataset) -> None:
    """Writes statistics.npz for a run that can be extended."""
    if solution.kind == "lda" and solution.balance != "weights" and settings.train is None:
        head, shrinkage = solution.head, solution.path[solution.chosen].strength
        known = _statistics(head.features, embedded)
        Known(known, head.features, shrinkage, solution.scale, head.temperature).write(folder)


def solve(
    settings: Settings,
    run: Path,
    folder: Path,
    spec: ModelSpec,
    embedded: EmbeddedDataset,
    classifier: Classifier,
    options: LoadOptions,
) -> Solution:
    """The head of the training pictures of the `run` and of the dataset; writes statistics.npz.

    Shrinkage, scale and temperature are the run's. `classifier` is its model, `spec` that of the new one.
    """
    before = Known.of_run(run)
    after = before._replace(statistics=before.statistics.merged(_statistics(before.features, embedded)))
    after.write(folder)
    (old, _), (head, balance) = (known.head(settings.balance) for known in (before, after))
    extended: dict[str, Any] = {"run": str(run)}
    try:
        pictures = of_run(spec, run, "val")
        with seen_by_heads(settings, classifier) as (backbone, _):
            result = embed_views(backbone, pictures.paths, views(1, Augment(), 0), options)
        if not (rows := [index for index in range(len(pictures.paths)) if index not in result.errors]):
            raise DataError(f"none of {pictures.origin} can be read")
        truth, outputs = np.array(pictures.targets)[rows], result.vectors[rows, 0]
        shares = [float(np.mean(each.logits(outputs).argmax(axis=1) == truth)) for each in (old, head)]
        extended |= {"pictures": len(rows), "accuracy_before": shares[0], "accuracy_after": shares[1]}
        judges = f"{plural(len(rows), 'picture')} of {pictures.origin}"
        notes = [f"old pictures: {shares[0]:.3f} right before, {shares[1]:.3f} after, {judges}"]
    except DataError as error:
        notes = [f"old pictures: answers before and after cannot be compared, since {first_line(error)}"]
    if seen := copies(run, [one for one in embedded.fingerprints if one is not None]):
        there = plural(len(seen), "picture is", "pictures are")
        notes.append(
            f"{there} in {run} already, e.g. {on_one_line(seen[0].name)}: leave out what is, or it counts twice"
        )
    return Solution(head, "lda", balance, False, (), -1, (), tuple(notes), before.scale, extended)


def _statistics(features: Features, embedded: EmbeddedDataset) -> Statistics:
    train, classes = embedded.indices_of("train"), len(embedded.data.labels)
    outputs = features.of(embedded.outputs[train, 0])
    with threadpool_limits(1, user_api="blas"):
        return Statistics.of(outputs, embedded.class_ids[train], np.ones(len(train)), classes)
