"""What a run would do, found out without doing it."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from visiontool.data import dataset
from visiontool.data.dataset import Dataset
from visiontool.data.loader import TIMEOUT_S
from visiontool.images import augment
from visiontool.images.decode import DEFAULT_LIMITS, Limits
from visiontool.inference import embeddings
from visiontool.inference.classifier import Classifier
from visiontool.model.spec import ModelSpec
from visiontool.training.embed_dataset import UNUSED, few_of
from visiontool.training.finetune import open_model, read_data
from visiontool.training.settings import Settings

_TIMED = 32  # pictures
_BESIDES_S = 3.0  # for the start, the head and the plots of a small dataset


class Plan(NamedTuple):
    """What a run would do."""

    data: Dataset
    splits: dict[str, int]
    """Pictures in "train", "val" and "test", before same pictures are found."""
    spec: ModelSpec
    device: str
    passes: int
    """Pictures that would go through the backbone, all views counted, with nothing cached."""
    memory_bytes: int
    """What the embeddings take."""
    seconds: float
    """An estimate from a few pictures."""


def plan(
    wanted: Settings,
    *,
    model: Path | None = None,
    limits: Limits = DEFAULT_LIMITS,
    workers: int | None = None,
    timeout: float = TIMEOUT_S,
    batch_size: int | None = None,
    opened: Callable[[Classifier], None] = lambda classifier: None,
) -> Plan:
    """What `finetune` would do with the same arguments. Writes nothing.

    Raises:
        DataError, ModelError, UsageError: as `finetune`, but for pictures that cannot be read.
    """
    views = augment.views(wanted.views, wanted.augment, wanted.seed)
    classifier = open_model(wanted, model, limits)
    opened(classifier)
    data = read_data(wanted, classifier)
    dataset.check(data)
    splits = dataset.split(data, val_share=wanted.val_share, seed=wanted.seed)
    if wanted.folds is None:
        data = replace(data, notes=(*data.notes, *dataset.unjudged(data, splits)))
    splits = few_of(data, splits, wanted.few, wanted.seed)
    counts = Counter(split for split in splits if split != UNUSED)
    seen_ones = [index for index, sample in enumerate(data.samples) if sample.split not in ("test", UNUSED)]
    in_all_views = sum("train" in (sample.split, split) for sample, split in zip(data.samples, splits, strict=True))
    passes = len(seen_ones) + in_all_views * (len(views) - 1)
    some = seen_ones[:: max(1, len(seen_ones) // _TIMED)]
    start = time.perf_counter()
    seen = embeddings.extract(
        classifier,
        [data.samples[index].path for index in some],
        views[:1],
        limits=limits,
        workers=workers,
        timeout=timeout,
        batch_size=batch_size,
        use_cache=False,
    )
    each = (time.perf_counter() - start) / len(some)
    memory = 4 * len(splits) * len(views) * seen.embeddings.shape[2]
    return Plan(data, dict(counts), classifier.spec, classifier.device, passes, memory, passes * each + _BESIDES_S)
