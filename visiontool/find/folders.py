"""What is in folders: the pictures below one, holding the names of no more than one folder at a time."""

import fnmatch
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Literal

PICTURE_EXTENSIONS = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".ico", ".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k",
))  # fmt: skip
# Thumbnails and leavings of macOS archives, Synology disks and Windows, which look like folders of pictures.
_JUNK_FOLDERS = frozenset(("__macosx", "@eadir", "$recycle.bin"))
_DIGITS = re.compile(r"\d+")


def pictures_below(top: str, *, recursive: bool = True, exclude: str | None = None) -> Iterator[tuple[str, str]]:
    """The path and the real path of each picture from `top` down: a folder's own, then those of its sub-folders.

    Both in natural order; hidden names, junk and links to folders are left out. A folder that cannot be read is given
    itself.

    Args:
        exclude: The real path of a folder that is not walked into.
    """
    for folder, real, pictures in _walk(top, recursive, exclude):
        if pictures is None:
            yield folder, real
            continue
        prefix, real_prefix = os.path.join(folder, ""), os.path.join(real, "")
        while pictures:
            _, name, link = pictures.pop().split("\0")
            path = prefix + name
            # To resolve a path asks the system about each of its parts; what is no link needs that for its folder only.
            yield path, real_path(path) if link else real_prefix + name


def folders_below(top: str) -> Iterator[str]:
    """`top` and each folder below it, in the order of `pictures_below`."""
    for folder, _, pictures in _walk(top, recursive=True):
        if pictures:
            pictures.clear()  # else they were held while the next folder is read
        yield folder


def class_folders_below(top: str, ignored: Counter[str]) -> Iterator[tuple[str, list[str] | None]]:
    """`top` and each folder below it with the names of its pictures, None where it cannot be read; in natural order.

    Args:
        ignored: Has counted in it what is left out: "hidden", "junk", "links to folders", "not pictures".
    """
    for folder, _, pictures in _walk(top, recursive=True, ignored=ignored):
        yield folder, None if pictures is None else [key.split("\0")[1] for key in reversed(pictures)]


def count_below(
    top: str, *, recursive: bool = True, exclude: str | None = None, stop: Callable[[], bool] = lambda: False
) -> int | None:
    """How many paths `pictures_below` gives, without holding or sorting names; None as soon as `stop` says so."""
    count, pending = 0, [top]
    while pending:
        folder = pending.pop()
        if exclude is not None and is_inside(real_path(folder), exclude):
            continue
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if stop():
                        return None
                    kind = _kind(entry)
                    count += kind == "picture"
                    if kind == "folder" and recursive:
                        pending.append(entry.path)
        except OSError:
            count += 1
    return count


def names_matching(folder: str, pattern: str) -> Iterator[str]:
    """The names in `folder` that match one component of a glob, in natural order; hidden ones if it asks for them.

    Raises:
        OSError: the folder cannot be read.
    """
    hidden = pattern.startswith(".")
    with os.scandir(folder or os.curdir) as entries:
        names = (entry.name for entry in entries if hidden or not entry.name.startswith("."))
        keys = sorted((natural_key(name) for name in names if fnmatch.fnmatch(name, pattern)), reverse=True)
    return (keys.pop().split("\0")[1] for _ in range(len(keys)))


def natural_key(name: str) -> str:
    """What sorts as people do, 2 before 10 and without regard to case, with `name` itself behind a NUL."""
    return f"{_DIGITS.sub(_padded, name.casefold())}\0{name}"


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


def _walk(
    top: str, recursive: bool, exclude: str | None = None, ignored: Counter[str] | None = None
) -> Iterator[tuple[str, str, list[str] | None]]:
    """Each folder from `top` down, its real path and its pictures as `_contents` has them, None if it cannot be read.

    Who takes the pictures empties the list, so that it is gone before the next folder is read. `ignored` counts what
    is left out.
    """
    levels = [("", [top])]
    while levels:
        parent, names = levels[-1]
        if not names:
            levels.pop()
            continue
        folder = os.path.join(parent, names.pop())
        real = real_path(folder)
        if exclude is not None and is_inside(real, exclude):
            continue
        try:
            pictures, folders = _contents(folder, ignored)
        except OSError:
            yield folder, real, None
            continue
        yield folder, real, pictures
        if recursive:
            levels.append((folder, folders))


def _contents(folder: str, ignored: Counter[str] | None) -> tuple[list[str], list[str]]:
    """The pictures and the folders in `folder`, in reverse, to be popped: keys with "link" behind a link's, and names.

    One string for each picture, which sorts and holds the name, takes a quarter of what entry, path and key take.
    """
    pictures: list[str] = []
    folders: list[str] = []
    with os.scandir(folder or os.curdir) as entries:
        for entry in entries:
            kind = _kind(entry)
            if kind == "picture":
                pictures.append(natural_key(entry.name) + ("\0link" if entry.is_symlink() else "\0"))
            elif kind == "folder":
                folders.append(entry.name)
            elif ignored is not None:
                ignored[kind] += 1
    pictures.sort(reverse=True)
    folders.sort(key=natural_key, reverse=True)
    return pictures, folders


def _kind(
    entry: os.DirEntry[str],
) -> Literal["picture", "folder", "hidden", "junk", "links to folders", "not pictures"]:
    name = entry.name
    if name.startswith("."):
        return "hidden"
    if entry.is_dir(follow_symlinks=False):
        return "junk" if name.lower() in _JUNK_FOLDERS else "folder"
    # A broken link counts: whoever opens it says what is wrong. DirEntry.is_dir raises on a link that leads in circles.
    if entry.is_symlink() and os.path.isdir(entry.path):
        return "links to folders"
    return "picture" if os.path.splitext(name)[1].lower() in PICTURE_EXTENSIONS else "not pictures"


def _padded(digits: re.Match[str]) -> str:
    return digits[0].zfill(20)
