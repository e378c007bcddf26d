"""The pictures as the backbone sees them: embedded, what cannot be read sorted out, split."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontool.data import dataset
from visiontool.data.dataset import Dataset
from visiontool.data.loader import Opening, cores, prepared
from visiontool.data.prepare import Recipe
from visiontool.images import fingerprint
from visiontool.images.augment import View
from visiontool.images.decode import Limits
from visiontool.images.fingerprint import Fingerprint
from visiontool.images.transforms import share_kept
from visiontool.inference import embeddings as features
from visiontool.inference.classifier import Classifier
from visiontool.progress import Progress
from visiontool.training.settings import Settings

_log = logging.getLogger(__name__)

_VIEW_S = 5.0  # for each further view of it: of a picture 1,000 times as wide as high one takes as long
_CUT_MUCH = 0.35  # of the area of the picture in the middle of all: 4:3 and 3:2 lose less, 16:9 more
_MOST_NAMED = 3
UNUSED = ""  # as `dataset.split` says it


class Means(NamedTuple):
    """What the backbone runs with; of these, embeddings depend on the classifier only."""

    classifier: Classifier
    limits: Limits
    workers: int | None
    timeout: float
    batch_size: int | None


@dataclass(frozen=True, slots=True)
class Embedded:
    """A dataset as the backbone sees it.

    Attributes:
        data: without the pictures that cannot be read.
        splits: "train", "val" or "test" of each of its samples; "" for one that `few` leaves out.
        groups: (N,); samples with the same number stay on one side of every split.
        embeddings: (N, V, D); zeros for test, and in all views but the first for what is not for training.
        passes: pictures that went through the backbone, all views counted.
    """

    data: Dataset
    splits: tuple[str, ...]
    groups: NDArray[np.int64]
    embeddings: NDArray[np.float32]
    passes: int

    def of(self, split: str) -> NDArray[np.intp]:
        """The indices of the samples in a split."""
        return np.flatnonzero(np.array(self.splits) == split)

    @property
    def class_ids(self) -> NDArray[np.int64]:
        """(N,)."""
        return np.array([sample.class_id for sample in self.data.samples], np.int64)


def unreadable(data: Dataset, means: Means, progress: Progress) -> dict[str, str]:
    """The name of each picture that cannot be read and why, found without the backbone."""
    opening = Opening(means.workers or cores(), means.timeout, isolate=True)
    recipe = Recipe.of(means.classifier.spec, means.limits)
    errors = {}
    paths = [sample.path for sample in data.samples]
    opened = prepared(paths, recipe, opening, 2 * opening.workers)
    for number, (sample, picture) in enumerate(zip(data.samples, opened, strict=True), 1):
        if picture.error is not None:
            errors[sample.name] = picture.error
        progress("check", number, len(paths))
    return errors


def embed(wanted: Settings, data: Dataset, views: Sequence[View], means: Means, progress: Progress) -> Embedded:
    """Has the backbone see the pictures of train and val, and splits them where the user did not.

    Each picture is seen as predict sees it, which tells too whether it can be read and whether it is the same as
    another; those for training in the other views as well, at once where it is known that they are for training.
    Nothing looks at the pictures of test.
    """
    table = _Table(data, views, means, progress)
    known = [i for i, sample in enumerate(data.samples) if sample.split == "train"]
    table.see("views", known, slice(None))
    others = [i for i, sample in enumerate(data.samples) if sample.split not in ("test", UNUSED) and not table.whole[i]]
    table.see("plain", others, slice(1))
    table.drop_unreadable(wanted)
    _suggest_border(means.classifier, table.looks)

    same = _same(table.looks)
    splits = dataset.split(table.data, same, val_share=wanted.val_share, seed=wanted.seed)
    notes = [] if wanted.folds is not None else dataset.unjudged(table.data, splits)
    for note in (*notes, *dataset.contradictions(table.data, same), *dataset.leaks(table.data, splits, same)):
        _log.info(note)
    splits = few_of(table.data, splits, wanted.few, wanted.seed)
    groups = dataset.groups_of(table.data, same)
    late = [i for i, split in enumerate(splits) if split == "train" and not table.whole[i]]
    table.see("views", late, slice(1, None))
    kept = table.drop_unreadable(wanted)
    return Embedded(table.data, tuple(splits[i] for i in kept), groups[kept], table.embeddings, table.passes)


class _Table:
    """What has been seen of the pictures so far, a row each."""

    def __init__(self, data: Dataset, views: Sequence[View], means: Means, progress: Progress) -> None:
        self.data = data
        self.looks: list[Fingerprint | None] = [None] * len(data.samples)
        self.errors: dict[int, str] = {}
        self.embeddings = np.zeros((len(data.samples), len(views), means.classifier.embedding_width()), np.float32)
        self.whole = np.zeros(len(data.samples), bool)  # seen in all views
        self.passes = 0
        self._views = views
        self._means = means
        self._progress = progress
        self._noted: set[str] = set()

    def see(self, stage: str, indices: Sequence[int], views: slice) -> None:
        """Has the backbone see these pictures in these of the views."""
        if not indices or not self._views[views]:
            return
        means, wanted = self._means, self._views[views]
        seen = features.extract(
            means.classifier,
            [self.data.samples[index].path for index in indices],
            wanted,
            limits=means.limits,
            workers=means.workers,
            timeout=means.timeout + _VIEW_S * (len(wanted) - 1),
            batch_size=means.batch_size,
            progress=lambda done, total: self._progress(stage, done, total),
        )
        self.embeddings[indices, views] = seen.embeddings
        self.whole[indices] = views.stop is None
        self.passes += seen.computed
        for index, seen_look in zip(indices, seen.looks, strict=True):
            self.looks[index] = seen_look
        self.errors.update({indices[place]: error for place, error in seen.errors.items()})
        for note in seen.notes:
            if note not in self._noted:
                _log.info(note)
        self._noted.update(seen.notes)

    def drop_unreadable(self, wanted: Settings) -> list[int]:
        """Leaves out the pictures that cannot be read; gives the indices of the others."""
        kept = [index for index in range(len(self.looks)) if index not in self.errors]
        if not self.errors:
            return kept
        names = {self.data.samples[index].name: error for index, error in sorted(self.errors.items())}
        if wanted.on_bad == "fail":
            dataset.check(self.data, names)
        self.data = dataset.without(self.data, names)
        dataset.check(self.data)
        self.looks = [self.looks[index] for index in kept]
        self.embeddings, self.whole = self.embeddings[kept], self.whole[kept]
        self.errors = {}
        some = "; ".join(f"{name}: {error}" for name, error in [*names.items()][:_MOST_NAMED])
        more = f"; and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
        _log.info(f"Left out, since they cannot be read: {len(names):,}. {some}{more}")
        return kept


def few_of(data: Dataset, splits: Sequence[str], few: int | None, seed: int) -> tuple[str, ...]:
    """The splits with `few` pictures of each class left in train, drawn; None leaves them all."""
    if few is None:
        return tuple(splits)
    chosen, left = list(splits), dict.fromkeys(range(len(data.labels)), few)
    for index in np.random.default_rng(seed).permutation(len(splits)).tolist():
        if splits[index] == "train":
            class_id = data.samples[index].class_id
            chosen[index] = "train" if left[class_id] > 0 else UNUSED
            left[class_id] -= 1
    return tuple(chosen)


def _same(looks: Sequence[Fingerprint | None]) -> list[int]:
    """The number of each picture's group of same pictures; those that nobody looked at are alone."""
    groups = list(range(len(looks)))
    seen = [index for index, seen_look in enumerate(looks) if seen_look is not None]
    for index, group in zip(seen, fingerprint.same([found for found in looks if found is not None]), strict=True):
        groups[index] = seen[group]
    return groups


def _suggest_border(classifier: Classifier, looks: Sequence[Fingerprint | None]) -> None:
    """Says so where the crop takes away much of most pictures."""
    spec = classifier.spec
    if spec.crop_mode != "center":
        return
    ideal = share_kept(spec.input.size, spec)  # the crop cuts that much off a picture of its own proportions too
    kept = [share_kept((found.height, found.width), spec) / ideal for found in looks if found is not None]
    if kept and (cut := 1 - float(np.median(kept))) > _CUT_MUCH:
        _log.info(
            f"Half of the pictures are so wide or high that {cut:.0%} of their area or more is not seen.\n"
            "--crop-mode border shows them whole."
        )
