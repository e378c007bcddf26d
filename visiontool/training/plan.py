"""What a run would do, found out without doing it."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from visiontool.data.loader import DEFAULT_OPTIONS, LoadOptions
from visiontool.data.samples import Dataset, check
from visiontool.data.splits import split, unjudged
from visiontool.images import augment
from visiontool.inference.classifier import Classifier
from visiontool.inference.embeddings import embed_views
from visiontool.model.spec import ModelSpec
from visiontool.training.embed_dataset import UNUSED, few_of
from visiontool.training.finetune import open_model, read_data
from visiontool.training.settings import Settings

_TIMED = 32  # pictures
_BESIDES_S = 3.0  # for the start, the head and the plots of a small dataset


class Plan(NamedTuple):
    """What a run would do."""

    data: Dataset
    splits: dict[str, int]  # pictures in "train", "val" and "test", before same pictures are found
    spec: ModelSpec
    device: str
    passes: int  # pictures that would go through the backbone, all views counted, with nothing cached
    memory_bytes: int  # what the embeddings take
    seconds: float  # an estimate from a few pictures


def plan(
    settings: Settings,
    *,
    model: Path | None = None,
    options: LoadOptions = DEFAULT_OPTIONS,
    opened: Callable[[Classifier], None] = lambda classifier: None,
) -> Plan:
    """What `finetune` would do with the same arguments. Writes nothing.

    Raises:
        DataError, ModelError, UsageError: as `finetune`, but for pictures that cannot be read.
    """
    views = augment.views(settings.views, settings.augment, settings.seed)
    classifier = open_model(settings, model, options.limits)
    opened(classifier)
    data = read_data(settings, classifier)
    check(data)
    splits = split(data, val_share=settings.val_share, seed=settings.seed)
    if settings.folds is None:
        data = replace(data, notes=(*data.notes, *unjudged(data, splits)))
    splits = few_of(data, splits, settings.few, settings.seed)
    counts = Counter(split for split in splits if split != UNUSED)
    paths = [sample.path for sample in data.samples if sample.split not in ("test", UNUSED)]
    in_all_views = sum("train" in (sample.split, split) for sample, split in zip(data.samples, splits, strict=True))
    passes = len(paths) + in_all_views * (len(views) - 1)
    some = paths[:: max(1, len(paths) // _TIMED)]
    start = time.perf_counter()
    embed_views(classifier, some, views[:1], options, use_cache=False)
    each = (time.perf_counter() - start) / len(some)
    memory = 4 * len(splits) * len(views) * classifier.embedding_width()
    return Plan(data, dict(counts), classifier.spec, classifier.device, passes, memory, passes * each + _BESIDES_S)
