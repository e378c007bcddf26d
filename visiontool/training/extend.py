"""A run gets more classes, or pictures, without those that it was made from: it keeps what its head needs of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from visiontool.data.loader import LoadOptions
from visiontool.data.samples import Dataset
from visiontool.errors import DataError, first_line
from visiontool.images.augment import Augment, views
from visiontool.inference.classifier import Classifier
from visiontool.inference.embeddings import embed_views
from visiontool.model.spec import ModelSpec
from visiontool.text import some
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
        try:
            with np.load(run / STATISTICS_FILE, allow_pickle=False) as arrays:
                sizes, means, half = (arrays[name].astype(np.float64) for name in Statistics._fields)
                features = Features(tuple(arrays["widths"].tolist()), arrays["transform"].item())
                return cls(Statistics(sizes, means, half + np.tril(half, -1).T), features, *arrays["numbers"].tolist())
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
            raise DataError(
                f"{run} cannot be extended: it has no {STATISTICS_FILE} that can be read. It gets one by --head lda,\n"
                f"but not with --balance weights or torch: visiontool finetune --from {run} --head lda -o {run} --force"
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
    return replace(data, labels=(*places,), notes=(*data.notes, f"new classes: {some(new) or 'none'}"))


def keep(settings: Settings, folder: Path, solution: Solution, embedded: EmbeddedDataset) -> None:
    """Writes statistics.npz for a run that can be extended."""
    if solution.kind == "lda" and solution.balance != "weights" and settings.train is None:
        seen, shrinkage = solution.head.features, solution.path[solution.chosen].strength
        Known(_statistics(seen, embedded), seen, shrinkage, solution.scale, solution.head.temperature).write(folder)


def solve(
    settings: Settings, run: Path, folder: Path, embedded: EmbeddedDataset, base: Classifier, options: LoadOptions
) -> Solution:
    """The head of the training pictures of `run`, whose model is `base`, and of the dataset; writes statistics.npz."""
    before = Known.of_run(run)
    after = before._replace(statistics=before.statistics.merged(_statistics(before.features, embedded)))
    after.write(folder)
    (old, _), (head, balance) = (known.head(settings.balance) for known in (before, after))
    extended: dict[str, Any] = {"run": str(run)}
    try:
        paths, targets, origin = of_run(replace(base.spec, labels=embedded.data.labels), run, "val")
        with seen_by_heads(settings, base) as (backbone, _):
            result = embed_views(backbone, paths, views(1, Augment(), 0), options)
        rows = [index for index in range(len(paths)) if index not in result.errors]
        answers = [each.logits(result.vectors[rows, 0]).argmax(axis=1) for each in (old, head)]
        shares = [float(np.sum(answer == np.array(targets)[rows])) / max(1, len(rows)) for answer in answers]
        extended |= {"pictures": len(rows), "accuracy_before": shares[0], "accuracy_after": shares[1]}
        notes = [f"old pictures: {shares[0]:.3f} right before, {shares[1]:.3f} after, {len(rows):,} of {origin}"]
    except DataError as error:
        notes = [f"old pictures: answers before and after cannot be compared, since {first_line(error)}"]
    if seen := copies(run, [one for one in embedded.fingerprints if one is not None]):
        notes.append(f"in {run} already, so they count twice: {some([one.name for one in seen])}")
    return Solution(head, "lda", balance, False, (), -1, (), tuple(notes), before.scale, extended=extended)


def _statistics(features: Features, embedded: EmbeddedDataset) -> Statistics:
    train, classes = embedded.indices_of("train"), len(embedded.data.labels)
    seen, class_ids = features.of(embedded.outputs[train, 0]), embedded.class_ids[train]
    return Statistics.of(seen, class_ids, np.ones(len(train)), classes)
