"""Finetuning, from a folder of pictures to a checked model: the whole story, read from top to bottom.

The backbone stays as it is. Its embeddings of all pictures are computed once and kept (`features`), a linear head is
solved on them (`head`) and put behind the same graph (`graph`). Nothing here needs torch.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visiontool.data import dataset
from visiontool.data.loader import TIMEOUT_S
from visiontool.errors import DataError, ModelError
from visiontool.evaluation import metrics
from visiontool.evaluation.metrics import Metrics
from visiontool.hub import resolve
from visiontool.images import augment
from visiontool.images.decode import DEFAULT_LIMITS, Limits
from visiontool.inference.classifier import Classifier, softmax
from visiontool.model.spec import ModelSpec
from visiontool.progress import Progress, silent
from visiontool.training import head, report, settings, timm_files
from visiontool.training import run as run_folder
from visiontool.training.embed_dataset import UNUSED, Embedded, Means, embed, few_of, unreadable
from visiontool.training.head import Head, Solved
from visiontool.training.settings import Settings
from visiontool.training.write_model import write_model

_log = logging.getLogger(__name__)

__all__ = ["Run", "Settings", "finetune"]

SPLITS_FILE = "splits.csv"


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run.

    Attributes:
        folder: where it is.
        spec: what its model says of itself.
        metrics: on the pictures of val; with folds on all, each judged by a head that never saw it.
        solved: how the head was found.
        folds: in how many parts the pictures were judged; None where val judged.
        splits: how many pictures are in "train", "val" and "test".
        passes: pictures that went through the backbone, all views counted; what was cached did not.
    """

    folder: Path
    spec: ModelSpec
    metrics: Metrics
    solved: Solved
    folds: int | None
    splits: dict[str, int]
    passes: int


def finetune(
    wanted: Settings,
    *,
    model: Path | None = None,
    output: Path | None = None,
    force: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    workers: int | None = None,
    timeout: float = TIMEOUT_S,
    batch_size: int | None = None,
    progress: Progress = silent,
    opened: Callable[[Classifier], None] = lambda classifier: None,
) -> Run:
    """Finetunes a model on a dataset and writes the folder of the run.

    Args:
        model: the model file, where the caller has resolved `wanted.model` already.
        output: the folder of the run; None for runs/<name of the dataset>.
        force: replaces the run that is in `output`.
        limits, workers, timeout, batch_size: as `Classifier.predict_stream` takes them; the result does not depend on
            them, but for what is refused.
        progress: called with the stage ("check", "plain", "views", "head" or "folds") and how much of it is done.
        opened: called with the model whose backbone is taken, before it runs.

    Raises:
        DataError: the dataset cannot be used (`dataset.Unusable` lists all faults).
        ModelError: no such model, or one without an embedding.
        ConversionError: the run cannot be written, or what was written does not answer as it should.
        UsageError: settings that cannot be meant; `output` is taken, or inside the data.
    """
    views = augment.views(wanted.views, wanted.augment, wanted.seed)
    classifier = open_model(wanted, model, limits)
    opened(classifier)
    data = read_data(wanted, classifier)
    if wanted.labels_file is None:
        run_folder.check_outside(wanted.data, output)
    with run_folder.made(wanted.data, output, force=force) as (folder, target):
        means = Means(classifier, limits, workers, timeout, batch_size)
        for note in data.notes:
            _log.info(note)
        if data.faults:
            dataset.check(data, unreadable(data, means, progress))
        if wanted.folds is None:  # before the backbone runs, not only after it
            dataset.unjudged(data, dataset.split(data, val_share=wanted.val_share, seed=wanted.seed))
        spec = _spec_before(classifier.spec, target.name, data)
        recorded = replace(wanted, model=wanted.model or resolve.default_model()).with_absolute_paths()
        (folder / settings.FILE).write_text(recorded.to_json(), encoding="utf-8")

        seen = embed(wanted, data, views, means, progress)
        split_of = dict(zip((sample.name for sample in seen.data.samples), seen.splits, strict=True))
        splits = [split_of.get(sample.name, UNUSED) for sample in data.samples]  # of what cannot be read as well
        dataset.write_splits(folder / SPLITS_FILE, data, splits)

        train, fold_of = seen.of("train"), None
        if wanted.folds is not None:
            fold_of = dataset.folds(seen.class_ids[train], seen.groups[train], wanted.folds, wanted.seed)
            for note in dataset.unfolded(seen.data, train, fold_of):
                _log.info(note)
        solved = _solve(wanted, seen, train, progress)
        for note in solved.notes:
            _log.info(note)
        judged, probabilities = _judge(wanted, seen, train, fold_of, solved, progress)
        measured = metrics.measure(probabilities, seen.class_ids[judged], seen.data.labels)

        how = "val" if wanted.folds is None else f"{wanted.folds} folds"
        top1 = {"pictures": measured.pictures, "top1": round(measured.accuracy, 4)}
        spec = replace(spec, accuracy=({"dataset": f"{data.root.name}, {how}", **top1},))
        spec = write_model(folder, classifier, spec, seen, judged, solved.head, limits)
        if not timm_files.write(classifier.path, folder, spec, solved.head.weight, solved.head.bias):
            _log.info("The run has no files for torch: there are none of this backbone that a new head would fit.")
        counts = dict(Counter(split for split in seen.splits if split != UNUSED))
        run = Run(target, spec, measured, solved, wanted.folds, counts, seen.passes)
        report.write(folder, run, seen, judged, probabilities, limits)
    return run


def open_model(wanted: Settings, model: Path | None, limits: Limits) -> Classifier:
    """The model of the settings, ready for many pictures."""
    classifier = Classifier.load(
        model or wanted.model,
        device=wanted.device,
        provider=wanted.provider,
        threads=1,
        crop_mode=wanted.crop_mode,
        limits=limits,
    )
    classifier.embedding_output()
    classifier.check_finetunable()
    return classifier


def read_data(wanted: Settings, classifier: Classifier) -> dataset.Dataset:
    """The dataset of the settings, with the splits that they give.

    Folders that are named by the ids of the model's classes get the labels of these.
    """
    spec = classifier.spec
    known = dict(zip(spec.label_ids, spec.labels, strict=True)) if spec.label_ids else None
    data = dataset.read(
        wanted.data,
        labels_file=wanted.labels_file,
        skip_missing=wanted.on_bad == "skip",
        group=wanted.group,
        known=known,
    )
    return _with_known_splits(wanted, data)


def _with_known_splits(wanted: Settings, data: dataset.Dataset) -> dataset.Dataset:
    """The dataset with the splits of the user's file; with folds, all but test is for training.

    Where it is known what is for training, and that all of it can be read, `few` takes what it leaves of it before
    anything is computed.
    """
    splits: Sequence[str | None] = [sample.split for sample in data.samples]
    if wanted.splits_file is not None:
        splits = dataset.read_splits(wanted.splits_file, data)
    elif wanted.folds is not None:
        splits = ["test" if split == "test" else "train" for split in splits]
    known = [split for split in splits if split is not None]
    if len(known) == len(splits):
        data = replace(data, notes=tuple(note for note in data.notes if note != dataset.VAL_IS_DRAWN))
        if wanted.on_bad == "fail":
            splits = few_of(data, known, wanted.few, wanted.seed)
    samples = tuple(sample._replace(split=split) for sample, split in zip(data.samples, splits, strict=True))
    return replace(data, samples=samples)


def _spec_before(base: ModelSpec, name: str, data: dataset.Dataset) -> ModelSpec:
    """What the new model says of itself, but for what is not known yet: temperature and accuracy."""
    weights = {
        "source": f"{base.name}, with a new head for {data.root.name}",
        "backbone": base.weights.get("source", base.name),
        "license": base.weights.get("license", "not known"),
    }
    spec = replace(base, name=name, labels=data.labels, label_ids=data.label_ids, weights=weights, accuracy=())
    try:
        ModelSpec.from_json(spec.to_json())
    except (ModelError, UnicodeEncodeError) as error:
        raise DataError(f"{data.root}: these labels cannot be those of a model: {error}") from None
    return spec


def _solve(wanted: Settings, seen: Embedded, train: NDArray[np.intp], progress: Progress) -> Solved:
    """The head for the pictures `train`."""
    return head.solve(
        seen.embeddings[train],
        seen.class_ids[train],
        len(seen.data.labels),
        seen.groups[train],
        balance=wanted.balance,
        seed=wanted.seed,
        progress=lambda done, total: progress("head", done, total),
    )


def _judge(
    wanted: Settings,
    seen: Embedded,
    train: NDArray[np.intp],
    fold_of: NDArray[np.intp] | None,
    solved: Solved,
    progress: Progress,
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The pictures that the head is judged by, and its probabilities for them, (N, C).

    With folds each picture is judged by a head that was solved, strength, temperature and all, without its fold.
    """
    if fold_of is None:
        judged = seen.of("val")
        return judged, _probabilities(solved.head, seen, judged)
    probabilities = np.zeros((len(train), len(seen.data.labels)))
    numbers = np.unique(fold_of[fold_of >= 0]).tolist()
    for done, fold in enumerate(numbers, 1):
        out = fold_of == fold
        others = _solve(wanted, seen, train[~out], lambda stage, done, total: None)
        probabilities[out] = _probabilities(others.head, seen, train[out])
        progress("folds", done, len(numbers))
    return train[fold_of >= 0], probabilities[fold_of >= 0]


def _probabilities(head: Head, seen: Embedded, indices: NDArray[np.intp]) -> NDArray[np.float64]:
    return softmax(seen.embeddings[indices, 0] @ head.weight.T + head.bias, head.temperature)
