"""Finetuning where a picture may have several labels: what differs from `finetune`'s head for one class a picture."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from visiontool.data.splits import folds_of_sets
from visiontool.errors import UsageError
from visiontool.evaluation.metrics import MultilabelMetrics, measure_labels
from visiontool.images.augment import LEVELS
from visiontool.inference.network import sigmoid
from visiontool.model.spec import Decisions, ModelSpec
from visiontool.training.embed_dataset import EmbeddedDataset
from visiontool.training.head import HeadOptions, Solution, multilabel
from visiontool.training.settings import Settings

_FOLDS = 5


def check(settings: Settings) -> None:
    """Raises UsageError for settings that are about one label a picture."""
    is_given = {
        "--unfreeze or --from-scratch": settings.train is not None,
        "--extend": settings.extend is not None,
        "--folds": settings.folds is not None,
        "--few": settings.few is not None,
        "--balance": settings.balance not in ("auto", "none"),
        "--head logistic or means": settings.head not in ("auto", "lda"),
        "--views or --augment": (settings.augment, settings.views) not in ((LEVELS["light"], 2), (LEVELS["none"], 1)),
    }
    for name in (name for name, given in is_given.items() if given):
        raise UsageError(f"{name} is for one label a picture, and some here have several; leave it out")


def solve(
    settings: Settings, spec: ModelSpec, embedded: EmbeddedDataset, progress: Callable[[int, int], None]
) -> tuple[Solution, ModelSpec, NDArray[np.float64], MultilabelMetrics]:
    """The head, the model's manifest, and the probabilities (N, L) of the pictures of val with their figures."""
    train, val = embedded.indices_of("train"), embedded.indices_of("val")
    sets = [embedded.data.samples[index].class_ids for index in train.tolist()]
    fold_of = folds_of_sets(sets, embedded.groups[train], _FOLDS, settings.seed)
    stages = None if settings.stages == "auto" else int(settings.stages)
    options = HeadOptions("lda", settings.transform, stages, "none")
    targets = embedded.targets
    solution, thresholds = multilabel.solve(
        embedded.outputs[train, 0], targets[train], fold_of, embedded.widths, options, progress
    )
    probabilities = sigmoid(solution.head.logits(embedded.outputs[val, 0]))
    metrics = measure_labels(probabilities, probabilities >= thresholds, targets[val], embedded.data.labels)
    spec = replace(spec, task="multilabel", decisions=Decisions(thresholds=tuple(thresholds.tolist())))
    return solution, spec, probabilities, metrics
