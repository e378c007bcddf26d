"""The file of `-o`: FILE.partial has the rows until all are there, so a run that was killed can be gone on with.

FILE.partial has rows in the order of the inputs, and nothing else. A run that goes on with it, or with FILE where there
is none, keeps the rows that are ok and appends what is missing. FILE itself is only ever replaced by a complete one.
Parquet cannot be written row by row: FILE.partial has JSON lines then.
"""

import contextlib
import os
import shutil
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from visiontool.cli.output.rows import Encoder, FinishedRow, Lines
from visiontool.cli.output.target import RESUMABLE, Format, Rows, partial_of, telling
from visiontool.cli.text import say
from visiontool.errors import DataError, UsageError
from visiontool.files import locked_if_free

_LONGEST_LINE = 2**26


class Finished:
    """The classes of the rows that are kept, by the hashes of their paths: 12 bytes each, and twice that in between.

    Two of a million paths are taken for one with a chance of one in 37 million.
    """

    def __init__(self, rows: Iterable[FinishedRow]) -> None:
        hashes, classes = array("q"), array("i")
        for row in rows:
            hashes.append(hash(row.path))
            classes.append(-1 if row.unknown or row.class_id is None else row.class_id)
        self._hashes, self._classes = np.array(hashes), np.array(classes)
        order = np.argsort(self._hashes)
        self._hashes, self._classes = self._hashes[order], self._classes[order]

    def __len__(self) -> int:
        return len(self._hashes)

    def class_of(self, path: str) -> int | None:
        """The class in the row of `path`, -1 where it is unknown; None where there is no such row."""
        place = int(self._hashes.searchsorted(hash(path)))
        return int(self._classes[place]) if place < len(self) and self._hashes[place] == hash(path) else None


@contextlib.contextmanager
def row_file(target: Path, encoder: Encoder, format_: Format, *, resume: bool) -> Iterator[Rows]:
    """Rows on their way into `target`. Where the block fails, the rows so far stay beside it, and stderr says so.

    Args:
        resume: go on with what earlier runs wrote; `encoder` is one of lines.

    Raises:
        UsageError: another run is writing it, or what is there was made with another model or other options.
        DataError: what is there are no rows.
        OutputError: it cannot be written.
    """
    partial = partial_of(target)
    with contextlib.ExitStack() as stack:
        with telling(str(target)):
            if not stack.enter_context(locked_if_free(_hidden(target, "lock"))):
                raise UsageError(f"{target} is being written by another run. Give another name, or wait for it.")
            finished, size = _take_up(target, cast(Lines, encoder)) if resume else (None, 0)
            stream = open(partial, "ab" if size else "wb", buffering=0)  # noqa: SIM115
            _take_mode(partial, target)
        rows = Rows(stream, str(target), encoder, finished, size)
        try:
            with stream:
                rows.begin()
                yield rows
                rows.end()
                with telling(str(target)):
                    os.fsync(stream.fileno())
            with telling(str(target)):  # outside: Windows renames nothing that is open
                _complete(partial, target, format_)
        except BaseException:
            if rows.size > len(encoder.header):
                with contextlib.suppress(OSError):
                    os.truncate(partial, rows.size)  # a torn row
                say(f"The rows so far are in {partial}.{' Go on with --resume.' if format_ in RESUMABLE else ''}")
            else:
                partial.unlink(missing_ok=True)
            raise


def _take_up(target: Path, lines: Lines) -> tuple[Finished, int]:
    """Makes FILE.partial what a run can append to; gives its rows and its size."""
    partial = partial_of(target)
    source = partial if partial.exists() else target
    if not source.exists():
        return Finished(()), 0
    size, failed = 0, False

    def ok_rows() -> Iterator[FinishedRow]:
        nonlocal size, failed
        for row, line in _read(source, lines):
            size += len(line)
            failed |= not row.ok
            if row.ok:
                yield row

    finished = Finished(ok_rows())
    if source == target or failed:
        with _replacing(partial, _hidden(target, "new"), source) as file:
            file.write(lines.header)
            file.writelines(line for row, line in _read(source, lines) if row.ok)
    else:
        os.truncate(partial, len(lines.header) + size if size else 0)  # a row that is torn
    return finished, partial.stat().st_size


def _read(path: Path, lines: Lines) -> Iterator[tuple[FinishedRow, bytes]]:
    """The rows in a file, but for a last one that is torn."""
    with open(path, "rb") as file:
        header = file.read(len(lines.header))
        if header != lines.header[: len(header)]:
            raise _other(path)
        number, line = 1, file.readline(_LONGEST_LINE)
        while line.endswith(b"\n"):
            place = f"{path}: line {number}"
            try:
                row = lines.decode(line)
            except Exception:  # a row of anything
                raise DataError(f"{place} is no row of visiontool.\nRepair it, or start again with --force.") from None
            if row.run != lines.run:
                raise _other(place)
            yield row, line
            number, line = number + 1, file.readline(_LONGEST_LINE)


def _other(place: object) -> UsageError:
    return UsageError(
        f"{place} was made with another model or other options (-k, --min-probability, --crop-mode ...).\n"
        "Give those, or another name, or --force to start again."
    )


def _complete(partial: Path, target: Path, format_: Format) -> None:
    if format_ != "parquet":
        partial.replace(target)
        return
    from visiontool.cli.output import parquet

    with open(partial, "rb") as lines, _replacing(target, _hidden(target, "new"), partial) as file:
        parquet.write(lines, file)
    partial.unlink()


@contextlib.contextmanager
def _replacing(path: Path, new: Path, like: Path) -> Iterator[BinaryIO]:
    """Writes `new`, which becomes `path` when the block ends."""
    try:
        with open(new, "wb") as stream:
            _take_mode(new, like)
            yield stream
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _take_mode(path: Path, like: Path) -> None:
    """Lets nobody read the rows who may not read `like`."""
    with contextlib.suppress(OSError):  # it is not there, or the file system has no modes
        shutil.copymode(like, path)


def _hidden(target: Path, ending: str) -> Path:
    return target.with_name(f".{target.name}.visiontool-{ending}")
