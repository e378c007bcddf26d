"""Files: where the cache is, writing all at once, locks between processes, hashes."""

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from visiontool.errors import ConversionError, ModelError

CACHE_VARIABLE = "VISIONTOOL_CACHE"
MODEL_FILE, RECORD_FILE = "model.onnx", "record.json"  # of a pulled model
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
IN_MEMORY: dict[Path, bytes] = {}  # models that could not be kept, by the paths that stand for them
HIDDEN = "~"  # in no model's name, so that no name is the beginning of another's hidden files
_SAME_TIME_NS = 2 * 10**9  # file systems and archives keep times in steps of up to two seconds


def cache_root() -> Path:
    """The folder of the cache: VISIONTOOL_CACHE, else `visiontool` in the platform's folder for caches.

    Raises ModelError where there is no home folder.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(os.path.abspath(os.path.expanduser(chosen)))
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or os.path.expanduser(r"~\AppData\Local")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME", "")
        if not os.path.isabs(base):  # the XDG specification: a relative path is invalid and is ignored
            base = os.path.expanduser("~/.cache")
    if base.startswith("~"):
        raise ModelError(f"no home folder is known to keep models in. Set {CACHE_VARIABLE} to a folder.")
    return Path(base, "visiontool")


def cannot_write(error: OSError) -> ConversionError:
    """The error for a cache that cannot be written: read-only, full, or not a folder."""
    what = "the disk is full" if error.errno in FULL else "the cache cannot be written"
    return ConversionError(
        f"{cache_root()}: {what} ({error.strerror or error}).\n"
        f"Set {CACHE_VARIABLE} to a folder on a disk with room that you may write to."
    )


def hidden(path: Path) -> Path:
    """A new hidden name beside `path`, for what is not complete or is being deleted."""
    return path.with_name(f".{path.name}{HIDDEN}{os.urandom(4).hex()}")


@contextmanager
def replacing(target: Path, unfinished: Path | None = None) -> Iterator[Path]:
    """A path to write to, beside `target` if not given: it becomes `target` when the block ends, or is deleted."""
    unfinished = unfinished or target.with_name(target.name + ".partial")
    try:
        yield unfinished
        unfinished.replace(target)
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def write_file(path: Path, text: str) -> None:
    """Writes a small file all at once."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="surrogateescape")  # a path may be of any bytes


@contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Holds the lock file `path` for the block, and deletes it then; calls `waiting` once if another holds it.

    A process that dies releases it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, mode=0o666)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if waiting is not None:
            waiting()
        lock.acquire()
    try:
        yield
    finally:
        with suppress(OSError):  # Windows deletes no open file: it stays, empty
            path.unlink()
        lock.release()


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    import hashlib

    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_facts(path: Path) -> dict[str, Any]:
    """Hash, size and time of a file, as record.json has them."""
    status = path.stat()
    return {"sha256": sha256(path), "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def is_unchanged(path: Path, facts: Mapping[str, Any]) -> bool:
    """Whether a file has the size and the time of `file_facts`, as near as file systems keep times."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    return bool(status.st_size == facts["size"] and abs(status.st_mtime_ns - facts["mtime_ns"]) < _SAME_TIME_NS)


def on_disk(path: Path) -> Path:
    """`path`, for what needs a file; raises ModelError for a model that is in memory only."""
    if path in IN_MEMORY:
        raise ModelError(
            f"{path.parent} has no file here, since the cache cannot be written: {cache_root()}\n"
            f"Set {CACHE_VARIABLE} to a folder that you may write to."
        )
    return path


def model_sha256(path: Path) -> str:
    """The SHA-256 of a model file. That of an unchanged pulled model is in its record; others are read once."""
    if (content := IN_MEMORY.get(path)) is not None:
        import hashlib

        return hashlib.sha256(content).hexdigest()
    with suppress(OSError, ModelError, ValueError, KeyError, TypeError):  # no pulled model, or a damaged record
        if path.parent.parent == cache_root() / "models":
            facts = json.loads(path.with_name(RECORD_FILE).read_bytes())["files"][path.name]
            if is_unchanged(path, facts):
                return str(facts["sha256"])
    status = path.stat()
    return _sha256_of(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)  # half a second for VGG-16
def _sha256_of(path: Path, size: int, mtime_ns: int) -> str:
    return sha256(path)
