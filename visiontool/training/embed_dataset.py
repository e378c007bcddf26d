"""A dataset opened, and embedded by the backbone: what cannot be read is left out, the rest is split."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visiontool.data.loader import LoadOptions, load
from visiontool.data.prepare import Recipe
from visiontool.data.samples import Dataset, check, without
from visiontool.data.splits import contradictions, groups_of, leaks, split, unjudged
from visiontool.errors import UsageError
from visiontool.files import MODEL_FILE
from visiontool.graph.stages import joined
from visiontool.images.augment import View
from visiontool.images.fingerprint import Fingerprint, same
from visiontool.images.transforms import share_kept
from visiontool.inference.classifier import Classifier
from visiontool.inference.embeddings import embed_views
from visiontool.model.spec import ModelSpec
from visiontool.progress import Progress
from visiontool.training.settings import Settings

_log = logging.getLogger(__name__)

_VIEW_S = 5.0  # for each further view of it: of a picture 1,000 times as wide as high one takes as long
CUT_MUCH = 0.35  # of the area of the picture in the middle of all: 4:3 and 3:2 lose less, 16:9 more
_MOST_NAMED = 3
UNUSED = ""  # the split of what is left out, as in `splits.split`


@dataclass(frozen=True)
class SplitDataset:
    """The readable pictures of a dataset, and which are for what."""

    data: Dataset
    splits: tuple[str, ...]  # "train", "val" or "test" of each of its samples; "" for one that `few` leaves out
    groups: NDArray[np.int64]  # (N,); samples with the same number stay on one side of every split
    fingerprints: tuple[Fingerprint | None, ...]  # None for test, which is not opened
    same: NDArray[np.intp]  # (N,); same pictures have the same number

    def indices_of(self, split: str) -> NDArray[np.intp]:
        """The indices of the samples in a split."""
        return np.flatnonzero(np.array(self.splits) == split)

    @property
    def class_ids(self) -> NDArray[np.int64]:
        """(N,)."""
        return np.array([sample.class_id for sample in self.data.samples], np.int64)

    @property
    def targets(self) -> NDArray[np.bool_]:
        """(N, L) which labels each picture has, where it may have several."""
        targets = np.zeros((len(self.data.samples), len(self.data.labels) + 1), np.bool_)  # the last for `NO_LABEL`
        for index, sample in enumerate(self.data.samples):
            targets[index, list(sample.class_ids)] = True
        return targets[:, :-1]


@dataclass(frozen=True)
class EmbeddedDataset(SplitDataset):
    """A dataset with what the backbone gives for it."""

    # (N, V, D), the outputs of `widths` side by side; zeros for test, and in all views but the first for what is not
    # for training.
    outputs: NDArray[np.float32]
    widths: tuple[int, ...]  # of the embedding, and of the stages that heads may see
    passes: int  # views that went through the backbone


def unreadable(data: Dataset, spec: ModelSpec, options: LoadOptions, progress: Progress) -> dict[str, str]:
    """The error of each picture that cannot be read, by its name; the backbone is not run."""
    recipe = Recipe.of(spec, options.limits)
    errors = {}
    opened = load([sample.path for sample in data.samples], recipe, options._replace(isolate=True))
    for number, (sample, picture) in enumerate(zip(data.samples, opened, strict=True), 1):
        if picture.error is not None:
            errors[sample.name] = picture.error
        progress("check", number, len(data.samples))
    return errors


def embed(
    settings: Settings,
    data: Dataset,
    classifier: Classifier,
    views: Sequence[View],
    options: LoadOptions,
    progress: Progress,
) -> EmbeddedDataset:
    """Embeds the pictures of train and val, and splits them where the user did not. Those of test are not opened.

    The first view, that of predict, finds what cannot be read and what is the same picture, so it comes before the
    split; pictures for training get the other views too, at once where it is known that they are for training.
    """
    with seen_by_heads(settings, classifier) as (backbone, widths):
        table = _Table(data, backbone, views, options, progress)
        return _embed(settings, table, widths)


@contextmanager
def seen_by_heads(settings: Settings, classifier: Classifier) -> Iterator[tuple[Classifier, tuple[int, ...]]]:
    """A backbone whose embedding is followed by the outputs of its last stages, and the widths of all of them.

    It is `classifier` itself where heads are to see the embedding alone, or there are no such stages.
    """
    width, backbone = classifier.embedding_width(), classifier
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows deletes no file that a session has open
        file = Path(folder, MODEL_FILE)
        widths = (width, *(joined(classifier.path, file) if settings.stages != "1" else ()))
        if settings.stages != "auto" and int(settings.stages) > len(widths):
            raise UsageError(
                f"--stages {settings.stages}: of {classifier.spec.name} a head can see {len(widths)} at most"
            )
        if len(widths) > 1:
            on: dict[str, Any] = {"device": classifier.device, "provider": classifier.provider, "threads": 1}
            backbone = Classifier.load(file, crop_mode=classifier.spec.crop_mode, **on)
        yield backbone, widths


def _embed(settings: Settings, table: "_Table", widths: tuple[int, ...]) -> EmbeddedDataset:
    data = table.data
    known = [index for index, sample in enumerate(data.samples) if sample.split == "train"]
    table.embed("views", known, slice(None))
    others = [index for index, sample in enumerate(data.samples) if sample.split not in ("train", "test", UNUSED)]
    table.embed("plain", others, slice(1))
    table.drop_unreadable(settings)
    _suggest_border(table.spec, table.fingerprints)
    splits, groups, same = _split(settings, table.data, table.fingerprints)
    late = [index for index, split in enumerate(splits) if split == "train" and not table.is_whole[index]]
    table.embed("views", late, slice(1, None))
    readable = table.drop_unreadable(settings)
    splits = tuple(splits[index] for index in readable)
    kept, prints = same[readable], tuple(table.fingerprints)
    return EmbeddedDataset(table.data, splits, groups[readable], prints, kept, table.outputs, widths, table.passes)


def open_all(
    settings: Settings, data: Dataset, spec: ModelSpec, options: LoadOptions, progress: Progress
) -> SplitDataset:
    """Opens the pictures of train and val once, as for the network of `spec`, and splits them as `embed` does."""
    indices = [index for index, sample in enumerate(data.samples) if sample.split not in ("test", UNUSED)]
    recipe = Recipe.of(spec, options.limits)._replace(fingerprint=True)
    fingerprints: list[Fingerprint | None] = [None] * len(data.samples)
    errors = {}
    opened = load([data.samples[index].path for index in indices], recipe, options)
    for done, (index, picture) in enumerate(zip(indices, opened, strict=True), 1):
        fingerprints[index] = picture.fingerprint
        if picture.error is not None:
            errors[index] = picture.error
        progress("check", done, len(indices))
    data, readable = _drop(data, errors, settings)
    fingerprints = [fingerprints[index] for index in readable]
    _suggest_border(spec, fingerprints)
    splits, groups, same = _split(settings, data, fingerprints)
    return SplitDataset(data, splits, groups, tuple(fingerprints), same)


def _split(
    settings: Settings, data: Dataset, fingerprints: Sequence[Fingerprint | None]
) -> tuple[tuple[str, ...], NDArray[np.int64], NDArray[np.intp]]:
    """The split of each picture, its group and that of same ones, by fingerprints; what is odd is logged."""
    opened = {index: one for index, one in enumerate(fingerprints) if one is not None}
    indices = [*opened]
    first_of = list(range(len(fingerprints)))  # the first of the same pictures, for each
    for index, group in zip(indices, same([*opened.values()]), strict=True):
        first_of[index] = indices[group]
    splits = split(data, first_of, val_share=settings.val_share, seed=settings.seed)
    notes = [] if settings.folds is not None else unjudged(data, splits)
    for note in (*notes, *contradictions(data, first_of), *leaks(data, splits, first_of)):
        _log.info(note)
    splits = few_of(data, splits, settings.few, settings.seed)
    return splits, groups_of(data, first_of), np.array(first_of, np.intp)


class _Table:
    """The outputs so far, a row for each picture."""

    def __init__(
        self, data: Dataset, classifier: Classifier, views: Sequence[View], options: LoadOptions, progress: Progress
    ) -> None:
        self.data = data
        self.fingerprints: list[Fingerprint | None] = [None] * len(data.samples)
        self.outputs = np.zeros((len(data.samples), len(views), classifier.embedding_width()), np.float32)
        self.spec = classifier.spec
        self.is_whole = np.zeros(len(data.samples), bool)  # embedded in all views
        self.passes = 0
        self._errors: dict[int, str] = {}
        self._classifier = classifier
        self._views = views
        self._options = options
        self._progress = progress
        self._notes: set[str] = set()

    def embed(self, stage: str, indices: Sequence[int], views: slice) -> None:
        some = self._views[views]
        if not indices or not some:
            return
        timeout = self._options.timeout
        result = embed_views(
            self._classifier,
            [self.data.samples[index].path for index in indices],
            some,
            self._options._replace(timeout=timeout and timeout + _VIEW_S * (len(some) - 1)),
            progress=lambda done, total: self._progress(stage, done, total),
        )
        self.outputs[indices, views] = result.vectors
        self.is_whole[indices] = views.stop is None
        self.passes += result.computed
        for index, fingerprint in zip(indices, result.fingerprints, strict=True):
            self.fingerprints[index] = fingerprint
        self._errors.update({indices[place]: error for place, error in result.errors.items()})
        for note in result.notes:
            if note not in self._notes:
                _log.info(note)
        self._notes.update(result.notes)

    def drop_unreadable(self, settings: Settings) -> list[int]:
        """Leaves out unreadable pictures; gives the indices of the others."""
        self.data, readable = _drop(self.data, self._errors, settings)
        if self._errors:
            self.fingerprints = [self.fingerprints[index] for index in readable]
            self.outputs, self.is_whole = self.outputs[readable], self.is_whole[readable]
            self._errors = {}
        return readable


def _drop(data: Dataset, errors: Mapping[int, str], settings: Settings) -> tuple[Dataset, list[int]]:
    """The dataset without the pictures that cannot be read, by their indices, and the indices of the others."""
    readable = [index for index in range(len(data.samples)) if index not in errors]
    if not errors:
        return data, readable
    names = {data.samples[index].name: error for index, error in sorted(errors.items())}
    if settings.on_bad == "fail":
        check(data, names)
    data = without(data, names)
    check(data)
    some = "; ".join(f"{name}: {error}" for name, error in [*names.items()][:_MOST_NAMED])
    more = f"; and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
    _log.info(f"Left out, since they cannot be read: {len(names):,}. {some}{more}")
    return data, readable


def few_of(data: Dataset, splits: Sequence[str], few: int | None, seed: int) -> tuple[str, ...]:
    """The splits with `few` pictures of each class in train, drawn; None for all."""
    if few is None:
        return tuple(splits)
    chosen, left = list(splits), dict.fromkeys(range(len(data.labels)), few)
    for index in np.random.default_rng(seed).permutation(len(splits)).tolist():
        if splits[index] == "train":
            class_id = data.samples[index].class_id
            chosen[index] = "train" if left[class_id] > 0 else UNUSED
            left[class_id] -= 1
    return tuple(chosen)


def _suggest_border(spec: ModelSpec, fingerprints: Sequence[Fingerprint | None]) -> None:
    """Logs a hint where the crop takes away much of most pictures."""
    if spec.crop_mode != "center":
        return
    ideal = share_kept(spec.input.size, spec)  # the crop cuts that much off a picture of its own proportions too
    shares = [share_kept((one.height, one.width), spec) / ideal for one in fingerprints if one is not None]
    if shares and (cut := 1 - float(np.median(shares))) > CUT_MUCH:
        _log.info(
            f"Half of the pictures are so wide or high that {cut:.0%} of their area or more is not seen.\n"
            "--crop-mode border shows them whole."
        )
