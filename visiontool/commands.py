"""The commands `finetune` and `export` as functions, with their options and errors.

They print nothing: what the commands say on stderr goes to the logger `visiontool`.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

from visiontool.data.loader import TIMEOUT_S, LoadOptions
from visiontool.errors import UsageError, closest
from visiontool.exporting import export as exporting
from visiontool.exporting.merge import joined_backbones
from visiontool.exporting.source import find
from visiontool.hub import resolve
from visiontool.images.decode import DEFAULT_LIMITS, Limits
from visiontool.model.foreign import Description
from visiontool.model.spec import CropMode, Precision
from visiontool.progress import Progress, silent
from visiontool.pytorch.pull import pull
from visiontool.training import finetune as training
from visiontool.training.run import settings_for
from visiontool.training.settings import AnyPath, Options


def finetune(
    data: AnyPath | None = None,
    *,
    output: AnyPath | None = None,
    force: bool = False,
    weights: AnyPath | None = None,
    offline: bool = False,
    workers: int | None = None,
    batch_size: int | None = None,
    timeout: float | None = TIMEOUT_S,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress = silent,
    **options: Unpack[Options],
) -> training.Run:
    """A model for your own classes, as `visiontool finetune` makes it (docs/training.md).

    Args:
        data: a folder with a folder of pictures for each class, or with train/, val/ and test/ that hold those.
        output: the folder of the run; None for runs/<name of the data>.
        force: replaces the run in `output`.
        weights: a file of weights of the network `model`.
        offline: uses no network.
        workers, batch_size, timeout, limits: as for `Classifier.predict_stream` and `Classifier`.
        progress: called with the stage and how much of it is done: "download" and "convert" where the model has
            to be pulled first, "check", "plain", "views", "head", "folds" and "train", with a note.
        options: as those of the command, with "_" for "-", `from_run` for its --from; `Options` names them all.

    Returns:
        The run: its `folder`, which is a model for `Classifier`, `metrics` and more.

    Raises:
        DataError: the dataset cannot be used.
        ModelError: no such model, or one that cannot be finetuned.
        ConversionError: the run cannot be written, or its model gives other logits than it should.
        UsageError: options that are unknown, out of range or contradict each other; `output` is taken.
    """
    _check("finetune", options, Options)
    settings, target, resume = settings_for(data, {**options, "batch_size": batch_size}, output, force=force)
    file, model = None if weights is None else Path(weights), None
    if file is not None and settings.joined:
        raise UsageError("weights are for one network; name one model")
    with ExitStack() as stack:
        if settings.train is None or not settings.train.from_scratch:
            how: dict[str, Any] = {"weights": file, "offline": offline, "progress": progress}
            names = (settings.model, *settings.joined)
            files = [resolve.obtain(name, file, lambda name: pull(name, **how).path) for name in names]
            if file is not None:
                settings = replace(settings, model=files[0].parent.name)  # with these weights, its name in the cache
            model = stack.enter_context(joined_backbones(files, settings.crop_mode))
        return training.finetune(
            settings,
            model=model,
            output=target,
            force=force,
            resume=resume,
            options=LoadOptions(limits, workers, timeout, batch_size),
            progress=progress,
        )


class ExportOptions(TypedDict, total=False):
    """What is seldom given to `export`."""

    architecture: str | None  # whose weights `model` is: a .safetensors or .pth file
    description: Description | None  # what a file from another tool lacks, or the classes of a file of weights
    crop_mode: CropMode | None
    offline: bool


def export(
    model: AnyPath | None = None,
    *,
    output: AnyPath | None = None,
    force: bool = False,
    precision: Precision | None = None,
    embed_resize: bool = False,
    static_batch: int | None = None,
    calibration: AnyPath | None = None,
    verify_on: AnyPath | None = None,
    verify: bool = True,
    device: str = "cpu",
    **options: Unpack[ExportOptions],
) -> exporting.Export:
    """Writes a model as one checked ONNX file, as `visiontool export` does (docs/export.md).

    Args:
        model: a run, a network, an .onnx file, or a file of weights; None for the newest run in runs/.
        output: None for NAME.onnx in the working folder.
        force: replaces `output`.
        precision: "fp32", "fp16" or "int8"; None for what the model has.
        embed_resize: the file takes pictures of any size and resizes them itself.
        static_batch: the file takes so many pictures at once, no other number.
        calibration: pictures for int8; None for a run's.
        verify_on: pictures for the comparison with the source; None for the run's val, or else the samples.
        verify: False does not compare, and the file says so.
        device: where source and file are compared.
        options: architecture, description, crop_mode, offline, as those of the command; `description` has its
            class_names, mean, std and so on.

    Returns:
        The `path` of the file, its `spec`, the `comparison`, and `notes`.

    Raises:
        GateError: the file would not answer as its source does. Nothing is written.
        ModelError: no such model, or one that is broken, unsafe, or does not say what is needed.
        ConversionError: the model cannot become what the options ask for, or the file cannot be written.
        DataError: no picture to compare or to calibrate on.
        UsageError: `output` exists, or options contradict each other or the model.
    """
    _check("export", options, ExportOptions)
    wanted = exporting.ExportOptions(
        precision=precision,
        embed_resize=embed_resize,
        static_batch=static_batch,
        calibration=None if calibration is None else Path(calibration),
        verify_on=None if verify_on is None else Path(verify_on),
        verify=verify,
    )
    with find(None if model is None else str(model), **options) as source:
        target = exporting.default_target(source, wanted) if output is None else Path(output)
        return exporting.export(source, target, wanted, force=force, device=device)


def _check(command: str, options: Mapping[str, Any], known: type) -> None:
    names = known.__annotations__
    for name in options.keys() - names.keys():
        near = closest(name, names)
        raise UsageError(f"{command} has no option {name!r}.{near}\nhelp(visiontool.{command}) lists them all.")
