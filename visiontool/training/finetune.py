"""Finetuning, from a folder of pictures to a checked model: the whole story, read from top to bottom.

The backbone stays as it is. Its embeddings of all pictures are computed once and cached (`embed_dataset`), a linear
head is solved on them (`head`) and put behind the same graph (`model_files`). `plan` is what a dry run shows.
"""

import logging
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontool.data.dataset import VAL_IS_DRAWN, excluding, read
from visiontool.data.folders import is_inside
from visiontool.data.loader import DEFAULT_OPTIONS, LoadOptions, load
from visiontool.data.prepare import Recipe
from visiontool.data.samples import Dataset, check
from visiontool.data.splits import read_splits, split, unjudged, write_splits
from visiontool.errors import DataError, ModelError, UsageError
from visiontool.evaluation import metrics
from visiontool.evaluation.metrics import Metrics, MultilabelMetrics
from visiontool.hub import resolve
from visiontool.images import augment
from visiontool.images.decode import Limits
from visiontool.inference.classifier import Classifier
from visiontool.inference.embeddings import embed_views
from visiontool.model.spec import UNDECIDED, ModelSpec
from visiontool.progress import Progress, silent
from visiontool.training import extend, multilabel, report, train
from visiontool.training.cross_validation import cross_validate, probabilities_of, solve
from visiontool.training.embed_dataset import (
    UNUSED,
    EmbeddedDataset,
    embed,
    few_of,
    open_all,
    seen_by_heads,
    unreadable,
)
from visiontool.training.head import Solution
from visiontool.training.label_errors import serious
from visiontool.training.model_files import delete_timm_files, write_model, write_timm_files
from visiontool.training.run import RUNS, SPLITS_FILE, Run, clean, new_folder
from visiontool.training.seen import FINGERPRINTS_FILE, write_fingerprints
from visiontool.training.settings import SETTINGS_FILE, Settings, judge_of
from visiontool.training.train import Judged

_log = logging.getLogger(__name__)

__all__ = ["Plan", "Run", "Settings", "finetune", "plan"]

_TIMED = 32  # pictures
_NOT_LINEAR = "The run has no files for torch: its head sees more than the embedding (--transform none --stages 1)."
_BESIDES_S = 3.0  # for the start, the head and the page of a small dataset


def finetune(
    settings: Settings,
    *,
    model: Path | None = None,
    output: Path | None = None,
    force: bool = False,
    resume: bool = False,
    options: LoadOptions = DEFAULT_OPTIONS,
    progress: Progress = silent,
    opened: Callable[[Classifier], None] = lambda classifier: None,
) -> Run:
    """Finetunes a model on a dataset, or trains a network, and writes the folder of the run.

    Args:
        model: the model file, where the caller has resolved `settings.model` already.
        output: the folder of the run; None for runs/<name of the dataset>.
        force: replaces the run that is in `output`.
        resume: goes on with the run in `output`, which trains a network (`run.resumed`).
        options: the result does not depend on them, but for what is refused.
        progress: called with the stage ("check", "plain", "views", "head", "folds" or "train") and how much is done.
        opened: called with the model, before it is used.

    Raises:
        DataError: the dataset cannot be used (`samples.Unusable` lists all faults).
        ModelError: no such model, or one that cannot be finetuned.
        ConversionError: the run cannot be written, or its model gives other logits than it should.
        UsageError: settings that contradict each other; `output` is taken, or inside the data.
    """
    views = augment.views(settings.views, settings.augment, settings.seed)
    classifier, base = _open_backbone(settings, model, options.limits, opened)
    data = read_data(settings, base)
    views = views[:1] if data.is_multilabel else views
    where = output or RUNS
    check_outside(where, settings)
    trains = settings.train is not None
    with new_folder(settings.data, output, force=force, trains=trains, resume=resume) as (folder, target):
        _log_all(data.notes)
        if data.faults:
            check(data, unreadable(data, base, options, progress))
        if settings.folds is None:  # before the backbone runs, not only after it
            unjudged(data, split(data, val_share=settings.val_share, seed=settings.seed))
        spec = new_spec(base, target.name, data, is_new=classifier is None)
        recorded = replace(settings, model=settings.model or resolve.default_model()).with_absolute_paths()
        (folder / SETTINGS_FILE).write_text(recorded.to_json(), encoding="utf-8")

        solution, training, passes = None, None, 0
        if classifier is None:
            dataset = open_all(settings, data, spec, options, progress)
            judged, training = train.from_scratch(settings, folder, spec, dataset, options, progress)
        else:
            dataset = embedded = embed(settings, data, classifier, views, options, progress)
            passes = embedded.passes
            solution, judged = solve_head(settings, folder, spec, embedded, classifier, options, progress)
            if settings.train is not None:
                judged, training = train.unfreeze(settings, folder, judged, embedded, options, progress)
                if not training.is_kept and not solution.head.features.is_embedding:
                    delete_timm_files(folder)
                    _log.info(_NOT_LINEAR)
        split_of = dict(zip((sample.name for sample in dataset.data.samples), dataset.splits, strict=True))
        splits = [split_of.get(sample.name, UNUSED) for sample in data.samples]  # of what cannot be read as well
        write_splits(folder / SPLITS_FILE, data, splits)
        write_fingerprints(folder / FINGERPRINTS_FILE, dataset)
        counts = dict(Counter(split for split in dataset.splits if split != UNUSED))
        run = Run(target, judged.model.spec, judged.metrics, solution, settings.folds, counts, passes, training)
        report.write(folder, run, recorded, data, dataset, judged, options)
        clean(folder)
    return run


def check_outside(where: Path, settings: Settings) -> None:
    """Raises UsageError where a folder to write to is inside the folder of the data."""
    if settings.labels_file is None and is_inside(os.path.realpath(where), os.path.realpath(settings.data)):
        raise UsageError(
            f"{where} is inside the data, {settings.data}: its pictures would become a class. -o names another"
        )


def solve_head(
    settings: Settings,
    folder: Path,
    spec: ModelSpec,
    embedded: EmbeddedDataset,
    classifier: Classifier,
    options: LoadOptions,
    progress: Progress,
) -> tuple[Solution, Judged]:
    """The head behind the frozen backbone, and its files in the folder of the run."""
    indices, judged = embedded.indices_of("train"), embedded.indices_of("val")
    tick = partial(progress, "head")
    result: Metrics | MultilabelMetrics
    if embedded.data.is_multilabel:
        solution, spec, probabilities, result = multilabel.solve(settings, spec, embedded, tick)
        top1 = {"pictures": result.pictures, "mAP": round(result.mean_average_precision, 4)}
    else:
        if settings.extend is not None:
            solution = extend.solve(settings, settings.extend, folder, embedded, classifier, options)
        else:
            solution = solve(settings, embedded, indices, progress=tick)
            extend.keep(settings, folder, solution, embedded)
        if settings.folds is None:
            probabilities = probabilities_of(solution.head, embedded, judged)
        else:
            judged, probabilities = cross_validate(settings, settings.folds, embedded, indices, progress)
        truth, groups = embedded.class_ids[judged], embedded.groups[judged]
        result = metrics.measure(probabilities, truth, embedded.data.labels, groups)
        top1 = {"pictures": result.pictures, "top1": round(result.accuracy, 4)}
    _log_all([*solution.notes, *serious(settings, embedded, solution)])
    name = f"{embedded.data.root.name}, {judge_of(settings.folds)}"
    spec = replace(spec, accuracy=({"dataset": name, **top1},))
    made = write_model(folder, classifier, spec, embedded, judged, solution.head, options.limits)
    linear = solution.head
    if settings.train is not None and not linear.features.is_embedding:  # torch begins with what timm can build
        linear = solve(replace(settings, transform="none", stages="1"), embedded, indices).head
    if not write_timm_files(classifier.path, folder, made.spec, linear):
        missing = "The run has no files for torch: there are none of this backbone that a new head would fit."
        _log.info(missing if linear.features.is_embedding else _NOT_LINEAR)
    return solution, Judged(made, judged, probabilities, result)


def preview(
    settings: Settings, model: Path | None, limits: Limits, pictures: int, views: int
) -> tuple[list[tuple[str, list[NDArray[np.uint8]]]], list[str]]:
    """Some pictures for training as they are learned from: each one's name and views, and what each view is."""
    _, spec = _open_backbone(settings, model, limits, lambda classifier: None)
    samples = [sample for sample in read_data(settings, spec).samples if sample.split in (None, "train")]
    count = min(pictures, len(samples))
    samples = [samples[place * len(samples) // count] for place in range(count)]
    if settings.train is not None:
        return train.drawn(settings, spec, samples, views, limits), [f"epoch {epoch + 1}" for epoch in range(views)]
    kinds = augment.views(min(settings.views, views), settings.augment, settings.seed)
    rows = []
    opened = load([sample.path for sample in samples], Recipe.of(spec, limits, tuple(kinds)))
    for sample, picture in zip(samples, list(opened), strict=True):
        if picture.pixels is not None:
            rows.append((sample.name, [*picture.pixels]))
        elif settings.on_bad != "skip":
            raise DataError(f"{sample.path}: {picture.error}\n--on-bad skip leaves out pictures that cannot be read.")
    if not rows:
        raise DataError(f"{settings.data}: there is no picture for training to draw, or none that can be read")
    names = ["as it is" if view.is_plain else "mirror" if view.is_mirror else f"random {view.number}" for view in kinds]
    return rows, names


def find_lr(
    settings: Settings,
    *,
    model: Path | None = None,
    options: LoadOptions = DEFAULT_OPTIONS,
    progress: Progress = silent,
    opened: Callable[[Classifier], None] = lambda classifier: None,
) -> tuple[list[tuple[float, float]], float]:
    """Learning rates that were tried, with their losses, and the one to train with. Writes nothing."""
    classifier, base = _open_backbone(settings, model, options.limits, opened)
    data = read_data(settings, base)
    check(data)
    spec = new_spec(base, data.root.name, data, is_new=classifier is None)
    if classifier is None:
        dataset = open_all(settings, data, spec, options, progress)
        return train.try_rates(
            settings, spec, dataset, train.new_network(settings, len(spec.labels)), options, progress
        )
    views = augment.views(settings.views, settings.augment, settings.seed)
    with tempfile.TemporaryDirectory() as name:
        embedded = embed(settings, data, classifier, views, options, progress)
        solve_head(settings, Path(name), spec, embedded, classifier, options, progress)
        network = train.network_of(settings, Path(name), spec.architecture)
        return train.try_rates(settings, spec, embedded, network, options, progress)


def _open_backbone(
    settings: Settings, model: Path | None, limits: Limits, opened: Callable[[Classifier], None]
) -> tuple[Classifier | None, ModelSpec]:
    if settings.train is not None:
        train.check_installed()
        if settings.train.from_scratch:
            return None, train.spec_from_scratch(settings)
    classifier = open_model(settings, model, limits)
    opened(classifier)
    return classifier, classifier.spec


class Plan(NamedTuple):
    """What a run would do, found out without doing it."""

    data: Dataset
    splits: dict[str, int]  # pictures in "train", "val" and "test", before same pictures are found
    spec: ModelSpec
    device: str
    passes: int  # pictures that would go through the backbone, all views counted, with nothing cached
    memory_bytes: int  # what the embeddings take
    seconds: float | None  # an estimate from a few pictures; without the training of a network
    steps: int  # of the optimizer that trains a network


def plan(
    settings: Settings,
    *,
    model: Path | None = None,
    options: LoadOptions = DEFAULT_OPTIONS,
    opened: Callable[[Classifier], None] = lambda classifier: None,
) -> Plan:
    """What `finetune` would do with the same arguments. Writes nothing, and raises what `finetune` raises."""
    views = augment.views(settings.views, settings.augment, settings.seed)
    classifier, spec = _open_backbone(settings, model, options.limits, opened)
    data = read_data(settings, spec)
    views = views[:1] if data.is_multilabel else views
    check(data)
    splits = split(data, val_share=settings.val_share, seed=settings.seed)
    if settings.folds is None:
        data = replace(data, notes=(*data.notes, *unjudged(data, splits)))
    splits = few_of(data, splits, settings.few, settings.seed)
    counts = dict(Counter(split for split in splits if split != UNUSED))
    steps = 0 if settings.train is None else settings.train.steps_for(counts.get("train", 0))
    if classifier is None:
        return Plan(data, counts, spec, settings.device, 0, 0, None, steps)
    paths = [sample.path for sample in data.samples if sample.split not in ("test", UNUSED)]
    in_all_views = sum("train" in (sample.split, split) for sample, split in zip(data.samples, splits, strict=True))
    passes = len(paths) + in_all_views * (len(views) - 1)
    some = paths[:: max(1, len(paths) // _TIMED)]
    with seen_by_heads(settings, classifier) as (backbone, widths):
        start = time.perf_counter()
        embed_views(backbone, some, views[:1], options, use_cache=False)
        each = (time.perf_counter() - start) / len(some)
    memory = 4 * len(splits) * len(views) * sum(widths)
    seconds = passes * each + _BESIDES_S
    return Plan(data, counts, spec, classifier.device, passes, memory, seconds, steps)


def open_model(settings: Settings, model: Path | None, limits: Limits) -> Classifier:
    """The model of the settings, ready for many pictures."""
    classifier = Classifier.load(
        model or settings.model,
        device=settings.device,
        provider=settings.provider,
        threads=1,
        crop_mode=settings.crop_mode,
        limits=limits,
    )
    classifier.embedding_output()  # raises where there is none
    if classifier.spec.resize == "graph":
        raise ModelError(
            f"{classifier.path}: resizes pictures itself (export --embed-resize), so it cannot be finetuned.\n"
            f"Take the model that it was made from: visiontool finetune DATA -m {classifier.spec.name}"
        )
    return classifier


def read_data(settings: Settings, spec: ModelSpec) -> Dataset:
    """The dataset of the settings, with the splits of the user's file; with folds, all but test is for training.

    Folders named by class ids of the model get its labels. Where all pictures have a split and must be readable, `few`
    applies here already.
    """
    known = dict(zip(spec.label_ids, spec.labels, strict=True)) if spec.label_ids else None
    data = read(
        settings.data,
        labels_file=settings.labels_file,
        skip_missing=settings.on_bad == "skip",
        group=settings.group,
        known=known,
    )
    if data.is_multilabel:
        multilabel.check(settings)
    if settings.exclude_file is not None:
        data = excluding(data, settings.exclude_file)
    if settings.extend is not None:
        data = extend.with_known(settings.extend, spec, data)
    splits: Sequence[str | None] = [sample.split for sample in data.samples]
    if settings.splits_file is not None:
        splits = read_splits(settings.splits_file, data)
    elif settings.folds is not None:
        splits = ["test" if split == "test" else "train" for split in splits]
    given = [split for split in splits if split is not None]
    if len(given) == len(splits):
        data = replace(data, notes=tuple(note for note in data.notes if note != VAL_IS_DRAWN))
        if settings.on_bad == "fail":
            splits = few_of(data, given, settings.few, settings.seed)
    samples = tuple(sample._replace(split=split) for sample, split in zip(data.samples, splits, strict=True))
    return replace(data, samples=samples)


def _log_all(notes: Sequence[str]) -> None:
    for note in notes:
        _log.info(note)


def new_spec(base: ModelSpec, name: str, data: Dataset, *, is_new: bool) -> ModelSpec:
    """The manifest of the new model, but for what is not known yet: temperature and accuracy."""
    weights = {
        "source": f"{base.name}, with a new head for {data.root.name}",
        "backbone": base.weights.get("source", base.name),
        "license": base.weights.get("license", "not known"),
    }
    if is_new:
        weights = {"source": f"{base.name}, trained from scratch on {data.root.name}"}
    spec = replace(base, name=name, labels=data.labels, label_ids=data.label_ids, weights=weights)
    spec = replace(spec, accuracy=(), decisions=UNDECIDED, task="classify")
    try:
        ModelSpec.from_json(spec.to_json())
    except (ModelError, UnicodeEncodeError) as error:
        raise DataError(f"{data.root}: these labels cannot be those of a model: {error}") from None
    return spec
