"""Models of the catalog, put into the cache."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from visiontool.errors import ConversionError, ModelError
from visiontool.files import IN_MEMORY, MODEL_FILE, sha256
from visiontool.hub import cache, skeleton, sources
from visiontool.hub.cache import Cached
from visiontool.hub.catalog import Entry
from visiontool.hub.resolve import PACKAGE, Pullable
from visiontool.model.spec import ModelSpec
from visiontool.progress import Progress, silent

Write = Callable[[Path, Path, str], ModelSpec]
"""Writes the model of a file of weights into a folder; the last is the source that its manifest names."""

_log = logging.getLogger(__name__)


def put(
    target: Pullable,
    entry: Entry,
    weights: Path | None,
    write: Write,
    *,
    offline: bool = False,
    progress: Progress = silent,
) -> Cached:
    """Puts the model `target` into the cache; the caller holds the lock of its name.

    Args:
        weights: a file of them; None for the published ones of `entry`.
    """
    file: AbstractContextManager[Path]
    if weights is None and entry.source.startswith(PACKAGE):
        file, source = nullcontext(_packaged(entry)), entry.source
    elif weights is None:
        file, source = sources.weights_file(entry.source, offline=offline, progress=progress), entry.source
    else:
        file, source = nullcontext(weights), f"file {weights.name}"
    with file as checkpoint, cache.unpublished(target.name) as folder:
        progress("convert", 0, None)
        with errors_naming(source if weights is None else str(weights), checkpoint):
            spec = write(checkpoint, folder, source)
        return cache.publish(folder, target.name, str(spec.weights.get("source", "")))


@contextmanager
def errors_naming(source: str, path: Path) -> Iterator[None]:
    """Errors in the block name `source` instead of `path`, a file that the user does not know."""
    try:
        yield
    except (ConversionError, ModelError) as error:
        kind = ModelError if isinstance(error, ModelError) else ConversionError  # others take other arguments
        raise kind(str(error).replace(str(path), source)) from error


def from_skeleton(target: Pullable, entry: Entry, license: str) -> Write:
    """What writes the model `target` with the skeleton of its network."""

    def write(weights: Path, folder: Path, source: str) -> ModelSpec:
        model = skeleton.fill_from(
            entry,
            weights,
            name=target.name,
            source=source,
            license=license,
            img_size=target.img_size,
            class_names=target.class_names,
        )
        model.write(folder)
        return model.spec

    return write


def from_package(target: Pullable, entry: Entry) -> Path:
    """The file of a model whose weights come in a package, which is put into the cache where it is not there yet.

    Where the cache cannot be written, the model is made in memory: `files.IN_MEMORY` has it.

    Raises:
        ModelError: the package is not installed, or its weights are not the published ones.
    """
    weights = _packaged(entry)
    try:
        with cache.lock(cache.models(), target.name):
            cached = cache.cached(target.name)  # another process may have been faster
            return (cached or put(target, entry, None, from_skeleton(target, entry, entry.license))).path
    except (ConversionError, ModelError) as error:  # the cache cannot be written, or there is no home folder
        _log.info(f"{error}\nUntil then {target.name} is made anew in memory each time.")
        model = skeleton.fill_from(entry, weights, name=target.name, source=entry.source, license=entry.license)
        path = Path(target.name, MODEL_FILE)
        IN_MEMORY[path] = model.to_bytes()
        return path


def _packaged(entry: Entry) -> Path:
    weights = sources.packaged_file(entry.source)
    if sha256(weights) not in entry.sha256:
        raise ModelError(f"{weights}: not the published weights of {entry.name}.\nInstall the package again.")
    return weights
