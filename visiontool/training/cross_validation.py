"""Heads of a dataset's embeddings, and what they answer to pictures that they were solved without."""

import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from visiontool.data.splits import folds, unfolded
from visiontool.inference.network import softmax
from visiontool.progress import Progress
from visiontool.training import head
from visiontool.training.embed_dataset import EmbeddedDataset
from visiontool.training.head import Head, HeadOptions, Solution
from visiontool.training.settings import Settings

_log = logging.getLogger(__name__)

_LEAST = 2  # pictures of a class, of which one can be held out


def solve(
    settings: Settings,
    embedded: EmbeddedDataset,
    train: NDArray[np.intp],
    progress: Callable[[int, int], None] | None = None,
) -> Solution:
    """The head of the settings, for the pictures at the indices `train`."""
    stages = None if settings.stages == "auto" else int(settings.stages)
    return head.solve(
        embedded.outputs[train],
        embedded.class_ids[train],
        len(embedded.data.labels),
        embedded.groups[train],
        widths=embedded.widths,
        options=HeadOptions(settings.head, settings.transform, stages, settings.balance),
        seed=settings.seed,
        progress=progress,
    )


def cross_validate(
    settings: Settings,
    count: int,
    embedded: EmbeddedDataset,
    train: NDArray[np.intp],
    progress: Progress,
    share: float = 1.0,
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The pictures in folds, and their probabilities (N, C) by heads solved, temperature and all, without the fold.

    `share` is that of the other pictures of each class that they are solved on: fewer are among more.
    """
    fold_of = folds(embedded.class_ids[train], embedded.groups[train], count, settings.seed)
    for note in unfolded(embedded.data, train, fold_of):
        _log.info(note)
    probabilities = np.zeros((len(train), len(embedded.data.labels)))
    numbers = np.unique(fold_of[fold_of >= 0]).tolist()
    for done, fold in enumerate(numbers, 1):
        is_out = fold_of == fold
        learned = train[~is_out] if share == 1 else _share_of(train[~is_out], embedded, share, settings.seed)
        probabilities[is_out] = probabilities_of(solve(settings, embedded, learned).head, embedded, train[is_out])
        progress("folds", done, len(numbers))
    return train[fold_of >= 0], probabilities[fold_of >= 0]


def _share_of(indices: NDArray[np.intp], embedded: EmbeddedDataset, share: float, seed: int) -> NDArray[np.intp]:
    """The first pictures of each class in a drawn order, two at least."""
    drawn = np.random.default_rng(seed).permutation(indices)
    parts = [drawn[embedded.class_ids[drawn] == each] for each in np.unique(embedded.class_ids[indices])]
    return np.concatenate([part[: max(_LEAST, round(share * len(part)))] for part in parts])


def probabilities_of(head: Head, embedded: EmbeddedDataset, indices: NDArray[np.intp]) -> NDArray[np.float64]:
    """(N, C) of the pictures at the indices."""
    return softmax(head.logits(embedded.outputs[indices, 0]), head.temperature)
