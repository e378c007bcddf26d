"""The pulled models: found, checked, written, removed."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from visiontool import locks
from visiontool.errors import ModelError
from visiontool.hub.cache import places
from visiontool.hub.cache.record import MODEL_FILE, RECORD_FILE, DamagedModel, FileFacts, Record


class Cached(NamedTuple):
    """A pulled model."""

    name: str
    folder: Path
    path: Path  # of model.onnx
    size_bytes: int
    pulled: str  # ISO time; "" where the record is damaged, as is the source
    source: str

    @classmethod
    def of(cls, folder: Path, record: Record | None) -> "Cached":
        pulled, source = (record.pulled, record.source) if record else ("", "")
        return cls(folder.name, folder, folder / MODEL_FILE, places.size_bytes(folder), pulled, source)


def cached(name: str) -> Cached | None:
    """The model `name`, or None if it is not in the cache.

    Size and time of its files are compared with the record; a file that differs is hashed, and is good if its content
    is still the same.

    Raises:
        DamagedModel: a file was changed, or the record cannot be read.
    """
    if not places.is_name(name) or (folder := _folder(name)) is None:
        return None
    record = Record.read(folder)
    if record is None:
        return None
    if differing := record.differing(folder):
        if faults := record.faults(folder, differing):
            raise DamagedModel(name, faults[0], record.source)
        with suppress(OSError):  # the cache may be read-only
            record.renewed(folder, differing).write(folder)
    return Cached.of(folder, record)


def all_cached() -> list[Cached]:
    """Every model in the cache, by name, damaged ones too."""
    found = []
    for folder in places.model_folders():
        try:
            record = Record.read(folder)
        except DamagedModel:
            record = None
        found.append(Cached.of(folder, record))
    return found


def mark_used(name: str) -> None:
    """Notes that `name` is used now, for `trim`; where the cache is read-only, nothing happens."""
    with suppress(OSError):
        os.utime(places.models() / name / RECORD_FILE)


def verify(name: str) -> list[str]:
    """Hashes every file of `name`.

    Returns:
        What is wrong, one line for each file; nothing if all is as it was written.

    Raises:
        ModelError: `name` is not in the cache.
    """
    folder = _existing(name)
    try:
        record = Record.read(folder)
    except DamagedModel as error:
        return [error.fault]
    return record.faults(folder, record.files) if record else []


def remove(name: str) -> None:
    """Removes a model at once: nobody finds half of it.

    Raises:
        ModelError: `name` is not in the cache.
        ConversionError: the cache cannot be written.
    """
    folder = _existing(name)
    doomed = places.hidden(folder)
    try:
        folder.rename(doomed)
    except OSError as error:
        raise places.cannot_write(error) from None
    places.delete(doomed)


@contextmanager
def lock(folder: Path, name: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Holds `name` in `folder`, which is made, for the block: another process that wants it waits.

    Args:
        waiting: called once if another process holds it.

    Raises:
        ConversionError: the cache cannot be written.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locks.locked(places.lock_file(folder, name), waiting))
        except OSError as error:
            raise places.cannot_write(error) from None
        yield


@contextmanager
def unpublished(name: str) -> Iterator[Path]:
    """A new, hidden folder to write the model `name` into, for the block; `publish` makes a model of it.

    The caller holds the lock. What killed processes left of `name` is cleared away.

    Raises:
        ConversionError: the cache cannot be written.
    """
    places.clear_leavings(name)
    folder = places.hidden(places.models() / name)
    try:
        folder.mkdir()
    except OSError as error:
        raise places.cannot_write(error) from None
    try:
        yield folder
    finally:
        places.delete(folder)  # one that was published has another name by now


def publish(folder: Path, name: str, *, source: str, license: str, tools: Mapping[str, Any]) -> Cached:
    """Makes a folder of `unpublished` the model `name`, in place of a damaged one.

    Args:
        source: where the weights come from.
        license: of the weights.
        tools: versions of what made the files.

    Raises:
        ConversionError: the cache cannot be written.
    """
    from datetime import UTC, datetime

    target = places.models() / name
    now = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        files = {path.name: FileFacts.of(path) for path in sorted(folder.iterdir())}
        record = Record(name, source, now, license, tools, files)
        record.write(folder)
        if os.path.exists(target):
            damaged = places.hidden(target)
            target.rename(damaged)
            places.delete(damaged)
        folder.rename(target)
    except OSError as error:
        raise places.cannot_write(error) from None
    return Cached.of(target, record)


def _folder(name: str) -> Path | None:
    try:
        return places.models() / name
    except ModelError:  # no home folder
        return None


def _existing(name: str) -> Path:
    folder = _folder(name) if places.is_name(name) else None
    if folder is None or not os.path.isdir(folder):
        raise ModelError(f"no model in the cache is called {name!r}.\nWhat is there: visiontool models --cached")
    return folder
