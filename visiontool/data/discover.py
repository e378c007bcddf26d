"""Which pictures are meant by the files, folders, globs and lists that somebody typed."""

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from visiontool.data.folders import OnPass, is_inside, natural_keys, pictures_in, real_path, walk
from visiontool.data.path_lists import ENDINGS, STDIN, check_lists, is_read_once, read_list
from visiontool.errors import DataError

_MAGIC = re.compile(r"[*?[]")


def find_images(
    paths: Iterable[str],
    *,
    recursive: bool = True,
    on_empty: Callable[[str], None] = lambda path: None,
    on_pass: OnPass = lambda kind, path: None,
    exclude: str | None = None,
) -> Iterator[str]:
    """The path of each picture that `paths` mean, lazily and each real file once, in the order given.

    A file is yielded whatever its name, and also when it does not exist: the one who opens it says so. A folder yields
    its pictures in natural order, then those of its sub-folders and of the folders that links lead to (`walk`); what
    has no picture's extension, but begins like a picture, is one. A folder that cannot be read is yielded itself, so
    that opening it says why. `-` is a list of paths on stdin, `@FILE`, `NAME.txt` and `NAME.csv` are lists in files;
    what they name is taken as it stands, files and folders, but no globs and no lists. Anything else with `*`, `?`,
    `[` or `**` in it is a glob, whose matches are files and folders too. What exists is meant before a glob or `@FILE`.
    `~` is left to the shell.

    What is held in memory is a hash for each picture and each file left out, in about 100 bytes, the paths of folders,
    and the lines of a CSV file. Two of a million pictures are taken for one with a chance of one in 37 million.

    Args:
        recursive: Whether to go into the sub-folders of a folder.
        on_empty: Called with each path, of `paths` or from a list, that turned out to hold no picture at all.
        on_pass: Called with what is left out, once each, however often its folder is walked.
        exclude: A folder whose pictures are left out wherever a folder is walked or a glob matches.

    Raises:
        UsageError: stdin is named twice, or is closed; raised before anything is yielded.
        DataError: a list that cannot be opened, before anything is yielded; one that breaks off or is none, later.
    """
    arguments = _with_lists(paths)
    check_lists([file for _, file in arguments if file is not None])
    seen = set[int]()

    def is_new(key: object) -> bool:
        size = len(seen)
        seen.add(hash(key))
        return len(seen) > size

    def pass_over(kind: str, path: str) -> None:
        if is_new((kind, os.path.normpath(path))):
            on_pass(kind, path)

    for path, real in _found(arguments, recursive, exclude, on_empty, pass_over):
        if is_new(real):
            yield path
        else:
            on_pass("repeated", path)


def count_images(
    paths: Iterable[str],
    recursive: bool = True,
    exclude: str | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> int | None:
    """How many pictures `find_images` yields at most: duplicates are counted. Meant for another thread; never raises.

    Returns:
        None where a list can be read only once or not at all, and as soon as `stop` returns True.
    """
    arguments = _with_lists(paths)
    if any(file is not None and is_read_once(file) for _, file in arguments):
        return None
    count = 0
    try:
        for _ in _found(arguments, recursive, exclude):
            if stop():
                return None
            count += 1
    except (DataError, OSError):
        return None
    return count


def is_one_file(path: str) -> bool:
    """Whether `path` means one picture, there or not, as against a folder, a glob or a list."""
    return _list_of(path) is None and not os.path.isdir(path) and not _is_glob(path)


def is_fed(path: str) -> bool:
    """Whether `path` means a list that comes from another program, which may take its time: stdin or a pipe."""
    file = _list_of(path)
    return file is not None and is_read_once(file)


def _list_of(path: str) -> str | None:
    """The file of the list that `path` means, or None where it means no list."""
    if path == STDIN:
        return path
    if path.startswith("@") and not os.path.lexists(path):
        return path[1:]
    return path if path.lower().endswith(ENDINGS) and not os.path.isdir(path) else None


def _with_lists(paths: Iterable[str]) -> list[tuple[str, str | None]]:
    return [(path, _list_of(path)) for path in paths]


def _is_glob(path: str) -> bool:
    # What exists under exactly this name is meant, even when the name reads like a glob: "a[1].jpg".
    return _MAGIC.search(path) is not None and not os.path.lexists(path)


def _found(
    arguments: Iterable[tuple[str, str | None]],
    recursive: bool,
    exclude: str | None,
    on_empty: Callable[[str], None] = lambda path: None,
    on_pass: OnPass = lambda kind, path: None,
) -> Iterator[tuple[str, str]]:
    """The path and the real path of each picture, as often as it is met."""
    excluded = None if exclude is None else real_path(exclude)
    for typed, file in arguments:
        name: str | None = None
        for name in [typed] if file is None else read_list(file):
            empty = True
            for root, is_deep in _roots(name, file is None, recursive, excluded):
                for found in _pictures(root, is_deep, excluded, on_pass):
                    empty = False
                    yield found
            if empty:
                on_empty(name)
        if name is None:
            on_empty(typed)


def _roots(name: str, is_typed: bool, recursive: bool, exclude: str | None) -> Iterator[tuple[str, bool]]:
    """The files and folders that a name means, each with whether to go into its sub-folders."""
    if not (is_typed and _is_glob(name)):
        yield name, recursive
        return
    parts = Path(name).parts
    while parts and parts[-1] == "**":  # what is in folders, at any depth: walked once, not again from each sub-folder
        parts, recursive = parts[:-1], True
    for match in _matches(*parts):
        if exclude is None or not is_inside(real_path(os.path.dirname(match)), exclude):
            yield match, recursive


def _pictures(root: str, is_deep: bool, exclude: str | None, on_pass: OnPass) -> Iterator[tuple[str, str]]:
    if not os.path.isdir(root):
        yield root, real_path(root)
        return
    for folder in walk(root, recursive=is_deep, exclude=exclude, on_pass=on_pass):
        if folder.names is None:
            yield folder.path, folder.real
        for name in pictures_in(folder, on_pass):
            path = os.path.join(folder.path, name)
            # To resolve a path asks the system about each of its parts; what is no link needs that for its folder only.
            yield path, real_path(path) if name in folder.links else os.path.join(folder.real, name)


def _matches(*parts: str) -> Iterator[str]:
    """The paths that the components of a glob match, in natural order; none of them for the folder that we are in."""
    if "**" in parts:  # walked, since glob would follow links that lead back
        at = parts.index("**")
        for top in _matches(*parts[:at]) if at else [""]:
            for folder in walk(top):
                yield from _matches(glob.escape(folder.path), *parts[at + 1 :])
                if folder.names is None:
                    yield folder.path
    elif parts:
        yield from sorted(glob.iglob(os.path.join(*parts)), key=natural_keys)
    else:
        yield os.curdir
