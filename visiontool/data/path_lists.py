"""Lists of paths that somebody wrote: one a line, or a NUL behind each, in a file, a pipe or on stdin; or a CSV."""

import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from visiontool.errors import DataError, UsageError

STDIN = "-"
ENDINGS = (".txt", ".csv", ".tsv")
MAX_PATH_BYTES = 65536  # more than any system takes

_BLOCK_BYTES = 65536
_UTF8_MARK = b"\xef\xbb\xbf"
_JPEG_OR_PNG = (b"\xff\xd8\xff", b"\x89PNG")
_MAX_TOLD = 5
_HELP = (
    "A list is a text file with one path a line, named @FILE or NAME.txt, or a table NAME.csv; - reads stdin.\n"
    "A picture that is really called @NAME is typed ./@NAME."
)
_CSV_HELP = (
    "Expected a CSV file with a header and a column path, such as path,label.\n"
    "A list without a header is a text file: NAME.txt."
)


def check_lists(files: Sequence[str]) -> None:
    """Looks whether all these lists can be opened, without reading any; `STDIN` is the list on stdin.

    Raises:
        UsageError: stdin is named twice, or is closed.
        DataError: names those that cannot be opened.
    """
    if files.count(STDIN) > 1:
        raise UsageError(f'"-" is given {files.count(STDIN)} times, but stdin can be read only once\nGive it once.')
    if STDIN in files:
        _stdin()
    if faults := {file: fault for file in files if file != STDIN and (fault := _fault(file))}:
        raise _unreadable(faults)


def open_list(file: str) -> BinaryIO:
    """The list in `file`, without a buffer, so that a read waits for no more than what is there.

    Raises:
        DataError: it cannot be opened.
    """
    try:
        return open(file, "rb", buffering=0)
    except (OSError, ValueError) as error:
        raise _unreadable({file: _reason(error)}) from None


def read_list(file: str) -> Iterator[str]:
    """The paths in the list `file`, or in the one on stdin for `STDIN`, as `paths_in` gives them.

    Of a CSV file the column path; where nothing is there from the working folder on, from the file's folder on.
    """
    if file == STDIN:
        yield from paths_in(_stdin(), "on stdin")
    elif file.lower().endswith(ENDINGS[1:]):
        from visiontool.data.label_table import read_csv

        header, lines = read_csv(Path(file), _CSV_HELP)
        column = header.index("path")
        for path in filter(str.strip, (fields[column] for _, fields in lines)):
            spellings = (path, path.strip(), path.strip().replace("\\", "/"))
            places = (os.path.join(place, each) for each in spellings for place in ("", os.path.dirname(file)))
            yield next(filter(os.path.lexists, places), path)
    else:
        with open_list(file) as stream:
            yield from paths_in(stream, file)


def is_read_once(file: str) -> bool:
    """Whether what one reader takes from this list is lost to the next, as with stdin and pipes."""
    # Who opens /dev/stdin or /dev/fd/3 gets, on some systems, the very place in the file where the first reader is.
    if file == STDIN or file.startswith("/dev/"):
        return True
    try:
        return not stat.S_ISREG(os.stat(file).st_mode)
    except (OSError, ValueError):
        return True


def paths_in(stream: BinaryIO, name: str) -> Iterator[str]:
    """The paths in a list, lazily and in constant memory: each is given as soon as it has arrived.

    The list is separated by NULs if one has arrived together with the end of the first path, else by the ends of lines
    of any system. Empty paths and a byte order mark of UTF-8 are left out. The last needs no separator.

    Args:
        stream: Its `read` gives what is there and waits only while there is nothing.
        name: What messages call the list.

    Raises:
        DataError: it cannot be read on, or is no list of paths.
    """
    for raw in _entries(stream, name):
        if len(raw) > MAX_PATH_BYTES:
            raise DataError(
                f"the list {name} is no list of paths: {MAX_PATH_BYTES:,} bytes without an end of a line\n"
                "Name a text file with one path a line, or with a NUL behind each."
            )
        try:
            path = os.fsdecode(raw)
        except UnicodeDecodeError:  # on Windows, where names are text
            raise DataError(f"the list {name} is not UTF-8: {raw[:60]!r}\nSave it as UTF-8 text.") from None
        if path:
            yield path


def _entries(stream: BinaryIO, name: str) -> Iterator[bytes]:
    rest = separator = b""
    while block := _read(stream, name):
        rest += block
        if not separator:
            separator = next((sign for sign in (b"\0", b"\n", b"\r") if sign in rest), b"")
            if separator:
                rest = _start(rest, name)
        if separator:
            *whole, rest = rest.split(separator) if separator == b"\0" else re.split(rb"[\r\n]", rest)
            yield from whole
        if len(rest) > MAX_PATH_BYTES:
            break
    yield rest if separator else _start(rest, name)


def _read(stream: BinaryIO, name: str) -> bytes:
    """What has arrived; nothing at the end."""
    try:
        while (block := stream.read(_BLOCK_BYTES)) is None:  # stdin may come from somebody who set it not to wait
            import select

            select.select([stream], [], [])
    except OSError as error:
        raise DataError(f"the list {name} cannot be read on: {_reason(error)}\n{_HELP}") from None
    return block


def _start(head: bytes, name: str) -> bytes:
    """`head`, with which a list begins, without a byte order mark."""
    if head.startswith(_JPEG_OR_PNG):
        raise DataError(f"the list {name} is no list of paths but a picture\nType the name of a picture without @.")
    if (head[:2] == b"\xff\xfe" and head[3:4] == b"\0") or head[:3] == b"\xfe\xff\0":
        raise DataError(f"the list {name} is UTF-16 text, expected UTF-8\nSave it as UTF-8 text.")
    return head.removeprefix(_UTF8_MARK)


def _stdin() -> BinaryIO:
    if sys.stdin is None or sys.stdin.closed:
        raise UsageError('"-" reads a list of paths from stdin, which is closed\nPipe one into it, or name @FILE.')
    stream: BinaryIO = sys.stdin.buffer
    # Beneath the buffer, which would wait until it is full.
    return getattr(stream, "raw", stream)


def _fault(file: str) -> str:
    """Why this list cannot be opened, or ""."""
    try:
        mode = os.stat(file).st_mode
        if stat.S_ISDIR(mode):
            return "a folder; type it without @"
        if stat.S_ISREG(mode):
            with open(file, "rb"):
                return ""
        # A pipe is opened once, when it is read: opening waits for the one who writes, and closing would break him.
        return "" if os.access(file, os.R_OK) else "Permission denied"
    except (OSError, ValueError) as error:
        return _reason(error)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _unreadable(faults: Mapping[str, str]) -> DataError:
    from visiontool.data.hints import hint

    told = ", ".join(f"{file} ({fault})" for file, fault in list(faults.items())[:_MAX_TOLD])
    more = f" and {len(faults) - _MAX_TOLD:,} more" if len(faults) > _MAX_TOLD else ""
    return DataError(f"no list of paths can be read from {told}{more}\n{hint(faults) or _HELP}")
