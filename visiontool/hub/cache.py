"""The pulled models on this disk, each a folder that is complete or not there at all, and embeddings of pictures.

    ROOT/models/NAME/       model.onnx, config.json, model.safetensors, and record.json: their source, hashes and sizes
    ROOT/models/.NAME~...   a model that is being written, and its lock
    ROOT/downloads/         weights that are being downloaded
    ROOT/features/          embeddings of pictures, a database (`visiontool.inference.embedding_cache`)
    ROOT/default            the name of the model that the user chose

The files of a model are hashed when they are written; later their size and time are compared, which costs nothing.
What writes raises a ConversionError where the cache cannot be written.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from visiontool.errors import ModelError
from visiontool.files import (
    HIDDEN,
    MODEL_FILE,
    RECORD_FILE,
    cache_root,
    cannot_write,
    file_facts,
    hidden,
    is_unchanged,
    locked,
    sha256,
    write_file,
)

_SCHEMA = 1
_FILE = "file "  # before the name of a file of weights, as a source
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]{0,199}(?<!\.)")


class DamagedModel(ModelError):
    """The files of a model in the cache are not those that were written."""

    def __init__(self, name: str, fault: str, source: str = "") -> None:
        super().__init__(f"{name} in the cache is damaged: {fault}.\n{remedy(name, source)}")
        self.fault = fault


class Cached(NamedTuple):
    """A pulled model."""

    name: str
    folder: Path
    path: Path  # of model.onnx
    size_bytes: int
    source: str  # "" where the record is damaged


def models() -> Path:
    """The folder of the models."""
    return cache_root() / "models"


def downloads() -> Path:
    """The folder for downloads."""
    return cache_root() / "downloads"


def features() -> Path:
    """The folder of the embeddings."""
    return cache_root() / "features"


def is_name(name: str) -> bool:
    """Whether a model may be called `name` in the cache: the name of a file, which leads nowhere else."""
    return _NAME.fullmatch(name) is not None


def default_model() -> str | None:
    """The model that the user chose with `set_default_model`, or None."""
    try:
        text = (cache_root() / "default").read_text(encoding="utf-8", errors="surrogateescape")
    except (OSError, ModelError):  # no home folder, no choice
        return None
    return text.removesuffix("\n")


def set_default_model(name: str | None) -> None:
    """Makes `name`, a model's name or an absolute path, the model for commands that name none; None takes that back."""
    path = cache_root() / "default"
    try:
        if name is None:
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, name + "\n")
    except OSError as error:
        raise cannot_write(error) from None


def cached(name: str) -> Cached | None:
    """The model `name`, or None if it is not in the cache; raises DamagedModel."""
    try:
        folder = models() / name
    except ModelError:  # no home folder
        return None
    if not is_name(name) or not os.path.isdir(folder):
        return None
    record = _read_record(folder)
    recorded = record["files"]
    # Only what differs in size or time is hashed.
    if differing := [file for file, facts in recorded.items() if not is_unchanged(folder / file, facts)]:
        for file in differing:
            if fault := _fault(folder / file, recorded[file]["sha256"]):
                raise DamagedModel(name, fault, record["source"])
            recorded[file] = file_facts(folder / file)
        with suppress(OSError):  # the cache may be read-only
            write_file(folder / RECORD_FILE, json.dumps(record, indent=1) + "\n")
    return _cached(folder, record["source"])


def all_cached() -> list[Cached]:
    """Every model in the cache, by name, damaged ones too."""
    try:
        folders = sorted(path for path in models().iterdir() if is_name(path.name) and path.is_dir())
    except (OSError, ModelError):
        return []
    result = []
    for folder in folders:
        try:
            source = _read_record(folder)["source"]
        except DamagedModel:
            source = ""
        result.append(_cached(folder, source))
    return result


def mark_used(name: str) -> None:
    """Notes that `name` is used now, for `trim`."""
    with suppress(OSError):  # the cache may be read-only
        os.utime(models() / name)


def verify(name: str) -> list[str]:
    """What is wrong with the files of `name`, which are all hashed: one line for each."""
    folder = _existing(name)
    try:
        recorded = _read_record(folder)["files"]
    except DamagedModel as error:
        return [error.fault]
    return [fault for file in recorded if (fault := _fault(folder / file, recorded[file]["sha256"]))]


def remove(name: str) -> None:
    """Removes a model; raises ModelError if it is not in the cache."""
    folder = _existing(name)
    removed = hidden(folder)  # so that the model is gone at once
    try:
        folder.rename(removed)
    except OSError as error:
        raise cannot_write(error) from None
    _delete(removed)


@contextmanager
def lock(folder: Path, name: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Locks `name` in `folder`, which is created, for the block; calls `waiting` once if another process holds it."""
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(_lock_file(folder, name), waiting))
        except OSError as error:
            raise cannot_write(error) from None
        yield


@contextmanager
def unpublished(name: str) -> Iterator[Path]:
    """A new, hidden folder to write the model `name` into; `publish` makes a model of it. The caller holds the lock."""
    _clear_unfinished(name)
    folder = hidden(models() / name)
    try:
        folder.mkdir()
    except OSError as error:
        raise cannot_write(error) from None
    try:
        yield folder
    finally:
        _delete(folder)  # one that was published has another name by now


def publish(folder: Path, name: str, source: str) -> Cached:
    """Makes a folder of `unpublished` the model `name`, in place of a damaged one."""
    target = models() / name
    try:
        files = {path.name: file_facts(path) for path in sorted(folder.iterdir())}
        record = {"schema": _SCHEMA, "source": source, "files": files}
        write_file(folder / RECORD_FILE, json.dumps(record, indent=1) + "\n")
        if target.exists():
            remove(name)
        folder.rename(target)
    except OSError as error:
        raise cannot_write(error) from None
    return _cached(target, source)


def size_bytes() -> int:
    """The size of the cache on the disk, downloads and embeddings included."""
    return features_bytes() + sum(path.stat().st_size for path in [*models().glob("[!.]*/*"), *_files_in(downloads())])


def features_bytes() -> int:
    """The size of the embeddings on the disk."""
    return sum(path.stat().st_size for path in _files_in(features()))


def trim(max_bytes: int) -> list[Cached]:
    """Makes the cache no larger than `max_bytes`.

    Unfinished models and downloads that no process is working on go first, then all embeddings, then models, least
    recently used first. Gives the models that were removed.
    """
    for folder in models().glob(f".*{HIDDEN}*"):
        name = folder.name[1:].rpartition(HIDDEN)[0]
        with suppress(OSError), locked(_lock_file(models(), name), _refuse):
            _clear_unfinished(name)
    for download in _files_in(downloads()):
        with suppress(OSError), locked(_lock_file(downloads(), download.name), _refuse):
            download.unlink()
    total = size_bytes()
    if total > max_bytes:
        for path in _files_in(features()):
            with suppress(OSError):  # Windows keeps what a process has open
                path.unlink()
        total = size_bytes()
    removed = []
    for model in sorted(all_cached(), key=lambda model: model.folder.stat().st_mtime):
        if total > max_bytes:
            remove(model.name)
            total -= model.size_bytes
            removed.append(model)
    return removed


def remedy(name: str, source: str) -> str:
    """What to type to have the damaged model `name` anew; `source` is that of its record, "" where that is damaged."""
    if "+" not in name and "--" not in name:  # a name of the catalog
        return f"Get it anew with: visiontool models pull {name}"
    from shlex import quote

    model, _, rest = name.partition("+")
    side = rest.partition("@")[2]
    arguments = quote(source)
    if source.startswith(_FILE):
        arguments = f"{model} --weights {quote(source.removeprefix(_FILE))}" + (f" --img-size {side}" if side else "")
        arguments += " --class-names FILE" if "+" in rest else ""
    again = f"\nThen pull it again: visiontool models pull {arguments}" if source else ", then pull it again"
    return f"Remove it with: visiontool models remove {name}{again}"


def _cached(folder: Path, source: str) -> Cached:
    size = sum(path.stat().st_size for path in _files_in(folder))
    return Cached(folder.name, folder, folder / MODEL_FILE, size, source)


def _read_record(folder: Path) -> dict[str, Any]:
    """The content of record.json; raises DamagedModel."""
    source = ""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD_FILE).read_bytes())
        source = str(record["source"])
        if record["schema"] != _SCHEMA:
            raise DamagedModel(folder.name, f"another version of visiontool wrote its {RECORD_FILE}", source)
        if not {"sha256", "size", "mtime_ns"} <= record["files"][MODEL_FILE].keys():
            raise ValueError
    except OSError as error:
        raise DamagedModel(folder.name, f"its {RECORD_FILE} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedModel(folder.name, f"its {RECORD_FILE} is not what visiontool writes", source) from None
    return record


def _fault(path: Path, digest: str) -> str:
    """What is wrong with the content of a file, "" if nothing."""
    try:
        return "" if sha256(path) == digest else f"{path.name} was changed since it was pulled"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"


def _existing(name: str) -> Path:
    folder = models() / name
    if not is_name(name) or not os.path.isdir(folder):
        raise ModelError(f"no model in the cache is called {name!r}.\nWhat is there: visiontool models --cached")
    return folder


def _refuse() -> None:
    raise BlockingIOError("another process holds the lock")


def _lock_file(folder: Path, name: str) -> Path:
    return folder / f".{name}{HIDDEN}lock"


def _clear_unfinished(name: str) -> None:
    """Deletes what killed processes left of the model `name`, for the holder of its lock."""
    for path in models().glob(f".{name}{HIDDEN}*"):
        if path.is_dir():
            _delete(path)


def _delete(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def _files_in(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file()]
    except OSError:
        return []
