"""The network of a run is trained, in torch: unfrozen behind its solved head, or from scratch."""

import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontool.data.loader import LoadOptions
from visiontool.data.samples import Sample
from visiontool.errors import ModelError, missing_extra
from visiontool.evaluation import metrics
from visiontool.evaluation.metrics import Metrics, MultilabelMetrics
from visiontool.files import MODEL_FILE, write_file
from visiontool.hub.timm_config import imagenet, spec_of
from visiontool.images.decode import Limits
from visiontool.inference.classifier import Classifier
from visiontool.inference.network import softmax
from visiontool.model.spec import ModelSpec
from visiontool.progress import Progress
from visiontool.pytorch.train.recipe import Epoch
from visiontool.training import history
from visiontool.training.embed_dataset import SplitDataset
from visiontool.training.head.logistic import Balancing
from visiontool.training.head.select import fit_temperature
from visiontool.training.label_errors import serious
from visiontool.training.model_files import CONFIG, config_of
from visiontool.training.run import CHECKPOINTS, Training
from visiontool.training.settings import Settings

if TYPE_CHECKING:
    from visiontool.pytorch.train.task import Task, Trained

_log = logging.getLogger(__name__)

_COMPARED = 32  # pictures of val that torch and the file must answer alike
_SMALL = 64  # pixels; pictures of which nothing is cut off


class Judged(NamedTuple):
    """A model, and how it does on the pictures that judge it."""

    model: Classifier
    pictures: NDArray[np.intp]  # their indices
    probabilities: NDArray[np.float64]  # (N, C)
    metrics: Metrics | MultilabelMetrics


def check_installed() -> None:
    """Raises ModelError where the extra [train] is missing."""
    if not all(map(find_spec, ("accelerate", "timm", "torch", "torchvision"))):
        raise ModelError(missing_extra("train", "Training a network"))


def is_follower() -> bool:
    """Whether torchrun started this process to help another one of the same run, which alone writes and prints."""
    return os.environ.get("RANK", "0") != "0"


def follow(settings: Settings) -> None:
    """Helps the first process of the run, until it is done."""
    from visiontool.pytorch.train import trainer

    trainer.follow(settings.device)


def spec_from_scratch(settings: Settings) -> ModelSpec:
    """The manifest of the settings' network before it is trained, with ImageNet's classes in place of its own."""
    from visiontool.pytorch.weights import pretrained_cfg

    architecture = settings.model or ""
    cfg = pretrained_cfg(architecture).to_dict()
    channels, *size = cfg["input_size"]
    if settings.img_size is not None:
        size = [settings.img_size, settings.img_size]
    small = {"crop_pct": 1.0} if max(size) <= _SMALL else {}
    cfg |= {"input_size": (channels, *size), **small}
    config = {"architecture": architecture.partition(".")[0], "pretrained_cfg": cfg, **imagenet()}
    spec = spec_of(architecture, config, {})
    return replace(spec, crop_mode=settings.crop_mode or spec.crop_mode)


def new_network(settings: Settings, classes: int) -> Callable[[], Any]:
    """What makes the settings' network with random weights, always the same."""
    from visiontool.pytorch.train.networks import untrained

    assert settings.model is not None
    assert settings.train is not None
    arguments = dict(settings.model_args or {})
    return partial(untrained, settings.model, classes, settings.img_size, arguments, settings.train, settings.seed)


def network_of(settings: Settings, folder: Path, architecture: str) -> Callable[[], Any]:
    """What makes the network of a run's folder, with its weights.

    Raises ModelError where there are no torch weights of the backbone that its head would fit.
    """
    from visiontool.pytorch.train.networks import of_folder

    if not (folder / CONFIG).is_file():
        raise ModelError(
            f"{architecture}: there are no torch weights of this backbone that a new head would fit.\n"
            "Without --unfreeze it is finetuned as it is."
        )
    assert settings.train is not None
    return partial(of_folder, folder, settings.train)


def drawn(
    settings: Settings, spec: ModelSpec, samples: Sequence[Sample], epochs: int, limits: Limits
) -> list[tuple[str, list[NDArray[np.uint8]]]]:
    """The pictures as training sees them in its first epochs: the name and the pixels (H, W, 3) of each."""
    from visiontool.pytorch.train.batches import Opened, Pictures

    assert settings.train is not None
    names, none = [sample.name for sample in samples], np.zeros(len(samples), np.int64)
    pictures = Pictures([sample.path for sample in samples], names, none, none, none)
    opened = Opened(pictures, spec, settings.augment, settings.train, settings.seed, limits)
    return [(name, [opened[epoch, index][0] for epoch in range(epochs)]) for index, name in enumerate(names)]


def try_rates(
    settings: Settings,
    spec: ModelSpec,
    dataset: SplitDataset,
    network: Callable[[], Any],
    options: LoadOptions,
    progress: Progress,
) -> tuple[list[tuple[float, float]], float]:
    """Learning rates and their losses, and the one to take, as `pytorch.train.trainer` tries them."""
    from visiontool.pytorch.train.task import accelerator_for
    from visiontool.pytorch.train.trainer import Training as Loop

    task = task_of(settings, Path(), spec, dataset, network, options)
    return Loop(task, accelerator_for(settings.device)).try_rates(progress)


def try_training(
    settings: Settings,
    folder: Path,
    spec: ModelSpec,
    dataset: SplitDataset,
    options: LoadOptions,
    progress: Progress,
    epoch_done: Callable[[Sequence[Epoch]], None],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probabilities of val and of test by the network of `folder`, trained; no file of it is written.

    Args:
        epoch_done: called with the history so far; what it raises ends the training.
    """
    from visiontool.pytorch.train import trainer

    task = task_of(settings, folder, spec, dataset, network_of(settings, folder, spec.architecture), options)
    trained = trainer.train(task, settings.device, progress, epoch_done, None)
    probabilities, _, temperature = _measure(dataset, dataset.indices_of("val"), trained.logits, spec)
    return probabilities, softmax(trainer.answers(task, trained.network, dataset.indices_of("test")), temperature)


def from_scratch(
    settings: Settings, folder: Path, spec: ModelSpec, dataset: SplitDataset, options: LoadOptions, progress: Progress
) -> tuple[Judged, Training]:
    """Trains a new network, and writes its files into the folder of the run."""
    from visiontool.pytorch.weights import pretrained_cfg

    for line in serious(settings, dataset):
        _log.info(line)
    task = task_of(settings, folder, spec, dataset, new_network(settings, len(spec.labels)), options)
    trained = _run(task, settings, folder, progress)
    cfg = pretrained_cfg(settings.model or "").to_dict()
    classifier = cfg["classifier"]
    before = {"architecture": spec.architecture, "pretrained_cfg": {**cfg, "tag": ""}}
    layers = [classifier] if isinstance(classifier, str) else classifier
    judged = _write(folder, spec, dataset, trained, config_of(before, spec, layers, settings.model_args or {}), options)
    return judged, Training(trained.history, trained.best, judged.metrics, None, True)


def unfreeze(
    settings: Settings, folder: Path, frozen: Judged, dataset: SplitDataset, options: LoadOptions, progress: Progress
) -> tuple[Judged, Training]:
    """Trains the network behind its solved head; it takes the place of the frozen one where val says it is better."""
    network = network_of(settings, folder, frozen.model.spec.architecture)
    task = task_of(settings, folder, frozen.model.spec, dataset, network, options)
    trained = _run(task, settings, folder, progress)
    class_ids, groups = dataset.class_ids[frozen.pictures], dataset.groups[frozen.pictures]
    right, before = (answers.argmax(axis=1) == class_ids for answers in (trained.logits, frozen.probabilities))
    difference = metrics.difference("unfrozen", "frozen", right, before, groups)
    is_kept = difference.interval.low > 0
    low, high = (f"{100 * each:+.1f}" for each in difference.interval)
    change = f"accuracy on val {100 * difference.accuracy:+.1f} points ({low} to {high})"
    if not is_kept:
        _log.info(f"Unfrozen: {change}, which is not certainly better. The frozen backbone is kept.")
        measured = _measure(dataset, frozen.pictures, trained.logits, frozen.model.spec)[1]
        return frozen, Training(trained.history, trained.best, measured, difference, False)
    _log.info(f"Unfrozen: {change}. It takes the place of the frozen backbone.")
    config = json.loads((folder / CONFIG).read_bytes())
    judged = _write(folder, frozen.model.spec, dataset, trained, config, options)
    return judged, Training(trained.history, trained.best, judged.metrics, difference, True)


def task_of(
    settings: Settings,
    folder: Path,
    spec: ModelSpec,
    dataset: SplitDataset,
    network: Callable[[], Any],
    options: LoadOptions,
) -> "Task":
    """What the training in torch is given."""
    from visiontool.pytorch.train.batches import Pictures
    from visiontool.pytorch.train.task import Task

    samples, train = dataset.data.samples, dataset.indices_of("train")
    sizes = np.bincount(dataset.class_ids[train], minlength=len(spec.labels))
    balancing = Balancing.of(settings.balance, sizes)
    paths, names = [one.path for one in samples], [one.name for one in samples]
    assert settings.train is not None
    return Task(
        pictures=Pictures(paths, names, dataset.class_ids, train, dataset.indices_of("val")),
        spec=spec,
        recipe=settings.train,
        augment=settings.augment,
        seed=settings.seed,
        balance=balancing.name,
        log_prior=balancing.log_prior,
        checkpoints=folder / CHECKPOINTS,
        limits=options.limits,
        workers=options.workers,
        network=network,
    )


def _run(task: "Task", settings: Settings, folder: Path, progress: Progress) -> "Trained":
    from visiontool.pytorch.train import trainer

    log = folder if task.recipe.log else None
    return trainer.train(task, settings.device, progress, partial(history.write, folder), log)


def _measure(
    dataset: SplitDataset, val: NDArray[np.intp], logits: NDArray[np.float32], spec: ModelSpec
) -> tuple[NDArray[np.float64], Metrics, float]:
    """Probabilities, metrics and temperature of the logits (V, C) of val, which the temperature is fitted on too."""
    class_ids = dataset.class_ids[val]
    temperature = fit_temperature(logits, class_ids, np.ones(len(val)))
    probabilities = softmax(logits, temperature)
    return probabilities, metrics.measure(probabilities, class_ids, spec.labels, dataset.groups[val]), temperature


def _write(
    folder: Path,
    spec: ModelSpec,
    dataset: SplitDataset,
    trained: "Trained",
    config: dict[str, Any],
    options: LoadOptions,
) -> Judged:
    """Writes the files of the trained network, its model once it has answered as torch does."""
    from visiontool.pytorch.convert import write_trained

    val = dataset.indices_of("val")
    probabilities, measured, temperature = _measure(dataset, val, trained.logits, spec)
    top1 = {"pictures": measured.pictures, "top1": round(measured.accuracy, 4)}
    spec = replace(spec, temperature=temperature, accuracy=({"dataset": f"{dataset.data.root.name}, val", **top1},))
    config["accuracy"] = [dict(entry) for entry in spec.accuracy]
    pictures = [dataset.data.samples[index].path for index in val[:_COMPARED]]
    spec = write_trained(trained.network, spec, folder, pictures)
    write_file(folder / CONFIG, json.dumps(config, indent=1) + "\n")
    model = Classifier.load(folder / MODEL_FILE, limits=options.limits)
    return Judged(model, val, probabilities, measured)
