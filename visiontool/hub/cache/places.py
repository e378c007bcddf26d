"""Where the cache is, what may be called how in it, and how it is written."""

import errno
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

from visiontool.errors import ConversionError, ModelError
from visiontool.files import replacing

VARIABLE = "VISIONTOOL_CACHE"
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
HIDDEN = "~"  # in no name, so that no name is the beginning of another's hidden files
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]{0,199}(?<!\.)")
_DEVICES_OF_WINDOWS = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def root() -> Path:
    """The folder of the cache: VISIONTOOL_CACHE, else `visiontool` in the platform's folder for caches.

    Raises:
        ModelError: there is no home folder.
    """
    if chosen := os.environ.get(VARIABLE):
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
        raise ModelError(f"no home folder is known to keep models in. Set {VARIABLE} to a folder.")
    return Path(base, "visiontool")


def models() -> Path:
    """The folder of the models."""
    return root() / "models"


def downloads() -> Path:
    """The folder for downloads."""
    return root() / "downloads"


def features() -> Path:
    """The folder of the features."""
    return root() / "features"


def lock_file(folder: Path, name: str) -> Path:
    """What a process holds that writes `name` in `folder`."""
    return folder / f".{name}{HIDDEN}lock"


def is_name(name: str) -> bool:
    """Whether a model may be called `name` in the cache: a file name on every system, which leads nowhere else."""
    return _NAME.fullmatch(name) is not None and _DEVICES_OF_WINDOWS.fullmatch(name) is None


def default_model() -> str | None:
    """The model that the user chose with `set_default_model`, or None.

    Raises:
        ModelError: the file that says so holds no name.
    """
    try:
        path = root() / "default"
        name = path.read_text(encoding="utf-8", errors="surrogateescape").removesuffix("\n")
    except (OSError, ModelError):  # no home folder, no choice
        return None
    if not (is_name(name) or os.path.isabs(name)):
        raise ModelError(f"{path} holds no name of a model.\nChoose one with: visiontool models default NAME")
    return name


def set_default_model(name: str | None) -> None:
    """Makes `name` the model for commands that name none; None takes the choice back.

    Whether there is such a model is for the caller to ask (`store.resolve`).

    Args:
        name: a model's name, or an absolute path.

    Raises:
        ModelError: it is neither.
        ConversionError: the cache cannot be written.
    """
    if name is not None and not (is_name(name) or os.path.isabs(name)):
        raise ModelError(f"{name!r} cannot be the default model: expected a name, or an absolute path")
    path = root() / "default"
    try:
        if name is None:
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, name + "\n")
    except OSError as error:
        raise cannot_write(error) from None


def hidden(path: Path) -> Path:
    """A new name beside `path` for what is not to be found under its own."""
    return path.with_name(f".{path.name}{HIDDEN}{os.urandom(4).hex()}")


def write_file(path: Path, text: str) -> None:
    """Writes a small file all at once."""
    with replacing(path, hidden(path)) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="surrogateescape")  # a path may be of any bytes


def cannot_write(error: OSError) -> ConversionError:
    """The error for a cache that cannot be written: read-only, full, or not a folder."""
    what = "the disk is full" if error.errno in FULL else "the cache cannot be written"
    return ConversionError(
        f"{root()}: {what} ({error.strerror or error}).\n"
        f"Set {VARIABLE} to a folder on a disk with room that you may write to."
    )


def model_folders() -> list[Path]:
    """The folders of the models, in order."""
    try:
        return sorted(path for path in models().iterdir() if is_name(path.name) and path.is_dir())
    except (OSError, ModelError):
        return []


def files(folder: Path) -> list[Path]:
    """The files in `folder` that are not hidden."""
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file()]
    except OSError:
        return []


def size_bytes(folder: Path) -> int:
    """The size of the files in `folder`."""
    total = 0
    for path in files(folder):
        with suppress(OSError):  # another process finished with it meanwhile
            total += path.stat().st_size
    return total


def last_used(path: Path) -> float:
    """When `path` was written or marked last, in seconds since 1970; 0 where it is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def leavings(name: str) -> list[Path]:
    """What is written of the model `name`, or was by a process that was killed; "*" for every name."""
    return [*models().glob(f".{name}{HIDDEN}*")]


def clear_leavings(name: str) -> None:
    """Clears away what killed processes left of `name`, for the holder of its lock."""
    for path in leavings(name):
        if path.is_dir():
            delete(path)


def delete(folder: Path) -> None:
    """Deletes a folder as far as that can be done."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
