"""One trial: how good settings are on held-out pictures of the data, and on those kept aside."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontool.data.loader import LoadOptions
from visiontool.data.samples import Dataset, check
from visiontool.data.splits import folds
from visiontool.errors import UsageError
from visiontool.evaluation.benchmark.process import latency_of
from visiontool.evaluation.metrics import losses_of
from visiontool.images import augment
from visiontool.inference.classifier import Classifier
from visiontool.progress import Progress
from visiontool.pytorch.train.recipe import Epoch
from visiontool.searching.journal import Outcome
from visiontool.training import train
from visiontool.training.cross_validation import cross_validate, probabilities_of, solve
from visiontool.training.embed_dataset import UNUSED, EmbeddedDataset, embed
from visiontool.training.finetune import new_spec, open_model, read_data, solve_head
from visiontool.training.settings import Settings

FOLDS = 5
EpochDone = Callable[[Sequence[Epoch]], None]


class Opened(NamedTuple):
    """The pictures of a search, embedded: "train" is for trials, "val" is kept aside."""

    data: Dataset  # as it was read
    embedded: EmbeddedDataset  # without what cannot be read
    backbone: Classifier
    latency_ms: float


class Pictures(NamedTuple):
    """What the trials of a search have in common; the groups are numbers."""

    digest: str  # of names, labels and splits
    groups: NDArray[np.int64]  # (N,) of the pictures that judge trials
    aside: NDArray[np.int64]  # (M,) of the pictures kept aside


class Trials:
    """Judges settings. What several of them share is computed once."""

    def __init__(self, options: LoadOptions, progress: Progress) -> None:
        self._options, self._progress = options, progress
        self._opened = lru_cache(maxsize=2)(self._open)

    def opened(self, settings: Settings) -> Opened:
        """The pictures as the backbone of the settings sees them."""
        usual: dict[str, Any] = dict.fromkeys(("head", "transform", "stages", "balance"), "auto")
        return self._opened(replace(settings, **usual, train=None))

    def _open(self, settings: Settings) -> Opened:
        backbone = open_model(settings, None, self._options.limits)
        data = with_aside(read_data(settings, backbone.spec))
        check(data)
        if data.is_multilabel:
            raise UsageError(f"{data.root}: search is for one label a picture; of several, finetune chooses the head")
        views = augment.views(settings.views, settings.augment, settings.seed)
        embedded = embed(settings, data, backbone, views, self._options, self._progress)
        return Opened(data, embedded, backbone, latency_of(backbone))

    def pictures(self, settings: Settings) -> Pictures:
        """What all trials have in common."""
        embedded = self.opened(settings).embedded
        names = [[sample.name, sample.class_id] for sample in embedded.data.samples]
        digest = hashlib.sha256(repr([names, embedded.splits]).encode("utf-8", "surrogateescape")).hexdigest()
        aside = embedded.groups[embedded.indices_of("val")]
        return Pictures(digest, embedded.groups[_judging(settings, embedded)], aside)

    def split(self, settings: Settings) -> tuple[Dataset, list[str]]:
        """The dataset, and its splits for a run of the settings that the pictures kept aside can judge."""
        data, embedded, *_ = self.opened(settings)
        part = embedded if settings.train is None else _with_val(settings, embedded)
        split_of = dict(zip((sample.name for sample in part.data.samples), part.splits, strict=True))
        return data, [split_of.get(sample.name, UNUSED) for sample in data.samples]

    def judge(self, settings: Settings, epoch_done: EpochDone) -> Outcome:
        """Judges settings by cross-validation; a network that is trained by one of the folds.

        Args:
            epoch_done: called with the history of a network that is trained; what it raises ends the trial.
        """
        start = time.perf_counter()
        _, embedded, backbone, latency_ms = self.opened(settings)
        if settings.stages != "auto" and int(settings.stages) > len(embedded.widths):
            raise UsageError(f"--stages {settings.stages}: of this network a head can see {len(embedded.widths)}")
        if settings.train is None:
            learned = embedded.indices_of("train")
            _, probabilities = cross_validate(settings, FOLDS, embedded, learned, self._progress)
            head = solve(settings, embedded, learned).head
            aside = probabilities_of(head, embedded, embedded.indices_of("val"))
        else:
            probabilities, aside = self._train(settings, _with_val(settings, embedded), backbone, epoch_done)
        class_ids = embedded.class_ids[_judging(settings, embedded)]
        return Outcome(
            probabilities.argmax(axis=1) == class_ids,
            float(losses_of(probabilities, class_ids)["nll"].mean()),
            aside.argmax(axis=1) == embedded.class_ids[embedded.indices_of("val")],
            latency_ms,
            backbone.path.stat().st_size if backbone.path.is_file() else 0,
            time.perf_counter() - start,
        )

    def _train(
        self, settings: Settings, part: EmbeddedDataset, backbone: Classifier, epoch_done: EpochDone
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Probabilities of val and of test by a network that is trained on the rest."""
        spec = new_spec(backbone.spec, "trial", part.data, is_new=False)
        with TemporaryDirectory(ignore_cleanup_errors=True) as name:
            folder, options = Path(name), self._options
            solve_head(settings, folder, spec, part, backbone, options, self._progress)
            return train.try_training(settings, folder, spec, part, options, self._progress, epoch_done)


def _judging(settings: Settings, embedded: EmbeddedDataset) -> NDArray[np.intp]:
    """The indices of the pictures that judge trials: those of all folds, or of one where a network is trained."""
    train = embedded.indices_of("train")
    fold_of = folds(embedded.class_ids[train], embedded.groups[train], FOLDS, settings.seed)
    return train[fold_of >= 0] if settings.train is None else train[fold_of == 0]


def _with_val(settings: Settings, embedded: EmbeddedDataset) -> EmbeddedDataset:
    """The dataset with the pictures that judge trials as val, and those kept aside as test."""
    splits = np.array(["test" if split == "val" else split for split in embedded.splits], object)
    splits[_judging(settings, embedded)] = "val"
    return replace(embedded, splits=tuple(splits.tolist()))


def with_aside(data: Dataset) -> Dataset:
    """The dataset with its test kept aside as val, where it has one; all else is for trials.

    Where it has none, its val is kept aside, or what is drawn as val.
    """
    if not any(sample.split == "test" for sample in data.samples):
        return data
    as_ = {"test": "val", UNUSED: UNUSED}
    samples = tuple(sample._replace(split=as_.get(sample.split or "train", "train")) for sample in data.samples)
    return replace(data, samples=samples)
