"""Pulling: the weights of a network are fetched, converted, compared with torch, and kept in the cache."""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from visiontool._version import __version__
from visiontool.errors import ConversionError, ModelError, missing_extra
from visiontool.hub import cache, catalog, resolve
from visiontool.hub.cache import Cached
from visiontool.hub.catalog import Entry
from visiontool.hub.resolve import NUMBERS, Pullable, folder_of, pullable, weights_in
from visiontool.model import class_names as labels
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
        weights: a file of weights on this disk instead of the published ones. It knows its classes where it is a copy
            of published weights, or the folder that it is in says so in timm's config.json.
        class_names: the names of the classes that `weights` does not know itself; None for their numbers.
        offline: use no network, as with HF_HUB_OFFLINE.
        progress: called with the stage ("wait", "download", "convert", "check"), and for a download the bytes so far
            and those of the whole file; the last is None where it is not known. "wait" comes where another process is
            getting the same.

    Raises:
        ModelError: no such model, no published weights, no way to get them, or the extra [train] is missing.
        ConversionError: the weights do not fit, the converted network does not answer as in torch, or the cache cannot
            be written.
        UsageError: arguments that cannot be combined.
    """
    if weights is not None and (folder := folder_of(name, weights)) is not None:
        name, weights = f"{resolve.FOLDER}{folder}", None
    wanted = pullable(name, img_size=img_size, weights=weights, class_names=class_names)
    pulled = _pulled(name, wanted, weights, offline, progress)
    if wanted.class_names == NUMBERS:
        _log.info(
            f"{weights}: nothing says what its classes are called, so they have numbers.\n"
            "Name them with --class-names FILE; for a model.safetensors of the hub, put its config.json beside it."
        )
    return pulled


def _pulled(name: str, wanted: Pullable, weights: Path | None, offline: bool, tell: Progress) -> Cached:
    if (found := _whole(wanted.name)) is not None:
        cache.mark_used(found.name)
        return found
    if wanted.entry is not None and weights is None:
        _check_published(wanted.entry)
    if not (_is_installed("torch") and _is_installed("timm")):
        raise ModelError(missing_extra("train", f"Pulling {wanted.name}"))
    if weights is None:
        _check_offline(name, wanted, offline)
    with cache.lock(cache.models(), wanted.name, partial(tell, "wait", 0, None)):
        if (found := _whole(wanted.name)) is not None:  # another process was faster
            return found
        try:
            if wanted.entry is not None:
                return _pull_entry(wanted, wanted.entry, weights, offline, tell)
            return _pull_folder(name, wanted.name, offline, tell)
        except ConversionError as error:
            if (full := _full_disk(error)) is not None:
                raise cache.cannot_write(full) from error
            raise


def _whole(name: str) -> Cached | None:
    try:
        return cache.cached(name)
    except cache.DamagedModel:
        return None


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ImportError:  # as something in the way of imports says it
        return False


def _check_published(entry: Entry) -> None:
    """Refuses what no download can change, before it begins."""
    if entry.is_untrained:
        raise resolve.ModelUntrained(entry.name)
    if entry.name in resolve.built_in_names():
        raise ModelError(f"{entry.name} is built in: there is nothing to pull.\nUse it as it is: -m {entry.name}")
    if not _has_named_classes(entry):
        what = (
            f"{entry.classes:,} numbers that are not known as ImageNet's classes" if entry.classes else "features only"
        )
        siblings = (other for other in catalog.entries() if other.architecture == entry.architecture)
        named = next((other.name for other in siblings if _has_named_classes(other)), None)
        other = f"With names for its classes: visiontool models pull {named}" if named else "Choose another network."
        raise ModelError(f"{entry.name} gives {what}, so its answers would have no names.\n{other}")
    if entry.params * 4 > MAX_FILE_BYTES:
        raise ModelError(
            f"{entry.name} has {entry.params / 1e6:,.0f} M parameters; an .onnx file holds at most "
            f"{MAX_FILE_BYTES / 4e6:,.0f} M. Choose a smaller network."
        )


def _has_named_classes(entry: Entry) -> bool:
    return labels.are_imagenets(entry.classes, entry.tag)


def _check_offline(name: str, wanted: Pullable, offline: bool) -> None:
    """Refuses what cannot be had without a network, before a cache that perhaps cannot be written is asked for room."""
    from visiontool.hub import sources

    if wanted.entry is not None:
        sources.check_offline(wanted.entry.source, offline=offline)
    elif name.startswith(resolve.HUB):
        sources.check_offline(name, is_folder=True, offline=offline)


def _pull_entry(wanted: Pullable, entry: Entry, weights: Path | None, offline: bool, tell: Progress) -> Cached:
    """Pulls a network of the catalog, with its published weights or those of a file."""
    from visiontool.hub import sources

    found: AbstractContextManager[Path]
    if weights is not None:
        license_ = entry.license if wanted.class_names is None else ""
        found, source = nullcontext(weights), f"file {weights.name}"
    else:
        found = sources.weights_file(entry.source, offline=offline, progress=tell)
        source, license_ = entry.source, entry.license
    with found as checkpoint, cache.unpublished(wanted.name) as folder:
        tell("convert", 0, None)
        with _called(source, checkpoint) if checkpoint.name.startswith(sources.OURS) else nullcontext():
            spec = _training().convert_checkpoint(
                entry.name,
                checkpoint,
                folder,
                resolve.sample_pictures(),
                name=wanted.name,
                img_size=wanted.img_size,
                source=source,
                license=license_,
                class_names=wanted.class_names,
            )
        return _publish(wanted.name, folder, spec, tell)


def _pull_folder(name: str, cache_name: str, offline: bool, tell: Progress) -> Cached:
    """Pulls a folder in timm's hub format, on a hub or on this disk."""
    from visiontool.hub import sources

    found: AbstractContextManager[tuple[Path, Path]]
    if name.startswith(resolve.HUB):
        repository = name.removeprefix(resolve.HUB)
        found = sources.hub_files(repository, offline=offline, progress=tell)
    else:
        original = Path(os.path.abspath(name.removeprefix(resolve.FOLDER)))
        name = f"{resolve.FOLDER}{original}"
        found = nullcontext((original / _CONFIG, weights_in(original)))
    with found as (config, weights), cache.unpublished(cache_name) as folder:
        tell("convert", 0, None)
        try:
            if weights.suffix == Path(_WEIGHTS).suffix:
                shutil.copyfile(weights, folder / _WEIGHTS)
                weights = folder / _WEIGHTS
            shutil.copyfile(config, folder / _CONFIG)
        except OSError as error:
            raise cache.cannot_write(error) from None
        with _called(name, folder):
            spec = _training().convert_folder(
                folder, folder / cache.MODEL_FILE, resolve.sample_pictures(), name=cache_name, weights=weights
            )
        return _publish(cache_name, folder, spec, tell, name)


@contextmanager
def _called(source: str, path: Path) -> Iterator[None]:
    """Errors in the block name `source` and not `path`, of which the user knows nothing and which will be deleted."""
    try:
        yield
    except ConversionError as error:
        raise ConversionError(str(error).replace(str(path), source)) from error


def _training() -> ModuleType:
    """visiontool.pytorch.convert, at the cost of torch."""
    try:
        from visiontool.pytorch import convert
    except ImportError as error:
        raise ModelError(f"{missing_extra('train', 'Pulling')}\n{error}") from error
    return convert


def _publish(name: str, folder: Path, spec: ModelSpec, tell: Progress, source: str = "") -> Cached:
    tell("check", 0, None)
    return cache.publish(
        folder,
        name,
        source=source or str(spec.weights.get("source", "")),
        license=str(spec.weights.get("license", "")),
        tools={"visiontool": __version__, **spec.tools},
    )


def _full_disk(error: BaseException | None) -> OSError | None:
    """The error of a full disk behind `error`, however deep."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in cache.FULL:
            return error
        error = error.__cause__ or error.__context__
    return None
