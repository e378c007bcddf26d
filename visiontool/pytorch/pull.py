"""Pulling: the weights of a network are fetched and kept in the cache as a model.

A skeleton makes it of them where there is one; else torch converts the network, and the file is compared with it.
"""

import logging
import os
import shutil
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from visiontool import runtime
from visiontool.errors import ConversionError, ModelError, first_line, missing_extra
from visiontool.files import MODEL_FILE, cannot_write
from visiontool.hub import cache, catalog, pulled, resolve, skeleton
from visiontool.hub.cache import Cached
from visiontool.hub.catalog import Entry
from visiontool.hub.resolve import NUMBERS, Pullable, folder_of, pullable, weights_in
from visiontool.images.decode import open_image
from visiontool.images.transforms import fit_to_spec
from visiontool.model.class_names import are_imagenets
from visiontool.model.scan import MAX_FILE_BYTES
from visiontool.model.spec import ModelSpec
from visiontool.progress import Progress, silent

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"

_log = logging.getLogger(__name__)


def pull(
    name: str,
    *,
    img_size: int | None = None,
    weights: Path | None = None,
    class_names: Path | None = None,
    offline: bool = False,
    progress: Progress = silent,
) -> Cached:
    """Puts a model into the cache; one that is there is left alone, one that is damaged made anew.

    Args:
        name: a name of the catalog, with "@256" behind it for another input size; "hf-hub:ORG/NAME";
            "local-dir:FOLDER".
        img_size: side of the input in pixels, None for the network's own.
        weights: a file of weights on this disk instead of the published ones. Its classes are known where it is a copy
            of published weights, or where timm's config.json beside it names them.
        class_names: the names of the classes of other `weights`; None for their numbers.
        offline: use no network, as with HF_HUB_OFFLINE.
        progress: called with the stage ("wait", "download", "convert"), and for a download the bytes so far
            and those of the whole file; the last is None where it is not known. "wait" comes where another process is
            getting the same.

    Raises:
        ModelError: no such model, no published weights, no way to get them, weights that do not fit, or the extra
            [train] is missing.
        ConversionError: the converted network does not answer as in torch, or the cache cannot be written.
    """
    if weights is not None and (folder := folder_of(name, weights)) is not None:
        name, weights = f"{resolve.FOLDER}{folder}", None
    target = pullable(name, img_size=img_size, weights=weights, class_names=class_names)
    if (cached := _undamaged(target.name)) is not None:
        cache.mark_used(cached.name)
    else:
        _check_available(name, target, weights, offline)
        entry, is_published = target.entry, weights is None or target.class_names is None
        write = None if entry is None else _write(target, entry, entry.license if is_published else "")
        with cache.lock(cache.models(), target.name, partial(progress, "wait", 0, None)):
            cached = _undamaged(target.name)  # another process may have been faster
            if cached is None and entry is not None and write is not None:
                cached = pulled.put(target, entry, weights, write, offline=offline, progress=progress)
            elif cached is None:
                cached = _pull_folder(name, target.name, offline, progress)
    if target.class_names == NUMBERS:
        _log.info(
            f"{weights}: nothing says what its classes are called, so they have numbers.\n"
            "Name them with --class-names FILE; for a model.safetensors of the hub, put its config.json beside it."
        )
    return cached


def _undamaged(name: str) -> Cached | None:
    try:
        return cache.cached(name)
    except cache.DamagedModel:
        return None


def _check_available(name: str, target: Pullable, weights: Path | None, offline: bool) -> None:
    """Refuses, before anything is downloaded or written, what cannot be had."""
    from visiontool.hub import sources

    if weights is not None:
        return
    entry = target.entry
    if entry is None:
        if name.startswith(resolve.HUB):
            sources.check_offline(name, is_folder=True, offline=offline)
        return
    if entry.is_untrained:
        raise resolve.ModelUntrained(entry.name)
    if entry.name in resolve.built_in_names():
        raise ModelError(f"{entry.name} is built in: there is nothing to pull.\nUse it as it is: -m {entry.name}")
    if not are_imagenets(entry.classes, entry.tag):
        outputs = f"{entry.classes:,} numbers that are not known as ImageNet's classes"
        siblings = (other for other in catalog.entries() if other.architecture == entry.architecture)
        named = next((other.name for other in siblings if are_imagenets(other.classes, other.tag)), None)
        raise ModelError(
            f"{entry.name} gives {outputs if entry.classes else 'features only'}, so its answers would have no names.\n"
            + (f"With names for its classes: visiontool models pull {named}" if named else "Choose another network.")
        )
    if entry.params * 4 > MAX_FILE_BYTES:
        raise ModelError(
            f"{entry.name} has {entry.params / 1e6:,.0f} M parameters; an .onnx file holds at most "
            f"{MAX_FILE_BYTES / 4e6:,.0f} M. Choose a smaller network."
        )
    sources.check_offline(entry.source, offline=offline)


def _write(target: Pullable, entry: Entry, license: str) -> pulled.Write:
    """What writes a model of the catalog: its skeleton where there is one, else torch."""
    if skeleton.exists(entry, target.img_size):
        fill = pulled.from_skeleton(target, entry, license)

        def write_and_check(weights: Path, folder: Path, source: str) -> ModelSpec:
            spec = fill(weights, folder, source)
            _check(folder / MODEL_FILE, spec, entry)
            return spec

        return fill if target.img_size is None else write_and_check
    convert = _converter(target.name)

    def write(weights: Path, folder: Path, source: str) -> ModelSpec:
        return convert.convert_checkpoint(
            entry.name,
            weights,
            folder,
            resolve.sample_pictures(),
            name=target.name,
            img_size=target.img_size,
            source=source,
            license=license,
            class_names=target.class_names,
        )

    return write


def _check(path: Path, spec: ModelSpec, entry: Entry) -> None:
    """Raises ConversionError where the file, opened by the code that users run, gives no numbers for a picture."""
    opened = runtime.open_model(path, device="cpu")
    spec.check_graph(opened.inputs, opened.outputs, opened.scan.final_operators)
    pixels = fit_to_spec(open_image(resolve.sample_pictures()[0]).image, spec)
    try:
        is_finite = np.isfinite(runtime.outputs(opened.session, spec.logits, {spec.input.name: pixels[None]})).all()
        fault = "" if is_finite else "it gives no numbers (NaN)"
    except ModelError as error:
        fault = first_line(error)
    if fault:
        (height, width), published = spec.input.size, "x".join(map(str, entry.input_size[1:]))
        raise ConversionError(
            f"{entry.name} cannot run at {height}x{width} pixels: {fault}\nIts published size is {published}."
        )


def _converter(name: str) -> ModuleType:
    try:
        from visiontool.pytorch import convert
    except ImportError as error:
        raise ModelError(
            f"{missing_extra('train', f'Pulling {name}')}\n"
            f'Without torch: the classics of "visiontool models", most of them in any size ({error}).'
        ) from error
    return convert


def _pull_folder(name: str, cache_name: str, offline: bool, progress: Progress) -> Cached:
    from visiontool.hub import sources

    if name.startswith(resolve.HUB):
        file = partial(sources.hub_file, name.removeprefix(resolve.HUB), offline=offline)
        config, get_weights = file(_CONFIG), partial(file, _WEIGHTS, progress=progress)
    else:
        original = Path(os.path.abspath(name.removeprefix(resolve.FOLDER)))
        name, config, get_weights = f"{resolve.FOLDER}{original}", original / _CONFIG, partial(weights_in, original)
    described = skeleton.described_by(config)
    convert: Any = None if described is not None else _converter(name)  # before the weights are downloaded
    weights = get_weights()
    with cache.unpublished(cache_name) as folder:
        progress("convert", 0, None)
        if described is not None:
            with pulled.errors_naming(name, weights.parent):
                model = skeleton.fill_from(weights=weights, name=cache_name, **described._asdict())
                model.write(folder)
            return cache.publish(folder, cache_name, name)
        try:
            if weights.suffix == Path(_WEIGHTS).suffix:
                weights = Path(shutil.copyfile(weights, folder / _WEIGHTS))
            shutil.copyfile(config, folder / _CONFIG)
        except OSError as error:
            raise cannot_write(error) from None
        with pulled.errors_naming(name, folder):
            pictures = resolve.sample_pictures()
            convert.convert_folder(folder, folder / MODEL_FILE, pictures, name=cache_name, weights=weights)
        return cache.publish(folder, cache_name, name)
