"""What is in folders: the pictures below one, told by their names or, where those say nothing, by their first bytes."""

import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from visiontool.errors import PictureError

PICTURE_EXTENSIONS = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".ico", ".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k",
))  # fmt: skip
# What often lies beside pictures, and need not be opened to be told from them.
_OTHER_EXTENSIONS = frozenset((
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".md", ".rst", ".log",
    ".html", ".htm", ".css", ".js", ".py", ".pyc", ".ipynb", ".sh", ".bat", ".c", ".cpp", ".h", ".pdf", ".doc", ".docx",
    ".xls", ".xlsx", ".ppt", ".pptx", ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".mp4", ".mov",
    ".avi", ".mkv", ".webm", ".mp3", ".wav", ".npy", ".npz", ".pt", ".pth", ".onnx", ".safetensors", ".pkl", ".h5",
    ".hdf5", ".parquet", ".db", ".sqlite", ".lock", ".mat", ".xmp", ".aae",
))  # fmt: skip
# What they hold as a TIFF file is a thumbnail.
_RAW_EXTENSIONS = frozenset((
    ".3fr", ".arw", ".cr2", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos", ".nef", ".nrw", ".orf",
    ".pef", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw",
))  # fmt: skip
# Thumbnails and leavings of macOS archives, Synology disks and Windows, which look like folders of pictures.
_JUNK_FOLDERS = frozenset(("__macosx", "@eadir", "$recycle.bin"))
_DIGITS = re.compile(r"\d+")
_HEAD_BYTES = 64
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)

OnPass = Callable[[str, str], None]
"""Takes what is left out of folders: a kind ("hidden", "junk", "not pictures", "unsupported", "unreadable",
"sub-folders", "repeated") and the path."""


class Folder(NamedTuple):
    """A folder that was read."""

    path: str
    real: str
    names: list[str] | None
    """Its files, links to files included, in natural order; None where it cannot be read."""
    links: set[str]
    """Those names that are links."""


def walk(
    top: str, *, recursive: bool = True, exclude: str | None = None, on_pass: OnPass = lambda kind, path: None
) -> Iterator[Folder]:
    """`top` and the folders below it, each real folder once: in natural order, and those that links lead to at the end.

    So a link to a folder that is there by itself never takes its place. Hidden and junk folders are left out.

    Args:
        exclude: The real path of a folder that is not walked into.
    """
    walked = set[str]()
    folders, linked = [top], deque[str]()
    while folders or linked:
        path = folders.pop() if folders else linked.popleft()
        real = real_path(path)
        if exclude is not None and is_inside(real, exclude):
            continue
        if real in walked:
            on_pass("repeated", path)
            continue
        walked.add(real)
        names: list[str] = []
        links, inside, linked_inside = set[str](), [], []
        try:
            with os.scandir(path or os.curdir) as entries:
                for entry in entries:
                    name = entry.name
                    if name.startswith("."):
                        on_pass("hidden", os.path.join(path, name))
                    elif entry.is_dir(follow_symlinks=False) and name.lower() in _JUNK_FOLDERS:
                        on_pass("junk", os.path.join(path, name))
                    elif entry.is_dir(follow_symlinks=False):
                        inside.append(name)
                    # DirEntry.is_dir raises on a link that leads in circles.
                    elif entry.is_symlink() and os.path.isdir(entry.path):
                        linked_inside.append(name)
                    else:
                        names.append(name)
                        links.update([name] if entry.is_symlink() else [])
        except OSError:
            yield Folder(path, real, None, set())
            continue
        names.sort(key=natural_key)
        yield Folder(path, real, names, links)
        if recursive:
            folders += [os.path.join(path, name) for name in sorted(inside, key=natural_key, reverse=True)]
            linked += [os.path.join(path, name) for name in sorted(linked_inside, key=natural_key)]
        else:
            for name in inside + linked_inside:
                on_pass("sub-folders", os.path.join(path, name))


def pictures_in(folder: Folder, on_pass: OnPass) -> Iterator[str]:
    """The names of the pictures in a folder that could be read."""
    for name in folder.names or ():
        if kind := _not_picture(path := os.path.join(folder.path, name)):
            on_pass(kind, path)
        else:
            yield name


def natural_key(name: str) -> str:
    """What sorts as people do, 2 before 10 and without regard to case, with `name` itself behind a NUL."""
    return f"{_DIGITS.sub(lambda digits: digits[0].zfill(20), name.casefold())}\0{name}"


def natural_keys(path: str) -> list[str]:
    """What sorts paths as their folders are walked."""
    return [natural_key(part) for part in path.replace(os.sep, "/").split("/")]


def real_path(path: str) -> str:
    """`path` from the root on and without links, as far as that can be told."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):  # the working folder was deleted, or there is a NUL in the path
        return path


def is_inside(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or below it, both being real paths."""
    path, folder = os.path.normcase(path), os.path.normcase(folder)
    return path == folder or path.startswith(os.path.join(folder, ""))


def _not_picture(path: str) -> str:
    """The kind of a file in a folder that is not taken for a picture, or "". A listed extension is believed."""
    extension = os.path.splitext(path)[1].lower()
    if extension in PICTURE_EXTENSIONS:  # a broken link too: whoever opens it says what is wrong
        return ""
    if extension in _OTHER_EXTENSIONS:
        return "not pictures"
    try:
        head = _head(path)
    except OSError:
        return "unreadable"
    from visiontool.images.formats import plugin_for  # brings Pillow and numpy

    try:
        plugin = plugin_for(head)
    except PictureError as error:
        is_other = not head or (extension not in _RAW_EXTENSIONS and "not a picture" in str(error))
        return "not pictures" if is_other else "unsupported"
    if plugin == "Tiff" and extension in _RAW_EXTENSIONS:
        return "unsupported"
    # Text may begin as these do: "BM", "P1 ".
    is_text = (plugin == "Bmp" and b"\0" not in head) or (plugin == "Ppm" and not re.match(rb"..\s*[#\d]", head))
    return "not pictures" if is_text else ""


def _head(path: str) -> bytes:
    """How a file begins; nothing of what is no regular file, or says that it is empty, as in /proc."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
        return b""
    descriptor = os.open(path, _OPEN_FLAGS)
    try:
        return os.read(descriptor, _HEAD_BYTES)
    finally:
        os.close(descriptor)
