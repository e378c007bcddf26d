"""Which pictures are meant by the paths, folders and globs that somebody typed."""

import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

PICTURE_EXTENSIONS = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".ico", ".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k",
))  # fmt: skip
# Thumbnails and leavings of macOS archives, Synology disks and Windows, which look like folders of pictures.
_JUNK_FOLDERS = frozenset(("__macosx", "@eadir", "$recycle.bin"))
_MAGIC = re.compile(r"[*?[]")


def find_images(
    paths: Iterable[str], *, recursive: bool = True, on_empty: Callable[[str], None] | None = None
) -> Iterator[str]:
    """The path of each picture that `paths` mean, lazily and each real file once, in the order given.

    A file is yielded whatever its name, and also when it does not exist: the one who opens it says so. A folder yields
    its files with a picture's extension in natural order, then those of its sub-folders; hidden names, junk and links
    to folders are left out. A folder that cannot be read is yielded itself, so that opening it says why. Anything else
    with `*`, `?`, `[` or `**` in it is a glob, whose matches count as if typed. `~` is left to the shell.

    Args:
        recursive: Whether to go into the sub-folders of a folder.
        on_empty: Called with each of `paths` that turned out to hold no picture at all.
    """
    seen: set[str] = set()
    for path in paths:
        empty = True
        for found in _pictures(path, recursive):
            empty = False
            real = _real(found)
            if real not in seen:
                seen.add(real)
                yield found
        if empty and on_empty is not None:
            on_empty(path)


def is_one_file(path: str) -> bool:
    """Whether `path` means one picture, there or not, as against a folder or a glob."""
    return not os.path.isdir(path) and not _is_glob(path)


def natural_key(name: str) -> tuple[str, str]:
    """Sorts names as people do: 2 before 10, without regard to case."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(20), name.casefold()), name


def _is_glob(path: str) -> bool:
    # What exists under exactly this name is meant, even when the name reads like a glob: "a[1].jpg".
    return _MAGIC.search(path) is not None and not os.path.lexists(path)


def _real(path: str) -> str:
    try:
        return os.path.realpath(path)
    except OSError:  # the working folder was deleted
        return path


def _pictures(path: str, recursive: bool) -> Iterator[str]:
    if not _is_glob(path):
        matches: Iterable[str] = (path,)
    else:
        pattern = Path(path)
        matches = _matches(pattern.anchor, pattern.parts[1:] if pattern.anchor else pattern.parts)
    for match in matches:
        if os.path.isdir(match):
            for folder, files in _tree(match, recursive):
                yield from [folder] if files is None else files
        else:
            yield match


def _tree(top: str, recursive: bool) -> Iterator[tuple[str, list[str] | None]]:
    """Each folder from `top` down with the paths of its pictures, or None where it cannot be read."""
    pending = [top]
    while pending:
        folder = pending.pop()
        try:
            entries = _listing(folder)
        except OSError:
            yield folder, None
            continue
        yield folder, [os.path.join(folder, entry.name) for entry in entries if _is_picture(entry)]
        if recursive:
            pending += [os.path.join(folder, entry.name) for entry in reversed(entries) if _is_walked(entry)]


def _matches(base: str, parts: tuple[str, ...]) -> Iterator[str]:
    """The paths below `base` that match the components of a glob."""
    if not parts:
        yield base or os.curdir
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        for folder, _ in _tree(base, recursive=True):
            yield from _matches(folder, rest)
    elif not _MAGIC.search(part):
        path = os.path.join(base, part)
        if os.path.lexists(path):
            yield from _matches(path, rest)
    else:
        try:
            entries = _listing(base, hidden=part.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError:
            yield base
            return
        for entry in entries:
            if fnmatch.fnmatch(entry.name, part):
                yield from _matches(os.path.join(base, entry.name), rest)


def _listing(folder: str, hidden: bool = False) -> list[os.DirEntry[str]]:
    with os.scandir(folder or os.curdir) as entries:
        visible = [entry for entry in entries if hidden or not entry.name.startswith(".")]
    return sorted(visible, key=lambda entry: natural_key(entry.name))


def _is_picture(entry: os.DirEntry[str]) -> bool:
    # A broken link counts: whoever opens it says what is wrong. DirEntry.is_dir raises on a link that leads in circles.
    return os.path.splitext(entry.name)[1].lower() in PICTURE_EXTENSIONS and not os.path.isdir(entry.path)


def _is_walked(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) and entry.name.lower() not in _JUNK_FOLDERS
