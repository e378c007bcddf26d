"""Which pictures are meant by the files, folders, globs and lists that somebody typed."""

import codecs
import glob
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from visiontool.data.folders import OnPass, is_inside, natural_key, walk
from visiontool.errors import DataError, UsageError

_STDIN = "-"
_LIST_EXTENSIONS = (".txt", ".csv", ".tsv")
_MAX_PATH_BYTES = 65536  # more than any system takes
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+)://.", re.IGNORECASE)
_LIST_HELP = (
    "A list is a text file with one path a line, named @FILE or NAME.txt, or a table NAME.csv; - reads stdin.\n"
    "A picture that is really called @NAME is typed ./@NAME."
)
_TABLE_HELP = (
    "Expected a CSV file with a header and a column path, such as path,label.\n"
    "A list without a header is a text file: NAME.txt."
)


def find_images(
    paths: Iterable[str],
    *,
    recursive: bool = True,
    on_empty: Callable[[str], None] = lambda path: None,
    on_pass: OnPass = lambda kind, path: None,
    exclude: str | None = None,
) -> Iterator[str]:
    """The path of each picture that `paths` mean, lazily and each real file once, in the order given.

    A file is yielded whatever its name, and a folder that cannot be read, or what does not exist, itself: opening it
    says why. `-` is a list of paths on stdin, `@FILE`, `NAME.txt` and `NAME.csv` are lists in files, whose entries are
    files and folders, but no globs and no lists. Anything else with `*`, `?` or `[` in it is a glob, if nothing has
    that name. In memory are a hash for each picture, the matches of a glob and the lines of a CSV file.

    Args:
        recursive: Whether to go into the sub-folders of a folder.
        on_empty: Called with each path, of `paths` or from a list, that turned out to hold no picture at all.
        exclude: A folder whose pictures are left out wherever a folder is walked or a glob matches.

    Raises:
        UsageError: stdin is named twice, or is closed.
        DataError: a list cannot be opened, before anything is yielded; it breaks off or is none, later.
    """
    paths = list(paths)
    _check_lists([file for path in paths if (file := _list_of(path)) is not None])
    hashes = set[int]()
    for path, real in _find_all(paths, recursive, exclude, on_empty, on_pass):
        if hash(real) in hashes:
            on_pass("repeated", path)
        else:
            hashes.add(hash(real))
            yield path


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
    paths = list(paths)
    if any(map(is_fed, paths)):
        return None
    count = 0
    try:
        for _ in _find_all(paths, recursive, exclude):
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
    return file is not None and (file == _STDIN or (os.path.exists(file) and not os.path.isfile(file)))


def _list_of(path: str) -> str | None:
    """The file of the list that `path` means, or None where it means no list."""
    if path == _STDIN:
        return path
    if path.startswith("@") and not os.path.lexists(path):
        return path[1:]
    return path if path.lower().endswith(_LIST_EXTENSIONS) and not os.path.isdir(path) else None


def _is_glob(path: str) -> bool:
    return glob.has_magic(path) and not os.path.lexists(path)


def _find_all(
    paths: Sequence[str],
    recursive: bool,
    exclude: str | None,
    on_empty: Callable[[str], None] = lambda path: None,
    on_pass: OnPass = lambda kind, path: None,
) -> Iterator[tuple[str, str]]:
    """The path and the real path of each picture, duplicates included."""
    excluded = None if exclude is None else os.path.realpath(exclude)
    for typed in paths:
        file = _list_of(typed)
        name = None
        for name in [typed] if file is None else read_list(file):
            roots, is_deep = [name], recursive
            if file is None and _is_glob(name):
                roots, is_deep = _glob(name, excluded), recursive or name.endswith("**")
            is_empty = True
            for root in roots:
                for picture in _pictures_at(root, is_deep, excluded, on_pass):
                    is_empty = False
                    yield picture
            if is_empty:
                on_empty(name)
        if name is None:
            on_empty(typed)


def _glob(pattern: str, exclude: str | None) -> list[str]:
    """The matches in natural order; at the end of a pattern, `**` is the folder in front of it, to be walked."""
    while pattern.endswith("**"):
        pattern = pattern.removesuffix("**").rstrip("/" + os.sep) or os.curdir
    matches = glob.glob(pattern, recursive=True)
    if exclude is not None:
        matches = [path for path in matches if not is_inside(os.path.realpath(os.path.dirname(path)), exclude)]
    return sorted(matches, key=natural_key)


def _pictures_at(root: str, is_deep: bool, exclude: str | None, on_pass: OnPass) -> Iterator[tuple[str, str]]:
    if not os.path.isdir(root):
        yield root, root if "\0" in root else os.path.realpath(root)  # with a NUL no path, as opening it says
        return
    for folder in walk(root, recursive=is_deep, exclude=exclude, on_pass=on_pass):
        if folder.pictures is None:
            yield folder.path, folder.real
        for name in folder.pictures or ():
            path = os.path.join(folder.path, name)
            # To resolve a path asks the system about each of its parts; what is no link needs that for its folder only.
            yield path, os.path.realpath(path) if name in folder.links else os.path.join(folder.real, name)


def _check_lists(files: Sequence[str]) -> None:
    """Checks that all these lists can be opened, without reading any: a pipe can be opened only once."""
    if files.count(_STDIN) > 1:
        raise UsageError(f'"-" is given {files.count(_STDIN)} times, but stdin can be read only once\nGive it once.')
    if _STDIN in files and (sys.stdin is None or sys.stdin.closed):
        raise UsageError('"-" reads a list of paths from stdin, which is closed\nPipe one into it, or name @FILE.')
    faults = []
    for file in files:
        if os.path.isdir(file):
            faults.append(f"{file} (a folder; type it without @)")
        elif file != _STDIN and not os.access(file, os.R_OK):
            faults.append(f"{file} ({'no permission' if os.path.exists(file) else 'no such file'})")
    if faults:
        raise DataError(f"no list of paths can be read from {', '.join(faults)}\n{hint(files) or _LIST_HELP}")


def read_list(file: str) -> Iterator[str]:
    """The paths in the list `file`, or in the one on stdin for "-", each as soon as it has arrived.

    Of a CSV file the column path; where nothing is there from the working folder on, from the file's folder on.

    Raises:
        DataError: it cannot be read, or is no list of paths.
    """
    if file.lower().endswith(_LIST_EXTENSIONS[1:]):
        from visiontool.data.label_table import read_csv

        header, _, lines = read_csv(Path(file), _TABLE_HELP)
        column = header.index("path")
        for path in filter(str.strip, (fields[column] for _, fields in lines)):
            spellings = (path, path.strip(), path.strip().replace("\\", "/"))
            places = (os.path.join(folder, each) for each in spellings for folder in ("", os.path.dirname(file)))
            yield next(filter(os.path.lexists, places), path)
        return
    try:
        if file == _STDIN:
            yield from paths_in(sys.stdin.buffer, "on stdin")
        else:
            with open(file, "rb") as stream:
                yield from paths_in(stream, file)
    except OSError as error:
        raise DataError(f"the list {file} cannot be read on: {error.strerror}\n{_LIST_HELP}") from None


def paths_in(stream: BinaryIO, name: str) -> Iterator[str]:
    """The paths in a list, each as soon as it has arrived, without empty ones and a byte order mark of UTF-8.

    They are separated by NULs if one has arrived together with the end of the first path, else by the ends of lines.
    """
    rest = separator = b""
    while block := stream.read1(_MAX_PATH_BYTES):  # type: ignore[attr-defined]
        rest += block
        if not separator:
            if rest.startswith((b"\xff\xfe", b"\xfe\xff")) and b"\0" in rest[2:4]:
                raise DataError(f"the list {name} is UTF-16 text, expected UTF-8\nSave it as UTF-8 text.")
            rest = rest.removeprefix(codecs.BOM_UTF8)
            separator = next((sign for sign in (b"\0", b"\n") if sign in rest), b"")
        *whole, rest = rest.split(separator) if separator else [rest]
        yield from _decoded(whole, separator)
        if len(rest) > _MAX_PATH_BYTES:
            raise DataError(
                f"the list {name} is no list of paths: {_MAX_PATH_BYTES:,} bytes without an end of a line\n"
                "Name a text file with one path a line, or with a NUL behind each."
            )
    yield from _decoded([rest], separator)


def _decoded(paths: Iterable[bytes], separator: bytes) -> Iterator[str]:
    for path in paths:
        if decoded := os.fsdecode(path if separator == b"\0" else path.removesuffix(b"\r")):
            yield decoded


def hint(paths: Iterable[str]) -> str | None:
    """What is wrong with the first of `paths` that is no path, and what to type; None where none is."""
    for path in paths:
        if os.path.lexists(path):
            continue
        if address := _ADDRESS.match(path):
            how = f"copy it to this machine first: {path}"
            if address[1].lower() in ("http", "https", "ftp", "ftps"):
                how = f"download it first: curl -O {shlex.quote(path)}"
            return f"Files are read, and nothing is downloaded; {how}"
        if (expanded := os.path.expandvars(os.path.expanduser(path))) != path:
            return f"The shell did not expand {path} (in quotes it does not); type: {shlex.quote(expanded)}"
    return None
